"""The tiles of a store as a GeoDataFrame, with class names instead of codes."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from mmearth_data.catalog.tile import LEVEL_NAMES
from mmearth_data.store.commits import BATCH_ROWS, empty_commit, tiles_table
from mmearth_data.store.index import tile_outlines
from mmearth_data.store.items import TIME_COLUMN, id_texts
from mmearth_data.store.schema import COORDINATE_NAMES, SPLIT_NAMES, TILES_KEY, tabular_columns
from mmearth_data.store.selection import distinct_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pyarrow as pa
    from geopandas import GeoDataFrame
    from numpy.typing import NDArray
    from pandas import Categorical

    from mmearth_data.store.content import Content
    from mmearth_data.store.schema import StoreLayout


def tiles_frame(content: Content, rows: NDArray[np.intp]) -> GeoDataFrame:
    """Table of the given rows: every 1-D value, class names, facts and outline."""
    with ThreadPoolExecutor(1) as pool:
        # Verifying the digest and importing libraries take equally long and are independent.
        opening = None if content.manifest is None else pool.submit(content.open_checked, TILES_KEY)
        from mmearth_data.store.tiles_frame import Outlines, TilesFrame

    if opening is None:
        columns = _committed_columns(content, rows)
    else:
        with opening.result() as stream, _collector_paused():
            columns = _sealed_columns(stream, content.layout, rows)
    columns["geometry"] = Outlines.from_wkb(columns["geometry"])
    return TilesFrame(_named(content.layout, columns), copy=False)


def _named(layout: StoreLayout, columns: dict[str, Any]) -> dict[str, Any]:
    """Columns with class names instead of codes, and with ids as text next to the numbers."""
    labels = {"split": SPLIT_NAMES, "s2_level": LEVEL_NAMES}
    labels |= {m.name: {c.code: c.name for c in m.classes} for m in layout.tabular if m.kind.is_categorical}
    named: dict[str, Any] = {}
    for name, column in columns.items():
        named[name] = _categories(column, labels[name]) if name in labels else column
        if name == "tile_id" and "id" not in columns:
            named["id"] = id_texts(column).to_pandas()
    return named


def _categories(codes: NDArray[Any], names: Mapping[int, str]) -> Categorical[str]:
    """Categories by class name, in catalog order; missing where no class has the code.

    If several classes have the same name, the code is added in brackets.
    """
    import pandas as pd

    texts = list(distinct_names(names).values())
    lookup = np.full(int(max(codes.max(initial=0), *names)) + 1, -1, dtype=np.int16 if len(texts) > 127 else np.int8)
    lookup[list(names)] = np.arange(len(texts))
    return pd.Categorical.from_codes(lookup[codes], pd.Index(texts), validate=False)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Pause Python's garbage collector, which would repeatedly traverse many new objects."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def _sealed_columns(stream: BinaryIO, layout: StoreLayout, rows: NDArray[np.intp]) -> dict[str, Any]:
    """Columns of the given rows, read in batches.

    Numbers are written directly to their final arrays, without an intermediate table.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(stream, pre_buffer=False)
    stored = {name: column_in(file.schema_arrow, name) for name in property_columns(layout)}
    schema = pa.schema([file.schema_arrow.field(name) for name in stored.values()])
    wanted = np.zeros(layout.tiles, dtype=np.bool_)
    wanted[rows] = True
    columns: dict[str, Any] = {}
    others: dict[str, list[pa.Array]] = {}
    for field in schema:
        if pa.types.is_integer(field.type) or pa.types.is_floating(field.type):
            columns[field.name] = np.empty(len(rows), dtype=field.type.to_pandas_dtype())
        else:
            others[field.name] = []
    start = 0
    for batch in file.iter_batches(BATCH_ROWS, columns=schema.names, use_threads=False):
        kept = batch if len(rows) == layout.tiles else batch.filter(pa.array(wanted[batch["row"].to_numpy()]))
        part = slice(start, start + len(kept))
        for name, column in columns.items():
            column[part] = kept[name].to_numpy()
        for name, pieces in others.items():
            pieces.append(kept[name])
        start = part.stop
    for name in list(others):
        whole = pa.chunked_array(others.pop(name), type=schema.field(name).type)
        columns[name] = whole if name == "geometry" else whole.to_pandas()
    return {name: columns[column] for name, column in stored.items()}


def column_in(schema: pa.Schema, name: str) -> str:
    """Name of a property of tiles in a table of this schema."""
    return TIME_COLUMN if name == "time" and name not in schema.names else name


def property_columns(layout: StoreLayout) -> list[str]:
    """Columns of the table that are properties of a tile; other columns repeat them for STAC and GeoParquet."""
    values = [column for m in layout.tabular for column in tabular_columns(m)]
    return ["row", *COORDINATE_NAMES, *values, "facts", "geometry"]


def _committed_columns(content: Content, rows: NDArray[np.intp]) -> dict[str, Any]:
    """Columns of the given rows of an unfinished store, from its commit records."""
    import pyarrow as pa
    import shapely

    commits = list(content.commits.values()) or [empty_commit(content.layout)]
    table = pa.concat_tables([tiles_table(commit, content.layout.tabular) for commit in commits])
    outlines = [shapely.to_wkb(tile_outlines(commit.columns, content.layout.size_px)) for commit in commits]
    table = table.append_column("geometry", pa.array(np.concatenate(outlines), type=pa.binary()))
    table = table.filter(pa.array(np.isin(table["row"].to_numpy(), rows)))
    numbers = {
        field.name: pa.types.is_integer(field.type) or pa.types.is_floating(field.type) for field in table.schema
    }
    columns = {name: table[name].to_numpy() if numbers[name] else table[name].to_pandas() for name in numbers}
    return {**columns, "geometry": table["geometry"]}
