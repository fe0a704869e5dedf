import mmap
import os
from pathlib import Path

import pytest

from retbench.machine import pages
from retbench.machine.pages import ScatteredPages, freed_bytes, scattered_bytes

PAGE = mmap.PAGESIZE
NODES = """\
Node 0, zone      DMA      0      0      0      0      0      0      0      0      1      1      3
Node 0, zone   Normal      5      1      0      2      0      1      7      0      0      0      9
Node 1, zone   Normal      3      0      0      0      0      0      0      0      0      0      9
"""
ZONES = """\
Node 0, zone   Normal
  pages free     5003333
  pagesets
    cpu: 0
              count:    3
              high:     6
    cpu: 1
              count:    7
              high:     6
  start_pfn:           1
Node 1, zone   Normal
  pagesets
    cpu: 1
              count:    4
"""


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pages, "MOST_BYTES", 2**20)
    (tmp_path / "buddyinfo").write_text(NODES)
    (tmp_path / "zoneinfo").write_text(ZONES)
    return tmp_path


@pytest.mark.skipif(PAGE != 4096, reason="counts pages of 4 KiB")
def test_small_pieces_of_all_nodes_are_scattered(proc: Path) -> None:
    assert scattered_bytes(proc / "buddyinfo") == (5 + 2 * 1 + 8 * 2 + 32 * 1 + 3) * PAGE


def test_pages_freed_on_a_processor_are_those_of_all_zones(proc: Path) -> None:
    assert freed_bytes(proc / "zoneinfo") == {0: 3 * PAGE, 1: 11 * PAGE}


@pytest.mark.parametrize("text", [None, "", "nonsense\n"])
def test_where_the_kernel_does_not_tell_nothing_is_held(tmp_path: Path, text: str | None) -> None:
    for name in ("buddyinfo", "zoneinfo"):
        if text is not None:
            (tmp_path / name).write_text(text)
    with ScatteredPages(proc=tmp_path) as scattered:
        scattered.take()
        assert scattered.held_bytes == 0


@pytest.mark.parametrize(("cpus", "freed"), [((), 14), ((1,), 11), ((0, 1), 14), ((7,), 0)])
def test_what_is_scattered_is_held_on_the_processors_named_and_given_back(
    proc: Path, cpus: tuple[int, ...], freed: int
) -> None:
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    with ScatteredPages(cpus, proc) as scattered:
        scattered.take()
        assert scattered.held_bytes == scattered_bytes(proc / "buddyinfo") + freed * PAGE
    assert scattered.held_bytes == 0
    if before is not None:
        assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(
    ("room", "needed", "most"),
    [(40 * PAGE, 0.0, 10 * PAGE), (None, 0.0, 0), (10**15, 0.0, 12 * PAGE),
     (40 * PAGE, 35.5 * PAGE, 4 * PAGE), (40 * PAGE, 50.0 * PAGE, 0)],
)  # fmt: skip
def test_no_more_is_held_than_a_share_of_what_is_available(
    proc: Path, monkeypatch: pytest.MonkeyPatch, room: int | None, needed: float, most: int
) -> None:
    (proc / "buddyinfo").write_text("Node 0, zone Normal " + "100 " * 11)
    monkeypatch.setattr(pages, "MOST_BYTES", 12 * PAGE)
    with ScatteredPages(proc=proc) as scattered:
        left = lambda: None if room is None else room - scattered.held_bytes  # noqa: E731
        monkeypatch.setattr(pages, "available_memory_bytes", left)
        for _ in range(2):
            scattered.take(needed)
            assert scattered.held_bytes == most


def test_a_process_that_may_have_no_more_memory_holds_none(
    proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(pages.mmap, "mmap", refused)
    with ScatteredPages(proc=proc) as scattered:
        scattered.take()
        assert scattered.held_bytes == 0
