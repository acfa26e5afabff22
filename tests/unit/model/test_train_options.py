"""Every option of `mmearth-train` is followed or refused: each is run, with and without."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import pytest
import rasterio
import torch
from map_world import BANDS, make_network, numbers, write_scene
from option_walk import (
    Chosen,
    Elsewhere,
    Followed,
    Refused,
    Walk,
    cases,
    check_complete,
    files_here,
    fuzz,
    is_json,
    left,
    printed,
)
from pyproj import Transformer
from rasterio import Affine
from rasters_world import EPSG, ULX, ULY
from toy_store import write_store

from mmearth_data import open_store
from mmearth_model import Workload, embed_dense, load_checkpoint, open_vectors, plan_training, save_network
from mmearth_model.benchmarking import PEAK_SIDE, Step, bfloat16, memory_mib
from mmearth_model.cli import cli
from mmearth_model.cli.training import recipe_of
from mmearth_model.tasks import TaskKind
from mmearth_model.threads import COUNTS, PASSIVE
from mmearth_model.training.pretraining import _bfloat16, prepare
from mmearth_model.training.random_numbers import Position
from mmearth_model.weights.checkpoints import find_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from click.testing import Result
    from option_walk import Witness

TINY = """
depths: [1, 1, 1, 1]
widths: [8, 12, 16, 24]
image_size: 24
patch_size: 8
decoder_dim: 16
epochs: 1
batch_size: 12
exclude: [biome, eco_region]
"""
TABLE = "path,label\n" + "".join(f"{k}.tif,{'ab'[k % 2]}\n" for k in range(12))
TASK = "name: mine\nlayout: table\nkind: single-label\nbands: [B2, B3]\nclasses: [a, b]\n"

TRAIN = ("pretrain", "toy.zarr", "--recipe", "tiny.yaml", "--out", "r", "--device", "cpu")
EVALUATE = ("evaluate", "run", "--task", "store:biome", "--baseline", "none", "--protocol", "knn", "--seeds", "1", "--cache", "c", "--json")  # fmt: skip
BASELINES = ("evaluate", "--store", "toy.zarr", "--task", "store:biome", "--baseline", "statistics", "--protocol", "knn", "--seeds", "1", "--cache", "c", "--json")  # fmt: skip
FINETUNE = ("finetune", "run", "--task", "store:biome", "--epochs", "1", "--batch-size", "12", "--json")
lonlat = Transformer.from_crs(EPSG, 4326, always_xy=True).transform
TILE = "55d4a802aea54002"
LOUD = ("finetune", "run", "--task", "store:biome", "--epochs", "3", "--batch-size", "6", "--lr", "0.05", "--json")
EMBED = ("embed", "toy.zarr", "--checkpoint", "run", "--cache", "c", "--out", "x.parquet")
DENSE = ("embed", "scene.tif", "--dense", "--checkpoint", "run", "--out", "d.zarr", "--workers", "1")
PLACE = ",".join(f"{degrees:.6f}" for degrees in lonlat(ULX + 200, ULY - 200))
SHOWN = ("embed", "vectors.zarr", "--picture", "p.png")
CONVERT = ("convert", "run", "--out", "x")
DESCRIBE = ("describe", "weights")
EXPORT = ("export", "run", "--to", "torch-export", "--out", "x.pt2")
BENCH = ("bench", "--batch-size", "2", "--image-size", "16", "--runs", "1", "--form", "sparse", "--device", "cpu", "--json")  # fmt: skip
PREDICT = ("predict", "net", "scene.tif", "--out", "m.tif", "--workers", "1", "--device", "cpu")
TILES = ("predict", "tiles", "scene.tif", "--out", "m.tif", "--workers", "1", "--device", "cpu")
EXPERIMENT = ("experiment", "decoder", "--out", "e")
ROBUST = ("robustness", "--store", "toy.zarr", "--task", "store:biome", "--baseline", "statistics", "--protocol", "knn", "--seeds", "1", "--change", "offset", "--cache", "c", "--json")  # fmt: skip
REPORT = ("report", "run")
PAGE = ("report", "run", "--html", "p.html", "--tiles", "1", "--embeddings", "0", "--device", "cpu")
FILES = ("--task", "task.yaml=table.csv")


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Walk:
    inputs = tmp_path_factory.mktemp("inputs")
    write_store(inputs / "toy.zarr")
    write_store(inputs / "second.zarr", 40)
    (inputs / "tiny.yaml").write_text(TINY)
    (inputs / "tinier.yaml").write_text(TINY.replace("24]", "16]"))
    (inputs / "nets.py").write_text("from torch import nn\n\ndef net():\n    return nn.Conv2d(2, 4, 8, stride=8)\n")
    (inputs / "net.yaml").write_text("bands: [B4, B3]\nnormalise: task\n")
    (inputs / "folder").mkdir()
    (inputs / "binary").write_bytes(bytes(range(256)))
    (inputs / "task.yaml").write_text(TASK)
    (inputs / "table.csv").write_text(TABLE)
    walk = Walk(cli, inputs, tmp_path_factory.mktemp("walk"), copied=("folder", "binary", "weights", "edited"))
    save_network(inputs / "net", make_network())
    save_network(inputs / "tiles", make_network(TaskKind.SINGLE_LABEL))
    values = numbers(70, 70)
    write_scene(inputs / "scene.tif", values)
    write_scene(inputs / "silent.tif", values, tags={"PROCESSING_LEVEL": None, "PROCESSING_BASELINE": None})
    write_scene(inputs / "coarse.tif", values, transform=Affine(20, 0, ULX, 0, -20, ULY))
    write_scene(inputs / "less.tif", values[:-1], BANDS[:-1])
    write_scene(inputs / "nameless.tif", values, [""] * len(BANDS))
    (inputs / "bands.yaml").write_text(f"name: mine\nlayout: folder\nkind: single-label\nbands: [{', '.join(BANDS)}]\n")
    walk.prepare("toy.zarr", "--recipe", "tiny.yaml", "--out", "run", "--device", "cpu")
    embed_dense(load_checkpoint(inputs / "run"), [inputs / "scene.tif"], inputs / "vectors.zarr")
    for name in ("weights", "edited"):
        shutil.copytree(find_checkpoint(inputs / "run"), inputs / name)
    (inputs / "edited" / "README.md").write_text("My own words.")
    return walk


@pytest.fixture(scope="module", autouse=True)
def _a_small_peak() -> Iterator[None]:
    """The product that `bench` takes for the machine's peak would take longer than all that it measures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PEAK_SIDE, "cpu", 64)
        yield


