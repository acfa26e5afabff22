"""Sample files: GeoParquet with locations and the report of their sampling."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.catalog.tile import HEX_ID, WGS84, WGS84_PROJJSON, tile_ids, unpack_tile_id
from mmearth_data.errors import FileInputError
from mmearth_data.files.tables import Table, read_table
from mmearth_data.files.writing import staged_file
from mmearth_data.sampling.options import Sample, SampleReport
from mmearth_data.sampling.places import USUAL_SPLIT, PlaceColumns, check_unique, report_of_places, sample_of_places

if TYPE_CHECKING:
    import geopandas as gpd
    import pandas as pd
    import pyarrow as pa
    from numpy.typing import NDArray

    from mmearth_data.sampling.options import SamplingOptions

METADATA_KEY = b"mmearth:sample"
COLUMNS = ("tile_id", "lon", "lat", "biome", "eco_region", "split", "slot", "rank")
TYPES = {"lon": "f8", "lat": "f8", "biome": "u1", "eco_region": "u2", "split": "u1", "slot": "Int64", "rank": "u1"}
LARGEST_EXACT = 2**53
"""Largest number up to which a double represents every integer exactly."""
MISSING = frozenset({"na", "n/a", "nan", "null"})
"""Texts of missing numbers, in lower case."""
ROWS_PER_GROUP = 65_536
WKB_POINT = np.dtype([("order", "u1"), ("type", "<u4"), ("x", "<f8"), ("y", "<f8")])
"""Point in well-known binary: byte order (1, little-endian), type of geometry (1, point), coordinates."""


def write_sample(sample: Sample, path: str | Path) -> None:
    """Write a sample as GeoParquet (WKB points, EPSG:4326), atomically.

    The report is written to the file's metadata under ``mmearth:sample``. The same sample gives the same bytes.
    """
    import pyarrow.parquet as pq

    table = _table(sample)
    with staged_file(Path(path)) as beside:
        pq.write_table(table, beside, compression="zstd", row_group_size=ROWS_PER_GROUP)


def read_sample(
    path: Path,
    *,
    ecoregions: gpd.GeoDataFrame | None = None,
    options: SamplingOptions | None = None,
    names: PlaceColumns = PlaceColumns(),  # noqa: B008 - frozen
) -> Sample:
    """Read locations from a file written by `write_sample`, or from any table of points.

    The file is GeoParquet, Parquet, CSV, or a vector file of points (GeoJSON, GeoPackage, ...). Coordinates come from
    columns ``lon`` and ``lat`` in degrees, or from the geometry; columns ``split`` (0, 1, 2 or train, val, test) and
    ``biome`` with ``eco_region`` are used if present. Locations without labels get those of ``ecoregions`` (from
    `mmearth_data.geography.ecoregions.read_ecoregions`); tile size, seed and split method come from ``options``, which
    are required except for sample files. ``names`` names the columns of splits and dates of other tables.

    Raises FileInputError for a file that cannot be read, lacks columns, has a location twice or locations at sea, or
    was made for another tile size.
    """
    path = Path(path)
    table, report = _read_table(path)
    if all(name in table.columns for name in COLUMNS) and names.split is None and names.date is None:
        names.refuse_second_split(path, USUAL_SPLIT)
        sample = _as_sample(path, table.reset_index(drop=True), report)
        if options is not None:
            _check_size(path, sample, options.size_px)
        return sample
    if options is None:
        missing = ", ".join(name for name in COLUMNS if name not in table.columns)
        raise FileInputError(path, f"expected a file made by `mmearth-data sample`, this one lacks {missing}.")
    return sample_of_places(path, table, ecoregions, options, names)


def read_rows(path: Path) -> pd.DataFrame:
    """Read a table of locations; its index has the number of each row in the file.

    In text files, row numbers are line numbers, so the header is row 1; in other files, the first row is row 1.
    Raises FileInputError for a file that cannot be read.
    """
    return _read_table(path)[0]


def _read_table(path: Path) -> tuple[pd.DataFrame, SampleReport | None]:
    import geopandas as gpd
    import pandas as pd
    import pyarrow.parquet as pq

    if path.is_dir():
        raise FileInputError(path, "expected a table of locations, got a folder; name a file in it.")
    if not path.is_file():
        raise FileInputError(path, "no such file; check the path.")
    report = None
    try:
        if path.suffix.lower() in (".parquet", ".geoparquet"):
            metadata: dict[bytes, bytes] = pq.read_schema(path).metadata or {}
            if METADATA_KEY in metadata:
                report = SampleReport.from_dict(json.loads(metadata[METADATA_KEY]))
            table = gpd.read_parquet(path) if b"geo" in metadata else pd.read_parquet(path)
        elif path.suffix.lower() in (".csv", ".tsv", ".txt"):
            return _frame_of(read_table(path)), None
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # GDAL's remarks on a file that can be read nevertheless
                table = gpd.read_file(path)
    except FileInputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        problem = f"expected a table of locations (GeoParquet, CSV, GeoJSON, ...), could not read it: {reason}"
        raise FileInputError(path, problem) from None
    table.index = pd.RangeIndex(1, len(table) + 1)
    return table, report


def _frame_of(table: Table) -> pd.DataFrame:
    """Convert numeric columns of a sample, and other columns with only numbers in their usual form, to numbers.

    The remaining columns stay text, so that codes such as ``010`` and ``10`` stay different; so do ids. Missing values stay
    missing.
    """
    import pandas as pd

    columns: dict[str, Any] = {}
    for name, texts in table.columns.items():
        column = pd.Series([text.strip() or None for text in texts], dtype="object")
        points = column.str.replace(",", ".") if table.decimal == "," else column
        numbers = pd.to_numeric(points, errors="coerce")
        gaps = column.isna() | column.str.casefold().isin(MISSING)
        whole = name != "tile_id" and bool((numbers.notna() | gaps).all())
        usual = whole and (name in TYPES or all(map(_is_usual, points[~gaps], numbers[~gaps])))
        columns[name] = numbers if usual else points if whole else column
    frame = pd.DataFrame(columns)
    frame.index = pd.Index(table.lines, dtype=np.int64)
    return frame


def _is_usual(text: str, number: float) -> bool:
    """Whether a text is the usual form of a number; whole numbers may be written as 3.0, as in tables with gaps."""
    if float(number).is_integer() and abs(number) <= LARGEST_EXACT:
        return text in (str(int(number)), f"{int(number)}.0")
    return text == repr(float(number))


def _as_sample(path: Path, table: pd.DataFrame, report: SampleReport | None) -> Sample:
    import geopandas as gpd

    try:
        table["tile_id"] = _parsed_ids(table["tile_id"])
        _check_values(table)
        table = table.astype(TYPES)
    except (ValueError, TypeError, OverflowError) as error:
        raise FileInputError(path, f"expected the columns of a sample file, one has other values: {error}") from None
    check_unique(path, table["tile_id"].to_numpy())
    _check_ids(path, table)
    slots = np.sort(table["slot"].dropna().to_numpy(np.int64))
    if not np.array_equal(slots, np.arange(len(slots))) or not len(slots):
        raise FileInputError(
            path, f"expected slots 0 to {max(len(slots) - 1, 0)}, each once; sample the locations again."
        )
    if not isinstance(table, gpd.GeoDataFrame):
        points = gpd.points_from_xy(table["lon"], table["lat"])
        table = gpd.GeoDataFrame(table, geometry=points, crs=WGS84)
    return Sample(table, report or report_of_places(path.name, table))


def _check_values(table: pd.DataFrame) -> None:
    """Refuse values that a cast to the columns' types would change, such as biome 300 or split 0.5."""
    for name, dtype in TYPES.items():
        if dtype.startswith("u"):
            values = table[name].to_numpy(np.float64)
            bad = values[~((values >= 0) & (values <= np.iinfo(dtype).max) & (values == np.trunc(values)))]
            if len(bad):
                raise ValueError(f"{name} {bad[0]:g}, expected a whole number from 0 to {np.iinfo(dtype).max}")


