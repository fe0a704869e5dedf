"""Rows of JSON and CSV, and the text in each, whatever their file is called.

JSON may be one value a line, values one after another over several lines, or an array; a value is a
row with the text under a key, or the text itself.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterator
from typing import Any

from retbench.data.unpacking import Content
from retbench.errors import UserError

_TABBED = (".tsv", ".tab")
_DELIMITED = (".csv", *_TABBED)
_JSON = (".json", ".jsonl", ".ndjson")
_LETTER = rb'(?:[^"\\\x00-\x1f]|\\.)'
_JSON_START = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:"
    rb'(?:\[\s*)?\{\s*(?:"%b*"\s*:|\}\s*[\n,])'  # a row, or a list of them
    rb'|(?:\[\s*){1,2}"%b*"\s*(?:,\s*"|\]\s*\Z)'  # or one of texts
    rb'|\[\s*"%b{2000,}\Z)' % (_LETTER, _LETTER, _LETTER)  # of which the first is long
)


def rows_of(content: Content, key: str) -> Iterator[tuple[str, str]] | None:
    """The place and the text of every row of JSON or CSV; None of what has no rows.

    Raises:
        UserError: while the rows are read, one is damaged, or has no text under the key.
    """
    if content.suffix in _DELIMITED or _names_fields(content.head(), key):
        return _delimited(content, key)
    if content.suffix in _JSON or _JSON_START.match(content.head()):
        return _json(content, key)
    return None


def _names_fields(head: bytes, key: str) -> bool:
    """Whether a file begins with a line of names, the text's among them, and a row below it."""
    header, _, rows = head.decode("utf-8-sig", "replace").partition("\n")
    delimiter = _delimiter(header)
    names = [name.strip(' "\r') for name in header.split(delimiter)]
    return (
        key in names
        and len(names) > 1
        and all(re.fullmatch(r"\w[\w.:-]*", name) for name in names)
        and delimiter in rows
    )


def _delimiter(header: str) -> str:
    """What separates the names of a first line: the one of three that it has most of."""
    return max(",;\t", key=header.count)


def text_in(row: Any, key: str, place: str) -> str:
    """The text of a row, sound.

    Raises:
        UserError: names the place of a row without it, and of a text with halves of characters.
    """
    text = row.get(key) if isinstance(row, dict) else row
    if not isinstance(text, str):
        named = ", ".join(map(str, row)) if isinstance(row, dict) else ""
        raise UserError(
            f"data: {place}: it has no text in the field {key!r}",
            f"name one with --text-key; its fields are {named}" if named else None,
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON may hold halves of characters, UTF-8 may not
        half = text[error.start].encode("unicode_escape").decode()
        raise UserError(
            f"data: {place}: character {error.start} of its text is {half}, half of one",
            "repair the line, or leave it out",
        ) from None
    return text


def _json(content: Content, key: str) -> Iterator[tuple[str, str]]:
    """The place and the text of every row: a line a value, or what the first begins at once."""
    lines = enumerate(content.lines(), start=1)
    for nth, (number, line) in enumerate((n, line.rstrip()) for n, line in lines if line.strip()):
        place = f"{content.name}:{number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            text = f"{line}\n"
            while _goes_on(text) and (after := next(lines, None)):
                text += after[1]
                if not nth:  # it may be all that there is, such as an array
                    text += "".join(last for _, last in lines)
            yield from _values(text, number, content.name, key)
            continue
        if nth and isinstance(value, list) and any(isinstance(field, str) for field in value):
            raise UserError(
                f"data: {place}: a row without names of its fields",
                'write rows such as {"text": "..."}',
            )
        yield from _texts(value, key, place)


def _goes_on(text: str) -> bool:
    """Whether the last of a text's values does not end in it, so that more lines may end it."""
    read, at = json.JSONDecoder().raw_decode, 0
    while rest := re.compile(r"\S").search(text, at):
        try:
            _, at = read(text, rest.start())
        except json.JSONDecodeError as error:
            return error.pos >= len(text.rstrip())
        except (ValueError, RecursionError):
            return False
    return False


def _values(text: str, line: int, name: str, key: str) -> Iterator[tuple[str, str]]:
    """The place and the text of every row of values that begin at a line of a file."""
    first, at = line, 0
    read = json.JSONDecoder().raw_decode
    while rest := re.compile(r"\S").search(text, at):
        line += text.count("\n", at, rest.start())
        try:
            value, end = read(text, rest.start())
        except json.JSONDecodeError as error:
            place = f"{name}:{first - 1 + error.lineno}"
            raise UserError(f"data: {place}: not JSON: {error.msg}") from None
        except RecursionError:
            raise UserError(f"data: {name}:{line}: too deeply nested") from None
        except ValueError:  # Python reads no number of 5,000 digits
            raise UserError(f"data: {name}:{line}: a number is too long") from None
        yield from _texts(value, key, f"{name}:{line}")
        line, at = line + text.count("\n", rest.start(), end), end


def _texts(value: Any, key: str, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, list):
        for number, row in enumerate(value):
            yield f"{place}[{number}]", text_in(row, key, f"{place}[{number}]")
    else:
        yield place, text_in(value, key, place)


def _delimited(content: Content, key: str) -> Iterator[tuple[str, str]]:
    """Rows below a line of names, between which stand commas, semicolons or (in TSV) tabs."""
    csv.field_size_limit(sys.maxsize)
    header, lines = next(content.lines(), ""), content.lines()
    delimiter = "\t" if content.suffix in _TABBED else _delimiter(header)
    if delimiter != "\t":
        lines = _unpadded(lines, delimiter)
    reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
    try:
        reader.fieldnames = [name.lstrip(" ") for name in reader.fieldnames or []]
        if reader.fieldnames.count(key) > 1:
            raise UserError(f"data: {content.name}:1: two fields are called {key!r}")
        for row in reader:
            place = f"{content.name}:{reader.line_num}"
            if None in row or None in row.values():
                many = "more" if None in row else "fewer"
                raise UserError(
                    f"data: {place}: the row has {many} fields than the first line names"
                )
            yield place, text_in(row, key, place)
    except csv.Error as error:
        place = f"{content.name}:{reader.reader.line_num}"
        what = str(error).partition(" - ")[0]  # from there on it advises programmers
        remedy = "convert its line ends, for example with tr '\\r' '\\n'"
        raise UserError(
            f"data: {place}: not CSV: {what}", remedy if "new-line" in what else None
        ) from None


def _unpadded(lines: Iterator[str], delimiter: str) -> Iterator[str]:
    """Lines without the blanks before a quote that opens a field; all others are a field's own."""
    quoted = re.compile(rf'(^|{re.escape(delimiter)}) *("(?:[^"]+|"")*+("?))')
    opened = ""
    for line in lines:
        whole = opened + line  # of the field that an earlier line leaves open, as if it opened it
        yield quoted.sub(r"\1\2", whole).removeprefix(opened)
        closed = [field[3] for field in quoted.finditer(whole)]
        opened = "" if all(closed) else '"'
