"""The program ``mmearth-train``: its commands, one module per group, parse, call the front door and print the result."""

from __future__ import annotations

from pathlib import Path

import click

from mmearth_data import CommandGroup, __version__, closest, is_there
from mmearth_model.cli.embedding import embed
from mmearth_model.cli.evaluating import evaluate
from mmearth_model.cli.experimenting import experiment, robustness
from mmearth_model.cli.finetuning import finetune
from mmearth_model.cli.mapping import predict
from mmearth_model.cli.reporting import report
from mmearth_model.cli.training import bench, pretrain, recipes
from mmearth_model.cli.weights import convert, describe, export

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


COMMANDS = [
    pretrain,
    evaluate,
    finetune,
    embed,
    predict,
    convert,
    describe,
    export,
    bench,
    experiment,
    robustness,
    recipes,
    report,
]


@click.group(cls=PretrainFirst, commands=COMMANDS, epilog=EXAMPLES)
@click.version_option(__version__, prog_name="mmearth-train")
def cli() -> None:
    """Pretrain MP-MAE on a store and evaluate the encoder."""
