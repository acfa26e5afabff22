"""The command ``mmearth-train``: parse, call the front door, print the result."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmearth_data import (
    CommandGroup,
    FilePath,
    Finite,
    InputError,
    __version__,
    check_output,
    closest,
    is_there,
    refuse_unused,
    short_path,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mmearth_data import Store
    from mmearth_model import Checkpoint, Evaluation, Timing, TrainProgress, TrainRecipe, Workload
    from mmearth_model.network.encoder import Padding

FILE = FilePath()
MAX_COUNT = 10**6
"""Upper bound on epochs, batch sizes and timed steps; a larger number is a typing error."""
COUNT = click.IntRange(1, MAX_COUNT)
SIDE = click.IntRange(8, 1024)
MAX_SEEDS = 1000
MAX_WORKERS = 1024
DEFAULT_COMMAND = "pretrain"


class PretrainFirst(CommandGroup):
    """A command group in which ``STORE ...`` is short for ``pretrain STORE ...``."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Take a first word that is not a command as the store."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            meant = closest(args[0], self.commands)
            if meant and not is_there(Path(args[0])):
                raise click.UsageError(f"No command or store {args[0]!r}. Did you mean {meant[0]}?", ctx)
            args = [DEFAULT_COMMAND, *args]
        return super().resolve_command(ctx, args)


EXAMPLES = """\b
mmearth-train STORE is short for mmearth-train pretrain STORE:
  mmearth-train planet.zarr --recipe demo --exclude biome,eco_region --out runs/planet
  mmearth-train evaluate runs/planet --task store:biome
"""


@click.group(cls=PretrainFirst, epilog=EXAMPLES)
@click.version_option(__version__, prog_name="mmearth-train")
def cli() -> None:
    """Pretrain MP-MAE on a store and evaluate what it learned."""


# ---------------------------------------------------------------- training


