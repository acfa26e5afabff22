"""The loader: shuffled batches of raw or normalised arrays, decoded in parallel with Dask."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.catalog.tile import as_integer
from mmearth_data.errors import InputError
from mmearth_data.loading.buffers import BufferPool, plain_memory
from mmearth_data.loading.kernel import Batch, Kernel, Layer, compiled_loops
from mmearth_data.loading.pipeline import ClusterPipeline, ThreadPipeline, spans_of
from mmearth_data.loading.plan import Share, Window, cut_blocks, plan_epoch
from mmearth_data.loading.scaling import Scaling
from mmearth_data.store.schema import COORDINATE_NAMES
from mmearth_data.store.selection import listed
from mmearth_data.words import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from mmearth_data.catalog.modality import Modality
    from mmearth_data.loading.buffers import Allocate
    from mmearth_data.store.reader import Store

__all__ = ["Batch", "Loader"]


class Loader:
    """Iterate over the tiles of a store in batches of arrays.

    Every tile is delivered exactly once per epoch, in an order that depends only on seed, epoch, rank and world size.
    After the end of an epoch, the next iteration begins the next epoch, in another order.

    Parameters
    ----------
    store
        The tiles to deliver (a selection of a store is a store).
    batch_size
        Tiles per batch.
    shuffle
        Shuffle blocks and the tiles of a window; False keeps the store's order.
    seed
        Determines the order, together with the epoch.
    modalities
        Stored modalities to read; None reads all. Others are not read from disk.
    bands
        Modality -> bands to deliver, in that order. (All bands of a tile are stored in one chunk.)
    normalise
        Deliver modalities of a continuous kind as float32 z-scores by the store's statistics (train's; of the tile's
        level where they differ), NaN where nothing was observed. Class codes and masks stay as stored.
    drop_last
        Leave out the last batch of an epoch if it is not full.
    infinite
        Continue with the next epoch, without end.
    rank, world_size
        Deliver one of several parts, whose sizes differ by at most one tile; with ``drop_last``, all have equally many
        batches.
    block_tiles
        Number of consecutive tiles that are read together.
    window_blocks
        Number of blocks shuffled together; two such windows are held in memory, encoded.
    threads
        Number of decoding threads; None uses all cores available to this process.
    prefetch
        Number of batches decoded ahead.
    client
        ``distributed.Client`` of a cluster that decodes instead; its workers must reach the store by the same path.
    allocate
        Function that allocates a number of bytes, such as pinned memory; it is reused when a batch is deleted.

    Raises
    ------
    InputError
        If the store has no tile, not even one full batch is left, or a modality or band is not stored.
    """

    def __init__(
        self,
        store: Store,
        *,
        batch_size: int = 64,
        shuffle: bool = True,
        seed: int = 0,
        modalities: Sequence[str] | None = None,
        bands: Mapping[str, Sequence[str]] | None = None,
        normalise: bool = False,
        drop_last: bool = False,
        infinite: bool = False,
        rank: int = 0,
        world_size: int = 1,
        block_tiles: int = 16,
        window_blocks: int = 32,
        threads: int | None = None,
        prefetch: int = 4,
        client: Any = None,  # noqa: ANN401 - distributed has no types
        allocate: Allocate = plain_memory,
    ) -> None:
        _check_numbers(0, seed=seed)
        _check_numbers(
            1,
            batch_size=batch_size,
            world_size=world_size,
            block_tiles=block_tiles,
            window_blocks=window_blocks,
            threads=1 if threads is None else threads,
            prefetch=prefetch,
        )
        if as_integer(rank) is None or not 0 <= rank < world_size:
            raise InputError(f"Expected a rank from 0 to {world_size - 1}, got {rank}.")
        _check_switches(shuffle=shuffle, drop_last=drop_last, infinite=infinite)
        _check_client(client)
        self.store = store
        self.batch_size, self.shuffle, self.seed = int(batch_size), bool(shuffle), int(seed)
        self.drop_last, self.infinite = bool(drop_last), bool(infinite)
        self.share = Share(int(rank), int(world_size))
        self.window_blocks, self.threads, self.prefetch = int(window_blocks), threads, prefetch
        self.client = client
        self.epoch = 0
        self._next = self._delivered = 0
        self._rows = store.rows
        self._check_tiles()
        self.block_tiles = int(block_tiles)
        self._blocks = cut_blocks(self._rows, store.layout.tiles_per_shard, self.block_tiles)
        self.kernel = open_kernel(store, modalities, bands, normalise=normalise)
        self.modalities = tuple(layer.modality.name for layer in self.kernel.layers)
        self.buffers = BufferPool(allocate)

    def __repr__(self) -> str:
        order = f"shuffled with seed {self.seed}" if self.shuffle else "in the store's order"
        share = f", part {self.share.rank} of {self.share.world_size}" if self.share.world_size > 1 else ""
        return (
            f"<Loader: {len(self._rows):,} tiles in {len(self):,} batch{'es' * (len(self) != 1)} of {self.batch_size}, {order}{share}>\n"
            f"Store:      {self.store.path}\n"
            f"Modalities: {', '.join(self.modalities)}\n"
            f"Next:       epoch {self.epoch}, batch {self._delivered}"
        )

    def __len__(self) -> int:
        """Batches of one epoch."""
        first, stop = self.share.bounds(len(self._rows))
        tiles = len(self._rows) // self.share.world_size if self.drop_last else stop - first
        return tiles // self.batch_size if self.drop_last else -(-tiles // self.batch_size)

    def set_epoch(self, epoch: int, batch: int = 0) -> None:
        """Set where the next iteration begins: at an epoch, and ``batch`` batches into it (skipped without reading)."""
        number, first = as_integer(epoch), as_integer(batch)
        if number is None or first is None or number < 0 or not 0 <= first <= len(self):
            raise InputError(
                f"Expected an epoch from 0 and a batch from 0 to {len(self)}, got {shown(epoch)} and {shown(batch)}."
            )
        self.epoch = number
        self._next = self._delivered = first

    def state_dict(self) -> dict[str, Any]:
        """Position of the loader, JSON-ready: the epoch, its delivered batches, and what determines the order."""
        return {"epoch": self.epoch, "batch": self._delivered, **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the position of another loader with the same tiles and options.

        Raises
        ------
        InputError
            If the state is that of a loader with another order.
        """
        if not isinstance(state, Mapping):
            raise InputError(f"Expected the dictionary that state_dict returned, got {shown(state)}.")
        ours = self._identity()
        other = [f"{name} {state.get(name)} (here {value})" for name, value in ours.items() if state.get(name) != value]
        if other or "epoch" not in state or "batch" not in state:
            raise InputError(
                f"Expected the state of a loader with the same order, got {', '.join(other) or 'one without a position'}; "
                "make this loader with the same options, on the same store."
            )
        self.set_epoch(state["epoch"], state["batch"])

    def __iter__(self) -> Iterator[Batch]:
        """Batches from the current position to the end of the epoch, or without end."""
        while True:
            first, self._next = self._next, 0
            self._delivered = first
            for batch in self.batches(range(first, len(self))):
                self._delivered += 1
                if self._delivered == len(self):
                    self.epoch, self._delivered = self.epoch + 1, 0
                yield batch
            if not self.infinite:
                return

    @property
    def cores(self) -> int:
        """Number of decoding threads in this process."""
        return self.threads or available_cores()

    def batches(self, numbers: range, *, threads: int | None = None) -> Iterator[Batch]:
        """Yield some batches of the current epoch, by number; each of n workers takes every n-th."""
        windows = self._windows()
        spans = spans_of([len(window.order) for window in windows], self.batch_size, drop_last=self.drop_last)
        return self._pipeline(threads or self.cores).batches(
            windows, spans[: len(self)][numbers.start : numbers.stop : numbers.step]
        )

    def rows(self) -> NDArray[np.intp]:
        """Store rows of the current epoch in order of delivery; nothing is read."""
        rows: NDArray[np.intp] = np.concatenate([window.rows for window in self._windows()])
        return rows[: len(self) * self.batch_size]

    def _windows(self) -> list[Window]:
        return plan_epoch(
            self._blocks,
            shuffle=self.shuffle,
            window_blocks=self.window_blocks,
            seed=self.seed,
            epoch=self.epoch,
            share=self.share,
        )

    def _pipeline(self, threads: int) -> ThreadPipeline | ClusterPipeline:
        if self.client is not None:
            return ClusterPipeline(self.kernel, self.client, prefetch=self.prefetch)
        return ThreadPipeline(self.kernel, threads=threads, prefetch=self.prefetch, buffers=self.buffers)

    def _identity(self) -> dict[str, Any]:
        """Everything that determines the order, except the epoch."""
        return {
            "seed": self.seed,
            "shuffle": self.shuffle,
            "batch_size": self.batch_size,
            "drop_last": self.drop_last,
            "rank": self.share.rank,
            "world_size": self.share.world_size,
            "block_tiles": self.block_tiles,
            "window_blocks": self.window_blocks,
            "tiles": len(self._rows),
            "rows": hashlib.blake2b(self._rows.astype("<i8").tobytes(), digest_size=16).hexdigest(),
            "store": self.store.digest,
        }

    def _check_tiles(self) -> None:
        if len(self._rows) == 0:
            raise InputError(f"{self.store.path}: expected tiles to load, got none; widen the selection.")
        if len(self._rows) < self.share.world_size or len(self) == 0:
            raise InputError(
                f"{self.store.path}: expected at least one full batch, got {len(self._rows)} tiles for a batch size of "
                f"{self.batch_size} and {self.share.world_size} rank(s); lower the batch size."
            )


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_numbers(least: int, **numbers: int) -> None:
    for name, number in numbers.items():
        words = name.replace("_", " ")
        if as_integer(number) is None:
            raise InputError(f"Expected a {words} that is an integer, got {shown(number)}.")
        if number < least:
            raise InputError(f"Expected a {words} of at least {least}, got {number}.")


