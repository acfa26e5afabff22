"""Options that several commands share."""

from __future__ import annotations

from functools import partial

import click
from annotated_types import Interval

from mmearth_data import CommandGroup, FilePath, Group, Number, PathOrUrl, field_option, option
from mmearth_model.fields import WorkFields

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
OF_SCENES = ("bands", "level", "offset", "any_resolution", "fill_missing")
"""Parameters that describe a scene: those of the five options above."""
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
JSON = option("--json", OUTPUT, "Print the result as JSON.", name="as_json", is_flag=True)
command = partial(click.command, cls=CommandGroup.command_class)
"""Decorator that turns a function into a command; it takes the keywords of the command class of `mmearth_data`."""
