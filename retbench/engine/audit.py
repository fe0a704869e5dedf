"""Whether this tool can be trusted here: a model against itself, and against a slowed copy.

Three contenders take turns as those of any run do: A, B (the same model) and a copy whose every
timed call is made longer by a known share. Blocks are added as in any run, until all is settled or
the minutes are over. Between A and B nothing may be found; what is, the noise floor, is the
machine's and the tool's own (rule M10), and widens the margin of verdicts from then on. Of the
planted difference it is told whether it was found. The result is kept in the user's
cache, by machine, device, type, mode and threads, and every run that is like it cites it.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retbench import suites
from retbench.config.plan import Plan, Point
from retbench.config.run import RunConfig
from retbench.errors import Interrupted, UserError
from retbench.store import documents
from retbench.store.files import replace_file, user_cache
from retbench.store.meta import Audit, misfit

if TYPE_CHECKING:
    from retbench.engine.observer import Observer
    from retbench.store import Run

SUBJECT, EQUAL, SLOWED = "A", "B", "slowed"

_ANEW = "delete it and run `retbench audit` again"
_ELSEWHERE = "set XDG_CACHE_HOME to a folder of yours"


def cache_file() -> Path:
    """Where audits are kept.

    Raises:
        UserError: the user has no home.
    """
    folder = user_cache()
    if folder is None:
        raise UserError("no home folder for the audit", "set XDG_CACHE_HOME")
    return folder / "audit.json"


def known(config: RunConfig, machine_id: str) -> dict[str, Any] | None:
    """The audit of a machine for runs like this one; None if there is none.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        cache_file()
    except UserError:
        return None  # without a home there is none
    record = _load().get(_key(config, machine_id))
    if record is None:
        return None
    if problem := misfit(Audit, record):
        raise UserError(f"{cache_file()} is damaged, {problem}", _ANEW)
    return dict(record)


def require_storable() -> None:
    """Make sure that an audit can be stored, before the minutes that it takes.

    Raises:
        UserError: the file is damaged, or its folder cannot be written.
    """
    file = cache_file()
    _load()
    _make_folder(file)
    if not os.access(file.parent, os.W_OK):
        raise UserError(f"cannot write {file}", _ELSEWHERE)


def remember(record: Mapping[str, Any]) -> Path:
    """Store an audit, beside what is known of other metrics there; returns the file.

    Raises:
        UserError: the file cannot be read or written.
    """
    file = cache_file()
    records = _load()
    kept = dict(record)
    earlier = records.get(record["key"])
    if earlier is not None and misfit(Audit, earlier) is None:
        kept["floor"] = earlier["floor"] | record["floor"]
    _make_folder(file)
    whole = documents.sealed({**records, record["key"]: kept})
    data = (json.dumps(whole, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()
    replace_file(file, file.with_suffix(f".{os.getpid()}.tmp"), data)
    return file


def audit(
    config: RunConfig,
    *,
    slowdown: float,
    out: Path | None = None,
    observer: Observer | None = None,
) -> dict[str, Any]:
    """Measure a model against itself and against a slowed copy.

    Args:
        config: its first contender is audited, at its contexts and first batch size, in the blocks
            of its profile and minutes.
        slowdown: the planted relative difference.
        out: a folder for the run; one that is deleted where None.
        observer: told of the progress.

    Returns:
        The record: ``rows`` with the ratio, interval and verdict of every metric and point, against
        the equal and the slowed copy; ``floor``, the largest |log ratio| between equals by metric;
        how many of the ``planted`` differences were ``found``, and ``false`` ones between equals.

    Raises:
        UserError: nothing was measured on both sides, or the folder cannot be written.
        Interrupted: the user stopped it.
    """
    from retbench.engine import runner

    plan = against_itself(config, slowdown)
    with tempfile.TemporaryDirectory(prefix="retbench-audit-") as folder:
        try:
            run = runner.execute(
                config, out=out or Path(folder) / "run", plan=plan, observer=observer
            )
        except Interrupted:
            raise Interrupted(
                "interrupted, no audit was stored", "run `retbench audit` again"
            ) from None
        return _record(config, run, slowdown)


def against_itself(config: RunConfig, slowdown: float) -> Plan:
    """The first contender's primary point at each context, as three contenders."""
    suite = suites.get(config.suite)
    whole = suite.plan(config)
    first = whole.contenders[0]
    sides = [replace(first, label=label) for label in (SUBJECT, EQUAL)]
    sides.append(replace(first, label=SLOWED, slowdown=slowdown))
    points: dict[Point, None] = {}
    primary: list[tuple[str, str]] = []
    for context in config.context:
        at = suite.plan(replace(config, context=(context,), batch=config.batch[:1]))
        primary += at.primary
        named = {point_id for _, point_id in at.primary}
        points |= dict.fromkeys(point for point in at.points if point.id in named)
    return replace(whole, contenders=tuple(sides), points=tuple(points), primary=tuple(primary))


def _key(config: RunConfig, machine_id: str) -> str:
    """What an audit holds for: the same machine, device, type, mode and threads."""
    return " ".join((machine_id, config.device, config.dtype, config.mode, str(config.threads)))


def _record(config: RunConfig, run: Run, slowdown: float) -> dict[str, Any]:
    from retbench.report import summarise
    from retbench.report.compare import TIMES

    ratios = summarise(run).ratios
    timed = ratios[ratios["metric"].isin(TIMES) & (ratios["n"] > 0)]
    equal = timed[timed["baseline"] == EQUAL]
    slowed = timed[timed["baseline"] == SLOWED]
    if equal.empty or slowed.empty:
        causes = sorted({str(cause) for cause in run.statuses()["cause"].dropna()})
        raise UserError(f"nothing could be measured: {', '.join(causes) or 'no cell ended ok'}")
    logs = equal.assign(value=equal["value"].map(math.log).abs())
    machine_id = run.meta["provenance"]["machine_id"]
    columns = ["metric", "point", "baseline", "value", "low", "high", "n", "verdict"]
    return {
        "key": _key(config, machine_id),
        "machine_id": machine_id,
        "floor": {str(name): float(rows.max()) for name, rows in logs.groupby("metric")["value"]},
        "slowdown": slowdown,
        "planted": len(slowed),
        "found": int((slowed["verdict"] == "faster").sum()),
        "compared": len(equal),
        "false": int(equal["verdict"].isin(("faster", "slower")).sum()),
        "blocks": int(timed["n"].max()),
        "suite": config.suite,
        "contender": run.plan.contenders[0].family,
        "preset": config.preset,
        "device": config.device,
        "dtype": config.dtype,
        "mode": config.mode,
        "threads": config.threads,
        "ceilings": run.meta["ceilings"],
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": timed[columns].to_dict("records"),
    }


def _make_folder(file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}", _ELSEWHERE) from None


def _load() -> dict[str, Any]:
    file = cache_file()
    if not os.path.exists(file):
        return {}
    return documents.unsealed(file, documents.read(file, _ANEW), _ANEW)
