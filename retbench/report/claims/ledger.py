"""The judgement: each claim, the numbers for and against it, and a verdict of a fixed list.

Evidence of a run at the claim's size can reproduce or contradict it; of any other it is consistent
with it or not, and no more. Bytes settle what memory is at the claim's size, without a machine;
what time is at the bound settles nothing, for no kernel is there. A claim that holds against the
paper's kind of baseline and fails against today's strongest says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from models.presets import PRESETS
from models.registry import config_for
from retbench.errors import UserError
from retbench.machine.devices import data_sheets
from retbench.report import content, units
from retbench.report.claims.entries import SUBJECT, Bound, Claim, Expectation, Number, Outcome, Test
from retbench.report.frames import Row, records
from retbench.store import RUN_FILE, Run, open_run, read_meta
from retbench.store.results import RESULTS
from retbench.suites.identities import IDENTITIES
from retbench.suites.projection import Bounds

Role = Literal["paper", "strongest"]
DEVICE, DTYPE = "a100-80gb", "bfloat16"
"""What the bounds are of: the paper's device, and the type that its memory fits."""

PAPER_ONLY = "holds against the paper's baseline only"
LESS = "holds by less than stated"
VERDICTS = (
    "reproduced", LESS, "contradicted", PAPER_ONLY, "consistent at small scale",
    "inconsistent at small scale", "open", "not tested",
)  # fmt: skip
"""*Open* is a claim whose evidence excludes neither side."""

COMPUTED = "identities"
"""In place of a suite: the test is computed here, see :mod:`retbench.suites.identities`."""

_LARGEST = "6.7b"  # preset, for sizes that have none


@dataclass(frozen=True)
class Evidence:
    """A number of a run that speaks for or against a claim.

    Attributes:
        run: the name of its folder; empty where it is computed.
        preset: of its models.
        baseline: its label; empty where a model is its own.
        where: the row of the report, e.g. ``4k tokens, batch 1``.
        number: what was measured.
        outcome: what it says of the claim.
        exact: whether it was measured at the claim's size.
    """

    run: str
    preset: str
    baseline: str
    where: str
    number: Number
    outcome: Outcome
    exact: bool


@dataclass(frozen=True)
class Entry:
    """A claim with all that is known of it.

    Attributes:
        claim: the claim.
        evidence: by the role of its baseline; the paper's, too, where a model is its own.
        bounds: what arithmetic says, by role.
    """

    claim: Claim
    evidence: Mapping[Role, Evidence]
    bounds: Mapping[Role, Number]

    @cached_property
    def verdict(self) -> str:
        """One of :data:`VERDICTS`."""
        claim, paper = self.claim, self.evidence.get("paper")
        if not (paper and paper.exact) and claim.bound is not None and claim.bound.settles:
            expect = claim.bound.expect
            outcomes = {role: expect.outcome(number) for role, number in self.bounds.items()}
            return self._of(outcomes, expect, self.bounds["paper"], exact=True)
        if claim.test is None or not self.evidence:
            return "not tested"
        outcomes = {
            role: found.outcome
            for role, found in self.evidence.items()
            if found.exact or not (paper and paper.exact)
        }
        first = paper or self.evidence["strongest"]
        return self._of(outcomes, claim.test.expect, first.number, exact=first.exact)

    def _of(
        self, outcomes: Mapping[Role, Outcome], expect: Expectation, number: Number, *, exact: bool
    ) -> str:
        said = outcomes.get("paper") or outcomes["strongest"]
        if said == "open":
            return "open"
        if said == "fails":
            return "contradicted" if exact else "inconsistent at small scale"
        if outcomes.get("strongest") == "fails":
            return PAPER_ONLY
        if not exact:
            return "consistent at small scale"
        figure = self.claim.ratio
        return "reproduced" if figure is None or expect.reaches(number, figure) else LESS


