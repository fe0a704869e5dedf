"""What is checked before a model is trained, or its training timed.

A model does not see the future; its gradients are those of its formula; and those of the step that
is timed are an eager one's, of a sequence alone. A loss says little of that: at initialisation it
is about ln V whatever the mixer does. Weights' gradients follow from everything that a step
computes, forward and backward; and they are asked for with the very function that is timed, whose
targets are scored for some sequences at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from models.protocol import LanguageModel
from retbench.data.batches import IGNORED
from retbench.distributed.process_group import ALONE, Ranks
from retbench.suites.base import CellFailure, require_close
from retbench.suites.session import Session
from retbench.training.config import TrainingConfig
from retbench.training.step import Step, next_token_loss

CAUSAL_TOKENS = 384
"""Tokens that a model is asked about at least: three chunks, for what is right in the first may be
wrong in those that begin with a state, or end before the last."""

CAUSAL_BATCH = 4
"""Sequences of them: windows of one document are scored side by side, and what one of them saw of
the next would be its future."""

CAUSAL_FORM_TOKENS = 64
"""Tokens of the forms that the run does not compute: a recurrence goes through them one by one."""

CAUSAL_TOLERANCE = 1e-5
"""How far an earlier logit may move, relative to the largest beside it, when a later token changes:
what rounding does where a kernel's tiling depends on values it masks."""

CAUSAL_ROUNDING = 0.05
"""How far in bfloat16, if in float32 it does not: a Fourier transform's last digit, in which every
token has a part, decides now and then to which of two neighbours, 0.4% apart, a number rounds, and
so in every layer."""

GATE_TOKENS = 320
"""Tokens of the gate's sequence: more than a chunk, and not a multiple of one."""

GATE_QUANTILE = 0.9
"""Share of the tokens whose gradients must be right. A retention's first output is a multiple of
one vector, whose norm takes away all but its sign: where the factor is near zero, its gradient in
another type has nothing of the exact one. A wrong mask, decay or state is wrong at most tokens."""

GATE_BLOCKS = 20
"""Of each so many parts of the sequence, half the tokens' gradients must be right as well: a chunk
may be wholly wrong, and fewer tokens than that share of all."""

GATE_MARGIN = 2.0
GATE_FLOOR = {"float32": 1e-5, "bfloat16": 1e-2}
GATE_CAP = 0.6
"""Those gradients may be so many times as far from float64's as the formula itself is in the same
type, but for the floor: rounding grows with depth, in bfloat16 from 0.01 at ``tiny`` to 0.3 at
``350m``. A wrong mask, decay, state or gradient is off by 0.2 in the shallowest model and by over
the cap in deep ones."""

WEIGHT_FLOOR = {"float32": 1e-4, "bfloat16": 3e-2}
"""The floor of weights' gradients, which sum over tokens: those of single rows round unevenly."""

PARTS = 8
"""Parts of a batch that are asked about one by one. What is wrong in one sequence of n is a part of
1 / n of its part's gradients at least: up to 64 sequences stand out of bfloat16's rounding. The
last sequence, in what a tiled kernel has left over, is asked about alone as well."""

Gradients = dict[str, Tensor]


def check_causality(session: Session) -> float:
    """The largest change of a logit that has not seen a change, relative to its position's largest.

    Over all forms; those are the logits of earlier positions, and of the batch's other sequences.

    Computed in the type that the run trains in, and in float32 where rounding may be all it is.

    Raises:
        CellFailure: if a model sees the future, or another sequence.
    """
    with session.autocast():
        worst = _moved(session)
    if CAUSAL_TOLERANCE < worst <= CAUSAL_ROUNDING and session.config.dtype == "bfloat16":
        worst = _moved(session)
    if math.isnan(worst):
        raise CellFailure("error", "the model's logits are no numbers")
    if not worst <= CAUSAL_TOLERANCE:
        raise CellFailure(
            "error",
            "the model sees the future, or another sequence: a changed token moves logits before "
            f"it, or of the others, by {worst:.2g}",
        )
    return worst


