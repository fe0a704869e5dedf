"""What holds for all tests."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    # Read when Triton is imported, which torch.compile does too: so before any test.
    os.environ.setdefault("TRITON_INTERPRET", "1")
