"""The loader in worker processes of torch: every way to start them, the same order, and no hang when one dies."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from store_making import make_store, small_layout
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from mmearth_data import InputError, Store, open_store
from mmearth_model import TileDataset

OPTIONS: dict[str, Any] = {"batch_size": 7, "block_tiles": 3, "window_blocks": 4, "seed": 5}
TIMEOUT_S = 60


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("workers") / "s.zarr"
    make_store(path, small_layout(tiles=61, tiles_per_shard=8))
    return open_store(path)


def ids(batches: Any) -> list[list[str]]:
    """Ids of each batch, of arrays or of tensors, as text."""
    return [[i if isinstance(i, str) else f"{i:016x}" for i in batch["tile"]["tile_id"]] for batch in batches]


def in_workers(dataset: TileDataset, count: int, method: str | None = None, **more: Any) -> DataLoader[Any]:
    return DataLoader(
        dataset, batch_size=None, num_workers=count, multiprocessing_context=method, timeout=TIMEOUT_S, **more
    )


def test_tensors_hold_what_the_arrays_hold(store: Store) -> None:
    for arrays, tensors in zip(store.loader(**OPTIONS), TileDataset(store, **OPTIONS), strict=True):
        assert arrays.keys() == tensors.keys()
        for name, values in arrays.items():
            if name != "tile":
                np.testing.assert_array_equal(values, tensors[name].numpy())
        np.testing.assert_array_equal(arrays["tile"]["time"].astype(np.int64), tensors["tile"]["time"].numpy())


@pytest.mark.parametrize(("method", "count"), [("fork", 1), ("fork", 2), ("spawn", 1), ("forkserver", 1)])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_deliver_the_same_order_however_they_are_started(store: Store, method: str, count: int) -> None:
    expected = ids(store.loader(**OPTIONS))
    # Threads that are busy while it forks: the hazard that a loader has to survive.
    busy = iter(store.loader(**OPTIONS))
    next(busy)
    dataset = TileDataset(store, **OPTIONS)
    loader = in_workers(dataset, count, method)
    assert ids(loader) == expected
    assert len(loader) == len(expected)
    busy.close()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_persistent_workers_follow_the_epoch(store: Store) -> None:
    dataset = TileDataset(store, **OPTIONS)
    loader = in_workers(dataset, 2, "fork", persistent_workers=True)
    plain = store.loader(**OPTIONS)
    for epoch in (0, 1, 2):
        dataset.set_epoch(epoch)
        plain.set_epoch(epoch)
        assert ids(loader) == ids(plain)
    dataset.set_epoch(1, batch=4)
    plain.set_epoch(1, batch=4)
    assert ids(loader) == ids(plain)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_infinite_workers_keep_the_order_over_epochs(store: Store) -> None:
    plain = store.loader(**OPTIONS, infinite=True)
    dataset = TileDataset(store, **OPTIONS, infinite=True)
    count = 3 * len(plain) + 2
    assert len(plain) % 2, "the second epoch should begin with the other worker"
    loader = in_workers(dataset, 2, "fork")
    assert ids(itertools.islice(loader, count)) == ids(itertools.islice(plain, count))


def test_a_data_set_resumes_within_an_epoch(store: Store) -> None:
    first = TileDataset(store, **OPTIONS)
    begun = ids(itertools.islice(first, 3))
    second = TileDataset(store, **OPTIONS)
    second.load_state_dict(first.state_dict())
    assert begun + ids(second) == ids(TileDataset(store, **OPTIONS))


def test_what_workers_read_ahead_is_not_taken_for_delivered(store: Store) -> None:
    dataset = TileDataset(store, **OPTIONS)
    batches = iter(in_workers(dataset, 1))
    begun = ids(itertools.islice(batches, 3))
    with pytest.raises(InputError, match="workers of a DataLoader read ahead; count the batches"):
        dataset.state_dict()
    dataset.set_epoch(0, 3)
    assert dataset.state_dict()["batch"] == 3
    assert begun + ids(in_workers(dataset, 1)) == ids(TileDataset(store, **OPTIONS))


class Stateful(IterableDataset[Any]):
    """Each batch with the state of its worker after it, which `torchdata.stateful_dataloader` takes and restores there."""

    def __init__(self, dataset: TileDataset, states: dict[int, Any] | None = None) -> None:
        self.dataset, self.states = dataset, states or {}

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        assert worker is not None
        if worker.id in self.states:
            self.dataset.load_state_dict(self.states[worker.id])
        for batch in self.dataset:
            yield worker.id, self.dataset.state_dict(), batch


@pytest.mark.parametrize("infinite", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_workers_continue_from_their_states(store: Store, count: int, infinite: bool) -> None:
    def dataset() -> TileDataset:
        return TileDataset(store, **OPTIONS, infinite=infinite)

    # Whole rounds, so that the first worker continues; without end, the workers are then in the next epoch.
    first = count * (1 + len(dataset()) // count) if infinite else 2 * count
    read = [*itertools.islice(in_workers(Stateful(dataset()), count), first)]  # type: ignore[arg-type]
    states = {worker: json.loads(json.dumps(state)) for worker, state, _ in read}
    rest = itertools.islice(in_workers(Stateful(dataset(), states), count), first)  # type: ignore[arg-type]
    found = ids(batch for *_, batch in read) + ids(batch for *_, batch in rest)
    assert found == ids(itertools.islice(dataset(), 2 * first))


KILLED = """
    import itertools, os, signal, sys
    from torch.utils.data import DataLoader
    from mmearth_data import open_store
    from mmearth_model import TileDataset

    dataset = TileDataset(open_store(sys.argv[1]), batch_size=7, infinite=True)
    batches = iter(DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context="fork"))
    next(batches)
    print("killing", flush=True)
    os.kill(batches._workers[0].pid, signal.SIGKILL)
    for _ in itertools.islice(batches, 100_000):
        pass
    print("delivered", flush=True)
