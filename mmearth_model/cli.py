"""The command ``mmearth-train``: parse, call the front door, print the result."""

from __future__ import annotations

import json
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import click
from annotated_types import Interval

from mmearth_data import (
    CommandGroup,
    FilePath,
    Group,
    InputError,
    Number,
    Pair,
    PathOrUrl,
    Several,
    __version__,
    check_apart,
    check_output,
    closest,
    field_option,
    field_options,
    is_quiet,
    is_there,
    option,
    refuse_unused,
    require_bokeh,
    short_path,
)
from mmearth_model.fields import FineTuneFields, TrainFields, WorkFields
from mmearth_model.threads import use_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import RenderableType

    from mmearth_data import Meter, Store
    from mmearth_model import (
        Checkpoint,
        Evaluation,
        ExternalEncoder,
        Network,
        Report,
        Timing,
        TrainProgress,
        TrainRecipe,
        Workload,
    )
    from mmearth_model.network.encoder import Padding
    from mmearth_model.published import Beside, Published

Loaded = TypeVar("Loaded", bound="Checkpoint | Network")
WHAT, MODEL, HARDWARE, OUTPUT = Group.WHAT, Group.MODEL, Group.HARDWARE, Group.OUTPUT
FILE, FOLDER, PICTURE = FilePath(), PathOrUrl(), FilePath(".png", ".pdf", ".svg")
PADDING = option(
    "--padding",
    MODEL,
    "Padding of the encoder: as in pretraining, or as in the released classifier.",
    click.Choice(["same", "reference"]),
    shown="from CKPT",
)
STORE = option(
    "--store STORE", WHAT, "Store with the labelled tiles of store:MODALITY tasks.", FOLDER, shown="the store of CKPT"
)
DEVICE = field_option(WorkFields, "device", default="auto")
THREADS = option(
    "--threads N",
    HARDWARE,
    "Number of CPU threads.",
    Number(int, Interval(ge=1, le=1024)),
    shown="one per core",
)
BANDS = option(
    "--bands FILE",
    WHAT,
    "Task or mapping file (or a task of catalog/tasks) that identifies the bands of a scene.",
    shown="from the files",
)
LEVEL = option(
    "--level",
    WHAT,
    "Processing level of a scene, if neither its files nor --bands record it.",
    click.Choice(["L1C", "L2A"]),
)
OFFSET = option(
    "--offset N",
    WHAT,
    "Offset to add to Sentinel-2 numbers (-1000 for baselines from 04.00 on), if neither the files nor --bands record "
    "it.",
    Number(float),
)
ANY_RESOLUTION = option("--any-resolution", WHAT, "Accept pixel sizes other than 10 m.", is_flag=True)
FILL_MISSING = option("--fill-missing", WHAT, "Use the mean for bands that no file has.", is_flag=True)
WORKERS = option(
    "--workers N",
    HARDWARE,
    "Number of processes.",
    Number(int, Interval(ge=1, le=1024)),
    shown="one per core; 1 on a GPU",
)
SCHEDULER = option("--scheduler URL", HARDWARE, "Compute on the workers of this Dask scheduler instead.")
CACHE = option("--cache DIR", OUTPUT, "Folder that caches features.", FILE, shown="the user's cache folder")
HTML = option(
    "--html FILE", OUTPUT, "Write an HTML report: one file, which needs no network.", FilePath(".html"), name="page"
)
BESIDE = option(
    "--beside published|FILE.csv",
    OUTPUT,
    "Show published results of the same tasks: those of catalog/published_results.csv, or of a CSV file with its "
    "columns.",
)
ENCODER_TEXT = (
    "Another encoder, or one exported by this toolkit: FILE.onnx, or a factory PACKAGE.MODULE:NAME, imported "
    "from the Python path or the current folder; with =DESCRIPTION.yaml unless its description is next to it."
)
OF_PROBES = (
    "protocols", "baselines", "convnext", "labels", "seeds", "test_share", "padding", "keep", "speed", "cache", "torchgeo_bands",
    "torchgeo_size",
)  # fmt: skip
"""Options of evaluate that concern probes and baselines only."""
JSON = option("--json", OUTPUT, "Print the result as JSON.", name="as_json", is_flag=True)
DEFAULT_COMMAND = "pretrain"


class PretrainFirst(CommandGroup):
    """A command group in which ``STORE ...`` is short for ``pretrain STORE ...``."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Take a first word that is not a command as the store, and ``experiment robustness`` as ``robustness``."""
        if args[:2] == ["experiment", "robustness"]:
            args = args[1:]
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            meant = closest(args[0], self.commands)
            if meant and not is_there(Path(args[0])):
                raise click.UsageError(f"No command or store {args[0]!r}. Did you mean {meant[0]}?", ctx)
            args = [DEFAULT_COMMAND, *args]
        return super().resolve_command(ctx, args)


EXAMPLES = """mmearth-train STORE is short for mmearth-train pretrain STORE:

\b
  mmearth-train planet.zarr --recipe demo --exclude biome,eco_region --out run
  mmearth-train evaluate run --task store:biome

The Tab key completes commands and options if ~/.bashrc has this line (for other shells: zsh_source, fish_source):

\b
  eval "$(_MMEARTH_TRAIN_COMPLETE=bash_source mmearth-train)"
"""


@click.group(cls=PretrainFirst, epilog=EXAMPLES)
@click.version_option(__version__, prog_name="mmearth-train")
def cli() -> None:
    """Pretrain MP-MAE on a store and evaluate the encoder."""


# ---------------------------------------------------------------- training


