import errno
import json
import os
import random
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retbench.config.plan import Contender, Plan, Point
from retbench.errors import UserError
from retbench.metrics import COLUMNS, SCHEMA_VERSION
from retbench.store import RunWriter, open_run, read_meta, write_meta

Batch = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def run(tmp_path: Path, meta: dict[str, Any], batch: Batch) -> Path:
    """A finished run of three blocks of one cell, three lines each."""
    path = tmp_path / "run"
    with RunWriter.create(path, meta) as writer:
        for block in range(3):
            writer.append(batch(block=block, process=block))
        writer.finish("finished")
    return path


def lines_of(run: Path) -> list[bytes]:
    return (run / "samples.jsonl").read_bytes().splitlines(keepends=True)


def set_lines(run: Path, lines: list[bytes], *, state: str = "finished") -> None:
    """Write the samples as a file that was never recorded as complete."""
    (run / "samples.jsonl").write_bytes(b"".join(lines))
    write_meta(run, {**read_meta(run), "state": state, "samples": None})  # type: ignore[typeddict-item]


def snapshot(run: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in run.iterdir()}


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
        writer.update(models={"retnet": {"parameters": 7}})
    found = open_run(tmp_path / "run").meta
    assert found["models"] == {"retnet": {"parameters": 7}}
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


# Damage is named by file and line.


def test_a_missing_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere does not exist"):
        open_run(tmp_path / "nowhere")


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no run\.json"):
        open_run(tmp_path)


def test_a_newer_schema_is_refused(run: Path, meta: dict[str, Any]) -> None:
    write_meta(run, {**read_meta(run), "schema_version": SCHEMA_VERSION + 1})
    before = snapshot(run)
    for attempt in (open_run, lambda run: RunWriter.resume(run, meta["configuration"])):
        with pytest.raises(UserError, match=rf"schema version {SCHEMA_VERSION + 1} is newer"):
            attempt(run)
    assert snapshot(run) == before


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"schema_version": 1,\n"suite": ', r"run\.json:2: damaged"),
        ('{"name": "package"}', r"run\.json:1: not written by Retbench"),
        ("[1, 2]", r"run\.json:1: damaged, not a JSON object"),
        ('{"schema_version": 3}', r"run\.json:1: damaged, it lacks 'sha256'"),
        ('{"schema_version": 3, "a": NaN}', r"run\.json:1: damaged, it holds NaN"),
        ('{"schema_version": 3, "a": 1e999}', r"run\.json:1: damaged"),
        ('{"schema_version": 3, "a": 9223372036854775808}', r"run\.json:1: .*beyond 64 bits"),
        ('{"schema_version": 3, "a": "\\ud800"}', r"run\.json:1: .*half a surrogate pair"),
        ("[" * 100_000, r"run\.json:1: damaged, it is nested too deeply"),
        ("\x00\xff", r"run\.json:1: damaged"),
    ],
)
def test_a_damaged_run_json_is_named(run: Path, content: str, problem: str) -> None:
    (run / "run.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=problem):
        open_run(run)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"hello\n", "not JSON"),
        (b"\xff\xfe\n", "not JSON"),
        (b"\n", "not JSON"),
        (b"42\n", "not a JSON object"),
        (b'{"suite":"inference"}\n', "lacks the column 'point'"),
        (b"{},{}\n", "not JSON"),
    ],
)
@pytest.mark.parametrize("state", ["finished", "running"])
def test_a_damaged_line_is_named_by_its_number(
    run: Path, meta: dict[str, Any], line: bytes, problem: str, state: str
) -> None:
    lines = lines_of(run)
    set_lines(run, [*lines[:4], line, *lines[5:]], state=state)
    before = snapshot(run)
    for attempt in (open_run, lambda run: RunWriter.resume(run, meta["configuration"])):
        with pytest.raises(UserError, match=rf"samples\.jsonl:5: .*{problem}"):
            attempt(run)
    assert snapshot(run) == before


def test_a_value_of_the_wrong_type_is_named(run: Path) -> None:
    lines = lines_of(run)
    lines[3] = lines[3].replace(b'"value":0.25', b'"value":"fast"')
    set_lines(run, lines)
    with pytest.raises(UserError, match=r"samples\.jsonl:4: .*'value' holds 'fast'"):
        open_run(run)


