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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from retbench.suites.quality import FINAL
from retbench.suites.quality_cell import train_cell
from retbench.suites.session import Rows, Session
from retbench.suites.text import (
    LENGTHS,
    TextConfig,
    TextSuite,
    add_contexts,
    add_lengths,
    add_test,
    material,
    test_documents,
)


@dataclass(frozen=True, kw_only=True)
class PerplexityConfig(TextConfig):
    """Perplexity of matched models, trained alike on one text."""

    suite = "perplexity"


class PerplexitySuite(TextSuite[PerplexityConfig]):
    """Perplexity of matched models on one text."""

    config = PerplexityConfig
    lengths: ClassVar[Sequence[float]] = LENGTHS
    """Lengths to test at, over the context of the training."""

    def measure(self, session: Session, rows: Rows, progress: Callable[[str], None]) -> None:
        """Train; then, unless this is a tuning cell, test."""
        model = train_cell(rows, partial(material, session.config), progress)
        if rows.point.setting("stage") == FINAL:
            documents = test_documents(session.config)
            with session.autocast():
                progress("test")
                add_test(rows, model, documents)
                add_contexts(rows, model, documents)
                add_lengths(rows, model, documents, progress, self.lengths)


SUITE = PerplexitySuite()
