"""The noise floor of a machine (rule M10): measured once, kept in the user's cache, found again.

A calibration runs one cell of one model against itself, as two contenders A and B, through the same
runner, workers and clock as any run. Whatever difference it finds is the machine's.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retbench import environment
from retbench.config.run import PROFILES, RunConfig
from retbench.errors import Interrupted, UserError
from retbench.files import replace_file
from retbench.plan import Contender, Plan, Point

if TYPE_CHECKING:
    from retbench.observer import Observer
    from retbench.store import Run

METRICS = ("ttft_s", "tpot_s")

_ELSEWHERE = "set XDG_CACHE_HOME to a folder of yours"


def cache_file() -> Path:
    """Where calibrations are kept.

    Raises:
        UserError: the user has no home.
    """
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        raise UserError("no home folder for the noise floor", "set XDG_CACHE_HOME") from None
    return Path(home) / "retbench" / "calibration.json"


def matching(machine_id: str) -> dict[str, Any] | None:
    """The calibration of this kind of machine, None if there is none.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        cache_file()
    except UserError:
        return None  # without a home there is none
    record = _load().get(machine_id)
    return dict(record) if isinstance(record, Mapping) else None


def of_this_machine(config: RunConfig) -> dict[str, Any] | None:
    """The calibration of the machine this is, for a run of that device; None if there is none.

    Raises:
        UserError: the file cannot be read.
    """
    found = environment.provenance(config.device, config.threads, ())
    return matching(found["machine_id"])


def require_storable() -> None:
    """Make sure that a calibration can be stored, before the minutes that it takes.

    Raises:
        UserError: the file is damaged, or its folder cannot be written.
    """
    file = cache_file()
    _load()
    _make_folder(file)
    if not os.access(file.parent, os.W_OK):
        raise UserError(f"cannot write {file}", _ELSEWHERE)


def remember(record: Mapping[str, Any]) -> Path:
    """Store a calibration under its machine; returns the file.

    Raises:
        UserError: the file cannot be read or written.
    """
    file = cache_file()
    records = {**_load(), record["machine_id"]: dict(record)}
    _make_folder(file)
    data = (json.dumps(records, indent=2, sort_keys=True) + "\n").encode()
    replace_file(file, file.with_suffix(f".{os.getpid()}.tmp"), data)
    return file


def calibrate(config: RunConfig, observer: Observer | None = None) -> dict[str, Any]:
    """Measure this machine's noise floor; takes the time of ten workers.

    Args:
        config: its first model, first context and first batch size are measured.
        observer: told of the progress.

    Returns:
        The record: ``floor`` is the 95th percentile of the absolute log ratio over blocks and
            metrics.

    Raises:
        UserError: no block was measured on both sides.
        Interrupted: the user stopped it.
    """
    from retbench import runner

    with tempfile.TemporaryDirectory(prefix="retbench-calibrate-") as folder:
        try:
            run = runner.execute(
                config, out=Path(folder) / "run", plan=against_itself(config), observer=observer
            )
        except Interrupted:  # its folder is gone, there is nothing to continue
            raise Interrupted(
                "interrupted, no noise floor was stored", "run `retbench calibrate` again"
            ) from None
        return _record(config, run)


def against_itself(config: RunConfig) -> Plan:
    """One cell of one model, as two contenders."""
    family = config.models[0]
    sides = tuple(Contender(label, family, config.overrides_for(family)) for label in "AB")
    point = Point(config.context[0], config.batch[0])
    return Plan(config.suite, sides, (point,), PROFILES[config.profile].blocks, config.seed)


def _record(config: RunConfig, run: Run) -> dict[str, Any]:
    from retbench.measure.stats import noise_floor

    pairs = _pairs(run)
    if not pairs:
        causes = sorted({str(cause) for cause in run.statuses()["cause"].dropna()})
        raise UserError(f"nothing could be measured: {', '.join(causes) or 'no cell ended ok'}")
    return {
        "machine_id": run.meta["provenance"]["machine_id"],
        "floor": noise_floor(pairs),
        "pairs": len(pairs),
        "model": config.models[0],
        "preset": config.preset,
        "context": config.context[0],
        "batch": config.batch[0],
        "device": config.device,
        "dtype": config.dtype,
        "mode": config.mode,
        "threads": config.threads,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _pairs(run: Run) -> list[tuple[float, float]]:
    """The processes' medians of A and B, for each block and metric that has both."""
    frame = run.frame()
    timed = frame[frame["metric"].isin(METRICS) & (frame["status"] == "ok")]
    medians = timed.groupby(["metric", "block", "model"])["value"].median().unstack("model")
    return [
        (float(a), float(b)) for a, b in medians.reindex(columns=["A", "B"]).dropna().to_numpy()
    ]


def _make_folder(file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}", _ELSEWHERE) from None


def _load() -> dict[str, Any]:
    file = cache_file()
    try:
        records = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}", _ELSEWHERE) from None
    except ValueError:
        records = None
    if not isinstance(records, dict):
        raise UserError(f"{file} is damaged", "delete it and run `retbench calibrate` again")
    return records