@cli.command(resumes=lambda given: not given["dry_run"], first=("base", "exclude", "epochs", "out", "dry_run"))
@click.argument("store", type=FOLDER)
@option(
    "--recipe NAME|FILE",
    WHAT,
    "A recipe (`mmearth-train recipes` lists them) or a YAML file; the defaults below apply to fields that it does not set.",
    name="base",
    default="default",
)
@field_options(TrainFields)
@DEVICE
@THREADS
@option("--out RUN", OUTPUT, "Folder of the run.", FILE, shown="runs/STORE-RECIPE-SEED")
@option("--dry-run", OUTPUT, "Print the plan and stop.", is_flag=True)
@JSON
def pretrain(
    store: str | Path,
    base: str,
    out: Path | None,
    device: str,
    threads: int | None,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Pretrain on STORE, or resume an interrupted run.

    Running the same command again resumes where it stopped; a finished run is left unchanged. Under torchrun,
    several processes or machines share each batch, with the same result as one process that accumulates gradients.
    """
    from mmearth_data import meter

    use_threads(threads)
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
    _say(f"{target}: {plan_line(plan)}")
    with meter(f"Pretraining {target}", "steps") as show:
        checkpoint = pretrain_model(opened, recipe, target, device=device, report=_training_shown(show))
    if as_json:
        click.echo(json.dumps({"run": str(target), "checkpoint": short_path(checkpoint)}))
        return
    click.echo(f"{short_path(checkpoint)}: trained. Losses: {target}/log.csv.")
    click.echo(f"Probe it: mmearth-train evaluate {shlex.quote(str(target))} --task store:MODALITY")


# ---------------------------------------------------------------- evaluating


@cli.command(resumes=lambda given: True, first=("tasks", "store", "protocols", "baselines", "out"))
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
    if not any(_of_store(task) for task in tasks):
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
    _check_page(page)
    published = _published(beside)
    loaded = [_load(path, padding, networks=True) for path in checkpoints]
    others = [open_encoder(text) for text in encoders]
    if loaded and not others and all(isinstance(each, Network) for each in loaded):
        refuse_unused("with only networks, for which nothing is fitted", *OF_PROBES)
    opened = _store_of(tasks, store, loaded)
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
        _say(f"{keep}: the probe as a network")
    content = {**about, **result.to_dict(), **beside_dict(compared)}
    _write_results_page(content, _title(result), page)
    if as_json:
        click.echo(json.dumps(content, indent=2))
        return
    _print_table(result, opened, compared)


@cli.command(first=("task", "store", "labels", "epochs", "out"))
@click.argument("checkpoint", type=FOLDER, metavar="[CKPT]", required=False)
@option("--encoder ENCODER", WHAT, f"Instead of CKPT: {ENCODER_TEXT[0].lower()}{ENCODER_TEXT[1:]}")
@option("--task TASK", WHAT, "As for evaluate: store:MODALITY[.BAND][/shares|/pixels], or NAME=PATH.", required=True)
@STORE
@option("--labels SHARE", WHAT, "Share of the training labels, or shots (10-shot).", default="100%")
@option(
    "--recipe",
    WHAT,
    "paper: the settings of the paper's released code, which can only be combined with --seed; default: "
    "our own, which the options below change.",
    click.Choice(["default", "paper"]),
    name="recipe_name",
    default="default",
)
@PADDING
@field_options(FineTuneFields)
@DEVICE
@THREADS
@option("--out DIR", OUTPUT, "Folder for the fine-tuned network and its result.", FILE)
@HTML
@JSON
def finetune(
    checkpoint: str | Path | None,
    encoder: str | None,
    task: str,
    store: str | Path | None,
    padding: Padding | None,
    out: Path | None,
    page: Path | None,
    labels: str,
    recipe_name: str,
    device: str,
    threads: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Fine-tune a pretrained encoder on a labelled task and test it.

    CKPT is as for evaluate. The epoch that is best on the validation samples is tested; with --recipe paper, the last one.
    """
    from mmearth_data import meter

    use_threads(threads)
    from mmearth_model.evaluation.finetune import choose_recipe
    from mmearth_model.evaluation.finetune import finetune as finetune_encoder
    from mmearth_model.tasks import LabelShare, open_task

    if not _of_store(task):
        refuse_unused("with a task from files", "store")
    _check_page(page)
    if options["frozen"]:
        refuse_unused("with --frozen, which does not train the encoder", "layer_decay", "drop_path")
    loaded, checkpoints = _one_encoder(checkpoint, encoder, padding)
    opened = _store_of((task,), store, checkpoints)
    found, share = open_task(task, opened), LabelShare.parse(labels)
    given = {key: value for key, value in options.items() if value is not None}
    recipe = choose_recipe(recipe_name, found, share, given)

    with meter(f"Fine-tuning on {found.name}", "epochs") as show:

        def report(epoch: int, loss: float, value: float) -> None:
            show(epoch, recipe.epochs, f"loss {loss:.3f}, validation {value:.3f}")

        result = finetune_encoder(loaded, found, recipe, labels=share, device=device, out=out, report=report)
    about = {"store": str(opened.path) if opened else None, "synthetic": bool(opened and opened.synthetic)}
    _write_results_page({**about, **result.to_dict()}, _title(result), page)
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2))
        return
    _print_table(result, opened)


# ---------------------------------------------------------------- embedding


