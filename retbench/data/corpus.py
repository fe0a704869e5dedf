"""The embedded corpus: nine plays by Shakespeare, real text that needs no network.

Hamlet, King Lear, Macbeth, Othello, Romeo and Juliet, Julius Caesar, Richard III, Henry V and The
Tempest, in this order. The layout is a line that names the speaker, the lines of the speech, and a
blank line; stage directions and headings are left out. NOTICE says where the text comes from.

    >>> shakespeare().splitlines()[:2]
    ['BERNARDO', "Who's there?"]
"""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path

from retbench.data.assets import read_verified

_OPENINGS = {
    "Hamlet": "BERNARDO\nWho's there?",
    "King Lear": "KENT\nI thought the king",
    "Macbeth": "First Witch\nWhen shall we three",
    "Othello": "RODERIGO\nTush!",
    "Romeo and Juliet": "Prologue\nTwo households",
    "Julius Caesar": "FLAVIUS\nHence! home",
    "Richard III": "GLOUCESTER\nNow is the winter",
    "Henry V": "Chorus\nO for a Muse",
    "The Tempest": "Master\nBoatswain!",
}
SHAKESPEARE_SHA256 = "704fcec40e23961537d25686926cea20772ee51371e80af21ff2b2c77c3ee73f"


@cache
def shakespeare() -> str:
    """The corpus: 1,202,375 ASCII characters, 63 of them distinct.

    Raises:
        UserError: the embedded file is missing or damaged.
    """
    return read_verified(Path("shakespeare.txt.gz"), SHAKESPEARE_SHA256)


def plays() -> dict[str, str]:
    """The corpus as nine texts by their titles, in its order; joined they are the corpus.

    Raises:
        UserError: the embedded file is missing or damaged.
    """
    text = shakespeare()
    edges = [*map(text.index, _OPENINGS.values()), len(text)]
    return {
        title: text[start:end]
        for title, (start, end) in zip(_OPENINGS, itertools.pairwise(edges), strict=True)
    }
