"""One command in several processes of torchrun: what each tells the others, and which fails."""
