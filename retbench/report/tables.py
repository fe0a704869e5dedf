r"""The tables of a run as files: CSV with every digit, Markdown to read, LaTeX to cite.

The CSV files are in long format, in the metrics' own units (seconds, bytes, tokens/s), and carry
profile and the metric's noise floor as columns, so that a row taken out of its file still says what
it is worth. The LaTeX files need ``\usepackage{booktabs}`` and a text 16 cm wide; ``\input`` one
anywhere that a table may stand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from retbench.report import compare
from retbench.report.content import Content
from retbench.report.layout import Table

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "µ": r"\ensuremath{\mu}", "–": "--", "·": r"\ensuremath{\cdot}", "×": r"\ensuremath{\times}",
    "±": r"\ensuremath{\pm}", "[": "{[}",
}  # fmt: skip
_WIDE = 8  # columns from which a LaTeX table needs a smaller font


def write(content: Content, folder: Path) -> list[Path]:
    """Write every table in its three formats; returns the files in a fixed order."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for table in content.tables:
        for suffix, text in (
            ("csv", csv(table.frame, content.meta)),
            ("md", markdown(table, content)),
            ("tex", latex(table)),
        ):
            path = folder / f"{table.name}.{suffix}"
            path.write_text(text, encoding="utf-8", newline="\n")
            written.append(path)
    return written


def csv(frame: pd.DataFrame, meta: Mapping[str, Any]) -> str:
    """Long format, full precision: floats as their shortest exact decimal."""
    floors = compare.floors(meta)
    metrics = frame["metric"] if "metric" in frame else pd.Series(None, frame.index, dtype=object)
    stamped = frame.assign(
        profile=meta["configuration"]["profile"],
        noise_floor=metrics.astype(object).map(lambda metric: floors.get(metric)),
    )
    return stamped.to_csv(index=False, lineterminator="\n")


def markdown(table: Table, content: Content) -> str:
    """A pipe table with its notes, and the run's warnings and definitions where they belong."""
    rule = ["---:" if numeric else "---" for numeric in table.numeric]
    lines = [table.header, rule, *table.rows]
    parts = [f"## {table.title}", ""]
    parts += [f"> {note}  " for note in (*table.notes, *table.on_screen, *table.stamp)]
    parts += ["", *("| " + " | ".join(_pipe(cell) for cell in line) + " |" for line in lines)]
    if content.warnings and (table.warned or table.headline):
        parts += ["", "Warnings:", "", *(f"- {warning}" for warning in content.warnings)]
    if table.defines:
        defined = content.definitions
        parts += ["", "Definitions:", "", *(f"- **{title}**: {text}" for title, text in defined)]
    return "\n".join(parts) + "\n"


def _pipe(text: str) -> str:
    return text.replace("|", "\\|")


def latex(table: Table) -> str:
    """A ``table`` float with booktabs rules, a caption that carries the notes, and a label."""
    kept = list(range(len(table.header))) if table.in_print is None else list(table.in_print)
    kept = kept[1:] if table.grouped else kept
    columns = "".join("r" if table.numeric[i] else "l" for i in kept)
    size = "\\scriptsize\\setlength{\\tabcolsep}{3pt}" if len(kept) >= _WIDE else "\\small"
    notes = " ".join(
        f"{escape(note[0].upper() + note[1:])}." for note in (*table.notes, *table.stamp)
    )
    titles = [table.header[i] for i in kept]
    lines = [
        "% needs \\usepackage{booktabs} and a text width of 16 cm",
        "\\begin{table}[htbp]",
        "\\centering",
        "\\setlength{\\belowcaptionskip}{4pt}",
        size,
        f"\\caption{{{escape(table.title)}. {notes}}}",
        f"\\label{{tab:retbench-{table.name}}}",
        f"\\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
        "\\toprule",
        *_header(titles),
        "\\midrule",
        *_body(table, kept),
        "\\bottomrule",
        "\\end{tabular}",
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _header(titles: Sequence[str]) -> list[str]:
    """The titles; units, and in a wide table last words too, on a second line to save width."""
    wide = len(titles) >= _WIDE
    lines = zip(*(_in_two(title, wide) for title in titles), strict=True)
    return [_row(line) for line in lines if any(line)]


def _in_two(title: str, wide: bool) -> tuple[str, str]:
    words, bracket, unit = title.partition(" (")
    if bracket:
        return words, f"({unit}"
    above, _, below = title.rpartition(" ") if wide else ("", "", title)
    return above, below


def _body(table: Table, kept: Sequence[int]) -> list[str]:
    """The rows; where they are grouped, each group under a line with what they share."""
    lines: list[str] = []
    group = None
    for row in table.rows:
        if table.grouped and row[0] != group:
            lines += ["\\addlinespace"] if lines else []
            group = row[0]
            heading = f"\\textit{{{escape(group)}}}"
            lines.append(f"\\multicolumn{{{len(kept)}}}{{@{{}}l}}{{{heading}}} \\\\")
        lines.append(_row([_in_print(table.header[i], row[i]) for i in kept]))
    return lines


def _in_print(title: str, text: str) -> str:
    """What fits a page: of a verdict the word, since a note has the differences told."""
    return text.partition(" (")[0] if title == "Verdict" else text


def _row(cells: Sequence[str]) -> str:
    return " & ".join(escape(cell) for cell in cells) + r" \\"


def escape(text: str) -> str:
    r"""``text`` for LaTeX; an opening bracket is hidden from ``\\``, which would take it."""
    return "".join(_LATEX.get(character, character) for character in text)
