"""RetNet: multi-scale retention with a swish gate (Sun et al. 2023, arXiv 2307.08621)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from models.config import ConfigError
from models.costs import chunkwise_flops, retention_flops
from models.family.grouped import GroupedHeadsConfig
from models.kernels.limits import too_wide
from models.presets import Preset
from models.registry import register

if TYPE_CHECKING:
    from models.mixers.multiscale import MultiScaleRetention

DecayKind = Literal["language-model", "eq8", "single", "none"]
Form = Literal["chunkwise", "parallel"]
StateDtype = Literal["float32", "model"]
Init = Literal["normal", "torchscale"]

CHUNK_SIZES = (32, 64, 128, 256, 512)
"""Those that a comparison may choose from by name; any other can be set."""


@register("retnet")
@dataclass(frozen=True)
class RetNetConfig(GroupedHeadsConfig):
    """The paper's RetNet: d_k = d_model / heads, d_v = 2 d_k, so a mixer holds 8 d_model^2.

    The chunkwise form and the decode step are computed by PyTorch with implementation ``torch``,
    by Triton kernels with ``triton``, and with ``auto`` by these on a GPU where they can run.

    Attributes:
        decay: the kind of the heads' decays, see :func:`models.retention.log_decays`; those that
            the paper's language models were trained with.
        form: the form of a whole sequence where the caller names none; it changes speed, not
            the function.
        chunk_size: tokens of a chunk in PyTorch's chunkwise form; changes speed, not the function.
        gate: whether the swish gate stands behind the retention; without it the feed-forward gets
            its parameters.
        group_norm: whether each head's output is normalised; without, it is divided by the square
            root of its decays' sum, the one of the paper's stabilising scalings (section 2.1) that
            is a function of the position alone and so is the same in all forms.
        norm_gain: whether that norm has a gain for each of a head's dimensions, the same for all
            heads, as in fla; the paper does not say.
        init: how weights begin: ``normal`` as in the whole model (fla), or ``torchscale``, the
            authors' library, in the mixer: Xavier's uniform with the gain 2^-2.5, and 2^-1 of the
            output's.
        state_dtype: the type that the state is kept in from token to token: ``float32`` (float64
            in a float64 model), or the ``model``'s. It is computed in float32 either way. In
            bfloat16 a step rounds to 8 bits: what changes a state by less than 1/512, as the
            slowest heads' decays do, can be lost.
        n_kv_heads: heads of keys, values, decays and states; 0 means as many as query heads. Query
            heads that share one read the same state.
    """

    implementations: ClassVar[tuple[str, ...]] = ("auto", "torch", "triton")

    decay: DecayKind = "language-model"
    form: Form = "chunkwise"
    chunk_size: int = 128
    gate: bool = True
    group_norm: bool = True
    norm_gain: bool = False
    init: Init = "normal"
    state_dtype: StateDtype = "float32"
    n_kv_heads: int = 0

    rewrites_state: ClassVar[bool] = True

    @classmethod
    def preset_heads(cls, preset: Preset, d_model: int) -> int:
        """As many heads of the preset's ``retention_dim`` as fit."""
        return max(1, d_model // preset.retention_dim)

    def check(self) -> None:
        """Raise ConfigError for a head dimension, decay, form or chunk that cannot be."""
        self._check_kv_heads()
        if self.d_k % 2:
            raise ConfigError(f"retnet needs an even d_model / n_heads, not {self.d_k}")
        self._check_choices(decay=DecayKind, form=Form, init=Init, state_dtype=StateDtype)
        if self.norm_gain and not self.group_norm:
            raise ConfigError("norm_gain needs group_norm: there is no norm to scale")
        if self.chunk_size < 1:
            raise ConfigError(f"chunk_size must be at least 1, not {self.chunk_size}")
        if self.implementation == "triton" and (reason := too_wide(self.d_k, self.d_v)):
            raise ConfigError(f"implementation triton: {reason}")

    @property
    def d_k(self) -> int:
        """Dimension of a head's queries and keys."""
        return self.head_dim

    @property
    def d_v(self) -> int:
        """Dimension of a head's values."""
        return 2 * self.d_k

    def mixer(self) -> MultiScaleRetention:
        """A new mixer."""
        from models.mixers.multiscale import MultiScaleRetention

        return MultiScaleRetention(self)

    def mixer_parameters(self) -> int:
        """q: d^2; gate, out: 2 d^2 each; k: d kv_dim, v: twice that; so 8 d^2 ungrouped; a gain."""
        own = (5 if self.gate else 3) * self.d_model**2
        return own + 3 * self.d_model * self.kv_dim + self.mixer_vectors()

    def mixer_vectors(self) -> int:
        """The gain of the norm."""
        return self.d_v if self.norm_gain else 0

    def ablations(self) -> dict[str, dict[str, Any]]:
        """The paper's (section 3.5): without gate, norm or decay, one decay, narrower heads.

        Heads are a quarter as wide, as in the paper (256 to 64), or half where that is all that an
        even width allows. A part that this model lacks cannot be left out.
        """
        parts: dict[str, dict[str, Any]] = {
            "no-gate": {"gate": False},
            "no-group-norm": {"group_norm": False, "norm_gain": False},
            "no-decay": {"decay": "none"},
            "one-decay": {"decay": "single"},
        }
        for name, share in (("quarter-heads", 4), ("half-heads", 2)):
            if self.d_k % (2 * share) == 0:
                counts = {"n_heads": self.n_heads, "n_kv_heads": self.n_kv_heads}
                parts[name] = {key: share * count for key, count in counts.items()}
                break
        return {
            name: lacking
            for name, lacking in parts.items()
            if any(getattr(self, field) != value for field, value in lacking.items())
        }

    def variants(self) -> dict[str, dict[str, Any]]:
        """The quadratic parallel form, and PyTorch's chunkwise one at several chunk sizes."""
        plain = {"form": "chunkwise", "implementation": "torch"}
        sizes = {f"chunk-{size}": plain | {"chunk_size": size} for size in CHUNK_SIZES}
        return {"parallel": self.reference(), "torch": plain} | sizes

    def reference(self) -> dict[str, Any]:
        """Retention as one masked product (eq. 5)."""
        return {"form": "parallel", "implementation": "torch"}

    def mixer_flops(self, tokens: int, *, context: int = 0) -> int:
        """The cheapest form's, recurrent for one token; independent of the context."""
        return self.n_kv_heads * retention_flops(tokens, self.d_k, self.d_v, self.group)

    def mixer_hardware_flops(self, tokens: int) -> int:
        """All pairs in the parallel form, those of each chunk and its states in the chunkwise."""
        if self.form == "parallel":
            return self.n_heads * tokens**2 * 2 * (self.d_k + self.d_v)
        sizes = self.chunk_size, self.d_k, self.d_v, self.group
        return self.n_kv_heads * chunkwise_flops(tokens, *sizes)

    def mixer_operands(self) -> int:
        """q: d; k: kv_dim; v: twice that."""
        return self.d_model + 3 * self.kv_dim

    def mixer_state_bytes(self, batch_size: int, context: int, dtype_bytes: int) -> int:
        """KV heads x d_k x d_v numbers in the state's type, at any context."""
        size = dtype_bytes if self.state_dtype == "model" else max(4, dtype_bytes)
        return batch_size * self.n_kv_heads * self.d_k * self.d_v * size


@register("retnet-gq")
@dataclass(frozen=True)
class GroupedRetentionConfig(RetNetConfig):
    """Two query heads a KV head: half the state (the authors' rewrite, OpenReview sxZlp9ZoHD).

    The parameters that keys and values save go to the feed-forward.
    """

    def default_kv_heads(self) -> int:
        """A KV head for two query heads."""
        if self.n_heads % 2:
            raise ConfigError(f"retnet-gq needs an even n_heads, not {self.n_heads}")
        return self.n_heads // 2


@register("retnet-16bit-state")
@dataclass(frozen=True)
class NarrowStateConfig(RetNetConfig):
    """A RetNet whose state is kept in the model's type, as a KV cache is: half of it in 16 bits."""

    state_dtype: StateDtype = "model"


@register("retnet-eq8")
@dataclass(frozen=True)
class EquationDecaysConfig(RetNetConfig):
    """A RetNet with the decays of the paper's equation 8, 1 - 2^(-5-i) of head i."""

    decay: DecayKind = "eq8"


@register("retnet-norm-gain")
@dataclass(frozen=True)
class NormGainConfig(RetNetConfig):
    """A RetNet whose norm of each head has a gain, as fla's."""

    norm_gain: bool = True


@register("retnet-torchscale-init")
@dataclass(frozen=True)
class TorchscaleInitConfig(RetNetConfig):
    """A RetNet whose mixers begin as the authors' library begins them."""

    init: Init = "torchscale"


@register("retnet-no-group-norm")
@dataclass(frozen=True)
class NoGroupNormConfig(RetNetConfig):
    """A RetNet without the norm of each head: ``group_norm`` says what stands in its place."""

    group_norm: bool = False
