"""What the suites that train on text share: the data set, and the tests of a trained model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from retbench.config.requirements import require_tokenizers_vocabulary
from retbench.config.settings import changed
from retbench.data.batches import RandomWindows
from retbench.data.config import TextData
from retbench.data.dataset import SEVERAL, Dataset, Documents, require_windows
from retbench.errors import UserError
from retbench.suites.quality import QualityConfig, QualitySuite
from retbench.suites.quality_cell import Material
from retbench.suites.session import Rows

if TYPE_CHECKING:
    from models.config import ModelConfig
    from models.protocol import LanguageModel

LENGTHS = (0.5, 1, 2, 4, 8)
"""Lengths to test at, over the context of the training."""

CONTEXTS = (0.25, 0.5, 1)
"""Contexts that the last tokens of a window are predicted from, over that of the training."""

LAST = 128
"""Last tokens of a window that are scored at each context; an eighth of a shorter window."""

DOCUMENTS = 32
"""Documents to test on, at most."""

DEV_TOKENS = 8192
"""Tokens of an estimate on the dev split while a model is trained."""

FINAL_DEV_TOKENS = 100_000
"""Tokens of the dev split that a learning rate is chosen by, at most."""

_LEAST_TESTED = 8192  # tokens of a document that are used at most, unless a length asks for more


@dataclass(frozen=True, kw_only=True)
class TextConfig(QualityConfig, TextData):
    """Settings of the suites that train on a text."""

    preset: str = changed(QualityConfig, "preset", cpu="1m", cuda="30m")
    context: tuple[int, ...] = changed(QualityConfig, "context", cpu=(256,), cuda=(1024,))
    batch: tuple[int, ...] = changed(QualityConfig, "batch", cpu=(4,), cuda=(32,))
    steps: int = changed(QualityConfig, "steps", cpu=350, cuda=1000)
    learning_rates: tuple[float, ...] = changed(
        QualityConfig, "learning_rates", cpu=(2e-3, 4e-3, 8e-3), cuda=(5e-4, 1e-3, 2e-3)
    )


Text = TypeVar("Text", bound=TextConfig)


class TextSuite(QualitySuite[Text]):
    """A suite that trains on a text."""

    def data(self, config: Text) -> dict[str, Any]:
        """Encode the text, unless the cache has it; one too short to test on is refused now."""
        dataset = config.dataset()
        require_windows(dataset, config.context[0])
        documents = test_documents(config)
        test = {"documents": len(documents.parts), "whole": documents.whole}
        return dataset.to_json() | {"test": test}

    def model_options(self, config: Text) -> dict[str, Any]:
        """The tokenizer's vocabulary."""
        return {"vocab_size": config.dataset().tokenizer.vocab_size}

    def check(self, config: Text, models: Mapping[str, ModelConfig]) -> None:
        """Check as any such suite does; the vocabulary is the tokenizer's, not to be overridden."""
        require_tokenizers_vocabulary(config.overrides)
        super().check(config, models)


def material(config: TextConfig, seed: int) -> Material:
    """Random windows of the training split, and the beginning of the dev split."""
    dataset = config.dataset()
    window = config.context[0]
    source = RandomWindows(
        dataset.train.tokens, batch_size=config.batch[0], seq_len=window, seed=seed
    )
    return Material(
        source,
        partial(_dev_loss, dataset, window, DEV_TOKENS),
        partial(_dev_loss, dataset, window, FINAL_DEV_TOKENS),
    )


def _dev_loss(dataset: Dataset, window: int, at_most: int, model: LanguageModel) -> float:
    from retbench.training.evaluation import mean_loss

    return mean_loss(model, dataset.dev.tokens, window=window, at_most=at_most)  # type: ignore[arg-type]


def test_documents(config: TextConfig) -> Documents:
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


