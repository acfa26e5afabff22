"""The loader as a torch data set: batches of tensors, in this process or in workers of a `DataLoader`.

The loader decodes in threads, so no worker is needed to keep a device busy; one worker moves the work out of the
training process. Several workers share the batches of an epoch, whose order does not depend on their number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from mmearth_data import InputError, Loader, to_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from mmearth_data import Batch, Store

__all__ = ["TileDataset"]


class TileDataset(IterableDataset[dict[str, Any]]):
    """Batches of a store as tensors; use it in a `DataLoader` with ``batch_size=None``.

    Batches are those of `Loader`, converted by `mmearth_data.to_tensors`: uint16 becomes int32, times become int64, and
    ``tile_id`` a list of texts. `Store.torch` returns a map-style data set, for samplers and other libraries.

    Parameters
    ----------
    store
        The tiles to deliver (a selection of a store is a store).
    pin_memory
        Deliver pinned memory, which is reused when a batch is deleted; only in this process (``num_workers=0``). With
        workers, let the `DataLoader` pin.
    **options
        Options of `Loader`: batch_size, shuffle, seed, modalities, bands, normalise, rank, world_size, ...

    Raises
    ------
    InputError
        As for `Loader`; if pinned memory is requested without an accelerator; and on the first batch if the `DataLoader`
        lacks ``batch_size=None`` and would make batches of batches.

    Notes
    -----
    Workers that a `DataLoader` restarts for every pass cannot know the number of earlier passes: call `set_epoch`
    before each, as with torch's own distributed sampler. Without workers, epochs advance automatically.

    Examples
    --------
    >>> from torch.utils.data import DataLoader
    >>> dataset = TileDataset(open_store("planet.zarr"), batch_size=64)  # doctest: +SKIP
    >>> for batch in DataLoader(dataset, batch_size=None, num_workers=1):  # doctest: +SKIP
    ...     batch["sentinel2"].shape
    torch.Size([64, 13, 64, 64])
    """

    def __init__(self, store: Store, *, pin_memory: bool = False, **options: Any) -> None:
        super().__init__()
        if pin_memory:
            if not torch.accelerator.is_available():
                raise InputError("Expected an accelerator for pinned memory, got none; leave pin_memory out.")
            options["allocate"] = pinned_memory
        self.loader = Loader(store, **options)
        # In shared memory: workers that persist over epochs see the values set here, and record that they have started.
        self._start = torch.zeros(3, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        # In a worker: epoch and number of its next batch, and the position to resume from instead.
        self._position: tuple[int, int] | None = None
        self._resumed: tuple[int, int] | None = None

    def __len__(self) -> int:
        """Batches of one epoch, over all workers."""
        return len(self.loader)

    def set_epoch(self, epoch: int, batch: int = 0) -> None:
        """Set where the next pass begins, here and in workers."""
        self.loader.set_epoch(epoch, batch)
        self._start[:] = torch.tensor((epoch, batch, 0))

    def state_dict(self) -> dict[str, Any]:
        """Position of the loader; see `Loader.state_dict`. In a worker, the position of its next batch.

        Raises
        ------
        InputError
            If workers of a `DataLoader` have read batches: they read ahead, so this process does not know how many of
            their batches were used.
        """
        worker = get_worker_info()
        if worker is not None:
            epoch, batch = self._position or self._resumed or self._first(worker.id)
            return {**self.loader.state_dict(), "epoch": epoch, "batch": batch}
        if self._start[2]:
            raise InputError(
                "Expected a data set that this process reads, got one that workers of a DataLoader read ahead; count the "
                "batches that were used, and continue with set_epoch(epoch, batch)."
            )
        return self.loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the position of another such data set; see `Loader.load_state_dict`.

        In a worker, the position must be that of a worker with the same number.
        """
        if get_worker_info() is not None:
            self.loader.load_state_dict({**state, "batch": 0})
            self._position, self._resumed = None, (state["epoch"], state["batch"])
            return
        self.loader.load_state_dict(state)
        self.set_epoch(state["epoch"], state["batch"])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Batches of this process: all of them, or every n-th for one of n workers."""
        worker = get_worker_info()
        batches = iter(self.loader) if worker is None else self._share(worker.id, worker.num_workers)
        for batch in batches:
            yield to_tensors(batch, self.loader.buffers)

    def _share(self, worker: int, workers: int) -> Iterator[Batch]:
        """Every n-th batch: a `DataLoader` reads from its workers in turn, so that the order is kept."""
        epoch, number = self._resumed or self._first(worker)
        self._resumed, self._start[2] = None, 1
        while True:
            self.loader.set_epoch(epoch)
            self._position = (epoch, number)
            numbers = range(number, len(self.loader), workers)
            for batch in self.loader.batches(numbers, threads=max(1, self.loader.cores // workers)):
                number += workers
                self._position = (epoch, number)
                yield batch
            if not self.loader.infinite:
                return
            # The next epoch continues with the worker whose turn it is.
            epoch, number = epoch + 1, number - len(self.loader)

    def _first(self, worker: int) -> tuple[int, int]:
        """Epoch and number of the first batch of a worker."""
        return int(self._start[0]), int(self._start[1]) + worker


def pinned_memory(size: int) -> NDArray[np.uint8]:
    """Pinned memory, from which an accelerator copies asynchronously."""
    memory: NDArray[np.uint8] = torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()
    return memory