def test_a_foreign_file_is_not_taken_for_a_cut_one(run: Path, meta: dict[str, Any]) -> None:
    set_lines(run, [b"a diary without a newline"], state="running")
    with pytest.raises(UserError, match=r"samples\.jsonl:1: damaged or foreign"):
        RunWriter.resume(run, meta["configuration"])
    assert (run / "samples.jsonl").read_bytes() == b"a diary without a newline"


def test_a_lost_status_row_in_the_middle_is_named(run: Path) -> None:
    lines = lines_of(run)
    set_lines(run, [*lines[:2], *lines[3:]])
    with pytest.raises(UserError, match=r"samples\.jsonl:3: .*has no status row"):
        open_run(run)


def test_a_cell_that_occurs_twice_is_named(run: Path) -> None:
    lines = lines_of(run)
    set_lines(run, [*lines, *lines[:3]])
    with pytest.raises(UserError, match=r"samples\.jsonl:12: .*twice"):
        open_run(run)


@pytest.mark.parametrize("lines", [3, 4, 6])
def test_a_finished_run_cut_at_a_line_is_named(run: Path, meta: dict[str, Any], lines: int) -> None:
    (run / "samples.jsonl").write_bytes(b"".join(lines_of(run)[:lines]))
    before = snapshot(run)
    line = lines // 3 * 3 + 1
    for attempt in (open_run, lambda run: RunWriter.resume(run, meta["configuration"])):
        with pytest.raises(UserError, match=rf"samples\.jsonl:{line}: cut short.* 9 lines"):
            attempt(run)
    assert snapshot(run) == before


def test_a_finished_run_cut_inside_a_line_is_named(run: Path) -> None:
    data = (run / "samples.jsonl").read_bytes()
    (run / "samples.jsonl").write_bytes(data[:-20])
    with pytest.raises(UserError, match=r"samples\.jsonl:7: cut short"):
        open_run(run)


@pytest.mark.parametrize("state", ["finished", "running"])
@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [*lines[:3], lines[3].replace(b"0.25", b"0.15"), *lines[4:]],
        lambda lines: [*lines[:3], *lines[4:]],
        lambda lines: [*lines[:3], lines[3], *lines[3:]],
        lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]],
        lambda lines: [*lines[:5], lines[5][:-78] + b"}\n", *lines[6:]],
    ],
)
def test_a_cell_whose_lines_are_not_those_that_were_written_is_named(
    run: Path, meta: dict[str, Any], change: Any, state: str
) -> None:
    set_lines(run, change(lines_of(run)), state=state)
    for attempt in (open_run, lambda run: RunWriter.resume(run, meta["configuration"])):
        with pytest.raises(UserError, match=r"samples\.jsonl:4: .*not what was written"):
            attempt(run)


def test_a_finished_run_that_lost_whole_cells_and_gained_others_is_named(run: Path) -> None:
    lines = lines_of(run)
    (run / "samples.jsonl").write_bytes(b"".join(lines[3:] + lines[:3]))
    with pytest.raises(UserError, match=r"samples\.jsonl: changed since"):
        open_run(run)


def test_a_run_json_that_was_edited_is_refused_whatever_was_changed(run: Path) -> None:
    content = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(content, indent=7))
    assert open_run(run).meta["elapsed_s"] == content["elapsed_s"]  # of the layout it says nothing
    (run / "run.json").write_text(json.dumps(content | {"elapsed_s": content["elapsed_s"] + 1}))
    with pytest.raises(UserError, match=r"run\.json: changed since it was written"):
        open_run(run)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"elapsed_s": -1.0}, "'elapsed_s' holds -1.0"),
        ({"block_s": {"0": "x"}}, "'block_s.0' holds 'x'"),
        ({"warnings": [1]}, "'warnings.0' holds 1"),
        ({"primary": [["tpot_s"]]}, "'primary.0' holds"),
        (
            {"ceilings": {"bandwidth": [], "matmul_flop_per_s": {"float32": -1.0}, "elapsed_s": 1}},
            "'ceilings.matmul_flop_per_s.float32' holds -1.0",
        ),
        ({"samples": {"lines": True, "sha256": ""}}, "'samples.lines' holds True"),
        ({"stopped": {"blocks": 0, "alpha": 0.05, "why": "", "open": []}}, "'stopped.blocks'"),
    ],
)
def test_a_value_of_run_json_that_cannot_be_is_named(run: Path, changes: Any, problem: str) -> None:
    write_meta(run, {**read_meta(run), **changes})
    with pytest.raises(UserError, match=rf"run\.json:1: damaged, {problem}"):
        open_run(run)


