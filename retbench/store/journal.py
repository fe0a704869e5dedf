"""The lines of ``samples.jsonl``: how they are written, read and doubted.

A cell's samples are one *batch* of lines. Its last line is the status row (phase ``cell``, metric
``cell_s``), which says how the cell ended and marks the batch as committed: a batch without one was
cut off. It ends with the SHA-256 of the batch: a line that was changed, lost or doubled is noticed.
Reading is one pass of the JSON decoder over the joined lines, so that 100,000 samples take well
under a second; only when that pass fails are the lines tried one by one, to name the one that is
damaged.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, cast

from retbench.errors import UserError
from retbench.metrics import COLUMNS, METRICS, STATUSES, Sample, sample_key
from retbench.store.files import read_file

Key = tuple[int, str, str]
Columns = dict[str, list[Any]]

STATUS_PHASE = "cell"
STATUS_METRIC = "cell_s"

ALONE = "alone"
"""Flags a cell that was measured while no other contender's was."""

_TYPES: dict[str, set[type[Any]]] = {column: {str} for column in COLUMNS} | {
    "seq_len": {int}, "batch_size": {int}, "block": {int}, "process": {int},
    "trial": {int, NoneType}, "index": {int, NoneType}, "value": {int, float, NoneType},
    "cause": {str, NoneType}, "flags": {list},
}  # fmt: skip
_LEAST = {"seq_len": 0, "batch_size": 1, "block": 0, "process": -1, "trial": 0, "index": 0}
_DIGEST = re.compile(rb',"sha256":"([0-9a-f]{64})"}$')
_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
_LINE_START = b'{"%s":"' % COLUMNS[0].encode()


@dataclass(frozen=True)
class Journal:
    """The content of a ``samples.jsonl``.

    Attributes:
        columns: the samples of the committed batches, a list for each of the columns.
        statuses: the status row of each ``(block, model, point)``.
        committed_lines: the lines up to the end of the last committed batch.
        batch_bytes: length of the file up to the end of each of them, in their order.
        cut: whether anything follows them.
        sha256: digest of the whole file.
    """

    columns: Columns
    statuses: dict[Key, dict[str, Any]]
    committed_lines: int
    batch_bytes: list[int]
    cut: bool
    sha256: str

    def batches(self) -> Iterator[list[Sample]]:
        """The samples of each committed cell in the order of the file, the status row last."""
        rows: list[Sample] = []
        for values in zip(*(self.columns[name] for name in COLUMNS), strict=True):
            rows.append(cast(Sample, dict(zip(COLUMNS, values, strict=True))))
            if is_status_row(rows[-1]):
                yield rows
                rows = []

    def kept_bytes(self, together: int) -> int:
        """Length of the file without what a kill has left unfinished at its end.

        Args:
            together: cells of a point that were appended at once, none of them flagged ``alone``;
                where the last point has fewer, they are unfinished too.
        """
        keys = list(self.statuses)
        if not keys:
            return 0
        block, _, point = keys[-1]
        last = [key for key in keys if (key[0], key[2]) == (block, point)]
        alone = any(ALONE in self.statuses[key]["flags"] for key in last)
        torn = 0 if alone or len(last) >= together else len(last)
        ends = [0, *self.batch_bytes]
        return ends[len(ends) - 1 - torn]


def is_status_row(row: Sample | dict[str, Any]) -> bool:
    """Whether the row says how its cell ended."""
    return row["phase"] == STATUS_PHASE and row["metric"] == STATUS_METRIC


def problem_of(row: object) -> str | None:
    """What keeps ``row`` from being a sample, in a few words; None if nothing does."""
    if not isinstance(row, dict):
        return "not a JSON object"
    lacking = [column for column in COLUMNS if column not in row]
    if lacking:
        return f"lacks the column {lacking[0]!r}"
    return _problem_in(_transpose([row]))


def _problem_in(columns: Columns) -> str | None:
    """What keeps rows from being samples; of several it is asked whether there is anything.

    Whole columns are tested many times faster than rows one by one, which are asked about to find
    the one that is wrong: what is said names the values of the first.
    """
    for column, types in _TYPES.items():
        if not set(map(type, columns[column])) <= types:
            return f"column {column!r} holds {columns[column][0]!r}"
    for column, least in _LEAST.items():
        known = [value for value in columns[column] if value is not None]
        if known and not (least <= min(known) and max(known) < 2**63):
            return f"column {column!r} holds {columns[column][0]!r:.60}"
    if not all(isinstance(flag, str) for flags in columns["flags"] for flag in flags):
        return f"column 'flags' holds {columns['flags'][0]!r:.60}"
    if not set(columns["status"]) <= set(STATUSES):
        return f"column 'status' holds {columns['status'][0]!r}"
    for tag, unit in set(zip(columns["metric"], columns["unit"], strict=True)):
        if tag not in METRICS or METRICS[tag].unit != unit:
            return f"no metric {tag!r} in {unit!r} is declared"
    for tag, value in zip(columns["metric"], columns["value"], strict=True):
        if value is not None:
            low, high = METRICS[tag].range
            if not low <= value <= high:  # nor is NaN
                return f"column 'value' holds {columns['value'][0]!r:.60}"
    texts = {text for name, types in _TYPES.items() if str in types for text in columns[name]}
    texts.update(flag for flags in columns["flags"] for flag in flags)
    try:  # JSON has escapes for halves of surrogate pairs, which cannot be written anywhere
        "".join(text for text in texts if text is not None).encode()
    except UnicodeEncodeError:
        return "it holds half a surrogate pair"
    return None


