"""The command ``mmearth-data``: parse, call the front door, print the result."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from mmearth_data import (
    CommandGroup,
    FilePath,
    Finite,
    InputError,
    MMEarthError,
    StoreDamaged,
    __version__,
    check_output,
    is_data,
    refuse_unused,
    short_path,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mmearth_data import BuildRecipe, Catalog, Progress, Store

Command = TypeVar("Command", bound=Callable[..., Any])
FILE = FilePath()


class _StoreType(click.ParamType["str | Path"]):
    """Folder of a store, or its URL (kept as text: `Path` would drop one of its slashes)."""

    name = "store"

    def convert(self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None) -> str | Path:
        return value if "://" in str(value) else FILE.convert(value, param, ctx)


STORE = _StoreType()
MAX_WORKERS = 1024
"""Most worker processes accepted for one machine."""
MAX_REQUESTS = 10**6
"""Upper bound on requests in flight and on requests per second; no single machine answers more."""
MAX_TILES = 10**10
"""Upper bound on the number of tiles: more would not fit on the land, even at 16 px."""


@click.group(cls=CommandGroup)
@click.version_option(__version__, prog_name="mmearth-data")
def cli() -> None:
    """Build, inspect and check multi-modal Earth-observation stores.

    \b
    A first store, without an account:
      mmearth-data build --source synthetic --tiles 64 --tile-size 64 --out planet.zarr
      mmearth-data inspect planet.zarr --figure tile.png --map map.png
    """


# ---------------------------------------------------------------- building


def sampling_options(command: Command) -> Command:
    """Options that decide where the tiles are; `build` and `sample` share them."""
    options = [
        click.option("--source", metavar="SOURCE", help="earthengine, synthetic, or rasters:FILE.yaml.  [default: earthengine]"),
        click.option("--region", metavar="REGION", help="global, a country, continent or ISO code, bbox:W,S,E,N, or a vector file.  [default: global]"),
        click.option("--mainland", is_flag=True, default=None, help="Keep only the largest part of the region."),
        click.option("--tiles", type=int, metavar="N", help="Number of tiles.  [default: 1000]"),
        click.option("--tile-size", type=int, metavar="PX", help="Pixels per side, 10 m each.  [default: 128]"),
        click.option("--seed", type=int, metavar="N", help="Seed of locations, splits and random choices.  [default: 0]"),
        click.option("--ecoregions", type=FILE, metavar="FILE", help="Vector file of ecoregions (RESOLVE 2017 columns)."),
        click.option("--tiles-file", type=FILE, metavar="FILE", help="Take the locations from a sample, GeoJSON, CSV or GeoParquet file; for rasters, the sites or tiles of a table and their splits (columns site or tile_id, and split)."),
        click.option("--balance", type=click.Choice(["biome", "biome-ecoregion", "ecoregion", "area"]), help="How tiles are distributed over the land.  [default: biome]"),
        click.option("--oversample", type=float, metavar="F", help="Locations sampled per tile, so that rejected ones can be replaced.  [default: 1.3]"),
        click.option("--split", type=click.Choice(["block", "random"]), help="Split by spatial blocks or at random.  [default: block; random for rasters]"),
        click.option("--split-shares", metavar="T,V,T", help="Train, val and test in per cent.  [default: 90,5,5]"),
        click.option("--split-guard", "split_guard_m", type=float, metavar="M", help="Metres between a tile and the cells of another split.  [default: 2000]"),
        click.option("--min-distance", "min_distance_m", type=float, metavar="M", help="Metres between tile centres.  [default: 0]"),
        click.option("--recipe", metavar="NAME|FILE", help="Start from a recipe in pipelines/build or a YAML file."),
        click.option("--threads", type=int, metavar="N", help="Number of threads; does not change the result.  [default: 2]"),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def service_options(command: Command) -> Command:
    """Options that decide how Earth Engine is reached."""
    options = [
        click.option("--ee-project", metavar="ID", help="Cloud project registered for Earth Engine.  [default: $EARTHENGINE_PROJECT or $GOOGLE_CLOUD_PROJECT]"),
        click.option("--service-account", type=FILE, metavar="KEY.json", help="Sign in with the key file of a service account."),
        click.option("--ee-endpoint", type=click.Choice(["high-volume", "standard"]), help="Endpoint of the service.  [default: high-volume]"),
        click.option("--ee-url", metavar="URL", help="Another server with the same protocol, such as `mmearth-data emulate`."),
        click.option("--in-flight", type=int, metavar="N", help="Earth Engine requests in flight.  [default: 40]"),
        click.option("--per-second", type=float, metavar="N", help="Earth Engine requests per second.  [default: 100]"),
        click.option("--restricted-in-flight", type=int, metavar="N", help="Requests in flight in restricted mode.  [default: 1]"),
        click.option("--request-timeout", "request_timeout_s", type=float, metavar="S", help="Deadline of one request.  [default: 330]"),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@cli.command(resumes=lambda given: not given["dry_run"] and given["profiled"] is None)
@sampling_options
@service_options
@click.option("--latency", "latency_s", type=float, metavar="S", help="Seconds per request, for --dry-run.")
@click.option("--eecu-per-tile", type=float, metavar="S", help="EECU-seconds per tile, for --dry-run.")
@click.option(
    "--out",
    type=STORE,
    metavar="STORE",
    help="Folder of the store, or s3://, gs://, az:// URL.  [default: mmearth-REGION.zarr]",
)
@click.option("--modalities", metavar="A,B,...", help="Modalities to store.  [default: all of the catalog]")
@click.option(
    "--level", type=click.Choice(["L1C", "L2A"]), help="Sentinel-2 level to use if a raster mapping has both."
)
@click.option("--years", metavar="Y,Y,...", help="Years of the scenes.  [default: 2017,2018,2019,2020]")
@click.option("--levels", metavar="L,L", help="Sentinel-2 levels to choose from.  [default: L2A,L1C]")
@click.option(
    "--cloud", "cloud_percent", type=float, metavar="PCT", help="Use only scenes with fewer clouds.  [default: 10]"
)
@click.option("--tiles-per-shard", type=int, metavar="N", help="Rows per shard.")
@click.option("--catalog", "catalog_dir", type=FILE, metavar="DIR", help="Add modalities from a folder of YAML files.")
@click.option(
    "--asset",
    "assets",
    multiple=True,
    metavar="MODALITY=ID",
    help="Read a modality from another Earth Engine asset; use MODALITY.KEY=ID if it has several. Repeatable.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, MAX_WORKERS),
    metavar="N",
    help="Distribute the shards over N processes on this machine.",
)
@click.option(
    "--scheduler", metavar="URL", help="Send the shards to a running Dask scheduler, such as tcp://HOST:8786."
)
@click.option(
    "--append",
    type=click.IntRange(1, MAX_TILES),
    metavar="N",
    help="Add N tiles to the finished store of the same recipe.",
)
@click.option(
    "--dry-run", is_flag=True, help="Print the plan and its price (requests, hours, bytes, compute) and stop."
)
@click.option(
    "--profile",
    "profiled",
    type=click.IntRange(1, MAX_TILES),
    metavar="K",
    help="Measure K tiles, print what the whole recipe needs, and stop.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
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
    """Build a store, or continue an interrupted build.

    Running the same command again continues where it stopped; a finished store is left as it is. With --append N
    it grows by N more locations of the same recipe, in areas without a tile; existing tiles are not touched.
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
    with _progress(f"Building {target}") as report:
        store = build_store(
            chosen,
            target,
            catalog=catalog,
            report=report,
            workers=workers,
            scheduler=scheduler,
            note=lambda text: click.echo(text, err=True),
            append=append,
        )
    _tell_store(store, as_json=as_json)
    _require_tiles(store)


