"""Query heads in groups that share a KV head, as attention and retention both can have them."""

from __future__ import annotations

from models.config import ConfigError
from models.family.decoder import DecoderConfig


class GroupedHeadsConfig(DecoderConfig):
    """A family whose query heads may share KV heads.

    Attributes:
        n_kv_heads: a field of the family's; 0 means :meth:`default_kv_heads`.
    """

    n_kv_heads: int

    def default_kv_heads(self) -> int:
        """A KV head for each query head."""
        return self.n_heads

    @property
    def group(self) -> int:
        """Query heads of one KV head."""
        return self.n_heads // self.n_kv_heads

    @property
    def head_dim(self) -> int:
        """Dimension of a head's queries and keys."""
        return self.d_model // self.n_heads

    @property
    def kv_dim(self) -> int:
        """Width of all keys of one token."""
        return self.n_kv_heads * self.head_dim

    def _check_kv_heads(self) -> None:
        """Settle ``n_kv_heads``; raise ConfigError where they do not divide the query heads."""
        if self.n_kv_heads == 0:
            object.__setattr__(self, "n_kv_heads", self.default_kv_heads())
        if self.n_kv_heads < 1 or self.n_heads % self.n_kv_heads:
            raise ConfigError(
                f"n_kv_heads = {self.n_kv_heads} does not divide n_heads = {self.n_heads}"
            )
