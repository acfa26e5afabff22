"""The command ``mmearth-data``: parse, call the front door, print the result."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from annotated_types import Interval

from mmearth_data import (
    BuildFields,
    CommandGroup,
    FilePath,
    Group,
    InputError,
    MMEarthError,
    Number,
    Pair,
    PathOrUrl,
    SourceFields,
    StoreDamaged,
    __version__,
    check_output,
    field_option,
    field_options,
    ignore_stop_signals,
    is_data,
    is_quiet,
    option,
    refuse_unused,
    shell_path,
    short_path,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import RenderableType

    from mmearth_data import BuildRecipe, Catalog, Progress, Store

WHERE, WHAT, SOURCE, LIMITS, OUTPUT = Group.WHERE, Group.WHAT, Group.SOURCE, Group.LIMITS, Group.OUTPUT
FILE, PICTURE, HTML = FilePath(), FilePath(".png", ".pdf", ".svg"), FilePath(".html")


STORE = PathOrUrl()
WORKERS = Number(int, Interval(ge=1, le=1024))
"""Worker processes of one machine."""
REQUESTS = Number(int, Interval(ge=1, le=10**6))
"""Requests in flight, or per second: no machine answers more."""
TILES = Number(int, Interval(ge=1, le=10**10))
"""Tiles: more do not fit on the land, even at 16 px."""
JSON = option("--json", OUTPUT, "Print the result as JSON.", name="as_json", is_flag=True)
CATALOG = option("--catalog DIR", SOURCE, "Add modalities from a folder of YAML files.", FILE, name="catalog_dir")
RECIPE = option("--recipe NAME|FILE", WHAT, "Start from a recipe (`mmearth-data recipes` lists them) or a YAML file.")
NEW_STORE = option("--out STORE", OUTPUT, "Folder or URL of the new store.", STORE, required=True)
BUILT_WITH = "With --repair: the file that the store was built with."
SAMPLE_WITHOUT = (
    "latency_s",
    "eecu_per_tile",
    "modalities",
    "level",
    "years",
    "levels",
    "cloud_percent",
    "tiles_per_shard",
    "assets",
    "cover",
    "overlap_px",
    "date_range",
    "labels",
    "labels_file",
    "polygons",
    "burn",
    "date_column",
    "days",
)
"""Fields of a build that do not concern its locations."""


EPILOG = """The Tab key completes commands and options if ~/.bashrc has this line (for other shells: zsh_source, fish_source):

\b
  eval "$(_MMEARTH_DATA_COMPLETE=bash_source mmearth-data)"
