"""``python -m retbench``, and the command ``retbench``."""

import gc
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line; a Ctrl-C while its libraries are being imported is one line, too."""
    gc.set_threshold(10_000)  # as in retbench/workers/start.py
    try:
        from retbench.cli import app
    except KeyboardInterrupt:
        from retbench.errors import EXIT_INTERRUPTED

        print("retbench: error: interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    app.main()


if __name__ == "__main__":
    main()
