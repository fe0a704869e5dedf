"""A run directory, read and checked.

>>> run = open_run("results/cpu-quick")            # doctest: +SKIP
>>> run.frame().groupby("metric")["value"].median()  # doctest: +SKIP
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from retbench.config.plan import Plan, Point
from retbench.config.run import RunConfig
from retbench.errors import UserError
from retbench.metrics import COLUMNS
from retbench.store import journal
from retbench.store.journal import STATUS_METRIC, STATUS_PHASE, Columns, Journal, Key
from retbench.store.meta import RUN_FILE, SAMPLES_FILE, RunMeta, read_meta
from retbench.store.samples import new_sample

if TYPE_CHECKING:
    import pandas as pd

_OF_A_CELL = ("suite", "preset", "mode", "seq_len", "batch_size", "dtype", "device")
"""What a cell's status row has from the plan and the configuration."""


def folder_name(path: Path) -> str:
    """What a folder is called, however it was pointed at; bytes that are no UTF-8 are escaped."""
    return os.fsencode(path.resolve().name).decode(errors="backslashreplace")


@dataclass(frozen=True)
class Run:
    """A run directory, read and checked; nothing here writes.

    Attributes:
        path: the directory.
        meta: the content of ``run.json``.
        columns: the samples in the order of measurement, a list for each column; committed cells
            only. :meth:`frame` is the same as a DataFrame.
        endings: the status row of each ``(block, model, point)``.
    """

    path: Path
    meta: RunMeta
    columns: Columns
    endings: dict[Key, dict[str, Any]]

    @cached_property
    def config(self) -> Any:
        """What was asked for, as attributes; what the suite has no setting for as all suites do."""
        return _config(self.meta)

    @cached_property
    def plan(self) -> Plan:
        """What was to be measured."""
        return Plan.from_json(cast("dict[str, Any]", self.meta["plan"]))

    @cached_property
    def points(self) -> dict[str, Point]:
        """The planned points by their ids, in the order of the plan."""
        return {point.id: point for point in self.plan.points}

    def frame(self) -> pd.DataFrame:
        """All samples, one row each.

        The columns are :data:`retbench.metrics.COLUMNS` and the settings of the points, see
        :meth:`placed`. ``value`` is float64 with NaN for none, ``trial`` and ``index`` the nullable
        Int64.
        """
        return self.placed(_frame(self.columns))

    def statuses(self) -> pd.DataFrame:
        """The status rows alone, as those of :meth:`frame`: how each cell ended in each block."""
        return self.placed(_frame(list(self.endings.values())))

    def placed(self, table: pd.DataFrame) -> pd.DataFrame:
        """A table that has a column ``point``, with a column for each setting of the plan's points.

        A column that the table has already stays; where a point lacks a setting nothing stands.
        """
        names = dict.fromkeys(name for point in self.plan.points for name, _ in point.settings)
        points = table["point"].astype(object)
        return table.assign(**{
            name: points.map({key: point.setting(name) for key, point in self.points.items()})
            for name in names
            if name not in table
        })  # fmt: skip


def _config(meta: RunMeta) -> Any:
    absent = ("preset", "mode", "minutes", "parallel", "world_size")
    stored = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in meta["configuration"].items()
    }
    return SimpleNamespace(**({name: getattr(RunConfig, name) for name in absent} | stored))


def _frame(samples: Columns | list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd  # heavy, and of no use to a process that only writes

    whole = dict.fromkeys(("seq_len", "batch_size", "block", "process"), "int64")
    frame = pd.DataFrame(samples, columns=list(COLUMNS))
    return frame.astype(whole | dict.fromkeys(("trial", "index"), "Int64") | {"value": "float64"})


def open_run(path: str | Path) -> Run:
    """Open a run directory for reading.

    A run that is not finished opens too, as long as its last cell is complete.

    Raises:
        UserError: missing, foreign or of a newer schema; a damaged line; a file cut short, or
            changed since the run finished. Names the file and the line.
    """
    path = Path(path)
    meta = read_meta(path)
    content = journal.read(path / SAMPLES_FILE)
    if content.cut and meta["state"] != "finished":
        raise UserError(
            f"{path / SAMPLES_FILE}:{content.committed_lines + 1}: the last cell is cut off: the "
            "run was killed, or is still being written",
            f"`{continue_command(path)}` finishes it",
        )
    check_samples(path, meta, content)
    return Run(path, meta, content.columns, content.statuses)


def continue_command(path: str | Path) -> str:
    """The command line that continues the run in ``path``."""
    return f"python -m retbench run --resume --out {shlex.quote(str(path))}"


def check_samples(path: Path, meta: RunMeta, content: Journal, *, shorter: bool = False) -> None:
    """Compare the file with what ``run.json`` plans, and recorded when the run ended.

    Args:
        path: the run's directory.
        meta: its ``run.json``.
        content: the file.
        shorter: whether the file may lack its end, whose cells will be measured anew.

    Raises:
        UserError: a cell is of another run, or the file is not what it was; names the place.
    """
    recorded, file = meta["samples"], path / SAMPLES_FILE
    plan, config = Plan.from_json(cast("dict[str, Any]", meta["plan"])), _config(meta)
    contenders = {contender.label: contender for contender in plan.contenders}
    points = {point.id: point for point in plan.points}
    for (block, label, place), row in content.statuses.items():
        planned = label in contenders and place in points
        if planned:
            expected = new_sample(
                config, contenders[label], points[place], STATUS_PHASE, STATUS_METRIC, None
            )
            planned = all(row[name] == expected[name] for name in _OF_A_CELL)  # type: ignore[literal-required]
        if not planned:
            raise UserError(
                f"{file}: block {block}'s {label} {place} is of another run: {RUN_FILE} plans none "
                "such",
                "restore the file from a copy; nothing was changed",
            )
    if recorded is None:
        return
    if content.cut or content.committed_lines < recorded["lines"]:
        if shorter:
            return
        line = content.committed_lines + 1
        problem = f"{file}:{line}: cut short, the run had {recorded['lines']} lines"
    elif recorded != {"lines": content.committed_lines, "sha256": content.sha256}:
        problem = f"{file}: changed since the run ended (its SHA-256 differs)"
    else:
        return
    if meta["state"] == "finished":
        raise UserError(problem, "restore it from a copy; nothing was changed")
    raise UserError(problem, f"`{continue_command(path)}` measures what is lacking")
