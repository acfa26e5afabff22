"""Communes with their fields in straight rows, towns with their streets.

Communes are the cells of a lattice in warped coordinates, so that their borders wind. Within a commune, fields are in
rows of one direction, and each row has divisions of its own. A field is identified by a hash of its position.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mmearth_data.planet.kernels import field_rows, settlements
from mmearth_data.planet.noise import CELL_PRIMES, FACE_M, cells_across, hash_cells, mix, salt_of, unit_float

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmearth_data.planet.ecology import Ecology
    from mmearth_data.planet.noise import Chart, Float32, Float64, Part

COMMUNE_M = 5_200.0
BLOCK_M = (64.0, 104.0)
"""Across and along the streets of a town."""
TOWN_LATTICE_M, VILLAGE_LATTICE_M = 13_000.0, 3_400.0


class Parcels(NamedTuple):
    """Parcels of pixels; every field has the shape of the window."""

    key: NDArray[np.uint32]
    """32 bits that all pixels of a parcel share."""
    edge_m: Float32
    border_m: Float32
    along_m: Float32
    across_m: Float32
    """Position in the commune, along and across its rows."""
    commune: NDArray[np.uint32]
    """32 bits that all pixels of a commune share."""

    def blocks(self) -> tuple[NDArray[np.uint32], Float32]:
        """Blocks of a town: key of the block, distance to the street."""
        return _rows_of_fields(
            self.along_m, self.across_m, np.float32(BLOCK_M[1]), np.float32(BLOCK_M[0]), self.commune
        )


def parcels_at(chart: Chart, seed: int, ecology: Ecology) -> Parcels:
    """Parcels of the pixels of a warped chart."""
    if chart.parts[0].where is None:
        return _of_part(chart.parts[0], seed, ecology)
    bits, metres = np.zeros((2, *chart.shape), np.uint32), np.zeros((4, *chart.shape), np.float32)
    out = Parcels(bits[0], metres[0], metres[1], metres[2], metres[3], bits[1])
    for part in chart.parts:
        for target, values in zip(out, _of_part(part, seed, ecology), strict=True):
            target[part.where] = values
    return out


def _of_part(part: Part, seed: int, ecology: Ecology) -> Parcels:
    cells = cells_across(COMMUNE_M)
    x, y = part.u * cells, part.v * cells
    i, j = np.floor(x).astype(np.int32), np.floor(y).astype(np.int32)
    first_i, first_j = int(i.min()), int(j.min())
    rows, columns = int(i.max()) - first_i + 1, int(j.max()) - first_j + 1
    table = _communes(part.face, cells, first_i, first_j, (rows, columns), seed, ecology)
    which = (i - np.int32(first_i)) * np.int32(columns) + (j - np.int32(first_j))
    side = np.float32(FACE_M / cells)
    a, b = (x - i).astype(np.float32) * side, (y - j).astype(np.float32) * side
    border = np.minimum(np.minimum(a, side - a), np.minimum(b, side - b))
    cosine, sine = table.cosine[which], table.sine[which]
    along, across = a * cosine + b * sine, b * cosine - a * sine
    commune = table.key[which]
    key, edge = _rows_of_fields(along, across, table.length[which], table.width[which], commune)
    return Parcels(key, edge, border, along, across, commune)


class _Communes(NamedTuple):
    key: NDArray[np.uint32]
    cosine: Float32
    sine: Float32
    length: Float32
    width: Float32


def _communes(
    face: int, cells: int, first_i: int, first_j: int, shape: tuple[int, int], seed: int, ecology: Ecology
) -> _Communes:
    """Direction and size of fields in each commune of a small block of the lattice."""
    i, j = (index.ravel() for index in np.mgrid[first_i : first_i + shape[0], first_j : first_j + shape[1]])
    key = hash_cells(i.astype(np.int32), j.astype(np.int32), salt_of(seed, "commune", face))
    angle = unit_float(mix(key ^ np.uint32(0x5BD1E995))).astype(np.float64) * np.pi
    lon, lat = _lonlat(face, (i + 0.5) / cells, (j + 0.5) / cells)
    size = ecology.traits(lon, lat)["field_m"]
    length = size * (np.float32(0.7) + np.float32(0.9) * unit_float(mix(key ^ np.uint32(0x1B873593))))
    width = length * (np.float32(0.3) + np.float32(0.5) * unit_float(mix(key ^ np.uint32(0xCC9E2D51))))
    return _Communes(key, np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32), length, width)


def _lonlat(face: int, u: Float64, v: Float64) -> tuple[Float64, Float64]:
    xyz = np.empty((3, len(u)))
    xyz[face % 3] = 1 if face < 3 else -1
    xyz[(face + 1) % 3] = np.tan((u - 0.5) * (np.pi / 2))
    xyz[(face + 2) % 3] = np.tan((v - 0.5) * (np.pi / 2))
    return np.degrees(np.arctan2(xyz[1], xyz[0])), np.degrees(np.arctan2(xyz[2], np.hypot(xyz[0], xyz[1])))


def _rows_of_fields(
    along: Float32,
    across: Float32,
    length: Float32 | np.float32,
    width: Float32 | np.float32,
    commune: NDArray[np.uint32],
) -> tuple[NDArray[np.uint32], Float32]:
    long, wide = (np.broadcast_to(size, along.shape).ravel() for size in (length, width))
    key, edge = field_rows(along.ravel(), across.ravel(), long, wide, commune.ravel(), CELL_PRIMES)
    return key.reshape(along.shape), edge.reshape(along.shape)


def town_density(chart: Chart, people: Float32, seed: int) -> Float32:
    """Density of buildings, 0-1, from towns and villages nearby and the suitability for settlement, 0-1."""
    density = np.zeros(chart.shape, np.float32)
    if not people.any():
        return density
    for part in chart.parts:
        where = ... if part.where is None else part.where
        towns = _settled(part, people[where], TOWN_LATTICE_M, (500.0, 3600.0), salt_of(seed, "town", part.face))
        villages = _settled(part, people[where], VILLAGE_LATTICE_M, (130.0, 420.0), salt_of(seed, "village", part.face))
        density[where] = np.maximum(towns, villages * np.float32(0.75))
    return density


def _settled(part: Part, people: Float32, lattice_m: float, radii_m: tuple[float, float], salt: int) -> Float32:
    """Density from settlements of one size: at most one per lattice cell, none along the face's edge."""
    cells = cells_across(lattice_m)
    x, y = part.u * cells, part.v * cells
    radii = np.float32(radii_m[0]), np.float32(radii_m[1] - radii_m[0])
    where = x.ravel(), y.ravel(), people.ravel()
    return settlements(*where, cells, np.float32(lattice_m), radii, CELL_PRIMES, salt).reshape(x.shape)
