"""The report of the scaling suite: how the loss falls with size, and whether two models' laws meet.

Per preset and model the tuned test loss with its interval, the ratio of perplexities subject over
baseline paired by seed and document, power laws over parameters and over training FLOPs, and the
size at which the subject's law meets a baseline's, if that lies among those measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from retbench.report import warnings
from retbench.report.content import Content, definitions, title_of
from retbench.report.frames import records
from retbench.report.quality import loss_frames
from retbench.report.quality import scaling_figures as figures
from retbench.report.quality import scaling_frames as frames
from retbench.report.quality import scaling_tables as tables
from retbench.report.quality.columns import compared, still_open
from retbench.report.quality.scaling_figures import Scaling, conditions
from retbench.report.quality.scaling_frames import ALONG
from retbench.report.quality.trained import endings, planned
from retbench.report.summary import model_order

if TYPE_CHECKING:
    from retbench.store import Run


def content(run: Run) -> Content:
    """All that the report says of a scaling run; the same samples give the same content."""
    meta, models = run.meta, model_order(run.meta)
    baselines = models[1:]
    smoke = meta["configuration"]["profile"] == "smoke"
    tested = loss_frames.tests(run)
    table = frames.cells(loss_frames.losses(tested, run, models), loss_frames.scalars(run, models))
    pairs = [(models[0], baseline) for baseline in baselines]
    ratios = loss_frames.ratios(tested, run, pairs, smoke=smoke)
    scaling = Scaling(
        meta, models, planned(run, "preset"), table,
        frames.with_sizes(ratios, table), endings(run, models, "preset"),
        {along: frames.laws(tested, table, models, along, smoke=smoke) for along in ALONG},
    )  # fmt: skip
    crossings = tables.crossings(scaling)
    tables_ = tables.tables(scaling, crossings)
    return Content(
        path=run.path,
        meta=meta,
        title=title_of(meta, models),
        stamp=(conditions(meta, scaling.presets),),
        findings=tuple(_findings(scaling, crossings.frame)),
        unsettled=still_open(scaling.ratios),
        tables=tables_,
        figures=partial(figures.figures, scaling, run),
        warnings=warnings.of_trainings(run, models, loss_frames.tuning(run), scaling.endings),
        definitions=definitions(tables_),
    )


def _findings(scaling: Scaling, crossings: pd.DataFrame) -> Iterator[str]:
    """For each baseline the change of perplexity at every size, then what the laws say."""
    subject = scaling.models[0]
    for baseline in scaling.models[1:]:
        rows = scaling.ratios[scaling.ratios["baseline"] == baseline]
        for row in records(rows[rows["value"].notna()]):
            yield f"{subject} against {baseline} at {row['preset']}: {compared(row)}"
    for row in records(crossings[crossings["status"].notna()]):
        if row["along"] == "parameters":
            yield f"the laws of {subject} and {row['baseline']} meet: {tables.meets(row)}"
