"""Rows of JSON and CSV: which there are, and the text in each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retbench.data import documents
from retbench.data.documents import read_documents
from retbench.errors import UserError

from .texts import PACKING

ROWS = [{"text": "one"}, {"id": 2, "text": "zwei ü\n"}]
TABLES = {
    "a.jsonl": "\ufeff" + "\n\n".join(map(json.dumps, ROWS)),
    "a.JSONL.gz": "\r\n".join(map(json.dumps, ROWS)),
    "a.ndjson": "\n".join(json.dumps(row, indent=1) for row in ROWS),
    "one-then-several-lines.jsonl": "\n".join(
        json.dumps(row, indent=nth or None) for nth, row in enumerate(ROWS)
    ),
    "a.json": json.dumps(ROWS),
    "a.Json.xz": json.dumps(ROWS, indent=2),
    "strings.json": json.dumps([row["text"] for row in ROWS]),
    "told-by-content.txt": json.dumps(ROWS, indent=2),
    "told-by-content": "\n".join(map(json.dumps, ROWS)),
    "strings.txt": json.dumps([row["text"] for row in ROWS]),
    "a.csv": 'id,text\n1,one\n2, "zwei ü\n"\n',
    "a.CSV.bz2": 'text;id\r\none;1\r\n"zwei ü\n";2\r\n',
    "a.tsv": 'id\ttext\n1\tone\n2\t"zwei ü\n"\n',
    "a.TAB": 'id\ttext\n1\tone\n2\t"zwei ü\n"\n',
    "csv.txt": '"id","text"\r\n1,one\r\n2,"zwei ü\n"\r\n',
    "tsv.txt.gz": '\ufeffid\ttext\n1\tone\n2\t"zwei ü\n"\n',
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_a_document_a_row(tmp_path: Path, name: str) -> None:
    pack = PACKING.get(Path(name).suffix, bytes)
    (tmp_path / name).write_bytes(pack(TABLES[name].encode()))
    assert ["".join(document.pieces()) for document in read_documents(str(tmp_path / name))] == [
        row["text"] for row in ROWS
    ]


def test_in_tsv_a_tab_is_what_separates_even_where_there_is_one_column(tmp_path: Path) -> None:
    found = found_in(tmp_path / "a.tsv", "text\nto be, or not\nto be; that, is\n")
    assert found == ["to be, or not", "to be; that, is"]


def found_in(file: Path, text: str) -> list[str]:
    file.write_text(text)
    return ["".join(document.pieces()) for document in read_documents(str(file))]


def test_the_blanks_of_a_field_are_its_own_but_for_those_before_a_quote(tmp_path: Path) -> None:
    rows = ["    return x", ' said, "no"\n , "so, "', "", "   ", 'a "b" , c']
    written = [rows[0], '  "' + rows[1].replace('"', '""') + '"', "", "   ", ' "a ""b"" , c"']
    table = "".join(f"{row},{nth}\n" for nth, row in enumerate(written))
    assert found_in(tmp_path / "a.csv", "text, id\n" + table) == rows
    assert found_in(tmp_path / "b.csv", ' "id", text\n' + "1,  to be\n") == ["  to be"]
    for name in ("a.tsv", "c.csv", "tsv.txt"):  # where a tab separates, every blank is
        found = found_in(tmp_path / name, 'id\ttext\n1\t  to be\n2\t "so\n')
        assert found == ["  to be", ' "so']


def test_a_row_is_named_with_its_place_and_its_text_may_have_another_key(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "x"}\n\n{"body": "y"}\n')
    (tmp_path / "b.json").write_text('[{"body": "z"}]')
    found = list(read_documents(str(tmp_path), text_key="body"))
    assert [document.name for document in found] == ["a.jsonl:1", "a.jsonl:3", "b.json:1[0]"]


def test_a_file_that_is_a_list_of_one_text_is_a_list(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text('["to be"]')
    (document,) = read_documents(str(tmp_path / "a.txt"))
    assert "".join(document.pieces()) == "to be"


def test_a_key_where_no_file_has_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.dat").write_text("id\treview\n1\tto be\n")
    (found,) = read_documents(str(tmp_path / "a.dat"), text_key="review")
    assert found.name == "a.dat:2"
    with pytest.raises(UserError, match=r"a.dat has no rows, so none with the field 'body'"):
        list(read_documents(str(tmp_path / "a.dat"), text_key="body"))


def test_a_long_row_comes_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "BLOCK_BYTES", 64)
    (tmp_path / "a.json").write_text(json.dumps({"text": "€" * 500}))
    (document,) = read_documents(str(tmp_path / "a.json"))
    pieces = list(document.pieces())
    assert "".join(pieces) == "€" * 500 and len(pieces) == 8


def test_a_list_of_long_texts_is_a_list(tmp_path: Path) -> None:
    texts = ["to be " * 2000, "or not"]
    (tmp_path / "a.txt").write_text(json.dumps(texts))
    assert ["".join(d.pieces()) for d in read_documents(str(tmp_path / "a.txt"))] == texts
