"""One self-contained page: answers, warnings, tables, figures and provenance, without a script."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from retbench.report import terms, units
from retbench.report.content import Content
from retbench.store.files import write_text

_BROAD = 2.5  # ratio of width to height from which a figure takes a row of its own


def write(content: Content, figures: Sequence[Path], folder: Path) -> list[Path]:
    """Write ``report.html`` into the run directory.

    Args:
        content: of the run's report.
        figures: the SVG files to show, in this order, each with its list of cells beside it.
        folder: the run directory.
    """
    environment = Environment(
        loader=PackageLoader("retbench.report", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    meta = content.meta
    source = meta.get("provenance", {})
    version = source.get("versions", {}).get("retbench")
    commit = (source.get("commit") or {}).get("hash")
    origin = [f"measured {str(meta['started'])[:10]}" if meta.get("started") else ""]
    origin += [f"Retbench {version}" if version else "", f"commit {commit[:10]}" if commit else ""]
    text = environment.get_template("template.html").render(
        content=content,
        title=f"Retbench: {content.title}",
        smoke=terms.is_smoke(meta),
        origin=" · ".join(filter(None, origin)),
        figures=[_figure(path) for path in figures],
        provenance=json.dumps(meta, indent=1, ensure_ascii=False),
        tone=units.tone,
    )
    path = folder / "report.html"
    write_text(path, text)
    return [path]


def _figure(path: Path) -> dict[str, object]:
    """What the page needs of a figure: its name, its title, its drawing and whether it is broad."""
    sidecar = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    title = sidecar["title"]
    drawing = path.read_text(encoding="utf-8")
    drawing = drawing[drawing.index("<svg") :].strip()
    drawing = re.sub(r"<metadata>.*?</metadata>\s*", "", drawing, flags=re.DOTALL)
    # Identifiers are unique to a file, not to the page.
    drawing = re.sub(r'\bid="', f'id="{path.stem}-', drawing)
    drawing = re.sub(r'(url\(|href=")#', rf"\1#{path.stem}-", drawing)
    label = escape(title, quote=True)
    drawing = drawing.replace("<svg ", f'<svg role="group" aria-label="{label}" ', 1)
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawing)
    assert box is not None  # Matplotlib gives every drawing one
    width, height = float(box[1]), float(box[2])
    marks = "\n".join(_mark(mark, width, height) for mark in sidecar["marks"])
    drawing = f"{drawing.removesuffix('</svg>')}{marks}\n</svg>"
    broad = width > _BROAD * height
    return {"name": path.stem, "title": title, "drawing": Markup(drawing), "broad": broad}


def _mark(mark: dict[str, Any], width: float, height: float) -> str:
    """What shows the value of a mark when it is pointed at, or reached with the tabulator."""
    x, y, text = width * mark["x"], height * mark["y"], escape(mark["text"], quote=True)
    anchor = "start" if mark["x"] < 0.5 else "end"  # away from the edge
    return (
        f'<g class="mark" tabindex="0" role="img" aria-label="{text}">'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6"/>'
        f'<text x="{x:.1f}" y="{max(y - 9, 9):.1f}" text-anchor="{anchor}">{text}</text></g>'
    )