"""


def test_a_killed_worker_is_an_error(store: Store, tmp_path: Path) -> None:
    """In a program of its own: torch raises from a signal handler, wherever the main thread is.

    Even while it prints the error that it raised a moment before: what it prints is not asserted.
    """
    program = [sys.executable, "-c", textwrap.dedent(KILLED), str(store.path)]
    # Neither pipe nor group is shared with the worker that is left: it notices later that its parent is gone.
    with (tmp_path / "said").open("w") as said, (tmp_path / "error").open("w") as error:
        process = subprocess.Popen(program, stdout=said, stderr=error, start_new_session=True)
        try:
            assert process.wait(TIMEOUT_S) != 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert (tmp_path / "said").read_text() == "killing\n", (tmp_path / "error").read_text()


@pytest.mark.skipif(torch.accelerator.is_available(), reason="asks for what a machine with an accelerator has")
def test_pinned_memory_needs_an_accelerator(store: Store) -> None:
    with pytest.raises(InputError, match="pin_memory"):
        TileDataset(store, pin_memory=True)


MEMORY = """
    import resource, sys
    from mmearth_data import open_store
    loader = open_store(sys.argv[1]).loader(batch_size=32, normalise=True, block_tiles=4, window_blocks=8)
    peaks = []
    for epoch in range(20):
        for batch in loader:
            pass
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(*peaks)
"""


def test_memory_does_not_grow_over_epochs(tmp_path: Path) -> None:
    make_store(tmp_path / "s.zarr", small_layout(tiles=256, size_px=64, tiles_per_shard=64))
    program = [sys.executable, "-c", textwrap.dedent(MEMORY), str(tmp_path / "s.zarr")]
    done = subprocess.run(program, check=True, capture_output=True, text=True)
    peaks = [float(word) for word in done.stdout.split()]
    assert len(peaks) == 20
    # An epoch moves 35 MB: keeping a hundredth of each would show.
    assert peaks[-1] - peaks[3] < 8
