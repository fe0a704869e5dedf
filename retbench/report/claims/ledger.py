"""The judgement: each claim, the numbers for and against it, and a verdict of a fixed list.

Evidence of a run at the claim's size can reproduce or contradict it; of any other it is consistent
with it or not, and no more. Bytes settle what memory is at the claim's size, without a machine;
what time is at the bound settles nothing, for no kernel is there. A claim that holds against the
paper's kind of baseline and fails against today's strongest says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from models.presets import PRESETS
from models.registry import config_for
from retbench.errors import UserError
from retbench.machine.devices import data_sheets
from retbench.report.claims.entries import Bound, Cell, Claim, Expectation, Number, Outcome
from retbench.report.claims.evidence import Evidence, Role, Source, evidence
from retbench.report.terms import is_smoke
from retbench.store import RUN_FILE, Run, folder_name, open_run, read_meta
from retbench.store.results import RESULTS
from retbench.suites.projection import Bounds

DEVICE, DTYPE = "a100-80gb", "bfloat16"
"""What the bounds are of: the paper's device, and the type that its memory fits."""

PAPER_ONLY = "holds against the paper's baseline only"
LESS = "holds by less than stated"
VERDICTS = (
    "reproduced", LESS, "contradicted", PAPER_ONLY, "consistent at small scale",
    "inconsistent at small scale", "open", "not tested",
)  # fmt: skip
"""*Open* is a claim whose evidence excludes neither side."""

_LARGEST = "6.7b"  # preset, for sizes that have none


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
            skipped[folder_name(folder)] = str(problem)
            continue
        if why := _unusable(run):
            skipped[folder_name(folder)] = why
        else:
            usable.append(run)
    return sorted(usable, key=_rank, reverse=True), skipped


def _rank(run: Run) -> tuple[int, str]:
    """Greater for larger models, and for a newer run."""
    sizes, preset = list(PRESETS), run.meta["configuration"].get("preset")
    return sizes.index(preset) if preset in sizes else -1, str(run.meta["started"])


def _unusable(run: Run) -> str:
    """Why a run can be evidence of nothing; empty where it can."""
    if is_smoke(run.meta):
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
    return [Entry(claim, evidence(claim, sources), bounds(claim)) for claim in claims]


def bounds(claim: Claim) -> dict[Role, Number]:
    """What arithmetic says of a claim, against each baseline that it names for that."""
    bound = claim.bound
    if bound is None:
        return {}
    others: dict[Role, Cell | None] = {"paper": bound.over, "strongest": bound.strongest}
    return {role: _ratio(claim, bound, cell) for role, cell in others.items() if cell is not None}


def _ratio(claim: Claim, bound: Bound, over: Cell) -> Number:
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
