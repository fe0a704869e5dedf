"""The claims as data: what each says, where, at what size, and which numbers test it."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Literal

Outcome = Literal["holds", "fails", "open"]
Cell = tuple[str, int, int]
"""Model, context and batch size."""
SUBJECT = "retnet"
AT = 0.1
"""How far from a number that a claim expects *at* which another one is still called so."""


@dataclass(frozen=True)
class Number:
    """A number with its interval; exact where ``low`` and ``high`` are the value."""

    value: float
    low: float
    high: float

    @classmethod
    def exact(cls, value: float) -> Number:
        """A number that was computed."""
        return cls(value, value, value)


@dataclass(frozen=True)
class Expectation:
    """What a claim expects of a number: that it lies below, above or at another."""

    relation: Literal["below", "above", "at"]
    than: float
    by: float = AT

    @classmethod
    def of(cls, text: str) -> Expectation:
        """Read ``below 1``, ``above 1``, ``at 0`` or ``at 1 by 0.01``.

        Raises:
            ValueError: it is none of these.
        """
        found = re.fullmatch(r"(below|above|at) ([0-9.e-]+)(?: by ([0-9.]+))?", text)
        if found is None:
            raise ValueError(f"{text!r} is no expectation such as 'below 1'")
        return cls(found[1], float(found[2]), float(found[3] or AT))  # type: ignore[arg-type]

    def outcome(self, number: Number) -> Outcome:
        """Whether the whole interval lies where it is expected, nowhere there, or both."""
        low, high = {
            "below": (-math.inf, self.than),
            "above": (self.than, math.inf),
            "at": (self.than - self.by, self.than + self.by),
        }[self.relation]
        if low <= number.low and number.high <= high and low < number.value < high:
            return "holds"
        return "fails" if number.low >= high or number.high <= low else "open"

    def reaches(self, number: Number, figure: float) -> bool:
        """Whether a number lies as far from 1 as a figure, but for 5% of that way (logarithms)."""
        if self.relation == "at":
            return True
        edge = number.low if self.relation == "below" else number.high
        return abs(math.log(edge)) >= 0.95 * abs(math.log(figure))


@dataclass(frozen=True)
class Test:
    """Which numbers of a run's report settle a claim; the keys are explained in the file."""

    suite: str
    table: str
    expect: Expectation
    where: Mapping[str, Any] = field(default_factory=dict)
    at: Mapping[str, Any] = field(default_factory=dict)
    take: Literal["", "longest", "largest", "trend"] = ""
    along: str = "seq_len"
    baseline: str = ""
    paper: tuple[str, ...] = ()
    strongest: tuple[str, ...] = ()
    value: str = "value"


@dataclass(frozen=True)
class Bound:
    """Two cells of a projection, whose figures' ratio stands beside the claim."""

    metric: str
    of: Cell
    over: Cell
    expect: Expectation
    strongest: Cell | None = None
    over_metric: str = ""
    settles: bool = False
    batches: tuple[int, ...] = ()


@dataclass(frozen=True)
class Command:
    """What would settle a claim, and what it takes.

    Attributes:
        command: the command line.
        hardware: ``here``, where any machine will do.
        minutes: that it takes there; 0 where that depends on the machine.
    """

    command: str
    hardware: str
    minutes: int = 0


@dataclass(frozen=True)
class Claim:
    """One claim of the paper or of its authors' rewrite.

    Attributes:
        id: its name, e.g. ``inf8``.
        says: what it says, in our words.
        place: in the paper.
        size: that it was made at.
        hardware: likewise.
        figure: what it states.
        ratio: that figure as a ratio; None where it is none.
        test: what measures it; None where nothing does.
        bound: what arithmetic says of it; None where it says nothing.
        note: what that takes for granted.
        settle: what would test it at its size, or at all; None where nothing here would.
        why_not: the reason then.
    """

    id: str
    says: str
    place: str
    size: str
    hardware: str
    figure: str
    ratio: float | None = None
    test: Test | None = None
    bound: Bound | None = None
    note: str = ""
    settle: Command | None = None
    why_not: str = ""

    @property
    def of_one_device(self) -> bool:
        """Whether it was made on a single device, so that a run here can be its equal."""
        return not self.hardware[:1].isdigit()

    @property
    def is_comparison(self) -> bool:
        """Whether its ratio is of two models, or of one with a part and without it."""
        tested = self.test is not None and bool(self.test.paper or self.test.suite == "ablation")
        return tested or (self.bound is not None and self.bound.of[0] != self.bound.over[0])


@cache
def claims() -> tuple[Claim, ...]:
    """Every claim, in the order of the file."""
    file = resources.files("retbench.report.claims").joinpath("claims.toml")
    given = tomllib.loads(file.read_text(encoding="utf-8"))
    commands = {key: Command(**each) for key, each in given["commands"].items()}
    return tuple(_claim(each, commands) for each in given["claim"])


def _claim(given: dict[str, Any], commands: Mapping[str, Command]) -> Claim:
    made = dict(given)
    if test := given.get("test"):
        made["test"] = Test(**_tuples(test) | {"expect": Expectation.of(test["expect"])})
    if bound := given.get("bound"):
        expect = Expectation.of(bound.get("expect", "below 1"))
        made["bound"] = Bound(**_tuples(bound) | {"expect": expect})
    made["settle"] = commands[given["settle"]] if "settle" in given else None
    return Claim(**made)


def _tuples(given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(each) if isinstance(each, list) else each for key, each in given.items()}
