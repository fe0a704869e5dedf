"""What contenders cost while they wait for their turn, as CSV: CPU seconds over seconds waited.

python tests/benchmarks/idle.py > results/idle.csv
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from retbench import suites
from retbench.engine import runner
from retbench.engine.contender_run import ContenderRun, Outcome
from retbench.engine.resolve import resolve
from retbench.machine.interference import cpu_s

WAITED_S: dict[str, float] = defaultdict(float)
SPENT_S: dict[str, float] = defaultdict(float)


class Watched(ContenderRun):
    """A contender that notes what the others' processes do during its slices."""

    alive: ClassVar[list[Watched]] = []

    def begin(self) -> None:
        super().begin()
        self.alive.append(self)

    def slice(self, phase: str, number: int) -> Outcome | None:
        idle = {run.contender.label: run._worker._process.pid for run in self.alive if run != self}
        before, begun = {label: cpu_s(pid) for label, pid in idle.items()}, time.monotonic()
        ended = super().slice(phase, number)
        for label, pid in idle.items():
            WAITED_S[label] += time.monotonic() - begun
            SPENT_S[label] += cpu_s(pid) - before[label]
        return ended


def main() -> None:
    """One block of the inference suite at one point."""
    config = resolve("inference", context=[2048], batch=[1], minutes=0)
    plan = suites.get("inference").plan(config)
    runner.ContenderRun = Watched  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        runner.execute(config, out=Path(folder) / "run", plan=replace(plan, blocks=1))
    print("contender,waited_s,cpu_s,share")
    for label, waited_s in WAITED_S.items():
        print(f"{label},{waited_s:.3f},{SPENT_S[label]:.3f},{SPENT_S[label] / waited_s:.5f}")


if __name__ == "__main__":
    sys.exit(main())
