"""Does pretraining on real images help? An encoder is pretrained on EuroSAT RGB without labels.

The 13,500 JPEGs are divided at random, with a fixed seed and in the same proportions for each class. 70 % are used for
pretraining, as chips without labels. The remaining images are used to train (50 %), validate (10 %) and test (40 %)
classifiers.

Frozen features are probed with nearest neighbours and logistic regression (L-BFGS). The baselines are random weights of
the same network, image statistics and random convolutional features. The pretrained and the random weights are also
fine-tuned with 1, 10 and 100 % of the labels. The learning curve shows the probe accuracy of every checkpoint of the
run and of its initial weights.

The recipe is ``chips`` with crops of 32 px and patches of 8 px. By default, there are three targets: the images
normalised per patch (``rgb``), the images without this normalisation (``levels``), and their local contrast
(``texture``). The results of finished steps are kept in the folder, so repeating the command resumes the run.

    python tests/benchmarks/real_pixels.py [--folder FOLDER] [--epochs N] [--targets TARGET ...] [--set FIELD=VALUE ...]

This takes hours on two cores, so it is not part of ``make bench``; run it with ``make real-pixels``. For controlled
experiments, ``--targets`` selects the targets and ``--set`` changes a field of the recipe. Use a separate folder for
each experiment:
``--targets rgb levels --set mask_ratio=0.75 --tune-epochs 0 --folder masks``.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import statistics
import sys
import time
import zipfile
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml
from _harness import report, table
from PIL import Image
from scipy import ndimage

from mmearth_data import build, open_store, staged_file, staged_folder, write_text
from mmearth_data import make_recipe as make_build_recipe
from mmearth_model import evaluate, load_checkpoint, make_recipe, plan_training, pretrain
from mmearth_model.evaluation.candidates import RANDOM
from mmearth_model.evaluation.finetune import FineTuneRecipe, finetune
from mmearth_model.tasks import LabelShare, open_task
from mmearth_model.tasks.store import StoreImages
from mmearth_model.training.pretraining import configuration, prepare
from mmearth_model.weights.checkpoints import write_checkpoint
from mmearth_model.weights.store_record import describe_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from mmearth_data import Store
    from mmearth_model import TrainProgress, TrainRecipe

DATA = Path(os.environ.get("MMEARTH_TEST_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data"))
TASK = "store:land_use"
LABELS = {"1%": 10, "10%": 3, "100%": 1}
"""Share of the labels -> factor for ``--tune-epochs``, because an epoch with few labels has few steps."""
PRETRAINED_SHARE = 0.7
RECIPE = {"image_size": 32, "patch_size": 8, "keep": 10_000}
"""Fields that differ from the recipe ``chips``; ``keep`` retains all checkpoints for the learning curve."""
REST = (("train", 0.5), ("val", 0.1), ("test", 0.4))
TARGETS = ("rgb", "levels", "texture")
"""Pretraining targets: images normalised per patch, images without this normalisation, and their local contrast."""
ORIENTATIONS, WINDOW = 8, 7
TEXTURE_BANDS = [
    *(f"gradient_{number}" for number in range(ORIENTATIONS)),
    *(f"deviation_{c}" for c in ("red", "green", "blue")),
]
EUROSAT = {"name": "MIT", "url": "https://github.com/phelber/EuroSAT", "attribution": "EuroSAT (Helber et al. 2019)"}


def divide(archive: Path, folder: Path, images: int | None) -> None:
    """Write two tables: one of the images for pretraining, one of the other images with their splits."""
    with zipfile.ZipFile(archive) as opened:
        names = sorted(name for name in opened.namelist() if name.endswith(".jpg"))
    rng = np.random.default_rng(0)
    parts: dict[str, list[tuple[str, str]]] = {"pretrain": [], "rest": []}
    classes = sorted({name.partition("/")[0] for name in names})
    for label in classes:
        mine = rng.permutation([name for name in names if name.startswith(f"{label}/")])
        mine = mine if images is None else mine[: images // len(classes)]
        first = round(PRETRAINED_SHARE * len(mine))
        parts["pretrain"] += [(name, "train") for name in mine[:first]]
        rest, start = mine[first:], 0
        for split, share in REST:
            stop = len(rest) if split == "test" else start + round(share * len(rest))
            parts["rest"] += [(name, split) for name in rest[start:stop]]
            start = stop
    for name, rows in parts.items():
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("image", "split"), *((Path(image).stem, split) for image, split in rows)])


def texture(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Local contrast of an image, (H, W, 3) -> (H, W, 11), within a window of ``WINDOW`` px around each pixel.

    The values are scaled square roots of the mean gradient magnitude in each of ``ORIENTATIONS`` orientations and of
    the standard deviation of each band. Magnitudes are binned by orientation as in histograms of oriented gradients,
    which MaskFeat (Wei et al. 2022, arXiv:2112.09133) predicts.
    """
    levels = image.astype(np.float32)
    down, across = (ndimage.sobel(levels.mean(axis=2), axis) / 8 for axis in (0, 1))
    orientation = np.arctan2(down, across) % np.pi / np.pi * ORIENTATIONS
    half = ORIENTATIONS / 2
    away = np.abs((orientation[..., None] - np.arange(ORIENTATIONS) + half) % ORIENTATIONS - half)
    gradients = np.hypot(down, across)[..., None] * np.clip(1 - away, 0, None)
    mean = partial(ndimage.uniform_filter, size=(WINDOW, WINDOW, 0))
    deviations = np.sqrt(np.clip(mean(levels**2) - mean(levels) ** 2, 0, None))
    found = np.concatenate([1600 * mean(gradients), 900 * deviations], axis=2)
    return np.clip(np.rint(np.sqrt(np.clip(found, 0, None))), 0, 254).astype(np.uint8)


