import mmap
from pathlib import Path

import pytest

from retbench.machine import pages
from retbench.machine.pages import ScatteredPages, scattered_bytes

PAGE = mmap.PAGESIZE
NODES = """\
Node 0, zone      DMA      0      0      0      0      0      0      0      0      1      1      3
Node 0, zone   Normal      5      1      0      2      0      1      7      0      0      0      9
Node 1, zone   Normal      3      0      0      0      0      0      0      0      0      0      9
"""


@pytest.fixture
def free(tmp_path: Path) -> Path:
    file = tmp_path / "buddyinfo"
    file.write_text(NODES)
    return file


@pytest.mark.skipif(PAGE != 4096, reason="counts pages of 4 KiB")
def test_small_pieces_of_all_nodes_are_scattered(free: Path) -> None:
    assert scattered_bytes(free) == (5 + 2 * 1 + 8 * 2 + 32 * 1 + 3) * PAGE


@pytest.mark.parametrize("text", [None, "", "nonsense\n"])
def test_where_the_kernel_does_not_tell_nothing_is_held(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "buddyinfo").write_text(text)
    assert scattered_bytes(tmp_path / "buddyinfo") == 0
    with ScatteredPages(tmp_path / "buddyinfo") as scattered:
        scattered.take()
        assert scattered.held_bytes == 0


def test_what_is_scattered_is_held_and_given_back(free: Path) -> None:
    with ScatteredPages(free) as scattered:
        scattered.take()
        first = scattered.held_bytes
        scattered.take()  # in a file that stays as it is, as much again
        assert (first, scattered.held_bytes) == (scattered_bytes(free), 2 * first)
    assert scattered.held_bytes == 0


@pytest.mark.parametrize(("room", "most"), [(80 * PAGE, 10 * PAGE), (None, 0), (10**15, 12 * PAGE)])
def test_no_more_is_held_than_a_share_of_what_is_available(
    free: Path, monkeypatch: pytest.MonkeyPatch, room: int | None, most: int
) -> None:
    free.write_text("Node 0, zone Normal " + "100 " * 11)
    monkeypatch.setattr(pages, "MOST_BYTES", 12 * PAGE)
    with ScatteredPages(free) as scattered:
        for held in (0, most):
            left = None if room is None else room - held
            monkeypatch.setattr(pages, "available_memory_bytes", lambda left=left: left)
            scattered.take()
            assert scattered.held_bytes == most


def test_a_process_that_may_have_no_more_memory_holds_none(
    free: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(pages.mmap, "mmap", refused)
    with ScatteredPages(free) as scattered:
        scattered.take()
        assert scattered.held_bytes == 0
