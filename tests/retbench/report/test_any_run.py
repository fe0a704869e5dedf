"""Whatever a run of any suite has measured, and whatever failed in it: its report is written.

RETBENCH_CAMPAIGN=50 makes as many examples of each suite, others each time; by default two.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from retbench import report
from retbench.metrics import METRICS, STATUSES
from retbench.report import drawing, theme
from retbench.store import Run, RunWriter, open_run
from retbench.store.journal import is_status_row

from .kernels_run import write_kernels
from .recall_run import write_recall
from .scaling_run import write_scaling

RESULTS = Path(__file__).parents[3] / "results"
CAMPAIGN = os.environ.get("RETBENCH_CAMPAIGN")
EXAMPLES = int(CAMPAIGN or 2)
SIZES = (0.0, 5e-324, 1e-150, 1e-12, 0.5, 1.0, 1e12, 1e150, 1.7e308)
FAILED = tuple(status for status in STATUSES if status not in ("ok", "bound"))
Row = dict[str, Any]


def published(name: str) -> Callable[[Path], Run]:
    """Two blocks of a published run, and of each series a few values."""

    def kept(row: Row) -> bool:
        return (
            row["block"] < 2 and (row["trial"] or 0) < 3
            and (row["index"] is None or row["phase"] != "train" or row["index"] % 600 == 0)
        )  # fmt: skip

    def write(path: Path) -> Run:
        run = open_run(RESULTS / name)
        return rewritten(run, path, [list(filter(kept, batch)) for batch in batches(run)])

    return write


def batches(run: Run) -> list[list[Row]]:
    """The samples of each cell in each block."""
    found: list[list[Row]] = [[]]
    for line in (run.path / "samples.jsonl").read_text().splitlines():
        row = json.loads(line)
        row.pop("sha256", None)
        found[-1].append(row)
        if is_status_row(row):
            found.append([])
    return found[:-1]


def rewritten(run: Run, path: Path, cells: list[list[Row]]) -> Run:
    """A run with other samples, in as many blocks as they have."""
    blocks = 1 + max(row["block"] for cell in cells for row in cell)
    own = {"samples", "sha256", "state", "schema_version"}
    meta = {key: value for key, value in run.meta.items() if key not in own}
    meta["plan"] = meta["plan"] | {"blocks": blocks}
    with RunWriter.create(path, meta) as writer:
        writer.append(*(cell for cell in cells if cell))  # type: ignore[arg-type]
        writer.finish("finished")
    return open_run(path)


SUITES: dict[str, Callable[[Path], Run]] = {
    "inference": published("cpu-10m-inference"),
    "training": published("cpu-1m-training"),
    "kernels": lambda path: write_kernels(path, blocks=2),
    "perplexity": published("cpu-tiny-perplexity"),
    "ablation": published("cpu-tiny-ablation"),
    "scaling": lambda path: write_scaling(path, seeds=2),
    "recall": lambda path: write_recall(path, seeds=2),
}


@pytest.mark.parametrize("suite", SUITES)
def test_any_values_and_any_failures_make_a_report(suite: str, tmp_path: Path) -> None:
    sound = SUITES[suite](tmp_path / "sound")
    cells = batches(sound)
    metrics = sorted({
        row["metric"] for cell in cells for row in cell
        if row["value"] is not None and METRICS[row["metric"]].kind not in ("input", "analytic")
    })  # fmt: skip
    models = sorted({cell[0]["model"] for cell in cells})
    points = sorted({cell[0]["point"] for cell in cells})

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=CAMPAIGN is None,
        suppress_health_check=list(HealthCheck), phases=(Phase.generate,),
    )  # fmt: skip
    @given(
        st.dictionaries(st.tuples(st.sampled_from(models), st.sampled_from(metrics)),
                        st.sampled_from(SIZES), max_size=4),
        st.dictionaries(st.tuples(st.sampled_from(models), st.sampled_from(points)),
                        st.sampled_from(FAILED), max_size=4),
    )  # fmt: skip
    def reported(sizes: dict[tuple[str, str], float], failures: dict[Any, Any]) -> None:
        def changed(cell: list[Row]) -> list[Row]:
            status = failures.get((cell[0]["model"], cell[0]["point"]))
            if status is not None:
                return [cell[-1] | {"status": status, "cause": "of the test", "value": None}]
            return [
                row | {"value": sized(row["value"], sizes.get((row["model"], row["metric"]), 1.0))}
                for row in cell
            ]

        shutil.rmtree(tmp_path / "any", ignore_errors=True)
        run = rewritten(sound, tmp_path / "any", [changed(cell) for cell in cells])
        content = report.content_of(run)
        assert report.write_tables(run, content)
        for figure in content.figures():
            with theme.fixed():
                drawing.draw(figure)
            break

    reported()


def sized(value: float | None, factor: float) -> float | None:
    """A value times a factor, as far as a float goes."""
    if value is None:
        return None
    return (
        value if factor == 1.0 else min(value * factor, 1.7e308) if math.isfinite(value) else value
    )