@cli.command(
    resumes=lambda given: given["dense"],
    first=("checkpoint", "task", "outs", "neighbours", "map_path", "dense", "query"),
)
@click.argument("sources", type=FOLDER, nargs=-1, required=True, metavar="STORE|FOLDER|SCENE...")
@option("--checkpoint CKPT", WHAT, "Checkpoint folder or run folder, or the URL of a checkpoint.", FOLDER)
@option("--task NAME|FILE", WHAT, "Task file that describes the bands of a folder, zip or table.")
@option("--neighbours TILE", WHAT, "Draw the tiles that are most similar to this one to --figure.")
@option(
    "--dense",
    WHAT,
    "Write one vector per position of a scene, or of a store whose tiles adjoin or overlap.",
    is_flag=True,
)
@option(
    "--query LON,LAT",
    WHAT,
    "With --dense, or a file that it wrote: write the similarity of every position to this location to --similarity.",
)
@BANDS
@LEVEL
@OFFSET
@ANY_RESOLUTION
@FILL_MISSING
@PADDING
@option(
    "--stride PX",
    MODEL,
    "With --dense: pixels from one position to the next; a divisor or multiple of the encoder's patch.",
    Number(int, Interval(ge=1, le=4096)),
    shown="the patch",
)
@option(
    "--overlap PX",
    MODEL,
    "With --dense: pixels that neighbouring windows share.",
    Number(int, Interval(ge=0, le=4096)),
    shown="about half a window",
)
@option(
    "--blend",
    MODEL,
    "With --dense: smooth, the weighted mean of all windows; centre, the window with the nearest centre.",
    click.Choice(["smooth", "centre"]),
    default="smooth",
)
@WORKERS
@SCHEDULER
@DEVICE
@THREADS
@option(
    "--out FILE",
    OUTPUT,
    "x.parquet (GeoParquet) or x.zarr; with --dense, x.zarr or x.tif (GeoTIFF).",
    FILE,
    name="outs",
    multiple=True,
)
@option(
    "--type",
    OUTPUT,
    "With --dense: data type; int8 rounds to multiples of 1/127 of the largest absolute value of each feature.",
    click.Choice(["float32", "int8"]),
    name="kind",
    default="float32",
)
@option(
    "--figure PICTURE",
    OUTPUT,
    "Picture that --neighbours writes: .png, .pdf or .svg.",
    PICTURE,
    default="neighbours.png",
)
@option(
    "--map PICTURE",
    OUTPUT,
    "Draw a 2-D map of the embeddings (UMAP if installed): .png, .pdf or .svg.",
    PICTURE,
    name="map_path",
)
@option(
    "--picture FILE",
    OUTPUT,
    "With --dense, or a file that it wrote: draw the first three principal components as red, green and blue: .png or "
    ".tif.",
    FilePath(".png", ".tif"),
)
@option(
    "--similarity FILE",
    OUTPUT,
    "GeoTIFF that --query writes.",
    FilePath(".tif"),
    default="similarity.tif",
)
@CACHE
def embed(
    sources: tuple[str | Path, ...],
    checkpoint: str | Path | None,
    dense: bool,
    outs: tuple[Path, ...],
    threads: int | None,
    **options: Any,
) -> None:
    """Embed tiles, files, or every position of a scene.

    STORE is a store; FOLDER is data that --task describes. With --dense, the source is a SCENE (a raster file with all bands
    that the encoder takes, or several files with some bands each) or a STORE whose tiles adjoin or overlap
    (mmearth-data build --cover); an interrupted command resumes when it is run again. --picture and --query also work on a
    file that --dense wrote, without an encoder.
    """
    use_threads(threads or 1 if dense else threads)
    if options["query"] is None:
        refuse_unused("without --query", "similarity")
    if not dense and len(sources) == 1 and _is_dense(sources[0]):
        refuse_unused("with a file that --dense wrote, which already has the vectors", "checkpoint", "outs", "threads", "device", *OF_TILES, *OF_DENSE)  # fmt: skip
        if options["query"] is None and options["picture"] is None:
            raise click.UsageError(f"expected --picture or --query with {sources[0]}, got neither; add one of them.")
        _check_shown(options["query"], options["picture"], options["similarity"], inputs=sources)
        _show_dense(Path(sources[0]), **options)
        return
    if checkpoint is None:
        raise click.UsageError(
            "expected --checkpoint CKPT, or a file that --dense wrote as the source, got neither; add --checkpoint."
        )
    if dense:
        refuse_unused("with --dense", *OF_TILES)
        _embed_dense(sources, checkpoint, outs, threads=threads or 1, **options)
        return
    refuse_unused("without --dense", "query", "picture", *OF_DENSE)
    if len(sources) > 1:
        raise click.UsageError(
            f"expected one store or folder without --dense, got {len(sources)} sources; leave out {sources[1]}."
        )
    _embed_tiles(sources[0], checkpoint, outs, **options)


OF_TILES = ("task", "neighbours", "figure", "map_path", "cache")
OF_SCENES = ("bands", "level", "offset", "any_resolution", "fill_missing")
OF_DENSE = (*OF_SCENES, "stride", "overlap", "blend", "kind", "workers", "scheduler")
"""Options of `embed` that belong to embeddings of tiles, and to dense ones."""


def _embed_tiles(
    source: str | Path,
    checkpoint: str | Path,
    outs: tuple[Path, ...],
    *,
    task: str | None,
    padding: Padding | None,
    neighbours: str | None,
    figure: Path,
    map_path: Path | None,
    cache: Path | None,
    device: str,
    **_: Any,
) -> None:
    """One vector per tile."""
    from mmearth_data import cache_folder, meter
    from mmearth_model.evaluation.embedding import embed as embed_tiles
    from mmearth_model.evaluation.embedding import map_figure, neighbours_figure
    from mmearth_model.evaluation.embedding_files import refuse_other_content, write_parquet, write_zarr
    from mmearth_model.saving import save_figure
    from mmearth_model.tasks import open_task

    if neighbours is None:
        refuse_unused("without --neighbours", "figure")
    wrong = [path for path in outs if path.suffix not in (".parquet", ".zarr")]
    if wrong or not (outs or neighbours or map_path):
        raise click.UsageError(f"expected --out x.parquet or x.zarr, --neighbours or --map, got {wrong[0] if wrong else 'none'}.")  # fmt: skip
    if task is not None and neighbours:
        raise click.UsageError("--neighbours: expected a store to show its tiles, got files; leave it out.")
    for path in outs:
        check_output(path, folder=path.suffix == ".zarr")
        if path.suffix == ".zarr":
            refuse_other_content(path)
    for picture, flag in ((figure if neighbours else None, "--figure"), (map_path, "--map")):
        if picture is not None:
            check_output(picture, option=flag)
    loaded = _load(checkpoint, padding)
    store = _open(source) if task is None else None
    rasters = store or open_task(f"{task}={source}")
    with meter(f"Embedding {short_path(source)}", "tiles") as show:
        found = embed_tiles(loaded, rasters, device=device, cache=cache or cache_folder() / "features", report=show)
    row = None if neighbours is None else found.position(neighbours)  # refused before anything is written
    for path in outs:
        (write_zarr if path.suffix == ".zarr" else write_parquet)(found, path)
    if map_path is not None:
        save_figure(map_figure(found, store), map_path)
    click.echo(f"{len(found.values)} embeddings with {found.values.shape[1]} features.")
    if row is not None and store is not None:
        save_figure(neighbours_figure(found, store, row), figure)
        for place, similarity in found.neighbours(row):
            click.echo(f"{found.names[place]}  {similarity:.3f}")


