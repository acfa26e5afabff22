"""Seamless noise on the sphere.

The sphere is divided into the six faces of a cube, each face into a square lattice (equiangular, so that cells differ
little in size). A lattice vertex is identified by its integer position on the *cube*, the same on every face that
shares it; values hashed from it therefore agree along the cube's edges, over the poles and the antimeridian. Values
between vertices are blended with Perlin's quintic fade.

A `Chart` has the positions of points on the faces. Everything here is elementwise, so that the value of a point does
not depend on the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mmearth_data.planet.kernels import WORD, hash_grid, lattice_noise

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from mmearth_data.planet.grids import Window

    Float32 = NDArray[np.float32]
    Float64 = NDArray[np.float64]

EARTH_RADIUS_M = 6_371_008.8
FACE_M = EARTH_RADIUS_M * np.pi / 2
"""Length of a cube face along its middle."""
VERTEX_PRIMES = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)
CELL_PRIMES = VERTEX_PRIMES[:2]
OCTAVE_STD = 0.4526
"""Standard deviation of one octave: uniform values (variance 1/3), blended by the fade (1 - 2E[s] + 2E[s^2])."""


class Part(NamedTuple):
    """Points of a chart on one face."""

    face: int
    """0-2: +x +y +z, 3-5: -x -y -z."""
    where: NDArray[np.bool_] | None
    """Which of the chart's points; None means all."""
    u: Float64
    v: Float64
    """Position on the face, 0-1."""


@dataclass(frozen=True, slots=True)
class Chart:
    """Positions of points on the faces of the cube."""

    shape: tuple[int, ...]
    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """Number of points."""
        return int(np.prod(self.shape))


@dataclass(frozen=True, slots=True)
class Octaves:
    """A field as a sum of octaves; its values have mean 0 and standard deviation 1."""

    wavelengths_m: tuple[float, ...]
    gains: tuple[float, ...]


def unit_vectors(lon: Float64, lat: Float64) -> Float64:
    """Points on the unit sphere, (3, ...), from degrees."""
    lon_rad, lat_rad = np.radians(lon), np.radians(lat)
    across = np.cos(lat_rad)
    return np.stack([across * np.cos(lon_rad), across * np.sin(lon_rad), np.sin(lat_rad)])


def faces_of(xyz: Float64) -> NDArray[np.int8]:
    """Face of each point."""
    size = np.abs(xyz)
    axis = np.where(size[0] >= size[1], np.int8(0), np.int8(1))
    axis = np.where(np.maximum(size[0], size[1]) >= size[2], axis, np.int8(2))
    main = np.where(axis == 0, xyz[0], np.where(axis == 1, xyz[1], xyz[2]))
    found: NDArray[np.int8] = axis + np.int8(3) * (main < 0)
    return found


def faces_among(xyz: Float64) -> list[int]:
    """Faces that points are on, in order."""
    first = int(faces_of(xyz.reshape(3, -1)[:, :1])[0])
    a, b, c = first % 3, (first + 1) % 3, (first + 2) % 3
    main = xyz[a] if first < 3 else -xyz[a]
    if float(main.min()) > 0 and bool((main > np.abs(xyz[b])).all()) and bool((main > np.abs(xyz[c])).all()):
        return [first]
    found: list[int] = np.unique(faces_of(xyz)).tolist()
    return found


def face_uv(xyz: Float64, face: int) -> tuple[Float64, Float64]:
    """Position of points in the chart of a face, which extends slightly beyond the face's edges."""
    a, b, c = face % 3, (face + 1) % 3, (face + 2) % 3
    main = xyz[a] if face < 3 else -xyz[a]
    return np.arctan(xyz[b] / main) * (2 / np.pi) + 0.5, np.arctan(xyz[c] / main) * (2 / np.pi) + 0.5


def chart_of(xyz: Float64) -> Chart:
    """Chart of points (3, ...)."""
    found = faces_among(xyz)
    faces = faces_of(xyz) if len(found) > 1 else None
    parts = []
    for face in found:
        where = None if faces is None else faces == face
        u, v = face_uv(xyz if where is None else xyz[:, where], face)
        parts.append(Part(face, where, u, v))
    return Chart(xyz.shape[1:], tuple(parts))


@lru_cache(maxsize=8192)
def salt_of(seed: int, *words: object) -> int:
    """32 bits that belong to a seed and a name."""
    text = "/".join(str(word) for word in words).encode()
    return int.from_bytes(blake2b(text, digest_size=4, key=int(seed).to_bytes(8, "little")).digest(), "little")


