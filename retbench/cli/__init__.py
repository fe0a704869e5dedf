"""The command line: all that reads flags, prints and ends with a status."""