def _is_dense(source: str | Path) -> bool:
    """Whether a source is a file of dense embeddings; most sources are decided by name, without loading anything."""
    if isinstance(source, str) or source.suffix not in (".zarr", ".tif"):
        return False
    from mmearth_model.maps.vectors import is_dense

    return is_dense(source)


def _embed_dense(
    sources: tuple[str | Path, ...],
    checkpoint: str | Path,
    outs: tuple[Path, ...],
    *,
    padding: Padding | None,
    stride: int | None,
    overlap: int | None,
    blend: Any,  # noqa: ANN401 - one of the choices
    kind: str,
    workers: int | None,
    scheduler: str | None,
    threads: int,
    device: str,
    query: str | None,
    picture: Path | None,
    similarity: Path,
    **options: Any,
) -> None:
    """One vector per position."""
    from mmearth_data import meter
    from mmearth_model import SceneOptions, WindowOptions, embed_dense
    from mmearth_model.devices import default_workers
    from mmearth_model.maps.similarity import parse_place

    if len(outs) != 1:
        raise click.UsageError(f"expected one --out x.zarr or x.tif with --dense, got {len(outs)}; give exactly one.")
    if scheduler is not None:
        refuse_unused("with --scheduler, whose workers compute the vectors", "workers", "threads")
    given_files = [*sources, checkpoint, *(() if options["bands"] is None else (options["bands"],))]
    _check_shown(query, picture, similarity, out=outs[0], inputs=given_files)
    scene = len(sources) > 1 or (isinstance(sources[0], Path) and sources[0].is_file())
    if not scene:
        refuse_unused("with a store, which records its bands and levels", *OF_SCENES)
    given = SceneOptions(**{name: options[name] for name in OF_SCENES})
    with meter(f"Embedding {short_path(sources[0])}", "positions") as show:
        found = embed_dense(
            _load(checkpoint, padding),
            sources if scene else _open(sources[0]),
            outs[0],
            given=given,
            windows=WindowOptions(stride_px=stride, overlap_px=overlap, blend=blend),
            kind=kind,
            inside=None if query is None else parse_place(query),
            workers=workers or default_workers(device),
            scheduler=scheduler,
            threads=threads,
            device=device,
            report=_mapping_shown(show, outs[0], "positions"),
        )
    for field in found:
        rows, columns = field.grid.shape
        zone = f" in EPSG:{field.name}" if field.name else ""
        click.echo(
            f"{short_path(outs[0])}: {rows:,} x {columns:,} positions with {field.grid.features} features{zone}."
        )
    _show_dense(outs[0], query=query, picture=picture, similarity=similarity)


def _check_shown(
    query: str | None, picture: Path | None, similarity: Path, *, inputs: Sequence[str | Path], out: Path | None = None
) -> None:
    """Raise an error before anything is computed if the picture or map cannot be written, or would replace another file."""
    from mmearth_model.maps.similarity import parse_place

    shown = None if query is None else similarity
    check_apart({"--out": out, "--picture": picture, "--similarity": shown}, inputs)
    if query is not None:
        parse_place(query)
        check_output(similarity, option="--similarity")
    if picture is not None:
        check_output(picture, option="--picture")


def _show_dense(source: Path, *, query: str | None, picture: Path | None, similarity: Path, **_: Any) -> None:
    """Write the picture and the similarity map of a file of dense embeddings."""
    from mmearth_model import open_vectors, write_picture, write_similarity
    from mmearth_model.maps.similarity import parse_place

    fields = open_vectors(source)
    written = [] if picture is None else [*write_picture(fields, picture)]
    if query is not None:
        written += write_similarity(fields, *parse_place(query), similarity)
    for path in written:
        click.echo(f"{short_path(path)}: written.")


# ---------------------------------------------------------------- maps


