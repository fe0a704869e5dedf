"""The embedded corpus: nine plays by Shakespeare, real text that needs no network.

Hamlet, King Lear, Macbeth, Othello, Romeo and Juliet, Julius Caesar, Richard III, Henry V and The
Tempest, in this order. The layout is a line that names the speaker, the lines of the speech, and a
blank line; stage directions and headings are left out. NOTICE says where the text comes from.

    >>> shakespeare().splitlines()[:2]
    ['BERNARDO', "Who's there?"]
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from retbench.data.assets import read_verified

SHAKESPEARE_SHA256 = "704fcec40e23961537d25686926cea20772ee51371e80af21ff2b2c77c3ee73f"


@cache
def shakespeare() -> str:
    """The corpus: 1,202,375 ASCII characters, 63 of them distinct.

    Raises:
        UserError: the embedded file is missing or damaged.
    """
    return read_verified(Path("shakespeare.txt.gz"), SHAKESPEARE_SHA256)
