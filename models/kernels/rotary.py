"""Loading a rotated vector inside a kernel, as :func:`models.layers.rotate` rotates it."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_rotated(source, index, inside, cos, sin, DIM: tl.constexpr):
    """Load ``source[index]``, rotated in float32: x cos + partner sin.

    An element's partner is half the dimension away; the sine of the first half is negative. The
    partner is loaded a second time, from the cache, which spares a shuffle between threads.

    Args:
        source: pointer to the vector's first element, or a block of them that broadcasts.
        index: int32, positions in the vector; may reach beyond ``DIM`` where masked.
        inside: mask of what is loaded, the rest is 0.
        cos: pointer to ``DIM`` contiguous float32.
        sin: pointer to as many sines.
        DIM: the vector's even dimension.
    """
    x = tl.load(source + index, mask=inside, other=0.0).to(tl.float32)
    partner = tl.load(source + (index + DIM // 2) % DIM, mask=inside, other=0.0).to(tl.float32)
    known = index < DIM
    cosine = tl.load(cos + index, mask=known, other=0.0)
    sine = tl.load(sin + index, mask=known, other=0.0)
    return x * cosine + partner * sine
