"""Export a store as cloud-optimised GeoTIFFs, one per tile and modality, with a table of tiles."""

from __future__ import annotations

import json
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

from mmearth_data.catalog.tile import LEVEL_NAMES, NO_TIME, TileGrid, as_datetime64_ms, format_tile_id
from mmearth_data.errors import InputError
from mmearth_data.files.writing import make_folder, remove_partial, staged_file, write_bytes, write_text
from mmearth_data.interchange.entries import unique_names
from mmearth_data.interchange.targets import IDENTITY, check_finished, check_located, collecting
from mmearth_data.store.items import with_files
from mmearth_data.store.schema import SPLIT_NAMES, TILES_KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from mmearth_data.catalog.modality import Modality
    from mmearth_data.store.reader import Store

WRITERS = 4
STAGING = ".partial"
MIN_BLOCK_PX, BLOCK_PX = 128, 256
"""Smallest block size that GDAL's COG driver accepts, and the one for larger images, which have overviews."""


def export_geotiff(
    store: Store,
    out: Path,
    *,
    report: Callable[[int, int], None] = lambda done, total: None,
    note: Callable[[str], None] = lambda text: None,
) -> Path:
    """Export a finished store as GeoTIFFs; see `mmearth_data.export`."""
    check_finished(store)
    check_located(store)
    identity = {"store": store.digest, "format": "geotiff"}
    staging = out / STAGING
    if _is_exported(out, identity):
        return out
    rasters = [m for m in store.modalities.values() if m.stored and m.kind.is_raster]
    if not rasters:
        raise InputError(f"{store.path}: expected a raster modality to export, got none.")
    floating = int(np.isnan(store.coords["ulx"]).sum())
    if floating:
        note(f"{floating} tiles have no corner: their files have neither grid nor coordinate reference system.")
    with collecting(staging, out, identity), _quiet_about_corners():
        for m in rasters:
            remove_partial(make_folder(out / m.name))
        if written := sum(1 for m in rasters for _ in (out / m.name).glob("*.tif")):
            note(f"Resuming {out}: {written} of {len(store.rows) * len(rasters)} files are written.")
        names = _names(store)
        _write_tiles(store, rasters, names, out, report)
        _write_table(store, rasters, names, out / TILES_KEY)
        write_text(out / IDENTITY, json.dumps(identity))
    return out


def _is_exported(out: Path, identity: Mapping[str, Any]) -> bool:
    """Whether this store was exported there before.

    Raises
    ------
    InputError
        If the folder contains something else.
    """
    mark = out / IDENTITY
    if mark.is_file() and json.loads(mark.read_text(encoding="utf-8")) == identity:
        return True
    taken = out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / STAGING).is_dir()))
    if taken:
        raise InputError(f"{out}: expected a new or empty folder, got one with other files; choose another --out.")
    return False


@contextmanager
def _quiet_about_corners() -> Iterator[None]:
    """Silence warnings about tiles without a grid, which `export_geotiff` has already reported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def _names(store: Store) -> dict[int, str]:
    """Row of each tile -> name of its files, without suffix."""
    columns = store.tile_columns
    ids, times = columns["tile_id"][store.rows], columns["time"][store.rows].astype(np.int64)
    return dict(zip(store.rows.tolist(), unique_names(ids.tolist(), times.tolist(), [None] * len(ids)), strict=True))


def _path(m: Modality, name: str) -> str:
    return f"{m.name}/{name}.tif"


def _write_table(store: Store, rasters: Sequence[Modality], names: Mapping[int, str], path: Path) -> None:
    """Write the table of tiles, whose STAC items refer to the files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def of_files(table: pa.Table) -> pa.Table:
        of_rows = [names[row] for row in table.column("row").to_pylist()]
        return with_files(table, {m.name: [f"./{_path(m, name)}" for name in of_rows] for m in rasters})

    stored = pq.ParquetFile(pa.BufferReader(store.content.objects.get(TILES_KEY)))
    schema = of_files(stored.read_row_groups([])).schema
    with staged_file(path) as beside, pq.ParquetWriter(beside, schema, compression="zstd") as writer:
        for group in range(stored.num_row_groups):
            writer.write_table(of_files(stored.read_row_group(group)))