def _parsed_ids(column: pd.Series[Any]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Tile ids as numbers; ids as text are 16 hex digits (with or without a leading ``0x``) or decimal."""
    if column.dtype.kind in "iu":
        return column.to_numpy(np.uint64)
    bases = ((text, 16 if HEX_ID.fullmatch(text) else 10) for text in column.astype(str))
    return np.array([int(text, base) for text, base in bases], dtype=np.uint64)


def _check_ids(path: Path, table: pd.DataFrame) -> None:
    size = unpack_tile_id(int(table["tile_id"].iloc[0]))[2]
    known = size > 0 and np.array_equal(tile_ids(table["lon"], table["lat"], size), table["tile_id"])
    if not known:
        raise FileInputError(path, "expected tile_id to follow from lon, lat and one tile size; leave the column out.")


def _check_size(path: Path, sample: Sample, size_px: int) -> None:
    size = unpack_tile_id(int(sample.frame["tile_id"].iloc[0]))[2]
    if size != size_px:
        raise FileInputError(
            path,
            f"expected locations for tiles of {size_px} px, got {size} px; give --tile-size {size} or sample again.",
        )


def _table(sample: Sample) -> pa.Table:
    import pyarrow as pa

    frame = sample.frame
    columns: dict[str, Any] = {name: frame[name].to_numpy() for name in COLUMNS if name != "slot"}
    columns["slot"] = pa.array(frame["slot"].fillna(0).to_numpy(np.int64), mask=frame["slot"].isna().to_numpy())
    columns["geometry"] = _points_as_wkb(frame["lon"].to_numpy(), frame["lat"].to_numpy())
    table = pa.table({name: columns[name] for name in (*COLUMNS, "geometry")})
    report = json.dumps(sample.report.to_dict(), sort_keys=True).encode()
    return table.replace_schema_metadata({b"geo": _geo_metadata(frame), METADATA_KEY: report})


def _points_as_wkb(lon: NDArray[np.float64], lat: NDArray[np.float64]) -> pa.BinaryArray:
    """Points (n,) as well-known binary; made at once, since millions of Python objects would take 0.3 GB and seconds."""
    import pyarrow as pa

    points = np.empty(len(lon), dtype=WKB_POINT)
    points["order"], points["type"], points["x"], points["y"] = 1, 1, lon, lat
    ends = np.arange(len(lon) + 1, dtype=np.int32) * WKB_POINT.itemsize
    return pa.BinaryArray.from_buffers(pa.binary(), len(lon), [None, pa.py_buffer(ends), pa.py_buffer(points)])


def _geo_metadata(frame: gpd.GeoDataFrame) -> bytes:
    lon, lat = frame["lon"].to_numpy(), frame["lat"].to_numpy()
    column = {
        "encoding": "WKB",
        "geometry_types": ["Point"],
        "crs": WGS84_PROJJSON,
        "bbox": [float(lon.min()), float(lat.min()), float(lon.max()), float(lat.max())],
    }
    return json.dumps({"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}).encode()
