"""The perplexity suite: is a model as good, at equal size, on equal data and equally tuned?

Each model is trained at every learning rate of the grid, then with several seeds at its best one;
those are tested on documents that neither training nor tuning has seen: perplexity, its course over
the position in the window and over the context, and at lengths from half to eight times that of the
training: in windows that stand alone, and in windows of the training's length that slide.

Nothing is timed here. What the numbers mean depends on D / N, training tokens over parameters: at
some 20 a model is as good as its FLOPs allow (Hoffmann et al. 2022, arXiv 2203.15556), about 6 N D
of them. The default of a CPU has less than one, so it compares how fast models learn, not where
they end; that needs ``--steps`` and a text as large.
"""

from __future__ import annotations

from dataclasses import dataclass

from retbench.suites.text import TextConfig, TextSuite


@dataclass(frozen=True, kw_only=True)
class PerplexityConfig(TextConfig):
    """Perplexity of matched models, trained alike on one text."""

    suite = "perplexity"


class PerplexitySuite(TextSuite[PerplexityConfig]):
    """Perplexity of matched models on one text."""

    config = PerplexityConfig
    measurer = "retbench.suites.text_cell:PerplexityMeasurer"


SUITE = PerplexitySuite()
