"""How many programs of each kernel a GPU runs at once, from the compiled code; needs no GPU.

    python tests/benchmarks/occupancy.py results/occupancy.csv

For the heads of the large presets at batch sizes 1 and 8, sequences of 8,192 tokens and caches as
long: what a thread takes, how many programs a multiprocessor holds, and how many waves they make
(a fraction is the share of the GPU that they fill). In minutes on one core.
"""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

from models.config import PRESETS

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests" / "models" / "kernels" / "compile_ahead.py"
CAPABILITIES = (80, 90, 100, 120)
CACHE = 8192 + 32  # room for the steps that are timed
COLUMNS = (
    "capability", "gpu", "case", "kernel", "programs", "warps", "registers", "stack_bytes",
    "shared_bytes", "resident", "waves", "tensor_cores", "bits_in_loops",
)  # fmt: skip


def cases() -> list[str]:
    """What the presets launch, in the script's words."""
    found = []
    for preset in ("1.3b", "2.7b", "6.7b"):
        sizes = PRESETS[preset]
        heads, retention = sizes.d_model // sizes.head_dim, sizes.d_model // sizes.retention_dim
        head = f"{sizes.retention_dim},{2 * sizes.retention_dim}"
        for batch in (1, 8):
            for name in ("forward", "backward"):
                found.append(f"{name},bfloat16,{batch},{retention},{head}")
            found.append(f"gate,bfloat16,{batch},{retention},{2 * sizes.retention_dim}")
            for group in (1, 2):
                found.append(f"retain,bfloat16,{batch},{retention // group},{group},{head}")
            for group in (1, 4):
                cache = f"{heads // group},{group},{sizes.head_dim},{CACHE}"
                found.append(f"attend,bfloat16,{batch},{cache}")
    return found


def words() -> list[str]:
    """Those by which the script takes every case, on every GPU."""
    return [word for capability in CAPABILITIES for word in (str(capability), *cases())]


def main(out: Path) -> None:
    """Compile for every GPU, and write the table."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, str(SCRIPT), *words()]
    done = subprocess.run(
        command, env=environment | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
        check=True,
    )  # fmt: skip
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        # A backward pass launches some of a forward's kernels again, and scores twice.
        for line in dict.fromkeys(done.stdout.splitlines()):
            row = json.loads(line)
            row["capability"] = f"{row['capability'] / 10:.1f}"
            for name in ("tensor_cores", "bits_in_loops"):
                row[name] = " ".join(map(str, row[name]))
            writer.writerow(row)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