@cli.command(resumes=lambda given: not given["dry_run"])
@click.argument("store", type=FILE)
@click.option("--recipe", "base", metavar="NAME|FILE", default="default", show_default=True, help="A recipe in pipelines/train, or a YAML file; the options below override it.")  # fmt: skip
@click.option("--out", type=FILE, metavar="RUN", help="Folder of the run.  [default: runs/STORE-RECIPE-SEED]")
@click.option("--modalities", metavar="A,B,...", help="Modalities that take part.  [default: all of the store]")
@click.option("--exclude", metavar="A,B,...", help="Modalities that do not take part.")
@click.option("--inputs", metavar="A,B,...", help="Modalities that feed the encoder.  [default: as the catalog says]")
@click.option("--bands", multiple=True, metavar="MODALITY=A,B,...", help="Bands of a modality that the model sees. Repeatable.")  # fmt: skip
@click.option(
    "--preset", type=click.Choice(["default", "paper", "reference"]), help="Rules of the losses and decoders."
)
@click.option("--size", metavar="SIZE", help="Encoder: atto, femto, pico, nano, tiny, base, large, huge.")
@click.option("--image-size", type=int, metavar="PX", help="Side of the random crop.  [default: 7/8 of the tile]")
@click.option("--patch-size", type=int, metavar="PX", help="Side of a patch.  [default: 1/7 of the crop]")
@click.option("--mask-ratio", type=Finite(), metavar="F", help="Share of the patches that are hidden.")
@click.option("--weighting", type=click.Choice(["uncertainty", "unweighted"]), help="How the tasks' losses are summed.")
@click.option("--statistics", type=click.Choice(["store", "published"]), help="Normalise by the store's train split, or by the band_stats.json of the imported data set.")  # fmt: skip
@click.option("--epochs", type=int, metavar="N", help="Passes over the training tiles.")
@click.option("--batch-size", type=int, metavar="N", help="Tiles per optimiser step.")
@click.option(
    "--device-batch",
    type=int,
    metavar="N",
    help="Tiles per forward pass; gradients are accumulated up to the batch size.",
)
@click.option(
    "--lr", "base_lr", type=Finite(), metavar="F", help="Base learning rate; the actual rate is F x batch size / 256."
)
@click.option("--seed", type=int, metavar="N", help="Seed of weights, order, crops and masks.")
@click.option("--device", metavar="DEVICE", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--precision", type=click.Choice(["auto", "float32", "bfloat16"]), help="Numeric precision of the model.")
@click.option("--engine", type=click.Choice(["auto", "masked", "gathered"]), help="How hidden patches are skipped.")  # fmt: skip
@click.option("--figure-epochs", type=int, metavar="N", help="Epochs between pictures of reconstructions; 0: none.")  # fmt: skip
@click.option("--logger", "loggers", multiple=True, metavar="NAME", help="tensorboard or wandb, in addition to log.csv. Repeatable.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def pretrain(
    store: Path, base: str, out: Path | None, device: str, dry_run: bool, as_json: bool, **options: Any
) -> None:
    """Pretrain on STORE, or continue an interrupted run.

    Running the same command again continues where it stopped; a finished run is left as it is. Under torchrun,
    several processes or machines share each batch, with the same result as one process that accumulates it.
    """
    from mmearth_model import plan_line, plan_training, training_account

    recipe = _recipe(base, options)
    opened = _open(store)
    target = out or Path("runs") / f"{opened.path.stem}-{Path(base).stem}-{recipe.seed}"
    plan = training_account(plan_training(opened, recipe), device, target)
    if dry_run:
        click.echo(json.dumps(plan, indent=2))
        return
    from mmearth_model import pretrain as pretrain_model  # loading Lightning takes longer than making a plan

    if not target.exists():
        check_output(target, folder=True)
    click.echo(f"{target}: {plan_line(plan)}", err=True)
    with _training_bar(f"Pretraining {target}") as report:
        checkpoint = pretrain_model(opened, recipe, target, device=device, report=report)
    if as_json:
        click.echo(json.dumps({"run": str(target), "checkpoint": short_path(checkpoint)}))
        return
    click.echo(f"{short_path(checkpoint)}: trained. Losses: {target}/log.csv. Probe it: mmearth-train evaluate {target} --task store:MODALITY")  # fmt: skip


# ---------------------------------------------------------------- evaluating


@cli.command(resumes=lambda given: True)
@click.argument("checkpoints", type=FILE, nargs=-1, metavar="[CKPT...]")
@click.option("--task", "tasks", multiple=True, required=True, metavar="TASK", help="store:MODALITY[.BAND][/shares|/pixels], or NAME=PATH: a task of catalog/tasks (or FILE.yaml) and its data. Repeatable.")  # fmt: skip
@click.option("--store", type=FILE, metavar="STORE", help="Store with the labelled tiles of store: tasks.  [default: the store of the first CKPT]")  # fmt: skip
@click.option("--protocol", "protocols", multiple=True, type=click.Choice(["knn", "linear", "probe", "paper"]), help="knn: k = 5 and 20, cosine; linear: L-BFGS; probe: AdamW on frozen features, 100 epochs (ours); paper: the linear probe of the paper's released code. Repeatable.  [default: knn, linear]")  # fmt: skip
@click.option("--baseline", "baselines", multiple=True, type=click.Choice(["random", "statistics", "rcf", "none"]), help="random weights; image statistics; random convolutional features. Repeatable.  [default: random]")  # fmt: skip
@click.option(
    "--convnext", type=FILE, metavar="FILE", help="Plain ConvNeXt V2 weights (RGB) as an additional baseline."
)
@click.option("--labels", metavar="1%,5%,...", default="100%", show_default=True, help="Shares of the training labels, or shots (10-shot).")  # fmt: skip
@click.option(
    "--seeds",
    type=click.IntRange(1, MAX_SEEDS),
    default=3,
    show_default=True,
    help="Number of random encoders, splits and hold-outs.",
)
@click.option("--test-share", type=Finite(), metavar="F", help="Test on a seeded share of all tiles instead of the store's splits.")  # fmt: skip
@click.option("--padding", type=click.Choice(["same", "reference"]), help="How the encoder pads: as in pretraining, or as the released classifier does.  [default: from CKPT]")  # fmt: skip
@click.option("--out", type=FILE, metavar="DIR", help="Write results.md, .csv, .json and .png.")
@click.option(
    "--cache", type=FILE, metavar="DIR", help="Folder that caches features.  [default: the user's cache folder]"
)
@click.option("--device", metavar="DEVICE", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def evaluate(
    checkpoints: tuple[Path, ...],
    tasks: tuple[str, ...],
    store: Path | None,
    protocols: tuple[Any, ...],
    baselines: tuple[Any, ...],
    labels: str,
    padding: Padding | None,
    out: Path | None,
    as_json: bool,
    cache: Path | None,
    **options: Any,
) -> None:
    """Probe frozen encoders and compare them with untrained baselines.

    CKPT is a checkpoint folder or a run folder (its last checkpoint); without one, only baselines are compared.
    """
    from mmearth_data import cache_folder
    from mmearth_model import evaluate as evaluate_encoders
    from mmearth_model import load_checkpoint
    from mmearth_model.evaluation import write_results
    from mmearth_model.tasks import LabelShare

    if not checkpoints:
        refuse_unused("without CKPT", "padding")
    if not any(_of_store(task) for task in tasks):
        refuse_unused("with tasks of files only", "store", "test_share")
    if out is not None:
        check_output(out, folder=True)
    loaded = [load_checkpoint(path, padding=padding) for path in checkpoints]
    opened = _store_of(tasks, store, loaded)
    with _evaluation_bar() as report:
        result = evaluate_encoders(
            loaded,
            opened,
            tasks,
            protocols=protocols or ("knn", "linear"),
            baselines=[name for name in baselines if name != "none"] if baselines else ("random",),
            labels=[LabelShare.parse(text) for text in _names(labels)],
            cache=cache or cache_folder() / "features",
            report=report,
            **options,
        )
    about = {"store": str(opened.path) if opened else None, "synthetic": bool(opened and opened.synthetic)}
    about["test_share"] = options["test_share"]
    if out is not None:
        write_results(result, out, about)
    if as_json:
        click.echo(json.dumps({**about, **result.to_dict()}, indent=2))
        return
    _print_table(result, opened)


@cli.command()
@click.argument("checkpoint", type=FILE, metavar="CKPT")
@click.option("--task", "task", required=True, metavar="TASK", help="As for evaluate: store:MODALITY[.BAND][/shares|/pixels], or NAME=PATH.")  # fmt: skip
@click.option("--store", type=FILE, metavar="STORE", help="Store with the labelled tiles of store: tasks.  [default: the store of CKPT]")  # fmt: skip
@click.option("--padding", type=click.Choice(["same", "reference"]), help="How the encoder pads: as in pretraining, or as the released classifier does.  [default: from CKPT]")  # fmt: skip
@click.option("--out", type=FILE, metavar="DIR", help="Folder for the fine-tuned network and its result.")
@click.option("--labels", metavar="SHARE", default="100%", show_default=True, help="Share of the training labels, or shots (10-shot).")  # fmt: skip
@click.option("--recipe", "recipe_name", type=click.Choice(["default", "paper"]), default="default", show_default=True, help="paper: the settings of the paper's released code, which can only be combined with --seed; default: our own, which the options below change.")  # fmt: skip
@click.option(
    "--frozen", is_flag=True, help="Train only the layers on top of the encoder (a UNet decoder for per-pixel tasks)."
)
@click.option("--epochs", type=COUNT, metavar="N", help="Maximum number of epochs.  [default: 100]")
@click.option("--patience", type=COUNT, metavar="N", help="Epochs without a better validation value before training stops.  [default: 15]")  # fmt: skip
@click.option("--batch-size", type=COUNT, metavar="N", help="Samples per step.  [default: 32]")
@click.option("--lr", type=Finite(), metavar="F", help="Learning rate of the head.  [default: 0.001]")
@click.option(
    "--layer-decay",
    type=Finite(),
    metavar="F",
    help="Ratio of the rate of each layer to that of the next.  [default: 0.9]",
)
@click.option("--drop-path", type=Finite(), metavar="F", help="Stochastic depth.  [default: 0.1]")
@click.option("--weight-decay", type=Finite(), metavar="F", help="Weight decay of matrices.  [default: 0.3]")
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), metavar="N", help="Seed of head, order, flips and crops.  [default: 0]"
)
@click.option("--device", metavar="DEVICE", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def finetune(
    checkpoint: Path,
    task: str,
    store: Path | None,
    padding: Padding | None,
    out: Path | None,
    labels: str,
    recipe_name: str,
    device: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Fine-tune a pretrained encoder on a labelled task, and test it.

    The epoch that is best on the validation samples is tested; with --recipe paper, the last one.
    """
    from mmearth_model import load_checkpoint
    from mmearth_model.evaluation.finetune import choose_recipe
    from mmearth_model.evaluation.finetune import finetune as finetune_encoder
    from mmearth_model.tasks import LabelShare, open_task

    if not _of_store(task):
        refuse_unused("with a task of files", "store")
    if options["frozen"]:
        refuse_unused("with --frozen, which leaves the encoder as it is", "layer_decay", "drop_path")
    loaded = load_checkpoint(checkpoint, padding=padding)
    opened = _store_of((task,), store, [loaded])
    found, share = open_task(task, opened), LabelShare.parse(labels)
    given = {key: value for key, value in options.items() if value is not None and value is not False}
    recipe = choose_recipe(recipe_name, found, share, given)

    def report(epoch: int, loss: float, value: float) -> None:
        click.echo(f"epoch {epoch}/{recipe.epochs}, loss {loss:.3f}, validation {value:.3f}", err=True)

    result = finetune_encoder(loaded, found, recipe, labels=share, device=device, out=out, report=report)
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2))
        return
    _print_table(result, opened)


# ---------------------------------------------------------------- embedding


@cli.command()
@click.argument("source", type=FILE, metavar="STORE|FOLDER")
@click.option("--checkpoint", type=FILE, required=True, metavar="CKPT", help="Checkpoint folder, or a run folder.")
@click.option("--task", metavar="NAME|FILE", help="Task file that describes the bands of a folder, zip or table.")
@click.option("--padding", type=click.Choice(["same", "reference"]), help="How the encoder pads: as in pretraining, or as the released classifier does.  [default: from CKPT]")  # fmt: skip
@click.option("--out", "outs", multiple=True, type=FILE, metavar="FILE", help="x.parquet (GeoParquet) or x.zarr. Repeatable.")  # fmt: skip
@click.option("--neighbours", metavar="TILE", help="Draw the tiles most similar to this one into --figure.")
@click.option("--figure", type=FILE, metavar="PNG", default="neighbours.png", show_default=True, help="Picture that --neighbours writes.")  # fmt: skip
@click.option("--map", "map_path", type=FILE, metavar="PNG", help="Draw a 2-D map of the embeddings (UMAP if installed).")  # fmt: skip
@click.option(
    "--cache", type=FILE, metavar="DIR", help="Folder that caches features.  [default: the user's cache folder]"
)
@click.option("--device", metavar="DEVICE", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
def embed(
    source: Path,
    checkpoint: Path,
    task: str | None,
    padding: Padding | None,
    outs: tuple[Path, ...],
    neighbours: str | None,
    figure: Path,
    map_path: Path | None,
    cache: Path | None,
    device: str,
) -> None:
    """Embed the tiles of STORE, or the rasters of FOLDER, with a pretrained encoder."""
    from mmearth_data import cache_folder
    from mmearth_model import load_checkpoint
    from mmearth_model.evaluation.embedding import embed as embed_tiles
    from mmearth_model.evaluation.embedding import map_figure, neighbours_figure, write_parquet, write_zarr
    from mmearth_model.saving import save_figure
    from mmearth_model.tasks import open_task

    if neighbours is None:
        refuse_unused("without --neighbours", "figure")
    for option, picture in (("--figure", figure), ("--map", map_path)):
        if picture is not None and picture.suffix.lower() != ".png":
            raise InputError(f"{option}: expected the name of a PNG picture such as picture.png, got {str(picture)!r}; correct it.")  # fmt: skip
    wrong = [path for path in outs if path.suffix not in (".parquet", ".zarr")]
    if wrong or not (outs or neighbours or map_path):
        raise click.UsageError(f"expected --out x.parquet or x.zarr, --neighbours or --map, got {wrong[0] if wrong else 'none'}.")  # fmt: skip
    if task is not None and neighbours:
        raise click.UsageError("--neighbours: expected a store to show its tiles, got files; leave it out.")
    for path in outs:
        check_output(path, folder=path.suffix == ".zarr")
    for picture, option in ((figure if neighbours else None, "--figure"), (map_path, "--map")):
        if picture is not None:
            check_output(picture, option=option)
    loaded = load_checkpoint(checkpoint, padding=padding)
    store = _open(source) if task is None else None
    found = embed_tiles(loaded, store or open_task(f"{task}={source}"), device=device, cache=cache or cache_folder() / "features")  # fmt: skip
    row = None if neighbours is None else found.position(neighbours)  # refused before anything is written
    for path in outs:
        (write_zarr if path.suffix == ".zarr" else write_parquet)(found, path)
    if map_path is not None:
        save_figure(map_figure(found, store), map_path)
    click.echo(f"{len(found.values)} embeddings of {found.values.shape[1]} numbers.")
    if row is not None and store is not None:
        save_figure(neighbours_figure(found, store, row), figure)
        for place, similarity in found.neighbours(row):
            click.echo(f"{found.names[place]}  {similarity:.3f}")


# ---------------------------------------------------------------- third-party weights


@cli.command()
@click.argument("source", metavar="SOURCE")
@click.option("--out", type=FILE, required=True, metavar="PATH", help="Folder to write, or with --to a file.")
@click.option("--to", type=click.Choice(["finetune", "dense", "sparse", "timm"]), help="Export instead. finetune: for the released fine-tuning code (an encoder of any preset); dense, sparse: for the released pretraining code without or with its sparse engine (whole networks of preset reference); timm: plain ConvNeXt V2.")  # fmt: skip
@click.option("--store", type=FILE, metavar="STORE", help="Put this store's statistics into the checkpoint; released files have none.")  # fmt: skip
@click.option("--bands", multiple=True, metavar="MODALITY=A,B,...", help="With --store: bands that the weights take. Repeatable.")  # fmt: skip
def convert(source: str, out: Path, to: str | None, store: Path | None, bands: tuple[str, ...]) -> None:
    """Convert third-party weights to a checkpoint, or with --to export a checkpoint for third-party code.

    SOURCE is a released MMEarth checkpoint (a .pth file, or a name of catalog/checkpoints.yaml, which is downloaded), a
    classifier or UNet fine-tuned from one, plain ConvNeXt V2 weights with the names of its authors or of timm (.pth,
    .safetensors), or a checkpoint or run of this program. From pickles, only tensors, containers and the numbers in
    args (the options of the run) are read; nothing is imported or executed, and pickles that ask for more are refused.
    """
    from mmearth_model import convert as convert_weights

    opened = None if store is None else _open(store)
    with _download_bar(source) as report:
        written = convert_weights(source, out, to=to, store=opened, bands=_bands_by_modality(bands), report=report)
    click.echo(f"{written}: converted.")


@cli.command()
@click.option("--size", metavar="SIZE", default="atto", show_default=True, help="Encoder: atto, femto, pico, nano, tiny, base, large, huge.")  # fmt: skip
@click.option("--image-size", type=SIDE, default=56, show_default=True, metavar="PX", help="Side of the crop.")
@click.option("--patch-size", type=SIDE, default=8, show_default=True, metavar="PX", help="Side of a patch.")
@click.option(
    "--mask-ratio",
    type=Finite(),
    default=0.6,
    show_default=True,
    metavar="F",
    help="Share of the patches that are hidden.",
)
@click.option("--batch-size", "batch", type=COUNT, default=32, show_default=True, metavar="N", help="Images per step.")
@click.option("--runs", type=COUNT, default=5, show_default=True, metavar="N", help="Timed steps per form.")
@click.option("--form", "forms", multiple=True, type=click.Choice(["sparse", "masked", "unmasked"]), help="Repeatable.  [default: all]")  # fmt: skip
@click.option("--compile", "compiled", is_flag=True, help="Also measure each form compiled (needs a C++ compiler).")
@click.option("--device", metavar="DEVICE", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1.")
@click.option("--precision", type=click.Choice(["auto", "float32", "bfloat16"]), default="auto", show_default=True, help="auto: bfloat16 on a GPU.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def bench(forms: tuple[Any, ...], as_json: bool, **options: Any) -> None:
    """Measure training steps on random tiles.

    sparse computes visible positions only; masked computes all positions, with zeros where hidden; unmasked computes
    all positions. The peak is the speed of one large matrix product of that precision on the device.
    """
    from mmearth_model import Workload
    from mmearth_model import bench as measure

    if set(forms) == {"unmasked"}:
        refuse_unused("with --form unmasked, which hides nothing", "mask_ratio")
    work = Workload(**options)
    found = measure(work, forms or None, lambda text: click.echo(f"bench: {text}", err=True))
    if as_json:
        click.echo(json.dumps([timing.to_dict() for timing in found], indent=2))
        return
    _print_timings(found, work)


# ---------------------------------------------------------------- experiments


@cli.command(resumes=lambda given: True)
@click.argument("name", metavar="NAME|FILE")
@click.option("--scale", type=click.Choice(["demo", "paper"]), default="demo", show_default=True, help="demo: minutes on a laptop, on its own synthetic store; paper: as in the paper, on your store.")  # fmt: skip
@click.option("--out", type=FILE, metavar="DIR", help="Folder of the experiment.  [default: runs/NAME-SCALE]")
@click.option("--store", "stores", multiple=True, metavar="[NAME=]STORE", help="Store to pretrain on and to probe. Repeatable if variants name stores.")  # fmt: skip
@click.option("--data", multiple=True, metavar="TASK=PATH", help="Data of a task that does not come from a store. Repeatable.")  # fmt: skip
@click.option("--convnext", type=FILE, metavar="FILE", help="Plain ConvNeXt V2 weights (RGB), if a variant needs them.")  # fmt: skip
@click.option(
    "--workers", type=click.IntRange(1, MAX_WORKERS), default=1, show_default=True, help="Number of processes."
)
@click.option("--scheduler", metavar="URL", help="Run on the workers of this Dask scheduler instead.")
@click.option("--device", metavar="DEVICE", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
def experiment(
    name: str,
    scale: str,
    out: Path | None,
    stores: tuple[str, ...],
    data: tuple[str, ...],
    convnext: Path | None,
    workers: int,
    scheduler: str | None,
    device: str,
) -> None:
    """Run an experiment of pipelines/experiments: a grid of runs, a table and a figure.

    The same command resumes it and never repeats a finished run; several processes (such as a Slurm array) share the
    work. Use `list` as NAME to list the experiments.
    """
    from mmearth_model.experiments.spec import experiment_names, read_experiment

    if name == "list":
        refuse_unused("with list", "scale", "out", "stores", "data", "convnext", "workers", "scheduler", "device")
        for known in experiment_names():
            click.echo(f"{known:20} {read_experiment(known).question}")
        return
    from mmearth_model.experiments.run import Setting, run_experiment

    if scheduler is not None:
        refuse_unused("with --scheduler, whose workers run the experiment", "workers")
    found = read_experiment(name)
    setting = Setting(
        experiment=found,
        scale=scale,
        out=out or Path("runs") / f"{found.name}-{scale}",
        stores={key or "default": Path(path) for key, path in (_pair(text) for text in stores)},
        data={key: Path(path) for key, path in (_pair(text) for text in data)},
        convnext=convnext,
        device=device,
    )
    run_experiment(setting, workers=workers, scheduler=scheduler, report=lambda line: click.echo(line, err=True))
    click.echo((setting.out / "results.md").read_text(encoding="utf-8"), nl=False)
    click.echo(f"{setting.out}: results.md, results.csv, results.json, results.png", err=True)


def _recipe(base: str, options: dict[str, Any]) -> TrainRecipe:
    """Recipe of the options of `pretrain`."""
    from mmearth_model import make_recipe

    given = {key: value for key, value in options.items() if value not in (None, ())}
    for key in ("modalities", "exclude", "inputs"):
        if key in given:
            given[key] = _names(given[key])
            if not given[key]:
                raise InputError(f"--{key}: expected names separated by commas, got none; give one, or leave it out.")
    if "bands" in given:
        given["bands"] = _bands_by_modality(given["bands"])
    return make_recipe(base, given)


def _pair(text: str) -> tuple[str, str]:
    """``NAME=PATH`` to both; a path alone has no name."""
    name, equals, path = text.partition("=")
    return (name, path) if equals else ("", text)


# ---------------------------------------------------------------- shared pieces


def _open(path: Path) -> Store:
    from mmearth_data import open_store

    return open_store(path)


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _bands_by_modality(texts: tuple[str, ...]) -> dict[str, list[str]]:
    named = [_named_bands(text) for text in texts]
    if len(dict(named)) < len(named):
        raise click.BadParameter("expected each modality once, got one twice.", param_hint="--bands")
    return dict(named)


def _named_bands(text: str) -> tuple[str, list[str]]:
    name, equals, bands = text.partition("=")
    if not equals or not _names(bands):
        raise click.BadParameter(f"expected MODALITY=A,B,..., got {text!r}.", param_hint="--bands")
    return name.strip(), _names(bands)


def _of_store(task: str) -> bool:
    """Whether a task comes from a store rather than from ``NAME=PATH``."""
    return "=" not in task


def _store_of(tasks: tuple[str, ...], store: Path | None, checkpoints: list[Checkpoint]) -> Store | None:
    """Store that the tasks come from: the given one, or that of the first checkpoint."""
    from mmearth_model.weights.store_record import find_store

    if store is not None:
        return _open(store)
    if not any(_of_store(task) for task in tasks):
        return None
    if not checkpoints:
        raise click.UsageError("expected a store for the tasks, got none; give --store, or NAME=PATH as --task.")
    record, folder = checkpoints[0].config["store"], checkpoints[0].folder
    if not record["path"]:
        raise click.UsageError(
            f"expected a store for the tasks, got none, and {folder} was converted without one; "
            "convert it again with --store STORE."
        )
    return find_store(record, folder.parent)


def _print_table(result: Evaluation, store: Store | None) -> None:
    from rich.console import Console
    from rich.table import Table

    from mmearth_model.evaluation.results import notes, shown

    synthetic = f" on {short_path(store.path)}{', synthetic' if store.synthetic else ''}" if store else ""
    frozen = all(not row.protocol.startswith("finetune") for row in result.rows)
    table = Table(title=f"{'Frozen' if frozen else 'Fine-tuned'} encoders{synthetic}", title_justify="left")
    for column in ("task", "protocol", "labels", "encoder", "metric", "mean", "95 % interval", "seeds", "note"):
        table.add_column(column, justify="right" if column in ("mean", "seeds") else "left", overflow="fold")
    for s in result.summaries():
        interval = f"{shown(s.metric, s.low)} to {shown(s.metric, s.high)}"
        table.add_row(s.task, s.protocol, s.labels, s.encoder, s.metric, shown(s.metric, s.mean), interval, str(s.seeds), notes(s))  # fmt: skip
    console = Console()
    console.print(table)
    for task, train, test in sorted({(row.task, row.train_tiles, row.test_tiles) for row in result.rows}):
        console.print(f"{task}: fitted to {train} tiles, tested on {test}; intervals by bootstrap over the test tiles.")
    for (task, encoder), bands in result.filled.items():
        console.print(f"{task}: {encoder} takes bands that the task lacks; they were filled with their mean or another band: {', '.join(bands)}.")  # fmt: skip
    for note in result.notes:
        console.print(note)


def _print_timings(found: list[Timing], work: Workload) -> None:
    from rich.console import Console
    from rich.table import Table

    title = f"{work.size}, {work.image_size} px in {work.patch_size} px patches, batch {work.batch}, {work.device}"
    table = Table(title=f"Training steps: {title}", title_justify="left")
    parts = list(found[0].parts_ms)
    table.add_column("form")
    for column in ("images/s", "MiB", "GFLOP", "% of peak", *(f"{part} ms" for part in parts)):
        table.add_column(column, justify="right")
    for t in found:
        cells = (t.images_per_s, t.memory_mib, t.gflop, 100 * t.share_of_peak, *(t.parts_ms[part] for part in parts))
        table.add_row(f"{t.form}, compiled" if t.compiled else t.form, *(f"{cell:.1f}" for cell in cells))
    Console(width=140).print(table)


@contextmanager
def _download_bar(title: str) -> Iterator[Callable[[int], None]]:
    """Progress of a download on stderr, if it is a terminal."""
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), DownloadColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(f"Downloading {title}", total=None, visible=False)
        yield lambda received: bar.update(task, completed=received, visible=True)


@contextmanager
def _training_bar(title: str) -> Iterator[Callable[[TrainProgress], None]]:
    """Progress on stderr: a live bar on a terminal, otherwise one line per twentieth of the work."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps, {task.fields[text]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None, text="starting")
        printed = -1

        def report(progress: TrainProgress) -> None:
            nonlocal printed
            if printed < 0 < progress.resumed:
                click.echo(f"{title}: continuing after step {progress.resumed} of {progress.steps}", err=True)
                printed = 0
            text = _training_text(progress)
            bar.update(task, completed=progress.step, total=progress.steps, text=text)
            part = 20 * progress.step // progress.steps
            if not console.is_terminal and part > printed:
                printed = part
                click.echo(f"{title}: step {progress.step}/{progress.steps}, {text}", err=True)

        yield report


def _training_text(progress: TrainProgress) -> str:
    left = (progress.steps - progress.step) * progress.seconds / max(1, progress.step - progress.resumed)
    minutes, seconds = divmod(round(left), 60)
    return (
        f"epoch {progress.epoch}/{progress.epochs}, loss {progress.loss:.3f}, {progress.images_per_s:.0f} images/s, "
        f"{100 * progress.waiting:.0f} % waiting for data, {minutes}:{seconds:02d} left"
    )


@contextmanager
def _evaluation_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Progress on stderr: a live bar on a terminal, otherwise one line per encoder."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("Features", total=None)

        def report(encoder: str, tiles: int, total: int) -> None:
            bar.update(task, description=f"Features of {encoder}", completed=tiles, total=total)
            if not console.is_terminal and tiles == total:
                click.echo(f"Features of {encoder}: {total} tiles", err=True)

        yield report
