"""The commands `experiment` and `robustness`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from annotated_types import Interval

from mmearth_data import Number, Pair, check_output, option, refuse_unused
from mmearth_model.cli.opening import of_store, open_weights, store_of
from mmearth_model.cli.options import (
    CACHE,
    DEVICE,
    ENCODER_TEXT,
    FILE,
    FOLDER,
    HARDWARE,
    HTML,
    JSON,
    OUTPUT,
    PADDING,
    STORE,
    THREADS,
    WHAT,
    command,
)
from mmearth_model.cli.output import check_page, print_rich, say
from mmearth_model.threads import use_threads

if TYPE_CHECKING:
    from mmearth_model.network.encoder import Padding


@command(resumes=lambda given: True, first=("scale", "stores", "data", "workers", "out"))
@click.argument("name", metavar="NAME|FILE")
@option(
    "--scale",
    WHAT,
    "demo: minutes on a laptop, on its own synthetic store; paper: as in the paper, on your store.",
    click.Choice(["demo", "paper"]),
    default="demo",
)
@option(
    "--store [NAME=]STORE",
    WHAT,
    "Store to pretrain on and to probe; with a NAME if variants name stores.",
    name="stores",
    multiple=True,
)
@option("--data TASK=PATH", WHAT, "Data of a task that does not come from a store.", Pair())
@option("--convnext FILE", WHAT, "Plain ConvNeXt V2 weights (RGB), if a variant needs them.", FILE)
@option("--workers N", HARDWARE, "Number of processes.", Number(int, Interval(ge=1, le=1024)), default=1)
@option("--scheduler URL", HARDWARE, "Run on the workers of this Dask scheduler instead.")
@DEVICE
@THREADS
@option("--out DIR", OUTPUT, "Folder of the experiment.", FILE, shown="runs/NAME-SCALE")
@HTML
def experiment(
    name: str,
    scale: str,
    out: Path | None,
    page: Path | None,
    stores: tuple[str, ...],
    data: dict[str, str] | None,
    convnext: Path | None,
    workers: int,
    scheduler: str | None,
    device: str,
    threads: int | None,
) -> None:
    """Run an experiment: several runs and their comparison.

    Running the same command again resumes it and never repeats a finished run; several processes (such as a Slurm
    array) share the work. Use `list` as NAME to list the experiments. The experiment `robustness` has its own options:
    see `mmearth-train robustness --help`.
    """
    from mmearth_data import NamedValues, meter

    use_threads(threads)
    from mmearth_model.experiments.spec import EXPERIMENTS, read_experiment

    if name == "list":
        refuse_unused(
            "with list",
            "scale",
            "out",
            "page",
            "stores",
            "data",
            "convnext",
            "workers",
            "scheduler",
            "device",
            "threads",
        )
        from mmearth_model.experiments.robustness.changes import QUESTION

        questions = {known: read_experiment(known).question for known in EXPERIMENTS.names()}
        print_rich(NamedValues(sorted({**questions, "robustness": QUESTION}.items())))
        return
    from mmearth_model.evaluation.terminal import render_results
    from mmearth_model.experiments.run import Setting, run_experiment

    if scheduler is not None:
        refuse_unused("with --scheduler, whose workers run the experiment", "workers")
    check_page(page)
    found = read_experiment(name)
    setting = Setting(
        experiment=found,
        scale=scale,
        out=out or Path("runs") / f"{found.name}-{scale}",
        stores={key or "default": Path(path) for key, path in (_pair(text) for text in stores)},
        data={key: Path(path) for key, path in (data or {}).items()},
        convnext=convnext,
        device=device,
    )
    with meter(f"Running {found.name}", "runs") as show:
        result = run_experiment(
            setting, workers=workers, scheduler=scheduler, threads=threads, report=say, progress=show
        )
    if page is not None:
        from mmearth_model import read_report, write_report

        write_report(read_report([setting.out]), page, tiles=0, embedded=0)
    print_rich(render_results(f"{found.name}: {found.question}", result, found.baseline))
    say(f"{setting.out}: results.md, .csv, .json, .png, .pdf and .svg")


def _pair(text: str) -> tuple[str, str]:
    """``NAME=PATH`` to both; a path alone has no name."""
    name, equals, path = text.partition("=")
    return (name, path) if equals else ("", text)


@command(resumes=lambda given: True, first=("tasks", "store", "changes", "protocol", "baselines", "encoders", "out"))
@click.argument("checkpoints", nargs=-1, type=FOLDER, metavar="[CKPT...]")
@option(
    "--task TASK",
    WHAT,
    "Task of whole images, as for evaluate.",
    name="tasks",
    multiple=True,
    required=True,
)
@STORE
@option(
    "--change CHANGE",
    WHAT,
    "Change of the test images: clouds, haze, offset, gain, loss, noise, resolution, missing-bands, shift or "
    "missing-modality; or comparison with another season or continent.",
    click.Choice(
        [
            "clouds",
            "haze",
            "offset",
            "gain",
            "loss",
            "noise",
            "resolution",
            "missing-bands",
            "shift",
            "missing-modality",
            "season",
            "continent",
        ]
    ),
    name="changes",
    multiple=True,
    shown="all that apply",
)
@option(
    "--protocol",
    WHAT,
    "Probe: linear (L-BFGS), knn (k = 5), or probe (AdamW).",
    click.Choice(["linear", "knn", "probe"]),
    default="linear",
)
@option(
    "--baseline",
    WHAT,
    "As for evaluate.",
    click.Choice(["random", "statistics", "rcf", "none"]),
    name="baselines",
    multiple=True,
    shown="random",
)
@option("--encoder ENCODER", WHAT, ENCODER_TEXT, name="encoders", multiple=True)
@option("--seeds N", WHAT, "Number of random encoders and hold-outs.", Number(int, Interval(ge=1, le=1000)), default=3)
@PADDING
@DEVICE
@THREADS
@option("--out DIR", OUTPUT, "Write results.md, .csv, .json, .png, .pdf and .svg.", FILE, default="runs/robustness")
@HTML
@CACHE
@JSON
def robustness(
    checkpoints: tuple[str | Path, ...],
    tasks: tuple[str, ...],
    store: str | Path | None,
    changes: tuple[str, ...],
    protocol: str,
    baselines: tuple[Any, ...],
    encoders: tuple[str, ...],
    seeds: int,
    padding: Padding | None,
    device: str,
    threads: int | None,
    out: Path,
    page: Path | None,
    cache: Path | None,
    as_json: bool,
) -> None:
    """Measure how much probes lose when the test images change.

    Probes of frozen encoders are fitted to clean training images and tested on images with clouds, haze, missing bands
    and other changes, level by level. If locations and dates are known, probes fitted to other seasons and continents
    are compared, too. CKPT is as for evaluate. Running the same command again resumes it. `mmearth-train experiment
    robustness` is the same command.
    """
    use_threads(threads)
    from mmearth_data import cache_folder, meter
    from mmearth_model import open_encoder
    from mmearth_model import robustness as measure
    from mmearth_model.experiments.robustness.results import render, write_robustness, write_robustness_page
    from mmearth_model.experiments.robustness.run import CHANGES
    from mmearth_model.tasks import StoreImages, open_task

    if not checkpoints:
        refuse_unused("without CKPT", "padding")
    if not any(of_store(task) for task in tasks):
        refuse_unused("with only tasks from files", "store")
    check_output(out, folder=True)
    check_page(page)
    loaded = [open_weights(path, padding) for path in checkpoints]
    opened = store_of(tasks, store, loaded)
    images = None if opened is None else StoreImages(opened)
    with meter("Testing", "levels") as show:
        result = measure(
            loaded,
            [open_task(task, images) for task in dict.fromkeys(tasks)],
            out,
            encoders=[open_encoder(text) for text in encoders],
            baselines=[name for name in baselines if name != "none"] if baselines else ("random",),
            changes=changes or CHANGES,
            protocol=protocol,
            seeds=seeds,
            cache=cache or cache_folder() / "features",
            device=device,
            report=show,
        )
    about = {"store": str(opened.path) if opened else None, "synthetic": bool(opened and opened.synthetic)}
    write_robustness(result, out, about)
    if page is not None:
        write_robustness_page(result, page, about)
    if as_json:
        click.echo(json.dumps({**about, **result.to_dict()}, indent=2))
        return
    print_rich(render(result))
    say(f"{out}: results.md, .csv, .json, .png, .pdf and .svg")
