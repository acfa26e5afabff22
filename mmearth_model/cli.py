"""The command ``mmearth-train``: parse, call the front door, print the result."""

from __future__ import annotations

import difflib
import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmearth_data import CommandGroup, __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mmearth_data import Store
    from mmearth_model import Checkpoint, Evaluation, Timing, TrainProgress, Workload

FILE = click.Path(path_type=Path)
DEFAULT_COMMAND = "pretrain"


class PretrainFirst(CommandGroup):
    """A group in which ``STORE ...`` stands for ``pretrain STORE ...``."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Take a first word that is no command as the store."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            meant = difflib.get_close_matches(args[0], list(self.commands), n=1)
            if meant and not Path(args[0]).exists():
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


@cli.command()
@click.argument("store", type=FILE)
@click.option("--recipe", "base", metavar="NAME|FILE", default="default", show_default=True, help="A recipe in pipelines/train, or a YAML file; the options below override it.")  # fmt: skip
@click.option("--out", type=FILE, metavar="RUN", help="Folder of the run.  [default: runs/STORE-RECIPE-SEED]")
@click.option("--modalities", metavar="A,B,...", help="Modalities that take part.  [default: all of the store]")
@click.option("--exclude", metavar="A,B,...", help="Modalities that do not.")
@click.option(
    "--preset", type=click.Choice(["default", "paper", "reference"]), help="Rules of the losses and decoders."
)
@click.option("--size", metavar="SIZE", help="Encoder: atto, femto, pico, nano, tiny, base, large, huge.")
@click.option("--image-size", type=int, metavar="PX", help="Side of the random crop.  [default: 7/8 of the tile]")
@click.option("--patch-size", type=int, metavar="PX", help="Side of a patch.  [default: 1/7 of the crop]")
@click.option("--mask-ratio", type=float, metavar="F", help="Share of the patches that is hidden.")
@click.option("--weighting", type=click.Choice(["uncertainty", "unweighted"]), help="How the tasks' losses are summed.")
@click.option("--epochs", type=int, metavar="N", help="Passes over the training tiles.")
@click.option("--batch-size", type=int, metavar="N", help="Tiles of one optimiser step.")
@click.option("--device-batch", type=int, metavar="N", help="Tiles at once; the rest of a batch is accumulated.")
@click.option("--lr", "base_lr", type=float, metavar="F", help="Base learning rate; in force: F x batch size / 256.")
@click.option("--seed", type=int, metavar="N", help="Decides weights, order, crops and masks.")
@click.option("--device", metavar="DEVICE", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--precision", type=click.Choice(["auto", "float32", "bfloat16"]), help="Arithmetic of the model.")
@click.option("--figure-epochs", type=int, metavar="N", help="Epochs between pictures of what is reconstructed; 0: none.")  # fmt: skip
@click.option("--logger", "loggers", multiple=True, metavar="NAME", help="tensorboard or wandb, beside log.csv. Repeatable.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def pretrain(
    store: Path, base: str, out: Path | None, device: str, dry_run: bool, as_json: bool, **options: Any
) -> None:
    """Pretrain on STORE, or continue an interrupted run.

    Running the same command again continues where it stopped; a finished run is left as it is. Under torchrun several
    processes or machines share each batch, and learn what one process that accumulates it would have learned.
    """
    from mmearth_model import make_recipe, plan_training
    from mmearth_model import pretrain as pretrain_model

    given = {key: value for key, value in options.items() if value not in (None, ())}
    for key in ("modalities", "exclude"):
        if key in given:
            given[key] = _names(given[key])
    recipe = make_recipe(base, given)
    opened = _open(store)
    if dry_run:
        click.echo(json.dumps(plan_training(opened, recipe).describe(), indent=2))
        return
    target = out or Path("runs") / f"{opened.path.stem}-{Path(base).stem}-{recipe.seed}"
    with _training_bar(f"Pretraining {target}") as report:
        checkpoint = pretrain_model(opened, recipe, target, device=device, report=report)
    if as_json:
        click.echo(json.dumps({"run": str(target), "checkpoint": str(checkpoint)}))
        return
    click.echo(f"{checkpoint}: trained. Losses: {target}/log.csv. Probe it: mmearth-train evaluate {target} --task store:MODALITY")  # fmt: skip


# ---------------------------------------------------------------- evaluating


@cli.command()
@click.argument("checkpoints", type=FILE, nargs=-1, required=True, metavar="CKPT...")
@click.option("--task", "tasks", multiple=True, required=True, metavar="TASK", help="store:MODALITY, a categorical one; of a map, the class that covers most of a tile. Repeatable.")  # fmt: skip
@click.option("--store", type=FILE, metavar="STORE", help="Labelled tiles.  [default: the store of the first CKPT]")
@click.option("--protocol", "protocols", multiple=True, type=click.Choice(["knn", "linear"]), help="knn: k = 5 and 20, cosine; linear: L-BFGS. Repeatable.  [default: both]")  # fmt: skip
@click.option(
    "--seeds", type=click.IntRange(1), default=3, show_default=True, help="Random encoders, splits, hold-outs."
)
@click.option("--test-share", type=float, metavar="F", help="Test on a seeded share of all tiles instead of the store's splits.")  # fmt: skip
@click.option("--device", metavar="DEVICE", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def evaluate(
    checkpoints: tuple[Path, ...],
    tasks: tuple[str, ...],
    store: Path | None,
    protocols: tuple[Any, ...],
    seeds: int,
    test_share: float | None,
    device: str,
    as_json: bool,
) -> None:
    """Probe frozen encoders beside randomly initialised ones.

    CKPT is a checkpoint folder or a run folder (its last checkpoint).
    """
    from mmearth_model import evaluate as evaluate_encoders
    from mmearth_model import load_checkpoint

    loaded = [load_checkpoint(path) for path in checkpoints]
    opened = _open(store or Path(loaded[0].config["store"]["path"]))
    with _evaluation_bar() as report:
        result = evaluate_encoders(
            loaded,
            opened,
            tasks,
            protocols=protocols or ("knn", "linear"),
            seeds=seeds,
            test_share=test_share,
            device=device,
            report=report,
        )
    if as_json:
        about = {"store": str(opened.path), "synthetic": opened.synthetic, "test_share": test_share}
        click.echo(json.dumps({**about, **result.to_dict()}, indent=2))
        return
    _print_table(result, opened, loaded)


# ---------------------------------------------------------------- other people's weights


@cli.command()
@click.argument("source", metavar="SOURCE")
@click.option("--out", type=FILE, required=True, metavar="PATH", help="What is written: a folder, or with --to a file.")
@click.option("--to", "style", type=click.Choice(["sparse", "dense", "timm"]), help="Export: the released MMEarth format in one of its two styles, or plain ConvNeXt V2.")  # fmt: skip
@click.option("--store", type=FILE, metavar="STORE", help="Put this store's statistics into the checkpoint; released files have none.")  # fmt: skip
def convert(source: str, out: Path, style: str | None, store: Path | None) -> None:
    """Convert weights: theirs to ours, or with --to ours to theirs.

    SOURCE is a released MMEarth checkpoint (a .pth file, or a name of catalog/checkpoints.yaml, which is downloaded),
    plain ConvNeXt V2 weights named as in timm (.pth, .safetensors), or a checkpoint or run of this program. Pickles are
    read by a loader that knows tensors and options only; anything else is refused before it is executed.
    """
    from mmearth_model import convert as convert_weights

    opened = None if store is None else _open(store)
    with _download_bar(source) as report:
        written = convert_weights(source, out, to=style, store=opened, report=report)
    click.echo(f"{written}: converted.")


@cli.command()
@click.option("--size", metavar="SIZE", default="atto", show_default=True, help="Encoder: atto, femto, pico, nano, tiny, base, large, huge.")  # fmt: skip
@click.option("--image-size", type=int, default=56, show_default=True, metavar="PX", help="Side of the crop.")
@click.option("--patch-size", type=int, default=8, show_default=True, metavar="PX", help="Side of a patch.")
@click.option("--mask-ratio", type=float, default=0.6, show_default=True, metavar="F", help="Share that is hidden.")
@click.option("--batch-size", "batch", type=int, default=32, show_default=True, metavar="N", help="Images of a step.")
@click.option("--runs", type=int, default=5, show_default=True, metavar="N", help="Timed steps of each form.")
@click.option("--form", "forms", multiple=True, type=click.Choice(["sparse", "masked", "unmasked"]), help="Repeatable.  [default: all]")  # fmt: skip
@click.option("--compile", "compiled", is_flag=True, help="Measure each form compiled too (needs a C++ compiler).")
@click.option("--device", metavar="DEVICE", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1.")
@click.option("--precision", type=click.Choice(["auto", "float32", "bfloat16"]), default="auto", show_default=True, help="auto: bfloat16 on a GPU.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def bench(forms: tuple[Any, ...], as_json: bool, **options: Any) -> None:
    """Measure training steps on tiles drawn at random.

    sparse computes visible positions only, masked everything with zeros where hidden, unmasked everything. The peak is
    what one large matrix product of that precision reaches on the device.
    """
    from mmearth_model import Workload
    from mmearth_model import bench as measure

    work = Workload(**options)
    found = measure(
        work, forms or ("sparse", "masked", "unmasked"), lambda text: click.echo(f"bench: {text}", err=True)
    )
    if as_json:
        click.echo(json.dumps([timing.to_dict() for timing in found], indent=2))
        return
    _print_timings(found, work)


# ---------------------------------------------------------------- shared pieces


def _open(path: Path) -> Store:
    from mmearth_data import open_store

    return open_store(path)


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _print_table(result: Evaluation, store: Store, checkpoints: list[Checkpoint]) -> None:
    from rich.console import Console
    from rich.table import Table

    tiles = {(row.task, row.train_tiles, row.test_tiles) for row in result.rows}
    synthetic = ", synthetic" if store.synthetic else ""
    table = Table(title=f"Accuracy of frozen encoders on {store.path}{synthetic}", title_justify="left")
    for column in ("task", "protocol", "encoder", "accuracy", "seeds", "note"):
        table.add_column(column, justify="right" if column in ("accuracy", "seeds") else "left", overflow="fold")
    for s in result.summaries():
        notes = ["leaky: trained on these labels or their kin"] * s.leaky + ["not converged"] * (not s.converged)
        accuracy = f"{100 * s.mean:.1f} ± {100 * s.deviation:.1f}" if s.seeds > 1 else f"{100 * s.mean:.1f}"
        table.add_row(s.task, s.protocol, s.encoder, accuracy, str(s.seeds), "; ".join(notes))
    console = Console()
    console.print(table)
    for task, train, test in sorted(tiles):
        console.print(f"{task}: fitted to {train} tiles, tested on {test}; ± is the standard deviation over seeds.")


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
    """Bytes received, on a terminal; on stderr."""
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), DownloadColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(f"Downloading {title}", total=None, visible=False)
        yield lambda received: bar.update(task, completed=received, visible=True)


@contextmanager
def _training_bar(title: str) -> Iterator[Callable[[TrainProgress], None]]:
    """Live bar on a terminal, one line every twentieth otherwise; always on stderr."""
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
    """Live bar on a terminal, one line per encoder otherwise; always on stderr."""
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
