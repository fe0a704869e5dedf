"""A program that runs a module of this checkout as one: ``python -P start.py MODULE ARGUMENTS``.

``PYTHONPATH`` cannot say where it is: that splits at colons, and all that it names stands before
Python's own library, so that a user's ``random.py`` would be taken for Python's. Hence our own code
comes first, the user's folder (see :data:`retbench.workers.FOLDER`) last.
"""

import gc
import os
import runpy
import sys

if __name__ == "__main__":
    # What libraries make when they are imported stays; to search it for garbage again and again, as
    # by default after 700 objects, is a quarter of the time that torch takes.
    gc.set_threshold(10_000)
    sys.path.insert(0, os.path.abspath(f"{__file__}/../../.."))
    sys.path += filter(None, [os.environ.get("RETBENCH_FOLDER")])
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