@cli.command(resumes=lambda given: True, first=("bands", "level", "offset", "scores", "workers", "out"))
@click.argument("network", type=FOLDER)
@click.argument("inputs", type=FOLDER, nargs=-1, required=True, metavar="INPUT...")
@BANDS
@LEVEL
@OFFSET
@ANY_RESOLUTION
@FILL_MISSING
@option("--scores", OUTPUT, "Also write the probabilities, to NAME.scores.tif.", is_flag=True)
@option(
    "--stride PX",
    MODEL,
    "Networks that predict per tile: scene pixels per side of a map pixel.",
    Number(int, Interval(ge=1, le=4096)),
    shown="half a window",
)
@option(
    "--overlap PX",
    MODEL,
    "Networks that predict per pixel: pixels that neighbouring windows share.",
    Number(int, Interval(ge=0, le=4096)),
    shown="about half a window",
)
@option(
    "--blend",
    MODEL,
    "Networks that predict per pixel: smooth, the weighted mean of all windows; centre, the window with the nearest "
    "centre.",
    click.Choice(["smooth", "centre"]),
    default="smooth",
)
@WORKERS
@SCHEDULER
@DEVICE
@option(
    "--threads N",
    HARDWARE,
    "Number of CPU threads per process.",
    Number(int, Interval(ge=1, le=1024)),
    shown="1; without processes, one per core",
)
@option(
    "--out OUT",
    OUTPUT,
    "Of a scene: the map, a cloud-optimised GeoTIFF (.tif), or a table with a row per window (.parquet). Of a store: a "
    "table "
    "with a row per tile (.parquet), or a folder with a raster per tile.",
    FILE,
)
@option(
    "--mosaic DIR",
    OUTPUT,
    "Of a store: folder for one map of all tiles, blended where they overlap: a GeoTIFF per UTM zone, and mosaic.vrt "
    "over them.",
    FILE,
)
@option("--vector FILE", OUTPUT, "Write the class map as polygons (GeoParquet).", FilePath(".parquet"))
@option(
    "--report FILE",
    OUTPUT,
    "Write the area of each class of the map: .csv, .json or .md.",
    FilePath(".csv", ".json", ".md"),
    name="area_report",
)
@option(
    "--validation FILE",
    WHAT,
    "Labelled points, a probability sample of the map, for areas with 95 % confidence intervals.",
    FILE,
)
@option(
    "--draw-validation N",
    OUTPUT,
    "Write a random sample of N points to label, stratified by class: MAP-validation.parquet and .csv.",
    Number(int, Interval(ge=2, le=1_000_000)),
    name="draw",
)
@option("--seed N", WHAT, "Seed of --draw-validation.", Number(int, Interval(ge=0)), default=0)
@JSON
def predict(
    network: str | Path,
    inputs: tuple[str | Path, ...],
    out: Path | None,
    mosaic: Path | None,
    device: str,
    threads: int | None,
    as_json: bool,
    vector: Path | None,
    area_report: Path | None,
    validation: Path | None,
    draw: int | None,
    seed: int,
    **options: Any,
) -> None:
    """Map a scene or a store with a network.

    INPUT is a store, a raster file with all bands that the network takes, or several files of one scene with some bands
    each. Bands are identified by --bands, by the band descriptions in the files, or by the names of files with one band
    (T32UQD_..._B02_10m.jp2). An interrupted command resumes when it is run again.
    """
    of_store = len(inputs) == 1 and ("://" in str(inputs[0]) or Path(inputs[0]).is_dir())
    use_threads(threads if of_store and mosaic is None else threads or 1)
    from mmearth_model import load_network
    from mmearth_model.maps.drawing import validation_files
    from mmearth_model.maps.products import Products

    if draw is None:
        refuse_unused("without --draw-validation", "seed")
    products = Products(vector=vector, report=area_report, validation=validation, draw=draw or 0, seed=seed)
    loaded = _fetched(network, load_network)
    target = mosaic if mosaic is not None and of_store else out
    if target is None or (mosaic is not None and out is not None):
        raise click.UsageError("expected either --out, or --mosaic for a store, got neither or both; give one of them.")
    finished = target / "mosaic.vrt" if mosaic is not None else target
    if of_store and mosaic is None:
        refuse_unused("without --mosaic, for a store", "vector", "area_report", "validation", "draw", "seed")
    made_of = [*inputs, network, *(path for path in (options["bands"], validation) if path is not None)]
    labels = validation_files(finished) if finished.name else ()
    check_apart({"--out": target, "--vector": vector, "--report": area_report}, [*made_of, *labels])
    products.check(loaded, finished)
    options["threads"] = threads
    make = _predict_store if of_store else _predict_scene
    written = make(loaded, inputs, target, device, options, mosaic is not None)
    made = products.make(finished)
    written += made.written
    if as_json:
        click.echo(json.dumps({"written": [short_path(path) for path in written], **made.to_dict()}))
    else:
        for path in written:
            click.echo(
                f"{short_path(path)}: {path.stat().st_size / 1e6:.1f} MB" if path.is_file() else short_path(path)
            )
        if made.areas is not None:
            _print(made.areas)
    if made.refusal() is not None:
        raise InputError(f"--validation: intervals could not be computed: {made.refusal()}.")


def _predict_scene(
    network: Network, inputs: tuple[str | Path, ...], out: Path, device: str, options: dict[str, Any], mosaic: bool
) -> list[Path]:
    """Map a scene; return the files."""
    from mmearth_data import meter
    from mmearth_model import SceneOptions, WindowOptions, predict_scene

    if mosaic:
        raise click.UsageError("--mosaic: expected a store, got files of a scene; use --out instead.")
    names = ("bands", "level", "offset", "any_resolution", "fill_missing")
    tiling = WindowOptions(stride_px=options["stride"], overlap_px=options["overlap"], blend=options["blend"])
    with meter(f"Predicting {short_path(out)}", "px") as show:
        written = predict_scene(
            network,
            inputs,
            out,
            given=SceneOptions(**{name: options[name] for name in names}),
            tiling=tiling,
            scores=options["scores"],
            device=device,
            report=_mapping_shown(show, out),
            **_spreading(options, device),
        )
    return list(written)


def _predict_store(
    network: Network, inputs: tuple[str | Path, ...], out: Path, device: str, options: dict[str, Any], mosaic: bool
) -> list[Path]:
    """Predict the tiles of a store; return the files, or the folder."""
    from mmearth_data import meter
    from mmearth_model.maps.mosaic import predict_mosaic
    from mmearth_model.maps.stores import predict_rasters, predict_table

    scene_only = ("bands", "level", "offset", "any_resolution", "fill_missing", "stride", "overlap", "blend")
    refuse_unused("for a store, whose tiles are the windows", *scene_only)
    store = _open(inputs[0])
    with meter(f"Predicting {short_path(inputs[0])}", "px" if mosaic else "tiles") as show:
        if mosaic:
            spreading = _spreading(options, device)
            return list(
                predict_mosaic(
                    network,
                    store,
                    out,
                    scores=options["scores"],
                    device=device,
                    report=_mapping_shown(show, out),
                    **spreading,
                )
            )
        refuse_unused("without --mosaic, for a store", "workers", "scheduler")
        if out.suffix == ".parquet":
            refuse_unused("with a table, which always has the scores", "scores")
            return [predict_table(network, store, out, device=device, report=show)]
        predict_rasters(network, store, out, scores=options["scores"], device=device, report=show)
    return [out]


