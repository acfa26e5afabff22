"""What leaving hidden patches out saves: visible positions only, beside the same network computed everywhere.

Atto, 56 px in 8 px patches, 60 % hidden, float32, eager, channels-last, the same layers and slices for all. The ratio
is the encoder's, forward and backward, over masked dense. Beside it: masked dense over the same network without any
mask, which says that the baseline is not a slow one, and the whole training step (targets, forward, losses, backward,
optimiser).

    python tests/benchmarks/bench_encoder.py [--batch 32] [--runs 7] [--size atto] [--cpu-time]
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from typing import TYPE_CHECKING

import torch
from _harness import report, table

from mmearth_model.benchmarking import Form, Step, Workload

if TYPE_CHECKING:
    from collections.abc import Callable

FORMS: tuple[Form, ...] = ("sparse", "masked", "unmasked")


def in_turns(works: dict[Form, Callable[[], object]], runs: int, clock: Callable[[], float]) -> dict[Form, float]:
    """Median seconds of each, timed in turns; the order turns round from run to run."""
    seconds: dict[Form, list[float]] = {form: [] for form in works}
    for work in works.values():
        work()
    for run in range(runs):
        for form, work in list(works.items())[:: 1 if run % 2 == 0 else -1]:
            gc.collect()
            begin = clock()
            work()
            seconds[form].append(clock() - begin)
    return {form: statistics.median(values) for form, values in seconds.items()}


def main() -> None:
    """Measure, print, report."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--runs", type=int, default=7)
    options.add_argument("--size", default="atto")
    options.add_argument("--slice", type=int, default=None, help="images per forward pass; the default's")
    options.add_argument("--cpu-time", action="store_true", help="processor seconds, for a machine that others use too")
    given = options.parse_args()
    clock = time.process_time if given.cpu_time else time.perf_counter
    work = Workload(size=given.size, batch=given.batch, device="cpu", precision="float32", slice_images=given.slice)
    steps = {form: Step(work, form, torch.device("cpu")) for form in FORMS}
    encoder = in_turns({form: step.encode for form, step in steps.items()}, given.runs, clock)
    whole = in_turns({form: step.__call__ for form, step in steps.items() if form != "unmasked"}, given.runs, clock)
    rows = [[form, 1e3 * encoder[form], 1e3 * whole[form] if form in whole else "-"] for form in FORMS]
    table(
        f"{given.size}, batch {given.batch}, {torch.get_num_threads()} threads: milliseconds",
        ["form", "encoder, forward + backward", "whole training step"],
        rows,
    )
    figures = {
        "masked_over_unmasked": (encoder["masked"] / encoder["unmasked"], "times the time"),
        "step_ratio": (whole["masked"] / whole["sparse"], "times as fast"),
        "sparse_encoder": (given.batch / encoder["sparse"], "images/s"),
        "sparse_step": (given.batch / whole["sparse"], "images/s"),
    }
    report("encoder", encoder["masked"] / encoder["sparse"], figures)


if __name__ == "__main__":
    sys.exit(main())
