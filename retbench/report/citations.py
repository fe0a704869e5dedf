r"""Numbers to cite: LaTeX macros, and the same as JSON with intervals and units.

A macro's name is made of letters only, as TeX demands: metric, model, context and batch in words.

    \RetbenchTpotRetnetContextEightKBatchOne          2.13 ms
    \RetbenchTpotRetnetContextEightKBatchOneInterval  [2.10, 2.16] ms
    \RetbenchRatioTpotTransformerContextEightKBatchOne         0.532
    \RetbenchCrossoverTpotTransformer                 2027 tokens
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from retbench.report import compare, layout, stamp, units
from retbench.report.content import Content
from retbench.report.frames import records
from retbench.report.summary import Summary, metric_of
from retbench.report.tables import escape

_BATCH_KEYS = ("batch_size", "stopped_at", "stopped_by", "largest_tried")
_ONES = (
    "Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten",
    "Eleven", "Twelve", "Thirteen", "Fourteen", "Fifteen", "Sixteen", "Seventeen", "Eighteen",
    "Nineteen",
)  # fmt: skip
_TENS = ("", "", "Twenty", "Thirty", "Forty", "Fifty", "Sixty", "Seventy", "Eighty", "Ninety")


def words(number: int) -> str:
    """A number in letters: 512 is FiveHundredTwelve, 8192 (a multiple of 1,024) is EightK."""
    if number >= units.KIB and number % units.KIB == 0:
        return f"{words(number // units.KIB)}K"
    if number < 20:
        return _ONES[number]
    if number < 100:
        return _TENS[number // 10] + (_ONES[number % 10] if number % 10 else "")
    for size, name in ((1_000_000, "Million"), (1000, "Thousand"), (100, "Hundred")):
        if number >= size:
            rest = number % size
            return f"{words(number // size)}{name}{words(rest) if rest else ''}"
    raise ValueError(f"cannot name {number}")  # pragma: no cover


def letters(text: str) -> str:
    """A label in letters: ``transformer-gqa`` is TransformerGqa, ``mamba2`` is MambaTwo."""
    parts = re.findall(r"[A-Za-z]+|\d+", text)
    return "".join(words(int(p)) if p.isdigit() else p[0].upper() + p[1:] for p in parts)


def macros(summary: Summary) -> tuple[tuple[str, str], ...]:
    """The macros of an inference run: each name with its text."""
    found: dict[str, str] = {}

    def define(name: str, value: str, interval: str | None) -> None:
        while name in found:  # two labels with the same letters
            name += "Bis"
        found[name] = value
        if interval is not None:
            found[f"{name}Interval"] = interval

    for row in records(summary.cells):
        if not metric_of(row["metric"]).cited:
            continue
        scale = units.scale_for(row["unit"], [row["value"]])
        unit = f"\\,{escape(scale.symbol)}" if scale.symbol else ""
        name = f"Retbench{_metric(row['metric'])}{letters(row['model'])}{_point(summary, row)}"
        define(name, _value(row, scale.divisor) + unit, _edges(row, scale.divisor, unit))
    for row in records(summary.ratios):
        if units.is_missing(row["value"]):
            continue
        name = (
            f"RetbenchRatio{_metric(row['metric'])}{letters(row['baseline'])}{_point(summary, row)}"
        )
        define(name, _value(row, 1.0), _edges(row, 1.0, ""))
        define(f"{name}Verdict", escape(row["verdict"]), None)
    for row in records(summary.crossovers):
        name = f"RetbenchCrossover{_metric(row['metric'])}{letters(row['baseline'])}"
        define(name, escape(layout.crossing(row)), None)
    for row in records(summary.batches):
        name = f"RetbenchLargestBatch{letters(row['model'])}Context{words(row['seq_len'])}"
        define(name, layout.largest(row), None)
    return tuple(found.items())


def _metric(tag: str) -> str:
    """The metric's tag without its unit, in letters: ``tpot_s`` is Tpot."""
    bare = re.sub(r"(_tokens_per_s|_bytes|_s)$", "", tag)
    rate = "Throughput" if tag.endswith("_tokens_per_s") else ""
    return letters(bare) + rate


