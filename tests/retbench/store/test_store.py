"""A run is read as it was written, and nothing is overwritten."""

import errno
import json
import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from retbench.config.plan import Contender, Plan, Point
from retbench.errors import UserError
from retbench.metrics import COLUMNS, SCHEMA_VERSION
from retbench.store import RunWriter, open_run
from retbench.store.files import write_text

from ..full_disk import full_disk
from .run_files import Batch, lines_of, snapshot

SHARE = {"metric": "accuracy", "unit": "ratio"}
COUNT = {"metric": "test_tokens", "unit": "1"}

# What is written is what is read.


def test_a_run_reads_back_as_written(run: Path, batch: Batch) -> None:
    written = [row for block in range(3) for row in batch(block=block, process=block)]
    frame = open_run(run).frame()
    assert tuple(frame.columns) == COLUMNS
    assert [list(json.loads(line).items())[: len(COLUMNS)] for line in lines_of(run)] == [
        list(row.items()) for row in written
    ]
    assert frame["value"].tolist() == [row["value"] for row in written]
    assert frame["trial"].isna().tolist() == [row["trial"] is None for row in written]


def test_the_settings_of_the_points_are_columns(
    tmp_path: Path, meta: dict[str, Any], batch: Batch
) -> None:
    points = (Point(16, 1, (("stage", "tune"), ("lr", 0.5))), Point(16, 1, (("stage", "final"),)))
    plan = Plan("perplexity", (Contender("retnet", "retnet"),), points, 1, 0)
    with RunWriter.create(tmp_path / "run", meta | {"plan": plan.to_json()}) as writer:
        for point in points:
            writer.append(batch(0, point=point.id))
    frame = open_run(tmp_path / "run").statuses()
    assert frame["stage"].tolist() == ["tune", "final"]
    assert frame["lr"].tolist() == [0.5, pytest.approx(float("nan"), nan_ok=True)]


def test_statuses_are_the_last_row_of_each_cell(run: Path) -> None:
    statuses = open_run(run).statuses()
    assert statuses["block"].tolist() == [0, 1, 2]
    assert set(statuses["metric"]) == {"cell_s"}


def test_a_run_without_samples_has_an_empty_frame(tmp_path: Path, meta: dict[str, Any]) -> None:
    RunWriter.create(tmp_path / "run", meta).close()
    frame = open_run(tmp_path / "run").frame()
    assert len(frame) == 0
    assert tuple(frame.columns) == COLUMNS


def test_run_json_tells_schema_state_and_digest(run: Path) -> None:
    meta = open_run(run).meta
    assert meta["schema_version"] == SCHEMA_VERSION
    assert meta["state"] == "finished"
    assert meta["samples"]["lines"] == 9


def test_update_changes_the_named_keys_alone(tmp_path: Path, meta: dict[str, Any]) -> None:
    with RunWriter.create(tmp_path / "run", meta) as writer:
        writer.update(block_s={"0": 7.0})
    found = open_run(tmp_path / "run").meta
    assert found["block_s"] == {"0": 7.0}
    assert found["configuration"] == meta["configuration"]


