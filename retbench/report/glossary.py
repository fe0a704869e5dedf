"""What every metric is, in the words of tables and documents; ``docs/metrics.md`` is made here.

>>> print(described("tpot_s").partition(":")[0])
TPOT (tpot_s)
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from functools import cache

from retbench import metrics
from retbench.config.values import nearest
from retbench.errors import UserError
from retbench.metrics import IN_SUITE, METRICS, Kind, Metric

CENTRE = "median over processes of their medians"
LARGEST = "the largest over processes"

_KINDS: dict[Kind, str] = {
    "time": "Times", "memory": "Memory", "energy": "Energy", "rate": "Rates",
    "analytic": "Analytic figures", "quality": "Quality",
    "input": "What a training or a test was given",
}  # fmt: skip
_HEAD = """# Metrics

`retbench explain --format markdown` makes this page from the declarations that all tables follow.
A formula takes the metrics it names; of a cell it knows its `tokens` and `batch_size`, the
`processes` that share its work, the machine's measured `matmul_rate` and its `bandwidth` at a size.
"""


def found(name: str) -> Metric:
    """The metric of a tag or a title, in letters of any case.

    Raises:
        UserError: there is none; names the nearest.
    """
    by_name = {metric.title.lower(): metric for metric in METRICS.values()}
    by_name |= {tag.lower(): metric for tag, metric in METRICS.items()}
    if name.lower() not in by_name:
        raise UserError(f"unknown metric {name!r}", nearest(name, METRICS))
    return by_name[name.lower()]


def centre(metric: Metric) -> str:
    """What of a metric's values is a cell's, in words."""
    if metric.formula is not None:
        return "from the centres of what the formula names"
    if metric.kind in ("quality", "input"):
        return "as the tables of its suite say"
    if metric.kind == "analytic":
        return "exact, the same in every process"
    return LARGEST if metric.centre == "max" else CENTRE


@cache
def formulas() -> dict[str, str]:
    """The formula of every derived metric as it is written in its declaration, by tag."""
    calls = (node for node in ast.walk(ast.parse(inspect.getsource(metrics)))
             if isinstance(node, ast.Call))  # fmt: skip
    return {
        ast.literal_eval(call.args[0]): ast.unparse(given.value.body)
        for call in calls
        for given in call.keywords
        if given.arg == "formula" and isinstance(given.value, ast.Lambda)
    }


def described(name: str | None = None) -> str:
    """One metric in a few lines of text, or all of them; errors as :func:`found`."""
    chosen = METRICS.values() if name is None else [found(name)]
    return "\n\n".join("\n".join(_lines(metric)) for metric in chosen)


def _lines(metric: Metric) -> Iterator[str]:
    yield f"{metric.title} ({metric.tag}): {metric.definition}"
    for suite, words in IN_SUITE.items():
        if metric.tag in words:
            yield f"  in {suite}: {words[metric.tag]}"
    yield f"  unit: {metric.unit}" + (f"; {metric.better} is better" if metric.better else "")
    yield f"  centre: {centre(metric)}"
    if metric.formula:
        yield f"  formula: {formulas()[metric.tag]}"


def markdown(name: str | None = None) -> str:
    """All metrics as a page, a table a kind; or the row of one, errors as :func:`found`."""
    if name is not None:
        return "\n".join(_table([found(name)]))
    parts = [_HEAD]
    for kind, title in _KINDS.items():
        rows = [metric for metric in METRICS.values() if metric.kind == kind]
        parts.append("\n".join([f"## {title}", "", *_table(rows), ""]))
    return "\n".join(parts).rstrip()


def _table(rows: list[Metric]) -> Iterator[str]:
    yield "| Metric | Tag | Unit | Better | Definition | Centre or formula |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for metric in rows:
        own = (f"; in {suite}: {words[metric.tag]}" for suite, words in IN_SUITE.items()
               if metric.tag in words)  # fmt: skip
        how = f"`{formulas()[metric.tag]}`" if metric.formula else centre(metric)
        cells = (metric.title, f"`{metric.tag}`", metric.unit, metric.better or "",
                 metric.definition + "".join(own), how)  # fmt: skip
        yield f"| {' | '.join(cells)} |"
