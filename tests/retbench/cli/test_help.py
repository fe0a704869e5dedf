"""The command line's help and completion, which are made from the settings of the suites."""

from __future__ import annotations

import pytest

from retbench import suites
from retbench.cli.options import options

from .conftest import Command


@pytest.mark.parametrize("suite", suites.names())
def test_the_help_of_a_suite_shows_its_own_options_and_no_other_suites(
    command: Command, suite: str
) -> None:
    ended = command("run", suite, "--help")
    assert (ended.status, ended.err) == (0, "")
    own = options(suites.get(suite).config)
    others = {key for name in suites.names() for key in options(suites.get(name).config)} - set(own)
    shown = {word for line in ended.out.splitlines() for word in line.split()[:1]}
    assert {f"--{key.replace('_', '-')}" for key in own} <= shown
    assert not {f"--{key.replace('_', '-')}" for key in others} & shown


def test_options_stand_in_groups_with_defaults_of_both_devices_and_examples(
    command: Command,
) -> None:
    out = command("run", "inference", "--help").out
    for title in ("What", "Sweep", "How sure", "Where", "Output", "Of the suite inference"):
        assert f"\n{title}:\n" in out
    assert "[default: 1024:4096 on a CPU, 512:65536 on a GPU]" in " ".join(out.split())
    assert "[default: the profile's]" in " ".join(out.split())
    assert out.count("\n    retbench run ") == 4


def test_the_suite_may_be_named_by_its_option_and_behind_the_question(command: Command) -> None:
    named = command("run", "inference", "--help").out
    assert command("run", "--suite", "inference", "--help").out == named
    assert command("run", "--help", "--suite=inference").out == named


def test_the_help_of_run_lists_the_suites_with_the_options_that_each_has_alone(
    command: Command,
) -> None:
    out = " ".join(command("run", "--help").out.split())
    assert "recall What a model reads back exactly, and what that costs in state. --steps" in out
    assert "--context LENGTHS Context lengths: 512,2048 or 512:8192 (its powers of two). " in out
    assert "[default: the suite's]" in out
    assert "--new-tokens" in out and "--new-tokens N" not in out


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("run re", ["recall"]),
        ("run --preset 1", ["1m", "10m", "125m", "1.3b"]),
        ("run --models gla,linear", ["gla,linear-attention"]),
        ("run --tasks mqar,c", ["mqar,copy"]),
        ("train --dtype b", ["bfloat16"]),
        ("audit --suite k", ["kernels"]),
    ],
)
def test_a_shell_completes_suites_models_sizes_and_choices(
    command: Command, monkeypatch: pytest.MonkeyPatch, line: str, offered: list[str]
) -> None:
    words = f"retbench {line}"
    monkeypatch.setenv("_RETBENCH_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    assert command().out.split() == offered
