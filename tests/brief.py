"""retbench's command line, whose runs do not measure the machine's ceilings first.

That takes a worker of its own for some seconds, and of most runs in tests nobody asks for it.
"""

from retbench.cli.app import main
from retbench.engine import runner

runner._Session._measure_ceilings = lambda self: None  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
