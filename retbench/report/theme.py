"""One colour, marker and line style per model, the same in every figure of a run.

The colours are those of Okabe and Ito, which readers with any common colour blindness tell apart;
the markers and line styles carry the same information in greyscale print. They follow the order of
the models in the run's plan, so that the subject of the comparison is always the first, blue one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib

LineStyle = Literal["-"] | tuple[float, Sequence[float]]

INK = "#222222"
MUTED = "#6b6b6b"
GRID = "#e4e4e4"
DPI = 160


@dataclass(frozen=True)
class Style:
    """How one model is drawn; ``glyph`` is its marker as a character."""

    color: str
    marker: str
    glyph: str
    line: LineStyle


# Dashes belong to the analytic bounds, so models are solid, dash-dotted or dotted.
_DASH_DOT: LineStyle = (0, (7.0, 1.6, 1.4, 1.6))
_DOTTED: LineStyle = (0, (1.2, 1.3))
BOUND: LineStyle = (0, (4.0, 3.0))
_LINES: tuple[LineStyle, ...] = ("-", _DASH_DOT, _DOTTED)
MARKS = (
    ("#0072B2", "o", "●"), ("#D55E00", "s", "■"), ("#009E73", "^", "▲"), ("#CC79A7", "D", "◆"),
    ("#E69F00", "v", "▼"), ("#56B4E9", "P", "✚"), ("#000000", "X", "✖"),
)  # fmt: skip

_RC: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": "#8a8a8a",
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": "#8a8a8a",
    "ytick.color": "#8a8a8a",
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: small files that can be searched and read aloud
    "svg.hashsalt": "retbench",  # identifiers derive from it instead of chance
    "path.simplify": False,
}


def styles(models: Sequence[str]) -> dict[str, Style]:
    """A style for each model, by its place in the plan; line styles differ where colours repeat."""
    chosen = {}
    for index, model in enumerate(models):
        color, marker, glyph = MARKS[index % len(MARKS)]
        lap = index // len(MARKS)
        chosen[model] = Style(color, marker, glyph, _LINES[(index + lap) % len(_LINES)])
    return chosen


@contextmanager
def fixed() -> Iterator[None]:
    """Matplotlib with these settings and no others, whatever the user's own say."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RC)
        yield
