"""Work of a loader's threads and workers: fetch encoded tiles from the store, and decode them.

A kernel has no side effects and is small when pickled, because a worker opens the store by its path.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mmearth_data.store.codec import decode, decoded, fast_blosc
from mmearth_data.store.loops import load

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from mmearth_data.catalog.modality import Modality
    from mmearth_data.loading.scaling import Scaling
    from mmearth_data.store.content import Content

Batch: TypeAlias = dict[str, Any]
"""Stored modality -> array as stored, (B, C, H, W), (B, C) or (B,); ``tile`` -> dict of (B,) arrays."""
Packed: TypeAlias = "Mapping[str, Sequence[bytes]]"
"""Raster modality -> encoded tiles from `ChunkReader`."""
Allocate: TypeAlias = "Callable[[tuple[int, ...], np.dtype[Any]], np.ndarray[Any, Any]]"


@cache
def compiled_loops() -> Any:  # noqa: ANN401 - a module
    """Return the module `mmearth_data.loading.loops`; None if numba or python-blosc2 is not installed."""
    return None if fast_blosc() is None else load(lambda: import_module("mmearth_data.loading.loops"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """How one modality is delivered.

    Attributes
    ----------
    modality
        Modality as stored.
    picks
        Positions of the delivered bands on the stored band axis; None delivers all of them.
    scaling
        Normalisation; None delivers stored values.
    """

    modality: Modality
    picks: tuple[int, ...] | None = None
    scaling: Scaling | None = None

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the delivered values."""
        return self.modality.dtype if self.scaling is None else np.dtype(np.float32)

    def shape(self, size_px: int) -> tuple[int, ...]:
        """Shape of one tile's delivered values."""
        shape = self.modality.array_shape(size_px)
        return shape if self.picks is None else (len(self.picks), *shape[1:])

    def deliver(
        self, values: np.ndarray[Any, Any], levels: NDArray[np.integer[Any]], out: np.ndarray[Any, Any]
    ) -> None:
        """Write the stored values of tiles, (n, bands, ...), to the output."""
        chosen = values if self.picks is None else values[:, list(self.picks)]
        if self.scaling is None:
            np.copyto(out, chosen)
        else:
            self.scaling.apply(chosen, levels, out)

    def decode(self, chunks: Sequence[bytes], levels: NDArray[np.integer[Any]], out: np.ndarray[Any, Any]) -> None:
        """Write the values of encoded tiles to the output; raises like `mmearth_data.store.codec.decode`."""
        loops = compiled_loops() if self.picks is None else None
        if loops is not None and self.scaling is None:
            loops.decode(chunks, out)
        elif loops is not None and self.modality.dtype.name in loops.TYPES:
            loops.decode_normalised(chunks, self.modality, self.scaling, levels, out)
        elif self.in_place:
            decode(chunks, out)
        else:
            values = np.empty((1, *self.modality.array_shape(out.shape[-1])), self.modality.dtype)
            for k, _ in enumerate(decoded(chunks, values[0])):
                self.deliver(values, levels[k : k + 1], out[k : k + 1])

    @property
    def in_place(self) -> bool:
        """Whether the decoded tile is delivered unchanged."""
        return self.picks is None and self.scaling is None


@dataclass(frozen=True, slots=True)
class Kernel:
    """Fetches and decodes tiles of one store.

    Attributes
    ----------
    content
        The store.
    layers
        What is delivered of each tile.
    coordinates
        Names of the coordinates in ``batch["tile"]``.
    """

    content: Content
    layers: tuple[Layer, ...]
    coordinates: tuple[str, ...]

    @property
    def rasters(self) -> tuple[Layer, ...]:
        """Layers that are decoded; the others are in memory."""
        return tuple(layer for layer in self.layers if layer.modality.kind.is_raster)

    def fetch(self, rows: NDArray[np.intp], names: Sequence[str] | None = None) -> dict[str, list[bytes]]:
        """Fetch the encoded tiles of some rows of one shard.

        Raises
        ------
        StoreDamaged
            If a chunk is missing.
        """
        wanted = [layer.modality.name for layer in self.rasters] if names is None else names
        return {name: self.content.reader(name).encoded(rows) for name in wanted}

    def batch(self, rows: NDArray[np.intp], allocate: Allocate = np.empty) -> Batch:
        """Batch of some rows: raster arrays to be filled by `decode`, and everything else already filled."""
        size_px = self.content.layout.size_px
        levels = self.content.column("s2_level")[rows]
        batch: Batch = {}
        for layer in self.layers:
            name = layer.modality.name
            if layer.modality.kind.is_raster:
                batch[name] = allocate((len(rows), *layer.shape(size_px)), layer.dtype)
            elif layer.in_place:
                batch[name] = self.content.column(name)[rows]
            else:
                batch[name] = np.empty((len(rows), *layer.shape(size_px)), layer.dtype)
                layer.deliver(self.content.column(name)[rows], levels, batch[name])
        batch["tile"] = {name: self.content.column(name)[rows] for name in self.coordinates}
        batch["tile"]["time"] = batch["tile"]["time"].view("datetime64[ms]")
        return batch

    def decode(self, rows: NDArray[np.intp], packed: Packed, batch: Batch, places: range) -> None:
        """Decode tiles into a batch.

        Parameters
        ----------
        rows
            (B,) store rows of the batch.
        packed
            Encoded tiles for ``places``.
        batch
            Result of `batch`.
        places
            Positions in the batch.

        Raises
        ------
        StoreDamaged
            If a tile is corrupt.
        """
        some = slice(places.start, places.stop)
        for layer in self.rasters:
            name = layer.modality.name
            with self.content.reader(name).naming(rows[some]):
                layer.decode(packed[name], batch["tile"]["s2_level"][some], batch[name][some])


def whole_batch(kernel: Kernel, rows: NDArray[np.intp], index: Sequence[tuple[int, int]], *blocks: Packed) -> Batch:
    """Decode a batch whose tiles are in several fetched blocks; ``index`` is (block, position) of each tile."""
    batch = kernel.batch(rows)
    packed = {layer.modality.name: [blocks[b][layer.modality.name][i] for b, i in index] for layer in kernel.rasters}
    kernel.decode(rows, packed, batch, range(len(rows)))
    return batch
