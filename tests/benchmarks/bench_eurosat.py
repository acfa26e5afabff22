"""What frozen features are worth on EuroSAT (RGB, real photographs): baselines, and encoders if given.

13,500 JPEGs, 70 / 15 / 15 %, seeded and balanced over the classes. Per-band image statistics, random convolutional
features (the bar to beat), and every checkpoint that is named: accuracy on the test images with 95 % intervals, for nearest
neighbours and logistic regression (L-BFGS); with ``--all`` also a randomly initialised atto encoder, and all protocols. The
ratio is the best checkpoint's accuracy over that of the random convolutional features; without a checkpoint, that of the
random convolutional features over that of the image statistics.

    python tests/benchmarks/bench_eurosat.py [CKPT ...] [--images N] [--seeds 1] [--all] [--out DIR]
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from _harness import report, table

from mmearth_model import evaluate, load_checkpoint
from mmearth_model.evaluation import BASELINES, DEFAULT_PROTOCOLS, PROTOCOLS, write_results
from mmearth_model.evaluation.baselines import RCF, STATISTICS
from mmearth_model.tasks import LabelledSet, open_task

DATA = Path(os.environ.get("MMEARTH_TEST_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data"))
ARCHIVE = DATA / "eurosat_rgb_half.zip"


def some(task: LabelledSet, images: int | None) -> LabelledSet:
    """A seeded part of the images, every part of the split cut alike."""
    if images is None or images >= len(task):
        return task
    keep = images / len(task)
    rng = np.random.default_rng(0)
    parts = (
        rng.permutation(p)[: round(keep * len(p))] for p in (task.parts.train, task.parts.validation, task.parts.test)
    )
    divided = replace(task, parts=type(task.parts)(*(np.sort(part) for part in parts)))
    used = divided.parts.used
    at = {int(row): place for place, row in enumerate(used)}
    moved = (np.array([at[int(r)] for r in part]) for part in (divided.parts.train, divided.parts.validation, divided.parts.test))  # fmt: skip
    pictures = replace(task.images, items=tuple(task.images.items[row] for row in used))  # type: ignore[attr-defined, type-var]
    return replace(task, images=pictures, labels=task.labels[used], parts=type(task.parts)(*moved), ids=pictures.items)


def main() -> None:
    """Evaluate, and say how long it took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoints", nargs="*", type=Path)
    parser.add_argument("--images", type=int)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    start, begun = time.perf_counter(), time.process_time()
    task = some(open_task(f"eurosat-rgb={ARCHIVE}"), given.images)
    loaded = [load_checkpoint(path) for path in given.checkpoints]
    protocols, baselines = (PROTOCOLS, BASELINES) if given.all else (DEFAULT_PROTOCOLS, ("statistics", "rcf"))
    result = evaluate(loaded, None, [task], protocols=protocols, seeds=given.seeds, baselines=baselines)
    seconds, processor = time.perf_counter() - start, time.process_time() - begun
    summaries = result.summaries()
    if given.out is not None:
        write_results(result, given.out, {"images": len(task), "seconds": seconds})
    rows = [[s.encoder, s.protocol, f"{100 * s.mean:.1f}", f"{100 * s.low:.1f} to {100 * s.high:.1f}", "yes" if s.converged else "no"] for s in summaries]  # fmt: skip
    table(f"EuroSAT RGB, {len(task)} images, accuracy in per cent ({seconds:.0f} s)", ["features", "protocol", "accuracy", "95 % interval", "converged"], rows)  # fmt: skip
    best = {s.encoder: max(t.mean for t in summaries if t.encoder == s.encoder) for s in summaries}
    ours = max((best[str(c.folder)] for c in loaded), default=best[RCF])
    bar = best[RCF] if loaded else best[STATISTICS]
    figures: dict[str, tuple[float, str]] = {"seconds": (seconds, "s"), "processor seconds": (processor, "s")}
    figures["images"] = (len(task), "images")
    figures |= {f"{s.encoder} {s.protocol}": (100 * s.mean, "%") for s in summaries}
    report("eurosat", ours / bar, figures)


if __name__ == "__main__":
    main()
