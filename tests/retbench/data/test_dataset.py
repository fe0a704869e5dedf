"""A text is split so that nothing leaks, encoded once, and never half."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retbench.data import dataset, split, unpacking
from retbench.data.corpus import plays
from retbench.data.dataset import load_dataset, require_windows
from retbench.data.split import SPLITS
from retbench.errors import UserError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETBENCH_CACHE", str(tmp_path / "cache"))
    forget()


def forget() -> None:
    """What a fresh process knows: nothing."""
    for remembered in (dataset.cache_folder, load_dataset, split._read):
        remembered.cache_clear()


def text_of(part: dataset.Split) -> str:
    return part.tokenizer.decode(part.tokens)


def text_of_documents(part: dataset.Split) -> list[str]:
    return [part.tokenizer.decode(tokens) for tokens in np.split(part.tokens, part.ends[:-1])]


def many(folder: Path, count: int) -> str:
    folder.mkdir()
    for n in range(count):
        (folder / f"{n:03}.txt").write_text(f"document {n} " * 20)
    return str(folder)


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_each_of_few_texts_is_split_by_contiguous_ranges() -> None:
    found = load_dataset(None, "char")
    sizes = [len(getattr(found, name).tokens) for name in SPLITS]
    assert sum(sizes) == 1_202_375
    assert sizes[0] / sum(sizes) == pytest.approx(0.9, abs=0.001)
    assert sizes[1] / sizes[2] == pytest.approx(1, abs=0.01)
    # What published runs were trained and tested on, to the token.
    assert sizes == [1_082_338, 60_063, 59_974]
    assert found.sha256 == "7c8e1e07f5d0ba8e52301c9a842bd02a856d1ad4c912095a3a6da39782aac0db"
    parts = [text_of_documents(getattr(found, name)) for name in SPLITS]
    assert ["".join(ranges) for ranges in zip(*parts, strict=True)] == list(plays().values())
    assert found.by_ranges


def test_many_documents_are_split_as_wholes_whatever_stands_beside_them(tmp_path: Path) -> None:
    source = many(tmp_path / "docs", 60)
    found = load_dataset(source, "byte")
    homes = {
        document: name
        for name in SPLITS
        for document in text_of(getattr(found, name)).split("document ")[1::20]
    }
    assert len(homes) == 60
    assert set(homes.values()) == set(SPLITS)
    (tmp_path / "docs" / "000a.txt").write_text("another one " * 20)
    forget()
    again = load_dataset(source, "byte")
    moved = [
        document
        for name in SPLITS
        for document in text_of(getattr(again, name)).split("document ")[1::20]
        if homes[document] != name
    ]
    assert moved == []


def test_equal_documents_never_lie_in_two_splits(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for n in range(40):
        (folder / f"{n}.txt").write_text(f"text {n % 8} " * 9)
    found = load_dataset(str(folder), "byte")
    words = [set(text_of(getattr(found, name)).split()[1::2]) for name in SPLITS]
    assert not words[0] & words[1] and not words[0] & words[2] and not words[1] & words[2]
    assert all(words)


def test_documents_that_are_nearly_all_equal_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "same.jsonl"
    file.write_text('{"text": "to be"}\n' * 25)
    with pytest.raises(UserError, match=r"only 1 of the 25 documents of .*same.jsonl differ"):
        load_dataset(str(file), "byte")


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_text_of_one_line_is_cut_between_characters(tmp_path: Path, end: str) -> None:
    text = "to be or not — " * 1000 + end
    (tmp_path / "line.txt").write_text(text)
    found = load_dataset(str(tmp_path / "line.txt"), "byte")
    assert "".join(text_of(getattr(found, name)) for name in SPLITS) == text
    shares = [len(getattr(found, name).tokens) / len(text.encode()) for name in SPLITS]
    assert shares == pytest.approx([0.9, 0.05, 0.05], abs=0.001)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\u2028"])
def test_a_text_of_lines_is_cut_behind_one(tmp_path: Path, end: str) -> None:
    (tmp_path / "lines.txt").write_bytes(f"to be or not to be{end}".encode() * 1000)
    found = load_dataset(str(tmp_path / "lines.txt"), "byte")
    assert all(text_of(getattr(found, name)).endswith(f"be{end}") for name in SPLITS)


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_where_a_text_is_split_does_not_depend_on_its_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    file = tmp_path / "lines.txt"
    file.write_bytes(f"to be or not to be — {end}".encode() * 300)
    whole = [text_of(getattr(load_dataset(str(file), "byte"), name)) for name in SPLITS]
    for block in (7, 64, 1000):
        monkeypatch.setattr(unpacking, "BLOCK_BYTES", block)
        monkeypatch.setenv("RETBENCH_CACHE", str(tmp_path / f"cache-{block}"))
        forget()
        parts = [text_of(getattr(load_dataset(str(file), "byte"), name)) for name in SPLITS]
        assert parts == whole


def test_a_cache_that_cannot_be_anywhere_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.delenv("RETBENCH_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"no folder for encoded texts: .*; let RETBENCH"):
        dataset.cache_folder()


def test_the_tokens_of_a_part_are_those_of_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "BLOCK_BYTES", 1000)
    (tmp_path / "lines.txt").write_bytes(b"to be, or not\r\n  to be!\r\n\r\n" * 300)
    found = load_dataset(str(tmp_path / "lines.txt"), "gpt2")
    for part in (getattr(found, name) for name in SPLITS):
        assert np.array_equal(part.tokens, part.tokenizer.encode(text_of(part)))


def test_a_text_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_dataset(None, "bpe:300")
    forget()
    monkeypatch.setattr(dataset, "encode", lambda *_: pytest.fail("encoded again"))
    again = load_dataset(None, "bpe:300")
    assert again.sha256 == first.sha256
    assert again.to_json() == first.to_json()
    assert isinstance(again.train.tokens, np.memmap)


def test_a_cache_in_which_nothing_can_be_kept_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "data").write_text("a file")
    with pytest.raises(UserError, match=r"cannot keep the encoded text in .*data: .*RETBENCH_CAC"):
        load_dataset(None, "byte")


@pytest.mark.parametrize("name", ["train.bin", "manifest.json"])
def test_an_encoded_text_that_has_changed_is_encoded_anew(name: str) -> None:
    first = load_dataset(None, "byte").train.tokens.tolist()
    (file,) = (dataset.cache_folder() / "data").glob(f"*/{name}")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    forget()
    assert load_dataset(None, "byte").train.tokens.tolist() == first


def test_a_cache_below_home_may_be_named_by_a_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RETBENCH_CACHE", "~/mine")
    assert dataset.cache_folder() == tmp_path / "mine"
    dataset.cache_folder.cache_clear()
    monkeypatch.delenv("RETBENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert dataset.cache_folder() == tmp_path / ".cache" / "retbench"


def test_without_a_home_a_temporary_folder_is_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RETBENCH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", str)  # neither HOME nor an entry among the users
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert dataset.cache_folder() == tmp_path / f"retbench-{os.getuid()}"
    forget()


ROWS = [json.dumps({"text": f"document {n} " * 9}) for n in range(30)]
LINES = [f"line {n}" for n in range(99)]


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("live.jsonl", ROWS, [*ROWS, ROWS[0]]),
        ("live.jsonl", ROWS, ROWS[:-1]),
        ("live.jsonl", ROWS, [*ROWS[1:], ROWS[0]]),
        ("few.jsonl", ROWS[:5], ROWS[:6]),
        ("one.txt", LINES, LINES[::-1]),
        ("one.txt", LINES, [*LINES, "and more"]),
    ],
)
def test_a_text_that_changes_while_it_is_read_is_refused_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, before: list[str], after: list[str]
) -> None:
    file = tmp_path / name
    file.write_text("\n".join(before))

    encode = dataset.encode

    def late(*given: Any) -> None:
        file.write_text("\n".join(after))
        encode(*given)

    monkeypatch.setattr(dataset, "encode", late)
    with pytest.raises(UserError, match=rf"{name}.* changed while it was read; try again when"):
        load_dataset(str(file), "byte")
    assert files_in(tmp_path / "cache") == []


def test_a_file_that_goes_before_it_is_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split, "files_of", lambda source: [tmp_path / "gone.txt"])
    with pytest.raises(UserError, match=r"data: cannot read .*gone.txt: No such file"):
        load_dataset(str(tmp_path), "byte")


def test_another_text_or_another_tokenizer_is_another_data_set(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("to be or not to be\n" * 50)
    first = load_dataset(str(file), "char").sha256
    assert load_dataset(str(file), "byte").sha256 != first
    file.write_text("to be or not to bee\n" * 50)
    forget()
    assert load_dataset(str(file), "char").sha256 != first


def test_a_cache_that_holds_another_text_is_made_again(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text(f"{name} " * 500)
    first = load_dataset(str(tmp_path / "one.txt"), "byte").sha256
    kept = {file.parent for file in files_in(tmp_path / "cache")}
    second = load_dataset(str(tmp_path / "two.txt"), "byte").sha256
    (one,) = kept
    (two,) = {file.parent for file in files_in(tmp_path / "cache")} - kept
    shutil.copytree(one, two, dirs_exist_ok=True)
    forget()
    assert load_dataset(str(tmp_path / "two.txt"), "byte").sha256 == second != first


def test_a_damaged_cache_is_made_again(tmp_path: Path) -> None:
    first = load_dataset(None, "byte")
    (train,) = [file for file in files_in(tmp_path / "cache") if file.name == "train.bin"]
    train.write_bytes(b"short")
    forget()
    assert load_dataset(None, "byte").sha256 == first.sha256
    train.unlink()
    os.mkfifo(train)  # which would be waited for
    forget()
    assert load_dataset(None, "byte").sha256 == first.sha256


def _load(folder: str, start: object, found: object) -> None:
    import os

    os.environ["RETBENCH_CACHE"] = folder
    start.wait()  # type: ignore[attr-defined]
    found.put(load_dataset(None, "char").sha256)  # type: ignore[attr-defined]


def test_processes_that_race_agree_and_leave_nothing_behind(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start, found = context.Event(), context.Queue()
    folder = str(tmp_path / "cache")
    racers = [context.Process(target=_load, args=(folder, start, found)) for _ in range(3)]
    for racer in racers:
        racer.start()
    start.set()
    digests = {found.get(timeout=60) for _ in racers}
    for racer in racers:
        racer.join(60)
    assert len(digests) == 1
    assert [
        entry.name for entry in (tmp_path / "cache" / "data").iterdir() if "." in entry.name
    ] == []


def test_a_full_disk_is_an_error_that_leaves_nothing_half_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(dataset, "_write", full)
    with pytest.raises(UserError, match="No space left on device; make room, or let RETBENCH_C"):
        load_dataset(None, "byte")
    assert files_in(tmp_path / "cache") == []


def test_an_empty_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(UserError, match=r"empty.txt is empty"):
        load_dataset(str(tmp_path / "empty.txt"), "char")


def test_a_text_shorter_than_a_window_says_which_split(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("a few words\n" * 100)
    found = load_dataset(str(tmp_path / "short.txt"), "byte")
    require_windows(found, 16)
    with pytest.raises(UserError, match=r"the dev split of short.txt has \d+ tokens, less than"):
        require_windows(found, 512)


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RETBENCH_CACHE", str(tmp_path / "file" / "below"))
    forget()
    with pytest.raises(UserError, match="RETBENCH_CACHE: cannot write"):
        load_dataset(None, "byte")


def test_the_documents_of_a_test_cover_a_single_text_once(tmp_path: Path) -> None:
    part = written(tmp_path, [2000])
    found = part.documents(at_most=8, least=100).parts
    assert len(found) == 8
    assert np.array_equal(np.concatenate([tokens for tokens, _ in found]), part.tokens)
    tokens, size = found[0]
    assert size == len(part.tokenizer.decode_bytes(tokens[1:]))


def test_a_document_is_no_shorter_and_no_longer_than_asked() -> None:
    found = load_dataset(None, "gpt2").test.documents(at_most=32, least=1500, longest=2100)
    assert [len(tokens) for tokens, _ in found.parts] == [2100, 2100, 2100, 1948, 1748, 2100, 2100]


def written(folder: Path, lengths: list[int]) -> dataset.Split:
    """A split, the test of documents of so many bytes each a token; all with other letters."""
    parts = [bytes([97 + n % 26]) * length for n, length in enumerate(lengths)]
    tokenizer = load_dataset(None, "byte").tokenizer
    tokens = np.frombuffer(b"".join(parts), dtype=np.uint8).astype(np.uint16)
    return dataset.Split(tokens, np.cumsum(lengths), np.array(lengths), tokenizer)


@pytest.mark.parametrize("lengths", [[200] * 40, [200] * 39 + [6000], [40] * 200 + [500] * 3])
def test_where_few_documents_are_long_enough_the_whole_split_is_cut(
    tmp_path: Path, lengths: list[int]
) -> None:
    part = written(tmp_path, lengths)
    found = part.documents(at_most=16, least=300).parts
    assert np.array_equal(np.concatenate([tokens for tokens, _ in found]), part.tokens)
    assert len(found) == 16
    assert min(len(tokens) for tokens, _ in found) >= 300


def test_several_documents_that_are_long_enough_are_taken_as_wholes_fewer_are_cut(
    tmp_path: Path,
) -> None:
    found = written(tmp_path, [100, 700, 100, 400, 500, 300]).documents(at_most=16, least=300)
    assert [len(tokens) for tokens, _ in found.parts] == [700, 400, 500, 300]
    assert found.whole
    few = written(tmp_path, [700, 650]).documents(at_most=4, least=300)  # nothing is left out
    assert [len(tokens) for tokens, _ in few.parts] == [350, 350, 650]
    assert not few.whole


def test_a_split_that_is_too_short_as_a_whole_has_no_documents(tmp_path: Path) -> None:
    assert written(tmp_path, [100, 100]).documents(least=300).parts == []
