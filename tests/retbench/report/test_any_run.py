"""Whatever a run of any suite has measured, and whatever failed in it: its report is written.

RETBENCH_CAMPAIGN=50 makes as many examples of each suite, others each time; by default two.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from retbench import report
from retbench.metrics import METRICS, STATUSES
from retbench.report import drawing, theme
from retbench.report.quality.loss_frames import Losses

from .every_suite import SUITES, Row, batches, rewritten

CAMPAIGN = os.environ.get("RETBENCH_CAMPAIGN")
EXAMPLES = int(CAMPAIGN or 2)
SIZES = (0.0, 5e-324, 1e-150, 1e-12, 0.5, 1.0, 1e12, 1e150, 1.7e308)
FAILED = tuple(status for status in STATUSES if status not in ("ok", "bound"))


@pytest.mark.parametrize("suite", SUITES)
def test_any_values_and_any_failures_make_a_report(suite: str, tmp_path: Path) -> None:
    sound = SUITES[suite](tmp_path / "sound")
    cells = batches(sound)
    metrics = sorted({
        row["metric"] for cell in cells for row in cell
        if row["value"] is not None and METRICS[row["metric"]].kind != "analytic"
    })  # fmt: skip
    models = sorted({cell[0]["model"] for cell in cells})
    points = sorted({cell[0]["point"] for cell in cells})

    @settings(
        max_examples=EXAMPLES, derandomize=CAMPAIGN is None,
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
                row | {"value": sized(row, sizes.get((row["model"], row["metric"]), 1.0))}
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


@pytest.mark.parametrize(
    ("suite", "metric", "value"),
    [
        ("scaling", "parameters", 0.0),
        ("scaling", "parameters", 2.0**63),
        ("scaling", "train_flops", 1.7e308),
        ("recall", "accuracy", 5e-324),
        ("recall", "answers", 0.0),
    ],
)
def test_a_figure_that_is_one_in_every_cell_makes_a_report(
    tmp_path: Path, suite: str, metric: str, value: float
) -> None:
    sound = SUITES[suite](tmp_path / "sound")
    given = {metric: {"value": value}}
    cells = [[row | given.get(row["metric"], {}) for row in cell] for cell in batches(sound)]
    assert report.write_tables(rewritten(sound, tmp_path / "any", cells))


def sized(row: Row, factor: float) -> float | None:
    """A row's value times a factor, as far as its metric goes."""
    value = row["value"]
    if value is None or factor == 1.0:
        return value
    return min(value * factor, METRICS[row["metric"]].range[1])


@pytest.mark.parametrize("suite", ["scaling", "perplexity"])
def test_models_without_a_seed_in_common_have_no_ratio(suite: str, tmp_path: Path) -> None:
    sound = SUITES[suite](tmp_path / "sound")
    subject = sound.meta["plan"]["contenders"][0]["label"]

    def ended(cell: list[Row]) -> list[Row]:
        """The subject's first block and the others' second one alone have values."""
        row = cell[-1]
        if "stage=tune" in row["point"] or (row["block"] == 0) == (row["model"] == subject):
            return cell
        return [row | {"status": "timeout", "cause": "late", "value": None}]

    run = rewritten(sound, tmp_path / "any", [ended(cell) for cell in batches(sound)])
    found = Losses(run).ratios
    assert found["value"].isna().all() and not found["verdict"].any()
    assert set(found["note"]) == {"no seed of which both have a loss"}
