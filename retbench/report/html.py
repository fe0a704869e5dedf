"""One self-contained page: warnings, tables, figures and provenance, with no script and no link."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from retbench.report import layout, stamp
from retbench.report.layout import Table
from retbench.report.summary import Summary

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; margin: 2rem auto; max-width: 76rem;
  padding: 0 1.2rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2.4rem; }
.stamp, .note { color: #6b6b6b; font-size: .85rem; margin: .15rem 0; }
.smoke { color: #b00020; font-weight: 700; }
.warnings { background: #fff6e5; border-left: 4px solid #e69f00; padding: .6rem 1.2rem .6rem 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; border-top: 2px solid #222;
  border-bottom: 2px solid #222; font-variant-numeric: tabular-nums; margin-top: .6rem; }
th { border-bottom: 1px solid #222; text-align: left; vertical-align: bottom; }
th, td { padding: .22rem .7rem; white-space: nowrap; }
th.n, td.n { text-align: right; }
tbody tr:nth-child(even) { background: #f6f6f6; }
figure { margin: 1.4rem 0; } figure svg { max-width: 100%; height: auto; }
pre { background: #f6f6f6; padding: .8rem; font-size: .75rem; overflow-x: auto; }
dt { font-weight: 600; } dd { margin: 0 0 .4rem 1.2rem; }
""".strip()


def page(summary: Summary, figures: Sequence[Path]) -> str:
    """The report as HTML.

    Args:
        summary: of the run.
        figures: the SVG files to show, in this order; their content is put inline.
    """
    meta = summary.meta
    smoke = ' class="smoke"' if summary.configuration["profile"] == "smoke" else ' class="stamp"'
    title = f"Retbench: {meta['suite']}, {' against '.join(summary.models[:2])}"
    parts = [
        "<!doctype html>", '<html lang="en">', "<head>", '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>", f"<style>\n{_STYLE}\n</style>", "</head>", "<body>",
        f"<h1>{escape(title)}</h1>",
        f"<p{smoke}>{escape(stamp.conditions(meta))}<br>{escape(stamp.noise_floor(meta))}</p>",
        _warnings(summary.warnings),
        *(_table(table) for table in layout.tables(summary)),
        "<h2>Figures</h2>",
        *(f"<figure>\n{_inline(path)}\n</figure>" for path in figures),
        _definitions(summary),
        _provenance(summary),
        "</body>", "</html>",
    ]  # fmt: skip
    return "\n".join(part for part in parts if part) + "\n"


def _warnings(lines: Sequence[str]) -> str:
    if not lines:
        return ""
    items = "\n".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="warnings">\n{items}\n</ul>'


def _table(table: Table) -> str:
    kinds = [' class="n"' if numeric else "" for numeric in table.numeric]

    def line(tag: str, cells: Sequence[str]) -> str:
        marked = (
            f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True)
        )
        return f"<tr>{''.join(marked)}</tr>"

    notes = "\n".join(f'<p class="note">{escape(note)}</p>' for note in table.notes)
    rows = "\n".join(line("td", row) for row in table.rows)
    return (
        f"<h2>{escape(table.title)}</h2>\n{notes}\n"
        f'<div class="wide"><table>\n<thead>{line("th", table.header)}</thead>\n'
        f"<tbody>\n{rows}\n</tbody>\n</table></div>"
    )


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


def _definitions(summary: Summary) -> str:
    items = (
        f"<dt>{escape(title)}</dt><dd>{escape(text)}</dd>"
        for title, text in layout.definitions(summary)
    )
    return "<h2>Definitions</h2>\n<dl>\n" + "\n".join(items) + "\n</dl>"


def _provenance(summary: Summary) -> str:
    """Everything in ``run.json``, as it is there."""
    text = json.dumps(summary.meta, indent=1, ensure_ascii=False)
    return (
        "<h2>Provenance</h2>\n<details><summary>run.json: configuration, models, machine, "
        f"versions, commit</summary>\n<pre>{escape(text)}</pre></details>"
    )


def write(summary: Summary, figures: Sequence[Path], folder: Path) -> list[Path]:
    """Write ``report.html`` into the run directory."""
    path = folder / "report.html"
    path.write_text(page(summary, figures), encoding="utf-8", newline="\n")
    return [path]
