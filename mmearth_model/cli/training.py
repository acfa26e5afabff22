"""The commands `pretrain`, `recipes` and `bench`."""

from __future__ import annotations

import io
import json
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmearth_data import MMEarthError, check_output, field_options, option, refuse_unused, shell_path, short_path
from mmearth_model.cli.opening import store_at
from mmearth_model.cli.options import DEVICE, FILE, FOLDER, JSON, OUTPUT, THREADS, WHAT, command
from mmearth_model.cli.output import print_rich, say
from mmearth_model.fields import TrainFields, WorkFields
from mmearth_model.threads import use_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mmearth_data import Meter
    from mmearth_model import Timing, TrainProgress, TrainRecipe, Workload


@contextmanager
def only_first_prints() -> Iterator[None]:
    """Under torchrun, discard the output of all processes but the first; errors other than interruptions are raised."""
    from mmearth_model.training.ranks import Ranks

    if Ranks.here().first:
        yield
        return
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        try:
            yield
        except MMEarthError as error:
            from mmearth_model import TrainingInterrupted

            if not isinstance(error, TrainingInterrupted):
                raise
            raise click.exceptions.Exit(error.exit_code) from None


@command(resumes=lambda given: not given["dry_run"], first=("base", "exclude", "epochs", "out", "dry_run"))
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
@only_first_prints()
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

    recipe = recipe_of(base, options)
    opened = store_at(store)
    target = out or Path("runs") / f"{opened.path.stem}-{Path(base).stem}-{recipe.seed}"
    plan = training_account(plan_training(opened, recipe), device, target)
    if dry_run:
        click.echo(json.dumps(plan, indent=2))
        return
    from mmearth_model import pretrain as pretrain_model  # loading Lightning takes longer than making a plan

    if not target.exists():
        check_output(target, folder=True)
    say(f"{target}: {plan_line(plan)}")
    with meter(f"Pretraining {target}", "steps") as show:
        checkpoint = pretrain_model(opened, recipe, target, device=device, report=_training_shown(show))
    if as_json:
        click.echo(json.dumps({"run": str(target), "checkpoint": short_path(checkpoint)}))
        return
    click.echo(f"{short_path(checkpoint)}: trained. Losses: {target}/log.csv.")
    click.echo(f"Probe it: mmearth-train evaluate {shell_path(target)} --task store:MODALITY")


def recipe_of(base: str, options: dict[str, Any]) -> TrainRecipe:
    """Recipe of the options of `pretrain`."""
    from mmearth_model import make_recipe

    return make_recipe(base, {field: value for field, value in options.items() if value not in (None, ())})


def _training_shown(show: Meter) -> Callable[[TrainProgress], None]:
    """Show the progress of a run, and first where it resumes."""
    notes: list[str] = []

    def report(progress: TrainProgress) -> None:
        if progress.resumed and not notes:
            notes.append(f"Resuming after step {progress.resumed}.")
            say(notes[0])
        remark = (
            f"loss {progress.loss:.3f}, {progress.images_per_s:.0f} images/s, {100 * progress.waiting:.0f} % waiting, "
            f"epoch {progress.epoch}/{progress.epochs}"
        )
        show(progress.step, progress.steps, remark)

    return report


@command()
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
    print_rich(NamedValues(list(described.items())))


@command(first=("size", "batch", "image_size", "forms", "device"))
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
    found = measure(work, forms or None, lambda text: say(f"bench: {text}"))
    if as_json:
        click.echo(json.dumps([timing.to_dict() for timing in found], indent=2))
        return
    _print_timings(found, work)


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
    print_rich(Paragraphs([f"Training steps: {title}"], style="bold"))
    print_rich(table)
