"""Figures as files: PNG to look at, SVG to print, and a list of the cells that each one shows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from retbench.report import theme
from retbench.report.content import Drawn

_COMPRESSION = 4  # of PNG files: half the time of the default, a few percent larger


def write(drawings: Mapping[str, Callable[[], Drawn]], folder: Path) -> list[Path]:
    """Write every figure as PNG and SVG, and its sidecar as JSON; the same bytes each time."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, make in drawings.items():
        stem = folder / name
        with theme.fixed():
            figure, sidecar = make()
            figure.savefig(
                stem.with_suffix(".png"), dpi=theme.DPI, metadata={"Software": None},
                pil_kwargs={"compress_level": _COMPRESSION},
            )  # fmt: skip
            figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None, "Creator": None})
        text = json.dumps(sidecar, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
        stem.with_suffix(".json").write_text(text, encoding="utf-8")
        written += [stem.with_suffix(suffix) for suffix in (".png", ".svg", ".json")]
    return written
