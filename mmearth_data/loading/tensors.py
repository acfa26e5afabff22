"""Tiles as tensors of torch: the map-style data set of a store, and batches of tensors. Needs PyTorch (``mmearth[model]``).

torch computes with few unsigned types: uint16 becomes int32, uint32 and uint64 become int64, other types are kept.
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
"""Type -> the smallest one that holds its values and with which torch computes on every device."""
ID = "tile_id"
"""Coordinate that is delivered as text."""


class TensorBatch(dict[str, Any]):
    """A batch of tensors; a dict that torch's default collation does not stack with other batches.

    A `DataLoader` with ``batch_size=None`` turns it into a plain dict.
    """

    def __copy__(self) -> dict[str, Any]:
        # torch's default_convert, which a DataLoader applies to a whole batch, fills a copy.
        return dict(self)


def refuse_collation(batch: Sequence[TensorBatch], *, collate_fn_map: Any = None) -> None:  # noqa: ANN401
    """Raise `InputError`: a batch of batches is a `DataLoader` without ``batch_size=None``."""
    raise InputError(
        f"Expected DataLoader(dataset, batch_size=None), got a DataLoader that joins {len(batch)} batch(es) of this data "
        "set; add batch_size=None, since the data set delivers whole batches: its own batch_size sets the tiles per batch."
    )


default_collate_fn_map[TensorBatch] = refuse_collation


def to_tensors(batch: Batch, buffers: BufferPool | None = None) -> TensorBatch:
    """Convert a batch of arrays to tensors.

    Parameters
    ----------
    batch
        As a `Loader` delivers it.
    buffers
        Memory for values whose type changes; others are not copied.

    Returns
    -------
    TensorBatch
        uint16 as int32, uint32 as int64, other types unchanged; times as int64, UTC milliseconds since 1970 (the smallest
        int64 where unknown); ``tile_id`` as a list of texts of 16 hex digits.
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
    """The tiles of a store by position, as tensors; for a `DataLoader` with any sampler, and for other libraries.

    The tiles of a shuffled batch are read from all over the store, when they are asked for: the iterable
    `mmearth_model.TileDataset` reads blocks of neighbours in advance, which is faster, above all from a bucket.

    Parameters
    ----------
    store
        The tiles (a selection of a store is a store).
    modalities
        Stored modalities to read; None reads all.
    bands
        Modality -> bands to deliver, in that order.
    normalise
        Deliver modalities of a continuous kind as float32 z-scores, NaN where nothing was observed, as `Loader` does.
    transform
        Called with each sample; its result is delivered instead.

    Raises
    ------
    InputError
        If the store has no tile, or a modality or band is not stored.

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
        """One tile: modality -> tensor (C, H, W), (C,) or (), and ``tile`` -> its coordinates, as `to_tensors` has them.

        ``tile_id`` is a text, the other coordinates are tensors of one value. A batch that `torch.utils.data.DataLoader`
        makes of samples has the form of `Loader`'s batches. Raises `UnknownPosition`, an
        `IndexError`, if there is no such position.
        """
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[Any]:
        """Several tiles, read together; see `__getitem__`. torch's `DataLoader` calls this for each batch."""
        batch = to_tensors(self.read(positions))
        samples = [{name: _one(values, i) for name, values in batch.items()} for i in range(len(positions))]
        return samples if self.transform is None else [self.transform(sample) for sample in samples]

    def read(self, positions: Sequence[int]) -> Batch:
        """Batch of arrays as stored, or normalised, of the tiles at some positions, in their order."""
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
        """Position from 0; numbers of numpy and torch are taken too."""
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
    """Do some work for each part, in threads if there are several."""
    if min(threads, len(parts)) <= 1:
        for part in parts:
            work(part)
        return
    with ThreadPoolExecutor(min(threads, len(parts))) as pool:
        for _ in pool.map(work, parts):
            pass


def _one(values: Any, index: int) -> Any:  # noqa: ANN401 - a tensor, a list or a dict of them
    """Entry of one tile."""
    return {key: _one(value, index) for key, value in values.items()} if isinstance(values, dict) else values[index]