def _moved(session: Session) -> float:
    """The largest change of a logit that should not have moved; NaN where one is.

    Of several sequences side by side, and of one at the run's shortest context: for the logits of
    more, or of a longer one, there may be no room.
    """
    model = session.model
    short = min(CAUSAL_TOKENS, model.config.max_len)
    length = min(max(CAUSAL_TOKENS, min(session.config.context)), model.config.max_len)
    generator = torch.Generator().manual_seed(session.config.seed)
    tokens = torch.randint(model.config.vocab_size, (CAUSAL_BATCH, length), generator=generator)
    tokens = tokens.to(session.device)
    with torch.no_grad():  # no inference mode: a model may keep what it makes at its first call
        moved = [_moved_before(model, tokens[:, :short], _places(short), None)]
        if length > short:
            for place in _places(length):
                moved.append(_moved_before(model, tokens[:1], [place], None))
        for form in getattr(model, "forms", ()):
            few = tokens[:, :CAUSAL_FORM_TOKENS]
            moved.append(_moved_before(model, few, _places(few.shape[1]), form))
    return float(torch.stack(moved).max())


def _places(length: int) -> tuple[int, ...]:
    """From where on each of ``CAUSAL_BATCH`` sequences is to be changed.

    In the first chunk, in the middle and at the end: a fault of other chunks alone is not seen.
    Places are odd, for a change where a chunk begins shows nothing of what the tokens within one
    see of each other. One sequence is left as it is, and is between others that are not: it moves
    where a batch's sequences see each other.
    """
    return length - 1, min(63, length // 4 | 1), length, length // 2 | 1


def _moved_before(
    model: LanguageModel, tokens: Tensor, places: Sequence[int], form: str | None
) -> Tensor:
    """How far logits before each sequence's place move when the tokens from there on change.

    At the worst.
    """
    changed = tokens.clone()
    for row, place in enumerate(places):
        changed[row, place:] = (changed[row, place:] + 1) % model.config.vocab_size
    before, after = model(tokens, form=form), model(changed, form=form)
    moved = []
    for row, place in enumerate(places):
        kept = before[row, :place]
        change = (after[row, :place] - kept).abs().amax(-1)
        moved.append(torch.where(change == 0, 0, change / kept.abs().amax(-1)).max())
    return torch.stack(moved).max()


def check_model(session: Session) -> float:
    """What is verified of a model before any of its steps: its causality and its gradients.

    Returns:
        How far its gradients are off, see :func:`check_gradients`.

    Raises:
        CellFailure: it sees the future, or its gradients are not those of its formula.
    """
    check_causality(session)
    return check_gradients(session)


def check_gradients(session: Session) -> float:
    """How far the loss's gradients are from the formula's in float64, at the tokens' embeddings.

    What is wrong between the embeddings and the loss shows there; a weight's own gradient, that of
    a norm's gain for one, may be wrong alone, so every weight's is judged too, by parts of its
    rows. The reference is the same model, of the same weights, with the fields that
    ``ModelConfig.reference`` names; one without any is compared with itself in float64.

    Returns:
        The distance, relative L2, that ``GATE_QUANTILE`` of the tokens do not exceed, nor half of
        the tokens of any of the ``GATE_BLOCKS`` parts of the sequence.

    Raises:
        CellFailure: if it is too large or not a number, a weight's is, or the model embeds no
            tokens.
    """
    model = session.model
    length = min(GATE_TOKENS, model.config.max_len - 1)
    generator = torch.Generator().manual_seed(session.config.seed)
    tokens = torch.randint(model.config.vocab_size, (1, length + 1), generator=generator)
    tokens = tokens.to(session.device)
    exact = _gradients(session, _reference(session, torch.float64), tokens, exact=True)
    formula = _gradients(session, _reference(session, torch.float32), tokens)
    computed = _gradients(session, model, tokens)
    own_error, error = (_distance(found.tokens, exact.tokens) for found in (formula, computed))
    dtype = session.config.dtype
    limit = min(GATE_CAP, max(GATE_FLOOR[dtype], GATE_MARGIN * own_error))
    wrong = "the gradients are not those of the formula"
    require_close(wrong, error, limit, dtype)
    for name, gradient in exact.weights.items():
        far = wrong_weight(gradient, formula.weights[name], computed.weights[name], dtype)
        if far is not None:
            require_close(wrong, *far, f"{dtype} at {name}")
    return error


def wrong_weight(
    exact: Tensor, own: Tensor, found: Tensor, dtype: str
) -> tuple[float, float] | None:
    """Where a weight's gradient is too far from the exact one, by parts of its rows.

    Args:
        exact: the gradient, all three of one shape.
        own: what a right computation in the training's type comes to.
        found: what is judged.
        dtype: the training's type.

    Returns:
        The relative L2 distance of the first part that is wrong, and what is allowed there; None
        where none is.
    """
    own_error, error = (_of_rows(computed, exact) for computed in (own, found))
    least = own_error.clamp(min=float(own_error.median()))
    limits = (GATE_MARGIN * least).clamp(min=WEIGHT_FLOOR[dtype])
    wrong = ~(error <= limits) & ~(limits > GATE_CAP)  # beyond it the formula itself is lost
    if not wrong.any():
        return None
    first = int(wrong.nonzero()[0])
    return float(error[first]), float(limits[first])


def _distance(computed: Tensor, exact: Tensor) -> float:
    """What most tokens' relative distances do not exceed, anywhere; both (time, d_model)."""
    distances = (computed - exact).norm(dim=-1) / exact.norm(dim=-1)
    halves = [float(part.quantile(0.5)) for part in distances.chunk(GATE_BLOCKS)]
    worst = float(distances.quantile(GATE_QUANTILE))
    return max(worst, *halves) if all(map(math.isfinite, halves)) else math.nan


def _of_rows(computed: Tensor, exact: Tensor) -> Tensor:
    """Relative distances of a matrix's rows in ``GATE_BLOCKS`` parts; of a vector as a whole."""
    rows = len(exact) if exact.dim() > 1 else 1
    distances = []
    for one, other in zip(
        computed.double().reshape(rows, -1).chunk(GATE_BLOCKS),
        exact.double().reshape(rows, -1).chunk(GATE_BLOCKS),
        strict=True,
    ):
        same = torch.equal(one, other)  # a weight that takes no part has gradients of zero
        distances.append(0.0 if same else float((one - other).norm() / other.norm()))
    return torch.tensor(distances)


def _reference(session: Session, dtype: torch.dtype) -> LanguageModel:
    """The model as its formula says, its weights in that type."""
    model = session.model
    config = replace(model.config, **model.config.reference())
    reference = config.build(device=session.device, dtype=dtype, seed=session.config.seed)
    reference.load_state_dict(model.state_dict())  # type: ignore[attr-defined]
    return reference


@dataclass(frozen=True)
class _TokenGradients:
    """Of the mean loss: at the tokens' embeddings, float64 (time, d_model), and of each weight."""

    tokens: Tensor
    weights: dict[str, Tensor]


def _gradients(
    session: Session, model: LanguageModel, tokens: Tensor, *, exact: bool = False
) -> _TokenGradients:
    """The gradients that a model computes; those of weights that take no part are zero."""
    module = cast(nn.Module, model)
    table = next((part for part in module.modules() if isinstance(part, nn.Embedding)), None)
    if table is None:
        raise CellFailure("unsupported", "the model has no embedding to check a gradient at")
    embedded: list[Tensor] = []
    hook = table.register_forward_hook(lambda *call: embedded.append(call[-1]))
    try:
        with torch.autocast(session.device.type, enabled=False) if exact else session.autocast():
            loss = next_token_loss(model(tokens[:, :-1]), tokens[:, 1:])
    finally:
        hook.remove()
    weights = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
    at_tokens, *found = torch.autograd.grad(
        loss, [embedded[0], *weights.values()], allow_unused=True, materialize_grads=True
    )
    return _TokenGradients(
        at_tokens[0].double(), {n: g.float() for n, g in zip(weights, found, strict=True)}
    )


def check_step(
    step: Step,
    model: nn.Module,
    batch: tuple[Tensor, Tensor],
    config: TrainingConfig,
    ranks: Ranks = ALONE,
) -> None:
    """Compare the gradients of a step at its own batch with those of an eager one of a part of it.

    Of an eager step the part is the last sequence: what is wrong in others alone is not seen, nor
    what a sequence alone gets wrong too; that the function is right :func:`check_gradients` says,
    at its own length. Of a compiled one there are ``PARTS`` more. An eager one is made without
    dropout, whose draws for a part are others.

    Rounding is no fault, and grows with depth in bfloat16: the step may be as far from an eager one
    in float32 as :func:`wrong_weight` says, which knows how far the eager one in the training's
    type is. The eager ones take in no more than a part of the batch, and what is kept of them is in
    the host's memory: a step that fits can be checked. Leaves no gradients.

    Args:
        step: the step; there are no gradients yet.
        model: holds the parameters.
        batch: inputs and targets that the step is timed with, both (batch, time).
        config: how the step is computed.
        ranks: the processes that make it together; all raise, or none.

    Raises:
        CellFailure: they differ by more than their rounding.
    """
    exact_step, own_step = (
        step.computed(replace(config, compile=False, dtype=dtype))
        for dtype in ("float32", config.dtype)
    )
    inputs, targets = batch
    # Laid out as the targets are: for other strides the step would be compiled anew.
    scored = torch.empty_strided(
        targets.shape, targets.stride(), dtype=targets.dtype, device=targets.device
    )
    every = torch.arange(len(inputs), device=inputs.device)
    parts = every.chunk(PARTS) if config.compile else ()
    if not parts or len(parts[-1]) > 1:
        parts = (*parts, every[-1:])
    with nullcontext() if config.compile else _without_dropout(model):
        for rows in parts:
            part = inputs[rows], targets[rows]
            with _eager(config):
                exact = _step_gradients(exact_step, model, part, ranks, Tensor.cpu)
                own = exact
                if config.dtype != "float32":
                    own = _step_gradients(own_step, model, part, ranks, Tensor.cpu)
            scored.fill_(IGNORED)[rows] = targets[rows]
            found = _step_gradients(step, model, (inputs, scored), ranks)
            _require_equal(exact, own, found, config, ranks)


@contextmanager
def _without_dropout(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _eager(config: TrainingConfig) -> AbstractContextManager[object]:
    """Where nothing is compiled, nor layers one by one; it loads the compiler only where it is."""
    return torch.compiler.set_stance("force_eager") if config.compile else nullcontext()


def _step_gradients(
    step: Step,
    model: nn.Module,
    batch: tuple[Tensor, Tensor],
    ranks: Ranks,
    keep: Callable[[Tensor], Tensor] = lambda gradient: gradient,
) -> Gradients:
    """This rank's share of the gradient of each weight that has one; none are left."""
    step.differentiate(*batch)
    found = {
        name: keep(ranks.local(weight.grad.detach()))
        for name, weight in model.named_parameters()
        if weight.grad is not None
    }
    model.zero_grad(set_to_none=True)
    return found


def _require_equal(
    exact: Mapping[str, Tensor],
    own: Gradients,
    found: Gradients,
    config: TrainingConfig,
    ranks: Ranks,
) -> None:
    wrong = None
    if exact.keys() != found.keys():
        lacking = min(exact.keys() ^ found.keys())
        wrong = f"only one of them has a gradient at {lacking}"
    else:
        for name, gradient in exact.items():
            if gradient.numel() and (
                far := wrong_weight(
                    gradient, own[name], found[name].to(gradient.device), config.dtype
                )
            ):
                error, limit = far
                wrong = (
                    f"relative error {error:.2g}, allowed {limit:.2g} in {config.dtype} at {name}"
                )
                break
    told = [each for each in ranks.all_gather(wrong) if each]
    if told:
        if config.compile:
            what = "the compiled step's gradients are not the eager one's"
        else:
            what = "the gradients of a sequence in the batch are not those of the sequence alone"
        raise CellFailure("error", f"{what}: {told[0]}")