def pretraining_images(archive: Path, folder: Path) -> Path:
    """Write a zip file with the pretraining images and their local contrast (see `texture`)."""
    path = folder / "pretrain.zip"
    if not path.exists():
        chosen = set((folder / "pretrain.csv").read_text().split())
        with zipfile.ZipFile(archive) as opened, staged_file(path) as new, zipfile.ZipFile(new, "w") as written:
            for name in opened.namelist():
                chip = Path(name).stem
                if f"{chip},train" in chosen:
                    written.writestr(f"rgb/{chip}.jpg", opened.read(name))
                    values = io.BytesIO()
                    np.save(values, texture(np.asarray(Image.open(io.BytesIO(opened.read(name))))))
                    written.writestr(f"texture/{chip}.npy", values.getvalue(), zipfile.ZIP_DEFLATED, 1)
    return path


def stores(archive: Path, folder: Path, images: int | None, targets: Sequence[str]) -> tuple[Store, Store]:
    """Build and open two stores: one of the pretraining images, without labels, and one of the other images."""
    divide(archive, folder, images)
    layers: dict[str, dict[str, Any]] = {
        name: {
            "modality": name,
            "path": f"{'texture' if name == 'texture' else 'rgb'}/{{chip}}.{'npy' if name == 'texture' else 'jpg'}",
            "bands": TEXTURE_BANDS if name == "texture" else ["red", "green", "blue"],
            "define": {
                "long_name": name,
                "pretext_norm": "patch" if name == "rgb" else "none",
                "licence": EUROSAT,
                "input": name == "rgb",
            },
        }
        for name in TARGETS
    }
    entries: dict[str, dict[str, Any]] = {
        "pretrain": {
            "images": str(pretraining_images(archive, folder)),
            "modalities": [layers[name] for name in targets],
        },
        "rest": {
            "images": str(archive),
            "modalities": [{**layers["rgb"], "path": "*/{chip}.jpg"}],
            "labels": {"land_use": {"folder": True, "content": "class"}},
        },
    }
    found = []
    for name, entry in entries.items():
        about = {**entry, "splits": {"column": "split"}, "table": {"file": f"{name}.csv"}}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(about, sort_keys=False))
        build(make_build_recipe(None, {"source": f"chips:{folder / f'{name}.yaml'}"}), folder / f"{name}.zarr")
        found.append(open_store(folder / f"{name}.zarr"))
    return found[0], found[1]


