"""What the reports on trained models share: trainings, the rates tried, and how they ended."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd

from retbench.report import units
from retbench.report.figure import FAILURES, Figure, Panel
from retbench.report.frames import Row, lookup, records
from retbench.report.quality.warnings import SEEDS_TO_CLAIM, edge_of_grid
from retbench.report.summary import model_order
from retbench.report.terms import is_smoke

if TYPE_CHECKING:
    from retbench.store import Run

SCALARS = (
    "parameters", "learning_rate", "train_tokens", "train_flops", "train_tokens_per_s",
    "final_dev_loss",
)  # fmt: skip


class Trainings:
    """The trainings of a run, whatever their models are tested on; a frame is made once, if asked.

    Attributes:
        setting: what a model is trained for apart, ``preset`` or ``task``; a column of the frames.
        run: the run.
        meta: its ``run.json``.
        models: the subject, then the baselines.
    """

    setting: ClassVar[str] = "preset"

    def __init__(self, run: Run) -> None:
        self.run = run
        self.meta: Mapping[str, Any] = run.meta
        self.models = model_order(run.meta)

    @cached_property
    def _planned(self) -> tuple[str, ...]:
        named = (point.setting(self.setting) for point in self.run.plan.points)
        return tuple(dict.fromkeys(str(value) for value in named if value is not None))

    @property
    def setting_values(self) -> tuple[str, ...]:
        """The values of the setting, in the order of the plan; one where the plan has none."""
        return self._planned or (self.run.config.preset,)

    def shown(self, table: pd.DataFrame) -> pd.DataFrame:
        """A table without the setting where the plan has none."""
        return table if self._planned else table.drop(columns=self.setting)

    @property
    def context(self) -> int:
        """Tokens of a training sequence."""
        return int(self.run.config.context[0])

    @cached_property
    def final(self) -> pd.DataFrame:
        """Samples of final trainings that ended ok."""
        frame = self.run.frame()
        keys = ["block", "model", "point"]
        ended = frame[(frame["phase"] == "cell") & (frame["status"] == "ok")]
        ok = pd.MultiIndex.from_frame(frame[keys]).isin(pd.MultiIndex.from_frame(ended[keys]))
        kept = ok & (frame["stage"] == "final") & frame["value"].notna()
        return frame[kept & (frame["phase"] != "cell")]

    @cached_property
    def scalars(self) -> pd.DataFrame:
        """One row per model and value of the setting: size, rate, training; medians over seeds."""
        rows = self.final[self.final["metric"].isin(SCALARS) & self.final["index"].isna()]
        keys = [self.setting, "model"]
        wide = rows.pivot_table(index=keys, columns="metric", values="value", aggfunc="median")
        every = pd.MultiIndex.from_product([self.setting_values, self.models], names=keys)
        table = wide.reindex(index=every, columns=list(SCALARS)).rename_axis(columns=None)
        return self.shown(table.reset_index())

    @cached_property
    def tuning(self) -> pd.DataFrame:
        """One row per coordinate and rate that was tried: dev loss, status, and whether chosen.

        The coordinate is what else the point names (a preset, a task), as text; empty for none.
        Chosen is what the final trainings were made with.
        """
        frame = self.run.frame()
        scored = frame[(frame["metric"] == "final_dev_loss") & frame["index"].isna()]
        loss = lookup(scored, ["model", "point"], "value")
        made_with = lookup(frame[frame["metric"] == "learning_rate"], ["model", "point"], "value")
        ended = {(row["model"], row["point"]): row for row in records(self.run.statuses())}
        rows: list[tuple[Any, ...]] = []
        best: dict[tuple[str, str], float | None] = {}
        for point in self.run.plan.points:
            settings = dict(point.settings)
            stage, rate = settings.pop("stage", None), settings.pop("lr", None)
            at = ",".join(f"{key}={value}" for key, value in settings.items())
            for contender in self.run.plan.contenders:
                model, key = contender.label, (contender.label, point.id)
                if stage != "tune":
                    best[model, at] = made_with.get(key)
                    continue
                end = ended.get(key, {"status": "not run", "cause": None})
                value = loss.get(key, math.nan) if end["status"] == "ok" else math.nan
                rows.append((model, at, rate, value, end["status"], end["cause"], point.id))
        columns = ["model", "at", "learning_rate", "final_dev_loss", "status", "cause", "point"]
        table = pd.DataFrame(rows, columns=columns)
        chosen = [r["learning_rate"] == best.get((r["model"], r["at"])) for r in records(table)]
        return table.assign(chosen=chosen)

    @cached_property
    def endings(self) -> pd.DataFrame:
        """How the final trainings ended, one row per value of the setting and model.

        The columns are the setting, model, status (``ok``, the most frequent failure, or
        ``not run``), ok_blocks, blocks and cause.
        """
        statuses = self.run.statuses()
        statuses = statuses[statuses["stage"] == "final"]
        rows: list[tuple[Any, ...]] = []
        for value in self.setting_values:
            for model in self.models:
                own = statuses[(statuses["model"] == model) & (statuses[self.setting] == value)]
                failed = own[own["status"] != "ok"]
                status = "ok" if failed.empty else str(failed["status"].mode().iloc[0])
                status = "not run" if own.empty else status
                cause = None if failed.empty else failed["cause"].iloc[0]
                rows.append((value, model, status, len(own) - len(failed), len(own), cause))
        columns = [self.setting, "model", "status", "ok_blocks", "blocks", "cause"]
        return self.shown(pd.DataFrame(rows, columns=columns))

    @property
    def failed(self) -> list[Row]:
        """The rows of :attr:`endings` in which a training failed."""
        return records(self.endings[self.endings["status"] != "ok"])

    @cached_property
    def caveat(self) -> str:
        """What forbids or weakens claims, for the header of a figure; else empty."""
        if is_smoke(self.meta):
            return "SMOKE: no claims"
        seeds = self.run.plan.blocks
        few = [f"{seeds} seed{'s' * (seeds > 1)}"] if seeds < SEEDS_TO_CLAIM else []
        edge = ["learning rates at the grid's end"] if any(edge_of_grid(self.tuning)) else []
        return ", ".join([*few, *edge]) + (": no claim" if few or edge else "")

    def final_point(self, value: str = "") -> str:
        """The id of the final trainings' point: of all, or of those of a value of the setting.

        Raises:
            LookupError: the plan has no such point.
        """
        for point in self.run.plan.points:
            is_its = not value or str(point.setting(self.setting)) == value
            if point.setting("stage") == "final" and is_its:
                return point.id
        raise LookupError(f"the plan has no final training with {self.setting}={value}")

    def figure(
        self, name: str, title: str, panels: Sequence[Panel], data: pd.DataFrame,
        failures: pd.DataFrame | Sequence[tuple[str, str, float, str]] | None = None, **more: Any,
    ) -> Figure:  # fmt: skip
        """A figure of the trainings, whose marks rest on seeds.

        Args:
            name: as :class:`Figure` has it, and so what follows.
            title: see there.
            panels: see there.
            data: see there.
            failures: panel, model, place on the axis (NaN for none) and status of each; in every
                panel all trainings that failed by default.
            more: what else :class:`Figure` has.
        """
        if failures is None:
            failures = [
                (panel.key, row["model"], math.nan,
                 f"{row.get('preset', '')} {ending(row)}".strip())
                for panel in panels for row in self.failed
            ]  # fmt: skip
        return Figure.of(
            self.meta, name, title, panels, data, each="seed", caveat=self.caveat,
            failures=pd.DataFrame(failures, columns=FAILURES), **more,
        )  # fmt: skip


def ending(row: Mapping[str, Any]) -> str:
    """How a row of endings ended, with the share of seeds that failed where some did."""
    return units.ending(row, "seeds")
