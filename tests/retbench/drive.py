"""Runs with the fake worker; as a program, for tests that kill it.

``drive.py OUT [resume] [slurm]``: with the last, as jobs of the Slurm that is on the PATH.
"""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from retbench import suites
from retbench.config.plan import Contender, Plan, Point
from retbench.engine import runner, slurm
from retbench.errors import UserError
from retbench.suites.inference import InferenceConfig

HERE = Path(__file__).parent

CONFIG = {
    "models": ("retnet", "transformer"), "preset": "tiny",
    "context": (16, 32, 64), "batch": (1,), "batch_context": 16, "new_tokens": 2,
    "device": "cpu", "dtype": "float32", "mode": "eager", "profile": "smoke", "seed": 0,
    "threads": 1, "ffn": "gelu", "timeout_s": 20.0,
    "minutes": 0.0,
}  # fmt: skip
PLAN = Plan(
    "inference",
    (Contender("retnet", "retnet"), Contender("transformer", "transformer")),
    (Point(16, 1), Point(32, 1), Point(64, 1)),
    blocks=2,
    seed=0,
)
THREE = replace(PLAN, contenders=(*PLAN.contenders, Contender("gqa", "transformer-gqa")), blocks=1)


WORKER = (sys.executable, "-S", str(HERE / "fake_worker.py"))


def cells(plan=PLAN):
    """The cells of a plan in the order of turns: those of a point together."""
    return [
        (block, contender.label, point.id)
        for block in plan.measured_blocks
        for point in plan.ascending(block)
        for contender in plan.order(block)
    ]


def execute(
    out, *, plan=PLAN, resume=False, observer=None, launcher=None, known=None,
    settled=None, **changes,
):  # fmt: skip
    """Make a run with the fake worker; ``changes`` are fields of the configuration."""
    return runner.execute(
        InferenceConfig(**CONFIG | changes),
        out=Path(out),
        resume=resume,
        observer=observer,
        plan=plan,
        launcher=launcher,
        known=known,
        worker_command=WORKER,
        settled=settled,
    )


if __name__ == "__main__":
    # A forecast imports torch; without one, a test can afford to start and kill this often.
    tiny = SimpleNamespace(**dict.fromkeys(("memory_bytes", "process_s", "cell_s"), lambda *_: 0))
    vars(suites.get("inference")).update(cost=lambda *_: tiny, size=lambda *_: None)
    try:
        slurm = slurm.Launcher({}, poll_s=0.1) if "slurm" in sys.argv[2:] else None
        execute(sys.argv[1], resume="resume" in sys.argv[2:], launcher=slurm)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_status)