def random_weights(store: Store, recipe: TrainRecipe, folder: Path) -> Path:
    """Write a checkpoint of the weights that pretraining starts from."""
    if not folder.exists():
        plan = plan_training(store, recipe)
        module = prepare(plan, store, None, 0)
        config = configuration(module, {"store": describe_store(store, folder.parent), "version": "0"})
        with staged_folder(folder) as new:
            progress = {"progress": {"step": 0, "steps": plan.steps}}
            write_checkpoint(new, {"model": module.model, "losses": module.losses}, {**config, **progress})
    return folder


def remembered(file: Path, compute: Callable[[], Any]) -> Any:
    """Result of a step: read from the file if an earlier run wrote it, else computed and written."""
    if not file.exists():
        result = compute()
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(result, indent=1))
    return json.loads(file.read_text())


def probes(
    checkpoints: Sequence[Path], store: Store, baselines: Sequence[Any], seeds: int, cache: Path
) -> list[dict[str, Any]]:
    """Results of nearest neighbours and logistic regression, one row each."""
    found = evaluate(
        [load_checkpoint(path) for path in checkpoints],
        store,
        [TASK],
        protocols=("knn", "linear"),
        seeds=seeds,
        baselines=baselines,
        cache=cache,
        device="cpu",
        report=lambda done, total, what: progress(f"probes {done}/{total} {what}"),
    )
    return [asdict(summary) for summary in found.summaries()]


def tuned(checkpoint: Path, store: Store, labels: str, seed: int, epochs: int) -> dict[str, Any]:
    """Result of fine-tuning as a row; the last epoch is tested, so the validation labels are not used."""
    task = open_task(TASK, StoreImages(store))
    recipe = FineTuneRecipe(epochs=epochs * LABELS[labels], seed=seed, keep="last")
    found = finetune(load_checkpoint(checkpoint), task, recipe, labels=LabelShare.parse(labels), device="cpu")
    return asdict(found.rows[0])


@contextmanager
def clocked(file: Path) -> Iterator[None]:
    """Add the block's running time in seconds to the time recorded in the file by earlier, interrupted runs."""
    before, start = json.loads(file.read_text()) if file.exists() else 0.0, time.perf_counter()
    try:
        yield
    finally:
        write_text(file, json.dumps(before + time.perf_counter() - start))


