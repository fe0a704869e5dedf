"""The reports of the suites that time one step or one operation."""