def encode(rows: Sequence[Sample]) -> bytes:
    """The lines of one batch.

    Raises:
        ValueError: the rows are no batch: a column, a metric, a unit or a value is not what
            :class:`retbench.metrics.Sample` says, the rows are of several cells, or the last is
            not the one status row.
    """
    problem = problem_of_batch(rows)
    if problem is not None:
        raise ValueError(problem)
    ordered = ({column: row[column] for column in COLUMNS} for row in rows)  # type: ignore[literal-required]
    lines = map(_ENCODER.encode, ordered)
    batch = "\n".join(lines).encode()
    return batch[:-1] + b',"sha256":"%s"}\n' % hashlib.sha256(batch).hexdigest().encode()


def problem_of_batch(rows: Sequence[Sample]) -> str | None:
    """What keeps ``rows`` from being a batch, in a few words; None if nothing does."""
    if not _all_samples(rows):
        problem = next(filter(None, map(problem_of, rows)))
        return f"not a sample: {problem}"
    if [is_status_row(row) for row in rows] != [False] * (len(rows) - 1) + [True]:
        return "a batch ends with its one status row"
    if len({sample_key(row) for row in rows}) != 1:
        return "a batch holds the rows of one cell in one block"
    return None


def _all_samples(rows: Sequence[Any]) -> bool:
    """Whether all rows are samples, asked of all at once."""
    try:
        return _problem_in(_transpose(rows)) is None
    except (TypeError, KeyError, OverflowError):
        return False


def read(path: Path) -> Journal:
    """Read a ``samples.jsonl`` and check every line of it.

    Raises:
        UserError: the file cannot be read, a line is damaged or foreign, a batch in the middle
            has lost lines or is not what was written, or a cell occurs twice; names the file and
            the line.
    """
    data = read_file(path)
    *lines, _ = data.split(b"\n")
    while lines and not _DIGEST.search(lines[-1]):  # uncommitted, whatever a crash has made of it
        lines.pop()
    if not lines and data[: len(_LINE_START)].strip(b"\0") != _LINE_START[: len(data)]:
        raise _damaged(path, 1, "not a sample")
    columns = _decode(path, lines)
    ends, statuses = _batches(path, columns)
    for first, last in itertools.pairwise([0, *ends]):
        if not _intact(lines[first:last]):
            raise _damaged(path, first + 1, "its cell is not what was written (SHA-256 differs)")
    offsets = [0, *itertools.accumulate(len(line) + 1 for line in lines)]
    return Journal(
        columns=columns,
        statuses=statuses,
        committed_lines=len(lines),
        batch_bytes=[offsets[end] for end in ends],
        cut=offsets[-1] < len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _intact(lines: Sequence[bytes]) -> bool:
    """Whether the lines of a batch are those that its last one has the digest of."""
    last = _DIGEST.search(lines[-1])
    if last is None:
        return False
    batch = b"\n".join([*lines[:-1], lines[-1][: last.start()] + b"}"])
    return hashlib.sha256(batch).hexdigest().encode() == last[1]


def _decode(path: Path, lines: list[bytes]) -> Columns:
    try:
        rows = json.loads(b"[" + b",".join(lines) + b"]")
        columns = _transpose(rows)
        intact = len(rows) == len(lines) and _problem_in(columns) is None
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        intact = False
    return columns if intact else _transpose(_decode_one_by_one(path, lines))


def _transpose(rows: Sequence[dict[str, Any]]) -> Columns:
    return {name: [row[name] for row in rows] for name in COLUMNS}


def _decode_one_by_one(path: Path, lines: list[bytes]) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise _damaged(path, number, "not JSON") from None
        problem = problem_of(row)
        if problem is not None:
            raise _damaged(path, number, f"not a sample: {problem}")
        rows.append(row)
    return rows


def _batches(path: Path, columns: Columns) -> tuple[list[int], dict[Key, dict[str, Any]]]:
    """Where each batch ends (the count of lines up to there), and its status row."""
    ends: list[int] = []
    statuses: dict[Key, dict[str, Any]] = {}
    current: Key | None = None
    keys = zip(columns["block"], columns["model"], columns["point"], strict=True)
    for index, (key, phase) in enumerate(zip(keys, columns["phase"], strict=True)):
        if current is not None and key != current:
            raise _damaged(path, index + 1, "the cell before it has no status row")
        current = key
        if phase == STATUS_PHASE and columns["metric"][index] == STATUS_METRIC:
            if key in statuses:
                raise _damaged(path, index + 1, f"block {key[0]} has {key[1]} {key[2]} twice")
            statuses[key] = {name: values[index] for name, values in columns.items()}
            ends.append(index + 1)
            current = None
    if current is not None:
        raise _damaged(path, len(columns["phase"]), "the cell has no status row")
    return ends, statuses


def _damaged(path: Path, line: int, problem: str) -> UserError:
    return UserError(
        f"{path}:{line}: damaged or foreign line, {problem}",
        "restore the file from a copy; nothing was changed",
    )