def _spreading(options: dict[str, Any], device: str) -> dict[str, Any]:
    """Choose the processes that compute a map."""
    from mmearth_model.devices import default_workers

    if options["scheduler"] is not None:
        refuse_unused("with --scheduler, whose workers compute the map", "workers", "threads")
    return {
        "workers": options["workers"] or default_workers(device),
        "scheduler": options["scheduler"],
        "threads": options["threads"] or 1,
    }


# ---------------------------------------------------------------- third-party weights


@cli.command()
@click.argument("source", metavar="SOURCE")
@option(
    "--to",
    WHAT,
    "Export instead. finetune: for the released fine-tuning code (an encoder of any preset); dense, "
    "sparse: for the released pretraining code without or with its sparse engine (whole networks of "
    "preset reference); timm: plain ConvNeXt V2.",
    click.Choice(["finetune", "dense", "sparse", "timm"]),
)
@option("--store STORE", WHAT, "Put this store's statistics into the checkpoint; released files have none.", FOLDER)
@field_option(TrainFields, "bands", text="With --store: input bands of the weights.", shown="")
@option("--out PATH", OUTPUT, "Folder to write, or with --to a file.", FILE, required=True)
def convert(
    source: str, out: Path, to: str | None, store: str | Path | None, bands: dict[str, list[str]] | None
) -> None:
    """Convert weights of third-party code, or back with --to.

    SOURCE is a released MMEarth checkpoint (a .pth file, or a name of catalog/checkpoints.yaml, which is downloaded), a
    classifier or UNet fine-tuned from one, plain ConvNeXt V2 weights with the names of its authors or of timm (.pth,
    .safetensors), or a checkpoint or run of this program, also as a URL (see evaluate). From pickles, only
    tensors, containers and the numbers in args (the options of the run) are read; nothing is imported or executed, and
    pickles that ask for more are refused.
    """
    from mmearth_data import meter
    from mmearth_model import convert as convert_weights

    opened = None if store is None else _open(store)
    with meter(f"Converting {source}", "MiB") as show:
        written = convert_weights(
            source,
            out,
            to=to,
            store=opened,
            bands=bands or {},
            report=_bytes_shown(show),
        )
    click.echo(f"{written}: converted.")


@cli.command()
@click.argument("folder", type=FILE)
@option(
    "--licence SPDX",
    WHAT,
    "Licence of the weights: an identifier of the SPDX list, such as CC-BY-4.0; recorded in config.json.",
    shown="as recorded",
)
@option("--force", OUTPUT, "Also replace cards that were edited.", is_flag=True)
def describe(folder: Path, licence: str | None, force: bool) -> None:
    """Write the model card and the STAC item of weights.

    FOLDER is a checkpoint, a network, or a run (its last checkpoint). README.md is a model card with the header of the
    Hugging Face Hub; item.json is a STAC item with the Machine Learning Model extension. New checkpoints and networks
    already have both. This command rewrites them with a licence, or adds them to folders of earlier versions.
    """
    from mmearth_model import describe as describe_weights

    written = describe_weights(folder, licence=licence, force=force)
    click.echo(f"{short_path(written.absolute())}: README.md, item.json")


@cli.command()
@click.argument("source", type=FOLDER, metavar="CKPT|NETWORK")
@option(
    "--to",
    WHAT,
    "onnx: for ONNX Runtime and others; torch-export: for torch.export.load.",
    click.Choice(["onnx", "torch-export"]),
    required=True,
)
@option(
    "--features",
    WHAT,
    "For an encoder: one vector per image, or one per patch.",
    click.Choice(["pooled", "map"]),
    shown="pooled",
)
@option(
    "--level",
    WHAT,
    "Product level of all images, if the statistics depend on it.",
    click.Choice(["L1C", "L2A"]),
    shown="an input",
)
@option("--out FILE", OUTPUT, "File to write: x.onnx or x.pt2.", FILE, required=True)
def export(source: str | Path, to: str, features: str | None, level: str | None, out: Path) -> None:
    """Export an encoder or a network as a program.

    The exported program takes values as stored, handles missing ones, and returns features or predictions, for any batch
    size and image size. The file describes its inputs and outputs: in mmearth in the metadata of an ONNX file, in
    mmearth.json in a .pt2 file.
    """
    from mmearth_data import meter
    from mmearth_model import export_program

    loaded = _load(source, None, networks=True)
    with meter(f"Exporting {loaded.name}", "steps") as show:
        export_program(loaded, out, to=to, features=features, level=level, report=show)
    click.echo(f"{out}: exported, {out.stat().st_size / 2**20:.1f} MiB.")


@cli.command(first=("size", "batch", "image_size", "forms", "device"))
@field_options(WorkFields)
@option(
    "--form",
    WHAT,
    "Kind of training step.",
    click.Choice(["sparse", "masked", "unmasked"]),
    name="forms",
    multiple=True,
    shown="all",
)
@THREADS
@JSON
def bench(forms: tuple[Any, ...], threads: int | None, as_json: bool, **options: Any) -> None:
    """Measure training steps on random tiles.

    sparse computes visible positions only; masked computes all positions, with zeros at masked ones; unmasked computes
    all positions without a mask. The peak is the speed of one large matrix product in this precision on the device.
    """
    use_threads(threads)
    from mmearth_model import Workload
    from mmearth_model import bench as measure

    if set(forms) == {"unmasked"}:
        refuse_unused("with --form unmasked, which uses no mask", "mask_ratio")
    work = Workload(**{field: value for field, value in options.items() if value is not None})
    found = measure(work, forms or None, lambda text: _say(f"bench: {text}"))
    if as_json:
        click.echo(json.dumps([timing.to_dict() for timing in found], indent=2))
        return
    _print_timings(found, work)


