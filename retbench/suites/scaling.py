"""The scaling suite: the perplexity suite's comparison at several sizes of all models.

Every size is trained on the same tokens D, so the tokens per parameter D / N fall as the size N
grows: the larger sizes are limited by the data, and a power law over N that was fitted here holds
at this D alone. A training costs about 6 N D FLOPs, so the largest size takes most of the time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from retbench.config.plan import Setting
from retbench.config.run import RunConfig
from retbench.suites.quality_cell import FINAL, train_cell
from retbench.suites.session import Rows, Session
from retbench.suites.text import TextSuite, add_test, material, test_documents


class ScalingSuite(TextSuite):
    """Perplexity of matched models over their size."""

    name = "scaling"

    def coordinates(self, config: RunConfig) -> list[tuple[tuple[str, Setting], ...]]:
        """Every preset is tuned by itself."""
        return [(("preset", preset),) for preset in config.presets]

    def measure(self, session: Session, rows: Rows, progress: Callable[[str], None]) -> None:
        """Train; then, unless this is a tuning cell, test."""
        model = train_cell(rows, partial(material, session.config), progress)
        if rows.point.setting("stage") == FINAL:
            progress("test")
            with session.autocast():
                add_test(rows, model, test_documents(session.config))


SUITE = ScalingSuite()
