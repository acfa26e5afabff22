"""Files of embeddings: GeoParquet for tables and maps, and Zarr for arrays."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import InputError, staged_folder
from mmearth_model.geoparquet import categories, sample_columns, write_geoparquet

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from mmearth_model.evaluation.embedding import Embeddings

COLUMN = "embedding"
CHUNK_BYTES, CHUNKS_PER_SHARD = 2**20, 64
"""Zarr: bytes of a chunk, the smallest unit that a reader reads, and maximum number of chunks of a shard."""
GEOEMB = {
    "uuid": "61c12cc5-0e28-4056-999a-480cf3fb7e4c",
    "schema_url": "https://raw.githubusercontent.com/geo-embeddings/embeddings-zarr-convention/refs/tags/v1/schema.json",
    "spec_url": "https://github.com/geo-embeddings/embeddings-zarr-convention/blob/v1/README.md",
    "name": "geoemb:",
    "description": "Geoembeddings convention for geospatial embedding arrays with model provenance",
}
"""Declaration of the proposed Zarr convention for embeddings."""


def write_parquet(embeddings: Embeddings, path: Path) -> None:
    """Write GeoParquet 1.1, one row per sample.

    Columns: ``id`` (text), ``tile_id`` (tiles only), ``lon``, ``lat``, ``time``, ``split`` and the classes of the sample,
    ``embedding`` (a list of fixed size), ``geometry`` (the outline, or the location if only that is known), and ``bbox``,
    the bounding box of ``geometry``.
    """
    import pyarrow as pa

    flat = pa.array(np.ascontiguousarray(embeddings.values).reshape(-1))
    columns = {
        **sample_columns(
            embeddings.names,
            embeddings.lon,
            embeddings.lat,
            embeddings.time,
            embeddings.ids if embeddings.of_tiles else None,
        ),
        **{name: categories(texts) for name, texts in embeddings.classes.items()},
        COLUMN: pa.FixedSizeListArray.from_arrays(flat, embeddings.values.shape[1]),
    }
    write_geoparquet(path, columns, _shapes(embeddings), {"mmearth": {**embeddings.about, **_geoemb(embeddings)}})


def _shapes(embeddings: Embeddings) -> NDArray[Any]:
    """(N,) outlines where they are known, points where only the location is known, otherwise None."""
    import shapely

    known = np.isfinite(embeddings.lon) & np.isfinite(embeddings.lat)
    shapes = np.full(len(embeddings.lon), None, dtype=object)
    shapes[known] = shapely.points(embeddings.lon[known], embeddings.lat[known])
    if embeddings.outlines is not None:
        outlines = embeddings.outlines()
        drawn = ~shapely.is_missing(outlines)
        shapes[drawn] = outlines[drawn]
    return shapes


def refuse_other_content(path: Path) -> None:
    """Raise `InputError` if a folder contains something else than embeddings, such as a store: it would be replaced."""
    if not path.exists():
        return
    if not _of_tiles(path):
        raise InputError(
            f"{path}: expected a new folder or embeddings, which are replaced, got something else; choose another --out."
        )


def _of_tiles(path: Path) -> bool:
    """Whether a folder has the embeddings of tiles: neither a store, nor dense embeddings, nor anything damaged."""
    try:
        root, array = (json.loads((path / part / "zarr.json").read_bytes()) for part in ("", COLUMN))
    except (OSError, ValueError):
        return False
    return "format_version" not in root["attributes"] and array.get("dimension_names") == ["tile", "feature"]


def write_zarr(embeddings: Embeddings, path: Path) -> None:
    """Write a sharded Zarr group that plain xarray opens: ``embedding`` (tile, feature), with coordinates of the samples.

    Coordinates along ``tile``: ``id`` (text), ``tile_id`` (tiles only), ``lon``, ``lat``, ``time``, ``split`` and the
    classes of the sample. The group's attributes follow the proposed Zarr convention ``geoemb:``.
    """
    import xarray as xr

    refuse_other_content(path)
    attributes = {"long_name": "embedding", "units": "1"}
    data = xr.Dataset({COLUMN: (("tile", "feature"), embeddings.values, attributes)}, coords=_coordinates(embeddings))
    data.attrs = _group_attributes(embeddings)
    rows = max(1, CHUNK_BYTES // max(1, embeddings.values[:1].nbytes))
    chunks = min(CHUNKS_PER_SHARD, max(1, -(-len(embeddings.values) // rows)))
    width = embeddings.values.shape[1]
    encoding: dict[str, Any] = {COLUMN: {"chunks": (rows, width), "shards": (rows * chunks, width)}}
    if embeddings.time is not None:
        encoding["time"] = {"units": "milliseconds since 1970-01-01", "dtype": "int64"}
    with staged_folder(path) as beside, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata is currently not part")  # xarray's readers ask for it
        data.to_zarr(beside, zarr_format=3, consolidated=True, encoding=encoding)


def _coordinates(embeddings: Embeddings) -> dict[str, Any]:
    names = np.array(embeddings.names, dtype=object)
    texts = {"id": (names, "id of the sample"), **{name: (texts, name) for name, texts in embeddings.classes.items()}}
    found: dict[str, Any] = {name: ("tile", text, {"long_name": meaning}) for name, (text, meaning) in texts.items()}
    if embeddings.of_tiles:
        found["tile_id"] = ("tile", embeddings.ids, {"long_name": "tile id: longitude, latitude and size packed"})
    degrees = {"lon": ("longitude", "degrees_east"), "lat": ("latitude", "degrees_north")}
    for name, (standard, units) in degrees.items():
        found[name] = ("tile", getattr(embeddings, name), {"standard_name": standard, "units": units})
    if embeddings.time is not None:
        found["time"] = ("tile", embeddings.time.astype("datetime64[ns]"), {"standard_name": "time"})
    return found


def _group_attributes(embeddings: Embeddings) -> dict[str, Any]:
    """Text attributes for all readers, and those of the convention, some of which are lists and objects."""
    geoemb = _geoemb(embeddings)
    return {
        "Conventions": "CF-1.11",
        "title": "Embeddings" + (" of synthetic data" if embeddings.about.get("synthetic") == "true" else ""),
        **embeddings.about,
        **geoemb,
        **({"zarr_conventions": [GEOEMB]} if geoemb else {}),
    }


def _geoemb(embeddings: Embeddings) -> dict[str, Any]:
    """Attributes of the convention ``geoemb:``; none if `Embeddings.chips` is unknown."""
    chips = embeddings.chips
    if chips is None:
        return {}
    return {
        "geoemb:type": "chip",
        "geoemb:dimensions": int(embeddings.values.shape[1]),
        "geoemb:model": chips.model,
        "geoemb:source_data": list(chips.source_data),
        "geoemb:data_type": embeddings.values.dtype.name,
        **({} if chips.gsd is None else {"geoemb:gsd": chips.gsd}),
        "geoemb:chip_layout": {"layout_type": "irregular", "chip_size": list(chips.size)},
        "geoemb:build_version": embeddings.about["version"],
    }
