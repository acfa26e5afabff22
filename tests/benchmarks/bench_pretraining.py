"""Do more modalities make better features? All modalities, Sentinel-2 alone, and random weights, at equal steps.

3,000 tiles of the synthetic planet, 67 % to learn from and 33 % to test on, by spatial blocks; three seeds. L-BFGS
probes of the frozen encoders on the biome (pretrained without biome and ecoregion) and on the main land-cover class
(pretrained without any land cover); Sentinel-2 alone never saw either. A claim holds where the difference of the means
is more than its standard error. The ratio is the accuracy with all modalities over that with Sentinel-2 alone, the
smaller one of the two questions. After 16 epochs Sentinel-2 alone is no better than random weights at land cover, hence
48.

The runs are independent and work side by side, one thread each. What is finished stays in ``--folder``, so a stopped
benchmark continues.

    python tests/benchmarks/bench_pretraining.py [--tiles 3000] [--epochs 48] [--seeds 3] [--recipe learning] [--folder F]
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _harness import report, table

from mmearth_data import build, open_store
from mmearth_data import make_recipe as make_build_recipe
from mmearth_model import evaluate, load_checkpoint, make_recipe, pretrain

ALL, ALONE, RANDOM = "all modalities", "sentinel2 alone", "random init"
QUESTIONS = {
    "store:biome": ("biome", "eco_region"),
    "store:esa_worldcover": ("dynamic_world", "esa_worldcover"),
}
"""Task -> modalities that would give its answer away."""


@dataclass(frozen=True)
class Job:
    """One pretraining run, and the tasks that it is probed on."""

    store: Path
    run: Path
    arm: str
    given: dict[str, Any]
    recipe: str
    tasks: tuple[str, ...]
    seed: int


@dataclass(frozen=True)
class Answer:
    """Accuracy of one encoder on one task, per cent."""

    task: str
    arm: str
    seed: int
    accuracy: float
    converged: bool
    seconds: float


def answer(job: Job) -> list[Answer]:
    """Pretrain, then probe the run, and beside it a random encoder of the same seed."""
    torch.set_num_threads(1)
    begin = time.perf_counter()
    store = open_store(job.store)
    checkpoint = load_checkpoint(pretrain(store, make_recipe(job.recipe, job.given), job.run, device="cpu"))
    seconds = time.perf_counter() - begin
    found = evaluate([checkpoint], store, job.tasks, protocols=["linear"], seeds=job.seed + 1, device="cpu")
    answers = []
    for row in found.rows:
        arm = job.arm if row.encoder == str(checkpoint.folder) else RANDOM
        if row.seed == job.seed and not row.leaky and (arm == job.arm or job.arm == ALONE):
            answers.append(Answer(row.task, arm, row.seed, 100 * row.accuracy, bool(row.converged), seconds))
    return answers


def jobs_of(folder: Path, recipe: str, epochs: int, seeds: int) -> list[Job]:
    """All runs: Sentinel-2 alone once a seed, all modalities once a seed and question."""
    store = folder / "planet.zarr"
    jobs = []
    for seed in range(seeds):
        given = {"epochs": epochs, "seed": seed}
        alone = {**given, "modalities": ("sentinel2",)}
        jobs.append(Job(store, folder / f"alone-{seed}", ALONE, alone, recipe, tuple(QUESTIONS), seed))
        for task, exclude in QUESTIONS.items():
            run = folder / f"all-{task.partition(':')[2]}-{seed}"
            jobs.append(Job(store, run, ALL, {**given, "exclude": exclude}, recipe, (task,), seed))
    return jobs


def standard_error(one: list[float], other: list[float]) -> float:
    """Of the difference of two means."""
    if min(len(one), len(other)) < 2:
        return math.inf
    return math.sqrt(statistics.variance(one) / len(one) + statistics.variance(other) / len(other))


def main() -> None:
    """Build the store, train, probe, report."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--tiles", type=int, default=3000)
    options.add_argument("--epochs", type=int, default=48, help="passes over the training tiles")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--recipe", default="learning")
    options.add_argument("--folder", type=Path, default=None)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        fields = {"source": "synthetic", "tiles": given.tiles, "tile_size": 64, "split_shares": (67, 0, 33)}
        build(make_build_recipe(None, fields), folder / "planet.zarr")
        jobs = jobs_of(folder, given.recipe, given.epochs, given.seeds)
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
            answers = [each for found in pool.map(answer, jobs) for each in found]
    tell(answers)


def tell(answers: list[Answer]) -> None:
    """Tables and the line of JSON."""
    rows, figures, ratios = [], dict[str, tuple[float, str]](), []
    for task in QUESTIONS:
        name = task.partition(":")[2]
        values = {arm: [a.accuracy for a in answers if (a.task, a.arm) == (task, arm)] for arm in (ALL, ALONE, RANDOM)}
        for arm, found in values.items():
            spread = statistics.stdev(found) if len(found) > 1 else 0.0
            converged = all(a.converged for a in answers if (a.task, a.arm) == (task, arm))
            rows.append([task, arm, statistics.mean(found), spread, len(found), "yes" if converged else "no"])
            figures[f"{name}, {arm}"] = (statistics.mean(found), "%")
        for better, worse in ((ALL, ALONE), (ALONE, RANDOM)):
            gain = statistics.mean(values[better]) - statistics.mean(values[worse])
            error = standard_error(values[better], values[worse])
            holds = "holds" if gain > error else "does not hold"
            rows.append([task, f"{better} > {worse}: {holds}", gain, error, len(values[better]), ""])
            figures[f"{name}, {better} over {worse}"] = (gain, "% points")
        ratios.append(statistics.mean(values[ALL]) / statistics.mean(values[ALONE]))
    columns = ["task", "encoder", "accuracy or gain (%)", "sd or standard error", "seeds", "converged"]
    table("Linear probe of frozen encoders", columns, rows)
    figures["train"] = (statistics.mean(a.seconds for a in answers), "s a run")
    report("pretraining", min(ratios), figures)


if __name__ == "__main__":
    sys.exit(main())
