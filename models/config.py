"""The sizes that all models share, and how parameters are matched.

Every layer of every model holds the same number of parameters, the paper's ``12 d_model^2``: a
mixer takes what it needs, and the feed-forward width is chosen to use up the rest. Equal size is
therefore a property of the structure, for a third party's mixer too. Figures in this file are
analytic, exact, and need no torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from models.presets import PRESETS, Preset

if TYPE_CHECKING:
    import torch

    from models.protocol import LanguageModel

FeedForwardKind = Literal["gelu", "swiglu"]
Phase = Literal["prefill", "decode", "forward", "train"]

LAYER_BUDGET = 12
"""Matrix parameters of one layer over d_model^2: a Transformer's 4 + 8, a RetNet's 8 + 4."""

HEAD_MULTIPLE = 128
"""The head's rows are a multiple of it, as fast matrix kernels ask: 50,257 are a multiple of 29."""

MOST_PARAMETERS = 2**40
"""More than any model has that one machine trains or runs: what asks for them is a mistake."""

_PLAIN_TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (float, int), "bool": (bool,)}


class ConfigError(ValueError):
    """A configuration that cannot be built: the message says which field and why."""


def _passes(phase: Phase) -> int:
    """Forward passes that a phase costs as many FLOPs as."""
    return 3 if phase == "train" else 1


