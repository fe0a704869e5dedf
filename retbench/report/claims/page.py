"""The ledger as files: a page to read, JSON for scripts, and one plot."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from retbench.report import export, figures, units
from retbench.report.claims.entries import SUBJECT, Command, Number
from retbench.report.claims.evidence import Evidence, Role
from retbench.report.claims.ledger import DEVICE, DTYPE, VERDICTS, Entry
from retbench.report.figure import Axis, Figure, Panel
from retbench.report.frames import Row
from retbench.report.tables import Column, Table, name
from retbench.report.theme import Style
from retbench.store.files import cannot_write, write_text
from retbench.store.results import RESULTS

PAGE = "CLAIMS"
_NOTES = (
    "the paper's baseline is transformer-paper, whose cache is copied at each step, or the nearest "
    "to it that was run; the one that was is named",
    "numbers are RetNet over the baseline, below 1 where RetNet is faster, smaller or better; of a "
    "part that is left out, without over with it; growth and errors as they are",
    "[low, high]: the interval of the run's report, of times and losses 95% or more, of memory the "
    "range over processes; of two rows divided here the widest that theirs allow",
    f"bound: data sheet and bytes at the claim's size, 6.7b where it is no preset, in {DTYPE} on "
    f"{DEVICE}, against the paper's baseline and today's strongest; no measurement",
    "what a better learning rate could turn, beyond the end of a grid, is open",
    "only a run at the claim's size, or bytes where bytes decide, can reproduce or contradict it",
)
_MEASURED: Mapping[Role, str] = {
    "paper": "measured, the paper's baseline", "strongest": "measured, the strongest baseline",
}  # fmt: skip
_SERIES: Mapping[str, Style] = {
    "the paper's figure": Style("#000000", "D", ""),
    "bound": Style("#6b6b6b", "v", ""),
    _MEASURED["paper"]: Style("#0072B2", "o", ""),
    _MEASURED["strongest"]: Style("#E69F00", "s", ""),
}


def tables(entries: Sequence[Entry]) -> tuple[Table, ...]:
    """The claims with their verdicts, and what would settle the others."""
    columns = [
        name("Claim", "id"),
        Column("It says", "says", rank=1, style="sentence"),
        Column("In the paper", "stated", rank=2, style="sentence"),
        Column("Against the paper's baseline", lambda row: _measured(row, "paper"), rank=0,
               style="sentence"),
        Column("Against the strongest", lambda row: _measured(row, "strongest"), rank=1,
               style="sentence"),
        Column("At the bound", lambda row: _bounds(row["entry"]), rank=2, style="sentence"),
        Column("Verdict", "verdict", rank=0, style="sentence"),
    ]  # fmt: skip
    frame = pd.DataFrame([_row(entry) for entry in entries])
    ledger = Table("claims", "The claims", frame, columns, _NOTES)
    missing = Table(
        "unsettled", "What would settle those that are open or not tested",
        frame[frame["verdict"].isin(["open", "not tested"])],
        [name("Claim", "id"), name("Takes", "hardware"),
         Column("By", "by", rank=0, style="sentence")],
    )  # fmt: skip
    return (ledger, missing) if missing.cells else (ledger,)


def _row(entry: Entry) -> Row:
    claim, command = entry.claim, entry.claim.settle
    return {
        "id": claim.id, "says": claim.says, "entry": entry, "verdict": entry.verdict,
        "stated": f"{claim.figure} ({claim.size}, {claim.hardware}; {claim.place})",
        "hardware": command.hardware if command else "",
        "by": f"`{command.command}`" if command else claim.why_not,
    }  # fmt: skip


def _measured(row: Row, role: Role) -> str:
    found: Evidence | None = row["entry"].evidence.get(role)
    if found is None:
        return units.DASH
    where = ", ".join(filter(None, (found.baseline, found.where, found.preset)))
    return f"{_text(found.number)} ({where})" if where else _text(found.number)


def _bounds(entry: Entry) -> str:
    said = "; ".join(_text(number) for number in entry.bounds.values())
    note = entry.claim.note
    return f"{said} ({note})" if said and note else said or units.DASH


def _text(number: Number) -> str:
    if number.low == number.high:
        return units.significant(number.value)
    return units.with_interval(number.value, number.low, number.high)


def plain(entry: Entry) -> dict[str, Any]:
    """An entry as JSON has it."""
    claim = entry.claim
    about = ("id", "says", "place", "size", "hardware", "figure", "ratio")
    return {
        **{key: getattr(claim, key) for key in about},
        "verdict": entry.verdict,
        "evidence": {role: _plain_evidence(found) for role, found in entry.evidence.items()},
        "bound": {role: number.value for role, number in entry.bounds.items()},
        "settle": claim.settle.command if claim.settle else None, "why_not": claim.why_not,
    }  # fmt: skip


def _plain_evidence(found: Evidence) -> dict[str, Any]:
    about = asdict(found)
    number = about.pop("number")
    return {**about, **units.plain(number)}


def figure(entries: Sequence[Entry]) -> Figure:
    """The claims that are ratios: the paper's figure, the bound, and what was measured."""
    rows = pd.DataFrame([row for entry in entries for row in _marks(entry)])
    panel = Panel("", "", Axis("RetNet / baseline; without a part / with it"), margin=0.0,
                  sides=("below 1", "above 1"))  # fmt: skip
    return Figure(
        PAGE, "The paper's claims, the bound, and what was measured", (panel,), rows, _SERIES,
        "each claim at its own size; measured at the sizes that the table names",
        geometry="rows", interval="interval, see the table",
        notes=("below 1 RetNet is better", "above 1 a part helps (abl, rew7)",
               "claims that are no ratio stand in the table alone"),
    )  # fmt: skip


