"""The sizes that all models share, and how parameters are matched; no torch.

Every layer of every model holds the same number of parameters, the paper's ``12 d_model^2``: a
mixer takes what it needs, and the feed-forward width is chosen to use up the rest. Equal size is
therefore a property of the structure, for a third party's mixer too.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Self, get_args

from models.footprint import FeedForwardKind, Footprint
from models.presets import PRESETS, Preset

if TYPE_CHECKING:
    import torch

    from models.protocol import LanguageModel

LAYER_BUDGET = 12
"""Matrix parameters of one layer over d_model^2: a Transformer's 4 + 8, a RetNet's 8 + 4."""

MOST_PARAMETERS = 2**40
"""More than any model has that one machine trains or runs: what asks for them is a mistake."""

_PLAIN_TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (float, int), "bool": (bool,)}


class ConfigError(ValueError):
    """A configuration that cannot be built: the message says which field and why."""


@dataclass(frozen=True)
class ModelConfig(Footprint):
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

    # What a family says.

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

    def check(self) -> None:
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

    def _check_choices(self, **kinds: Any) -> None:
        """Raise ConfigError for a field that is none of the literals of its kind."""
        for name, kind in kinds.items():
            if getattr(self, name) not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise ConfigError(f"{name} must be one of {known}, not {getattr(self, name)!r}")

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