"""


@click.group(cls=CommandGroup, epilog=EPILOG)
@click.version_option(__version__, prog_name="mmearth-data")
def cli() -> None:
    """Build, inspect and check multi-modal Earth-observation stores.

    \b
    To build a first store without an account:
      mmearth-data build --recipe demo --out planet.zarr
      mmearth-data inspect planet.zarr --figure tile.png --map map.png
    """


# ---------------------------------------------------------------- building


@cli.command(
    resumes=lambda given: not given["dry_run"] and given["profiled"] is None,
    first=("recipe", "source", "region", "tiles", "out"),
)
@RECIPE
@field_options(BuildFields)
@CATALOG
@option("--append N", WHAT, "Add N tiles to the finished store of the same recipe.", TILES)
@option("--workers N", LIMITS, "Distribute the shards over N processes on this machine.", WORKERS)
@option("--scheduler URL", LIMITS, "Send the shards to a running Dask scheduler, such as tcp://HOST:8786.")
@option("--out STORE", OUTPUT, "Folder of the store, or s3://, gs://, az:// URL.", STORE, shown="mmearth-REGION.zarr")
@option("--dry-run", OUTPUT, "Print the plan and its cost (requests, hours, bytes, compute) and stop.", is_flag=True)
@option(
    "--profile K", OUTPUT, "Measure K tiles, print an estimate for the whole recipe, and stop.", TILES, name="profiled"
)
@JSON
def build(
    recipe: str | None,
    out: Path | None,
    catalog_dir: Path | None,
    workers: int | None,
    scheduler: str | None,
    append: int | None,
    profiled: int | None,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Build a store, or resume an interrupted build.

    Running the same command again resumes where it stopped; a finished store is left unchanged. --append N adds N
    tiles of the same recipe, in areas without a tile; existing tiles are not changed.
    """
    from mmearth_data import build as build_store
    from mmearth_data import preview, profile, profile_lines

    _check_build_form(dry_run=dry_run, profiled=profiled is not None)
    chosen = _recipe(recipe, options)
    catalog = _catalog(catalog_dir)
    target = out or Path(
        f"mmearth-{_slug(chosen.region if chosen.source_file is None else chosen.source_file.stem)}.zarr"
    )
    if dry_run:
        click.echo(json.dumps(preview(chosen, catalog=catalog, append=append, out=target), indent=2))
        return
    if profiled is not None:
        found = profile(chosen, profiled, catalog=catalog)
        click.echo(json.dumps(found, indent=2) if as_json else "\n".join(profile_lines(found)))
        return
    with ExitStack() as shown:

        def done(store: Store) -> None:
            ignore_stop_signals()
            shown.close()
            _tell_store(store, as_json=as_json)

        store = build_store(
            chosen,
            target,
            catalog=catalog,
            report=shown.enter_context(_progress(f"Building {target}", "choosing locations")),
            workers=workers,
            scheduler=scheduler,
            note=_say,
            append=append,
            done=done,
        )
    _require_tiles(store)


def _check_build_form(*, dry_run: bool, profiled: bool) -> None:
    """Refuse options that a plan, a measurement or a build does not use."""
    if dry_run:
        refuse_unused("with --dry-run", "profiled", "workers", "scheduler")
    elif profiled:
        refuse_unused("with --profile", "out", "append", "workers", "scheduler", "latency_s", "eecu_per_tile")
    else:
        refuse_unused("without --dry-run", "latency_s", "eecu_per_tile")


@cli.command(first=("recipe", "region", "tiles", "out", "map_file"))
@RECIPE
@field_options(BuildFields, without=SAMPLE_WITHOUT)
@option("--out FILE", OUTPUT, "GeoParquet file to write: .parquet.", FilePath(".parquet", ".geoparquet"), required=True)
@option("--map PICTURE", OUTPUT, "Map of the locations to write: .png, .pdf or .svg.", PICTURE, name="map_file")
@option(
    "--colour WHAT",
    OUTPUT,
    "With --map: property that colours the points; label means the first label whose classes have colours.",
    click.Choice(["split", "biome", "label"]),
    default="label",
)
@JSON
def sample(
    recipe: str | None,
    out: Path,
    map_file: Path | None,
    colour: Literal["split", "biome", "label"],
    as_json: bool,
    **options: Any,
) -> None:
    """Sample locations for tiles.

    Nothing is built; pass the file to `build --tiles-file`.
    """
    from mmearth_data import draw_sample, meter, sample_map, write_sample

    if map_file is None:
        refuse_unused("without --map", "colour")
    chosen = _recipe(recipe, options)
    check_output(out)
    _check_picture("--map", map_file)
    with meter("Choosing locations", "locations") as show:
        drawn = draw_sample(chosen, report=show)
    write_sample(drawn, out)
    if map_file is not None:
        # Without ecoregions of the user's own, biomes are those of the synthetic planet.
        made_up = chosen.source_name == "synthetic" and chosen.ecoregions is None
        sample_map(drawn.frame, map_file, synthetic=made_up, colour=colour)
    click.echo(json.dumps(drawn.report.to_dict(), indent=2) if as_json else "\n".join(drawn.report.lines()))


# ---------------------------------------------------------------- other formats and stores


