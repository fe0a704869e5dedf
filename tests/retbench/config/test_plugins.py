"""Third parties' models: what is said of a broken one, and how a run finds one again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from models import registry
from retbench import api
from retbench.config import plugins
from retbench.engine.resolve import resolve
from retbench.errors import UserError
from retbench.store import RunWriter

from ..conftest import META

MIXER = """
from dataclasses import dataclass
from models.registry import register
from models.family.retnet import RetNetConfig

@register("{name}")
@dataclass(frozen=True)
class Mine(RetNetConfig):
    pass
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("def (", "SyntaxError"),
        ("\nraise RuntimeError('boom')", "RuntimeError: boom (line 2)"),
        ("import no_such_module_at_all", "ModuleNotFoundError"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        (MIXER.format(name="retnet"), "'retnet' is registered already"),
    ],
)
def test_a_broken_plugin_is_the_users_mistake(here: Path, content: str, says: str) -> None:
    (here / "broken.py").write_text(content)
    with pytest.raises(UserError, match=r"plugin broken\.py: ") as caught:
        plugins.load(["broken.py"])
    assert says in str(caught.value)


def test_a_broken_installed_package_is_named(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    info = here / "bad-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bad\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[retbench.models]\nours = no_such_package.mixer\n")
    monkeypatch.syspath_prepend(str(here))
    registry._discover.cache_clear()
    with pytest.raises(UserError, match=r"the installed plugin 'ours' \(no_such_package\.mixer\)"):
        resolve(device="cpu", preset="tiny")


def test_a_file_is_published_relative_to_the_run(here: Path) -> None:
    run = here / "results" / "run"
    for given in ("mixer.py", str(here / "mixer.py")):
        assert plugins.published([given], run) == ["../../mixer.py"]


def test_a_file_from_elsewhere_is_published_by_its_name_alone(here: Path) -> None:
    assert plugins.published([str(here.parent / "mixer.py")], here / "run") == ["mixer.py"]
    assert plugins.published(["../mixer.py"], here / "run") == ["mixer.py"]


def test_a_module_is_published_as_it_is(here: Path) -> None:
    assert plugins.published(["package.mixer"], here / "run") == ["package.mixer"]
    assert plugins.located(["package.mixer"], here / "run") == ("package.mixer",)


def test_only_a_file_that_a_run_cannot_find_has_to_be_named_again(here: Path) -> None:
    run, elsewhere = here / "run", here.parent / "mixer.py"
    run.mkdir()
    (here / "mixer.py").touch()
    assert plugins.flags(["mixer.py"], run) == ""
    assert plugins.flags([str(elsewhere)], run) == f" --plugin {elsewhere}"


def begun(here: Path, plugin: str) -> Path:
    """A run directory with nothing in it but what was asked for."""
    run = here / "run"
    config = resolve(
        device="cpu", preset="tiny", context="64", batch="1", batch_context=64, models="retnet",
        plugins=[plugin],
    )  # fmt: skip
    configuration = config.to_json() | {"plugins": plugins.published(config.plugins, run)}
    RunWriter.create(run, META | {"configuration": configuration}).close()
    return run


def test_a_resumed_run_finds_its_plugin_from_another_working_directory(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "mine.py").touch()
    run = begun(here, "mine.py")
    (here / "deeper").mkdir()
    monkeypatch.chdir(here / "deeper")
    job = api.prepare(resume=True, out=Path("../run"))
    assert [Path(plugin).resolve() for plugin in job.config.plugins] == [here / "mine.py"]
    assert run.resolve() == job.out.resolve()


def test_a_plugin_that_has_moved_is_asked_for_and_taken(here: Path) -> None:
    (here / "mine.py").touch()
    run = begun(here, "mine.py")
    (here / "moved").mkdir()
    shutil.move(here / "mine.py", here / "moved" / "mine.py")
    with pytest.raises(UserError, match="say with --plugin where it is now"):
        api.prepare(resume=True, out=run)
    with pytest.raises(UserError, match="plugin was"):
        api.prepare(resume=True, out=run, plugins=["other.py"])
    job = api.prepare(resume=True, out=run, plugins=["moved/mine.py"])
    assert job.config.plugins == ("moved/mine.py",)
