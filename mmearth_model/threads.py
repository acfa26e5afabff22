"""Threads of PyTorch on a CPU; imported before PyTorch, whose OpenMP library reads its settings once, when it loads."""

from __future__ import annotations

import os

PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
"""Threads that wait do not occupy a core: settings of OpenMP (GNU's reads the first, LLVM's and Intel's the second too).

Waiting threads of two runs on one machine otherwise take the cores from each other's working threads.
"""
COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def use_threads(threads: int | None) -> None:
    """Set the number of threads that compute, and how they wait; settings of the environment win over the latter.

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
    import torch  # takes a second, and is needed by all commands that compute

    torch.set_num_threads(threads)