def learned(command_line: Sequence[str]) -> Any:
    """What a run would learn with: the network as initialised, its data, crops, masks and steps."""
    name, *arguments = command_line
    given = dict(
        cli.commands[name].make_context(name, arguments, parent=click.Context(cli, **cli.context_settings)).params
    )
    device = given.pop("device")
    for other in ("out", "dry_run", "as_json"):
        given.pop(other)
    store = open_store(given.pop("store"))
    recipe = recipe_of(given.pop("base"), given)
    plan = plan_training(store, recipe)
    module = prepare(plan, store, None, 0)
    window, mask = module.crop_and_mask(Position(0, 0), 4)
    weights = {key: float(value.double().sum()) for key, value in module.state_dict().items()}
    steps = [plan.learning_rate(step) for step in range(plan.steps)]
    numbers = (recipe.micro_batch, recipe.accumulate, _bfloat16(recipe, torch.device(device)))
    drawn = (window.rows.tolist(), window.columns.tolist(), mask.tolist())
    return weights, module.normaliser.to_config(), drawn, steps, numbers, module.model.encoder.engine


def vectors(result: Result) -> Any:
    """Sum of the vectors of a dense embedding."""
    (found,) = open_vectors(Path("d.zarr"))
    return float(np.nansum(found.read(slice(None), slice(None))))


def rows(result: Result) -> Any:
    """Figures of an evaluation, without what it repeats of the question."""
    return [(row["encoder"], row["protocol"], row["value"], row["train_tiles"], row["test_tiles"]) for row in json.loads(result.stdout)["rows"]]  # fmt: skip


