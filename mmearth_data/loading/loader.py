"""The loader: windows of blocks, decoded in parallel by Dask, cut into batches of raw arrays."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from dask.delayed import delayed

from mmearth_data.errors import InputError
from mmearth_data.loading.plan import Block, Window, cut_blocks, plan_epoch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mmearth_data.store.reader import Store

Batch: TypeAlias = dict[str, Any]
"""Stored modality -> array as stored, (B, C, H, W), (B, C) or (B,); ``tile`` -> dict of (B,) arrays."""


class Loader:
    """Iterates over the tiles of a store in batches of raw arrays.

    Parameters
    ----------
    store
        The tiles to deliver (a selection of a store is a store).
    batch_size
        Tiles a batch.
    shuffle
        Mix blocks and the tiles of a window; False keeps the store's order.
    seed
        With the epoch it decides the order, and nothing else does.
    modalities
        Stored modalities to read; None reads all.
    drop_last
        Leave out the last batch of an epoch when it is not full.
    block_tiles
        Consecutive tiles that are read together.
    window_blocks
        Blocks that are mixed with each other; memory holds two windows.
    threads
        Blocks that are decoded at the same time.

    Raises
    ------
    InputError
        When the store holds no tile, or not even one full batch is left, or a modality is not stored.
    """

    def __init__(
        self,
        store: Store,
        *,
        batch_size: int = 64,
        shuffle: bool = True,
        seed: int = 0,
        modalities: Sequence[str] | None = None,
        drop_last: bool = False,
        block_tiles: int = 32,
        window_blocks: int = 16,
        threads: int = 2,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"Expected a batch size of at least 1, got {batch_size}.")
        if len(store) == 0:
            raise InputError(f"{store.path}: expected tiles to load, got none; widen the selection.")
        if drop_last and batch_size > len(store):
            raise InputError(
                f"{store.path}: expected at least one full batch, got {len(store)} tiles for a batch size of "
                f"{batch_size}; lower the batch size."
            )
        self.store = store
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.window_blocks = window_blocks
        self.threads = threads
        self.epoch = 0
        self.modalities = _stored_names(store, modalities)
        self._blocks = cut_blocks(store.rows, store.layout.tiles_per_shard, block_tiles)

    def __len__(self) -> int:
        """Batches of one epoch."""
        full, rest = divmod(len(self.store), self.batch_size)
        return full if self.drop_last or rest == 0 else full + 1

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        """Batches of the current epoch; the next window is read while this one is used."""
        windows = plan_epoch(
            self._blocks, shuffle=self.shuffle, window_blocks=self.window_blocks, seed=self.seed, epoch=self.epoch
        )
        rest: Batch | None = None
        with ThreadPoolExecutor(1, thread_name_prefix="mmearth-prefetch") as reader:
            upcoming = reader.submit(self._read_window, windows[0])
            for following in [*windows[1:], None]:
                tiles = upcoming.result()
                if following is not None:
                    upcoming = reader.submit(self._read_window, following)
                tiles = tiles if rest is None else _concatenate([rest, tiles])
                count = _length(tiles)
                full = count - count % self.batch_size
                yield from (_take(tiles, slice(i, i + self.batch_size)) for i in range(0, full, self.batch_size))
                rest = _take(tiles, slice(full, count)) if full < count else None
        if rest is not None and not self.drop_last:
            yield rest

    def _read_window(self, window: Window) -> Batch:
        blocks = delayed([delayed(self._read_block, pure=False)(block) for block in window.blocks])
        parts = blocks.compute(scheduler="threads", num_workers=self.threads)
        return _take(_concatenate(parts), window.order)

    def _read_block(self, block: Block) -> Batch:
        """Raw arrays of the kept rows of one block."""
        rows = slice(block.start, block.stop)
        everything = len(block.keep) == block.stop - block.start
        batch: Batch = {}
        for name in self.modalities:
            values = self.store.read(name, rows)
            batch[name] = values if everything else values[block.keep]
        batch["tile"] = {name: column[rows][block.keep] for name, column in self.store.tile_columns.items()}
        return batch


def _stored_names(store: Store, names: Sequence[str] | None) -> tuple[str, ...]:
    stored = tuple(m.name for m in store.modalities.values() if m.stored)
    missing = [name for name in names or () if name not in stored]
    if missing:
        raise InputError(
            f"{store.path}: expected the modalities {', '.join(missing)}, got a store with {', '.join(stored)}."
        )
    return stored if names is None else tuple(names)


def _length(batch: Batch) -> int:
    return len(batch["tile"]["tile_id"])


def _take(batch: Batch, index: slice | np.ndarray[Any, Any]) -> Batch:
    return {k: _take(v, index) if isinstance(v, dict) else v[index] for k, v in batch.items()}


def _concatenate(parts: Sequence[Batch]) -> Batch:
    first = parts[0]
    if len(parts) == 1:
        return first
    return {
        k: _concatenate([p[k] for p in parts]) if isinstance(v, dict) else np.concatenate([p[k] for p in parts])
        for k, v in first.items()
    }
