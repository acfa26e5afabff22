"""The command `evaluate`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

import click
from annotated_types import Interval

from mmearth_data import Number, Several, check_output, option, refuse_unused
from mmearth_model.cli.opening import of_store, open_weights, store_of
from mmearth_model.cli.options import (
    BESIDE,
    CACHE,
    DEVICE,
    ENCODER_TEXT,
    FILE,
    FOLDER,
    HTML,
    JSON,
    OUTPUT,
    PADDING,
    STORE,
    THREADS,
    WHAT,
    command,
)
from mmearth_model.cli.output import check_page, print_table, published_results, say, title_for, write_page
from mmearth_model.threads import use_threads

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mmearth_model import Checkpoint, ExternalEncoder, Network
    from mmearth_model.network.encoder import Padding

OF_PROBES = (
    "protocols", "baselines", "convnext", "labels", "seeds", "test_share", "padding", "keep", "speed", "cache", "torchgeo_bands",
    "torchgeo_size",
)  # fmt: skip
"""Options of evaluate that concern probes and baselines only."""


@command(resumes=lambda given: True, first=("tasks", "store", "protocols", "baselines", "out"))
@click.argument("checkpoints", type=FOLDER, nargs=-1, metavar="[CKPT|NETWORK...]")
@option(
    "--task TASK",
    WHAT,
    "store:MODALITY[.BAND][/shares|/pixels], or NAME=PATH: a task of catalog/tasks (or FILE.yaml) and its data; "
    "NAME@random and NAME@geographic select the test split of MMEarth-Bench.",
    name="tasks",
    multiple=True,
    required=True,
)
@STORE
@option(
    "--protocol",
    WHAT,
    "knn: k = 5 and 20, cosine; linear: L-BFGS; probe: AdamW on frozen features, 100 epochs (ours); "
    "paper: the linear probe of the paper's released code; torchgeo-bench: kNN-5 and L-BFGS of torchgeo-bench, not with others.",
    click.Choice(["knn", "linear", "probe", "paper", "torchgeo-bench"]),
    name="protocols",
    multiple=True,
    shown="knn, linear",
)
@option(
    "--baseline",
    WHAT,
    "random weights; image statistics; random convolutional features; the mean of the training labels, for regression.",
    click.Choice(["random", "statistics", "rcf", "train-mean", "none"]),
    name="baselines",
    multiple=True,
    shown="random",
)
@option("--encoder ENCODER", WHAT, ENCODER_TEXT, name="encoders", multiple=True)
@option("--convnext FILE", WHAT, "Plain ConvNeXt V2 weights (RGB) as an additional baseline.", FILE)
@option("--labels 1%,5%,...", WHAT, "Shares of the training labels, or shots (10-shot).", Several(), default="100%")
@option(
    "--seeds N",
    WHAT,
    "Number of random encoders, splits and hold-outs.",
    Number(int, Interval(ge=1, le=1000)),
    default=3,
)
@option(
    "--test-share F", WHAT, "Test on a random share of all tiles instead of using the store's splits.", Number(float)
)
@option(
    "--torchgeo-bands rgb|all",
    WHAT,
    "torchgeo-bench: red, green and blue only, or all bands.",
    click.Choice(["rgb", "all"]),
    shown="rgb, as in torchgeo-bench",
)
@option(
    "--torchgeo-size PX",
    WHAT,
    "torchgeo-bench: side length to which images are resized; 0 keeps the original size.",
    Number(int, Interval(ge=0, le=1024)),
    shown="224",
)
@PADDING
@DEVICE
@THREADS
@option(
    "--out DIR",
    OUTPUT,
    "Write results.md, .csv, .json, .png, .pdf and .svg; with --protocol torchgeo-bench also torchgeo-bench.csv, in the "
    "columns of its results.",
    FILE,
)
@option(
    "--speed", OUTPUT, "Also measure the throughput of each encoder and baseline in images per second.", is_flag=True
)
@option(
    "--keep-probe DIR",
    OUTPUT,
    "Save the fitted linear probe as a network in this folder: for one CKPT, one task and one share of labels, with "
    "the first seed.",
    FILE,
    name="keep",
)
@BESIDE
@HTML
@CACHE
@JSON
def evaluate(
    checkpoints: tuple[str | Path, ...],
    tasks: tuple[str, ...],
    store: str | Path | None,
    protocols: tuple[Any, ...],
    baselines: tuple[Any, ...],
    encoders: tuple[str, ...],
    labels: list[str],
    padding: Padding | None,
    out: Path | None,
    keep: Path | None,
    beside: str | None,
    page: Path | None,
    as_json: bool,
    cache: Path | None,
    threads: int | None,
    torchgeo_bands: Literal["rgb", "all"] | None,
    torchgeo_size: int | None,
    **options: Any,
) -> None:
    """Probe frozen encoders, and test networks.

    CKPT is a checkpoint folder, a run folder (its last checkpoint), or the URL of a checkpoint:
    hf://OWNER/NAME[@REVISION][/SUBFOLDER] on the Hugging Face Hub, https://..., s3://..., gs://... or az://.... NETWORK is a
    folder of finetune --out or evaluate --keep-probe; it is evaluated without fitting anything, on the test samples of its
    task, or of another task of the same kind whose classes it has. Without CKPT, NETWORK and --encoder, only baselines are
    compared.
    """
    use_threads(threads)
    from mmearth_data import cache_folder, meter
    from mmearth_model import Network, open_encoder
    from mmearth_model import evaluate as evaluate_encoders
    from mmearth_model.evaluation import TORCHGEO_BENCH, TorchgeoInput, beside_dict, write_bench_table, write_results
    from mmearth_model.tasks import LabelShare

    if not checkpoints:
        refuse_unused("without CKPT", "padding")
    if not any(of_store(task) for task in tasks):
        refuse_unused("with only tasks from files", "store", "test_share")
    if TORCHGEO_BENCH not in protocols:
        refuse_unused(f"without --protocol {TORCHGEO_BENCH}", "torchgeo_bands", "torchgeo_size")
    if out is not None:
        check_output(out, folder=True, beside_stores=True)
        if keep is not None and keep.absolute() == out.absolute():
            raise click.UsageError(f"--keep-probe: expected another folder than --out, got {keep} for both.")
    if cache is not None:
        check_output(cache, folder=True, option="--cache", beside_stores=True)
    if "none" in baselines and len(set(baselines)) > 1:
        raise click.UsageError(f"--baseline: expected none alone, got {', '.join(baselines)}; leave one of them out.")
    check_page(page)
    published = published_results(beside)
    loaded = [open_weights(path, padding, networks=True) for path in checkpoints]
    others = [open_encoder(text) for text in encoders]
    if loaded and not others and all(isinstance(each, Network) for each in loaded):
        refuse_unused("with only networks, for which nothing is fitted", *OF_PROBES)
    opened = store_of(tasks, store, loaded)
    with meter("Evaluating", "probes") as show:
        result = evaluate_encoders(
            loaded,
            opened,
            tasks,
            protocols=protocols or ("knn", "linear"),
            baselines=[name for name in baselines if name != "none"] if baselines else None,
            encoders=others,
            keep=keep,
            labels=[LabelShare.parse(text) for text in labels],
            cache=cache or cache_folder() / "features",
            torchgeo=TorchgeoInput(torchgeo_bands or "rgb", 224 if torchgeo_size is None else torchgeo_size or None),
            report=show,
            **options,
        )
    about = {"store": str(opened.path) if opened else None, "synthetic": bool(opened and opened.synthetic)}
    about["test_share"] = options["test_share"]
    about |= _origins(loaded, others)
    compared = None if published is None else result.beside(published)
    if out is not None:
        write_results(result, out, about, compared)
        write_bench_table(result, out)
    if keep is not None:
        say(f"{keep}: the probe as a network")
    content = {**about, **result.to_dict(), **beside_dict(compared)}
    write_page(content, title_for(result), page)
    if as_json:
        click.echo(json.dumps(content, indent=2))
        return
    print_table(result, opened, compared)


def _origins(weights: Sequence[Checkpoint | Network], encoders: Sequence[ExternalEncoder]) -> dict[str, Any]:
    """Origins of what was downloaded, and of other encoders, for the results."""
    found: dict[str, Any] = {each.name: each.origin.to_dict() for each in weights if each.origin}
    found |= {encoder.name: dict(encoder.record) for encoder in encoders}
    return {"encoders": found} if found else {}
