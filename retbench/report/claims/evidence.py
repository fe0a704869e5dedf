"""The numbers for and against a claim: which row of which run's report, and what it says of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Literal

import pandas as pd

from retbench.report import content, units
from retbench.report.claims.entries import SUBJECT, Claim, Number, Outcome, Test
from retbench.report.frames import Row, edges_of, records, where
from retbench.report.quality.trained import Trainings
from retbench.report.quality.warnings import at_an_end
from retbench.store import Run, folder_name
from retbench.suites.identities import IDENTITIES

Role = Literal["paper", "strongest"]

COMPUTED = "identities"
"""In place of a suite: the test is computed here, see :mod:`retbench.suites.identities`."""


UNFUSED = "unfused"
"""Of a ratio in which one side alone ran unfused: it compares code, not models."""


@dataclass(frozen=True)
class Evidence:
    """A number of a run that speaks for or against a claim.

    Attributes:
        run: the name of its folder; empty where it is computed.
        preset: of its models; empty where they have several.
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
class Source:
    """A run whose report may hold evidence."""

    run: Run

    @property
    def preset(self) -> str:
        """That of its models; empty where they have several."""
        given = self.run.meta["configuration"]
        return "" if "presets" in given else str(given.get("preset") or "")

    @cached_property
    def _tables(self) -> dict[str, pd.DataFrame]:
        return {table.name: table.frame for table in content.of(self.run).tables}

    def frame(self, name: str) -> pd.DataFrame:
        """The frame of a table of the report, empty where it has none; or all samples."""
        if name == "samples":
            return self.run.frame()
        return self._tables.get(name, pd.DataFrame())

    @cached_property
    def _at_edge(self) -> set[str]:
        return {model for model, *_ in at_an_end(Trainings(self.run).tuning)}

    def is_at_edge(self, model: str) -> bool:
        """Whether a model was trained at an end of the grid of learning rates, at any size."""
        return model in self._at_edge


def evidence(claim: Claim, sources: Sequence[Source]) -> dict[Role, Evidence]:
    """What there is for and against a claim, against each kind of baseline that it names."""
    test = claim.test
    if test is None:
        return {}
    if test.suite == COMPUTED:
        number = Number.exact(IDENTITIES[test.table]())
        outcome = test.expect.outcome(number)
        return {"paper": Evidence("", "", "", "computed, float64", number, outcome, exact=True)}
    own = [source for source in sources if source.run.meta["suite"] == test.suite]
    roles: dict[Role, tuple[str, ...]] = {"paper": test.paper, "strongest": test.strongest}
    if not any(roles.values()):
        roles = {"paper": ("",)}
    found = {role: _search(claim, test, own, role, each) for role, each in roles.items()}
    return {role: each for role, each in found.items() if each is not None}


def _search(
    claim: Claim, test: Test, sources: Sequence[Source], role: Role, baselines: Sequence[str]
) -> Evidence | None:
    """The first evidence, of runs at the claim's size if any, against the first baseline in it.

    At its size a claim is tested by the paper's own kind of baseline alone, the first of its list.
    """
    for is_alike, baseline, source in product((True, False), baselines, sources):
        if is_alike != _is_exact(claim, source):
            continue
        found = _number(source.frame(test.table), test, baseline)
        if found is None:
            continue
        number, place, is_there, said = found
        outcome = test.expect.outcome(number)
        if said in ("inconclusive", UNFUSED) or _may_turn(outcome, test, source, baseline):
            outcome = "open"
        own_kind = role == "strongest" or baseline == baselines[0]
        return Evidence(
            folder_name(source.run.path), source.preset, baseline, place, number, outcome,
            is_alike and is_there and own_kind,
        )  # fmt: skip
    return None