def test_a_run_that_was_damaged_anywhere_is_refused_in_a_line_or_reads_the_same(
    run: Path, tmp_path: Path
) -> None:
    whole, generator = open_run(run), random.Random(0)
    for number in range(60):
        copy = tmp_path / str(number)
        shutil.copytree(run, copy)
        file = copy / generator.choice(["run.json", "samples.jsonl"])
        data = bytearray(file.read_bytes())
        at, length = generator.randrange(len(data)), generator.randrange(1, 40)
        damage = generator.choice(
            [b"", data[at : at + length] * 2, bytes(generator.randbytes(length)), b"9" * length,
             b"-1", b"NaN", b'"x"', b"null", b"[" * 5000, b"\\ud800"]
        )  # fmt: skip
        data[at : at + length] = damage
        file.write_bytes(data)
        try:
            found = open_run(copy)
        except UserError as error:
            assert "\n" not in str(error) and file.name in str(error)
        else:
            assert (found.columns, found.meta) == (whole.columns, whole.meta)


def test_missing_samples_are_named(run: Path) -> None:
    (run / "samples.jsonl").unlink()
    with pytest.raises(UserError, match=r"cannot read .*samples\.jsonl: No such file"):
        open_run(run)


def test_a_run_whose_samples_are_missing_is_not_resumed(run: Path, meta: dict[str, Any]) -> None:
    (run / "samples.jsonl").unlink()
    with pytest.raises(UserError, match=r"samples\.jsonl is missing; restore it"):
        RunWriter.resume(run, meta["configuration"])
    assert not (run / "samples.jsonl").exists()


def test_a_run_of_an_older_schema_is_refused(run: Path) -> None:
    write_meta(run, {**read_meta(run), "schema_version": 1})
    with pytest.raises(UserError, match="schema version 1 is older than this Retbench reads"):
        open_run(run)


# Cells that took turns.

LABELS = ("retnet", "transformer", "gqa")


def in_turns(batch: Batch, block: int, **last: Any) -> list[list[dict[str, Any]]]:
    """The batches of one point of three contenders; the status row of each with ``last``."""
    batches = [batch(block=block, model=label) for label in LABELS]
    return [[*rows, ending | last] for *rows, ending in batches]


@pytest.fixture
def shared(tmp_path: Path, meta: dict[str, Any], batch: Batch) -> Path:
    """A run of two blocks of three contenders that took turns."""
    path = tmp_path / "run"
    with RunWriter.create(path, meta) as writer:
        for block in range(2):
            writer.append(*in_turns(batch, block))
        assert len(writer.done) == 6
    return path


def test_cells_that_took_turns_are_committed_together(shared: Path) -> None:
    assert [label for _, label, _ in open_run(shared).endings] == [*LABELS, *LABELS]


def test_of_cells_that_are_committed_together_a_bad_one_keeps_all_out(
    shared: Path, meta: dict[str, Any], batch: Batch
) -> None:
    before = snapshot(shared)
    bad = in_turns(batch, 2)
    bad[2] = bad[2][:-1]  # no status row
    with RunWriter.resume(shared, meta["configuration"], 3) as writer:
        for batches, problem in ((bad, "one status row"), (in_turns(batch, 1), "before")):
            with pytest.raises(ValueError, match=problem):
                writer.append(*batches)
    assert snapshot(shared) == before


@pytest.mark.parametrize("cells", [3, 4, 5, 6])
def test_a_part_of_cells_that_took_turns_is_set_aside(
    shared: Path, meta: dict[str, Any], cells: int
) -> None:
    lines = lines_of(shared)
    set_lines(shared, lines[: 3 * cells], state="running")
    kept = cells // 3 * 3
    with RunWriter.resume(shared, meta["configuration"], 3) as writer:
        assert len(writer.done) == kept
    assert lines_of(shared) == lines[: 3 * kept]
    cut = shared / "samples.jsonl.cut"
    assert (cut.read_bytes() if kept < cells else b"") == b"".join(lines[3 * kept : 3 * cells])


