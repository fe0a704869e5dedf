"""One self-contained page: warnings, tables, figures and provenance, with no script and no link."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from retbench.report import stamp
from retbench.report.content import Content
from retbench.report.layout import Table

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; margin: 2rem auto; max-width: 80rem;
  padding: 0 1.2rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin-bottom: .3rem; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .2rem; }
.stamp, .note { color: #6b6b6b; font-size: .82rem; margin: .1rem 0; }
.smoke { color: #b00020; font-weight: 700; }
.warnings { background: #fff6e5; border-left: 4px solid #e69f00; padding: .6rem 1.2rem .6rem 2rem;
  font-size: .9rem; }
.wide { overflow-x: auto; margin: .6rem 0 .3rem; }
table { border-collapse: collapse; font-size: .8rem; border-top: 2px solid #222;
  border-bottom: 2px solid #222; font-variant-numeric: tabular-nums; }
th { border-bottom: 1px solid #222; text-align: left; vertical-align: bottom; line-height: 1.25; }
th small { font-weight: 400; color: #6b6b6b; }
th, td { padding: .2rem .5rem; }
td { white-space: nowrap; }
th.n, td.n { text-align: right; }
tr.new td { border-top: 1px solid #c4c4c4; }
tbody tr:hover td { background: #eef4fa; }
th:first-child, td:first-child { position: sticky; left: 0; background: #fff; padding-left: 0; }
td.better { color: #00694a; font-weight: 600; } td.worse { color: #a8430b; font-weight: 600; }
td.long { white-space: normal; min-width: 10rem; }
td.open { color: #6b6b6b; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(30rem, 1fr));
  gap: 1.2rem; align-items: start; margin-top: 1rem; }
.figures .broad { grid-column: 1 / -1; }
figure { margin: 0; } figure svg { width: 100%; height: auto; max-width: 62rem; }
pre { background: #f6f6f6; padding: .8rem; font-size: .75rem; overflow-x: auto; }
dl { font-size: .9rem; } dt { font-weight: 600; } dd { margin: 0 0 .4rem 1.2rem; }
@media print { .wide { overflow-x: visible; } figure { break-inside: avoid; } }
""".strip()

_BROAD = 1.6  # ratio of width to height from which a figure takes a row of its own
_LONG = 34  # characters from which a cell's text may be broken
# How a verdict is set: its first word.
_VERDICTS = {
    "faster": "better", "smaller": "better", "slower": "worse", "larger": "worse",
    "inconclusive": "open",
}  # fmt: skip


def page(content: Content, figures: Sequence[Path]) -> str:
    """The report as HTML.

    Args:
        content: of the run's report.
        figures: the SVG files to show, in this order; their content is put inline.
    """
    meta = content.meta
    is_smoke = meta["configuration"]["profile"] == "smoke"
    smoke = ' class="smoke"' if is_smoke else ' class="stamp"'
    title = f"Retbench: {content.title}"
    comparison = [table for table in content.tables if table.above]
    details = [table for table in content.tables if not table.above]
    parts = [
        "<!doctype html>", '<html lang="en">', "<head>", '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>", f"<style>\n{_STYLE}\n</style>", "</head>", "<body>",
        f"<h1>{escape(title)}</h1>",
        f"<p{smoke}>{escape(stamp.conditions(meta))}<br>{escape(stamp.noise_floor(meta))}</p>",
        _findings(content.findings),
        _warnings(content.warnings),
        *(_table(table) for table in comparison if table.rows),
        "<h2>Figures</h2>", '<div class="figures">', *map(_figure, figures), "</div>",
        *(_table(table) for table in details if table.rows),
        _definitions(content),
        _provenance(content),
        "</body>", "</html>",
    ]  # fmt: skip
    return "\n".join(part for part in parts if part) + "\n"


def _findings(lines: Sequence[str]) -> str:
    if not lines:
        return ""
    items = "\n".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>\n{items}\n</ul>"


def _warnings(lines: Sequence[str]) -> str:
    if not lines:
        return ""
    items = "\n".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="warnings">\n{items}\n</ul>'


def _table(table: Table) -> str:
    lines = (*table.notes, *table.on_screen)
    notes = "\n".join(f'<p class="note">{escape(note)}</p>' for note in lines)
    head = "".join(
        f"<th{_class('n' if numeric else '')}>{_heading(text)}</th>"
        for numeric, text in zip(table.numeric, table.header, strict=True)
    )
    firsts = [None, *(row[0] for row in table.rows)]
    rows = "\n".join(
        f"<tr{_class('new' if before not in (None, row[0]) else '')}>{_cells(table, row)}</tr>"
        for before, row in zip(firsts, table.rows, strict=False)
    )
    return (
        f"<h2>{escape(table.title)}</h2>\n{notes}\n"
        f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody>\n</table></div>\n"
        f'<p class="note">{escape(" · ".join(table.stamp))}</p>'
    )


def _cells(table: Table, row: Sequence[str]) -> str:
    return "".join(
        f"<td{_class('n' if numeric else _kind(text))}>{escape(text)}</td>"
        for numeric, text in zip(table.numeric, row, strict=True)
    )


def _kind(text: str) -> str:
    return _VERDICTS.get(re.split("[ ,]", text)[0], "long" if len(text) > _LONG else "")


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _heading(text: str) -> str:
    """A column's title with its unit on a line of its own."""
    title, bracket, unit = text.partition(" (")
    return escape(title) + (f"<br><small>({escape(unit)}</small>" if bracket else "")


def _figure(path: Path) -> str:
    drawing = _inline(path)
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawing)
    broad = box is not None and float(box[1]) > _BROAD * float(box[2])
    return f"<figure{_class('broad' if broad else '')}>\n{drawing}\n</figure>"


def _inline(path: Path) -> str:
    """An SVG file as an element of the page, its identifiers made unique to the figure."""
    content = path.read_text(encoding="utf-8")
    content = content[content.index("<svg") :]
    content = re.sub(r"<metadata>.*?</metadata>\s*", "", content, flags=re.DOTALL)
    content = re.sub(r'\bid="', f'id="{path.stem}-', content)
    content = content.replace("url(#", f"url(#{path.stem}-")
    content = content.replace('href="#', f'href="#{path.stem}-')
    label = escape(path.stem.replace("_", " "), quote=True)
    return content.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1).strip()


def _definitions(content: Content) -> str:
    items = (
        f"<dt>{escape(title)}</dt><dd>{escape(text)}</dd>" for title, text in content.definitions
    )
    return "<h2>Definitions</h2>\n<dl>\n" + "\n".join(items) + "\n</dl>"


def _provenance(content: Content) -> str:
    """Everything in ``run.json``, as it is there."""
    text = json.dumps(content.meta, indent=1, ensure_ascii=False)
    return (
        "<h2>Provenance</h2>\n<details><summary>run.json: configuration, models, machine, "
        f"versions, commit</summary>\n<pre>{escape(text)}</pre></details>"
    )


def write(content: Content, figures: Sequence[Path], folder: Path) -> list[Path]:
    """Write ``report.html`` into the run directory."""
    path = folder / "report.html"
    path.write_text(page(content, figures), encoding="utf-8", newline="\n")
    return [path]
