"""Live progress: drawn when something happens, by no thread; a line a cell without a terminal."""

from __future__ import annotations

import io
import sys
import threading

import numpy as np
import pytest
from rich.console import Console as RichConsole

from retbench import suites
from retbench.cli.console import Console
from retbench.cli.exits import fail
from retbench.cli.progress import Progress
from retbench.config.plan import Plan
from retbench.config.run import RunConfig
from retbench.engine.resolve import resolve
from retbench.report import units


@pytest.fixture
def small() -> tuple[RunConfig, Plan]:
    config = resolve(device="cpu", models="retnet", preset="tiny", context="32,64", batch="1",
                     batch_context=32, profile="quick")  # fmt: skip
    return config, suites.get(config.suite).plan(config)


def follow(small: tuple[RunConfig, Plan], *, terminal: bool, quiet: bool = False) -> str:
    """All that is printed over the first two cells of a run."""
    config, plan = small
    text = io.StringIO()
    out = RichConsole(
        file=text, force_terminal=terminal, width=100, color_system=None, quiet=quiet
    )  # fmt: skip
    progress = Progress(out, config)
    threads, streams = threading.active_count(), (sys.stdout, sys.stderr)
    progress.started(plan, set())
    progress.worker(plan.contenders[0], 0)
    progress.phase("prefill")
    assert threading.active_count() == threads
    assert not quiet or (sys.stdout, sys.stderr) == streams
    short, long = plan.ascending()
    progress.cell(0, plan.contenders[0], short, "ok", 2.0)
    progress.cell(0, plan.contenders[0], long, "oom", 1.0)
    progress.close()
    return text.getvalue()


def test_without_a_terminal_each_cell_is_a_line_with_the_time_left(
    small: tuple[RunConfig, Plan],
) -> None:
    lines = follow(small, terminal=False).splitlines()
    assert lines[0] == "at least 6 cells in 3 blocks"
    assert lines[1].startswith("[1/6] block 1/3 retnet context=32,batch=1: ok, 2.0 s, about ")
    assert lines[1].endswith(" left")
    assert "context=64,batch=1: oom" in lines[2]
    assert len(lines) == 3


def test_a_block_that_the_run_adds_is_counted_from_then_on(small: tuple[RunConfig, Plan]) -> None:
    config, plan = small
    text = io.StringIO()
    progress = Progress(RichConsole(file=text, width=100), config)
    progress.started(plan, {(b, "retnet", p.id) for b in range(3) for p in plan.points})
    progress.worker(plan.contenders[0], 3)
    progress.cell(3, plan.contenders[0], plan.ascending()[0], "ok", 2.0)
    progress.close()
    assert "[7/8] block 4/4 retnet context=32,batch=1: ok, 2.0 s" in text.getvalue()


def test_on_a_terminal_a_failed_cell_leaves_a_line_and_the_rest_is_redrawn(
    small: tuple[RunConfig, Plan],
) -> None:
    printed = follow(small, terminal=True)
    assert "block 1/3  retnet  prefill" in printed
    assert "1/6 cells" in printed
    assert "context=64,batch=1: oom" in printed
    assert "context=32,batch=1: ok" not in printed


def test_quiet_prints_no_progress(small: tuple[RunConfig, Plan]) -> None:
    assert follow(small, terminal=False, quiet=True) == ""
    assert follow(small, terminal=True, quiet=True) == ""


def test_an_error_is_one_line_whatever_its_message_holds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="1"):
        fail("two\n  lines")
    assert capsys.readouterr().err == "retbench: error: two lines\n"


def test_json_has_null_for_what_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    Console(as_json=True).emit({"a": float("nan"), "b": [np.float64(1.5), None], "c": float("inf")})
    assert capsys.readouterr().out == '{"a": null, "b": [1.5, null], "c": null}\n'


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (59, "59 s"), (200, "3 min"), (7500, "2 h 05 min")]
)
def test_durations_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert units.duration(seconds) == said
