"""Threads of PyTorch on a CPU; imported before PyTorch, whose OpenMP library reads its settings once, when it loads."""

from __future__ import annotations

import os

PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
"""OpenMP settings that keep waiting threads from occupying a core (GNU's reads the first, LLVM's and Intel's the second too).

Waiting threads of two runs on one machine otherwise take the cores from each other's working threads.
"""
COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def use_threads(threads: int | None) -> None:
    """Set the number of threads and how they wait; environment variables take precedence for the latter.

    Processes that are started later inherit both.

    Parameters
    ----------
    threads
        Their number; None leaves it to PyTorch (one per core).
    """
    for name, value in PASSIVE.items():
        os.environ.setdefault(name, value)
    if threads is None:
        return
    os.environ.update(dict.fromkeys(COUNTS, str(threads)))
    import torch  # takes a second; all commands that compute need it

    torch.set_num_threads(threads)