@cli.command("import", resumes=lambda given: True)
@click.argument("folder", type=FILE)
@option("--name NAME", WHAT, "Data set to read if FOLDER holds several.", shown="the only one")
@option("--skip-duplicates", WHAT, "Skip tiles with the same location and date as an earlier row.", is_flag=True)
@NEW_STORE
@JSON
def import_published(folder: Path, out: Path, name: str | None, skip_duplicates: bool, as_json: bool) -> None:
    """Import the published MMEarth data into a store.

    FOLDER holds NAME.h5, NAME_band_stats.json, NAME_splits.json and NAME_tile_info.json. The same command
    resumes an interrupted import.
    """
    from mmearth_data import import_hdf5

    with _progress(f"Importing {folder}") as report:
        store = import_hdf5(folder, out, name=name, skip_duplicates=skip_duplicates, report=report, note=_say)
    _tell_store(store, as_json=as_json)


@cli.command(resumes=lambda given: True)
@click.argument("store", type=STORE)
@option(
    "--format",
    WHAT,
    "MMEarth as published, or one cloud-optimised GeoTIFF per tile and modality.",
    click.Choice(["mmearth-h5", "geotiff"]),
    name="form",
    required=True,
)
@option("--name NAME", WHAT, "With mmearth-h5: data_1M_v001, data_1M_v001_64 or data_100k_v001.", shown="by tile size")
@option("--fill MODALITY=mean", WHAT, "With mmearth-h5: write missing values as the mean of the train split.", Pair())
@option("--out FOLDER", OUTPUT, "Folder to write into.", FILE, required=True)
def export(
    store: Path, form: Literal["mmearth-h5", "geotiff"], out: Path, name: str | None, fill: dict[str, str] | None
) -> None:
    """Write a store in another format.

    The same command resumes an interrupted export. An mmearth-h5 export temporarily needs twice its final size.
    """
    from mmearth_data import export as export_store

    with _progress(f"Exporting {store}") as report:
        folder = export_store(store, out, form=form, name=name, fill=fill, report=report, note=_say)
    click.echo(str(folder))


