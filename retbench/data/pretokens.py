"""Where a text may be cut so that the tokens of its pieces are the whole text's.

A byte-pair encoding first splits a text by a pattern (the pre-tokenizer's) and never merges across
the splits. The patterns of GPT-2 and of OpenAI's later encodings all split between a letter or
digit and white space or a sentence's punctuation, whatever stands around the two; none looks back,
and a text that ends in a letter or digit is split as it is within a longer one. These places are
the only ones used here, but for a run without any of them that is longer than any word: it is cut
every ``LONGEST`` characters from its beginning, for the libraries take quadratic time for such
runs, or panic. So all cuts follow from the text alone.

    >>> list(in_pieces(["to b", "e or", " not"]))
    ['to', ' be', ' or not']
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

LONGEST = 4096
"""Characters of a run that is not cut."""

_SENTENCE = r".,;:!?\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f"  # the latter full-width
_SPLIT = re.compile(rf"[^\W_](?=[\s{_SENTENCE}])")


def in_pieces(texts: Iterable[str]) -> Iterator[str]:
    """A text that comes cut anywhere, cut only where that changes no token."""
    rest = ""
    for text in texts:
        rest += text
        if cut := _last_cut(rest):
            yield rest[:cut]
            rest = rest[cut:]
    if rest:
        yield rest


def bounded(text: str) -> Iterator[str]:
    """The text in parts, cut only in runs of more than ``LONGEST`` characters."""
    part = run = 0
    for end in (*(split.end() for split in _SPLIT.finditer(text)), len(text)):
        while end - run > LONGEST:
            run += LONGEST
            yield text[part:run]
            part = run
        run = end
    yield text[part:]


def _last_cut(text: str) -> int:
    """The last place at which a text may be cut, 0 where there is none."""
    for start in (max(0, len(text) - LONGEST), 0):
        splits = [split.end() for split in _SPLIT.finditer(text, start)]
        if splits:
            break
    run = splits[-1] if splits else 0
    return run + (len(text) - run) // LONGEST * LONGEST
