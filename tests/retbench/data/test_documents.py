"""Texts from anywhere: what is found, in which order, and what is wrong with it."""

from __future__ import annotations

import gzip
import itertools
import json
import lzma
from pathlib import Path

import pytest

from retbench.data import documents
from retbench.data.documents import read_documents
from retbench.errors import UserError


def names(source: str | None) -> list[str]:
    return [document.name for document in read_documents(source)]


def test_without_a_source_there_is_the_embedded_text() -> None:
    (document,) = read_documents(None)
    assert document.text.startswith("BERNARDO\nWho's there?")


def test_a_folder_gives_its_texts_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.txt", "a.md", "sub/c.txt", ".hidden.txt", "picture.png"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(name)
    assert names(str(tmp_path)) == ["a.md", "b.txt", "c.txt"]
    assert names(str(tmp_path / "*.txt")) == ["b.txt"]
    assert names(str(tmp_path / "**" / "*.txt")) == ["b.txt", "c.txt"]


@pytest.mark.parametrize(("suffix", "pack"), [("", bytes), (".gz", gzip.compress),
                                              (".xz", lzma.compress)])  # fmt: skip
def test_a_text_may_be_packed(tmp_path: Path, suffix: str, pack: object) -> None:
    file = tmp_path / f"text.txt{suffix}"
    file.write_bytes(pack("\ufeffGrüße\n".encode()))  # type: ignore[operator]
    (document,) = read_documents(str(file))
    assert document.text == "Grüße\n"


@pytest.mark.parametrize(("suffix", "pack"), [("", bytes), (".gz", gzip.compress),
                                              (".xz", lzma.compress)])  # fmt: skip
def test_a_jsonl_has_a_document_a_line(tmp_path: Path, suffix: str, pack: object) -> None:
    file = tmp_path / f"docs.jsonl{suffix}"
    lines = [json.dumps({"text": "one"}), "", json.dumps({"id": 2, "text": "zwei ü"})]
    file.write_bytes(pack("\ufeff".encode() + "\n".join(lines).encode()))  # type: ignore[operator]
    assert [document.text for document in read_documents(str(file))] == ["one", "zwei ü"]
    assert names(str(file)) == [f"{file.name}:1", f"{file.name}:3"]


def test_a_long_text_comes_in_pieces_cut_between_words_on_two_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "PIECE_BYTES", 64)
    text = "".join(f"line {n}\n" + ("\n" if n % 7 == 0 else "") for n in range(200))
    file = tmp_path / "text.txt"
    file.write_text(text)
    (document,) = read_documents(str(file))
    pieces = list(document.pieces())
    assert "".join(pieces) == text
    assert len(pieces) > 10
    for before, after in itertools.pairwise(pieces):
        assert before[-1] == "\n" and not before[-2].isspace() and not after[0].isspace()


def test_a_line_without_end_is_cut_between_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "PIECE_BYTES", 64)
    file = tmp_path / "text.txt"
    file.write_text("€" * 500)
    (document,) = read_documents(str(file))
    assert document.text == "€" * 500


@pytest.mark.parametrize("before", ["", "good line\n" * 30])
def test_bytes_that_are_no_text_are_named_with_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    monkeypatch.setattr(documents, "PIECE_BYTES", 64)
    file = tmp_path / "text.txt"
    file.write_bytes(before.encode() + b"abc\xffdef\n")
    with pytest.raises(UserError, match=rf"text.txt is not UTF-8 text: byte {len(before) + 3} "):
        list(next(read_documents(str(file))).pieces())


def _corrupt(packed: bytes) -> bytes:
    """A gzip whose header is sound, and whose stream is none from its first byte on."""
    return packed[:10] + b"\xff" * 8 + packed[18:]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"body": "y"}\n', "a.jsonl:2: it has no text in the field"),
        ("a.jsonl", b'{"text": "x"}\nnot json\n', "a.jsonl:2: not JSON"),
        ("a.txt.gz", b"not gzip", "a.txt.gz is damaged"),
        ("a.txt.gz", gzip.compress(b"x" * 5000, mtime=0)[:-12], "a.txt.gz is damaged"),
        (
            "a.txt.gz",
            _corrupt(gzip.compress(b"to be or not to be" * 99, mtime=0)),
            "a.txt.gz is da",
        ),
        (
            "a.jsonl",
            b'{"text": "x"}\n{"text": "two\\ud800"}\n',
            r"a.jsonl:2: character 3 .* \\ud800",
        ),
        ("a.txt.xz", b"not xz at all", "a.txt.xz is damaged"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        for document in read_documents(str(tmp_path / name)):
            list(document.pieces())


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("nowhere.txt", "there is no file or folder nowhere.txt"),
        ("nothing-*.txt", "no file matches nothing"),
        ("empty", "the folder empty holds no text"),
    ],
)
def test_a_source_without_texts_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=said):
        names(source)


def test_a_data_set_of_the_hub_says_which_package_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(UserError, match="needs the package datasets; pip install"):
        names("hf:wikitext:wikitext-2-raw-v1")