def _check_build_form(*, dry_run: bool, profiled: bool) -> None:
    """Refuse options that a plan, a measurement or a build does not use."""
    if dry_run:
        refuse_unused("with --dry-run", "profiled", "workers", "scheduler")
    elif profiled:
        refuse_unused("with --profile", "out", "append", "workers", "scheduler", "latency_s", "eecu_per_tile")
    else:
        refuse_unused("without --dry-run", "latency_s", "eecu_per_tile")


@cli.command()
@sampling_options
@service_options
@click.option("--out", type=FILE, required=True, metavar="FILE", help="GeoParquet file to write.")
@click.option("--map", "map_file", type=FILE, metavar="PNG", help="Map of the locations to write.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def sample(recipe: str | None, out: Path, map_file: Path | None, as_json: bool, **options: Any) -> None:
    """Choose locations for tiles.

    Nothing is built; `build --tiles-file` takes the file.
    """
    from mmearth_data import draw_sample, sample_map, write_sample

    chosen = _recipe(recipe, options)
    check_output(out)
    _check_picture("--map", map_file)
    drawn = draw_sample(chosen)
    write_sample(drawn, out)
    if map_file is not None:
        # Without ecoregions of the user's own, biomes are those of the synthetic planet.
        made_up = chosen.source_name == "synthetic" and chosen.ecoregions is None
        sample_map(drawn.frame, map_file, synthetic=made_up)
    click.echo(json.dumps(drawn.report.to_dict(), indent=2) if as_json else "\n".join(drawn.report.lines()))


# ---------------------------------------------------------------- bridges


@cli.command("import", resumes=lambda given: True)
@click.argument("folder", type=FILE)
@click.option("--out", type=STORE, required=True, metavar="STORE", help="Folder or URL of the store.")
@click.option("--name", metavar="NAME", help="Data set to read if FOLDER holds several.  [default: the only one]")
@click.option(
    "--skip-duplicates", is_flag=True, help="Leave out tiles with the same location and date as an earlier row."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def import_published(folder: Path, out: Path, name: str | None, skip_duplicates: bool, as_json: bool) -> None:
    """Import MMEarth as published into a store.

    FOLDER holds NAME.h5, NAME_band_stats.json, NAME_splits.json and NAME_tile_info.json. The same command
    resumes an interrupted import.
    """
    from mmearth_data import import_hdf5

    with _progress(f"Importing {folder}") as report:
        store = import_hdf5(folder, out, name=name, skip_duplicates=skip_duplicates, report=report, note=_say)
    _tell_store(store, as_json=as_json)


@cli.command(resumes=lambda given: True)
@click.argument("store", type=STORE)
@click.option(
    "--format",
    "form",
    type=click.Choice(["mmearth-h5", "geotiff"]),
    required=True,
    help="MMEarth as published, or one cloud-optimised GeoTIFF per tile and modality.",
)
@click.option("--out", type=FILE, required=True, metavar="FOLDER", help="Folder to write into.")
@click.option(
    "--name",
    metavar="NAME",
    help="With mmearth-h5: data_1M_v001, data_1M_v001_64 or data_100k_v001.  [default: by tile size]",
)
@click.option("--fill", "fills", multiple=True, metavar="MODALITY=mean", help="With mmearth-h5: write missing values as the mean of the train split. Repeatable.")  # fmt: skip
def export(
    store: Path, form: Literal["mmearth-h5", "geotiff"], out: Path, name: str | None, fills: tuple[str, ...]
) -> None:
    """Write a store in another format.

    The same command resumes an interrupted export. A running mmearth-h5 export needs twice its final size on disk.
    """
    from mmearth_data import export as export_store

    with _progress(f"Exporting {store}") as report:
        folder = export_store(store, out, form=form, name=name, fill=_fills(fills), report=report, note=_say)
    click.echo(str(folder))


def _fills(texts: tuple[str, ...]) -> dict[str, str]:
    """Modality -> fill word of each ``MODALITY=WORD``."""
    found: dict[str, str] = {}
    for text in texts:
        modality, equals, word = text.partition("=")
        if not (modality and equals and word) or found.setdefault(modality, word) != word:
            raise InputError(f"--fill: expected MODALITY=mean, once per modality, got {text!r}.")
    return found


@cli.command(resumes=lambda given: True)
@click.argument("store", type=STORE)
@click.option("--out", type=STORE, required=True, metavar="NEW", help="Folder or URL of the new store.")
@click.option("--region", metavar="REGION", help="A country, continent or ISO code, bbox:W,S,E,N, or a vector file.")
@click.option("--split", type=click.Choice(["train", "val", "test"]), multiple=True, help="Repeatable.")
@click.option("--biome", metavar="NAME|CODE", multiple=True, help="Repeatable.")
@click.option("--modalities", metavar="A,B,...", help="Modalities to keep.  [default: all]")
@click.option("--share", type=Finite(), metavar="F", help="Random share of what the other options leave, such as 0.1.")
@click.option(
    "--seed", type=click.IntRange(0, 2**64 - 1), default=0, metavar="N", help="Seed of the random share.  [default: 0]"
)
@click.option("--ids", metavar="A,B,...|FILE", help="Tile ids, or published ids; a file holds one per line.")
@click.option("--crop", type=int, metavar="PX", help="Crop each tile to its centre.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def subset(
    store: Path,
    out: Path,
    split: tuple[str, ...],
    biome: tuple[str, ...],
    modalities: str | None,
    ids: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Make a store from part of another one.

    Shards that are taken as a whole are copied byte for byte. The same command resumes an interrupted subset.
    """
    from mmearth_data import read_ids
    from mmearth_data import subset as make_subset

    if options["share"] is None:
        refuse_unused("without --share", "seed")

    part = {
        "split": split or None,
        "biome": [int(name) if name.isdigit() else name for name in biome] or None,
        "modalities": None if modalities is None else _names("--modalities", modalities),
        "ids": None if ids is None else read_ids(ids),
    }
    if part["ids"] == []:
        raise InputError(f"--ids: expected tile ids separated by commas, or a file of them, got {ids!r}; give one.")
    with _progress(f"Making {out}") as report:
        made = make_subset(store, out, report=report, note=_say, **part, **options)
    _tell_store(made, as_json=as_json)


@cli.command(resumes=lambda given: True)
@click.argument("stores", type=STORE, nargs=-1, required=True)
@click.option("--out", type=STORE, required=True, metavar="NEW", help="Folder or URL of the new store.")
@click.option(
    "--drop-clashes",
    is_flag=True,
    help="Leave out tiles that an earlier store has, or whose area it has in another split.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
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


@cli.command()
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, metavar="N", help="Port on 127.0.0.1.  [default: a free one]"
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**64 - 1),
    default=0,
    metavar="N",
    help="Seed of the synthetic planet.  [default: 0]",
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="KIND:RATE",
    help="429, 503, 400, 401, hang, truncate, reset or restricted, and its share of requests (429:0.2). Repeatable.",
)
@click.option(
    "--latency-ms",
    type=Finite(min=0),
    default=0.0,
    metavar="MS",
    help="Wait before each computed answer.  [default: 0]",
)
@click.option(
    "--max-in-flight",
    type=click.IntRange(1, MAX_REQUESTS),
    metavar="N",
    help="Answer 429 above this many requests in flight.  [default: no limit]",
)
@click.option(
    "--max-per-second",
    type=click.IntRange(1, MAX_REQUESTS),
    metavar="N",
    help="Answer 429 above this many requests per second.  [default: no limit]",
)
@click.option("--cheap-pixels", is_flag=True, help="Return meaningless pixels, for load tests.")
def emulate(faults: tuple[str, ...], **options: Any) -> None:
    """Serve Earth Engine's REST interface on loopback, over a synthetic planet.

    \b
    Prints its URL, which any script that uses the Earth Engine client can connect to:
      ee.Initialize(google.auth.credentials.AnonymousCredentials(), project="emulator", url=URL)
    GET /emulator/ledger reports the requests. Press Ctrl-C to stop.
    """
    from mmearth_data import Emulator, EmulatorOptions, parse_fault

    emulator = Emulator(EmulatorOptions(faults=tuple(map(parse_fault, faults)), **options))
    click.echo(emulator.url)
    emulator.serve()


# ---------------------------------------------------------------- looking


@cli.command()
@click.argument("store", type=STORE, required=False)
@click.option("--tile", metavar="ID|INDEX", help="Tile to draw, by id or position.  [default: the first]")
@click.option("--figure", type=FILE, metavar="PNG", help="Draw all modalities of a tile.")
@click.option("--map", "map_file", type=FILE, metavar="PNG", help="Draw a map of the tiles.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def inspect(store: Path | None, tile: str | None, figure: Path | None, map_file: Path | None, as_json: bool) -> None:
    """Show the contents of a store.

    STORE defaults to the store in the current folder.
    """
    from rich.console import Console

    from mmearth_data import map_figure, open_store, render_summary, summarise, tile_figure

    if figure is None:
        refuse_unused("without --figure", "tile", remedy="give --figure PNG, the picture to draw")
    _check_picture("--figure", figure)
    _check_picture("--map", map_file)
    opened = open_store(store or _only_store())
    summary = summarise(opened)
    if as_json:
        click.echo(json.dumps(summary.to_dict(), indent=2))
    elif figure is None and map_file is None:
        Console().print(render_summary(summary))
    if figure is not None:
        tile_figure(opened, _tile(tile), figure)
        click.echo(f"Drew {figure}", err=True)
    if map_file is not None:
        map_figure(opened, map_file)
        click.echo(f"Drew {map_file}", err=True)


@cli.command(resumes=lambda given: given["mend"])
@click.argument("store", type=STORE, required=False)
@click.option("--repair", "mend", is_flag=True, help="Rebuild what is damaged, from the recipe in the store.")
@click.option("--source", metavar="SOURCE", help="With --repair: rasters:FILE.yaml, if the store was built from files.")
@click.option("--ecoregions", type=FILE, metavar="FILE", help="With --repair: the file that the store was built with.")
@click.option("--tiles-file", type=FILE, metavar="FILE", help="With --repair: the file that the store was built with.")
@click.option(
    "--catalog",
    "catalog_dir",
    type=FILE,
    metavar="DIR",
    help="With --repair: the additional catalog that the store was built with.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def verify(store: Path | None, mend: bool, catalog_dir: Path | None, as_json: bool, **files: Any) -> None:
    """Check every file of a store.

    Files are checked against the store's own records. The exit code is 1 if damage was found and not repaired.
    """
    from mmearth_data import repair as repair_store
    from mmearth_data import verify as verify_store

    if not mend:
        refuse_unused("without --repair", "source", "ecoregions", "tiles_file", "catalog_dir")
    path = store or _only_store()
    if mend:
        with _progress(f"Repairing {path}") as progress:
            report = repair_store(path, report=progress, catalog=_catalog(catalog_dir), **files)
    else:
        report = verify_store(path)
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
@click.option("--catalog", "catalog_dir", type=FILE, metavar="DIR", help="Add modalities from a folder of YAML files.")
@click.option("--json", "as_json", is_flag=True, help="Print the entries as JSON.")
def catalog(name: str | None, catalog_dir: Path | None, as_json: bool) -> None:
    """List the modalities, or show one of them."""
    from mmearth_data import describe_modality, load_catalog, render_catalog, render_modality

    entries = load_catalog(catalog_dir)
    if name is None:
        modalities = tuple(entries.modalities.values())
        rows = [describe_modality(modality) for modality in modalities]
        _show(rows, lambda: render_catalog(modalities), as_json=as_json)
        return
    (modality,) = entries.select([name])
    _show(describe_modality(modality), lambda: render_modality(modality), as_json=as_json)


# ---------------------------------------------------------------- shared pieces


def _tell_store(store: Store, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"store": str(store.path), "tiles": len(store), "synthetic": store.synthetic}))
        return
    synthetic = "synthetic " if store.synthetic else ""
    path = short_path(store.path)
    click.echo(f"{path}: {len(store)} {synthetic}tiles. See them: mmearth-data inspect {path}")


def _require_tiles(store: Store) -> None:
    """End with exit code 1 if no tile was delivered: such a store is finished but empty.

    Raises
    ------
    MMEarthError
        With the reasons why the candidates were rejected.
    """
    from mmearth_data import summarise

    if len(store) == 0:
        reasons = ", ".join(f"{count} {reason}" for reason, count in (summarise(store).rejected or {}).items())
        raise MMEarthError(
            f"{short_path(store.path)}: no tile was delivered, all candidates were rejected ({reasons}); rejected.parquet says why. "
            "Relax --cloud, use other --years or --levels, or check --asset, and build into another --out."
        )


def _say(text: str) -> None:
    click.echo(text, err=True)


def _recipe(base: str | None, options: dict[str, Any]) -> BuildRecipe:
    from mmearth_data import make_recipe

    given = {key: value for key, value in options.items() if value is not None}
    if "assets" in given:
        given = {**given, "assets": _pairs("--asset", "MODALITY=ID", given["assets"])}
    if not given.get("assets"):
        given.pop("assets", None)
    for key in ("modalities", "levels"):
        if key in given:
            given[key] = _names(f"--{key}", given[key])
    for key, number in (("years", int), ("split_shares", float)):
        if key in given:
            given[key] = _numbers(key, given[key], number)
    return make_recipe(base, given)


def _names(option: str, text: str) -> list[str]:
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        raise InputError(f"{option}: expected names separated by commas, got {text!r}; give one, or leave it out.")
    return names


def _pairs(option: str, form: str, texts: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise InputError(f"{option}: expected {form}, got {text!r}.")
        if name in found:
            raise InputError(f"{option}: expected each name once, got {name} twice; keep one.")
        found[name] = value
    return found


def _numbers(option: str, text: str, number: Callable[[str], Any]) -> list[Any]:
    try:
        return [number(part) for part in text.split(",")]
    except ValueError:
        flag = "--" + option.replace("_", "-")
        raise InputError(f"{flag}: expected numbers separated by commas, got {text!r}.") from None


def _catalog(folder: Path | None) -> Catalog:
    from mmearth_data import load_catalog

    return load_catalog(folder)


def _only_store() -> Path:
    """Find the one store in the current folder."""
    found = sorted(path.parent for path in Path().glob("*/zarr.json") if is_data(path))
    if len(found) != 1:
        names = ", ".join(str(path) for path in found) or "none"
        raise InputError(f"Expected one store in the current folder, got {names}; name the one you mean: STORE.")
    return found[0]


def _tile(text: str | None) -> int | str:
    if text is None:
        return 0
    return int(text) if text.isdigit() and len(text) < 16 else text


def _check_picture(option: str, path: Path | None) -> None:
    if path is None:
        return
    if path.suffix.lower() != ".png":
        raise InputError(
            f"{option}: expected the name of a PNG picture, got {str(path)!r}; write {path.stem or 'picture'}.png."
        )
    check_output(path, option=option)


def _slug(text: str) -> str:
    kept = "".join(c if c.isalnum() else "-" for c in Path(text).stem.lower())
    return "-".join(filter(None, kept.split("-"))) or "store"


def _show(rows: object, renderable: Callable[[], RenderableType], *, as_json: bool) -> None:
    from rich.console import Console

    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        Console().print(renderable())


@contextmanager
def _progress(title: str) -> Iterator[Callable[[Progress], None]]:
    """Progress on stderr: a live bar on a terminal, otherwise one line per tenth of the work."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.0f} tiles/s, {task.fields[rejected]} rejected"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None, rate=0.0, rejected=0)
        printed = -1

        def report(progress: Progress) -> None:
            nonlocal printed
            rate = progress.filled / progress.seconds if progress.seconds else 0.0
            done, total = progress.rows_done, progress.rows_total
            bar.update(task, completed=done, total=total, rate=rate, rejected=progress.rejected)
            tenth = 10 * done // max(1, total)
            if not console.is_terminal and tenth > printed:
                printed = tenth
                click.echo(f"{title}: {done}/{total} tiles, {rate:.0f}/s, {progress.rejected} rejected", err=True)

        yield report
