"""Sessions of small models of the inference suite."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from retbench.config.plan import Contender, Point
from retbench.config.run import RunConfig
from retbench.engine.resolve import resolve
from retbench.suites.inference_cell import InferenceMeasurer
from retbench.suites.session import Rows, Session
from retbench.workers.worker import open_session

from ..conftest import measure

FAMILIES = ("retnet", "transformer", "transformer-gqa")
WITH_PAPER = (*FAMILIES, "transformer-paper")
MEASURER = InferenceMeasurer()


def configuration(**given: Any) -> RunConfig:
    small = {"preset": "tiny", "context": "64", "batch": "1", "batch_context": 64, "threads": 1}
    return resolve("inference", **({"profile": "smoke"} | small | given))


def session(family: str = "retnet", **given: Any) -> Session:
    config = configuration(**given)
    return open_session(config, Contender(family, family, config.overrides_for(family)), 0, 0)


def cell(session: Session, point: Point) -> dict[str, list[dict[str, Any]]]:
    rows = Rows(session, point)
    measure(rows)
    by_metric: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for sample in rows.samples:
        by_metric[sample["metric"]].append(dict(sample))
    return by_metric
