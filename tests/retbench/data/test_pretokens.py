"""A text's tokens are the same wherever it was cut, and no text takes for ever."""

from __future__ import annotations

import random
import signal
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tiktoken

from retbench.data import bpe, pretokens, shakespeare
from retbench.data.pretokens import bounded, in_pieces
from retbench.data.tokenizer import gpt2
from retbench.data.vocabulary import TiktokenTokenizer, Tokenizer, tokenizer_named
from retbench.errors import UserError

# The pre-tokenizer of o200k_base, over single bytes: its pieces are its tokens' edges.
O200K = "|".join((
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+",
))  # fmt: skip
LINES = (
    "to be, or", "  not\u2014to be!", "", "/ don't we'll", "x  3.14159",
    "\u3000\u3000\u5343\u91cc\u4e4b\u884c\uff0c\u59cb\u65bc\u8db3\u4e0b\u3002",
)  # fmt: skip


@cache
def tokenizer(name: str) -> Tokenizer:
    if name == "o200k":
        ranks = {gpt2().decode_single_token_bytes(token): token for token in range(50256)}
        split = tiktoken.Encoding(name, pat_str=O200K, mergeable_ranks=ranks, special_tokens={})
        return TiktokenTokenizer(name, split)
    return tokenizer_named(name, lambda: iter([shakespeare()[:20_000]]))


@pytest.mark.parametrize("name", ["gpt2", "bpe:300", "o200k"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\u2028", " \n\n", " "])
def test_the_tokens_of_a_text_are_the_same_wherever_it_is_cut(name: str, end: str) -> None:
    text = end.join(random.Random(end).choices(LINES, k=60))
    whole = tokenizer(name).encode(text)
    for size in (1, 7, 40):
        pieces = list(in_pieces(text[i : i + size] for i in range(0, len(text), size)))
        assert len(pieces) > 5
        found = np.concatenate([tokenizer(name).encode(piece) for piece in pieces])
        assert np.array_equal(found, whole)


@pytest.mark.parametrize("text", ["ACGT" * 99, " " * 333 + "x", "a" * 50 + " " + "-" * 99 + "b c"])
def test_a_run_longer_than_any_word_is_cut_at_the_same_places(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(pretokens, "LONGEST", 16)
    whole = tokenizer("gpt2").encode(text)
    assert max(map(len, bounded(text))) <= 51
    for size in (1, 5, 40, 1000):
        pieces = list(in_pieces(text[i : i + size] for i in range(0, len(text), size)))
        assert "".join(pieces) == text
        found = np.concatenate([tokenizer("gpt2").encode(piece) for piece in pieces])
        assert np.array_equal(found, whole)


def test_a_million_spaces_before_a_letter_are_encoded() -> None:
    text = " " * 1_000_000 + "x"
    assert tokenizer("gpt2").decode(tokenizer("gpt2").encode(text)) == text


def test_tokens_are_learnt_from_a_word_of_any_length() -> None:
    letters = "".join(random.Random(0).choices("ACGT", k=100_000))
    learnt = bpe.learn(300, [letters])
    assert len(learnt) == 300 and all(set(token) <= set(b"ACGT") for token in learnt[256:])


def test_who_waits_for_the_tokens_is_told_and_may_stop(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: list[subprocess.Popen[str]] = []
    begin = subprocess.Popen

    def stop(seconds: float) -> None:
        raise KeyboardInterrupt

    program = tmp_path / "program.py"
    program.write_text("import sys, time; sys.stdin.read(); time.sleep(60)")
    monkeypatch.setattr(bpe, "_PROGRAM", program)
    monkeypatch.setattr(
        subprocess, "Popen", lambda *a, **k: started.append(begin(*a, **k)) or started[0]
    )
    with pytest.raises(KeyboardInterrupt):
        bpe.learn(300, ["to be"], stop)
    assert started[0].returncode == -signal.SIGKILL


def test_a_process_that_cannot_learn_the_tokens_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text("raise MemoryError('no room')")
    monkeypatch.setattr(bpe, "_PROGRAM", program)
    with pytest.raises(UserError, match=r"no tokens could be learnt \(MemoryError: no room\)"):
        bpe.learn(300, ["to be"] * 999)
