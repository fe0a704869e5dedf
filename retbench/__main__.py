"""``python -m retbench``."""

import sys
from pathlib import Path

# ``-m`` puts the current folder first, where a module of the user's may be named like one of ours.
sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(sys.path.pop(0))

from retbench.cli.app import main

if __name__ == "__main__":
    main()
