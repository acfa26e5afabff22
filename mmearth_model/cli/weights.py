"""The commands `convert`, `describe` and `export`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mmearth_data import field_option, option, short_path
from mmearth_model.cli.opening import bytes_shown, open_weights, store_at
from mmearth_model.cli.options import FILE, FOLDER, OUTPUT, WHAT, command
from mmearth_model.fields import TrainFields

if TYPE_CHECKING:
    from pathlib import Path


@command()
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

    opened = None if store is None else store_at(store)
    with meter(f"Converting {source}", "MiB") as show:
        written = convert_weights(
            source,
            out,
            to=to,
            store=opened,
            bands=bands or {},
            report=bytes_shown(show),
        )
    click.echo(f"{written}: converted.")


@command()
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


@command()
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

    loaded = open_weights(source, None, networks=True)
    with meter(f"Exporting {loaded.name}", "steps") as show:
        export_program(loaded, out, to=to, features=features, level=level, report=show)
    click.echo(f"{out}: exported, {out.stat().st_size / 2**20:.1f} MiB.")