class Source:
    """A run whose report may hold evidence."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.suite = str(run.meta["suite"])
        self.configuration = run.meta["configuration"]
        self.preset = str(self.configuration.get("preset") or "")

    @cached_property
    def _tables(self) -> dict[str, pd.DataFrame]:
        return {table.name: table.frame for table in content.of(self.run).tables}

    def frame(self, name: str) -> pd.DataFrame:
        """The frame of a table of the report, empty where it has none; or all samples."""
        if name == "samples":
            return self.run.frame()
        return self._tables.get(name, pd.DataFrame())

    def is_at_edge(self, model: str) -> bool:
        """Whether a model was trained at an end of the grid of learning rates."""
        tried = _where(self.frame("tuning"), {"model": model})
        if tried.empty:
            return False
        chosen = tried.loc[tried["chosen"].astype(bool), "learning_rate"]
        return bool(chosen.isin([tried["learning_rate"].min(), tried["learning_rate"].max()]).any())


def evidence_in(folders: Sequence[Path] | None = None) -> tuple[list[Run], dict[str, str]]:
    """The runs that can be evidence, and why others cannot, by the folder's name.

    Those of the largest models come first, for they are the nearest to the paper's, and of equal
    ones the newest.

    Args:
        folders: of the runs; those in :data:`retbench.store.results.RESULTS` where there are none.

    Raises:
        UserError: a folder that was named holds no run.
    """
    named = list(folders or ())
    for folder in named:
        read_meta(folder)
    usable, skipped = [], {}
    for folder in named or sorted(file.parent for file in RESULTS.glob(f"*/{RUN_FILE}")):
        try:
            run = open_run(folder)
        except UserError as problem:
            skipped[folder.name] = str(problem)
            continue
        if why := _unusable(run):
            skipped[folder.name] = why
        else:
            usable.append(run)
    return sorted(usable, key=_rank, reverse=True), skipped


def _rank(run: Run) -> tuple[int, str]:
    """Greater for larger models, and for a newer run."""
    sizes, preset = list(PRESETS), run.meta["configuration"].get("preset")
    return sizes.index(preset) if preset in sizes else -1, str(run.meta["started"])


def _unusable(run: Run) -> str:
    """Why a run can be evidence of nothing; empty where it can."""
    if run.meta["configuration"]["profile"] == "smoke":
        return "a SMOKE run"
    labels = {contender["label"] for contender in run.meta["plan"]["contenders"]}
    if {"A", "B"} <= labels:
        return "an audit"
    return "" if run.meta["state"] == "finished" else "not finished"


def ledger(claims: Iterable[Claim], runs: Sequence[Run]) -> list[Entry]:
    """Judge every claim.

    Args:
        claims: what is to be judged.
        runs: the evidence, those of the same suite in the order in which they are looked at.
    """
    sources = [Source(run) for run in runs]
    return [Entry(claim, _evidence(claim, sources), bounds(claim)) for claim in claims]


def bounds(claim: Claim) -> dict[Role, Number]:
    """What arithmetic says of a claim, against each baseline that it names for that."""
    bound = claim.bound
    if bound is None:
        return {}
    others: dict[Role, tuple[str, int, int] | None] = {
        "paper": bound.over, "strongest": bound.strongest,
    }  # fmt: skip
    return {role: _ratio(claim, bound, cell) for role, cell in others.items() if cell is not None}


def _ratio(claim: Claim, bound: Bound, over: tuple[str, int, int]) -> Number:
    """One cell's figure over another's; its range over the batch sizes that are left open."""
    family, context, batch = bound.of
    ratios = [
        _figures(claim, family, context, own)[bound.metric]
        / _figures(claim, over[0], over[1], other)[bound.over_metric or bound.metric]
        for own, other in [(batch, over[2]), *((size, size) for size in bound.batches)]
    ]
    return Number(ratios[0], min(ratios), max(ratios))


def _figures(claim: Claim, family: str, context: int, batch: int) -> dict[str, float]:
    preset = claim.size if claim.size in PRESETS else _LARGEST
    sheet = next(sheet for sheet in data_sheets() if sheet.key == DEVICE)
    return Bounds(config_for(family, preset), sheet, DTYPE).figures(batch, context)


def _evidence(claim: Claim, sources: Sequence[Source]) -> dict[Role, Evidence]:
    test = claim.test
    if test is None:
        return {}
    if test.suite == COMPUTED:
        number = Number.exact(IDENTITIES[test.table]())
        outcome = test.expect.outcome(number)
        return {"paper": Evidence("", "", "", "computed, float64", number, outcome, exact=True)}
    own = [source for source in sources if source.suite == test.suite]
    if not (test.paper or test.strongest):
        roles: dict[Role, tuple[str, ...]] = {"paper": ("",)}
    else:
        roles = {"paper": test.paper, "strongest": test.strongest}
    return {
        role: found
        for role, baselines in roles.items()
        for found in _search(claim, test, own, role, baselines)
    }


def _search(
    claim: Claim, test: Test, sources: Sequence[Source], role: Role, baselines: Sequence[str]
) -> Iterator[Evidence]:
    """The first evidence, of runs at the claim's size if any, against the first baseline in it.

    At its size a claim is tested by the paper's own kind of baseline alone, the first of its list.
    """
    alike = [source for source in sources if _is_exact(claim, source)]
    for group in (alike, [source for source in sources if source not in alike]):
        for baseline in baselines:
            for source in group:
                found = _number(source.frame(test.table), test, baseline)
                if found is not None:
                    number, where, is_there, said = found
                    outcome = test.expect.outcome(number)
                    if said == "inconclusive" or _may_turn(outcome, test, source, baseline):
                        outcome = "open"
                    own_kind = role == "strongest" or baseline == baselines[0]
                    yield Evidence(
                        source.run.path.name, source.preset, baseline, where, number, outcome,
                        group is alike and is_there and own_kind,
                    )  # fmt: skip
                    return


def _may_turn(outcome: Outcome, test: Test, source: Source, baseline: str) -> bool:
    """Whether a better learning rate could turn the outcome.

    It could make a model's loss lower whose rate is the grid's smallest or largest: so what a ratio
    of losses says of the upper model's being worse, or of the lower one's, does not stand then.
    """
    sides = (SUBJECT, baseline) if baseline else (str(test.where.get("model")), SUBJECT)
    if sides[0] == sides[1] or test.expect.relation == "at":
        return False
    is_above_wanted = (outcome == "holds") == (test.expect.relation == "above")
    return source.is_at_edge(sides[0] if is_above_wanted else sides[1])


def _is_exact(claim: Claim, source: Source) -> bool:
    """Whether a run is of the claim's size and type, on a device of the kind it was made on."""
    given = source.configuration
    if claim.size == "any":
        return True
    return (
        claim.of_one_device
        and (source.preset, given.get("device")) == (claim.size, "cuda")
        and given.get("dtype") in ("bfloat16", "float16")
        and not given.get("overrides")
    )


