"""One cell of a suite that trains on text: what is trained on, and the tests of a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from models.protocol import LanguageModel
from retbench.data.batches import RandomWindows
from retbench.data.dataset import Documents
from retbench.suites.distance import worst_distance
from retbench.suites.execution import require_rounding
from retbench.suites.measurer import Progress
from retbench.suites.perplexity import LENGTHS, test_documents
from retbench.suites.quality_cell import Material, QualityMeasurer
from retbench.suites.session import Rows, Session
from retbench.suites.training_gate import GATE_TOKENS
from retbench.training.evaluation import (
    by_position,
    carried_nats,
    last_nats,
    mean_loss,
    repeated_bigrams,
    token_nats,
)

CONTEXTS = (0.25, 0.5, 1)
"""Contexts that the last tokens of a window are predicted from, over that of the training."""

LAST = 128
"""Last tokens of a window that are scored at each context; an eighth of a shorter window."""

DEV_TOKENS = 8192
"""Tokens of an estimate on the dev split while a model is trained."""

FINAL_DEV_TOKENS = 100_000
"""Tokens of the dev split that a learning rate is chosen by, at most."""


class TextMeasurer(QualityMeasurer):
    """Trains on a text, and tests on its documents."""

    def material(self, rows: Rows, seed: int) -> Material:
        """Random windows of the training split, and the beginning of the dev split."""
        config = rows.session.config
        dataset, window = config.dataset(), config.context[0]
        source = RandomWindows(
            dataset.train.tokens, batch_size=config.batch[0], seq_len=window, seed=seed
        )
        loss = partial(mean_loss, tokens=dataset.dev.tokens, window=window)
        return Material(
            source, partial(loss, at_most=DEV_TOKENS), partial(loss, at_most=FINAL_DEV_TOKENS)
        )

    def test(self, rows: Rows, model: LanguageModel, progress: Progress) -> None:
        """Nats of every document, each token predicted from half a window or more."""
        _add_test(rows, model, test_documents(rows.session.config))


class PerplexityMeasurer(TextMeasurer):
    """Tests besides over contexts and lengths.

    Attributes:
        lengths: to test at, over the context of the training.
    """

    lengths: ClassVar[Sequence[float]] = LENGTHS

    def verify(self, session: Session) -> float:
        """As in any training; and a state that is carried on makes no difference."""
        error = super().verify(session)
        if len(self.lengths) > 1 and _carries_a_state(session.model, session.config.context[0]):
            _check_carried(session)
        return error

    def test(self, rows: Rows, model: LanguageModel, progress: Progress) -> None:
        """As :class:`TextMeasurer` does, then from more and more tokens and at every length."""
        super().test(rows, model, progress)
        documents = test_documents(rows.session.config)
        _add_contexts(rows, model, documents)
        _add_lengths(rows, model, documents, progress, self.lengths)


class AblationMeasurer(PerplexityMeasurer):
    """Tests at the training's length: six models are tested, and it is parts that are compared."""

    lengths = (1,)


def _add_test(rows: Rows, model: LanguageModel, documents: Documents) -> None:
    """Nats of every document, each token predicted from half a window or more."""
    window = rows.point.seq_len
    stride = max(1, window // 2)
    for number, (tokens, size) in enumerate(documents.parts):
        nats = token_nats(model, tokens, window=window, stride=stride)  # type: ignore[arg-type]
        how = f"window={window},stride={stride}"
        rows.add("test", "test_nats", float(nats.sum()), index=number, implementation=how)
        rows.add("test", "test_tokens", len(nats), index=number, implementation=how)
        rows.add("test", "test_bytes", size, index=number, implementation=how)


def _add_contexts(rows: Rows, model: LanguageModel, documents: Documents) -> None:
    """Loss of the last tokens of every training window, predicted from more and more tokens."""
    window = rows.point.seq_len
    last = max(1, min(LAST, window // 8))
    for context in sorted({max(1, int(share * window)) for share in CONTEXTS}):
        for number, (tokens, _) in enumerate(documents.parts):
            nats = last_nats(model, tokens, window=window, context=context, last=last)  # type: ignore[arg-type]
            rows.add(
                "last", "last_loss", float(nats.mean()), index=number, seq_len=context,
                implementation=f"last={last},window={window}",
            )  # fmt: skip


def _add_lengths(
    rows: Rows,
    model: LanguageModel,
    documents: Documents,
    progress: Progress,
    shares: Sequence[float],
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
    if len(fitting) > 1 and _carries_a_state(model, context):
        progress("test with the state carried on")
        carried = [carried_nats(model, tokens, window=context) for tokens, _ in documents.parts]
        _add_documents(rows, "carried", carried, context, f"carried,window={context}")


def _add_bigrams(
    rows: Rows, nats: list[NDArray[np.float64]], documents: Documents, window: int
) -> None:
    """Loss of the tokens that complete a bigram seen before in the window, and of the others."""
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


def _carries_a_state(model: LanguageModel, context: int) -> bool:
    """Whether a model can score with a state, and that stays the same size at any length."""
    short, long = (model.config.state_bytes(1, length) for length in (context, 8 * context))
    return short == long and hasattr(model, "score")


def _check_carried(session: Session) -> None:
    """Scored in up to three parts, with the state, tokens have the full forward's logits."""
    model = session.model
    size = min(session.config.context[0], GATE_TOKENS // 2)
    length = min(3 * size, model.config.max_len)
    generator = torch.Generator().manual_seed(session.config.seed)
    tokens = torch.randint(model.config.vocab_size, (1, length), generator=generator)
    parts = tokens.to(session.device).split(size, dim=1)
    with torch.inference_mode(), session.autocast():
        state = model.init_state(1, length)
        errors = [
            worst_distance(model.score(part, state)[0].double(), exact.double())  # type: ignore[attr-defined]
            for part, exact in zip(parts, model(torch.cat(parts, 1))[0].split(size), strict=True)
        ]
    for error in errors:  # one may be NaN
        what = "scoring with the state carried on does not reproduce the full forward"
        require_rounding(session, error, what)
