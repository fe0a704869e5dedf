"""retbench's command line, whose runs neither measure the machine's ceilings nor draw figures.

Both take seconds, and of most runs in tests nobody asks for them. The process of a run, which waits
while its workers measure, must do without torch: here it cannot be imported, but by what declares a
foreign model or an operation in it.
"""

import sys

if sys.argv[1:2] == ["run"] and {"kernels", "--plugin"}.isdisjoint(sys.argv):
    sys.modules["torch"] = None  # type: ignore[assignment]

from retbench import report
from retbench.cli.app import main
from retbench.engine import runner

runner._Session._measure_ceilings = lambda self: None  # type: ignore[method-assign]
report.write_plots = lambda run, content=None: []

if __name__ == "__main__":
    main()
