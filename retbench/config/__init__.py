"""What a command is asked to do: read from flags, Python or a file, filled up, and checked."""
