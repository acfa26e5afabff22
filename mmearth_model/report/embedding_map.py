"""Two-dimensional map of the embeddings of tiles, with thumbnails."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import InputError, format_tile_ids
from mmearth_model.evaluation.embedding import Embeddings, embed
from mmearth_model.report.images import draw, encode, fitted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mmearth_data import Modality, Store
    from mmearth_model.weights.checkpoints import Checkpoint

FIRST_TILES = 16
"""Number of tiles embedded to measure the time per tile."""
NEIGHBOURS = 5
MOST_CLASSES = 14
"""Classes that colours and shapes distinguish."""
THUMBNAIL_PX, THUMBNAIL_BYTES = 64, 500_000
BATCH = 64
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownTiles:
    """Tiles on a map, in the order of the store.

    Attributes
    ----------
    names, lon, lat
        Tile ids, and degrees.
    label
        Name of the modality whose classes colour the map; "" if there is none.
    classes
        Class of each tile; empty without ``label``.
    pictures
        WebP file of each tile; empty if the store has no red, green and blue bands.
    """

    names: tuple[str, ...]
    lon: NDArray[np.float64]
    lat: NDArray[np.float64]
    label: str
    classes: tuple[str, ...]
    pictures: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """Positions of tiles (N, 2) by the embeddings of one run, the method, and the nearest neighbours of each tile."""

    run: str
    points: NDArray[np.float64]
    method: str
    neighbours: tuple[tuple[int, ...], ...]


def sample_tiles(store: Store, count: int) -> Store:
    """Select tiles that are spread over a store. Raises `InputError` when it has none."""
    if not len(store):
        raise InputError(f"{store.path}: expected tiles to embed, got none; give --store STORE.")
    chosen = np.zeros(len(store), dtype=bool)
    chosen[np.linspace(0, len(store) - 1, min(count, len(store))).round().astype(int)] = True
    return store.select(where=chosen)


def affordable(checkpoint: Checkpoint, tiles: Store, seconds: float, device: str) -> int:
    """Measure how many tiles can be embedded within a time, from the first ones."""
    first = sample_tiles(tiles, FIRST_TILES)
    embed(checkpoint, first, device=device)  # warm-up: loads libraries and weights
    begin = time.perf_counter()
    embed(checkpoint, first, device=device)
    each = (time.perf_counter() - begin) / len(first)
    return int(min(len(tiles), max(len(first), seconds / max(each, 1e-6))))


def find_plane(checkpoint: Checkpoint, tiles: Store, run: str, device: str) -> Plane:
    """Embed tiles and compute their positions on the map."""
    found: Embeddings = embed(checkpoint, tiles, device=device)
    points, method = found.plane()
    near = tuple(tuple(row for row, _ in found.neighbours(tile, NEIGHBOURS)) for tile in range(len(found.values)))
    return Plane(run=run, points=points, method=method, neighbours=near)


def look_at(tiles: Store) -> ShownTiles:
    """Read the properties of each tile that a map shows."""
    pictured = next((m for m in tiles.modalities.values() if m.input and m.stored and len(m.display.bands) == 3), None)
    labelled = next((m for m in tiles.modalities.values() if _colours(m)), None)
    wanted = [m.name for m in (pictured, labelled) if m is not None]
    pictures: list[bytes] = []
    classes: list[str] = []
    for batch in tiles.loader(batch_size=BATCH, shuffle=False, modalities=wanted) if wanted else ():
        pictures += [_thumbnail(values, pictured) for values in batch[pictured.name]] if pictured is not None else []
        classes += _class_names(batch[labelled.name], labelled) if labelled is not None else []
    coords = tiles.coords
    return ShownTiles(
        names=tuple(format_tile_ids(coords["tile_id"]).tolist()),
        lon=coords["lon"],
        lat=coords["lat"],
        label="" if labelled is None else labelled.long_name,
        classes=tuple(classes),
        pictures=tuple(fitted(pictures, THUMBNAIL_BYTES)),
    )


def _colours(modality: Modality) -> bool:
    return modality.kind == "tile/categorical" and modality.stored and len(modality.classes) <= MOST_CLASSES


def _class_names(codes: NDArray[Any], modality: Modality) -> Sequence[str]:
    index = modality.class_code_index()[codes.reshape(-1).astype(np.int64)]
    return [modality.classes[place].name if place >= 0 else UNKNOWN for place in index]


def _thumbnail(values: NDArray[Any], modality: Modality) -> bytes:
    """Draw a tile (C, H, W), with the same stretch for all its bands; missing values are grey."""
    bands = values[modality.band_indices(modality.display.bands)].astype(np.float64)
    valid = modality.observed(values)[modality.band_indices(modality.display.bands)]
    bands, valid = bands[:, :: _step(values), :: _step(values)], valid[:, :: _step(values), :: _step(values)]
    low, high = np.percentile(bands[valid], (1, 99)) if valid.any() else (0.0, 1.0)
    return encode(draw(bands, [(float(low), max(float(high), float(low) + 1))] * 3, "", valid), lossy=True)


def _step(values: NDArray[Any]) -> int:
    return max(1, int(values.shape[-1]) // THUMBNAIL_PX)
