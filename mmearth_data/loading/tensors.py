"""Tiles as PyTorch tensors: the map-style data set of a store, and batches of tensors. Requires ``mmearth[model]``.

PyTorch supports arithmetic with few unsigned types, so uint16 becomes int32, and uint32 and uint64 become int64.
"""

from __future__ import annotations

import operator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info
from torch.utils.data._utils.collate import default_collate_fn_map

from mmearth_data.catalog.tile import format_tile_ids
from mmearth_data.errors import InputError, UnknownPosition
from mmearth_data.loading.buffers import BufferPool
from mmearth_data.loading.loader import available_cores, open_kernel
from mmearth_data.loading.pipeline import FAR_READERS, TASK_TILES
from mmearth_data.words import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from mmearth_data.loading.kernel import Batch, Kernel
    from mmearth_data.store.reader import Store

    Sample = dict[str, Any]

__all__ = ["TensorBatch", "TileSamples", "to_tensors"]

COMPUTABLE: Mapping[str, np.dtype[Any]] = {
    "uint16": np.dtype(np.int32),
    "uint32": np.dtype(np.int64),
    "uint64": np.dtype(np.int64),
}
"""Type -> the smallest type that holds its values and supports arithmetic on every device of torch."""
ID = "tile_id"
"""Coordinate that samples and batches contain as text."""


class TensorBatch(dict[str, Any]):
    """A batch of tensors: a dict that torch's default collation refuses to stack.

    A `DataLoader` with ``batch_size=None`` turns it into a plain dict.
    """

    def __copy__(self) -> dict[str, Any]:
        # A DataLoader applies torch's default_convert to a whole batch, which fills a copy of it.
        return dict(self)


def refuse_collation(batch: Sequence[TensorBatch], *, collate_fn_map: Any = None) -> None:  # noqa: ANN401
    """Raise `InputError`, since a batch of batches means that a `DataLoader` lacks ``batch_size=None``."""
    raise InputError(
        f"Expected DataLoader(dataset, batch_size=None), got a DataLoader that stacks {len(batch)} batch(es) of this data "
        "set; add batch_size=None, since the data set delivers whole batches, whose size is its own batch_size."
    )


default_collate_fn_map[TensorBatch] = refuse_collation


def to_tensors(batch: Batch, buffers: BufferPool | None = None) -> TensorBatch:
    """Convert a batch of arrays to tensors.

    Parameters
    ----------
    batch
        Batch of a `Loader`.
    buffers
        Memory for values whose type changes; other values are not copied.

    Returns
    -------
    TensorBatch
        uint16 as int32, uint32 as int64, other types unchanged; times as int64, UTC milliseconds since 1970 (the smallest
        int64 if unknown); ``tile_id`` as a list of texts of 16 hex digits.
    """
    pool = BufferPool() if buffers is None else buffers
    return TensorBatch({name: _converted(name, value, pool) for name, value in batch.items()})


def _converted(name: str, values: Any, buffers: BufferPool) -> Any:  # noqa: ANN401 - an array or a dict of arrays
    if isinstance(values, dict):
        return {key: _converted(key, value, buffers) for key, value in values.items()}
    if name == ID:
        return format_tile_ids(values).tolist()
    if values.dtype.kind == "M":
        return torch.from_numpy(values.view(np.int64))
    wider = COMPUTABLE.get(values.dtype.name)
    if wider is None:
        return torch.from_numpy(values)
    converted = buffers.array(values.shape, wider)
    np.copyto(converted, values)
    return torch.from_numpy(converted)