def curves(result: Result) -> Any:
    """Curves of a robustness experiment, and its notes."""
    told = json.loads(result.stdout)
    return told["curves"], told["notes"]


def tuned(result: Result) -> Any:
    """Figures and course of a fine-tuning."""
    return rows(result), result.stderr


def measured(result: Result) -> Any:
    """What does not depend on the clock."""
    timings = json.loads(result.stdout)
    return [(t["form"], t["compiled"], t["gflop"], t["memory_mib"]) for t in timings], result.stderr.count("bench: run")


def mapped(result: Result) -> Any:
    """Pixels of the map, without its tags."""
    with rasterio.open("m.tif") as dataset:
        return dataset.read().tolist()


def features(result: Result) -> dict[str, str]:
    """Features that were made."""
    return files_here(".npy")


def drawn(result: Result) -> Any:
    """Sections of the page of a report, and the tiles whose reconstructions it shows."""
    text = Path("p.html").read_text(encoding="utf-8")
    return re.findall(r'<section id="([^"]+)"', text), re.findall(r"[0-9a-f]{16}  \(", text)


def described(result: Result) -> str:
    """First lines of the card that was written."""
    card = next(path for path in Path().glob("*/README.md") if not path.parent.is_symlink())
    return card.read_text(encoding="utf-8")[:40]


def workload(command_line: Sequence[str]) -> Any:
    """Memory of the step that would be measured, and whether it is one in bfloat16."""
    name, *arguments = command_line
    given = dict(
        cli.commands[name].make_context(name, arguments, parent=click.Context(cli, **cli.context_settings)).params
    )
    given = {key: value for key, value in given.items() if key not in ("forms", "as_json") and value is not None}
    work = Workload(**given)
    step = Step(work, "sparse", torch.device("cpu"))
    return memory_mib(step), bfloat16(work, step.device)


LEARNED = {
    "--modalities": "sentinel2,era5",
    "--exclude": "era5",
    "--inputs": "sentinel1",
    "--bands": "sentinel2=B4,B3,B2",
    "--preset": "reference",
    "--size": "femto",
    "--image-size": "16",
    "--mask-ratio": "0.3",
    "--weighting": "unweighted",
    "--epochs": "2",
    "--batch-size": "6",
    "--device-batch": "6",
    "--lr": "0.5",
    "--seed": "3",
    "--precision": "bfloat16",
    "--engine": "masked",
}
"""Option of `pretrain` -> another value than the base's."""
DEVICE = "warp"


def refused_device(*command_line: str) -> list[Witness]:
    """An unknown device is refused: so it is asked for."""
    return [Refused((*command_line, "--device", DEVICE))]


