"""The embedded text, its tokens, and the prompts made of them."""

from __future__ import annotations

import gzip
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retbench.data import corpus_tokens, gpt2, prompt_tokens, shakespeare
from retbench.data.assets import read_verified
from retbench.errors import UserError


def speeches() -> list[list[str]]:
    return [speech.split("\n") for speech in shakespeare().rstrip("\n").split("\n\n")]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class TestCorpus:
    def test_is_about_1_2_MB_of_ascii_text(self) -> None:
        assert shakespeare().isascii()
        assert len(shakespeare()) == 1_202_375
        assert len(set(shakespeare())) == 63

    def test_is_a_speaker_line_and_the_lines_of_a_speech_between_blank_lines(self) -> None:
        assert speeches()[0] == ["BERNARDO", "Who's there?"]
        assert all(len(speech) >= 2 and all(speech) for speech in speeches())

    def test_holds_nine_plays(self) -> None:
        leads = "HAMLET", "KING LEAR", "MACBETH", "OTHELLO", "ROMEO", "BRUTUS", "KING RICHARD III"
        speakers = {speech[0] for speech in speeches()}
        assert speakers >= {*leads, "KING HENRY V", "PROSPERO"}

    def test_carries_no_markup(self) -> None:
        assert not set(shakespeare()) & set("*_#[]\\<>|`")

    def test_has_no_space_around_a_line(self) -> None:
        assert all(line == line.strip() for line in shakespeare().split("\n"))


class TestAssets:
    def test_a_verified_file_gives_its_text(self, tmp_path: Path) -> None:
        file = tmp_path / "text.gz"
        file.write_bytes(gzip.compress(b"to be"))
        assert read_verified(file, sha256(b"to be")) == "to be"

    def test_other_content_is_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "text.gz"
        file.write_bytes(gzip.compress(b"not to be"))
        with pytest.raises(UserError, match=r"text\.gz is not the file"):
            read_verified(file, sha256(b"to be"))

    @pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b"x" + b, lambda b: b""])
    def test_a_damaged_file_is_refused(self, tmp_path: Path, damage) -> None:
        file = tmp_path / "text.gz"
        file.write_bytes(damage(gzip.compress(b"to be, or not to be")))
        with pytest.raises(UserError, match=r"text\.gz"):
            read_verified(file, sha256(b"to be, or not to be"))

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"cannot read .*absent\.gz"):
            read_verified(tmp_path / "absent.gz", sha256(b""))


class TestTokenizer:
    # The identifiers are those of OpenAI's encoder.json.
    @pytest.mark.parametrize(
        ("text", "tokens"),
        [
            ("hello world", [31373, 995]),
            ("!", [0]),
            ("\n", [198]),
            (" ", [220]),
            (" the", [262]),
            ("\u00e9", [2634]),
            ("I'll we've", [40, 1183, 356, 1053]),
            (" gazed", [50255]),
        ],
    )
    def test_gives_gpt2s_tokens(self, text: str, tokens: list[int]) -> None:
        assert gpt2().encode(text) == tokens

    def test_has_50257_tokens_the_last_of_them_the_end_of_text(self) -> None:
        assert gpt2().n_vocab == 50257
        assert gpt2().encode("<|endoftext|>", allowed_special="all") == [50256]
        assert gpt2().encode_ordinary("<|endoftext|>") != [50256]

    def test_the_single_bytes_come_first_in_gpt2s_order(self) -> None:
        order = b"".join(gpt2().decode_single_token_bytes(token) for token in range(256))
        assert order[:2] == b'!"'
        assert order[188:190] == b"\x00\x01"
        assert sorted(order) == list(range(256))

    @given(st.text())
    def test_decoding_returns_any_text(self, text: str) -> None:
        assert gpt2().decode(gpt2().encode_ordinary(text)) == text


class TestPrompts:
    def test_are_int64_tokens_of_shape_batch_by_length(self) -> None:
        prompts = prompt_tokens(batch_size=3, seq_len=100, seed=0)
        assert prompts.shape == (3, 100)
        assert prompts.dtype == np.int64

    def test_are_the_text_of_the_corpus(self) -> None:
        for row in prompt_tokens(batch_size=8, seq_len=64, seed=1):
            assert gpt2().decode(row.tolist()) in shakespeare()

    def test_repeat_with_the_seed_and_change_with_it(self) -> None:
        prompts = prompt_tokens(2, 50, seed=5)
        assert np.array_equal(prompts, prompt_tokens(2, 50, seed=5))
        assert not np.array_equal(prompts, prompt_tokens(2, 50, seed=6))

    def test_a_longer_prompt_continues_the_shorter(self) -> None:
        assert np.array_equal(prompt_tokens(4, 32, 0), prompt_tokens(4, 64, 0)[:, :32])

    def test_rows_are_different_windows(self) -> None:
        prompts = prompt_tokens(batch_size=1024, seq_len=32, seed=0)
        assert len(np.unique(prompts, axis=0)) == 1024

    def test_rows_do_not_overlap_while_the_corpus_suffices(self) -> None:
        batch = 8
        rows = prompt_tokens(batch, corpus_tokens().size // batch, seed=2)
        used = np.bincount(rows.ravel(), minlength=50257)
        assert (used <= np.bincount(corpus_tokens(), minlength=50257)).all()

    def test_the_text_begins_anew_at_its_end(self) -> None:
        tokens = corpus_tokens().size
        (row,) = prompt_tokens(batch_size=1, seq_len=tokens + 500, seed=3)
        assert np.array_equal(row[tokens:], row[:500])

    def test_can_be_written_to_without_changing_the_corpus(self) -> None:
        before = prompt_tokens(1, 10, 0)
        prompt_tokens(1, 10, 0)[:] = 0
        assert np.array_equal(prompt_tokens(1, 10, 0), before)
        with pytest.raises(ValueError, match="read-only"):
            corpus_tokens()[0] = 0

    @pytest.mark.parametrize(("batch_size", "seq_len"), [(0, 8), (8, 0), (-1, 8), (10**7, 1)])
    def test_impossible_sizes_are_refused(self, batch_size: int, seq_len: int) -> None:
        with pytest.raises(ValueError, match=f"{batch_size} sequences of {seq_len} tokens"):
            prompt_tokens(batch_size, seq_len, seed=0)

    def test_are_made_without_torch(self) -> None:
        code = (
            "import sys; from retbench.data import prompt_tokens; prompt_tokens(1, 8, 0); "
            "sys.exit('torch' in sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)