class TileSamples(Dataset["Sample"]):
    """Map-style data set of a store: tensors of one tile per position, for any sampler and for other libraries.

    The tiles of a shuffled batch are read on access, from all over the store. The iterable `mmearth_model.TileDataset` reads
    blocks of neighbouring tiles in advance, which is faster, especially from a bucket.

    Parameters
    ----------
    store
        A store, or a selection of its tiles.
    modalities
        Stored modalities to read; None reads all.
    bands
        Modality -> bands to deliver, in this order.
    normalise
        Deliver continuous modalities as float32 z-scores, NaN where nothing was observed, as `Loader` does.
    transform
        Function that is called with each sample; its result is delivered instead.

    Raises
    ------
    InputError
        If there are no tiles, or a modality or band is not stored.

    Examples
    --------
    >>> from torch.utils.data import DataLoader
    >>> samples = open_store("planet.zarr").torch(modalities=["sentinel2", "biome"])  # doctest: +SKIP
    >>> for batch in DataLoader(samples, batch_size=16, shuffle=True, num_workers=2):  # doctest: +SKIP
    ...     batch["sentinel2"].shape, batch["tile"]["tile_id"][0]
    (torch.Size([16, 13, 64, 64]), '7a1ca5b0a9c2d004')
    """

    def __init__(
        self,
        store: Store,
        *,
        modalities: Sequence[str] | None = None,
        bands: Mapping[str, Sequence[str]] | None = None,
        normalise: bool = False,
        transform: Callable[[Sample], Any] | None = None,
    ) -> None:
        if not len(store):
            raise InputError(f"{store.path}: expected tiles to load, got none; widen the selection.")
        if transform is not None and not callable(transform):
            raise InputError(f"transform: expected a function of a sample, got {shown(transform)}.")
        self.store, self.transform = store, transform
        self.kernel: Kernel = open_kernel(store, modalities, bands, normalise=normalise)
        self.modalities = tuple(layer.modality.name for layer in self.kernel.layers)

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.store)

    def __getitem__(self, position: int) -> Any:  # noqa: ANN401 - of the transform
        """Return one tile: modality -> tensor (C, H, W), (C,) or (), and ``tile`` -> coordinates, as from `to_tensors`.

        ``tile_id`` is text; the other coordinates are tensors of one value. Batches that a `torch.utils.data.DataLoader`
        makes of samples have the same keys and shapes as those of `Loader`. Raises `UnknownPosition`, which is also an
        `IndexError`, if there is no such position.
        """
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[Any]:
        """Return several tiles, which are read together; torch's `DataLoader` calls this for each batch."""
        batch = to_tensors(self.read(positions))
        samples = [{name: _one(values, i) for name, values in batch.items()} for i in range(len(positions))]
        return samples if self.transform is None else [self.transform(sample) for sample in samples]

    def read(self, positions: Sequence[int]) -> Batch:
        """Read the tiles at some positions, in their order, as a batch of arrays, as stored or normalised."""
        rows = self.store.rows[[self._checked(position) for position in positions]]
        batch, packed = self.kernel.batch(rows), self._fetch(rows)
        # Worker processes share the cores.
        threads = 1 if get_worker_info() is not None else available_cores()
        parts = [range(first, min(first + TASK_TILES, len(rows))) for first in range(0, len(rows), TASK_TILES)]

        def decode(part: range) -> None:
            some = {name: chunks[part.start : part.stop] for name, chunks in packed.items()}
            self.kernel.decode(rows, some, batch, part)

        _each(decode, parts, threads)
        return batch

    def _fetch(self, rows: NDArray[np.intp]) -> dict[str, list[bytes]]:
        """Read the encoded tiles of each raster, shard by shard, in the order of the rows."""
        packed: dict[str, list[bytes]] = {layer.modality.name: [b""] * len(rows) for layer in self.kernel.rasters}
        order = np.argsort(rows, kind="stable")
        cuts = np.flatnonzero(np.diff(rows[order] // self.store.layout.tiles_per_shard)) + 1

        def fetch(places: NDArray[np.intp]) -> None:
            for name, chunks in self.kernel.fetch(rows[places]).items():
                for place, chunk in zip(places.tolist(), chunks, strict=True):
                    packed[name][place] = chunk

        _each(fetch, np.split(order, cuts), FAR_READERS if self.store.content.objects.far else 1)
        return packed

    def _checked(self, position: int) -> int:
        """Position from 0; integers of NumPy and torch are accepted too."""
        try:
            number, count = operator.index(position), len(self)
        except TypeError:
            raise InputError(
                f"Expected an integer position, got {shown(position)}; select tiles of the store first: store[0:4].torch()."
            ) from None
        if not -count <= number < count:
            raise UnknownPosition(f"Expected a position from 0 to {count - 1}, got {number}.")
        return number % count


def _each(work: Callable[[Any], None], parts: Sequence[Any], threads: int) -> None:
    """Process each part, in several threads if there are several parts."""
    if min(threads, len(parts)) <= 1:
        for part in parts:
            work(part)
        return
    with ThreadPoolExecutor(min(threads, len(parts))) as pool:
        for _ in pool.map(work, parts):
            pass


def _one(values: Any, index: int) -> Any:  # noqa: ANN401 - a tensor, a list or a dict of them
    """Values of one tile of a batch."""
    return {key: _one(value, index) for key, value in values.items()} if isinstance(values, dict) else values[index]
