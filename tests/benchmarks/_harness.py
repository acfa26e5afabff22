"""What every benchmark shares: the machine it ran on, fair timing, tables for people and one line for machines.

A benchmark is a script (``python tests/benchmarks/bench_x.py``). It writes tables to stderr while it works and
ends with one line of JSON on stdout::

    {"bench": "x", "ratio": 2.4, "figures": {"ours": {"value": 61.2, "unit": "tiles/s"}}, "machine": {...}}

``ratio`` is ours / baseline in speed: above 1, ours is the faster one.
"""

from __future__ import annotations

import gc
import importlib.metadata
import json
import math
import os
import platform
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

LIBRARIES = ("mmearth", "numpy", "zarr", "numcodecs", "blosc2", "xarray", "dask", "torch")
"""Libraries whose version can change a figure."""
THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Alternation:
    """Times of two callables that took turns.

    Attributes
    ----------
    a_s, b_s
        Seconds of each run, in order.
    """

    a_s: tuple[float, ...]
    b_s: tuple[float, ...]

    @property
    def median_a_s(self) -> float:
        """Median seconds of the first callable."""
        return statistics.median(self.a_s)

    @property
    def median_b_s(self) -> float:
        """Median seconds of the second callable."""
        return statistics.median(self.b_s)

    @property
    def ratio(self) -> float:
        """How many times as fast as the second callable the first one is, by their medians."""
        return self.median_b_s / self.median_a_s


def alternate(a: Callable[[], object], b: Callable[[], object], runs: int = 5, *, warm_up: bool = True) -> Alternation:
    """Time two callables in turns, so that a busy neighbour or a warming processor hits both alike.

    Parameters
    ----------
    a, b
        Do the same work, ours and the baseline. Each turn starts with the one that came second before.
    runs
        Timed runs of each.
    warm_up
        Run each once untimed before: imports, caches and compilers are not what is measured.

    Returns
    -------
    Alternation
        Seconds of every run.
    """
    if runs < 1:
        raise ValueError(f"Expected at least one run, got {runs}.")
    if warm_up:
        a()
        b()
    gc.collect()
    gc.freeze()  # a collection before each run is slow, because the libraries hold many objects
    seconds: dict[str, list[float]] = {"a": [], "b": []}
    for run in range(runs):
        for name, work in (("a", a), ("b", b))[:: 1 if run % 2 == 0 else -1]:
            seconds[name].append(timed(work))
    return Alternation(tuple(seconds["a"]), tuple(seconds["b"]))


def timed(work: Callable[[], object]) -> float:
    """Seconds that one call takes, with the garbage of earlier ones collected before."""
    gc.collect()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def machine() -> dict[str, Any]:
    """Describe what a figure depends on: processor, cores, memory, Python and library versions; JSON-ready."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version for name in LIBRARIES if (version := _version(name)) is not None},
        "threads": {name: os.environ[name] for name in THREAD_SETTINGS if name in os.environ},
    }


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a table for people to stderr; numbers are set right, floats with four digits."""
    grid = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        grid.add_column(column, justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        grid.add_row(*(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row))
    console = Console(stderr=True, width=max(100, Console(stderr=True).width), highlight=False)
    console.print(grid)
    console.print()


def report(bench: str, ratio: float | None, figures: Mapping[str, tuple[float, str]]) -> None:
    """Write the one line of JSON that ends a benchmark, to stdout.

    Parameters
    ----------
    bench
        Name of the benchmark.
    ratio
        Ours / baseline in speed; None where there is no baseline.
    figures
        Name -> (value, unit).

    Raises
    ------
    ValueError
        When a figure is not a finite number: JSON has no way to say so.
    """
    for name, value in {"ratio": 1.0 if ratio is None else ratio, **{k: v for k, (v, _) in figures.items()}}.items():
        if not math.isfinite(value):
            raise ValueError(f"{bench}: expected a finite number for {name}, got {value}.")
    line = {
        "bench": bench,
        "ratio": None if ratio is None else _rounded(ratio),
        "figures": {name: {"value": _rounded(value), "unit": unit} for name, (value, unit) in figures.items()},
        "machine": machine(),
    }
    sys.stderr.flush()
    sys.stdout.write(json.dumps(line, allow_nan=False) + "\n")
    sys.stdout.flush()


def _rounded(value: float) -> float | int:
    return value if isinstance(value, int) else float(f"{value:.6g}")


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return None