def _marks(entry: Entry) -> Iterator[Row]:
    """What there is of a claim as marks of one row; nothing of one that compares no two models."""
    claim = entry.claim
    numbers = {_MEASURED[role]: found.number for role, found in entry.evidence.items()}
    if "paper" in entry.bounds:
        numbers["bound"] = entry.bounds["paper"]
    if claim.ratio is None or not numbers or not claim.is_comparison:
        return
    numbers["the paper's figure"] = Number.exact(claim.ratio)
    for series, number in numbers.items():
        known = number.low != number.high
        yield {
            "panel": "", "series": series, "row": claim.id, "x": None, "value": number.value,
            "low": number.low if known else None, "high": number.high if known else None,
            "n": 1, "open": False, "each": (), "text": "", "model": SUBJECT, "point": claim.id,
        }  # fmt: skip


def said(entries: Sequence[Entry], skipped: Mapping[str, str]) -> list[str]:
    """How many claims there are of which verdict, by what evidence, a line each.

    Args:
        entries: the claims, judged.
        skipped: why runs are no evidence, by name.
    """
    counts = Counter(entry.verdict for entry in entries)
    known = sum(1 for entry in entries if entry.evidence or entry.bounds)
    used = sorted({f.run for entry in entries for f in entry.evidence.values() if f.run})
    of_each = [f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict]]
    return [
        f"{len(entries)} claims, {known} with evidence or a bound: {', '.join(of_each)}",
        f"evidence: {', '.join(used) or 'none'}",
        *(f"no evidence: {run}, {why}" for run, why in skipped.items()),
    ]


def document(entries: Sequence[Entry], said: Sequence[str]) -> dict[str, Any]:
    """The ledger as JSON has it."""
    return {"said": list(said), "claims": [plain(entry) for entry in entries]}


def write(entries: Sequence[Entry], said: Sequence[str], folder: Path | None = None) -> list[Path]:
    """Write ``CLAIMS.md``, ``.json``, ``.png`` and ``.svg``; returns the files.

    Args:
        entries: the claims, judged.
        said: see :func:`said`.
        folder: where the files go; :data:`retbench.store.results.RESULTS` by default.

    Raises:
        UserError: nothing can be written there.
    """
    stem = (folder or RESULTS) / PAGE
    drawn = figure(entries)
    lines = ["# Which of the RetNet paper's claims stand", ""]
    lines += [*(f"- {line}" for line in said), "", f"![{drawn.title}]({PAGE}.png)", ""]
    lines += [export.markdown(table, ()) for table in tables(entries)]
    lines.append("Made by `python -m retbench claims` from the runs named above; not by hand.")
    text = json.dumps(document(entries, said), indent=1, allow_nan=False, ensure_ascii=False)
    texts = {".md": "\n".join(lines), ".json": text}
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        for suffix, content in texts.items():
            write_text(stem.with_suffix(suffix), content + "\n")
        files, *_ = figures.save(drawn, stem)
    except OSError as error:
        cannot_write(stem.parent, error)
    return [*(stem.with_suffix(suffix) for suffix in texts), *files]


def plan(entries: Sequence[Entry], minutes_here: Callable[[str], float]) -> list[str]:
    """What would settle the claims that are open or not tested: lines, what settles most first.

    Args:
        entries: the claims, judged.
        minutes_here: how long a command is likely to take on this machine.
    """
    wanted: dict[Command, list[str]] = {}
    for entry in entries:
        if entry.verdict in ("open", "not tested") and entry.claim.settle:
            wanted.setdefault(entry.claim.settle, []).append(entry.claim.id)
    lines = []
    for command, ids in sorted(wanted.items(), key=lambda each: -len(each[1])):
        here = command.hardware == "here"
        minutes = minutes_here(command.command) if here else command.minutes
        takes = f"about {minutes:.0f} minutes {'' if here else 'on '}{command.hardware}"
        lines += [command.command, f"    settles {', '.join(ids)}; {takes}"]
    return lines
