"""What can become of a file: its bytes, changed as by a bad disk, an editor or a cut."""

from __future__ import annotations

import random
from collections.abc import Callable

Mutation = Callable[[bytes, random.Random], bytes]


def flipped(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]


def cut_out(data: bytes, rng: random.Random) -> bytes:
    first, last = sorted(rng.randrange(len(data)) for _ in range(2))
    return data[:first] + data[last + 1 :]


def truncated(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def line_lost(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    del lines[rng.randrange(len(lines))]
    return b"".join(lines)


def line_doubled(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    place = rng.randrange(len(lines))
    return b"".join([*lines[: place + 1], *lines[place:]])


def lines_swapped(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    first, second = (rng.randrange(len(lines)) for _ in range(2))
    lines[first], lines[second] = lines[second], lines[first]
    return b"".join(lines)


def number_changed(data: bytes, rng: random.Random) -> bytes:
    digits = [place for place, byte in enumerate(data) if 48 <= byte < 58]
    if not digits:
        return data
    place = rng.choice(digits)
    other = rng.choice([b"-1", b"1e999", b"NaN", b"9" * 40, b"null", b'"x"', b"[]", b"7", b"0"])
    return data[:place] + other + data[place + 1 :]


def inserted(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    what = rng.choice([b"\0", b"\\ud800", b"[" * 100_000, b"\xff", b"{}", b"\n", b'"', b" "])
    return data[:place] + what + data[place:]


MUTATIONS: tuple[Mutation, ...] = (
    flipped, cut_out, truncated, line_lost, line_doubled, lines_swapped, number_changed, inserted,
)  # fmt: skip