def test_a_part_is_set_aside_with_the_half_cell_behind_it(
    shared: Path, meta: dict[str, Any]
) -> None:
    lines = lines_of(shared)
    set_lines(shared, [*lines[:13], lines[13][:20]], state="running")
    with RunWriter.resume(shared, meta["configuration"], 3) as writer:
        assert len(writer.done) == 3
    assert (shared / "samples.jsonl.cut").read_bytes() == b"".join(lines[9:13]) + lines[13][:20]


def test_cells_that_were_measured_alone_are_kept_one_by_one(
    tmp_path: Path, meta: dict[str, Any], batch: Batch
) -> None:
    with RunWriter.create(tmp_path / "run", meta) as writer:
        for rows in in_turns(batch, 0, flags=["alone"])[:2]:
            writer.append(rows)
    with RunWriter.resume(tmp_path / "run", meta["configuration"], 3) as writer:
        assert len(writer.done) == 2
    assert not (tmp_path / "run" / "samples.jsonl.cut").exists()


# A run that was killed.


def test_a_killed_run_with_whole_cells_opens(run: Path) -> None:
    set_lines(run, lines_of(run)[:6], state="running")
    assert len(open_run(run).statuses()) == 2


def test_a_killed_run_with_half_a_cell_names_the_way_on(run: Path) -> None:
    set_lines(run, lines_of(run)[:5], state="running")
    with pytest.raises(UserError, match=r"samples\.jsonl:4: .*run --resume --out"):
        open_run(run)


def test_resume_keeps_half_a_cell_beside_the_samples(run: Path, meta: dict[str, Any]) -> None:
    lines = lines_of(run)
    set_lines(run, [*lines[:4], lines[4][:30]], state="running")
    with RunWriter.resume(run, meta["configuration"]) as writer:
        assert {block for block, _, _ in writer.done} == {0}
    assert lines_of(run) == lines[:3]
    assert (run / "samples.jsonl.cut").read_bytes() == lines[3] + lines[4][:30]


def test_what_was_set_aside_before_is_kept(run: Path, meta: dict[str, Any]) -> None:
    (run / "samples.jsonl.cut").write_bytes(b"earlier\n")
    lines = lines_of(run)
    set_lines(run, lines[:4], state="running")
    RunWriter.resume(run, meta["configuration"]).close()
    assert (run / "samples.jsonl.cut").read_bytes() == b"earlier\n" + lines[3]


def test_a_resumed_run_is_no_longer_recorded_as_complete(
    run: Path, meta: dict[str, Any], batch: Batch
) -> None:
    with RunWriter.resume(run, meta["configuration"]) as writer:
        writer.append(batch(block=3))
    assert open_run(run).meta["state"] == "running"
    assert len(open_run(run).statuses()) == 4


BATCHES = st.lists(st.integers(min_value=0, max_value=4), min_size=1, max_size=4)


@given(trials=BATCHES, data=st.data())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_cut_at_any_byte_leaves_the_committed_prefix(
    tmp_path_factory: pytest.TempPathFactory,
    meta: dict[str, Any],
    batch: Batch,
    trials: list[int],
    data: st.DataObject,
) -> None:
    run = tmp_path_factory.mktemp("cut") / "run"
    ends = [0]
    with RunWriter.create(run, meta) as writer:
        for block, count in enumerate(trials):
            writer.append(batch(count, block=block))
            ends.append((run / "samples.jsonl").stat().st_size)
    whole = (run / "samples.jsonl").read_bytes()
    cut = data.draw(st.integers(min_value=0, max_value=len(whole)), label="cut")
    (run / "samples.jsonl").write_bytes(whole[:cut])
    committed = max(end for end in ends if end <= cut)

    with RunWriter.resume(run, meta["configuration"]) as writer:
        assert {block for block, _, _ in writer.done} == set(range(ends.index(committed)))
        for block, count in enumerate(trials):
            if block not in {done for done, _, _ in writer.done}:
                writer.append(batch(count, block=block))

    assert (run / "samples.jsonl").read_bytes() == whole
    kept = run / "samples.jsonl.cut"
    assert (kept.read_bytes() if kept.exists() else b"") == whole[committed:cut]
