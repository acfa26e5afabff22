"""Which tiles arrive when, as plain values.

The rows of a store are cut into blocks of consecutive tiles, because a run of neighbours in one shard is
the cheapest thing to read. Blocks come in a seeded order; several of them form a window, and the tiles of
a window are mixed. Every tile comes exactly once an epoch, whatever the number of ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Block:
    """Tiles that are read together.

    Attributes
    ----------
    start, stop
        Half-open range of store rows, all in one shard.
    keep
        (k,) positions within the range that were selected.
    """

    start: int
    stop: int
    keep: NDArray[np.intp]

    @property
    def rows(self) -> NDArray[np.intp]:
        """(k,) store rows of its tiles."""
        return self.start + self.keep

    @classmethod
    def of(cls, rows: NDArray[np.intp]) -> Block:
        """Block of ascending store rows."""
        return cls(start=int(rows[0]), stop=int(rows[-1]) + 1, keep=rows - rows[0])


@dataclass(frozen=True, slots=True)
class Window:
    """Blocks that are mixed with each other.

    Attributes
    ----------
    blocks
        Read in parallel.
    order
        (tiles,) permutation of the blocks' kept tiles, laid end to end.
    """

    blocks: tuple[Block, ...]
    order: NDArray[np.intp]

    @property
    def rows(self) -> NDArray[np.intp]:
        """(tiles,) store rows in the order of their delivery."""
        return np.concatenate([block.rows for block in self.blocks])[self.order]


@dataclass(frozen=True, slots=True)
class Share:
    """Part of an epoch that one process delivers.

    Attributes
    ----------
    rank, world_size
        Which of how many parts of equal size, to within one tile.
    """

    rank: int = 0
    world_size: int = 1

    def bounds(self, tiles: int) -> tuple[int, int]:
        """First tile and end of this part, among all in the order of their blocks."""
        return self.rank * tiles // self.world_size, (self.rank + 1) * tiles // self.world_size


def cut_blocks(rows: NDArray[np.intp], tiles_per_shard: int, block_tiles: int) -> list[Block]:
    """Cut selected store rows into blocks that never cross a shard.

    Parameters
    ----------
    rows
        (n,) store rows, ascending.
    tiles_per_shard
        Rows of one shard of the store.
    block_tiles
        Rows of one block at most.
    """
    step = min(block_tiles, tiles_per_shard)
    per_shard = -(-tiles_per_shard // step)
    shard, within = np.divmod(rows, tiles_per_shard)
    key = shard * per_shard + within // step
    cuts = np.flatnonzero(np.diff(key)) + 1
    parts: Sequence[NDArray[np.intp]] = np.split(rows, cuts) if len(rows) else []
    return [Block.of(part) for part in parts]


def plan_epoch(
    blocks: Sequence[Block],
    *,
    shuffle: bool,
    window_blocks: int,
    seed: int,
    epoch: int,
    share: Share = Share(),
) -> list[Window]:
    """Windows of one epoch, in order.

    The order depends on (seed, epoch, rank, world size) only: not on time, threads or batch size. Ranks get
    parts of one order of blocks; a block that lies across the border of two parts is cut there.

    Parameters
    ----------
    blocks
        Of `cut_blocks`.
    shuffle
        Mix blocks, and the tiles of each window; False keeps the order of the store.
    window_blocks
        Blocks of a window at least, where there are as many: what would be left over is spread over all windows,
        since a last window of few blocks would be badly mixed.
    seed, epoch
        Together they decide the order.
    share
        The part that is wanted.
    """
    order = np.random.default_rng([seed, epoch]).permutation(len(blocks)) if shuffle else np.arange(len(blocks))
    ours = _part([blocks[i] for i in order], share)
    rng = np.random.default_rng([seed, epoch, share.rank, share.world_size])
    windows = []
    for chosen in _even_runs(ours, window_blocks):
        tiles = sum(len(block.keep) for block in chosen)
        windows.append(Window(blocks=chosen, order=rng.permutation(tiles) if shuffle else np.arange(tiles)))
    return windows


def _part(blocks: Sequence[Block], share: Share) -> list[Block]:
    """Blocks of one rank, those at its borders cut."""
    ends = np.cumsum([len(block.keep) for block in blocks]) if blocks else np.zeros(0, dtype=np.intp)
    first, stop = share.bounds(int(ends[-1]) if len(ends) else 0)
    part = []
    for index in range(int(np.searchsorted(ends, first, side="right")), len(blocks)):
        block, begin = blocks[index], int(ends[index]) - len(blocks[index].keep)
        if begin >= stop:
            break
        whole = first <= begin and int(ends[index]) <= stop
        part.append(block if whole else Block.of(block.rows[max(0, first - begin) : stop - begin]))
    return part


def _even_runs(blocks: Sequence[Block], length: int) -> Iterator[tuple[Block, ...]]:
    """Consecutive runs of at least ``length`` blocks, as even as can be; one run where there are fewer."""
    runs = max(1, len(blocks) // length) if blocks else 0
    for run in range(runs):
        yield tuple(blocks[run * len(blocks) // runs : (run + 1) * len(blocks) // runs])