def test_sound_samples_are_decoded_in_one_call(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call for each line would take three times as long."""
    decoded = []
    decoder = SimpleNamespace(loads=lambda text: decoded.append(text) or json.loads(text))
    monkeypatch.setattr("retbench.store.journal.json", decoder)
    assert len(open_run(run).frame()) == 9
    assert len(decoded) == 1


# What is no batch is a bug of the caller, and nothing of it is written.


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda rows: rows[:-1], "ends with its one status row"),
        (lambda rows: [*rows, rows[-1]], "ends with its one status row"),
        (lambda rows: [rows[0] | {"model": "transformer"}, *rows[1:]], "rows of one cell"),
        (lambda rows: [rows[0] | {"metric": "speed"}, *rows[1:]], "no metric 'speed'"),
        (lambda rows: [rows[0] | {"unit": "ms"}, *rows[1:]], "'tpot_s' in 'ms'"),
        (lambda rows: [rows[0] | {"value": float("nan")}, *rows[1:]], "'value' holds nan"),
        (lambda rows: [rows[0] | SHARE | {"value": 1.5}, *rows[1:]], "'value' holds 1.5"),
        (lambda rows: [rows[0] | COUNT | {"value": -1}, *rows[1:]], "'value' holds -1"),
        (lambda rows: [rows[0] | COUNT | {"value": 1.7e308}, *rows[1:]], "holds 1.7e.308"),
        (lambda rows: [rows[0] | {"status": "slow"}, *rows[1:]], "'status' holds 'slow'"),
        (lambda rows: [rows[0] | {"block": "0"}, *rows[1:]], "'block' holds '0'"),
    ],
)
def test_what_is_no_batch_is_refused(
    tmp_path: Path, meta: dict[str, Any], batch: Batch, change: Any, problem: str
) -> None:
    with RunWriter.create(tmp_path / "run", meta) as writer:
        with pytest.raises(ValueError, match=problem):
            writer.append(change(batch()))
        assert (tmp_path / "run" / "samples.jsonl").read_bytes() == b""
        assert writer.done == set()


def test_a_cell_is_committed_once(tmp_path: Path, meta: dict[str, Any], batch: Batch) -> None:
    with RunWriter.create(tmp_path / "run", meta) as writer:
        writer.append(batch())
        with pytest.raises(ValueError, match="committed before"):
            writer.append(batch())
        assert writer.done == {(0, "retnet", "context=16,batch=1")}


def test_a_file_system_that_syncs_no_folder_is_no_obstacle(
    tmp_path: Path, meta: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def refused(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", refused)
    RunWriter.create(tmp_path / "run", meta).close()
    assert open_run(tmp_path / "run").meta["state"] == "running"


# Nothing is overwritten.


def test_a_folder_that_holds_a_run_is_refused(run: Path, meta: dict[str, Any]) -> None:
    before = snapshot(run)
    with pytest.raises(UserError, match=r"holds a run already.*--resume --out"):
        RunWriter.create(run, meta)
    assert snapshot(run) == before


def test_a_folder_with_other_files_is_refused(tmp_path: Path, meta: dict[str, Any]) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="is not empty"):
        RunWriter.create(tmp_path, meta)
    assert snapshot(tmp_path) == {"thesis.tex": b"years of work"}


def test_foreign_samples_without_a_run_are_refused(tmp_path: Path, meta: dict[str, Any]) -> None:
    (tmp_path / "samples.jsonl").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        RunWriter.create(tmp_path, meta)
    assert (tmp_path / "samples.jsonl").read_text() == "mine"


def test_what_a_kill_before_run_json_leaves_is_no_obstacle(
    tmp_path: Path, meta: dict[str, Any]
) -> None:
    (tmp_path / "samples.jsonl").touch()
    (tmp_path / "run.json.tmp").write_text('{"schema_v')
    with pytest.raises(UserError, match=r"no run\.json, and nothing was measured; begin"):
        RunWriter.resume(tmp_path, meta["configuration"])
    RunWriter.create(tmp_path, meta).close()
    assert open_run(tmp_path).meta["state"] == "running"


def test_a_second_writer_is_refused(run: Path, meta: dict[str, Any]) -> None:
    with (
        RunWriter.resume(run, meta["configuration"]),
        pytest.raises(UserError, match="another process is writing"),
    ):
        RunWriter.resume(run, meta["configuration"])


def test_the_lock_ends_with_the_writer(run: Path, meta: dict[str, Any]) -> None:
    RunWriter.resume(run, meta["configuration"]).close()
    RunWriter.resume(run, meta["configuration"]).close()


def test_another_configuration_is_refused_by_its_keys(run: Path, meta: dict[str, Any]) -> None:
    other = meta["configuration"] | {"preset": "10m", "out": "elsewhere"}
    with pytest.raises(UserError, match="preset was 'tiny', not '10m'") as refusal:
        RunWriter.resume(run, other)
    assert "seed" not in str(refusal.value)
    assert "elsewhere" not in str(refusal.value)


def test_tuples_of_a_configuration_are_the_lists_they_were_stored_as(
    run: Path, meta: dict[str, Any]
) -> None:
    RunWriter.resume(run, meta["configuration"] | {"context": (16, 32)}).close()


def test_a_text_that_has_no_room_leaves_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / "CLAIMS.md"
    file.write_text("old")
    with full_disk(10), pytest.raises(OSError, match="File too large"):
        write_text(file, "new" * 10)
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]
