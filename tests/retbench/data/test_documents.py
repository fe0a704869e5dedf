"""Texts from anywhere: what is found, in which order, and what is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retbench.data import documents, shakespeare
from retbench.data.documents import read_documents
from retbench.errors import UserError

from .texts import names


def test_without_a_source_there_are_the_nine_embedded_plays() -> None:
    documents = {document.name: "".join(document.pieces()) for document in read_documents(None)}
    assert "".join(documents.values()) == shakespeare()
    ends = {name.partition(": ")[2]: text[-40:] for name, text in documents.items()}
    assert len(ends) == 9
    assert "Go, bid the soldiers shoot." in ends["Hamlet"]
    assert "Juliet and her Romeo." in ends["Romeo and Juliet"]
    assert "Let your indulgence set me free." in ends["The Tempest"]


def test_a_folder_gives_its_texts_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.txt", "A.MD", "sub/c.txt", ".hidden.txt", "picture.png", ".git/d.txt"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(name)
    assert names(str(tmp_path)) == ["A.MD", "b.txt", "c.txt"]
    assert names(str(tmp_path / "*.txt")) == ["b.txt"]
    assert names(str(tmp_path / "**" / "*.txt")) == ["b.txt", "c.txt"]


def test_links_are_followed_each_once(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.txt").write_text("a")
    (tmp_path / "elsewhere" / "z.txt").symlink_to(tmp_path / "elsewhere" / "a.txt")
    (tmp_path / "texts" / "there").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "round").symlink_to(tmp_path / "elsewhere")
    assert names(str(tmp_path / "texts")) == ["a.txt"]
    assert names(str(tmp_path / "elsewhere" / "**" / "*.txt")) == ["a.txt"]
    (tmp_path / "texts" / "b.txt").symlink_to(tmp_path / "not-fetched")
    for source in ("", "*.txt", "**"):
        with pytest.raises(UserError, match=r"cannot read .*b.txt: No such file"):
            names(str(tmp_path / "texts" / source))


@pytest.mark.parametrize("files", ["run.json samples.jsonl", "training.json tokenizer.json"])
def test_what_a_run_or_a_training_wrote_among_the_texts_is_none_of_them(
    tmp_path: Path, files: str
) -> None:
    (tmp_path / "model" / "checkpoints").mkdir(parents=True)
    (tmp_path / "training.json").write_text('["to be"]')
    for written in (*files.split(), "checkpoints/config.json"):
        (tmp_path / "model" / written).write_text("{}")
    assert names(str(tmp_path)) == ["training.json:1[0]"]


@pytest.mark.parametrize("source", ["", "*/*.txt", "**/*.txt", "**", "c/*"])
def test_a_folder_that_cannot_be_listed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if str(path).rstrip("/").endswith("c"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    for folder in ("b", "c"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text("to be")
    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(UserError, match=rf"data: cannot read {tmp_path}/c: Permission denied"):
        names(str(tmp_path / source))
    assert names(str(tmp_path / "b*" / "*.txt")) == ["a.txt"]


def test_a_file_that_cannot_be_looked_at_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(look: Callable[..., Any]) -> Callable[..., Any]:
        def refuse(path: Any, **how: Any) -> Any:
            if str(path).endswith("a.txt"):
                raise PermissionError(13, "Permission denied", str(path))
            return look(path, **how)

        return refuse

    (tmp_path / "a.txt").write_text("to be")
    for look in ("stat", "lstat"):
        monkeypatch.setattr(os, look, refusing(getattr(os, look)))
    assert documents.files_of(str(tmp_path)) == [tmp_path / "a.txt"]  # which reading then names
    with pytest.raises(UserError, match=r"data: cannot read .*a\.txt: Permission denied"):
        documents.files_of(f"{tmp_path.parent}/*/a.txt")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("nowhere.txt", "there is no file or folder nowhere.txt"),
        ("nothing-*.txt", "no file matches nothing"),
        ("empty", "the folder empty holds no text"),
        ("/dev/null", "/dev/null is no regular file; write its content to one first"),
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
