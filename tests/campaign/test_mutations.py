"""Run directories that something has changed: refused in one line, or read as before.

    RETBENCH_CAMPAIGN=1000 pytest tests/campaign -s

makes so many changes to a run of each suite, finished and not, and prints what became of them; by
default it is few. Nothing may end in a traceback, and nothing may be read with other numbers.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from retbench import report
from retbench.errors import UserError
from retbench.report import export
from retbench.store import Run, open_run

from ..retbench.report.every_suite import SUITES
from .mutations import MUTATIONS

COUNT = int(os.environ.get("RETBENCH_CAMPAIGN", "6"))
FILES = ("run.json", "samples.jsonl")


def numbers(run: Run) -> str:
    """All that a report says of a run."""
    return json.dumps(export.numbers(report.content_of(run)), default=str)


def outcome(folder: Path, expected: str) -> str:
    """What becomes of a changed run."""
    try:
        run = open_run(folder)
        return "read as before" if numbers(run) == expected else "read with other numbers"
    except UserError as problem:
        return "refused" if "\n" not in str(problem) else "refused in several lines"


@pytest.mark.parametrize("state", ["finished", "interrupted", "running"])
@pytest.mark.parametrize("suite", SUITES)
def test_a_changed_run_is_refused_or_read_as_before(tmp_path: Path, suite: str, state: str) -> None:
    sound = SUITES[suite](tmp_path / "sound", state=state).path
    expected = numbers(open_run(sound))
    found: Counter[str] = Counter()
    rng = random.Random(f"{suite} {state}")
    for number in range(COUNT):
        folder = Path(shutil.copytree(sound, tmp_path / "changed"))
        mutation, file = rng.choice(MUTATIONS), rng.choice(FILES)
        data = (folder / file).read_bytes()
        changed = mutation(data, rng)
        (folder / file).write_bytes(changed)
        became = outcome(folder, expected)
        # The end of a run that was killed may be lost, and its last cells with it.
        if state == "running" and data.startswith(changed) and became.endswith("numbers"):
            became = "read without its end"
        found[became] += 1
        allowed = {"refused", "read as before", "read without its end"}
        assert became in allowed, (number, mutation.__name__, file)
        shutil.rmtree(folder)
    print(f"\n{suite}, {state}: {dict(found)}")
