"""Packed files and what is no text: unpacked, or refused by what they are."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import lzma
import zipfile
import zlib
from pathlib import Path

import pytest

from retbench.data import unpacking
from retbench.data.documents import read_documents
from retbench.errors import UserError

from .texts import PACKING, names, zipped


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "data-00000-of-00001.arrow",
            b"\xff\xff\xff\xff\x78\1\0\0",
            "a table in binary, as its name",
        ),
        ("a.feather", b"ARROW1\0\0", "an Arrow table"),
        (
            "a.orc",
            b"ORC\n\x1c\0",
            "a table in binary, as its name says; write its rows as JSON lines",
        ),
        ("a.avro", b"Obj\1\4\x14avro.codec\0", "a table in binary"),
        ("a.jsonl.zstd", b"\x28\xb5\x2f\xfd\4", "packed with zstd"),
        ("a.txt.zstd", b"\x50\x2a\x4d\x18\0\0\0\0", "packed, as its name says; .* zstd -d"),
        ("a.tzst", b"\x28\xb5\x2f\xfd\4", "packed with zstd"),
        ("a.tlz", lzma.compress(b"a".ljust(257, b"\0") + b"ustar  \0", 2), "a tar archive"),
    ],
)
def test_what_a_folder_holds_beside_its_texts_is_refused_and_not_passed_over(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / "README.md").write_text("a card")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is {said}"):
        names(str(tmp_path))


def test_the_long_names_of_packings_are_known(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gzip").write_bytes(gzip.compress(b'{"text": "x"}'))
    (tmp_path / "b.csv.bzip2").write_bytes(bz2.compress(b"text\nx\n"))
    assert names(str(tmp_path)) == ["a.jsonl.gzip:1", "b.csv.bzip2:2"]


@pytest.mark.parametrize("packed", PACKING)
@pytest.mark.parametrize("told", [True, False])
def test_a_packed_text_is_unpacked_whether_or_not_its_name_says_so(
    tmp_path: Path, packed: str, told: bool
) -> None:
    file = tmp_path / (f"text.txt{packed}" if told else "text")
    file.write_bytes(PACKING[packed]("\ufeffGrüße\n".encode()))
    (document,) = read_documents(str(file))
    assert "".join(document.pieces()) == "Grüße\n"


@pytest.mark.parametrize(
    ("name", "really"),
    [
        *itertools.product(["a.txt.gz", "a.txt.bz2", "a.txt.XZ", "a.txt.lzma"], PACKING),
        *itertools.product(["a.zip"], ["", ".gz"]),
    ],
)
def test_a_name_that_tells_of_another_packing_is_not_believed(
    tmp_path: Path, name: str, really: str
) -> None:
    (tmp_path / name).write_bytes(PACKING[really](b"to be"))
    (document,) = read_documents(str(tmp_path / name))
    assert "".join(document.pieces()) == "to be"


def test_below_a_name_of_another_packing_a_table_is_a_table(tmp_path: Path) -> None:
    for packed, name in (("", "a.jsonl.gz"), (".xz", "b.jsonl.gz")):
        (tmp_path / name).write_bytes(PACKING[packed](b'{"text": "x"}\n'))
    unpacked = [f"t.csv{packed}" for packed in (".br", ".gz", ".tgz", ".zip", ".zst")]
    for name in unpacked:
        (tmp_path / name).write_text("id,text\n1,one\n")
    found = ["a.jsonl.gz:1", "b.jsonl.gz:1", *(f"{name}:2" for name in unpacked)]
    assert names(str(tmp_path)) == found
    assert names(zipped(tmp_path, {"t.csv.gz": "id,text\n1,one\n"})) == ["a.zip:t.csv.gz:2"]


@pytest.mark.parametrize(
    "text",
    [
        "<!-- a comment -->\n" * 100 + "# To be",
        "<!-- a comment -->\n" * 500 + "# To be",
        f"<!-- {'a long one ' * 500} -->\n# To be",
        "<header> to be",
        "<s> to be </s>",
        "<unk> to be, a=b",
        "<body-snatchers> or not",
        "%! to be",
        '["Epigraph"]\nTo be',
        '["To be\n", "or not to be"',
        "[To be], or {not}",
        "x" * 256 + "mustard is yellow",
        "x" * 257 + "ustar  is no word",
        "PAR1S, ville lumière",
        "ARROW1 and FEA1",
        "ORCHIDS",
        "x^2",
        "x\u06a9",
        "a < b, <i>or</i> not",
        "text, and no table",
        "text,tile\nand no row",
        "this text, or not to be\nthat, is",
        "WEBVTTs",
        "12\n12:30 --> noon",
        "Date: today\n\nMIME-Version: to be",
        "----- BEGIN -----\nto be",
    ],
)
def test_a_text_that_begins_like_markup_or_rows_is_a_text(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.md").write_text(text)
    (document,) = read_documents(str(tmp_path / "a.md"))
    assert "".join(document.pieces()) == text


def test_an_archive_gives_its_texts_in_the_order_of_their_names(tmp_path: Path) -> None:
    members = {"b.txt": "b", "d/a.jsonl": '{"text": "a"}', "__MACOSX/b.txt": "x", "c.png": "png"}
    found = read_documents(zipped(tmp_path, members))
    assert [(document.name, "".join(document.pieces())) for document in found] == [
        ("a.zip:b.txt", "b"), ("a.zip:d/a.jsonl:1", "a"),
    ]  # fmt: skip
    (document,) = read_documents(zipped(tmp_path, {"text8": "anarchism"}))
    assert "".join(document.pieces()) == "anarchism"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x28\xb5\x2f\xfd\x04", "is packed with zstd; unpack it with zstd -d"),
        (b"name.txt".ljust(257, b"\0") + b"ustar\x0000", "is a tar archive; unpack it"),
        (gzip.compress(b"x".ljust(257, b"\0") + b"ustar  \0", mtime=0), "is a tar archive"),
        (gzip.compress(gzip.compress(b"x", mtime=0), mtime=0), "is packed twice"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "is a pointer of Git LFS"),
        (b"/annex/objects/SHA256E-s5--a.txt\n", "is a pointer of git-annex"),
        (b"../.git/annex/objects/a.txt\n", "is a pointer of git-annex"),
        (b"WARC/1.0\r\nWARC-Type: conversion\r\n", "is a web archive"),
        (gzip.compress(b"WARC/1.0\r\n", mtime=0), "is a web archive"),
        (b"!<arch>\na.txt/", "is an ar archive"),
        (b'<doc id="12" url="x">\nto be\n</doc>', "is markup"),
        (b"<DOC>\n<DOCNO>1</DOCNO>\nto be", "is markup"),
        (b"<p>to be</p>", "is markup"),
        (b'<FictionBook xmlns="x">', "is markup"),
        (b'<?xml-stylesheet href="a.xsl"?>', "is markup"),
        (b'\x1e{"text": "to be"}\n', "is a JSON text sequence; delete"),
        ("\u751f\u304d\u308b".encode("iso-2022-jp"), "is ISO-2022, not UTF-8"),
        ("to be".encode("utf-32"), "is UTF-32, not UTF-8; convert it with iconv -f UTF-32"),
        (zlib.compress(b"to be or not to be"), "is packed with zlib; unpack it"),
        (zlib.compress(b"to be or not to be", 9), "is packed with zlib; unpack it"),
        (zlib.compress(b"to be or not to be", 0), "is packed with zlib; unpack it"),
        (b"PAR1\x15\x04", "is a Parquet table; write its rows as JSON lines"),
        (b"%PDF-1.7\n", "is a PDF"),
        (b"\xef\xbb\xbfWEBVTT\n\n00:01.000 --> 00:02.000\nto be", "is subtitles"),
        (b"1\r\n00:00:01,000 --> 00:00:02,000\r\nto be", "is subtitles"),
        (b"From: a@b\nSubject: to\n be\nMIME-Version: 1.0\n\nto be", "is mail"),
        (b"From a@b Mon Jan 1\nTo: c\nContent-Transfer-Encoding: base64\n\ndG8=", "is mail"),
        (b"-----BEGIN PGP MESSAGE-----\n\ndG8gYmU=", "is encoded"),
        (b"<!DOCTYPE html>\n<p>to be", "is markup, not plain text; extract its text"),
        (b'<?xml version="1.0"?>\n<p>to be', "is markup"),
        (b"\xef\xbb\xbf<!DOCTYPE html>\n<p>to be", "is markup"),
        (b"<!-- saved from\n a page -->\n<!-- twice --> <html><p>to be", "is markup"),
        (f"<!-- {'saved ' * 1000} --><html><p>to be".encode(), "is markup"),
        (b"<!-- saved from\n <p>to be", "is markup"),
        (b'<svg xmlns="http://www.w3.org/2000/svg">', "is markup"),
        (b"<mediawiki>\n<page>to be", "is markup"),
        (b'<TEI xmlns="x"><p>to be', "is markup"),
        (b"<body>to be", "is markup"),
        (b"<head><title>to be", "is markup"),
        (b"<rss version='2.0'>to be", "is markup"),
        (b"%!PS-Adobe-3.0\n(to be) show", "is PostScript"),
        ("to be".encode("utf-16"), "is UTF-16, not UTF-8; convert it with iconv"),
        ("to be".encode("utf-16-le"), "is no text: it holds zero bytes"),
        (b"name.txt".ljust(100, b"\0") + b"0000644\0", "is no text: it holds zero bytes"),
    ],
)
@pytest.mark.parametrize("name", ["text.txt", "archive.tgz"])
def test_what_is_no_text_is_refused_by_what_it_is(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name} {said}"):
        names(str(tmp_path))


def test_a_long_text_comes_in_pieces_cut_between_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "BLOCK_BYTES", 64)
    file = tmp_path / "text.txt"
    file.write_text("€" * 500)
    (document,) = read_documents(str(file))
    pieces = list(document.pieces())
    assert "".join(pieces) == "€" * 500 and len(pieces) > 10


@pytest.mark.parametrize("before", ["", "good line\n" * 30])
def test_bytes_that_are_no_text_are_named_with_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    monkeypatch.setattr(unpacking, "BLOCK_BYTES", 64)
    file = tmp_path / "text.txt"
    file.write_bytes(before.encode() + b"abc\xffdef\n")
    with pytest.raises(UserError, match=rf"text.txt is not UTF-8 text: byte {len(before) + 3} "):
        list(next(read_documents(str(file))).pieces())


def _corrupt(packed: bytes) -> bytes:
    """A gzip whose header is sound, and whose stream is none from its first byte on."""
    return packed[:10] + b"\xff" * 8 + packed[18:]


def _zip_of(*names: str, content: bytes = b"x") -> bytes:
    with zipfile.ZipFile(packed := io.BytesIO(), "w") as archive:
        for name in names:
            archive.writestr(name, content)
    return packed.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"body": "y"}\n', "a.jsonl:2: it has no text in the field"),
        ("a.jsonl", b'{"text": "x"}\nnot json\n', "a.jsonl:2: not JSON: Expecting value"),
        ("a.jsonl", b'{"text": "x"}\n{\n"text":\n oops}\n', "a.jsonl:4: not JSON: Expecting val"),
        ("a.jsonl", b'{"text": "x"}\n\n{\n"text": 1}\n', "a.jsonl:3: it has no text"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "y"}}\n', "a.jsonl:2: not JSON: Expecting value"),
        (  # which is told before the rest is read
            "a.jsonl",
            b'{"text": "x"}\n{"text":\n' + b'{"text": "y"}\n' * 99_999 + b"\xff",
            "a.jsonl:4: not JSON: Expecting ',' delimiter",
        ),
        ("a.txt.gz", b"no\0gzip", "a.txt.gz is damaged"),
        ("a.txt.gz", b"", "a.txt.gz is damaged: it is empty"),
        ("a.zip", b"not\0zip", "a.zip is damaged"),
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
        ("a.json", b'[{"text": "x"},\n oops]', "a.json:2: not JSON: Expecting value"),
        ("a.json", b"[" * 100_000, "a.json:1: too deeply nested"),
        ("a.json", b'{"id": %b, "text": "x"}' % (b"9" * 5000), "a.json:1: a number is too long"),
        ("a.zip", _zip_of("x\u00e9.txt").replace("x\u00e9".encode(), b"x\xff\xff"), "is damaged"),
        ("a.zip", _zip_of("b.txt", "c.txt").replace(b"c.t", b"b.t"), "a.zip:b.txt is there 2 t"),
        ("a.zip", _zip_of("."), "the archive .*a.zip holds no text"),
        ("a.zip", _zip_of("q.txt").replace(b"q.t", b"\0.t"), "the archive .*a.zip holds no text"),
        ("a.md", b'{}\n{"text": "x"}\n', "a.md:1: it has no text in the field"),
        ("a.txt", b'[["to be", "or"], ["not"]]', r"a.txt:1\[0\]: it has no text in the field"),
        (
            "a.txt",
            b'{"cells": []}',
            "no text in the field 'text'; name one .* its fields are cells",
        ),
        ("a.csv", b'id,text\n1,"x', "a.csv:2: not CSV: unexpected end of data"),
        ("a.csv", b"id,text\r1,x\r2,y\r", r"a.csv:1: not CSV: new-line .* field; .* tr '.r' '.n'$"),
        ("a.csv", b"id,text\n1,x\ry\n", "a.csv:2: not CSV: new-line"),
        ("a.csv", b"id,text\n1,x\n2,y,z\n", "a.csv:3: the row has more fields"),
        ("a.csv", b"id,text\n1\n", "a.csv:2: the row has fewer fields"),
        ("a.csv", b"text,text\nx,y\n", "a.csv:1: two fields are called 'text'"),
        ("a.jsonl", b'["1", "x"]\n["2", "y"]\n', "a.jsonl:2: a row without names"),
        ("a.txt.br", b"\x8b\x02\x80to be", "a.txt.br is packed, as its name says; .* brotli -d"),
        ("a.txt.zst", b"\x50\x2a\x4d\x18\0\0\0\0", "a.txt.zst is packed, .* zstd -d"),
        ("a.txt.gz", b"\x28\xb5\x2f\xfd\x04\xff", "a.txt.gz is packed with zstd"),
        (
            "a.zip",
            _zip_of("b.txt.gz", "c.txt", content=b"\x1f\x8b"),
            "a.zip:b.txt.gz is packed twice",
        ),
        ("a.csv", b"id|text\n1|x\n", "its fields are id.text"),
        ("a.zip", b"PK\x03\x04 and no more", "a.zip is damaged"),
        ("a.txt.bz2", b"\xffnot bz2", "a.txt.bz2 is damaged"),
        ("page.HTM", b"<p>to be", "page.HTM is markup"),
        ("page.xhtml", b"<div>to be", "page.xhtml is markup"),
        ("picture.svg", b"<g>to be", "picture.svg is markup"),
        ("a.txt", b"to be\n" * 1000 + b"\0" * 9, "a.txt is no text: it holds zero bytes"),
        ("a.txt", b"to be\n" * 20_000 + b"\0" * 9, "a.txt is no text: it holds zero bytes"),
        ("a.csv", b"text\n" + b"to be\n" * 20_000 + b"\0", "a.csv is no text: it holds zero"),
        ("a.txt.xz", b"no\0xz at all", "a.txt.xz is damaged"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        for document in read_documents(str(tmp_path / name)):
            list(document.pieces())
