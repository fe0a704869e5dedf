"""A setting is one field: its check, its default, its key and its JSON are made of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from retbench.config import values as value
from retbench.config.settings import Settings, changed, first_line, first_of, setting
from retbench.errors import Misfit, UserError


@dataclass(frozen=True, kw_only=True)
class Base(Settings):
    device: str = setting(value.text)
    steps: int = setting(value.positive, cpu=10, cuda=1000, flag="n_steps")
    mode: str = setting(value.text, default="eager")
    warmup: int = setting(value.positive, default=lambda known: known["steps"] // 2)
    note: str | None = setting(value.text, default=None)


@dataclass(frozen=True, kw_only=True)
class Derived(Base):
    modes: tuple[str, ...] = setting(value.names, default=("compile", "eager"))
    mode: str = first_of(Base, "mode", "modes")
    steps: int = changed(Base, "steps", default=6)


def test_a_class_without_a_docstring_says_nothing_of_itself() -> None:
    assert first_line(Derived) == first_line(type("Bare", (), {})) == ""
    assert first_line(Settings) == str(Settings.__doc__).splitlines()[0]


def test_a_default_is_the_devices_and_others_follow_from_it() -> None:
    assert (Base(device="cpu").steps, Base(device="cuda").steps) == (10, 1000)
    assert (Base(device="cpu").warmup, Base(device="cpu", steps=4).warmup) == (5, 2)


def test_a_derived_class_changes_a_default_and_sweeps_what_was_one() -> None:
    made = Derived(device="cuda")
    assert (made.steps, made.warmup, made.mode) == (6, 3, "compile")
    assert Derived.flag("steps") == "n-steps"


def test_a_value_that_cannot_be_is_refused_wherever_it_comes_from() -> None:
    says = "n-steps: must be at least 1, not 0"
    with pytest.raises(Misfit, match=says) as caught:
        Base(device="cpu", steps=0)
    assert caught.value.keys == ("steps",)
    with pytest.raises(Misfit, match=says):
        replace(Base(device="cpu"), steps=0)
    with pytest.raises(UserError, match=f"run.toml:3: {says}"):
        Base.parse({"n_steps": 0}, {"n_steps": "run.toml:3: "})
    with pytest.raises(UserError, match=says):
        Base.from_json(Base(device="cpu").to_json() | {"steps": 0})


def test_nobody_chooses_what_follows_from_a_sweep() -> None:
    with pytest.raises(UserError, match="unknown key 'mode'; did you mean 'modes'"):
        Derived.parse({"mode": "eager"})


def test_json_holds_every_setting_and_lacks_none_that_depends_on_the_machine() -> None:
    made = Derived(device="cpu", note="x")
    assert Derived.from_json(made.to_json()) == made
    assert Derived.from_json({k: v for k, v in made.to_json().items() if k != "note"}).note is None
    with pytest.raises(UserError, match="lacks warmup"):
        Derived.from_json({k: v for k, v in made.to_json().items() if k != "warmup"})
    with pytest.raises(UserError, match="unknown key 'stepz'; did you mean 'steps'"):
        Derived.from_json(made.to_json() | {"stepz": 1})
