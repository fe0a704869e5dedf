"""retbench's command line, whose runs neither measure the machine's ceilings nor draw figures.

Both take seconds, and of most runs in tests nobody asks for them.
"""

from retbench import report
from retbench.cli.app import main
from retbench.engine import runner

runner._Session._measure_ceilings = lambda self: None  # type: ignore[method-assign]
report.write_plots = lambda run, content=None: []

if __name__ == "__main__":
    main()
