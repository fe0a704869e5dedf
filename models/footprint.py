"""What a model costs: parameters, FLOPs and bytes, analytic and exact; no torch.

A family says what its mixer costs (``mixer_...``); what a whole model does follows from that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal

FeedForwardKind = Literal["gelu", "swiglu"]
Phase = Literal["prefill", "decode", "forward", "train"]

HEAD_MULTIPLE = 128
"""The head's rows are a multiple of it, as fast matrix kernels ask: 50,257 are a multiple of 29."""


class Footprint(ABC):
    """The costs of a model; what the attributes mean says :class:`models.config.ModelConfig`."""

    d_model: int
    n_layers: int
    d_ff: int
    ffn: FeedForwardKind
    vocab_size: int
    tie_embeddings: bool

    rewrites_state: ClassVar[bool] = False
    """Whether a decode step writes all of a layer's state, as a recurrence does."""

    # What a family says of its mixer.

    @abstractmethod
    def mixer_parameters(self) -> int:
        """Parameters of one layer's mixer."""

    def mixer_vectors(self) -> int:
        """Mixer parameters that multiply no token's vector, such as biases; none by default."""
        return 0

    @abstractmethod
    def mixer_flops(self, tokens: int, *, context: int = 0) -> int:
        """FLOPs of one layer's mixer over ``tokens`` new tokens after ``context`` earlier ones.

        The fewest that any form of the function needs, whichever runs, so that no implementation
        is credited with work that another does not have. Projections are not counted here (they
        follow from :meth:`mixer_parameters`, less :meth:`mixer_vectors`); causal products count
        the pairs that are needed. One new token means the decode step.
        """

    def mixer_hardware_flops(self, tokens: int) -> int:
        """FLOPs that the configured form computes over a whole sequence in one layer's mixer.

        Products that a mask throws away count too. By default :meth:`mixer_flops`.
        """
        return self.mixer_flops(tokens)

    @abstractmethod
    def mixer_state_bytes(self, batch_size: int, context: int, dtype_bytes: int) -> int:
        """Bytes that one layer carries from token to token at a context of that many tokens."""

    def mixer_step_bytes(self, batch_size: int, context: int, dtype_bytes: int) -> int:
        """Bytes of state that one decode step must move in one layer: read, and maybe written."""
        state = self.mixer_state_bytes(batch_size, context, dtype_bytes)
        return 2 * state if self.rewrites_state else state

    def mixer_operands(self) -> int:
        """Numbers a token that the mixing of a whole sequence reads beside what the state holds.

        By default queries, keys and values of the model's width.
        """
        return 3 * self.d_model

    @property
    def layer_counts(self) -> tuple[tuple[Any, int], ...]:
        """Each configuration that layers have, and how many have it."""
        return ((self, self.n_layers),)

    @property
    def ffn_matrices(self) -> int:
        """Weight matrices of the feed-forward, each ``d_model x d_ff``."""
        return 3 if self.ffn == "swiglu" else 2

    @property
    def head_rows(self) -> int:
        """Rows of the head's matrix: the vocabulary, and rows of zeros that no logit comes from."""
        return -(-self.vocab_size // HEAD_MULTIPLE) * HEAD_MULTIPLE

    def num_parameters(self, embeddings: bool = False) -> int:
        """Parameters of the whole model; without the embedding and the head unless asked for.

        Rows that pad the head are no parameters: nothing depends on them.
        """
        norms = (2 * self.n_layers + 1) * self.d_model
        count = norms + self._over_layers(lambda c: c.mixer_parameters() + c._ffn_parameters())
        if embeddings:
            count += self.vocab_size * self.d_model * (1 if self.tie_embeddings else 2)
        return count

    def weight_bytes(self, dtype_bytes: int) -> int:
        """Bytes of all weights at ``dtype_bytes`` a parameter."""
        return self.num_parameters(embeddings=True) * dtype_bytes

    def flops_per_token(self, seq_len: int, phase: Phase) -> float:
        """Model FLOPs per token, a multiply-add counting two: what the function needs.

        Args:
            seq_len: tokens of the sequence; for ``decode``, tokens already in the state.
            phase: ``prefill`` (logits of the last position only), ``decode`` (one step),
                ``forward`` (logits of every position) or ``train`` (forward and backward, three
                times the forward: Kaplan et al. 2020, arXiv 2001.08361, section 2.1).
        """
        if phase == "decode":
            mixing: float = self._over_layers(lambda c: c.mixer_flops(1, context=seq_len))
        else:
            mixing = self._over_layers(lambda c: c.mixer_flops(seq_len)) / seq_len
        layers = self._matrix_flops() + mixing
        return (layers + self._head_flops(seq_len, phase)) * _passes(phase)

    def hardware_flops_per_token(
        self, seq_len: int, phase: Phase, *, recomputed: bool = False
    ) -> float:
        """FLOPs per token that the configured form computes, masked products among them.

        Args:
            seq_len: as of :meth:`flops_per_token`.
            phase: likewise; a decode step has one form.
            recomputed: whether the backward pass computes the layers' forward anew.
        """
        if phase == "decode":
            return self.flops_per_token(seq_len, phase)
        mixing = self._over_layers(lambda c: c.mixer_hardware_flops(seq_len)) / seq_len
        layers, passes = self._matrix_flops() + mixing, _passes(phase)
        return layers * (passes + recomputed) + self._head_flops(seq_len, phase) * passes

    def state_bytes(self, batch_size: int, context: int, dtype_bytes: int = 4) -> int:
        """Bytes of the state (KV cache or retention state) that holds ``context`` tokens."""
        return self._over_layers(lambda c: c.mixer_state_bytes(batch_size, context, dtype_bytes))

    def decode_bytes(self, batch_size: int, context: int, dtype_bytes: int = 4) -> int:
        """Bytes that one decode step must move: the weights once, and the state.

        The embedding is read one row a sequence; tied or not, the head's matrix is read whole.
        """
        matrices = self.num_parameters() + self.vocab_size * self.d_model
        rows = batch_size * self.d_model
        moved = self._over_layers(lambda c: c.mixer_step_bytes(batch_size, context, dtype_bytes))
        return (matrices + rows) * dtype_bytes + moved

    def prefill_bytes(self, batch_size: int, context: int, dtype_bytes: int = 4) -> int:
        """Bytes that one prefill must move: every weight read once, the state written once.

        What the layers hand on to each other is left out, for a cache may keep it.
        """
        matrices = self.num_parameters() + self.vocab_size * self.d_model
        return matrices * dtype_bytes + self.state_bytes(batch_size, context, dtype_bytes)

    def prefill_working_bytes(self, batch_size: int, context: int, dtype_bytes: int = 4) -> int:
        """The least that a prefill of whole prompts holds in passing, beside weights and state.

        The residual stream, and the widest that one operation of a layer reads; a prompt that is
        taken in by parts needs less.
        """
        widest: int = max(max(c.d_ff, c.mixer_operands()) for c, _ in self.layer_counts)
        return batch_size * context * (self.d_model + widest) * dtype_bytes

    def training_bytes(self, batch_size: int, context: int, dtype_bytes: int = 4) -> int:
        """The least memory of an optimizer step, in which products have ``dtype_bytes`` a number.

        Weights, gradients and AdamW's two moments in float32, 16 bytes a parameter, and the input
        of every layer, from which the backward pass can compute anew what else it needs.
        """
        inputs = batch_size * context * self.d_model * self.n_layers * dtype_bytes
        return 16 * self.num_parameters(embeddings=True) + inputs

    def step_bytes(self, dtype_bytes: int = 4) -> int:
        """Bytes that an optimizer step must move, whatever its tokens.

        AdamW reads a weight, its gradient and two moments in float32 and writes all but the
        gradient; forward and backward read every matrix once.
        """
        matrices = self.num_parameters() + self.vocab_size * self.d_model
        return 28 * self.num_parameters(embeddings=True) + 2 * matrices * dtype_bytes

    def _over_layers(self, of_one: Callable[[Footprint], int]) -> int:
        """The sum over all layers of what one has."""
        return sum(count * of_one(layer) for layer, count in self.layer_counts)

    def _matrix_flops(self) -> int:
        """Of all layers' matrices a token."""
        return 2 * self._over_layers(
            lambda c: c.mixer_parameters() - c.mixer_vectors() + c._ffn_parameters()
        )

    def _head_flops(self, seq_len: int, phase: Phase) -> float:
        """Of the output head a token: a prefill has logits of its last one alone."""
        flops = 2 * self.vocab_size * self.d_model
        return flops / seq_len if phase == "prefill" else flops

    def _ffn_parameters(self) -> int:
        return self.ffn_matrices * self.d_model * self.d_ff


def _passes(phase: Phase) -> int:
    """Forward passes that a phase costs as many FLOPs as."""
    return 3 if phase == "train" else 1
