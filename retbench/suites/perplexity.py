"""The perplexity suite: is a model as good, at equal size, on equal data and equally tuned?

Each model is trained at every learning rate of the grid, then with several seeds at its best one;
those are tested on documents that neither training nor tuning has seen: perplexity, its course over
the position in the window and over the context, and at lengths from half to eight times that of the
training: in windows that stand alone, and in windows of the training's length that slide.

Nothing is timed here. What the numbers mean depends on D / N, training tokens over parameters: at
some 20 a model is as good as its FLOPs allow (Hoffmann et al. 2022, arXiv 2203.15556), about 6 N D
of them. The default of a CPU has less than one, so it compares how fast models learn, not where
they end; that needs ``--steps`` and a text as large.

The suites of scaling and of ablation are this one over several sizes, or over a model's parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.config import ModelConfig
from retbench.config.requirements import require_tokenizers_vocabulary
from retbench.config.settings import changed
from retbench.data.config import TextData
from retbench.data.dataset import SEVERAL, Documents, require_windows
from retbench.errors import UserError
from retbench.suites.quality import QualityConfig, QualitySuite

LENGTHS = (0.5, 1, 2, 4, 8)
"""Lengths to test at, over the context of the training."""

DOCUMENTS = 32
"""Documents to test on, at most."""

_LEAST_TESTED = 8192  # tokens of a document that are used at most, unless a length asks for more


@dataclass(frozen=True, kw_only=True)
class PerplexityConfig(QualityConfig, TextData):
    """Perplexity of matched models, trained alike on one text."""

    suite = "perplexity"
    preset: str = changed(QualityConfig, "preset", cpu="1m", cuda="30m")
    context: tuple[int, ...] = changed(QualityConfig, "context", cpu=(256,), cuda=(1024,))
    batch: tuple[int, ...] = changed(QualityConfig, "batch", cpu=(4,), cuda=(32,))
    steps: int = changed(QualityConfig, "steps", cpu=300, cuda=1000)
    learning_rates: tuple[float, ...] = changed(
        QualityConfig,
        "learning_rates",
        cpu=(2e-3, 4e-3, 8e-3, 1.6e-2),
        cuda=(5e-4, 1e-3, 2e-3, 4e-3),
    )


class PerplexitySuite(QualitySuite[PerplexityConfig]):
    """Perplexity of matched models on one text."""

    config = PerplexityConfig
    measurer = "retbench.suites.text_cell:PerplexityMeasurer"

    def data(self, config: PerplexityConfig) -> dict[str, Any]:
        """Encode the text, unless the cache has it; one too short to test on is refused now."""
        dataset = config.dataset()
        require_windows(dataset, config.context[0])
        documents = test_documents(config)
        test = {"documents": len(documents.parts), "whole": documents.whole}
        return dataset.to_json() | {"test": test}

    def model_options(self, config: PerplexityConfig) -> dict[str, Any]:
        """The tokenizer's vocabulary."""
        return {"vocab_size": config.dataset().tokenizer.vocab_size}

    def check(self, config: PerplexityConfig, models: Mapping[str, ModelConfig]) -> None:
        """Check as any such suite does; the vocabulary is the tokenizer's, not to be overridden."""
        require_tokenizers_vocabulary(config.overrides)
        super().check(config, models)


SUITE = PerplexitySuite()


def test_documents(config: PerplexityConfig) -> Documents:
    """The documents to test on: long enough for the longest length at which there are several.

    Raises:
        UserError: there are not even two of the length of the training, so that nothing could be
            said of how documents vary.
    """
    dataset, context = config.dataset(), config.context[0]
    used = max(int(LENGTHS[-1] * context) + 1, _LEAST_TESTED)
    for share in (share for share in reversed(LENGTHS) if share >= 1):
        documents = dataset.test.documents(DOCUMENTS, int(share * context) + 1, used)
        if len(documents.parts) >= SEVERAL:
            return documents
    if len(documents.parts) < 2:
        raise UserError(
            f"data: the test split of {dataset.name} has {len(dataset.test.tokens):,} tokens, too "
            f"few for two documents of {context + 1:,} to test on",
            "give more text or shorten --context",
        )
    return documents
