"""The tokens of a byte-pair encoding, learnt from a text.

The library tokenizers finds them. It cannot be stopped while it does, so it works in a process of
its own, which is killed when this one is interrupted.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from retbench.data.pretokens import bounded
from retbench.data.tokenizer import merged
from retbench.errors import UserError

_PROGRAM = Path(__file__).with_name("bpe_trainer.py")


def learn(
    size: int, texts: Iterable[str], waiting: Callable[[float], None] | None = None
) -> list[bytes]:
    """Up to ``size`` tokens by rank: the 256 single bytes, then what each merge makes.

    Args:
        size: tokens, at least 256.
        texts: what they are learnt from; no token spans two.
        waiting: told every second, for how many seconds all texts have been read.

    Raises:
        UserError: the process that learns them was ended, as where memory is short.
    """
    process = subprocess.Popen(
        [sys.executable, "-P", str(_PROGRAM), str(size)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        encoding="utf-8", start_new_session=True,
    )  # fmt: skip
    try:
        _send(process, texts)
        found, said = _answer(process, waiting)
    finally:
        process.kill()
        process.communicate()
    if process.returncode:
        last = said.strip().rpartition("\n")[2] or f"status {process.returncode}"
        raise UserError(
            f"tokenizer: no tokens could be learnt ({last})", "give less text, or fewer tokens"
        )
    merges = (merged(" ".join(pair)) for pair in json.loads(found))
    return list(dict.fromkeys((*(bytes([byte]) for byte in range(256)), *merges)))


def _send(process: subprocess.Popen[str], texts: Iterable[str]) -> None:
    assert process.stdin is not None
    try:
        with process.stdin as pipe:
            for text in texts:
                pipe.writelines(f"{json.dumps(part)}\n" for part in bounded(text))
    except BrokenPipeError:
        pass  # it has ended: its status says how
    process.stdin = None  # for communicate, which would flush it


def _answer(
    process: subprocess.Popen[str], waiting: Callable[[float], None] | None
) -> tuple[str, str]:
    begun = time.monotonic()
    while True:
        try:
            return process.communicate(timeout=1)
        except subprocess.TimeoutExpired:
            if waiting:
                waiting(time.monotonic() - begun)