THREADS: list[Witness] = [
    Elsewhere("unit/model/test_threads.py", "test_every_command_that_computes_takes_threads", "threads")
]
WITNESSES: dict[str, dict[str, list[Witness]]] = {
    "pretrain": {
        **{option: [Chosen(TRAIN, (option, value), learned)] for option, value in LEARNED.items()},
        "--patch-size": [Chosen((*TRAIN, "--image-size", "32"), ("--patch-size", "16"), learned)],
        "--recipe": [Chosen(TRAIN, ("--recipe", "tinier.yaml"), learned)],
        "--engine": [Chosen(TRAIN, ("--engine", "masked"), learned), Refused((*TRAIN, "--engine", "fused"))],
        "--statistics": [Refused((*TRAIN, "--statistics", "published")), Elsewhere("integration/test_released_run.py", "test_published_statistics_normalise_inputs_and_targets", "published")],
        "--out": [Followed(TRAIN, ("--out", "s"), left)],
        "--device": refused_device(*TRAIN),
        "--threads": THREADS,
        "--figure-epochs": [Followed(TRAIN, ("--figure-epochs", "1"), left)],
        "--logger": [Followed(TRAIN, ("--logger", "tensorboard"), left), Refused((*TRAIN, "--logger", "nosuch"))],
        "--dry-run": [Followed(TRAIN, ("--dry-run",), left)],
        "--json": [Followed(TRAIN, ("--json",), is_json)],
    },
    "evaluate": {
        "--task": [Followed(EVALUATE, ("--task", "store:eco_region"), rows)],
        "--store": [Followed(EVALUATE, ("--store", "second.zarr"), rows), Refused(("evaluate", "run", *FILES, "--store", "toy.zarr"))],
        "--protocol": [Followed(EVALUATE, ("--protocol", "linear"), rows), Refused((*EVALUATE, "--task", "store:esa_worldcover/pixels"))],
        "--baseline": [Followed(EVALUATE, ("--baseline", "statistics"), rows)],
        "--convnext": [Refused((*EVALUATE, "--convnext", "nosuch.pth"))],
        "--encoder": [Followed(EVALUATE, ("--encoder", "nets:net"), rows), Refused((*EVALUATE, "--encoder", "nosuch.onnx"))],
        "--speed": [Followed(EVALUATE, ("--speed",), lambda result: [row["images_per_s"] is None for row in json.loads(result.stdout)["rows"]])],
        "--beside": [Followed(EVALUATE, ("--beside", "published"), lambda result: sorted(json.loads(result.stdout))), Refused((*EVALUATE, "--beside", "table.csv"))],
        "--torchgeo-bands": [Elsewhere("unit/model/test_torchgeo_bench.py", "test_tasks_that_it_does_not_list_are_normalised_as_usual", "--torchgeo-bands"), Refused((*EVALUATE, "--torchgeo-bands", "all"))],
        "--torchgeo-size": [Elsewhere("unit/model/test_torchgeo_bench.py", "test_tasks_that_it_does_not_list_are_normalised_as_usual", "--torchgeo-size"), Refused((*EVALUATE, "--torchgeo-size", "8"))],
        "--labels": [Followed(EVALUATE, ("--labels", "50%"), rows)],
        "--seeds": [Followed(EVALUATE, ("--seeds", "2"), rows)],
        "--test-share": [Followed(EVALUATE, ("--test-share", "0.5"), rows), Refused(("evaluate", "run", *FILES, "--test-share", "0.5"))],
        "--padding": [Followed(EVALUATE, ("--padding", "reference"), features), Refused((*BASELINES, "--padding", "reference"))],
        "--out": [Followed(EVALUATE, ("--out", "o"), left)],
        "--keep-probe": [Followed((*EVALUATE, "--protocol", "linear"), ("--keep-probe", "k"), left), Refused((*EVALUATE, "--keep-probe", "k"))],
        "--cache": [Followed(EVALUATE, ("--cache", "d"), left)],
        "--html": [Followed(EVALUATE, ("--html", "p.html"), left), Refused((*EVALUATE, "--html", "table.csv/p.html"))],
        "--device": refused_device(*EVALUATE),
        "--threads": THREADS,
        "--json": [Followed(EVALUATE[:-1], ("--json",), is_json)],
    },
    "robustness": {
        "--task": [Followed(ROBUST, ("--task", "store:eco_region"), curves)],
        "--store": [Followed(("robustness", "run", *ROBUST[3:]), ("--store", "second.zarr"), curves), Refused(("robustness", *FILES, "--store", "toy.zarr"))],
        "--change": [Followed(ROBUST, ("--change", "noise"), curves)],
        "--protocol": [Followed(ROBUST, ("--protocol", "linear"), curves)],
        "--baseline": [Followed(ROBUST, ("--baseline", "random"), curves)],
        "--encoder": [Followed(ROBUST, ("--encoder", "nets:net"), curves), Refused((*ROBUST, "--encoder", "nosuch.onnx"))],
        "--seeds": [Followed((*ROBUST, "--baseline", "random"), ("--seeds", "2"), curves)],
        "--padding": [Followed((*ROBUST, "run"), ("--padding", "reference"), features), Refused((*ROBUST, "--padding", "reference"))],
        "--out": [Followed(ROBUST, ("--out", "o"), left)],
        "--cache": [Followed(ROBUST, ("--cache", "d"), left)],
        "--html": [Followed(ROBUST, ("--html", "p.html"), left), Refused((*ROBUST, "--html", "table.csv/p.html"))],
        "--device": refused_device(*ROBUST),
        "--threads": THREADS,
        "--json": [Followed(ROBUST[:-1], ("--json",), is_json)],
    },
    "finetune": {
        "--task": [Followed(FINETUNE, ("--task", "store:eco_region"), tuned)],
        "--encoder": [Refused((*FINETUNE, "--encoder", "nets:net")), Elsewhere("unit/model/test_external_encoders.py", "test_a_module_is_fine_tuned_by_command", "encoder")],
        "--store": [Followed(FINETUNE, ("--store", "second.zarr"), rows), Refused(("finetune", "run", *FILES, "--store", "toy.zarr"))],
        "--padding": [Followed(FINETUNE, ("--padding", "reference"), tuned)],
        "--out": [Followed(FINETUNE, ("--out", "o"), left)],
        "--labels": [Followed(FINETUNE, ("--labels", "50%"), rows)],
        "--recipe": [Refused((*FINETUNE, "--recipe", "paper")), Elsewhere("unit/model/test_paper.py", "test_the_papers_recipe_leaves_only_the_seed", "paper")],
        "--frozen": [Followed(FINETUNE, ("--frozen",), tuned)],
        "--epochs": [Followed(FINETUNE, ("--epochs", "2"), tuned)],
        "--patience": [Followed((*FINETUNE, "--lr", "1e-9", "--epochs", "6"), ("--patience", "1"), tuned)],
        "--batch-size": [Followed(FINETUNE, ("--batch-size", "6"), tuned)],
        "--lr": [Followed(FINETUNE, ("--lr", "0.1"), tuned)],
        "--layer-decay": [Followed(LOUD, ("--layer-decay", "0.1"), tuned), Refused((*FINETUNE, "--frozen", "--layer-decay", "0.1"))],
        "--drop-path": [Followed(LOUD, ("--drop-path", "0.9"), tuned), Refused((*FINETUNE, "--frozen", "--drop-path", "0.1"))],
        "--weight-decay": [Followed(LOUD, ("--weight-decay", "9"), tuned)],
        "--seed": [Followed(FINETUNE, ("--seed", "1"), tuned)],
        "--html": [Followed(FINETUNE, ("--html", "p.html"), left), Refused((*FINETUNE, "--html", "table.csv/p.html"))],
        "--device": refused_device(*FINETUNE),
        "--threads": THREADS,
        "--json": [Followed(FINETUNE[:-1], ("--json",), is_json)],
    },
    "embed": {
        "--checkpoint": [Refused(("embed", "toy.zarr", "--out", "x.parquet", "--checkpoint", "nosuch"))],
        "--task": [Refused((*EMBED, "--task", "nosuch"))],
        "--padding": [Followed(EMBED, ("--padding", "reference"), lambda result: files_here(".parquet"))],
        "--out": [Followed(EMBED, ("--out", "y.zarr"), left)],
        "--neighbours": [Followed(EMBED, ("--neighbours", TILE), printed)],
        "--figure": [Followed((*EMBED, "--neighbours", TILE), ("--figure", "f.png"), left), Refused((*EMBED, "--figure", "f.png"))],
        "--map": [Followed(EMBED, ("--map", "m.png"), left)],
        "--cache": [Followed(EMBED, ("--cache", "d"), left)],
        "--device": refused_device(*EMBED),
        "--threads": THREADS,
        "--dense": [Refused(("embed", "toy.zarr", "--checkpoint", "run", "--dense", "--out", "d.zarr"))],
        "--query": [Followed(SHOWN, ("--query", PLACE), left), Refused((*EMBED, "--query", PLACE))],
        "--picture": [Followed(DENSE, ("--picture", "p.png"), left), Refused((*EMBED, "--picture", "p.png"))],
        "--similarity": [Followed((*SHOWN, "--query", PLACE), ("--similarity", "s.tif"), left), Refused((*SHOWN, "--similarity", "s.tif"))],
        "--bands": [Refused((*DENSE, "--bands", "nosuch")), Refused((*EMBED, "--bands", "nosuch"))],
        "--level": [Refused((*DENSE, "--level", "L1C"))],
        "--offset": [Followed(("embed", "silent.tif", *DENSE[2:], "--level", "L2A"), ("--offset", "-1000"), printed), Refused((*EMBED, "--offset", "0"))],
        "--any-resolution": [Followed(("embed", "coarse.tif", *DENSE[2:]), ("--any-resolution",), printed), Refused((*EMBED, "--any-resolution"))],
        "--fill-missing": [Followed(("embed", "less.tif", *DENSE[2:]), ("--fill-missing",), printed), Refused((*EMBED, "--fill-missing"))],
        "--stride": [Followed(DENSE, ("--stride", "4"), printed), Refused((*EMBED, "--stride", "4"))],
        "--overlap": [Followed(DENSE, ("--overlap", "0"), vectors), Refused((*EMBED, "--overlap", "0"))],
        "--blend": [Followed(DENSE, ("--blend", "centre"), vectors), Refused((*EMBED, "--blend", "centre"))],
        "--type": [Followed(DENSE, ("--type", "int8"), vectors), Refused((*EMBED, "--type", "int8"))],
        "--workers": [Refused((*DENSE, "--scheduler", "tcp://127.0.0.1:1")), Refused((*EMBED, "--workers", "1"))],
        "--scheduler": [Refused((*DENSE[:-2], "--scheduler", "nosuch"))],
    },
    "convert": {
        "--out": [Followed(CONVERT, ("--out", "y"), left)],
        "--to": [Followed(CONVERT, ("--to", "finetune"), left)],
        "--store": [Followed(CONVERT, ("--store", "toy.zarr"), lambda result: files_here(".json")), Refused((*CONVERT, "--to", "timm", "--store", "toy.zarr"))],
        "--bands": [Followed((*CONVERT, "--store", "toy.zarr"), ("--bands", "sentinel2=B2"), left), Refused((*CONVERT, "--bands", "sentinel2=B2"))],
    },
    "describe": {
        "--licence": [Followed(DESCRIBE, ("--licence", "MIT"), described), Refused((*DESCRIBE, "--licence", "free"))],
        "--force": [Followed(("describe", "edited"), ("--force",), described)],
    },
    "export": {
        "--to": [Refused((*EXPORT, "--to", "onnx")), Elsewhere("unit/model/test_program.py", "test_both_files_give_the_encoders_features", "onnx")],
        "--features": [Elsewhere("unit/model/test_program.py", "test_a_map_of_features_at_a_fixed_level", "features")],
        "--level": [Refused((*EXPORT, "--level", "L3")), Elsewhere("unit/model/test_program.py", "test_a_map_of_features_at_a_fixed_level", "level")],
        "--out": [Refused((*EXPORT, "--out", "toy.pth"))],
    },
    "bench": {
        "--size": [Chosen(BENCH, ("--size", "femto"), workload)],
        "--image-size": [Chosen(BENCH, ("--image-size", "24"), workload)],
        "--patch-size": [Chosen((*BENCH, "--image-size", "32"), ("--patch-size", "16"), workload)],
        "--mask-ratio": [Chosen(BENCH, ("--mask-ratio", "0.2"), workload), Refused((*BENCH[:7], "--form", "unmasked", "--mask-ratio", "0.2"))],
        "--batch-size": [Chosen(BENCH, ("--batch-size", "3"), workload)],
        "--runs": [Followed(BENCH, ("--runs", "2"), measured)],
        "--form": [Followed(BENCH, ("--form", "masked"), measured), Refused((*BENCH, "--form", "fused"))],
        "--compile": [Elsewhere("unit/model/test_engines.py", "test_what_torch_compile_makes_of_it_is_the_same", "compile")],
        "--device": refused_device(*BENCH),
        "--threads": THREADS,
        "--precision": [Chosen(BENCH, ("--precision", "bfloat16"), workload)],
        "--json": [Followed(BENCH[:-1], ("--json",), is_json)],
    },
    "predict": {
        "--bands": [Followed(("predict", "net", "nameless.tif", *PREDICT[3:]), ("--bands", "bands.yaml"), left)],
        "--level": [Refused((*PREDICT, "--level", "L1C")), Followed(("predict", "net", "silent.tif", *PREDICT[3:], "--offset", "0"), ("--level", "L2A"), left)],
        "--offset": [Followed(("predict", "net", "silent.tif", *PREDICT[3:], "--level", "L2A", "--offset", "0"), ("--offset", "-1000"), mapped)],
        "--any-resolution": [Followed(("predict", "net", "coarse.tif", *PREDICT[3:]), ("--any-resolution",), left)],
        "--fill-missing": [Followed(("predict", "net", "less.tif", *PREDICT[3:]), ("--fill-missing",), left)],
        "--scores": [Followed(PREDICT, ("--scores",), left)],
        "--stride": [Followed(TILES, ("--stride", "8"), mapped), Refused((*PREDICT, "--stride", "8"))],
        "--overlap": [Followed(PREDICT, ("--overlap", "24"), mapped), Refused((*TILES, "--overlap", "24"))],
        "--blend": [Followed(PREDICT, ("--blend", "centre"), mapped), Refused((*TILES, "--blend", "centre"))],
        "--workers": [Refused((*PREDICT[:5], "--workers", "2", "--scheduler", "tcp://127.0.0.1:9")), Elsewhere("integration/test_map_processes.py", "test_processes_and_clusters_give_the_same_bytes", "workers")],
        "--scheduler": [Refused((*PREDICT[:5], "--device", "cpu", "--scheduler", "nosuch"))],
        "--out": [Followed(PREDICT, ("--out", "n.tif"), left)],
        "--device": refused_device(*PREDICT),
        "--threads": THREADS,
        "--mosaic": [Refused((*PREDICT, "--mosaic", "m"))],
        "--vector": [Followed(PREDICT, ("--vector", "v.parquet"), left)],
        "--report": [Followed(PREDICT, ("--report", "a.csv"), left)],
        "--validation": [Refused((*PREDICT, "--validation", "nosuch.csv")), Elsewhere("unit/model/test_map_stores.py", "test_from_a_store_to_areas", "validation")],
        "--draw-validation": [Followed(PREDICT, ("--draw-validation", "20"), left)],
        "--seed": [Followed((*PREDICT, "--draw-validation", "20"), ("--seed", "1"), lambda result: files_here(".csv")), Refused((*PREDICT, "--seed", "1"))],
        "--json": [Followed(PREDICT, ("--json",), is_json)],
    },
    "experiment": {
        "--scale": [Followed(("experiment", "decoder", "--device", DEVICE), ("--scale", "paper"), left), Refused(("experiment", "list", "--scale", "paper"))],
        "--out": [Refused(("experiment", "list", "--out", "x")), Refused((*EXPERIMENT, "--out", "table.csv"))],
        "--store": [Refused((*EXPERIMENT, "--store", "other=toy.zarr"))],
        "--data": [Refused((*EXPERIMENT, "--data", "m-eurosat=x"))],
        "--convnext": [Refused((*EXPERIMENT, "--convnext", "x.pth"))],
        "--workers": [Refused((*EXPERIMENT, "--workers", "2", "--scheduler", "tcp://127.0.0.1:9"))],
        "--scheduler": [Refused((*EXPERIMENT, "--store", "toy.zarr", "--scheduler", "nosuch"))],
        "--html": [
            Refused((*EXPERIMENT, "--html", "table.csv/p.html")),
            Elsewhere("unit/model/test_experiments.py", "test_an_experiment_ends_in_a_table_and_a_figure_and_is_never_run_twice", "html"),
        ],
        "--device": refused_device(*EXPERIMENT, "--store", "toy.zarr"),
        "--threads": THREADS,
    },
    "recipes": {
        "--json": [Followed(("recipes",), ("--json",), is_json), Refused(("recipes", "demo", "--json"))],
    },
    "report": {
        "--html": [Followed(REPORT, ("--html", "p.html", "--tiles", "0", "--embeddings", "0"), left)],
        "--store": [Followed(PAGE, ("--store", "second.zarr"), drawn), Refused((*REPORT, "--store", "toy.zarr"))],
        "--store-page": [Followed(PAGE, ("--store-page", "s.html"), lambda result: 'href="s.html"' in Path("p.html").read_text()), Refused((*REPORT, "--store-page", "s.html"))],
        "--tiles": [Followed(PAGE, ("--tiles", "2"), drawn), Refused((*REPORT, "--tiles", "2"))],
        "--embeddings": [Followed(PAGE, ("--embeddings", "8"), drawn), Refused((*REPORT, "--embeddings", "8"))],
        "--device": [*refused_device(*PAGE), Refused((*REPORT, "--device", "cpu"))],
        "--beside": [Refused((*REPORT, "--beside", "table.csv")), Elsewhere("unit/model/test_published_results.py", "test_report_shows_published_results_of_a_folder", "--beside")],
        "--json": [Followed(REPORT, ("--json",), is_json)],
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def _same_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave threads as they were: valid values of --threads are among those that are tried."""
    before = torch.get_num_threads()
    for name in (*PASSIVE, *COUNTS):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    yield
    torch.set_num_threads(before)


def test_every_option_has_a_witness() -> None:
    check_complete(cli, WITNESSES)


@pytest.mark.parametrize(
    ("command", "option", "witness"),
    [pytest.param(*case, id=f"{case[0]}{case[1]}-{type(case[2]).__name__}") for case in cases(WITNESSES)],
)
def test_an_option_is_followed_or_refused(command: str, option: str, witness: Witness, walk: Walk) -> None:
    assert command in cli.commands
    witness.show(option, walk)


BASES: dict[str, tuple[str, ...]] = {
    "pretrain": (*TRAIN[1:], "--dry-run"),
    "evaluate": EVALUATE[1:],
    "finetune": FINETUNE[1:],
    "embed": EMBED[1:],
    "convert": (*CONVERT[1:], "--store", "toy.zarr"),
    "describe": DESCRIBE[1:],
    "export": ("run", "--to", "torch-export", "--out", "table.csv/x.pt2"),
    "bench": (*BENCH[1:], "--image-size", "12"),
    "predict": PREDICT[1:],
    "experiment": ("list",),
    "report": ("run", "--html", "p.html", "--tiles", "0", "--embeddings", "0"),
}
"""Command -> command line that a bad value is added to; it ends soon."""


@pytest.mark.parametrize("thorough", [pytest.param(False, id=""), pytest.param(True, id="all", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("command", "option"),
    [
        pytest.param(command, option, id=f"{command}{option.opts[-1]}")
        for command in BASES
        for option in cli.commands[command].params
        if isinstance(option, click.Option) and not option.is_flag and option.name != "help"
    ],
)
def test_bad_values_are_one_clear_line(command: str, option: click.Option, thorough: bool, walk: Walk) -> None:
    base = BENCH[1:] if (command, option.name) == ("bench", "device") else BASES[command]
    problems = fuzz(walk, command, option, base, thorough=thorough)
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("size", [(), ("--size", "femto")])
def test_the_plan_counts_the_parameters_that_are_trained(size: tuple[str, ...], walk: Walk) -> None:
    result, _ = walk.run([*TRAIN, *size, "--dry-run"])
    plan = json.loads(result.stdout)
    recipe = recipe_of(str(walk.inputs / "tiny.yaml"), {"size": size[1]} if size else {})
    store = open_store(walk.inputs / "toy.zarr")
    module = prepare(plan_training(store, recipe), store, None, 0)
    assert plan["parameters"] == sum(parameter.numel() for parameter in module.parameters())
    assert plan["widths"] == ([48, 96, 192, 384] if size else [8, 12, 16, 24])
    assert plan["memory_mib"] > plan["parameters"] * 16 / 2**20 - 1
