"""Devices, threads and batch slices."""

from __future__ import annotations

import os
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

import torch

from mmearth_data import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from threadpoolctl import ThreadpoolController

CPU_SLICE = 4
"""Images per forward pass on a CPU: a pass that fits its cache is several times as fast (measured on two cores)."""
CPU_TRAINING_SLICE = 8
"""The same while training, where most patches are hidden (a tenth faster than 4, `make bench-encoder`)."""


def one_thread() -> AbstractContextManager[None]:
    """Compute with one thread within the block: for small work, threads cost more than they gain."""
    return limited_threads(1)


@contextmanager
def limited_threads(threads: int) -> Iterator[None]:
    """Compute with this number of threads within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with _thread_pools().limit(limits=threads):
            yield
    finally:
        torch.set_num_threads(before)


@cache
def _thread_pools() -> ThreadpoolController:
    """Thread pools of the loaded libraries, cached because finding them is slow."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def resolve_device(name: str = "auto") -> torch.device:
    """Device by name: ``auto`` (a GPU if there is one), ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Raises
    ------
    InputError
        If it does not exist.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"--device: expected auto, cpu, cuda, cuda:N or mps, got {name!r}.") from None
    if not _available(device):
        raise InputError(
            f"--device {name}: expected such a device, got a machine (or a PyTorch build) without; use --device cpu."
        )
    return device


def default_workers(device: str) -> int:
    """Count the processes that use a device fully: one per CPU core, with one thread each; one for a GPU."""
    return (os.cpu_count() or 1) if resolve_device(device).type == "cpu" else 1


def slice_length(device: torch.device, batch: int, wanted: int | None = None, *, training: bool = False) -> int:
    """Images per forward pass: few on a CPU, the whole batch elsewhere."""
    if wanted is not None:
        return min(wanted, batch)
    few = CPU_TRAINING_SLICE if training else CPU_SLICE
    return min(few, batch) if device.type == "cpu" else batch


def _available(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    if device.type == "mps":
        return torch.backends.mps.is_available()
    return device.type == "cpu"
