"""A store's tiles as a GeoDataFrame."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from mmearth_data.store.commits import BATCH_ROWS, empty_commit, tiles_table
from mmearth_data.store.index import outlines_from_wkb, tile_outlines
from mmearth_data.store.schema import TILES_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    from geopandas import GeoDataFrame
    from numpy.typing import NDArray

    from mmearth_data.store.content import Content


def tiles_frame(content: Content, rows: NDArray[np.intp]) -> GeoDataFrame:
    """Table of the given rows: every 1-D value, facts and outline."""
    with ThreadPoolExecutor(1) as pool:
        # Comparing it with its digest and importing libraries take equally long, and are independent.
        opening = None if content.manifest is None else pool.submit(content.open_checked, TILES_KEY)
        import geopandas as gpd
        import shapely

    if opening is None:
        table, outlines = _committed_table(content)
        kept = np.flatnonzero(np.isin(table["row"].to_numpy(), rows))
        frame = table.take(kept).to_pandas(use_threads=False)
        return gpd.GeoDataFrame(frame, geometry=shapely.from_wkb(outlines[kept]), crs="EPSG:4326")
    with opening.result() as stream, _collector_paused():
        columns = _sealed_columns(stream, content.layout.tiles, rows)
        columns["geometry"] = gpd.array.GeometryArray(columns["geometry"], crs="EPSG:4326")
        return gpd.GeoDataFrame(columns, copy=False)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Pause Python's garbage collector, which would traverse many new objects again and again."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def _sealed_columns(stream: BinaryIO, tiles: int, rows: NDArray[np.intp]) -> dict[str, Any]:
    """Columns of the given rows, read in pieces, while a thread converts decoded pieces to geometries.

    Numbers are written directly to their final arrays, without an intermediate table.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(stream, pre_buffer=False)
    wanted = np.zeros(tiles, dtype=np.bool_)
    wanted[rows] = True
    columns: dict[str, Any] = {"geometry": np.empty(len(rows), dtype=object)}
    others: dict[str, list[pa.Array]] = {}
    for field in file.schema_arrow:
        if pa.types.is_integer(field.type) or pa.types.is_floating(field.type):
            columns[field.name] = np.empty(len(rows), dtype=field.type.to_pandas_dtype())
        elif field.name != "geometry":
            others[field.name] = []
    start = 0
    with ThreadPoolExecutor(1) as pool:
        drawing = []
        for batch in file.iter_batches(BATCH_ROWS, use_threads=False):
            kept = batch if len(rows) == tiles else batch.filter(pa.array(wanted[batch["row"].to_numpy()]))
            part = slice(start, start + len(kept))
            drawing.append(pool.submit(_draw, kept["geometry"], columns["geometry"][part]))
            for name in columns.keys() - {"geometry"}:
                columns[name][part] = kept[name].to_numpy()
            for name, pieces in others.items():
                pieces.append(kept[name])
            start = part.stop
        for done in drawing:
            done.result()
    for name, pieces in others.items():
        columns[name] = pa.chunked_array(pieces, type=file.schema_arrow.field(name).type).to_pandas()
    return {name: columns[name] for name in file.schema_arrow.names}


def _draw(outlines: pa.BinaryArray, out: np.ndarray[Any, Any]) -> None:
    out[:] = outlines_from_wkb(outlines)


def _committed_table(content: Content) -> tuple[pa.Table, np.ndarray[Any, Any]]:
    import pyarrow as pa
    import shapely

    commits = list(content.commits.values()) or [empty_commit(content.layout)]
    table = pa.concat_tables([tiles_table(commit, content.layout.tabular) for commit in commits])
    outlines = [shapely.to_wkb(tile_outlines(commit.columns, content.layout.size_px)) for commit in commits]
    return table, np.concatenate(outlines)