def progress(text: str) -> None:
    """Write a progress line to stderr."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


def step(state: TrainProgress) -> None:
    """Report every 100th step of pretraining and the last one."""
    if state.step % 100 == 0 or state.step == state.steps:
        progress(f"pretraining: step {state.step:,}/{state.steps:,}, {state}")


def draw(curve: Sequence[tuple[float, float, float]], bars: dict[str, float], path: Path) -> None:
    """Plot the test accuracy of the probes against the epoch, with the linear probes of the baselines as lines."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    epochs, linear, knn = zip(*curve, strict=True)
    axes.plot(epochs, linear, "o-", label="pretrained, linear probe")
    axes.plot(epochs, knn, "s--", label="pretrained, 5 nearest neighbours")
    for at, (name, value) in enumerate(bars.items()):
        axes.axhline(value, color=f"C{at + 2}", linewidth=1, label=f"{name}, linear probe")
    axes.set(xlabel="epochs of pretraining", ylabel="test accuracy, %", title="EuroSAT RGB, labels unseen")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Build the stores, pretrain, probe, fine-tune and report."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--archive", type=Path, default=DATA / "eurosat_rgb_half.zip")
    options.add_argument("--folder", type=Path, default=Path("build/real-pixels"))
    options.add_argument(
        "--images", type=int, default=None, help="use only this many images, the same number per class"
    )
    options.add_argument("--epochs", type=int, default=20, help="epochs of pretraining")
    options.add_argument(
        "--tune-epochs", type=int, default=20, help="epochs of fine-tuning with all labels; 0 skips fine-tuning"
    )
    options.add_argument(
        "--seeds", type=int, default=3, help="number of seeds for baselines and for fine-tuning with few labels"
    )
    options.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="set a field of the recipe; can be repeated"
    )
    options.add_argument(
        "--targets", nargs="+", choices=TARGETS, default=TARGETS, help="pretraining targets; rgb is also the input"
    )
    options.add_argument("--threads", type=int, default=os.cpu_count())
    given = options.parse_args()
    if "rgb" not in given.targets:
        options.error(f"--targets: expected rgb, which is also the input, got {' '.join(given.targets)}")
    torch.set_num_threads(given.threads)
    folder = given.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    fields = {key: yaml.safe_load(value) for key, _, value in (text.partition("=") for text in given.set)}
    fields = {**RECIPE, "epochs": given.epochs, "checkpoint_epochs": max(1, given.epochs // 5), **fields}
    recipe = make_recipe("chips", fields)
    blank, labelled = stores(given.archive.absolute(), folder, given.images, given.targets)
    with clocked(folder / "seconds.json"):
        last = pretrain(blank, recipe, folder / "run", device="cpu", report=step)
    start, cache = random_weights(blank, recipe, folder / "random"), folder / "features"
    final = remembered(
        folder / f"probes-{given.seeds}.json",
        partial(probes, [last], labelled, ("random", "statistics", "rcf"), given.seeds, cache),
    )
    curve = []
    for checkpoint in [start, *sorted((folder / "run").glob("step-*"))]:
        rows = remembered(
            folder / "curve" / f"{checkpoint.name}.json", partial(probes, [checkpoint], labelled, (), 1, cache)
        )
        at = 0 if checkpoint == start else int(checkpoint.name.rpartition("-")[2])
        accuracy = {r["protocol"]: 100 * r["mean"] for r in rows}
        curve.append((at / plan_training(blank, recipe).steps_per_epoch, accuracy["linear"], accuracy["knn-5"]))
    fine: dict[tuple[str, str], list[float]] = {}
    for labels in LABELS if given.tune_epochs else ():
        for seed in range(given.seeds if labels != "100%" else 1):
            for name, checkpoint in (("pretrained", last), ("random", start)):
                progress(f"fine-tuning {name} with {labels} of the labels, seed {seed}")
                file = folder / "tuned" / f"{name}-{labels.strip('%')}-{seed}-{given.tune_epochs}.json"
                row = remembered(file, partial(tuned, checkpoint, labelled, labels, seed, given.tune_epochs))
                fine.setdefault((name, labels), []).append(100 * row["value"])
    summarise(folder, recipe, final, curve, fine, json.loads((folder / "seconds.json").read_text()))


def summarise(
    folder: Path,
    recipe: TrainRecipe,
    final: list[dict[str, Any]],
    curve: list[tuple[float, float, float]],
    fine: dict[tuple[str, str], list[float]],
    seconds: float,
) -> None:
    """Write the tables, the figure, ``result.json`` and the JSON line."""
    rows = [
        [
            Path(r["encoder"]).name,
            r["protocol"],
            f"{100 * r['mean']:.1f}",
            f"{100 * r['low']:.1f} to {100 * r['high']:.1f}",
        ]
        for r in final
    ]
    table("Frozen features, accuracy in per cent", ["features", "protocol", "accuracy", "95 % interval"], rows)
    table(
        "Fine-tuned, accuracy in per cent",
        ["weights", "labels", "accuracy", "seeds"],
        [[name, labels, f"{statistics.mean(v):.1f}", len(v)] for (name, labels), v in fine.items()],
    )
    table("Epochs", ["epoch", "linear", "knn"], [[f"{e:.0f}", f"{a:.1f}", f"{b:.1f}"] for e, a, b in curve])
    linear = {Path(r["encoder"]).name: 100 * r["mean"] for r in final if r["protocol"].startswith("linear")}
    ours = next(iter(linear))
    draw(curve, {name: value for name, value in linear.items() if name != ours}, folder / "curve.png")
    figures = {f"linear {name}": (value, "%") for name, value in linear.items()}
    figures |= {f"tuned {name} {labels}": (statistics.mean(v), "%") for (name, labels), v in fine.items()}
    figures |= {"pretraining": (seconds, "s")}
    written = {"recipe": recipe.model_dump(mode="json"), "probes": final, "curve": curve, "seconds": seconds}
    written["tuned"] = {f"{name} {labels}": values for (name, labels), values in fine.items()}
    write_text(folder / "result.json", json.dumps(written, indent=1))
    report("real_pixels", linear[ours] / linear[RANDOM], figures)


if __name__ == "__main__":
    main()