@dataclass(frozen=True)
class ModelConfig(ABC):
    """What every model of a comparison has; a family adds its own fields in a subclass.

    Attributes:
        d_model: width of the residual stream.
        n_layers: number of layers.
        n_heads: heads of the mixer; must divide ``d_model``.
        d_ff: inner width of the feed-forward; 0 means as wide as the layer's budget allows.
        ffn: feed-forward kind, ``gelu`` (the paper) or ``swiglu`` (today's).
        vocab_size: entries of the vocabulary; GPT-2's by default.
        max_len: the longest sequence, in tokens.
        tie_embeddings: whether the output head shares the embedding's weights.
        norm_eps: epsilon of every norm.
        rope_base: base of the rotary frequencies.
        implementation: what computes the mixing, one of the family's ``implementations``;
            ``auto`` leaves the choice to the device. It changes speed, not the function.
    """

    d_model: int
    n_layers: int
    n_heads: int
    d_ff: int = 0
    ffn: FeedForwardKind = "gelu"
    vocab_size: int = 50257
    max_len: int = 131072
    tie_embeddings: bool = True
    norm_eps: float = 1e-6
    rope_base: float = 10000.0
    implementation: str = "auto"

    family: ClassVar[str] = ""
    """The name under which the family is registered; set by :func:`models.register`."""

    implementations: ClassVar[tuple[str, ...]] = ("auto",)
    """What ``implementation`` may be."""

    static_state: ClassVar[bool] = True
    """Whether the tensors of a state keep their shapes and addresses: a compiled or captured step
    needs that."""

    def __post_init__(self) -> None:
        """Check every field and settle ``d_ff``.

        Raises:
            ConfigError: if the fields contradict each other or are out of range.
        """
        self._check_types({field.name: getattr(self, field.name) for field in fields(self)})
        for name in ("d_model", "n_layers", "n_heads", "vocab_size", "max_len"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.d_ff < 0:
            raise ConfigError(f"d_ff must be 0 (matched) or more, not {self.d_ff}")
        if self.ffn not in ("gelu", "swiglu"):
            raise ConfigError(f"ffn must be 'gelu' or 'swiglu', not {self.ffn!r}")
        if self.implementation not in self.implementations:
            known = ", ".join(self.implementations)
            raise ConfigError(f"implementation must be one of {known}, not {self.implementation!r}")
        if self.d_model % self.n_heads:
            raise ConfigError(f"n_heads = {self.n_heads} does not divide d_model = {self.d_model}")
        self.check()
        if self.d_ff == 0:
            object.__setattr__(self, "d_ff", self._matched_d_ff())
        if self.num_parameters(embeddings=True) > MOST_PARAMETERS:
            raise ConfigError(
                f"a model of {self.n_layers} layers of d_model = {self.d_model} has more than "
                f"{MOST_PARAMETERS:,} parameters"
            )

    # What a family says of its mixer.

    @classmethod
    @abstractmethod
    def preset_heads(cls, preset: Preset, d_model: int) -> int:
        """Number of heads at a preset whose width is (or was overridden to be) ``d_model``."""

    @abstractmethod
    def build(
        self,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        seed: int = 0,
    ) -> LanguageModel:
        """Build the model with freshly initialised weights, in evaluation mode.

        Args:
            device: where its weights are made.
            dtype: floating-point type of its weights; float32 where None.
            seed: the seed of the initialisation.
        """

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
        """Bytes of state that one decode step must move in one layer; by default, read once."""
        return self.mixer_state_bytes(batch_size, context, dtype_bytes)

    def check(self) -> None:  # noqa: B027  (a family may have nothing to check)
        """Check the family's own fields; raises :class:`ConfigError`."""

    def ablations(self) -> dict[str, dict[str, Any]]:
        """Parts that can be left out, by name the fields that leave one out; none by default."""
        return {}

    def variants(self) -> dict[str, dict[str, Any]]:
        """Ways to compute the same function: by name, fields that choose one; none by default."""
        return {}

    def reference(self) -> dict[str, Any]:
        """The fields that make the model compute as its formula says; none where it does anyway."""
        return {}

    # What follows from that.

    @property
    def layers(self) -> tuple[Self, ...]:
        """The configuration of each layer; of all by default this one."""
        return (self,) * self.n_layers

    @cached_property
    def layer_counts(self) -> Mapping[ModelConfig, int]:
        """How many of the layers have which configuration."""
        return {self: self.n_layers}

    @classmethod
    def from_preset(cls, preset: str, **overrides: Any) -> Self:
        """The family's configuration at a preset, with any field overridden.

        Raises:
            ConfigError: for an unknown preset or field, or an impossible combination.
        """
        if preset not in PRESETS:
            raise ConfigError(f"unknown preset {preset!r}; there are {', '.join(PRESETS)}")
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(overrides) - known):
            raise ConfigError(
                f"{cls.family} has no option {unknown[0]!r}; it has {', '.join(sorted(known))}"
            )
        sizes = PRESETS[preset]
        options = {"d_model": sizes.d_model, "n_layers": sizes.n_layers, **overrides}
        cls._check_types(options)
        options.setdefault("n_heads", cls.preset_heads(sizes, options["d_model"]))
        return cls(**options)

    def to_dict(self) -> dict[str, Any]:
        """The family's name and every field, as JSON-able values."""
        return {"family": self.family, **asdict(self)}

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

    @classmethod
    def _check_types(cls, values: Mapping[str, Any]) -> None:
        """Raise ConfigError for a value that is not of its field's plain type, or too large."""
        for field in fields(cls):
            kind = str(getattr(field.type, "__name__", field.type))
            accepted = _PLAIN_TYPES.get(kind, ())
            if not accepted or field.name not in values:
                continue
            given = values[field.name]
            if type(given) not in accepted:
                raise ConfigError(f"{field.name} must be {kind}, not {given!r}")
            if not abs(given) < 2**31:  # nor is NaN
                raise ConfigError(f"{field.name} must be below 2**31, not {given!r:.25}")

    def _over_layers(self, of_one: Callable[[ModelConfig], int]) -> int:
        """The sum over all layers of what one has."""
        return sum(count * of_one(layer) for layer, count in self.layer_counts.items())

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

    def _matched_d_ff(self) -> int:
        """The width that fills the layer's budget, rounded for the hardware where that is cheap.

        Rounded to the largest power of two up to 128 that moves the layer's size by at most 0.2%,
        for matrix units like such widths.
        """
        budget = LAYER_BUDGET * self.d_model**2
        exact = (budget - self.mixer_parameters()) / (self.ffn_matrices * self.d_model)
        if exact < 1:
            raise ConfigError(
                f"the mixer of {self.family} alone holds {self.mixer_parameters():,} parameters a "
                f"layer, more than the {budget:,} that a layer of d_model = {self.d_model} has"
            )
        for multiple in (128, 64, 32, 16, 8, 4, 2):
            width = round(exact / multiple) * multiple
            drift = abs(width - exact) * self.ffn_matrices * self.d_model
            if width and drift <= 0.002 * budget:
                return width
        return round(exact)