_Found = tuple[Number, str, bool, str]
"""A number, where it stands, whether that is where the paper has it, and the report's verdict."""


def _number(frame: pd.DataFrame, test: Test, baseline: str) -> _Found | None:
    """The number that a test asks for; None where the frame has none."""
    if test.compare:
        return _compared(frame, test, baseline)
    if baseline:
        subject = {} if "subject" in test.where or "subject" not in frame else {"subject": SUBJECT}
        frame = _where(frame, {test.baseline: baseline} | subject)
    rows = _known(_where(frame, test.where), test)
    if not rows:
        return None
    if test.take == "trend":
        rows = [row for row in rows if row.get("batch_size") == rows[-1].get("batch_size")]
        if len({row[test.along] for row in rows}) < 2:
            return None
        first, last = rows[0], rows[-1]
        said = f"{_place(last, test)} over {_place(first, test)}"
        return _over(_as_number(last, test), _as_number(first, test)), said, not test.at, ""
    there = [row for row in rows if all(row.get(key) == size for key, size in test.at.items())]
    if test.at and there:
        return _as_number(there[0], test), _place(there[0], test), True, _verdict(there[0])
    row = max(rows, key=lambda row: row[test.value]) if test.take == "largest" else rows[-1]
    said = _place(row, test) if test.take == "longest" else ""
    return _as_number(row, test), said, not test.at, _verdict(row)


def _verdict(row: Row) -> str:
    return str(row.get("verdict") or "")


def _compared(frame: pd.DataFrame, test: Test, baseline: str) -> _Found | None:
    """The subject's number over the baseline's, where each has a row of its own."""
    sides = [
        _known(_where(frame, {**test.where, test.baseline: model}), test)
        for model in (SUBJECT, baseline)
    ]
    if not all(sides):
        return None
    subject, other = (_as_number(rows[-1], test) for rows in sides)
    said = _place(sides[0][-1], test) if test.take else ""
    return _over(subject, other), said, not test.at, ""


def _where(frame: pd.DataFrame, wanted: Mapping[str, Any]) -> pd.DataFrame:
    """The rows whose columns hold what is wanted; none where a column is missing."""
    for name, value in wanted.items():
        if name not in frame:
            return frame.iloc[:0]
        frame = frame[frame[name] == value]
    return frame


def _known(frame: pd.DataFrame, test: Test) -> list[Row]:
    """The rows that have a number, the longest last and of equal ones the smallest batch."""
    if test.value not in frame:
        return []
    rows = records(frame[frame[test.value].notna()])
    return sorted(rows, key=lambda row: (row.get(test.along, 0), -row.get("batch_size", 0)))


def _as_number(row: Row, test: Test) -> Number:
    """A row's number; one without an interval is as exact as it can be told."""
    prefix = "" if test.value == "value" else f"{test.value}_"
    value, low, high = (
        float(row.get(name, math.nan)) for name in (test.value, f"{prefix}low", f"{prefix}high")
    )
    known = math.isfinite(low) and math.isfinite(high)
    return Number(value, low, high) if known else Number.exact(value)


def _over(upper: Number, lower: Number) -> Number:
    """A quotient; its interval is the widest that the two allow."""
    return Number(upper.value / lower.value, upper.low / lower.high, upper.high / lower.low)


def _place(row: Row, test: Test) -> str:
    size = row[test.along]
    if test.along != "seq_len":
        return units.count(size)
    batch = f", batch {row['batch_size']:g}" if row.get("batch_size") else ""
    return f"{units.tokens(size)} tokens{batch}"