@cli.command(resumes=lambda given: True, first=("split", "region", "biome", "share", "out"))
@click.argument("store", type=STORE)
@field_option(
    BuildFields,
    "region",
    shown="",
    text="Region to keep: a country, continent or ISO code, bbox:W,S,E,N, or a vector file.",
)
@option("--split", WHAT, "Split to select.", click.Choice(["train", "val", "test"]), multiple=True)
@option("--biome NAME|CODE", WHERE, "Biome to select.", multiple=True)
@field_option(BuildFields, "modalities", text="Modalities to keep.", shown="all")
@option("--share F", WHAT, "Random share of the tiles that the other options select, such as 0.1.", Number(float))
@field_option(BuildFields, "seed", group=WHAT, text="Seed of the random share.", default=0)
@option(
    "--ids A,B,...|FILE", WHAT, "Tile ids (hexadecimal or as numbers) or published ids, or a file with one per line."
)
@option("--crop PX", WHAT, "Crop each tile to its centre.", Number(int))
@NEW_STORE
@JSON
def subset(
    store: Path,
    out: Path,
    split: tuple[str, ...],
    biome: tuple[str, ...],
    ids: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Create a store from a subset of another one.

    Shards that are selected completely are copied byte for byte. The same command resumes an interrupted subset.
    """
    from mmearth_data import read_ids
    from mmearth_data import subset as make_subset

    if options["share"] is None:
        refuse_unused("without --share", "seed")

    part = {
        "split": split or None,
        "biome": [int(name) if name.isdigit() else name for name in biome] or None,
        "ids": None if ids is None else read_ids(ids),
    }
    if part["ids"] == []:
        raise InputError(
            f"--ids: expected tile ids separated by commas, or a file of them, got {ids!r}; give at least one."
        )
    with _progress(f"Making {out}") as report:
        made = make_subset(store, out, report=report, note=_say, **part, **options)
    _tell_store(made, as_json=as_json)


@cli.command(resumes=lambda given: True)
@click.argument("stores", type=STORE, nargs=-1, required=True)
@option(
    "--drop-clashes",
    WHAT,
    "Skip tiles that an earlier store has, or whose area is in another split there.",
    is_flag=True,
)
@NEW_STORE
@JSON
def merge(stores: tuple[Path, ...], out: Path, drop_clashes: bool, as_json: bool) -> None:
    """Merge several stores into one.

    All must have the same tile size and modalities. Full shards are copied byte for byte. The same command resumes an
    interrupted merge.
    """
    from mmearth_data import merge as merge_stores

    with _progress(f"Making {out}") as report:
        made = merge_stores(stores, out, drop_clashes=drop_clashes, report=report, note=_say)
    _tell_store(made, as_json=as_json)


# ---------------------------------------------------------------- testing without the service


@cli.command(serves=True)
@option("--port N", WHAT, "Port on 127.0.0.1.", Number(int, Interval(ge=0, le=65535)), default=0, shown="a free one")
@field_option(BuildFields, "seed", group=WHAT, text="Seed of the synthetic planet.", default=0)
@option("--cheap-pixels", WHAT, "Return meaningless pixels, for load tests.", is_flag=True)
@option(
    "--fault KIND:RATE",
    LIMITS,
    "429, 503, 400, 401, hang, truncate, reset or restricted, and its share of requests (429:0.2).",
    name="faults",
    multiple=True,
)
@option(
    "--latency-ms MS",
    LIMITS,
    "Wait before each computed response.",
    Number(float, Interval(ge=0)),
    default=0.0,
    shown="0",
)
@option("--max-in-flight N", LIMITS, "Return 429 above this many requests in flight.", REQUESTS, shown="no limit")
@option("--max-per-second N", LIMITS, "Return 429 above this many requests per second.", REQUESTS, shown="no limit")
def emulate(faults: tuple[str, ...], **options: Any) -> None:
    """Serve Earth Engine's interface over a synthetic planet.

    Prints a local URL to which any script that uses the Earth Engine client can connect:

    \b
      from google.auth.credentials import AnonymousCredentials
      ee.Initialize(AnonymousCredentials(), project="emulator", url=URL)

    GET /emulator/ledger reports the requests. Press Ctrl-C to stop.
    """
    from mmearth_data import Emulator, EmulatorOptions, parse_fault

    emulator = Emulator(EmulatorOptions(faults=tuple(map(parse_fault, faults)), **options))
    click.echo(emulator.url)
    emulator.serve()


# ---------------------------------------------------------------- inspecting


@cli.command()
@click.argument("store", type=STORE, required=False)
@option(
    "--tile ID|INDEX",
    WHAT,
    "Tile to draw: its id (16 hex digits, or the number), or its position from 0 (-1 is the last).",
    shown="the first",
)
@option("--figure PICTURE", OUTPUT, "Draw all modalities of a tile: .png, .pdf or .svg.", PICTURE)
@option("--map PICTURE", OUTPUT, "Draw a map of the tiles: .png, .pdf or .svg.", PICTURE, name="map_file")
@option(
    "--colour WHAT",
    OUTPUT,
    "With --map: property that colours the points; label means the first label whose classes have colours.",
    click.Choice(["split", "year", "level", "biome", "label"]),
    default="label",
)
@option("--html HTML", OUTPUT, "Write an interactive report, which needs no network.", HTML, name="page")
@JSON
def inspect(
    store: Path | None,
    tile: str | None,
    figure: Path | None,
    map_file: Path | None,
    page: Path | None,
    colour: Literal["split", "year", "level", "biome", "label"],
    as_json: bool,
) -> None:
    """Show the contents of a store.

    STORE defaults to the store in the current folder.
    """
    from rich.console import Console

    from mmearth_data import map_figure, open_store, render_summary, require_bokeh, store_report, summarise, tile_figure

    if figure is None:
        refuse_unused("without --figure", "tile", remedy="give --figure PICTURE, the picture to draw")
    if map_file is None:
        refuse_unused("without --map", "colour", remedy="give --map PICTURE, the map to draw")
    _check_picture("--figure", figure)
    _check_picture("--map", map_file)
    if page is not None:
        check_output(page, option="--html")
        require_bokeh()
    opened = open_store(store or _only_store())
    summary = summarise(opened)
    if as_json:
        click.echo(json.dumps(summary.to_dict(), indent=2))
    elif figure is None and map_file is None and page is None:
        Console().print(render_summary(summary), crop=False)
    if figure is not None:
        tile_figure(opened, _tile(tile), figure)
        _say(f"Drew {figure}{_others(opened, _tile(tile))}")
    if map_file is not None:
        map_figure(opened, map_file, colour=colour)
        _say(f"Drew {map_file}")
    if page is not None:
        size = store_report(opened, page)
        _say(f"Wrote {page} ({size / 1e6:.1f} MB)")


@cli.command()
@click.argument("store", type=STORE, required=False)
@option("--out FOLDER", OUTPUT, "Folder to write into.", STORE, shown="STORE; for a bucket, NAME-cards")
@option("--force", OUTPUT, "Replace existing cards that differ, such as edited ones.", is_flag=True)
def describe(store: Path | None, out: Path | None, force: bool) -> None:
    """Write a dataset card, Croissant and STAC metadata.

    The files README.md, croissant.json and collection.json are made from the metadata and tables of the store; no pixels
    are read. They are not part of the store: its digest and `verify` ignore them. STORE defaults to the store in the
    current folder.
    """
    from mmearth_data import describe as describe_store
    from mmearth_data import meter

    path = store or _only_store()
    with meter(f"Describing {short_path(path)}", "tiles"):
        folder = describe_store(path, out, force=force)
    click.echo(str(short_path(folder)))


@cli.command(serves=True)
@click.argument("store", type=STORE, required=False)
@option("--port N", WHAT, "Port on 127.0.0.1.", Number(int, Interval(ge=0, le=65535)), default=0, shown="a free one")
@option(
    "--embeddings FILE",
    SOURCE,
    "File written by `mmearth-train embed`, for nearest neighbours.",
    FILE,
    shown="next to STORE",
)
@option(
    "--open/--no-open", OUTPUT, "Open the page in the browser.", name="open_page", default=None, shown="on a terminal"
)
def browse(store: Path | None, port: int, embeddings: Path | None, open_page: bool | None) -> None:
    """Browse the tiles of a store in a web browser.

    Prints the URL of a page with a map, filters, histograms, and all modalities of a selected tile. The URL works on
    this machine only and contains a random token; the server refuses requests without it. STORE defaults to the store
    in the current folder. Press Ctrl-C to stop.
    """
    from mmearth_data import open_store, require_bokeh

    require_bokeh()
    from mmearth_data import Browser

    browser = Browser(open_store(store or _only_store()), port=port, embeddings=embeddings)
    for note in browser.notes:
        click.echo(note, err=True)
    click.echo(browser.url)
    if sys.stdout.isatty() if open_page is None else open_page:
        browser.open_page()
    browser.serve()


@cli.command(resumes=lambda given: given["mend"], first=("mend", "source"))
@click.argument("store", type=STORE, required=False)
@option("--repair", WHAT, "Rebuild damaged shards from the recipe in the store.", name="mend", is_flag=True)
@option(
    "--source SOURCE", SOURCE, "With --repair: rasters:FILE.yaml or chips:FILE.yaml, if the store was built from files."
)
@option("--ecoregions FILE", SOURCE, BUILT_WITH, FILE)
@option("--tiles-file FILE", SOURCE, BUILT_WITH, FILE)
@option("--polygons FILE", SOURCE, BUILT_WITH, FILE)
@option("--labels-file FILE.yaml", SOURCE, BUILT_WITH, FILE)
@option(
    "--catalog DIR",
    SOURCE,
    "With --repair: the additional catalog that the store was built with.",
    FILE,
    name="catalog_dir",
)
@field_options(SourceFields, without=("source", "latency_s", "eecu_per_tile"))
@JSON
def verify(store: Path | None, mend: bool, catalog_dir: Path | None, as_json: bool, **inputs: Any) -> None:
    """Check every file of a store.

    Files are checked against the store's own records. The exit code is 1 if damage was found and not repaired. With
    --repair, the Earth Engine options specify the connection; the recipe in the store specifies what is read.
    """
    from mmearth_data import repair as repair_store
    from mmearth_data import verify as verify_store

    if not mend:
        refuse_unused("without --repair", "catalog_dir", *inputs)
    path = store or _only_store()
    if mend:
        with _progress(f"Repairing {path}") as progress:
            report = repair_store(path, report=progress, catalog=_catalog(catalog_dir), **inputs)
    else:
        from mmearth_data import meter

        with meter(f"Verifying {short_path(path)}", "tiles") as show:
            report = verify_store(path, report=show)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(report), indent=2))
    else:
        for problem in report.problems:
            click.echo(f"{problem.part}: {problem.problem}")
        state = "sound" if report.finished else "sound, not finished"
        verdict = f"{len(report.problems)} problems" if report.problems else state
        click.echo(f"{path}: {verdict} ({report.checked_files} files, {report.checked_bytes / 2**20:.1f} MiB checked)")
        if report.encoders:
            click.echo(
                "encoded with " + "; ".join(f"{name} ({count} shards)" for name, count in report.encoders.items())
            )
    if report.problems:
        click.get_current_context().exit(StoreDamaged.exit_code)


@cli.command()
@click.argument("name", required=False)
@CATALOG
@JSON
def catalog(name: str | None, catalog_dir: Path | None, as_json: bool) -> None:
    """List the modalities, or describe one of them."""
    from mmearth_data import describe_modality, load_catalog, render_catalog, render_modality

    entries = load_catalog(catalog_dir)
    if name is None:
        modalities = tuple(entries.modalities.values())
        rows = [describe_modality(modality) for modality in modalities]
        _show(rows, lambda: render_catalog(modalities), as_json=as_json)
        return
    (modality,) = entries.select([name])
    _show(describe_modality(modality), lambda: render_modality(modality), as_json=as_json)


@cli.command()
@click.argument("name", required=False)
@JSON
def recipes(name: str | None, as_json: bool) -> None:
    """List the build recipes, or print one of them.

    NAME is a recipe or a YAML file; the output can be saved as a file for --recipe.
    """
    from mmearth_data import NamedValues, RecipeFolder

    folder = RecipeFolder("build")
    if name is not None:
        refuse_unused("with NAME, which prints the file", "as_json")
        click.echo(folder.text(name), nl=False)
        return
    described = folder.descriptions()
    _show(described, lambda: NamedValues(list(described.items())), as_json=as_json)


# ---------------------------------------------------------------- shared pieces


def _tell_store(store: Store, *, as_json: bool) -> None:
    if as_json:
        counts = {"tiles": len(store), **({} if store.overlap_px is None else {"cells": store.layout.tiles})}
        click.echo(json.dumps({"store": str(store.path), **counts, "synthetic": store.synthetic}))
        return
    synthetic = "synthetic " if store.synthetic else ""
    path = short_path(store.path)
    cells = f" of {store.layout.tiles} cells" if store.overlap_px is not None else ""
    click.echo(f"{path}: {len(store)} {synthetic}tiles{cells}. Inspect it: mmearth-data inspect {shell_path(path)}")
    if cells and len(store) < store.layout.tiles:
        click.echo(f"{store.layout.tiles - len(store)} cells are empty; rejected.parquet lists the reasons.")


def _require_tiles(store: Store) -> None:
    """End with exit code 1 if no tile was delivered: such a store is finished but empty.

    Raises
    ------
    MMEarthError
        With the reasons why the candidates were rejected.
    """
    from mmearth_data import summarise

    if len(store) == 0:
        rejected = summarise(store).rejected or {}
        reasons = ", ".join(f"{count} {reason}" for reason, count in rejected.items())
        remedy = (
            "Choose locations that the files cover (--region, --tiles-file)"
            if rejected.keys() == {"not_in_source"}
            else "Relax --cloud, use other --years (--date-range with --cover, --days with --date-column) or --levels, or check --asset"
        )
        raise MMEarthError(
            f"{short_path(store.path)}: no tile was delivered, all candidates were rejected ({reasons}); rejected.parquet lists them. "
            f"{remedy}, and build into another --out."
        )


def _say(text: str) -> None:
    """Write a note to stderr, unless ``--quiet``: not by click, which would write it into a live progress line."""
    if not is_quiet():
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def _recipe(base: str | None, options: dict[str, Any]) -> BuildRecipe:
    from mmearth_data import make_recipe

    return make_recipe(base, {field: value for field, value in options.items() if value not in (None, ())})


def _catalog(folder: Path | None) -> Catalog:
    from mmearth_data import load_catalog

    return load_catalog(folder)


def _only_store() -> Path:
    """Find the store: the current folder, if it is one, or else the only store in it."""
    if _is_group(Path("zarr.json")):
        return Path()
    found = sorted(path.parent for path in Path().glob("*/zarr.json") if is_data(path) and _is_group(path))
    if len(found) != 1:
        names = ", ".join(str(path) for path in found) or "none"
        raise InputError(f"Expected one store in the current folder, got {names}; name one of them as STORE.")
    return found[0]


def _is_group(file: Path) -> bool:
    """Whether a ``zarr.json`` describes a group, as that of every store does, or is broken."""
    try:
        return bool(json.loads(file.read_bytes())["node_type"] == "group")
    except (ValueError, LookupError, TypeError):
        return True
    except OSError:
        return False


def _others(store: Store, tile: int | str) -> str:
    """Note on other tiles with the same id, with their dates and positions; empty if there are none."""
    same = store.select(ids=tile) if isinstance(tile, str) else store[[]]
    if len(same) < 2:
        return ""
    rows, days = store.rows.tolist(), same.coords["time"].astype("datetime64[D]").astype(str)
    tiles = ", ".join(f"{rows.index(row)} ({day})" for row, day in zip(same.rows.tolist(), days, strict=True))
    return f" of the first of {len(same)} tiles with this id; for another one, give --tile its position: {tiles}"


def _tile(text: str | None) -> int | str:
    if text is None:
        return 0
    return int(text) if re.fullmatch("-?[0-9]{1,15}", text) else text


def _check_picture(option: str, path: Path | None) -> None:
    if path is not None:
        check_output(path, option=option)


def _slug(text: str) -> str:
    kept = "".join(c if c.isalnum() else "-" for c in Path(text).stem.lower())
    return "-".join(filter(None, kept.split("-"))) or "store"


def _show(rows: object, renderable: Callable[[], RenderableType], *, as_json: bool) -> None:
    from rich.console import Console

    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        Console().print(renderable(), crop=False)


@contextmanager
def _progress(title: str, first: str = "reading") -> Iterator[Callable[[Progress], None]]:
    """Progress of tiles on stderr; ``first`` is what the command does before the first tile."""
    from mmearth_data import meter

    with meter(title, "tiles", first) as show:

        def report(progress: Progress) -> None:
            refused = f"{progress.rejected:,} rejected" if progress.rejected else ""
            show(progress.rows_done + progress.reading, progress.rows_total, refused)

        yield report
