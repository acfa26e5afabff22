"""The command `predict`: a map of a scene or store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from annotated_types import Interval

from mmearth_data import FilePath, InputError, Number, check_apart, option, refuse_unused, short_path
from mmearth_model.cli.opening import fetched, store_at
from mmearth_model.cli.options import (
    ANY_RESOLUTION,
    BANDS,
    DEVICE,
    FILE,
    FILL_MISSING,
    FOLDER,
    HARDWARE,
    JSON,
    LEVEL,
    MODEL,
    OF_SCENES,
    OFFSET,
    OUTPUT,
    SCHEDULER,
    WHAT,
    WORKERS,
    command,
)
from mmearth_model.cli.output import mapping_shown, print_rich
from mmearth_model.threads import use_threads

if TYPE_CHECKING:
    from mmearth_model import Network
    from mmearth_model.maps.products import Products


@command(resumes=lambda given: True, first=("bands", "level", "offset", "scores", "workers", "out"))
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
    each. Bands are identified by --bands, by the band descriptions in the files, or by the names of single-band files
    (T32UQD_20210606T102021_B02_10m.jp2). An interrupted command resumes when it is run again.
    """
    of_store = len(inputs) == 1 and ("://" in str(inputs[0]) or Path(inputs[0]).is_dir())
    use_threads(threads if of_store and mosaic is None else threads or 1)
    from mmearth_model import load_network
    from mmearth_model.maps.drawing import validation_files
    from mmearth_model.maps.products import Products

    if draw is None:
        refuse_unused("without --draw-validation", "seed")
    products = Products(vector=vector, report=area_report, validation=validation, draw=draw or 0, seed=seed)
    loaded = fetched(network, load_network)
    if mosaic is not None and not of_store:
        listed = ", ".join(map(str, inputs))
        raise click.UsageError(f"--mosaic: expected a store, got {listed}; correct its path, or use --out for a scene.")
    target = mosaic if mosaic is not None else out
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
    if of_store:
        written = _predict_store(loaded, inputs, target, device, options, mosaic is not None)
    else:
        written = _predict_scene(loaded, inputs, target, device, options, products)
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
            print_rich(made.areas)
    if made.refusal() is not None:
        raise InputError(f"--validation: intervals could not be computed: {made.refusal()}.")


def _predict_scene(
    network: Network,
    inputs: tuple[str | Path, ...],
    out: Path,
    device: str,
    options: dict[str, Any],
    products: Products,
) -> list[Path]:
    """Map a scene; return the files."""
    from mmearth_data import meter
    from mmearth_model import SceneOptions, WindowOptions, predict_scene

    tiling = WindowOptions(stride_px=options["stride"], overlap_px=options["overlap"], blend=options["blend"])
    with meter(f"Predicting {short_path(out)}", "px") as show:
        written = predict_scene(
            network,
            inputs,
            out,
            given=SceneOptions(**{name: options[name] for name in OF_SCENES}),
            tiling=tiling,
            scores=options["scores"],
            device=device,
            check=lambda grid: products.check_grid(grid, Path(inputs[0])),
            report=mapping_shown(show, out),
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

    refuse_unused("for a store, whose tiles are the windows", *OF_SCENES, "stride", "overlap", "blend")
    store = store_at(inputs[0])
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
                    report=mapping_shown(show, out),
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
