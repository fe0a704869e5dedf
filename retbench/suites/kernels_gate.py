"""Whether an operation is right: some rows of its output, and their gradients, against float64.

At the full length. Some rows of the exact output are computed from the definition, one head of one
sequence at a time; an output gradient that is zero everywhere else makes the exact gradients of q,
k and v as cheap, and they depend on every token before those rows. That costs rows x T times d_k +
d_v multiplications in float64, three times as many in training: linear in T up to 4,096 tokens,
where it is 64 rows, and T^2 / 64 beyond. The largest of the default points, 65,536 tokens and 8
heads of 256 in training, takes 2.5 TFLOP, and 64 rows at a time 34 MB for each matrix of scores.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from models.operations import Case, Mix
from models.retention import log_decays
from retbench.suites.distance import worst_block

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 2e-2}
"""Largest relative L2 distance: a few times the type's rounding, grown over a sum of many terms.
A wrong mask, decay or chunk border is off by 0.1 or more."""

ROWS = 64
"""Positions that are checked at least, and those that are computed together."""

CHUNK = 64
"""Tokens of which one is checked at least, at any length: a kernel's smallest chunk."""

BLOCKS = 16
"""Parts of a gradient, whose rows have fewer terms the later they are: one may be rounding."""


class Call:
    """One operation with its inputs: called to be timed, and asked for its error.

    Args:
        case: what it has to do.
        mix: does it.
        seed: draws the inputs, and the rows that are checked.

    Attributes:
        q: queries, (batch, heads, time, d_k); they need gradients in training.
        k: keys, shaped like ``q``; they need gradients in training.
        v: values, (batch, heads, time, d_v); they need gradients in training.
        grad: gradient of the output, (batch, heads, time, d_v).
    """

    def __init__(self, case: Case, mix: Mix, seed: int) -> None:
        self._case, self._mix, self._seed = case, mix, seed
        self.q, self.k, self.v, self.grad = inputs(case, seed)
        for x in (self.q, self.k, self.v):
            x.requires_grad_(case.direction == "train")

    def __call__(self) -> object:
        """Forward, or forward and backward: gradients as of the sum of output times ``grad``."""
        out = self._mix(self.q, self.k, self.v)
        if self._case.direction == "forward":
            return out
        # An output may be wider than the inputs are; once cast, no later call casts again.
        self.grad = self.grad.to(out.dtype)
        return torch.autograd.grad(out, (self.q, self.k, self.v), self.grad)

    def error(self) -> float:
        """The largest relative L2 error of any part of the output or, in training, of a gradient.

        A part is a row of the output, or a block of a gradient's, in one head of one sequence.
        Infinite where an output is not finite.
        """
        rows = checked_rows(self._case.time, self._seed).to(self._case.device)
        out = self._mix(self.q, self.k, self.v)
        if not bool(out.isfinite().all()):
            return float("inf")
        computed = {"out": out.detach()[:, :, rows]}
        if self._case.direction == "train":
            grad = torch.zeros_like(out)
            grad[:, :, rows] = self.grad[:, :, rows].to(out.dtype)
            grads = torch.autograd.grad(out, (self.q, self.k, self.v), grad)
            computed |= dict(zip(("q", "k", "v"), grads, strict=True))
        del out
        return self._distance(computed, rows)

    def _distance(self, computed: Mapping[str, Tensor], rows: Tensor) -> float:
        """How far the worst part of what was found is from what is exact; see :func:`worst_block`.

        Neither heads nor sequences are pooled: among thousands, one that is wholly wrong would be
        within the rounding of the others.
        """
        found = []
        for batch in range(self._case.batch):
            for head in range(self._case.heads):
                here = (batch, head)
                q, k, v = (x[here].detach().double() for x in (self.q, self.k, self.v))
                grad = self.grad[here][rows].double() if "q" in computed else None
                for name, exact in exact_rows(self._case, head, q, k, v, rows, grad).items():
                    blocks = len(exact) if name == "out" else BLOCKS
                    found.append(worst_block(computed[name][here].double(), exact, blocks))
        return float(torch.stack(found).max())


def inputs(case: Case, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random q, k, v and a gradient of the output, as (batch, heads, time, dim).

    They lie in memory as a model's projections leave them, (batch, time, heads, dim). Queries are
    scaled by 1/sqrt(d_k) for retention, which attention does itself.
    """
    generator = torch.Generator(case.device).manual_seed(seed)

    def random(dim: int, scale: float = 1.0) -> Tensor:
        shape = (case.batch, case.time, case.heads, dim)
        values: Tensor = torch.randn(shape, device=case.device, generator=generator) * scale
        return values.to(case.dtype).transpose(1, 2)

    scale = case.d_k**-0.5 if case.kind == "retention" else 1.0
    return random(case.d_k, scale), random(case.d_k), random(case.d_v), random(case.d_v)


def checked_rows(time: int, seed: int) -> Tensor:
    """The first position, the last, and one of each part: int64, ascending.

    The parts are ``ROWS`` equal ones, or where those were longer the chunks of ``CHUNK`` tokens.
    """
    generator = torch.Generator().manual_seed(seed)
    size = min(time / ROWS, CHUNK)
    starts = torch.arange(max(ROWS, -(-time // CHUNK)), dtype=torch.float64) * size
    lengths = (time - starts).clamp(max=size)
    between = starts + torch.rand(len(starts), generator=generator, dtype=torch.float64) * lengths
    rows: Tensor = torch.cat((between.long(), torch.tensor([0, time - 1]))).unique()
    return rows


def exact_rows(
    case: Case, head: int, q: Tensor, k: Tensor, v: Tensor, rows: Tensor, grad: Tensor | None
) -> dict[str, Tensor]:
    """Rows of the output of one head by its definition, and the gradients of q, k and v.

    Args:
        case: says which function.
        head: the head's number.
        q: (time, d_k) float64.
        k: shaped like ``q``.
        v: (time, d_v) float64.
        rows: positions, (rows,) int64.
        grad: gradient of those rows, (rows, d_v) float64; None for no gradients.

    Returns:
        ``out`` (rows, d_v), and with gradients ``q``, ``k`` and ``v``.
    """
    leaves = [x.requires_grad_(grad is not None) for x in (q, k, v)]
    gradients = [torch.zeros_like(x) for x in leaves] if grad is not None else []
    outs = []
    for place in torch.arange(len(rows), device=rows.device).split(ROWS):  # bounds the memory
        distance = rows[place, None] - torch.arange(case.time, device=rows.device)
        scores = leaves[0][rows[place]] @ leaves[1].T
        out = _mixed(case, head, scores, distance) @ leaves[2]
        outs.append(out.detach())
        if grad is not None:
            for total, part in zip(
                gradients, torch.autograd.grad(out, leaves, grad[place]), strict=True
            ):
                total += part
    return {"out": torch.cat(outs), **dict(zip(("q", "k", "v"), gradients, strict=False))}


def _mixed(case: Case, head: int, scores: Tensor, distance: Tensor) -> Tensor:
    """The weights that scores become, none from the future; both of shape (rows, time).

    Decayed by distance for retention, their softmax for attention.
    """
    if case.kind == "attention":
        scaled: Tensor = scores * case.d_k**-0.5
        return scaled.masked_fill(distance < 0, float("-inf")).softmax(dim=-1)
    log_gamma = float(log_decays(case.heads, "eq8")[head])
    decays = torch.exp(log_gamma * distance.clamp(min=0).double())
    return scores * torch.where(distance >= 0, decays, 0.0)