def _point(summary: Summary, row: dict[str, Any]) -> str:
    named = "".join(map(letters, summary.points[row["point"]].texts.values()))
    return f"{named}Context{words(row['seq_len'])}Batch{words(row['batch_size'])}"


def _value(row: dict[str, Any], divisor: float) -> str:
    return units.significant(row["value"] / divisor)


def _edges(row: dict[str, Any], divisor: float, unit: str) -> str | None:
    if units.is_missing(row["low"]) or units.is_missing(row["high"]):
        return None
    low, high = (units.significant(row[edge] / divisor) for edge in ("low", "high"))
    return f"[{low}, {high}]{unit}"


def numbers(summary: Summary) -> dict[str, Any]:
    """The content of ``numbers.json``: cells, ratios, crossovers, largest batches; unrounded."""
    meta = summary.meta
    cells: dict[str, Any] = {}
    for row in records(summary.cells):
        at = cells.setdefault(row["model"], {}).setdefault(row["point"], {})
        at[row["metric"]] = entry(row, row["unit"])
    ratios: dict[str, Any] = {}
    for row in records(summary.ratios):
        at = ratios.setdefault(row["baseline"], {}).setdefault(row["point"], {})
        at[row["metric"]] = ratio_entry(row)
    crossovers: dict[str, Any] = {}
    for row in records(summary.crossovers):
        at = crossovers.setdefault(row["baseline"], {})
        direction = row["direction"] if isinstance(row["direction"], str) else None
        found = {"status": row["status"], "direction": direction, "reason": row["reason"] or None}
        at[row["metric"]] = entry(row, "tokens") | found
    batches: dict[str, Any] = {}
    for row in records(summary.batches):
        found = {key: None if pd.isna(row[key]) else row[key] for key in _BATCH_KEYS}
        batches.setdefault(row["model"], {})[str(row["seq_len"])] = found
    return {
        "conditions": stamp.conditions(meta),
        "profile": summary.configuration["profile"],
        "noise_floor": compare.floors(meta) or None,
        "audit": meta.get("audit"),
        "ended": stamp.ended(meta),
        "margin": compare.margin(meta),
        "subject": summary.models[0],
        "cells": cells,
        "ratios": ratios,
        "crossovers": crossovers,
        "largest_batches": batches,
        "warnings": list(summary.warnings),
        "definitions": {
            tag: metric_of(tag).definition for tag in dict.fromkeys(summary.cells["metric"])
        },
    }


def entry(row: dict[str, Any], unit: str) -> dict[str, Any]:
    """Value, interval, number of processes and unit; null where there is none."""
    edges = {key: row[key] for key in ("value", "low", "high")}
    known = {key: None if units.is_missing(edge) else edge for key, edge in edges.items()}
    return known | {"n": int(row["n"]), "unit": unit}


def ratio_entry(row: dict[str, Any]) -> dict[str, Any]:
    """A ratio with all that its verdict rests on; null where there is none."""
    numbers = {
        key: None if units.is_missing(row[key]) else float(row[key])
        for key in ("confidence", "resolution", "n_needed", "minutes_needed")
    }
    words = {key: row[key] or None for key in ("verdict", "note")}
    return entry(row, "ratio") | words | numbers | {
        "primary": bool(row["primary"]), "alone": bool(row["alone"])
    }  # fmt: skip


def write(content: Content, folder: Path) -> list[Path]:
    """Write ``numbers.tex`` and ``numbers.json`` into the run directory."""
    tex, as_json = folder / "numbers.tex", folder / "numbers.json"
    stamps = (stamp.conditions(content.meta), stamp.noise_floor(content.meta))
    lines = [f"% {line}" for line in stamps]
    lines += [f"\\newcommand{{\\{name}}}{{{text}}}" for name, text in content.macros]
    tex.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    text = json.dumps(content.numbers, indent=1, allow_nan=False, ensure_ascii=False)
    as_json.write_text(text + "\n", encoding="utf-8", newline="\n")
    return [tex, as_json]
