"""Writes a run directory: what is kept of a run, whatever kills it, fills the disk or damages it.

``run.json`` says what was run, where and in which state; it is replaced as a whole, by a rename.
``samples.jsonl`` is only ever appended to, one batch of lines a cell, each flushed to the disk
before the next cell starts. Whatever moment a run is killed at, :meth:`RunWriter.resume` finds the
committed batches, sets an unfinished one aside in ``samples.jsonl.cut`` and goes on behind them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, cast

from retbench.config.settings import contradictions
from retbench.errors import UserError
from retbench.metrics import SCHEMA_VERSION, Sample, sample_key
from retbench.store import journal
from retbench.store.files import CommitLog, cannot_write
from retbench.store.journal import Key
from retbench.store.meta import (
    RUN_FILE,
    SAMPLES_FILE,
    TEMPORARY,
    RunMeta,
    State,
    read_meta,
    write_meta,
)
from retbench.store.run import check_samples, continue_command

CUT_FILE = "samples.jsonl.cut"
# A run's folder, or a plugin's, may be moved or named otherwise when it is resumed.
_FREE_KEYS = {"out", "plugins"}


@dataclass(frozen=True)
class Known:
    """Cells of a run that are committed, for whoever measures the rest elsewhere.

    Attributes:
        statuses: the status row of each ``(block, model, point)``.
        scalars: figures by ``(block, model, point, metric)``, as :class:`RunWriter` has them.
    """

    statuses: dict[Key, dict[str, Any]]
    scalars: dict[tuple[int, str, str, str], float]


class RunWriter:
    """The one writer of a run directory; made by :meth:`create` or :meth:`resume`.

    It keeps other writers out until :meth:`close` or the end of the process, however that comes.

    Attributes:
        path: the directory.
        meta: the content of ``run.json``.
        statuses: the status row of each finished ``(block, model, point)``.
        scalars: figures that have one value a process, by ``(block, model, point, metric)``, of
            cells that ended ok.
        last_process: the highest process number in the samples; -1 where there is none.
    """

    def __init__(self, path: Path, log: CommitLog, meta: RunMeta) -> None:
        self.path = path
        self.meta = meta
        self.statuses: dict[Key, dict[str, Any]] = {}
        self.scalars: dict[tuple[int, str, str, str], float] = {}
        self.last_process = -1
        self._log = log
        self._opened = time.monotonic()

    @property
    def done(self) -> set[Key]:
        """The ``(block, model, point)`` that have a status row."""
        return set(self.statuses)

    @property
    def known(self) -> Known:
        """What :meth:`learn` of another writer takes."""
        return Known(dict(self.statuses), dict(self.scalars))

    def learn(self, known: Known) -> None:
        """Take cells that another directory of the same run holds for done, and their figures."""
        self.statuses = known.statuses | self.statuses
        self.scalars = known.scalars | self.scalars

    @classmethod
    def create(cls, path: str | Path, meta: dict[str, Any]) -> Self:
        """Begin a run in a new or empty directory.

        Raises:
            UserError: the directory holds something already, another process writes there, or it
                cannot be made or written. Nothing that exists is touched.
        """
        path = Path(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            _require_vacant(path)
        except FileExistsError:
            raise UserError(f"{path} is a file", "name another --out") from None
        except OSError as error:
            cannot_write(path, error)
        log = CommitLog(path / SAMPLES_FILE, create=True)
        try:
            _require_vacant(path)  # again, now that nobody else can write here
            begun = {"schema_version": SCHEMA_VERSION, "started": _now(), "finished": None}
            writer = cls(path, log, cast(RunMeta, begun | meta))
            writer.update(state="running", samples=None, elapsed_s=0.0)
        except BaseException:
            log.close()
            raise
        return writer

    @classmethod
    def resume(cls, path: str | Path, configuration: dict[str, Any], together: int = 1) -> Self:
        """Continue a run; what was cut off is moved to ``samples.jsonl.cut``.

        Args:
            path: the run's directory.
            configuration: what it is to be continued with; must be what it was begun with.
            together: cells of a point that were measured in turns, and are kept all or none.

        Raises:
            UserError: no run there, another configuration, another writer, or damaged samples.
        """
        path = Path(path)
        _require_same(path, read_meta(path)["configuration"], configuration)
        log = CommitLog(path / SAMPLES_FILE)
        try:
            # Only now is the content certain: another writer may have been at it before the lock.
            meta, content = read_meta(path), journal.read(path / SAMPLES_FILE)
            check_samples(path, meta, content, shorter=meta["state"] != "finished")
            log.set_aside(path / CUT_FILE, content.kept_bytes(together))
            content = journal.read(path / SAMPLES_FILE)
        except BaseException:
            log.close()
            raise
        writer = cls(path, log, meta)
        for rows in content.batches():
            writer._remember(rows)
        return writer

    def _remember(self, rows: Sequence[Sample]) -> None:
        """Keep of a cell that is committed how it ended, its processes and its scalars."""
        ending = rows[-1]
        key = sample_key(ending)
        self.statuses[key] = dict(ending)
        self.last_process = max(self.last_process, *(row["process"] for row in rows))
        if ending["status"] == "ok":
            self.scalars |= {
                (*key, row["metric"]): row["value"]
                for row in rows
                if row["trial"] is None and row["index"] is None and row["value"] is not None
            }

    def append(self, *batches: Sequence[Sample]) -> None:
        """Commit the samples of cells, all or none; they are on the disk when this returns.

        Args:
            batches: of each cell in one block its samples; the last is its status row.

        Raises:
            ValueError: the rows are no batch, or a cell has been committed before.
            UserError: the disk is full or gone. The file is then as it was before.
        """
        data = b"".join(journal.encode(rows) for rows in batches)
        for rows in batches:
            if (key := sample_key(rows[-1])) in self.statuses:
                raise ValueError(f"{key} has been committed before")
        if self.meta["state"] != "running":
            # From here on, what was recorded of the samples when the run stopped is no longer so.
            self.update(state="running", samples=None, finished=None)
        self._log.append(data)
        for rows in batches:
            self._remember(rows)

    def update(self, **meta: Any) -> None:
        """Replace keys of ``run.json``, atomically.

        Raises:
            UserError: the disk is full or gone; the old ``run.json`` stays.
        """
        merged = cast(RunMeta, {**self.meta, **meta})
        write_meta(self.path, merged)
        self.meta = merged

    def warn(self, text: str) -> None:
        """Add a line to the warnings of ``run.json``, once."""
        self.update(warnings=list(dict.fromkeys([*self.meta["warnings"], text])))

    def finish(self, state: State) -> None:
        """Record how the run ended, and the digest of its samples.

        ``elapsed_s`` adds up over resumes; a session that was killed is not counted.
        """
        now = time.monotonic()
        elapsed_s = round(self.meta["elapsed_s"] + now - self._opened, 3)
        data = (self.path / SAMPLES_FILE).read_bytes()
        samples = {"lines": data.count(b"\n"), "sha256": hashlib.sha256(data).hexdigest()}
        self.update(state=state, samples=samples, finished=_now(), elapsed_s=elapsed_s)
        self._opened = now

    def close(self) -> None:
        """Give the directory free for another writer."""
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _require_vacant(path: Path) -> None:
    """Refuse a directory that holds anything but what a kill during :meth:`create` can leave."""
    names = {entry.name for entry in path.iterdir()}
    if RUN_FILE in names:
        hint = f"`{continue_command(path)}` continues it, or name another --out"
        raise UserError(f"{path} holds a run already", hint)
    foreign = names - {SAMPLES_FILE, TEMPORARY}
    samples = path / SAMPLES_FILE
    if foreign or (samples.exists() and samples.stat().st_size):
        raise UserError(f"{path} is not empty", "name another --out")


def _require_same(path: Path, recorded: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    asked = {key: value for key, value in given.items() if key not in _FREE_KEYS}
    if differing := contradictions(recorded, asked):
        raise UserError(
            f"{path} was begun with another configuration: {', '.join(differing)}",
            "continue it unchanged, or name another --out",
        )
