"""Compiled inner loops of the planet: short sums over small arrays, for which numpy's calls cost more than its work.

Every loop computes each element as the same line of numpy would, in the same order and type, so that values do not
depend on the number of points. Loops run without the interpreter's lock. They are compiled on first use; the result is
cached beside this file or, if that is not writable, in the user's cache folder.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float32 = NDArray[np.float32]
    Float64 = NDArray[np.float64]

WORD = 0xFFFFFFFF


@njit(cache=True, nogil=True)
def mixed_word(word: int) -> int:
    """Scramble 32 bits (lowbias32 of Chris Wellons' hash prospector)."""
    word ^= word >> 16
    word = word * 0x7FEB352D & WORD
    word ^= word >> 15
    word = word * 0x846CA68B & WORD
    return word ^ word >> 16


@njit(cache=True, nogil=True)
def _fade(t: np.float32) -> np.float32:
    """Quintic fade curve (Perlin 2002): 0 to 1 with vanishing first and second derivative at both ends."""
    inner = t * (t * np.float32(6) - np.float32(15)) + np.float32(10)
    return t * t * t * inner


@njit(cache=True, nogil=True)
def _vertex(word: int, gain: np.float32, shift: np.float32) -> np.float32:
    return np.float32(mixed_word(word & WORD) >> 8) * gain - shift


@njit(cache=True, nogil=True)
def lattice_noise(
    u: Float64, v: Float64, lattice: NDArray[np.int64], steps: tuple[int, int], std: float, out: Float32
) -> None:
    """Octaves of value noise on one face of the cube, written to ``out`` (octave, point).

    ``u``, ``v`` are (point,) positions on the face, 0-1; ``lattice`` is (octave, 2): cells along the face, and the 32
    bits of the face and field. ``steps`` is what one vertex along u and v adds to those bits; ``std`` the standard
    deviation of an octave before it is scaled to 1.
    """
    gain, shift = np.float32(2.0**-23 / std), np.float32(1 / std)
    for k in range(len(lattice)):
        n, offset = lattice[k]
        i = j = -(1 << 40)
        a = b = c = d = np.float32(0)
        for p in range(len(u)):
            x, y = u[p] * n, v[p] * n
            left, low = math.floor(x), math.floor(y)
            if left != i or low != j:  # neighbouring points usually share their four vertices
                i, j = left, low
                word = (2 * i - n) * steps[0] + offset + (2 * j - n) * steps[1]
                a, b = _vertex(word, gain, shift), _vertex(word + 2 * steps[1], gain, shift)
                word += 2 * steps[0]
                c, d = _vertex(word, gain, shift), _vertex(word + 2 * steps[1], gain, shift)
            s, t = _fade(np.float32(x - left)), _fade(np.float32(y - low))
            first, second = (b - a) * t + a, (d - c) * t + c
            out[k, p] = (second - first) * s + first


@njit(cache=True, nogil=True)
def blend(
    nodes: NDArray[Any],
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    row_weights: NDArray[Any],
    column_weights: NDArray[Any],
) -> NDArray[Any]:
    """Interpolate (field, node row, node column) to (field, row, column) by weights along rows and columns.

    ``rows``, ``columns`` are the first nodes that each row and column of the result depends on; ``row_weights`` (tap,
    row) and ``column_weights`` (tap, column) the weights of that node and the next ones. The result has the nodes'
    type.
    """
    fields, height, _ = nodes.shape
    out = np.empty((fields, len(rows), len(columns)), nodes.dtype)
    wide = np.empty((height, len(columns)), nodes.dtype)
    for f in range(fields):
        for r in range(height):
            for c in range(len(columns)):
                total = nodes[f, r, columns[c]] * column_weights[0, c]
                for k in range(1, len(column_weights)):
                    total += nodes[f, r, columns[c] + k] * column_weights[k, c]
                wide[r, c] = total
        for r in range(len(rows)):
            line = out[f, r]
            for k in range(len(row_weights)):
                weight, other = row_weights[k, r], wide[rows[r] + k]
                for c in range(len(columns)):  # innermost, so that it becomes vector instructions
                    line[c] = line[c] + other[c] * weight if k else other[c] * weight
    return out


@njit(cache=True, nogil=True)
def bilinear(
    nodes: Float32, rows: NDArray[np.intp], columns: NDArray[np.intp], across: Float32, along: Float32
) -> Float32:
    """Interpolate linearly between neighbouring nodes: ``a + (b - a) * t`` along columns, then along rows.

    ``nodes`` is (field, node row, node column). ``rows``, ``columns`` are the nodes before each row and column of the
    result; ``across`` (row,) and ``along`` (column,) the distances from them, 0-1.
    """
    fields, height, _ = nodes.shape
    out = np.empty((fields, len(rows), len(columns)), np.float32)
    wide = np.empty((height, len(columns)), np.float32)
    for f in range(fields):
        for r in range(height):
            for c in range(len(columns)):
                left, right = nodes[f, r, columns[c]], nodes[f, r, columns[c] + 1]
                wide[r, c] = left + (right - left) * along[c]
        for r in range(len(rows)):
            for c in range(len(columns)):
                low, high = wide[rows[r], c], wide[rows[r] + 1, c]
                out[f, r, c] = low + (high - low) * across[r]
    return out


@njit(cache=True, nogil=True)
def smoothstep(x: Float32, scale: np.float32, shift: np.float32) -> Float32:
    """Cubic step ``t * t * (3 - 2 t)`` of ``t = x * scale - shift`` clipped to 0-1, (point,)."""
    out = np.empty(len(x), np.float32)
    for p in range(len(x)):
        t = x[p] * scale - shift
        t = min(max(t, np.float32(0)), np.float32(1))
        out[p] = (t * np.float32(-2) + np.float32(3)) * t * t
    return out


@njit(cache=True, nogil=True)
def mixture(shares: Float32, kept: NDArray[np.intp], weights: Float32) -> Float32:
    """Weighted sum of some layers, in order: (layer, point) to (point,)."""
    out = np.zeros(shares.shape[1], np.float32)
    for k in range(len(kept)):
        layer, weight = shares[kept[k]], weights[k]
        for p in range(len(layer)):
            out[p] += layer[p] * weight
    return out


@njit(cache=True, nogil=True)
def hash_grid(row: int, column: int, height: int, width: int, primes: tuple[int, int], salt: int) -> NDArray[np.uint32]:
    """32 random bits for each pixel of a window, (row, column)."""
    out = np.empty((height, width), np.uint32)
    for r in range(height):
        along = (row + r) * primes[1] + salt
        for c in range(width):
            out[r, c] = mixed_word((column + c) * primes[0] + along & WORD)
    return out


@njit(cache=True, nogil=True)
def _unit(word: int) -> np.float32:
    """Uniform in 0-1 from 32 random bits."""
    return np.float32((word & WORD) >> 8) * np.float32(2.0**-24)


@njit(cache=True, nogil=True)
def settlements(
    x: Float64,
    y: Float64,
    people: Float32,
    cells: int,
    lattice_m: np.float32,
    radii_m: tuple[np.float32, np.float32],
    primes: tuple[int, int],
    salt: int,
) -> Float32:
    """Density of the densest settlement in the nine lattice cells around each point, (point,).

    ``x``, ``y`` are (point,) positions in lattice cells, ``people`` (point,) is the suitability for settlement, 0-1.
    ``cells`` is the number of cells along a face (those at its edge have no settlement), ``lattice_m`` their side.
    ``radii_m`` is the smallest radius and the range of radii. ``primes`` and ``salt`` determine the random bits of each
    cell.
    """
    out = np.zeros(len(x), np.float32)
    scale = np.float32(1 / 0.08)
    for p in range(len(x)):
        for near in range(9):
            i, j = math.floor(x[p]) + near // 3 - 1, math.floor(y[p]) + near % 3 - 1
            if i <= 0 or i >= cells - 1 or j <= 0 or j >= cells - 1:
                continue
            bits = mixed_word(i * primes[0] + salt + j * primes[1] & WORD)
            t = min((people[p] - _unit(mixed_word(bits ^ 0x165667B1))) * scale, np.float32(1))
            if t <= 0:
                continue
            a = x[p] - i - 0.2 - np.float32(0.6) * _unit(bits)
            b = y[p] - j - 0.2 - np.float32(0.6) * _unit(bits << 8)
            size = _unit(mixed_word(bits ^ 0x27D4EB2F))
            radius = radii_m[0] + radii_m[1] * size * size * size
            away = np.float32(1.35) - np.sqrt(np.float32(a * a + b * b)) * lattice_m / radius
            there = (t * np.float32(-2) + np.float32(3)) * t * t
            out[p] = max(out[p], min(max(away, np.float32(0)), np.float32(1)) * there)
    return out


@njit(cache=True, nogil=True)
def field_rows(
    along: Float32,
    across: Float32,
    length: Float32,
    width: Float32,
    commune: NDArray[np.uint32],
    primes: tuple[int, int],
) -> tuple[NDArray[np.uint32], Float32]:
    """Key of the parcel that contains each point, and the distance to its edge in metres, (point,).

    ``along``, ``across`` are metres along and across the rows of fields, ``length`` and ``width`` the typical length of
    a field and the width of a row, metres. ``commune`` has random bits; ``primes`` is what a row and a field add to
    them.
    """
    key, edge = np.empty(len(along), np.uint32), np.empty(len(along), np.float32)
    for p in range(len(along)):
        position = across[p] / width[p]
        row = np.floor(position)
        from_row = (position - row) * width[p]
        bits = mixed_word(int(row) * primes[0] + int(commune[p]) & WORD)
        long = length[p] * (np.float32(0.55) + _unit(bits))
        position = along[p] / long + _unit(bits << 9)
        column = np.floor(position)
        from_cut = (position - column) * long
        key[p] = mixed_word(int(column) * primes[1] + bits & WORD)
        edge[p] = min(min(from_row, width[p] - from_row), min(from_cut, long - from_cut))
    return key, edge