def _check_switches(**switches: bool) -> None:
    for name, value in switches.items():
        if not isinstance(value, bool | np.bool_):
            raise InputError(f"{name}: expected True or False, got {shown(value)}.")


def _check_client(client: object) -> None:
    if client is None:
        return
    from distributed import Client

    if not isinstance(client, Client):
        raise InputError(f"client: expected a distributed.Client, got {shown(client)}; connect to the cluster first.")


def open_kernel(
    store: Store,
    modalities: Sequence[str] | None = None,
    bands: Mapping[str, Sequence[str]] | None = None,
    *,
    normalise: bool = False,
) -> Kernel:
    """Prepare to read modalities of a store, in the requested order; see `Loader` for the options and errors.

    All that is needed is opened now, so that forked workers need not: after a fork, threads left in the parent could not
    do it for the child.
    """
    _check_switches(normalise=normalise)
    kernel = Kernel(store.content, _layers(store, modalities, bands or {}, normalise=normalise), COORDINATE_NAMES)
    compiled_loops()
    chosen = [layer.modality for layer in kernel.layers]
    for name in (*COORDINATE_NAMES, *(m.name for m in chosen if not m.kind.is_raster)):
        store.content.column(name)
    for layer in kernel.rasters:
        store.content.reader(layer.modality.name)
    return kernel