# ---------------------------------------------------------------- experiments


@cli.command(resumes=lambda given: True, first=("scale", "stores", "data", "workers", "out"))
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
        _print(NamedValues(sorted({**questions, "robustness": QUESTION}.items())))
        return
    from mmearth_model.evaluation.terminal import render_results
    from mmearth_model.experiments.run import Setting, run_experiment

    if scheduler is not None:
        refuse_unused("with --scheduler, whose workers run the experiment", "workers")
    _check_page(page)
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
            setting, workers=workers, scheduler=scheduler, threads=threads, report=_say, progress=show
        )
    if page is not None:
        from mmearth_model import read_report, write_report

        write_report(read_report([setting.out]), page, tiles=0, embedded=0)
    _print(render_results(f"{found.name}: {found.question}", result, found.baseline))
    _say(f"{setting.out}: results.md, .csv, .json, .png, .pdf and .svg")


@cli.command(
    resumes=lambda given: True, first=("tasks", "store", "changes", "protocol", "baselines", "encoders", "out")
)
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
    if not any(_of_store(task) for task in tasks):
        refuse_unused("with only tasks from files", "store")
    check_output(out, folder=True)
    _check_page(page)
    loaded = [_load(path, padding) for path in checkpoints]
    opened = _store_of(tasks, store, loaded)
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
    _print(render(result))
    _say(f"{out}: results.md, .csv, .json, .png, .pdf and .svg")


@cli.command()
@click.argument("name", required=False)
@JSON
def recipes(name: str | None, as_json: bool) -> None:
    """List the training recipes, or print one of them.

    NAME is a recipe or a YAML file; the output can be saved as a file for --recipe.
    """
    from mmearth_data import NamedValues, RecipeFolder

    folder = RecipeFolder("train")
    if name is not None:
        refuse_unused("with NAME, which prints the file", "as_json")
        click.echo(folder.text(name), nl=False)
        return
    described = folder.descriptions()
    if as_json:
        click.echo(json.dumps(described, indent=2))
        return
    _print(NamedValues(list(described.items())))


# ---------------------------------------------------------------- reports


@cli.command()
@click.argument("runs", type=FILE, nargs=-1, required=True, metavar="RUN...")
@BESIDE
@HTML
@option("--store STORE", WHAT, "With --html: store whose tiles are shown.", FOLDER, shown="the store of each run")
@option(
    "--store-page FILE",
    WHAT,
    "With --html: report of the store to link to, written by mmearth-data inspect --html.",
    FilePath(".html"),
)
@option("--tiles N", WHAT, "With --html: tiles to reconstruct.", Number(int, Interval(ge=0, le=16)), default=4)
@option(
    "--embeddings N",
    WHAT,
    "With --html: tiles on the map of embeddings.",
    Number(int, Interval(ge=0, le=500)),
    name="embedded",
    default=300,
)
@DEVICE
@JSON
def report(
    runs: tuple[Path, ...],
    beside: str | None,
    page: Path | None,
    store: str | Path | None,
    store_page: Path | None,
    tiles: int,
    embedded: int,
    device: str,
    as_json: bool,
) -> None:
    """Report on runs and results; with --html, as an HTML page.

    RUN is a run folder, a folder that evaluate or finetune wrote with --out, or an experiment folder; results in folders
    directly below a run are also read. Runs may be unfinished.
    """
    from mmearth_model import read_report

    if page is None:
        refuse_unused("without --html", "store", "store_page", "tiles", "embedded", "device")
    _check_page(page)
    published = _published(beside)
    found = read_report(runs)
    if published is not None:
        found = found.beside(published)
    if page is not None:
        from mmearth_model import write_report  # needs PyTorch, which a summary does without

        drawn: dict[str, Any] = {
            "store": store,
            "store_page": store_page,
            "tiles": tiles,
            "embedded": embedded,
            "device": device,
        }
        written = write_report(found, page, **drawn, report=_say)
        _say(f"{page}: {written / 1e6:.1f} MB")
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1))
        return
    _print_report(found)


def _check_page(page: Path | None) -> None:
    """Raise an error before anything is computed if the page cannot be made."""
    if page is not None:
        require_bokeh()
        check_output(page, option="--html")


def _print_report(found: Report) -> None:
    from mmearth_model.report.summary import render_report

    _print(render_report(found))


def _published(table: str | None) -> tuple[Published, ...] | None:
    """Read the published results that --beside names, before anything is computed."""
    from mmearth_model import read_published

    return None if table is None else read_published(table)


def _write_results_page(content: dict[str, Any], title: str, page: Path | None) -> None:
    """Write the HTML page of a command's results, if requested."""
    if page is None:
        return
    from mmearth_model.report.page import write_results_page

    written = write_results_page(content, title, page)
    _say(f"{page}: {written / 1e6:.1f} MB")


def _recipe(base: str, options: dict[str, Any]) -> TrainRecipe:
    """Recipe of the options of `pretrain`."""
    from mmearth_model import make_recipe

    return make_recipe(base, {field: value for field, value in options.items() if value not in (None, ())})


def _pair(text: str) -> tuple[str, str]:
    """``NAME=PATH`` to both; a path alone has no name."""
    name, equals, path = text.partition("=")
    return (name, path) if equals else ("", text)


# ---------------------------------------------------------------- shared pieces


def _open(path: str | Path) -> Store:
    from mmearth_data import open_store

    return open_store(path)


@overload
def _load(path: str | Path, padding: Padding | None, *, networks: Literal[False] = False) -> Checkpoint: ...
@overload
def _load(path: str | Path, padding: Padding | None, *, networks: Literal[True]) -> Checkpoint | Network: ...
def _load(path: str | Path, padding: Padding | None, *, networks: bool = False) -> Checkpoint | Network:
    """Open a checkpoint or, with ``networks``, also a network."""
    from mmearth_model import load_checkpoint
    from mmearth_model.heads.network import load_weights

    return _fetched(path, partial(load_weights if networks else load_checkpoint, padding=padding))


