r"""The tables of a run as files: CSV with every digit, Markdown to read, LaTeX to cite.

The CSV files are in long format, in the metrics' own units (seconds, bytes, tokens/s), and carry
profile and noise floor as columns, so that a row taken out of its file still says what it is
worth. The LaTeX files need ``\usepackage{booktabs}`` and a text 16 cm wide; ``\input`` one
anywhere that a table may stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from retbench.report import compare, layout
from retbench.report.layout import Table
from retbench.report.summary import Summary

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "µ": r"\ensuremath{\mu}", "–": "--", "·": r"\ensuremath{\cdot}", "[": "{[}",
}  # fmt: skip
_WIDE = 8  # columns from which a LaTeX table needs a smaller font
_WITH_WARNINGS = ("cells", "ratios")
_GROUPED = ("cells", "ratios")  # in print their first column is a heading over its rows


def write(summary: Summary, folder: Path) -> list[Path]:
    """Write every table in its three formats; returns the files in a fixed order."""
    folder.mkdir(parents=True, exist_ok=True)
    frames = {
        "ratios": summary.ratios, "crossover": summary.crossovers, "batch": summary.batches,
        "cells": _with_status(summary), "setup": summary.setup,
    }  # fmt: skip
    written = []
    for table in layout.tables(summary):
        for suffix, text in (
            ("csv", csv(frames[table.name], summary)),
            ("md", markdown(table, summary)),
            ("tex", latex(table)),
        ):
            path = folder / f"{table.name}.{suffix}"
            path.write_text(text, encoding="utf-8", newline="\n")
            written.append(path)
    return written


def _with_status(summary: Summary) -> pd.DataFrame:
    """The cells with how each ended; one that has no figures at all is a row without a metric."""
    keys = ["model", "seq_len", "batch_size", "point"]
    return summary.statuses.merge(summary.cells, on=keys, how="left", sort=False)


def csv(frame: pd.DataFrame, summary: Summary) -> str:
    """Long format, full precision: floats as their shortest exact decimal."""
    stamped = frame.assign(
        profile=summary.configuration["profile"], noise_floor=compare.floor(summary.meta)
    )
    return stamped.to_csv(index=False, lineterminator="\n")


def markdown(table: Table, summary: Summary) -> str:
    """A pipe table with its notes, and the definitions of the metrics under the measurements."""
    rule = ["---:" if numeric else "---" for numeric in table.numeric]
    lines = [table.header, rule, *table.rows]
    parts = [f"## {table.title}", ""]
    parts += [f"> {note}  " for note in (*table.notes, *table.on_screen, *table.stamp)]
    parts += ["", *("| " + " | ".join(_pipe(cell) for cell in line) + " |" for line in lines)]
    if summary.warnings and table.name in _WITH_WARNINGS:
        parts += ["", "Warnings:", "", *(f"- {warning}" for warning in summary.warnings)]
    if table.name == "cells":
        defined = layout.definitions(summary)
        parts += ["", "Definitions:", "", *(f"- **{title}**: {text}" for title, text in defined)]
    return "\n".join(parts) + "\n"


def _pipe(text: str) -> str:
    return text.replace("|", "\\|")


def latex(table: Table) -> str:
    """A ``table`` float with booktabs rules, a caption that carries the notes, and a label."""
    kept = list(range(len(table.header))) if table.in_print is None else list(table.in_print)
    grouped = table.name in _GROUPED
    kept = kept[1:] if grouped else kept
    columns = "".join("r" if table.numeric[i] else "l" for i in kept)
    size = "\\scriptsize\\setlength{\\tabcolsep}{3pt}" if len(kept) >= _WIDE else "\\small"
    notes = " ".join(
        f"{escape(note[0].upper() + note[1:])}." for note in (*table.notes, *table.stamp)
    )
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
        *_header([table.header[i] for i in kept]),
        "\\midrule",
        *_body(table, kept, grouped),
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


def _body(table: Table, kept: Sequence[int], grouped: bool) -> list[str]:
    """The rows; where they are grouped, each group under a line with what they share."""
    lines: list[str] = []
    group = None
    for row in table.rows:
        if grouped and row[0] != group:
            lines += ["\\addlinespace"] if lines else []
            group = row[0]
            heading = f"\\textit{{{escape(group)}}}"
            lines.append(f"\\multicolumn{{{len(kept)}}}{{@{{}}l}}{{{heading}}} \\\\")
        lines.append(_row([row[i] for i in kept]))
    return lines


def _row(cells: Sequence[str]) -> str:
    return " & ".join(escape(cell) for cell in cells) + r" \\"


def escape(text: str) -> str:
    r"""``text`` for LaTeX; an opening bracket is hidden from ``\\``, which would take it."""
    return "".join(_LATEX.get(character, character) for character in text)