def mix(words: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Scramble 32-bit words in place (lowbias32 of Chris Wellons' hash prospector) and return them."""
    words ^= words >> np.uint32(16)
    words *= np.uint32(0x7FEB352D)
    words ^= words >> np.uint32(15)
    words *= np.uint32(0x846CA68B)
    words ^= words >> np.uint32(16)
    return words


def hash_pixels(window: Window, salt: int) -> NDArray[np.uint32]:
    """32 random bits for each pixel of a window, by its position on the grid: (row, column)."""
    return hash_grid(window.row, window.column, window.height, window.width, CELL_PRIMES, salt)


def hash_cells(a: NDArray[np.int32], b: NDArray[np.int32], salt: int) -> NDArray[np.uint32]:
    """32 random bits for each pair of integers."""
    along_a = a.astype(np.uint32) * np.uint32(VERTEX_PRIMES[0]) + np.uint32(salt)
    words: NDArray[np.uint32] = along_a + b.astype(np.uint32) * np.uint32(VERTEX_PRIMES[1])
    return mix(words)


def unit_float(words: NDArray[np.uint32]) -> Float32:
    """Uniform in 0-1 from random words."""
    return (words >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)


def cells_across(wavelength_m: float) -> int:
    """Lattice cells along a face for features of a size."""
    return max(2, round(FACE_M / wavelength_m))


def value_noise(chart: Chart, cells: ArrayLike, salts: ArrayLike) -> Float32:
    """Octaves of noise at points, (octave, ...), of mean 0 and standard deviation 1, at most about 2.2.

    ``cells`` are the lattice cells along a face for each octave (`cells_across`), ``salts`` identify its field
    (`salt_of`).
    """
    across, bits = np.asarray(cells, np.int64), np.asarray(salts, np.int64)
    if chart.parts[0].where is None:
        return _octaves(chart.parts[0], across, bits).reshape(len(across), *chart.shape)
    out = np.empty((len(across), *chart.shape), np.float32)
    for part in chart.parts:
        out[:, part.where] = _octaves(part, across, bits)
    return out


def _octaves(part: Part, cells: NDArray[np.int64], salts: NDArray[np.int64]) -> Float32:
    """(octave, point) of the points on one face."""
    a, b, c = part.face % 3, (part.face + 1) % 3, (part.face + 2) % 3
    main = cells if part.face < 3 else -cells
    lattice = np.stack([cells, (main * VERTEX_PRIMES[a] + salts) & WORD], axis=1)
    out = np.empty((len(cells), part.u.size), np.float32)
    lattice_noise(part.u.ravel(), part.v.ravel(), lattice, (VERTEX_PRIMES[b], VERTEX_PRIMES[c]), OCTAVE_STD, out)
    return out


def octaves_of(chart: Chart, wavelengths_m: Sequence[float], seed: int, *words: object) -> Float32:
    """Octaves of some wavelengths at points, (octave, ...), of the field with a seed and a name."""
    salts = [salt_of(seed, *words, wavelength) for wavelength in wavelengths_m]
    return value_noise(chart, [cells_across(wavelength) for wavelength in wavelengths_m], salts)


class NoiseBank:
    """Named fields of one planet, each a sum of octaves."""

    def __init__(self, seed: int, fields: Mapping[str, Octaves]) -> None:
        self._slices: dict[str, slice] = {}
        cells: list[int] = []
        salts: list[int] = []
        gains: list[float] = []
        for name, octaves in fields.items():
            self._slices[name] = slice(len(cells), len(cells) + len(octaves.gains))
            norm = float(np.sqrt(sum(gain * gain for gain in octaves.gains)))
            for k, (wavelength, gain) in enumerate(zip(octaves.wavelengths_m, octaves.gains, strict=True)):
                cells.append(cells_across(wavelength))
                salts.append(salt_of(seed, name, k))
                gains.append(gain / norm)
        self._cells = np.array(cells, np.int64)
        self._salts = np.array(salts, np.int64)
        self._gains = np.array(gains, np.float32)

    def sample(self, chart: Chart, names: Sequence[str] | None = None) -> dict[str, Float32]:
        """All fields at the chart's points, or those named."""
        wanted = list(self._slices) if names is None else list(names)
        rows = np.concatenate([np.arange(self._slices[name].start, self._slices[name].stop) for name in wanted])
        octaves = value_noise(chart, self._cells[rows], self._salts[rows])
        octaves *= self._gains[rows][(slice(None), *(None,) * len(chart.shape))]
        out: dict[str, Float32] = {}
        start = 0
        for name in wanted:
            stop = start + self._slices[name].stop - self._slices[name].start
            out[name] = _sum_rows(octaves[start:stop])
            start = stop
        return out


def _sum_rows(rows: Iterable[Float32]) -> Float32:
    """Sum in the given order; the grouping of numpy's reduction may depend on the number of terms."""
    first, *others = rows
    total: Float32 = np.array(first)
    for row in others:
        total += row
    return total