def _fetched(path: str | Path, load: Callable[..., Loaded]) -> Loaded:
    """Load weights; if they were downloaded, print their origin."""
    from mmearth_data import meter

    if "://" not in str(path):
        return load(path)
    with meter(f"Fetching {path}", "MiB") as show:
        found = load(path, report=_bytes_shown(show))
    _say(str(found.origin))
    return found


def _one_encoder(
    checkpoint: str | Path | None, encoder: str | None, padding: Padding | None
) -> tuple[Checkpoint | ExternalEncoder, list[Checkpoint]]:
    """Open CKPT or --encoder, of which one is given; also return the checkpoint, if it is one."""
    from mmearth_model import open_encoder

    if encoder is None and checkpoint is not None:
        loaded = _load(checkpoint, padding)
        return loaded, [loaded]
    if encoder is None or checkpoint is not None:
        got = "neither" if encoder is None else "both"
        raise click.UsageError(f"expected either CKPT or --encoder, got {got}; give one of them.")
    refuse_unused("with --encoder, which has its own architecture", "padding", "drop_path", "out")
    return open_encoder(encoder), []


def _origins(weights: Sequence[Checkpoint | Network], encoders: Sequence[ExternalEncoder]) -> dict[str, Any]:
    """Origins of what was downloaded, and of other encoders, for the results."""
    found: dict[str, Any] = {each.name: each.origin.to_dict() for each in weights if each.origin}
    found |= {encoder.name: dict(encoder.record) for encoder in encoders}
    return {"encoders": found} if found else {}


def _bytes_shown(show: Meter) -> Callable[[int], None]:
    """Show the progress of a download."""
    return lambda received: show(0, None, f"{received / 2**20:.1f} MiB")


def _of_store(task: str) -> bool:
    """Whether a task comes from a store rather than from ``NAME=PATH``."""
    return "=" not in task


def _store_of(
    tasks: tuple[str, ...], store: str | Path | None, checkpoints: Sequence[Checkpoint | Network]
) -> Store | None:
    """Store that the tasks come from: the given one, or that of the first checkpoint or network."""
    from mmearth_model.weights.store_record import find_store

    if store is not None:
        return _open(store)
    if not any(_of_store(task) for task in tasks):
        return None
    if not checkpoints:
        raise click.UsageError("expected a store for the tasks, got none; give --store, or NAME=PATH as --task.")
    record, folder = checkpoints[0].store, checkpoints[0].folder
    if folder is None or not record["path"]:
        raise click.UsageError(
            f"expected a store for the tasks, got none, and {checkpoints[0].name} {_without_store(checkpoints[0])}."
        )
    return find_store(record, folder.parent)


def _without_store(found: Checkpoint | Network) -> str:
    """Explain why weights record no store, and what to do."""
    from mmearth_model import Network

    if isinstance(found, Network):
        return "was trained on files; give --store STORE"
    return "was converted without one; convert it again with --store STORE"


def _say(text: str) -> None:
    """Write a note to stderr, unless ``--quiet``: not by click, which would write it into a live progress line."""
    if not is_quiet():
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def _print(renderable: RenderableType) -> None:
    from rich.console import Console

    Console().print(renderable, crop=False)


def _print_table(result: Evaluation, store: Store | None, beside: Beside | None = None) -> None:
    from mmearth_model.evaluation.terminal import render_results

    synthetic = f" on {short_path(store.path)}{', synthetic' if store.synthetic else ''}" if store else ""
    _print(render_results(f"{_title(result)}{synthetic}", result, beside=beside))


def _title(result: Evaluation) -> str:
    """Heading of results."""
    from mmearth_model.formatting import title_of

    return title_of({row.protocol for row in result.rows})


def _print_timings(found: list[Timing], work: Workload) -> None:
    from mmearth_data import FittedTable, Paragraphs, TableColumn

    title = f"{work.size}, {work.image_size} px in {work.patch_size} px patches, batch {work.batch}, {work.device}"
    table = FittedTable(
        [TableColumn(""), *(TableColumn(f"{t.form}, compiled" if t.compiled else t.form, right=True) for t in found)],
    )
    parts = list(found[0].parts_ms)
    rows = {"images/s": [t.images_per_s for t in found], "MiB": [t.memory_mib for t in found]}
    rows |= {"GFLOP": [t.gflop for t in found], "% of peak": [100 * t.share_of_peak for t in found]}
    rows |= {f"{part} ms": [t.parts_ms[part] for t in found] for part in parts}
    for name, values in rows.items():
        table.add(name, *(f"{value:.1f}" for value in values))
    _print(Paragraphs([f"Training steps: {title}"], style="bold"))
    _print(table)


def _mapping_shown(show: Meter, out: Path, unit: str = "px") -> Callable[[float, float], None]:
    """Show the progress of a map; first print where it resumes."""
    begun: list[float] = []

    def report(done: float, total: float) -> None:
        if done and not begun:
            _say(f"Resuming {short_path(out)}: {done:,.0f} of {total:,.0f} {unit} are finished.")
        begun.append(done)
        show(done, total)

    return report


def _training_shown(show: Meter) -> Callable[[TrainProgress], None]:
    """Show the progress of a run, and first where it resumes."""
    notes: list[str] = []

    def report(progress: TrainProgress) -> None:
        if progress.resumed and not notes:
            notes.append(f"Resuming after step {progress.resumed}.")
            _say(notes[0])
        remark = (
            f"loss {progress.loss:.3f}, {progress.images_per_s:.0f} images/s, {100 * progress.waiting:.0f} % waiting, "
            f"epoch {progress.epoch}/{progress.epochs}"
        )
        show(progress.step, progress.steps, remark)

    return report