def _layers(
    store: Store, names: Sequence[str] | None, bands: Mapping[str, Sequence[str]], *, normalise: bool
) -> tuple[Layer, ...]:
    """Resolve the layers to deliver, in the requested order of modalities."""
    stored = {m.name: m for m in store.modalities.values() if m.stored}
    if not isinstance(bands, Mapping):
        raise InputError(f"bands: expected modalities with their bands, {{'NAME': ['BAND', ...]}}, got {shown(bands)}.")
    given = (
        tuple(stored) if names is None else (names,) if isinstance(names, str) else listed("modalities", "names", names)
    )
    wanted = tuple(dict.fromkeys(map(str, given)))
    missing = [str(name) for name in (*wanted, *bands) if name not in stored]
    if missing:
        raise InputError(
            f"{store.path}: expected the modalities {', '.join(stored)}, got {', '.join(dict.fromkeys(missing))}."
        )
    unread = [name for name in bands if name not in wanted]
    if unread:
        raise InputError(
            f"bands: expected bands of the modalities to read ({', '.join(wanted)}), got some of {', '.join(unread)}; "
            "add these to modalities, or remove their bands."
        )
    return tuple(_layer(store, stored[name], bands.get(name), normalise=normalise) for name in wanted)


def _layer(store: Store, m: Modality, bands: Sequence[str] | None, *, normalise: bool) -> Layer:
    one = (bands,) if isinstance(bands, str) else bands
    chosen = m.bands if one is None else tuple(map(str, listed(f"{m.name}: bands", "names", one)))
    if not m.bands and bands is not None:
        raise InputError(f"{m.name}: expected no bands, since it has none, got {', '.join(chosen)}.")
    picks = None if chosen == m.bands else tuple(m.band_indices(chosen))
    if picks == ():
        raise InputError(f"{m.name}: expected at least one of the bands {', '.join(m.bands)}, got none.")
    scaling = Scaling.of(m, store.statistics, chosen) if normalise and m.kind.is_continuous else None
    return Layer(modality=m, picks=picks, scaling=scaling)
