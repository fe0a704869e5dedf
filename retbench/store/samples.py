"""One sample: a row of ``samples.jsonl``."""

from __future__ import annotations

from retbench.config.plan import Contender, Point
from retbench.config.run import RunConfig
from retbench.metrics import METRICS, Sample

NO_PROCESS = -1
"""The process of a cell that none has measured."""


def new_sample(
    config: RunConfig,
    contender: Contender,
    point: Point,
    phase: str,
    metric: str,
    value: float | None,
) -> Sample:
    """A sample of a declared metric, ok and of no process yet; ``value`` in the metric's unit."""
    return Sample(
        suite=config.suite,
        point=point.id,
        model=contender.label,
        preset=str(point.setting("preset", config.preset)),
        implementation="",
        mode=str(point.setting("mode", config.mode)),
        phase=phase,
        metric=metric,
        unit=METRICS[metric].unit,
        seq_len=point.seq_len,
        batch_size=point.batch_size,
        dtype=str(point.setting("dtype", config.dtype)),
        device=config.device,
        block=0,
        process=0,
        trial=None,
        index=None,
        value=value,
        status="ok",
        cause=None,
        flags=[],
    )
