"""One colour, marker and line style a model, the same in every figure of every run.

The hues are those of Okabe and Ito, which readers with any common colour blindness tell apart, but
for a violet in the place of their sky blue, which is nearly a tint of RetNet's blue. Markers and
line styles carry the same information in greyscale print. A hue belongs to a family of models, not
to a place in a run: RetNet is blue everywhere, and its variants and retention's operations are
tints of blue. Parts and settings, which are no models, are greys.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from retbench.errors import UserError

# A notebook names a backend to whatever it starts, installed there or not; figures here need none.
_BACKEND = os.environ.pop("MPLBACKEND", None)
try:
    import matplotlib
    from matplotlib.colors import to_hex, to_rgb
except (OSError, UnicodeError) as problem:
    raise UserError(
        f"matplotlib cannot read its settings, a file matplotlibrc: {problem}",
        "mend or remove the one in this folder, or that MATPLOTLIBRC or your home names",
    ) from problem

if _BACKEND is not None:
    os.environ["MPLBACKEND"] = _BACKEND
    with suppress(ValueError):
        matplotlib.rcParams["backend"] = _BACKEND

LineStyle = Literal["-", ""] | tuple[float, Sequence[float]]

INK = "#222222"
MUTED = "#6b6b6b"
GRID = "#e4e4e4"
MARGIN = "#d0d0d0"
ALARM = "#b00020"
DPI = 160
PAPER_PT = 8.0  # size of all text in a figure for print

# Thin dashes belong to bounds and fits, so models are solid, dash-dotted or dotted.
BOUND: LineStyle = (0, (4.0, 3.0))
CARRIED: LineStyle = (0, (2.4, 1.2))
_DASH_DOT: LineStyle = (0, (7.0, 1.6, 1.4, 1.6))
_DOTTED: LineStyle = (0, (1.2, 1.3))
_LINES: tuple[LineStyle, ...] = ("-", _DASH_DOT, _DOTTED)


@dataclass(frozen=True)
class Style:
    """How one model is drawn."""

    color: str
    marker: str
    line: LineStyle = "-"


GREY = Style(MUTED, "", BOUND)
FAMILIES: Mapping[str, Style] = {
    "retnet": Style("#0072B2", "o", "-"),
    "transformer": Style("#D55E00", "s", _DASH_DOT),
    "transformer-gqa": Style("#009E73", "^", _DOTTED),
    "gla": Style("#CC79A7", "D", "-"),
    "linear-attention": Style("#8A2BE2", "P", _DASH_DOT),
    "h3": Style("#E69F00", "v", _DOTTED),
    "gpt2-reference": Style("#000000", "X", _DOTTED),
}
"""What is built in, by the family's name; a plugin's family takes a hue that a run leaves free."""

_NAMES = {
    "retnet": "RetNet", "transformer-gqa": "Transformer (GQA)", "transformer": "Transformer",
    "gla": "GLA", "linear-attention": "Linear attention", "h3": "H3", "gpt2-reference": "GPT-2",
    "retention": "Retention", "sdpa": "SDPA", "flex": "Flex",
}  # fmt: skip
_OPERATIONS = {"retention": "retnet", "sdpa": "transformer", "flex": "transformer", "fla": "gla"}
_MARKERS = ("<", ">", "p", "*", "d", "h", "8")  # of variants; each family begins at another
# Towards white (above 0) or black, and by how much: variants of a family in their order.
_TINTS = (0.0, 0.45, -0.45, 0.65, -0.7, 0.25, -0.25)
SETTINGS = (Style("#3a3a3a", "o"), Style("#8c6bb1", "D"), Style("#969696", "s"),
            Style("#c2a5cf", "^"))  # fmt: skip
"""For what is no model: settings, parts."""

_RC: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": "#8a8a8a",
    "axes.labelcolor": INK,
    "axes.titlesize": "medium",
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": "#8a8a8a",
    "ytick.color": "#8a8a8a",
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.5,
    "text.parse_math": False,  # a dollar in a label is a dollar
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: small files that can be searched and read aloud
    "svg.hashsalt": "retbench",  # identifiers derive from it instead of chance
    "pdf.fonttype": 42,  # fonts are embedded as outlines that every journal takes
    "path.simplify": False,
}
_PAPER: Any = {
    "font.size": PAPER_PT, "axes.labelsize": PAPER_PT, "xtick.labelsize": PAPER_PT,
    "ytick.labelsize": PAPER_PT, "legend.fontsize": PAPER_PT, "axes.titlesize": PAPER_PT - 0.5,
    "lines.linewidth": 1.1,
}  # fmt: skip


def styles(families: Mapping[str, str]) -> dict[str, Style]:
    """A style for each label of a run.

    Args:
        families: the family of each label, in the order of the plan. The first label of a family,
            or the one that is named like it, has its plain hue, further ones are tints of it.
    """
    bases = {label: _family(label, family) for label, family in families.items()}
    used = set(bases.values())
    unused = [style for name, style in FAMILIES.items() if name not in used]
    free = itertools.cycle(unused or FAMILIES.values())
    found = {}
    for base in dict.fromkeys(bases.values()):
        hue = FAMILIES.get(base) or next(free)
        own = [label for label, its in bases.items() if its == base]
        own.sort(key=lambda label: label != base)
        for place, label in enumerate(own):
            found[label] = hue if place == 0 else _variant(hue, place)
    return {label: found[label] for label in families}


def ordered(labels: Sequence[str]) -> dict[str, Style]:
    """A style for each of some sizes in ascending order: from dark to light, of one colour map."""
    colours = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.85, len(labels)))
    marks = itertools.cycle(("o", *_MARKERS))
    return {
        label: Style(to_hex(colour), marker)
        for label, colour, marker in zip(labels, colours, marks, strict=False)
    }


def of_plan(meta: Mapping[str, Any]) -> dict[str, Style]:
    """The styles of all contenders of a run."""
    return styles({c["label"]: c["family"] for c in meta["plan"]["contenders"]})


def _family(label: str, family: str) -> str:
    """The family whose hue a label has; operations have those of the models that use them."""
    if label != family:
        return family
    known = [name for name in FAMILIES if label == name or label.startswith(f"{name}-")]
    return _OPERATIONS.get(label.partition("-")[0]) or max(known, key=len, default=family)


def _variant(base: Style, place: int) -> Style:
    amount = _TINTS[place % len(_TINTS)]
    towards = 1.0 if amount > 0 else 0.0
    red, green, blue = (c + (towards - c) * abs(amount) for c in to_rgb(base.color))
    begins = list(FAMILIES.values()).index(base)
    marker = _MARKERS[(begins + place - 1) % len(_MARKERS)]
    return Style(to_hex((red, green, blue)), marker, _LINES[place % len(_LINES)])


def display(label: str) -> str:
    """A label as papers write it, ``transformer-gqa`` as Transformer (GQA); what follows stays."""
    label, mark, rest = next(
        (found for mark in (": ", ", ") if (found := label.partition(mark))[1]), (label, "", "")
    )
    for name, text in _NAMES.items():
        if label == name or label.startswith(f"{name}-"):
            label = f"{text} {label.removeprefix(name)[1:].replace('-', ' ')}".rstrip()
            break
    return f"{label}{mark}{rest}"


@contextmanager
def fixed(*, paper: bool = False) -> Iterator[None]:
    """Matplotlib with these settings and no others, whatever the user's own say."""
    # No date is written, and yet matplotlib fails where this is no number.
    epoch = os.environ.pop("SOURCE_DATE_EPOCH", None)
    try:
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(_RC | (_PAPER if paper else {}))
            yield
    finally:
        if epoch is not None:
            os.environ["SOURCE_DATE_EPOCH"] = epoch
