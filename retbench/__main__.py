"""``python -m retbench``."""

from retbench.cli import main

if __name__ == "__main__":
    main()
