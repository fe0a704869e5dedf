"""A disk that fills up at each write in turn: does the run say so, and continue once there is room?

    python tests/campaign/full_disk.py SUITE [SIZES]

SUITE is inference, training, perplexity or train. A small run is made on a tmpfs of each of so many
sizes, up to what the whole run takes, which needs the right to mount one. It must end with status 1
or 2 and one line; resumed on a larger disk it must be as one that nobody disturbed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from kills import command, record

PAGE = 4096


def main(suite: str, sizes: int) -> None:
    """Fill, make room, resume, compare; one line of figures, and status 1 where one was wrong."""
    ends: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        command(suite, whole).wait()
        expected = record(suite, whole)
        pages = sum(-(-path.stat().st_size // PAGE) + 1 for path in whole.rglob("*"))
        disk = Path(folder) / "disk"
        disk.mkdir()
        for number in range(1, sizes + 1):
            size = PAGE * max(2, pages * number // (sizes + 1))
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], check=True
            )
            try:
                end = _filled(suite, disk, expected)
            finally:
                subprocess.run(["umount", disk], check=True)
            ends[end] += 1
            print(f"{suite}, {size // 1024} KiB: {end}", flush=True)
    print(f"{suite}: {sizes} sizes, {dict(ends)}")
    sys.exit(bool(set(ends) - {"one line, then whole", "whole"}))


def _filled(suite: str, disk: Path, expected: object) -> str:
    """How a run on a small disk ends, and what it is once there is room."""
    out = disk / "run"
    process = command(suite, out, stderr=subprocess.PIPE)
    said = process.communicate()[1].decode()
    errors = [line for line in said.splitlines() if line.startswith("retbench: error:")]
    if "Traceback" in said or "a bug" in said:
        return f"a bug: {said[-300:]!r}"
    if process.returncode == 0:
        return "whole" if record(suite, out) == expected else "said to be done, and is not"
    if len(errors) != 1 or process.returncode not in (1, 2):
        return f"status {process.returncode}, {len(errors)} error lines: {said[-300:]!r}"
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
    command(suite, out).wait()
    return "one line, then whole" if record(suite, out) == expected else "another after it"


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 12)
