"""Figures as files: PNG and SVG for the screen, PDF for print, and a list of what each shows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retbench.errors import UserError
from retbench.report import drawing, figure_data, theme
from retbench.report.export import escape
from retbench.report.figure import Figure
from retbench.store.files import write_text

if TYPE_CHECKING:
    from retbench.store import Run

CAPTIONS = "captions.tex"
_WIDEST_IN = 30.0
_INCHES = {"in": 1.0, "cm": 1 / 2.54, "mm": 1 / 25.4, "pt": 1 / 72.27}
_COMPRESSION = 4  # of PNG files: half the time of the default, a few percent larger


def write(figures: Iterable[Figure], run: Run, folder: Path) -> list[Path]:
    """Write every figure as PNG and SVG, and its sidecar as JSON; the same bytes each time."""
    folder.mkdir(parents=True, exist_ok=True)
    written, ends = [], figure_data.cells(run)
    for figure in figures:
        stem = folder / figure.name
        drawn, notes, marks = save(figure, stem)
        sidecar = figure_data.sidecar(figure, ends, notes) | {"marks": marks}
        text = json.dumps(sidecar, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
        write_text(stem.with_suffix(".json"), text)
        written += [*drawn, stem.with_suffix(".json")]
    return written


def save(figure: Figure, stem: Path) -> tuple[list[Path], tuple[str, ...], list[dict[str, Any]]]:
    """Write a figure as PNG and SVG, the same bytes each time.

    Returns:
        The files, how to read it, and its marks, see :func:`retbench.report.figure_data.marks`.
    """
    files = [stem.with_suffix(suffix) for suffix in (".png", ".svg")]
    with theme.fixed():
        drawn, notes = drawing.draw(figure)
        marks = figure_data.marks(figure, drawn)
        drawn.savefig(
            files[0], dpi=theme.DPI, metadata={"Software": None},
            pil_kwargs={"compress_level": _COMPRESSION},
        )  # fmt: skip
        drawn.savefig(files[1], metadata={"Date": None, "Creator": None})
    return files, notes, marks


def write_for_print(figures: Iterable[Figure], folder: Path, width_in: float) -> list[Path]:
    """Write every figure as PDF, its fonts embedded, and what it does not say itself as captions.

    ``captions.tex`` defines the macro ``retbenchcaption{NAME}``: title, the conditions, and how to
    read the marks.

    Args:
        figures: what to draw.
        folder: where the files go.
        width_in: of each figure on the page, in inches; texts are set in 8 pt at that size.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    captions = [r"\providecommand{\retbenchcaption}[1]{\csname retbench:caption:#1\endcsname}"]
    for figure in figures:
        path = folder / f"{figure.name}.pdf"
        with theme.fixed(paper=True):
            drawn, notes = drawing.draw(replace(figure, named=theme.display), width_in)
            # Without dates and versions the same samples give the same bytes.
            drawn.savefig(path, metadata=dict.fromkeys(("CreationDate", "Creator", "Producer")))
        said = (figure.title, figure.caption, figure.caveat, "; ".join(notes))
        text = " ".join(f"{escape(part)}." for part in said if part)
        named = rf"\expandafter\def\csname retbench:caption:{figure.name}\endcsname"
        captions.append(f"{named}{{{text}}}")
        written.append(path)
    path = folder / CAPTIONS
    write_text(path, "\n".join(captions) + "\n")
    return [*written, path]


def inches(text: str) -> float:
    """A width such as ``3.25in``, ``8.3cm`` or ``240pt`` in inches.

    Raises:
        UserError: it is none, or no figure fits it.
    """
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)(in|cm|mm|pt)", text.replace(" ", ""), re.ASCII)
    width = float(found[1]) * _INCHES[found[2]] if found else 0.0
    if not 1 <= width <= _WIDEST_IN:
        raise UserError(
            f"width: {text!r} is no width from 1in to {_WIDEST_IN:g}in", "e.g. 3.25in, 8.3cm, 240pt"
        )
    return width
