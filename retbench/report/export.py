r"""A report's tables and numbers as files: CSV and JSON with every digit, Markdown, LaTeX.

The CSV files are in the metrics' own units (seconds, bytes, tokens/s) and carry profile and the
metric's noise floor as columns, so that a row taken out of its file still says what it is worth.
The LaTeX tables need ``\usepackage{booktabs}`` and a text 16 cm wide. ``numbers.tex`` has every
number under the ids that it has in the samples, for texts that cannot drift from the run:

    \retbench{tpot_s/retnet/context=8192,batch=1}                     2.13 ms
    \retbench{tpot_s/retnet/context=8192,batch=1/interval}            [2.10, 2.16] ms
    \retbench{tpot_s/retnet/transformer/context=8192,batch=1}         0.532
    \retbench{tpot_s/retnet/transformer/context=8192,batch=1/verdict} faster
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pandas as pd

from retbench.report import terms, units
from retbench.report.content import Content
from retbench.report.frames import Row, edges_of, records
from retbench.report.tables import Table
from retbench.store import folder_name
from retbench.store.files import write_text

_ESCAPED = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "µ": r"\ensuremath{\mu}", "–": "--", "−": r"\ensuremath{-}", "·": r"\ensuremath{\cdot}",
    "×": r"\ensuremath{\times}", "±": r"\ensuremath{\pm}",
    "[": "{[}",
}  # fmt: skip
_TEXT_WIDTH = 118  # characters of \scriptsize in 16 cm
_WIDE = 70  # characters from which a table needs that size
_CITE = r"""\providecommand{\retbenchset}[2]{%%
  \expandafter\def\csname retbench@\retbenchrun @#1\endcsname{#2}}
\providecommand{\retbench}[2][\retbenchrun]{\ifcsname retbench@#1@#2\endcsname
  \csname retbench@#1@#2\endcsname\else\PackageError{retbench}{the run #1 has no number `#2'}{}\fi}
\def\retbenchrun{%s}"""
"""Numbers are kept by run, so that one document may cite several."""


def write_tables(content: Content, folder: Path) -> list[Path]:
    """Write every table in its three formats and a README; returns the files in a fixed order."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"README.md": overview(content)}
    for table in content.tables:
        files[f"{table.name}.csv"] = csv(table.frame, content.meta)
        files[f"{table.name}.md"] = markdown(table, content.stamp)
        files[f"{table.name}.tex"] = latex(table, content.stamp)
    return [_written(folder / name, text) for name, text in files.items()]


def write_numbers(content: Content, folder: Path) -> list[Path]:
    """Write ``numbers.tex`` and ``numbers.json``, which has the frame of every table."""
    text = json.dumps(numbers(content), indent=1, allow_nan=False, ensure_ascii=False)
    name = folder_name(folder)
    if (plain := re.sub(r"[^\w.-]", "-", name, flags=re.A)) != name:  # others may become it, too
        plain += f"-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    lines = [*(f"% {_line(text)}" for text in content.stamp), _CITE % plain]
    lines += (
        f"\\retbenchset{{{key}}}{{{escape(text)}}}"
        for key, text in citations(content.tables).items()
    )
    return [
        _written(folder / "numbers.tex", "\n".join(lines) + "\n"),
        _written(folder / "numbers.json", text + "\n"),
    ]


def _line(text: str) -> str:
    """``text`` on one line: what a run says must not end the comment, quote or cell it is in."""
    return " ".join(text.splitlines())


def _written(path: Path, text: str) -> Path:
    write_text(path, text)
    return path


def numbers(content: Content) -> dict[str, list[Row]]:
    """The rows of every table by its name, unrounded; None where there is no number."""
    return {table.name: units.plain(records(table.frame)) for table in content.tables}


def document(content: Content, files: Sequence[Path]) -> dict[str, Any]:
    """What ``--json`` prints of a run: its tables as in ``numbers.json``, and what it says."""
    meta = content.meta
    return {
        "run": str(content.path),
        **{key: meta.get(key) for key in ("suite", "state", "configuration", "audit", "stopped")},
        "tables": numbers(content),
        "findings": list(content.findings),
        "unsettled": content.unsettled,
        "warnings": list(content.warnings),
        "files": [str(file) for file in files],
    }


def csv(frame: pd.DataFrame, meta: Mapping[str, Any]) -> str:
    """Full precision: floats as their shortest exact decimal."""
    floors = terms.floors(meta)
    metrics = frame["metric"] if "metric" in frame else pd.Series(None, frame.index, dtype=object)
    stamped = frame.assign(
        profile=meta["configuration"]["profile"],
        noise_floor=metrics.astype(object).map(lambda metric: floors.get(metric)),
    )
    return stamped.to_csv(index=False, lineterminator="\n")


def overview(content: Content) -> str:
    """What the run says, what to know before believing it, and which tables there are."""
    tables = [f"[{table.title}]({table.name}.md)" for table in content.tables]
    defined = [f"**{title}**: {text}" for title, text in content.definitions]
    parts = [f"# {content.title}", "", *(f"> {line}  " for line in content.stamp)]
    answers = [*content.findings, *filter(None, [content.unsettled])]
    for title, lines in (
        ("Answers", answers), ("Warnings", content.warnings), ("Tables", tables),
        ("Definitions", defined),
    ):  # fmt: skip
        if lines:
            parts += ["", f"## {title}", "", *(f"- {line}" for line in lines)]
    return "\n".join(map(_line, parts)) + "\n"


def markdown(table: Table, stamp: Sequence[str]) -> str:
    """A pipe table under its notes."""
    rule = ["---:" if column.numeric else "---" for column in table.columns]
    lines = [f"## {table.title}", "", *(f"> {note}  " for note in (*table.reading, *stamp)), ""]
    for cells in (table.header, rule, *table.cells):
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(map(_line, lines)) + "\n"


def latex(table: Table, stamp: Sequence[str]) -> str:
    """A ``table`` float with booktabs rules, a caption that carries the notes, and a label."""
    table = table.fitted(_TEXT_WIDTH)
    kept = range(table.grouped, len(table.columns))
    is_wide = table.total() > _WIDE
    notes = " ".join(f"{escape(note[0].upper() + note[1:])}." for note in (*table.reading, *stamp))
    lines = [
        "% needs \\usepackage{booktabs} and a text width of 16 cm",
        "\\begin{table}[htbp]",
        "\\centering",
        "\\setlength{\\belowcaptionskip}{4pt}",
        "\\scriptsize\\setlength{\\tabcolsep}{3pt}" if is_wide else "\\small",
        f"\\caption{{{escape(table.title)}. {notes}}}",
        f"\\label{{tab:retbench-{table.name}}}",
        f"\\begin{{tabular}}{{@{{}}{''.join('lr'[table.columns[i].numeric] for i in kept)}@{{}}}}",
        "\\toprule",
        *map(_row, zip_longest(*(table.heading(i) for i in kept), fillvalue="")),
        "\\midrule",
    ]
    for group, rows in table.groups():
        if group:
            lines += ["\\addlinespace"] if lines[-1] != "\\midrule" else []
            heading = f"\\textit{{{escape(group)}}}"
            lines.append(f"\\multicolumn{{{len(kept)}}}{{@{{}}l}}{{{heading}}} \\\\")
        lines += map(_row, rows)
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", "\\end{table}"]) + "\n"


def _row(cells: Sequence[str]) -> str:
    return " & ".join(escape(cell) for cell in cells) + r" \\"


def escape(text: str) -> str:
    r"""``text`` for LaTeX, on one line; a bracket is hidden from ``\\``, which would take it."""
    return "".join(_ESCAPED.get(character, character) for character in _line(text))


def citations(tables: Sequence[Table]) -> dict[str, str]:
    """Every number that can be cited, by the ids of its row: metric, models, point.

    Under the same key and ``/interval`` is its interval, under ``/verdict`` its verdict.
    """
    found: dict[str, str] = {}
    for table in tables:
        for row in records(table.frame) if table.cited else ():
            ids = [str(row[name]) for name in table.ids if not pd.isna(row[name])]
            for name, quantity in table.cited.items():
                key = "/".join([quantity, *ids] if quantity else ids)
                found |= _cited(key, name, row)
    return found


def _cited(key: str, name: str, row: Mapping[Any, Any]) -> dict[str, str]:
    """A value of a row with its unit, its interval and its verdict; a count as it is."""
    if units.is_missing(row[name]):
        return {}
    if isinstance(row[name], int):
        return {key: str(row[name])}
    scale = units.scale_for(str(row.get("unit", "")), [row[name]])
    low, high = (row.get(edge) for edge in edges_of(name))
    text = units.with_interval(row[name], low, high, scale.divisor)
    value, bracket, interval = text.partition(" [")
    found = {key: f"{value} {scale.symbol}".rstrip()}
    if bracket:
        found[f"{key}/interval"] = f"[{interval} {scale.symbol}".rstrip()
    if name == "value" and isinstance(row.get("verdict"), str):
        found[f"{key}/verdict"] = row["verdict"]
    return found
