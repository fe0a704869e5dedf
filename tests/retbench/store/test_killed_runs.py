"""What a kill leaves of a run: whole cells, and those that took turns all or none."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retbench.errors import UserError
from retbench.store import RunWriter, open_run

from .run_files import Batch, lines_of, set_lines, snapshot

# Cells that took turns.

LABELS = ("retnet", "transformer", "gqa")


def in_turns(batch: Batch, block: int, **last: Any) -> list[list[dict[str, Any]]]:
    """The batches of one point of three contenders; the status row of each with ``last``."""
    batches = [batch(block=block, model=label) for label in LABELS]
    return [[*rows, ending | last] for *rows, ending in batches]


@pytest.fixture
def meta(meta: dict[str, Any]) -> dict[str, Any]:
    """That of a run of three contenders."""
    contenders = [{"label": label, "family": "retnet", "options": {}} for label in LABELS]
    return meta | {"plan": meta["plan"] | {"contenders": contenders}}


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


@pytest.mark.parametrize("tail", [b"\0" * 4096, b"\0" * 80 + b"\n", b"{}\n{"])
def test_whatever_a_crash_leaves_behind_the_last_cell_is_set_aside(
    run: Path, meta: dict[str, Any], tail: bytes
) -> None:
    set_lines(run, [*lines_of(run), tail], state="running")
    with RunWriter.resume(run, meta["configuration"]) as writer:
        assert len(writer.done) == 3
    assert (run / "samples.jsonl.cut").read_bytes() == tail


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
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
