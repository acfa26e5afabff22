"""Inner loops of decoding, compiled: what Blosc does after Zstandard.

They run without the interpreter's lock. All types are named, so that all is compiled when this is imported, and never
in a thread that a fork could leave behind in the middle of it. The result is cached beside this file or in the user's
cache folder; where neither can be written, each process compiles for itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit, types

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_WORD = np.uint64
# Masks of an 8 x 8 transposition of bits: H. S. Warren, Hacker's Delight, 7-3.
_ONES, _PAIRS, _FOURS = _WORD(0x00AA00AA00AA00AA), _WORD(0x0000CCCC0000CCCC), _WORD(0x00000000F0F0F0F0)
_BY_1, _BY_2, _BY_4 = _WORD(7), _WORD(14), _WORD(28)


def compiled(*signatures: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function for these signatures, and for no others."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return njit(list(signatures), nogil=True, cache=True)(function)
        except RuntimeError:  # numba's way to say that it found no folder for its cache
            return njit(list(signatures), nogil=True)(function)

    return decorate


_READ_ONLY_BYTES = types.Array(types.uint8, 1, "C", readonly=True)
_BYTES = types.Array(types.uint8, 1, "C")
_WORDS = types.Array(types.uint64, 1, "C")


@compiled(types.void(_READ_ONLY_BYTES, _WORDS))
def _transpose(planes: NDArray[np.uint8], out: NDArray[np.uint64]) -> None:
    """(8 * n,) bytes, the 8 bit planes of 8 * n bytes each a run of n, to these bytes, eight a word."""
    n = len(planes) // 8
    # Slices of their own let the compiler see that no index wraps around, and use vectors: five times as fast.
    p0, p1, p2, p3 = planes[:n], planes[n : 2 * n], planes[2 * n : 3 * n], planes[3 * n : 4 * n]
    p4, p5, p6, p7 = planes[4 * n : 5 * n], planes[5 * n : 6 * n], planes[6 * n : 7 * n], planes[7 * n : 8 * n]
    for i in range(n):
        x = _WORD(p0[i]) | (_WORD(p1[i]) << _WORD(8)) | (_WORD(p2[i]) << _WORD(16)) | (_WORD(p3[i]) << _WORD(24))
        x |= (_WORD(p4[i]) << _WORD(32)) | (_WORD(p5[i]) << _WORD(40)) | (_WORD(p6[i]) << _WORD(48))
        x |= _WORD(p7[i]) << _WORD(56)
        t = (x ^ (x >> _BY_1)) & _ONES
        x = x ^ t ^ (t << _BY_1)
        t = (x ^ (x >> _BY_2)) & _PAIRS
        x = x ^ t ^ (t << _BY_2)
        t = (x ^ (x >> _BY_4)) & _FOURS
        out[i] = x ^ t ^ (t << _BY_4)


@compiled(types.void(_READ_ONLY_BYTES, types.intp, _BYTES))
def unshuffle(planes: NDArray[np.uint8], itemsize: int, out: NDArray[np.uint8]) -> None:
    """Undo bitshuffle: from the bit planes of values to the values.

    Parameters
    ----------
    planes
        (n,) bytes: the lowest bit of all values, the next one of all values, and so on; n is a multiple of
        8 * ``itemsize``.
    itemsize
        Bytes of a value: 1, 2, 4 or 8.
    out
        (n,) bytes of the values, little-endian.
    """
    part = len(planes) // itemsize
    words = np.empty(len(planes) // 8, np.uint64)
    for k in range(itemsize):
        _transpose(planes[k * part : (k + 1) * part], words[k * part // 8 : (k + 1) * part // 8])
    ours = words.view(np.uint8)
    if itemsize == 2:
        low, high, pairs = ours[:part], ours[part:], out.view(np.uint16)
        for i in range(part):
            pairs[i] = np.uint16(low[i]) | (np.uint16(high[i]) << np.uint16(8))
    elif itemsize == 4:
        a, b, c, d = ours[:part], ours[part : 2 * part], ours[2 * part : 3 * part], ours[3 * part :]
        fours = out.view(np.uint32)
        for i in range(part):
            low_half = np.uint32(a[i]) | (np.uint32(b[i]) << np.uint32(8))
            fours[i] = low_half | (np.uint32(c[i]) << np.uint32(16)) | (np.uint32(d[i]) << np.uint32(24))
    else:
        for k in range(itemsize):
            for i in range(part):
                out[i * itemsize + k] = ours[k * part + i]
