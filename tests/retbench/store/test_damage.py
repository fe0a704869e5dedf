"""Damage to a run is named by file and line."""

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from retbench.errors import UserError
from retbench.metrics import SCHEMA_VERSION
from retbench.store import RunWriter, journal, merge, open_run, read_meta, write_meta
from retbench.store.files import write_text

from .run_files import Batch, lines_of, set_lines, snapshot


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


@pytest.mark.parametrize("state", ["finished", "interrupted", "running"])
@pytest.mark.parametrize(
    "other",
    [{"preset": "1m"}, {"model": "gqa"}, {"point": "context=64,batch=1"}, {"dtype": "bfloat16"}],
)
def test_a_cell_of_another_run_is_named(
    run: Path, meta: dict[str, Any], batch: Batch, other: dict[str, str], state: str
) -> None:
    set_lines(run, [*lines_of(run)[3:], journal.encode(batch(**other))], state=state)
    for attempt in (open_run, lambda run: RunWriter.resume(run, meta["configuration"])):
        with pytest.raises(UserError, match=r"block 0's .* is of another run: run.json plans none"):
            attempt(run)


def test_an_interrupted_run_is_not_continued_with_other_cells_than_it_had(
    run: Path, meta: dict[str, Any], batch: Batch
) -> None:
    write_meta(run, {**read_meta(run), "state": "interrupted"})
    others = [journal.encode(batch(block=block, value=0.5)) for block in range(3)]
    (run / "samples.jsonl").write_bytes(b"".join(others))
    with pytest.raises(UserError, match=r"samples\.jsonl: changed since the run ended"):
        RunWriter.resume(run, meta["configuration"])
    (run / "samples.jsonl").write_bytes(b"".join(others[:2]))  # which tells nothing of the third
    RunWriter.resume(run, meta["configuration"]).close()


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


def test_a_pipe_in_place_of_a_file_is_named_and_not_waited_for(
    run: Path, meta: dict[str, Any]
) -> None:
    set_lines(run, [*lines_of(run), b"cut"], state="running")
    os.mkfifo(run / "samples.jsonl.cut")
    with pytest.raises(UserError, match=r"cannot write .*jsonl\.cut: not a regular file"):
        RunWriter.resume(run, meta["configuration"])
    (run / "samples.jsonl").unlink()
    os.mkfifo(run / "samples.jsonl")
    for attempt in (
        open_run,
        lambda run: RunWriter.resume(run, meta["configuration"]),
        lambda run: merge._size_bytes(run / "samples.jsonl"),  # of a part
    ):
        with pytest.raises(UserError, match=r"cannot read .*samples\.jsonl: not a regular file"):
            attempt(run)
    os.mkfifo(run / "run.json.tmp")
    with pytest.raises(UserError, match=r"cannot write .*run\.json: not a regular file"):
        write_meta(run, read_meta(run))
    os.mkfifo(run / "numbers.tex.new")
    with pytest.raises(OSError, match="not a regular file"):
        write_text(run / "numbers.tex", "")


def test_a_run_whose_samples_are_missing_is_not_resumed(run: Path, meta: dict[str, Any]) -> None:
    (run / "samples.jsonl").unlink()
    with pytest.raises(UserError, match=r"samples\.jsonl is missing; restore it"):
        RunWriter.resume(run, meta["configuration"])
    assert not (run / "samples.jsonl").exists()


def test_a_run_of_an_older_schema_is_refused(run: Path) -> None:
    write_meta(run, {**read_meta(run), "schema_version": 1})
    with pytest.raises(UserError, match="schema version 1 is older than this Retbench reads"):
        open_run(run)
