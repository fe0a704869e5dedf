"""What holds for all tests."""

from __future__ import annotations

import os

from retbench.machine.threads import limit_spinning

# Tests run beside each other: threads that spin there take minutes for what takes seconds, and a
# second thread of each has no core to run on.
limit_spinning()
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402

if not torch.cuda.is_available():
    # Read when Triton is imported, which torch.compile does too: so before any test.
    os.environ.setdefault("TRITON_INTERPRET", "1")
