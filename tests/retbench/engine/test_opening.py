"""A run directory that is continued: what may be another then, and what may not."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from retbench import api, suites
from retbench.config.run import RunConfig
from retbench.engine.opening import open_writer
from retbench.engine.resolve import resolve
from retbench.errors import UserError
from retbench.machine import host
from retbench.store import read_meta, write_meta


def opened(config: RunConfig, out: Path, *, resume: bool) -> Any:
    suite = suites.get(config.suite)
    data = suite.data(config)
    return closing(open_writer(config, suite.plan(config), data, out, resume, here=True))


def test_a_damaged_file_of_audits_stops_a_run_before_its_folder_is_begun(tmp_path: Path) -> None:
    def damaged(*_: object) -> None:
        raise UserError("audit.json is damaged")

    config = resolve("recall", preset="tiny", tasks="copy", steps=4, threads=1, device="cpu")
    plan = suites.get("recall").plan(config)
    out = tmp_path / "run"
    with pytest.raises(UserError, match=r"audit\.json is damaged"):
        open_writer(config, plan, None, out, resume=False, here=True, audits=damaged)
    assert not out.exists()


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A run of recall, which times nothing, as a machine of 64 processors has begun it."""
    config = resolve("recall", preset="tiny", tasks="copy", steps=4, threads=1, device="cpu")
    with opened(config, tmp_path / "run", resume=False):
        pass
    meta: dict[str, Any] = dict(read_meta(tmp_path / "run"))
    meta["configuration"] |= {"threads": 64}
    meta["provenance"] |= {"machine_id": "another", "threads": 64}
    write_meta(tmp_path / "run", meta)  # type: ignore[arg-type]
    return tmp_path / "run"


def test_what_is_not_timed_goes_on_on_another_machine_which_is_recorded(
    begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "granted_cores", lambda: 1)
    job = api.prepare(out=begun, resume=True)
    assert job.config.threads == 1
    with opened(job.config, begun, resume=True) as writer:
        assert writer.meta["warnings"] == [
            "the machine, and with it seconds and tokens/s, changed before the run was resumed",
            "the number of threads changed before the run was resumed",
        ]
        (session,) = writer.meta["resumed"]
    assert session["provenance"]["threads"] == 1


def test_more_threads_than_there_are_processors_are_refused(
    begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "granted_cores", lambda: 1)
    with pytest.raises(UserError, match="2 are more than the 1 processors"):
        api.prepare(out=begun, resume=True, threads=2)


def test_what_workers_settle_for_themselves_is_no_other_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = resolve("kernels", profile="smoke", threads=1, device="cpu")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "MALLOC_ARENA_MAX", "MKL_VERBOSE"):
        monkeypatch.delenv(name, raising=False)
    with opened(config, tmp_path / "run", resume=False):
        pass
    begun = read_meta(tmp_path / "run")["provenance"]["environment"]
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "MALLOC_ARENA_MAX"):
        monkeypatch.setenv(name, "7")  # none of which reaches a worker
    with opened(config, tmp_path / "run", resume=True):
        pass
    (resumed,) = read_meta(tmp_path / "run")["resumed"]
    assert resumed["provenance"]["environment"] == begun
    monkeypatch.setenv("MKL_VERBOSE", "0")  # which does
    with opened(config, tmp_path / "other", resume=False):
        pass
    other = read_meta(tmp_path / "other")["provenance"]["environment"]
    assert other == begun | {"MKL_VERBOSE": "0"}