def _write_tiles(
    store: Store,
    rasters: Sequence[Modality],
    names: Mapping[int, str],
    out: Path,
    report: Callable[[int, int], None],
) -> None:
    columns = store.tile_columns
    report(0, len(names))
    with ThreadPoolExecutor(WRITERS) as pool:
        for done, (row, name) in enumerate(names.items(), start=1):
            tile = {key: column[row] for key, column in columns.items()}
            wanted = [m for m in rasters if not (out / _path(m, name)).exists()]

            def write(m: Modality, row: int = row, name: str = name, tile: Mapping[str, Any] = tile) -> None:
                values = store.read(m.name, slice(row, row + 1))[0]
                write_cog(out / _path(m, name), m, values, tile, synthetic=store.synthetic)

            list(pool.map(write, wanted))
            report(done, len(names))


def write_cog(
    path: Path, m: Modality, values: np.ndarray[Any, Any], tile: Mapping[str, Any], *, synthetic: bool
) -> None:
    """Write one raster (band, y, x) of one tile, as stored, as a cloud-optimised GeoTIFF, atomically.

    Band names, no-data, scale, units, classes and licence are those of the modality. ``tile`` has the coordinates of the
    tile; without a corner, the file has no grid. A tag says whether the pixels are synthetic.
    """
    size_px = values.shape[-1]
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "width": size_px,
        "height": size_px,
        "count": len(values),
        "dtype": m.dtype.name,
        "nodata": m.nodata,
    }
    if np.isfinite(tile["ulx"]):
        grid = TileGrid(epsg=int(tile["epsg"]), ulx=float(tile["ulx"]), uly=float(tile["uly"]), size_px=size_px)
        profile |= {"crs": f"EPSG:{grid.epsg}", "transform": rasterio.Affine(*grid.transform)}
    with MemoryFile() as memory:
        with memory.open(**profile) as plain:
            plain.write(values)
            plain.descriptions = m.bands
            plain.scales, plain.offsets = (m.scale,) * len(values), (m.offset,) * len(values)
            plain.units = tuple(m.units_of(band) for band in m.bands)
            plain.update_tags(**_tags(m, tile, synthetic=synthetic))
            colours = _colours(m)
            if colours:
                plain.write_colormap(1, colours)
        with MemoryFile() as finished:
            # GDAL reports a full disk only in its log, or not at all; its file is therefore made in memory.
            rasterio.shutil.copy(
                memory.name,
                finished.name,
                driver="COG",
                compress="DEFLATE",
                predictor="YES",
                blocksize=MIN_BLOCK_PX if size_px <= MIN_BLOCK_PX else BLOCK_PX,
                overview_resampling="AVERAGE" if m.kind.is_continuous else "NEAREST",
            )
            write_bytes(path, finished.read())


def _tags(m: Modality, tile: Mapping[str, Any], *, synthetic: bool) -> dict[str, str]:
    """Facts of a tile and its modality, for readers that have only the file."""
    time = int(np.asarray(tile["time"]).astype(np.int64))
    tags = {
        "tile_id": format_tile_id(int(tile["tile_id"])),
        "modality": m.name,
        "long_name": m.long_name,
        "split": SPLIT_NAMES.get(int(tile["split"]), "none"),
        "licence": m.licence.name,
        "attribution": m.licence.attribution,
        "synthetic": "yes" if synthetic else "no",
    }
    if time != NO_TIME:
        tags["time"] = f"{as_datetime64_ms(time)}Z"
    if int(tile["s2_level"]) in LEVEL_NAMES:
        tags["s2_level"] = LEVEL_NAMES[int(tile["s2_level"])]
    if m.classes:
        tags["classes"] = json.dumps({label.code: label.name for label in m.classes})
    return tags


def _colours(m: Modality) -> dict[int, tuple[int, int, int, int]]:
    """Colour table of classes with codes of one byte; empty if a class has no colour."""
    if not m.classes or m.dtype != np.uint8 or len(m.bands) != 1:
        return {}
    colours = {label.code: label.colour for label in m.classes if label.colour}
    if len(colours) < len(m.classes):
        return {}
    return {code: (*bytes.fromhex(colour[1:]), 255) for code, colour in colours.items()}
