"""The command `finetune`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from mmearth_data import field_options, option, refuse_unused
from mmearth_model.cli.opening import of_store, open_weights, store_of
from mmearth_model.cli.options import (
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
from mmearth_model.cli.output import check_page, print_table, title_for, write_page
from mmearth_model.fields import FineTuneFields
from mmearth_model.threads import use_threads

if TYPE_CHECKING:
    from pathlib import Path

    from mmearth_model import Checkpoint, ExternalEncoder
    from mmearth_model.network.encoder import Padding


@command(first=("task", "store", "labels", "epochs", "out"))
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

    if not of_store(task):
        refuse_unused("with a task from files", "store")
    check_page(page)
    if options["frozen"]:
        refuse_unused("with --frozen, which does not train the encoder", "layer_decay", "drop_path")
    loaded, checkpoints = _one_encoder(checkpoint, encoder, padding)
    opened = store_of((task,), store, checkpoints)
    found, share = open_task(task, opened), LabelShare.parse(labels)
    given = {key: value for key, value in options.items() if value is not None}
    recipe = choose_recipe(recipe_name, found, share, given)

    with meter(f"Fine-tuning on {found.name}", "epochs") as show:

        def report(epoch: int, loss: float, value: float) -> None:
            show(epoch, recipe.epochs, f"loss {loss:.3f}, validation {value:.3f}")

        result = finetune_encoder(loaded, found, recipe, labels=share, device=device, out=out, report=report)
    about = {"store": str(opened.path) if opened else None, "synthetic": bool(opened and opened.synthetic)}
    write_page({**about, **result.to_dict()}, title_for(result), page)
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2))
        return
    print_table(result, opened)


def _one_encoder(
    checkpoint: str | Path | None, encoder: str | None, padding: Padding | None
) -> tuple[Checkpoint | ExternalEncoder, list[Checkpoint]]:
    """Open CKPT or --encoder, of which one is given; also return the checkpoint, if it is one."""
    from mmearth_model import open_encoder

    if encoder is None and checkpoint is not None:
        loaded = open_weights(checkpoint, padding)
        return loaded, [loaded]
    if encoder is None or checkpoint is not None:
        got = "neither" if encoder is None else "both"
        raise click.UsageError(f"expected either CKPT or --encoder, got {got}; give one of them.")
    refuse_unused("with --encoder, which has its own architecture", "padding", "drop_path", "out")
    return open_encoder(encoder), []
