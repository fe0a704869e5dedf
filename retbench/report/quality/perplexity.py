"""The report of the perplexity and ablation suites: is one model as good as another?

Test perplexity of every tuned model with an interval over seeds and documents, the ratio to the
subject (in an ablation: of each variant to the whole) paired by both, perplexity by evaluation
length and by position, the sweep of learning rates, and the loss curves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from retbench.report import units, warnings
from retbench.report.content import Content, definitions, title_of
from retbench.report.frames import records
from retbench.report.quality import loss_frames as frames
from retbench.report.quality import perplexity_figures as figures
from retbench.report.quality import perplexity_tables as tables
from retbench.report.quality.columns import compared, still_open
from retbench.report.quality.perplexity_tables import Perplexity
from retbench.report.quality.trained import endings
from retbench.report.summary import model_order

if TYPE_CHECKING:
    from retbench.store import Run


def content(run: Run) -> Content:
    """All that the report says of a perplexity or ablation run."""
    meta, models = run.meta, model_order(run.meta)
    tested = frames.tests(run)
    smoke = meta["configuration"]["profile"] == "smoke"
    found = Perplexity(
        meta=meta,
        models=models,
        is_ablation=meta["suite"] == "ablation",
        losses=_of_one_preset(frames.losses(tested, run, models)),
        ratios=_of_one_preset(frames.ratios(tested, run, comparisons(run), smoke=smoke)),
        scalars=_of_one_preset(frames.scalars(run, models)),
        tuning=frames.tuning(run),
        curves=frames.curves(run),
        positions=frames.positions(run),
        endings=endings(run, models),
    )
    tables_ = tables.tables(found)
    return Content(
        path=run.path,
        meta=meta,
        title=title_of(meta, models),
        stamp=tables.stamped(found),
        findings=tuple(_findings(found)),
        unsettled=still_open(found.ratios),
        tables=tables_,
        figures=partial(figures.figures, found, run),
        warnings=warnings.of_trainings(run, models, found.tuning, found.endings),
        definitions=definitions(tables_),
    )


def _of_one_preset(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns="preset")


def comparisons(run: Run) -> list[tuple[str, str]]:
    """Subject and baseline of each ratio.

    The first model over each other one; in an ablation each variant over its own family's whole.
    """
    contenders = run.plan.contenders
    first, *others = [contender.label for contender in contenders]
    if run.plan.suite != "ablation":
        return [(first, other) for other in others]
    return [(c.label, c.family) for c in contenders if c.label != c.family]


def _findings(found: Perplexity) -> Iterator[str]:
    """The change of perplexity in each comparison, then how each model does at length."""
    for row in records(found.ratios[found.ratios["value"].notna()]):
        yield f"{row['subject']} against {row['baseline']}: {compared(row)}"
    yield from _at_length(found)


def _at_length(found: Perplexity) -> Iterator[str]:
    """How each model does beyond the length of its training, and as it would be used there."""
    ways = {"test": "in sliding windows of the training length",
            "carried": "with the state carried on"}  # fmt: skip
    for model in found.models if not found.is_ablation else ():
        values = _values(found.at("length"), model)
        longest = max(values, default=0)
        if longest > found.context and found.context in values:
            said = (
                f"{model}: perplexity {units.significant(values[found.context])} at the training "
                f"length, {units.significant(values[longest])} at {units.tokens(longest)} tokens"
            )
            for phase, way in ways.items():
                if found.context in (kept := _values(found.at(phase), model)):
                    said += f"; {units.significant(kept[found.context])} {way}"
            yield said


def _values(rows: pd.DataFrame, model: str) -> dict[int, float]:
    own: Sequence[dict[str, Any]] = records(rows[rows["model"] == model])
    return {int(row["seq_len"]): float(row["perplexity"]) for row in own}
