"""One self-contained page: answers, warnings, tables, figures and provenance, without a script."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from retbench.report import units
from retbench.report.content import Content

_BROAD = 2.5  # ratio of width to height from which a figure takes a row of its own


def write(content: Content, figures: Sequence[Path], folder: Path) -> list[Path]:
    """Write ``report.html`` into the run directory.

    Args:
        content: of the run's report.
        figures: the SVG files to show, in this order, each with its list of cells beside it.
        folder: the run directory.
    """
    path = folder / "report.html"
    path.write_text(page(content, figures), encoding="utf-8", newline="\n")
    return [path]


def page(content: Content, figures: Sequence[Path]) -> str:
    """The report as HTML; arguments as :func:`write`."""
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
    return environment.get_template("template.html").render(
        content=content,
        title=f"Retbench: {content.title}",
        smoke=meta["configuration"]["profile"] == "smoke",
        origin=" · ".join(filter(None, origin)),
        figures=[_figure(path) for path in figures],
        provenance=json.dumps(meta, indent=1, ensure_ascii=False),
        tone=units.tone,
    )


def _figure(path: Path) -> dict[str, object]:
    """What the page needs of a figure: its name, its title, its drawing and whether it is broad."""
    title = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["title"]
    drawing = path.read_text(encoding="utf-8")
    drawing = drawing[drawing.index("<svg") :].strip()
    drawing = re.sub(r"<metadata>.*?</metadata>\s*", "", drawing, flags=re.DOTALL)
    # Identifiers are unique to a file, not to the page.
    drawing = re.sub(r'\bid="', f'id="{path.stem}-', drawing)
    drawing = re.sub(r'(url\(|href=")#', rf"\1#{path.stem}-", drawing)
    label = escape(title, quote=True)
    drawing = drawing.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawing)
    broad = box is not None and float(box[1]) > _BROAD * float(box[2])
    return {"name": path.stem, "title": title, "drawing": Markup(drawing), "broad": broad}
