"""Does pretraining help? Linear probes of pretrained encoders beside encoders with random weights.

2,000 tiles of the synthetic planet, 70 % to learn from and 30 % to test on, by spatial blocks. Two questions, each
with runs that never saw the answer: the biome (pretrained without biome and ecoregion) and the main land-cover class
(pretrained without any land cover). Three seeds each: of the run, and of the random encoder. The ratio is the
pretrained encoders' mean accuracy over the random encoders', the smaller one of the two questions.

The runs are independent and work side by side, one thread each. What is finished stays in ``--folder``, so a stopped
benchmark continues.

    python tests/benchmarks/bench_learning.py [--tiles 2000] [--epochs 30] [--seeds 3] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from _harness import report, table

from mmearth_data import build, open_store
from mmearth_data import make_recipe as make_build_recipe
from mmearth_model import evaluate, load_checkpoint, make_recipe, pretrain

RECIPE = "learning"


@dataclass(frozen=True)
class Question:
    """A label to be probed, and the modalities that would give it away."""

    task: str
    exclude: tuple[str, ...]


QUESTIONS = (
    Question("store:biome", ("biome", "eco_region")),
    Question("store:esa_worldcover", ("dynamic_world", "esa_worldcover")),
)


@dataclass(frozen=True)
class Job:
    """One pretraining run and its probe."""

    store: Path
    run: Path
    question: Question
    seed: int
    epochs: int | None


@dataclass(frozen=True)
class Answer:
    """Accuracies of one job, per cent."""

    task: str
    seed: int
    pretrained: float
    random: float
    converged: bool
    seconds: float


def answer(job: Job) -> Answer:
    """Pretrain, then probe the run and a random encoder of the same seed."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    store = open_store(job.store)
    given = {"exclude": job.question.exclude, "seed": job.seed}
    if job.epochs is not None:
        given["epochs"] = job.epochs
    checkpoint = load_checkpoint(pretrain(store, make_recipe(RECIPE, given), job.run, device="cpu"))
    seconds = time.perf_counter() - start
    found = evaluate([checkpoint], store, [job.question.task], protocols=["linear"], seeds=job.seed + 1, device="cpu")
    rows = [row for row in found.rows if row.seed == job.seed]
    pretrained = next(row for row in rows if row.encoder == str(checkpoint.folder))
    random = next(row for row in rows if row.encoder != str(checkpoint.folder))
    return Answer(
        job.question.task,
        job.seed,
        100 * pretrained.accuracy,
        100 * random.accuracy,
        pretrained.converged and random.converged,
        seconds,
    )


def main() -> None:
    """Build the store, answer all questions, report."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--tiles", type=int, default=2000)
    options.add_argument("--epochs", type=int, default=None, help="passes over the training tiles; the recipe's own")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--folder", type=Path, default=None)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        run(given.folder or Path(scratch), given.tiles, given.epochs, given.seeds)


def run(folder: Path, tiles: int, epochs: int | None, seeds: int) -> None:
    """Answer all questions below a folder."""
    store = folder / "planet.zarr"
    fields = {"source": "synthetic", "tiles": tiles, "tile_size": 64, "split_shares": (70, 0, 30)}
    build(make_build_recipe(None, fields), store)
    jobs = [
        Job(store, folder / f"{question.task.partition(':')[2]}-{seed}", question, seed, epochs)
        for seed in range(seeds)
        for question in QUESTIONS
    ]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        answers = list(pool.map(answer, jobs))
    rows = [
        [a.task, a.seed, f"{a.pretrained:.1f}", f"{a.random:.1f}", "yes" if a.converged else "no", f"{a.seconds:.0f}"]
        for a in sorted(answers, key=lambda a: (a.task, a.seed))
    ]
    table(
        "Linear probe, accuracy in per cent", ["task", "seed", "pretrained", "random", "converged", "train (s)"], rows
    )
    figures: dict[str, tuple[float, str]] = {}
    ratios = []
    for question in QUESTIONS:
        mine = [a for a in answers if a.task == question.task]
        name = question.task.partition(":")[2]
        for which, values in (("pretrained", [a.pretrained for a in mine]), ("random", [a.random for a in mine])):
            figures[f"{name}_{which}"] = (statistics.mean(values), "%")
            figures[f"{name}_{which}_sd"] = (statistics.stdev(values) if len(values) > 1 else 0.0, "%")
        ratios.append(statistics.mean(a.pretrained for a in mine) / statistics.mean(a.random for a in mine))
    report("learning", min(ratios), figures)


if __name__ == "__main__":
    sys.exit(main())