def add_test(rows: Rows, model: LanguageModel, documents: Documents) -> None:
    """Nats of every document, each token predicted from half a window or more.

    Besides, over all documents, the loss of the tokens that repeat a bigram of their window, and of
    the others.
    """
    from retbench.training.evaluation import token_nats

    window = rows.point.seq_len
    stride = max(1, window // 2)
    for number, (tokens, size) in enumerate(documents.parts):
        nats = token_nats(model, tokens, window=window, stride=stride)  # type: ignore[arg-type]
        how = f"window={window},stride={stride}"
        rows.add("test", "test_nats", float(nats.sum()), index=number, implementation=how)
        rows.add("test", "test_tokens", len(nats), index=number, implementation=how)
        rows.add("test", "test_bytes", size, index=number, implementation=how)


def add_contexts(rows: Rows, model: LanguageModel, documents: Documents) -> None:
    """Loss of the last tokens of every training window, predicted from more and more tokens."""
    from retbench.training.evaluation import last_nats

    window = rows.point.seq_len
    last = max(1, min(LAST, window // 8))
    for context in sorted({max(1, int(share * window)) for share in CONTEXTS}):
        for number, (tokens, _) in enumerate(documents.parts):
            nats = last_nats(model, tokens, window=window, context=context, last=last)  # type: ignore[arg-type]
            rows.add(
                "last", "last_loss", float(nats.mean()), index=number, seq_len=context,
                implementation=f"last={last},window={window}",
            )  # fmt: skip


def add_lengths(
    rows: Rows,
    model: LanguageModel,
    documents: Documents,
    progress: Callable[[str], None],
    shares: Sequence[float] = LENGTHS,
) -> None:
    """Nats at every length in windows that stand alone; of several, once with the state carried on.

    The window of a carried state only cuts the computation: it is the training's.

    Args:
        rows: take the cell's samples.
        model: a trained model.
        documents: what :func:`test_documents` gave.
        progress: takes what goes on.
        shares: the lengths, over the context of the training.
    """
    from retbench.training.evaluation import by_position, carried_nats, token_nats

    config = model.config
    context = rows.point.seq_len
    shortest = min(len(tokens) for tokens, _ in documents.parts)
    lengths = [int(share * context) for share in shares if share * context >= 1]
    fitting = [length for length in lengths if length <= min(config.max_len, shortest - 1)]
    for length in fitting:
        progress(f"test at {length} tokens")
        nats = [token_nats(model, tokens, window=length) for tokens, _ in documents.parts]  # type: ignore[arg-type]
        _add_documents(rows, "length", nats, length, f"window={length},stride={length}")
        if length == context:
            _add_bigrams(rows, nats, documents, length)
        if length in (context, fitting[-1]):
            for edge, loss in by_position(nats, length).items():
                rows.add("position", "position_loss", loss, index=edge, seq_len=length)
    if len(fitting) > 1 and _state_is_constant(config, context) and hasattr(model, "score"):
        progress("test with the state carried on")
        carried = [carried_nats(model, tokens, window=context) for tokens, _ in documents.parts]
        _add_documents(rows, "carried", carried, context, f"carried,window={context}")


def _add_bigrams(
    rows: Rows, nats: list[NDArray[np.float64]], documents: Documents, window: int
) -> None:
    """Loss of the tokens that complete a bigram seen before in the window, and of the others."""
    from retbench.training.evaluation import repeated_bigrams

    for number, ((tokens, _), document) in enumerate(zip(documents.parts, nats, strict=True)):
        hit = repeated_bigrams(tokens, window)
        for phase, chosen in (("ar_hit", hit), ("first_occur", ~hit)):
            if chosen.any():
                rows.add(
                    phase, f"{phase}_loss", float(document[chosen].mean()), index=number,
                    implementation=f"window={window},stride={window}",
                )  # fmt: skip


def _add_documents(
    rows: Rows, phase: str, nats: list[NDArray[np.float64]], length: int, how: str
) -> None:
    for number, document in enumerate(nats):
        rows.add(
            phase, "test_nats", float(document.sum()), index=number, implementation=how,
            seq_len=length,
        )  # fmt: skip


def _state_is_constant(config: ModelConfig, context: int) -> bool:
    """Whether what a model carries from token to token stays the same size at any length."""
    return config.state_bytes(1, context) == config.state_bytes(1, 8 * context)
