"""The settings of whatever trains on a text: which one, and in which tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from retbench.config import values as value
from retbench.config.settings import Settings, setting
from retbench.data.vocabulary import Progress, check_name
from retbench.errors import UserError

if TYPE_CHECKING:
    from retbench.data.dataset import Dataset


def tokenizer_name(raw: Any) -> str:
    """A tokenizer's name.

    Raises:
        ValueError: there is none of that name.
    """
    name = value.text(raw)
    try:
        check_name(name)
    except UserError as problem:
        raise ValueError(str(problem).removeprefix("tokenizer: ")) from None
    return name


@dataclass(frozen=True, kw_only=True)
class TextData(Settings):
    """The text that models are trained and tested on."""

    data: str | None = setting(
        value.path, "Text to train on: FILE, FOLDER, GLOB or hf:NAME.", metavar="TEXT",
        default=None, shown="embedded",
    )  # fmt: skip
    text_key: str = setting(
        value.text, "Of the text in a row of JSON, CSV or a hub's data set.", metavar="KEY",
        default="text",
    )  # fmt: skip
    tokenizer: str = setting(
        tokenizer_name, "char, byte, bpe:N, gpt2, cl100k_base or o200k_base.", metavar="NAME",
        cpu="char", cuda="gpt2",
    )  # fmt: skip

    def dataset(self, progress: Progress | None = None) -> Dataset:
        """The text, split and encoded; see :func:`retbench.data.dataset.load_dataset`."""
        from retbench.data.dataset import load_dataset

        return load_dataset(self.data, self.tokenizer, self.text_key, progress=progress)

    def forget(self) -> None:
        """Let :meth:`dataset` read the text anew: it may have changed since a process read it."""
        from retbench.data.dataset import load_dataset

        load_dataset.cache_clear()
