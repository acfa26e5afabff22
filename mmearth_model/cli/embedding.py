"""The command `embed`: one vector per tile, or per position in a scene or store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from annotated_types import Interval

from mmearth_data import FilePath, Number, check_apart, check_output, option, refuse_unused, short_path
from mmearth_model.cli.opening import open_weights, store_at
from mmearth_model.cli.options import (
    ANY_RESOLUTION,
    BANDS,
    CACHE,
    DEVICE,
    FILE,
    FILL_MISSING,
    FOLDER,
    LEVEL,
    MODEL,
    OF_SCENES,
    OFFSET,
    OUTPUT,
    PADDING,
    PICTURE,
    SCHEDULER,
    THREADS,
    WHAT,
    WORKERS,
    command,
)
from mmearth_model.cli.output import mapping_shown
from mmearth_model.threads import use_threads

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmearth_model.network.encoder import Padding

OF_TILES = ("task", "neighbours", "figure", "map_path", "cache")
OF_DENSE = (*OF_SCENES, "stride", "overlap", "blend", "kind", "workers", "scheduler")
"""Options of `embed` that belong to embeddings of tiles, and to dense ones."""


@command(
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
    loaded = open_weights(checkpoint, padding)
    store = store_at(source) if task is None else None
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
            open_weights(checkpoint, padding),
            sources if scene else store_at(sources[0]),
            outs[0],
            given=given,
            windows=WindowOptions(stride_px=stride, overlap_px=overlap, blend=blend),
            kind=kind,
            inside=None if query is None else parse_place(query),
            workers=workers or default_workers(device),
            scheduler=scheduler,
            threads=threads,
            device=device,
            report=mapping_shown(show, outs[0], "positions"),
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
