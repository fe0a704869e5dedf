"""What mixes a sequence in each family: the part in which models differ, in PyTorch."""