def _may_turn(outcome: Outcome, test: Test, source: Source, baseline: str) -> bool:
    """Whether a better learning rate could turn the outcome.

    It could make a model's loss lower whose rate is the grid's smallest or largest: so what a ratio
    of losses says of the upper model's being worse, or of the lower one's, does not stand then;
    nor does a trend over sizes, each of which has rates of its own.
    """
    sides = (SUBJECT, baseline) if baseline else (str(test.where.get("model")), SUBJECT)
    if sides[0] == sides[1] or test.expect.relation == "at":
        return False
    if test.take == "trend":
        return any(map(source.is_at_edge, sides))
    is_above_wanted = (outcome == "holds") == (test.expect.relation == "above")
    return source.is_at_edge(sides[0] if is_above_wanted else sides[1])


def _is_exact(claim: Claim, source: Source) -> bool:
    """Whether a run is of the claim's size and type, on a device of the kind it was made on."""
    given = source.run.meta["configuration"]
    if claim.size == "any":
        return True
    return (
        claim.of_one_device
        and (source.preset, given.get("device")) == (claim.size, "cuda")
        and given.get("dtype") == "bfloat16"
        and not given.get("overrides")
    )


_Found = tuple[Number, str, bool, str]
"""A number, where it stands, whether that is where the paper has it, and the report's verdict."""


def _number(frame: pd.DataFrame, test: Test, baseline: str) -> _Found | None:
    """The number that a test asks for; None where the frame has none."""
    if baseline:
        subject = {} if "subject" in test.where or "subject" not in frame else {"subject": SUBJECT}
        frame = where(frame, {test.baseline: baseline} | subject)
    rows = _known(where(frame, test.where), test)
    if not rows:
        return None
    there = [row for row in rows if all(row.get(key) == size for key, size in test.at.items())]
    if test.take == "trend":
        is_there = len({row[test.along] for row in there}) > 1
        alike = [row for row in rows if row.get("batch_size") == rows[-1].get("batch_size")]
        rows = there if is_there and test.at else alike
        if len({row[test.along] for row in rows}) < 2:
            return None
        first, last = rows[0], rows[-1]
        said = f"{_place(last, test)} over {_place(first, test)}"
        unfused = UNFUSED if UNFUSED in (_verdict(first), _verdict(last)) else ""
        return _over(_as_number(last, test), _as_number(first, test)), said, is_there, unfused
    if test.at and there:
        return _as_number(there[0], test), _place(there[0], test), True, _verdict(there[0])
    row = max(rows, key=lambda row: row[test.value]) if test.take == "largest" else rows[-1]
    said = _place(row, test) if test.take == "longest" else ""
    return _as_number(row, test), said, not test.at, _verdict(row)


def _verdict(row: Row) -> str:
    """What the report says of a row: its verdict, or why it has none."""
    return str(row.get("verdict") or (UNFUSED if row.get("unfused") else ""))


def _known(frame: pd.DataFrame, test: Test) -> list[Row]:
    """The rows that have a number, the longest last and of equal ones the smallest batch."""
    if test.value not in frame:
        return []
    rows = records(frame[frame[test.value].notna()])
    return sorted(rows, key=lambda row: (row.get(test.along, 0), -row.get("batch_size", 0)))


def _as_number(row: Row, test: Test) -> Number:
    """A row's number; one without an interval is as exact as it can be told."""
    value, low, high = (
        float(row.get(name, math.nan)) for name in (test.value, *edges_of(test.value))
    )
    known = math.isfinite(high - low) and not math.isclose(low, high)
    return Number(value, low, high) if known else Number.exact(value)


def _over(upper: Number, lower: Number) -> Number:
    """A quotient; its interval is the widest that the two allow."""
    return Number(upper.value / lower.value, upper.low / lower.high, upper.high / lower.low)


def _place(row: Row, test: Test) -> str:
    if "held" in row:  # an exponent
        held = row["held"]
        return f"batch {held:g}" if row["along"] == "context" else f"{units.tokens(held)} tokens"
    size = row[test.along]
    if test.along != "seq_len":
        return units.count(size)
    batch = f", batch {row['batch_size']:g}" if row.get("batch_size") else ""
    return f"{units.tokens(size)} tokens{batch}"
