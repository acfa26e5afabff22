"""Write dense embeddings: sharded Zarr following the conventions GeoZarr and ``geoemb``, or a cloud-optimised GeoTIFF."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import InputError, grid_attributes, staged_folder
from mmearth_model.evaluation.embedding_files import GEOEMB
from mmearth_model.maps.blocks import Block
from mmearth_model.maps.raster import IDENTITY_TAG, RasterForm, RasterGrid, is_finished, write_cog
from mmearth_model.maps.vectors import (
    EMBEDDING,
    NODATA,
    PIXEL,
    SCALE,
    quantise,
    scale_of_largest,
    zarr_attributes,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import zarr
    from numpy.typing import NDArray

    from mmearth_model.maps.vectors import VectorGrid, Vectors

GRID_MAPPING = "spatial_ref"
CHUNK = 32
"""Positions along a side of a chunk: with 320 features, 1.3 MB of float32."""
TIFF_BLOCK = 128
"""Positions along a side of a block of a GeoTIFF, which holds all bands."""
TYPES = ("float32", "int8")


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where vectors come from.

    Attributes
    ----------
    about
        Text: checkpoint, its digest, source, version, and everything else that determines the values.
    model
        URI of the model.
    source_data
        URIs of the data.
    """

    about: Mapping[str, str]
    model: str
    source_data: tuple[str, ...]


def finished_vectors(path: Path, identity: str) -> bool:
    """Whether a file is the finished result of an identity.

    Raises `InputError` if another file has its name, which would be lost.
    """
    if path.suffix != ".zarr":
        return is_finished(path, identity)
    if not path.exists():
        return False
    found = zarr_attributes(path).get(IDENTITY_TAG)
    if found == identity:
        return True
    got = "something else" if found is None else "the result of another encoder, source or option"
    raise InputError(f"{path}: expected a new folder, found {got}; delete it, or choose another --out.")


def largest_values(fields: Sequence[Vectors]) -> NDArray[np.float32]:
    """(D,) largest absolute value of each feature over all positions with data; 0 if there are none."""
    largest = np.zeros(fields[0].grid.features, dtype=np.float32)
    for field in fields:
        for rows, columns in field.grid.spans(field.side):
            part = np.abs(field.read(rows, columns)).reshape(len(largest), -1)
            largest = np.fmax(largest, np.fmax.reduce(part, axis=1))
    return largest


def write_vectors(
    path: Path,
    fields: Sequence[Vectors],
    origin: Origin,
    work: Path,
    kind: str = "float32",
    identity: str = "",
) -> None:
    """Write vectors atomically to a folder with the extension .zarr, or else to a GeoTIFF.

    Parameters
    ----------
    path
        Output.
    fields
        Vectors of each grid; a GeoTIFF takes one grid.
    origin
        Origin of the vectors.
    work
        Folder for a temporary file, on the disk of the output.
    kind
        ``float32``, or ``int8``: multiples of a scale per feature, which is 1/127 of the feature's largest absolute
        value.
    identity
        Digest of everything that determines the result.
    """
    scale = scale_of_largest(largest_values(fields)) if kind == "int8" else None
    facts = {**_facts(fields[0].grid, origin, scale), IDENTITY_TAG: identity}
    if path.suffix == ".zarr":
        _write_zarr(path, fields, scale, facts)
    else:
        _write_tiff(path, fields[0], work, scale, facts)


def _write_zarr(
    path: Path, fields: Sequence[Vectors], scale: NDArray[np.float32] | None, facts: Mapping[str, Any]
) -> None:
    import zarr

    with staged_folder(path) as beside, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata is currently not part")  # xarray's readers ask for it
        root = zarr.create_group(beside, zarr_format=3, attributes=dict(facts))
        for field in fields:
            group = root.create_group(field.name) if field.name else root
            group.attrs.update({**facts, **_placed(field.grid, facts["zarr_conventions"])})
            _write_grid(group, field.grid)
            _write_array(group, field, scale)
            if field.name:
                zarr.consolidate_metadata(beside, path=field.name)
        zarr.consolidate_metadata(beside)


def _write_array(group: zarr.Group, field: Vectors, scale: NDArray[np.float32] | None) -> None:
    array = _create(group, field, scale)
    for rows, columns in field.grid.spans(field.side):
        values = field.read(rows, columns)
        array[:, rows, columns] = values if scale is None else quantise(values, scale)


def _create(group: zarr.Group, field: Vectors, scale: NDArray[np.float32] | None) -> zarr.Array[Any]:
    """Create the array of vectors, with one shard per part that is read, and the array of scales."""
    from zarr.codecs import BloscCodec

    features, chunk = field.grid.features, min(CHUNK, field.side)
    compressors = BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle" if scale is None else "noshuffle")
    attributes: dict[str, Any] = {"long_name": "embedding", "units": "1", "grid_mapping": GRID_MAPPING, "coordinates": GRID_MAPPING}  # fmt: skip
    if scale is not None:
        attributes |= {"_FillValue": NODATA, "comment": f"multiply by the {SCALE} of the feature"}
        text: dict[str, Any] = {"long_name": "value of one step of a feature", "units": "1"}
        group.create_array(SCALE, data=scale, dimension_names=("feature",), attributes=text)
    return group.create_array(
        EMBEDDING,
        shape=(features, *field.grid.shape),
        chunks=(features, chunk, chunk),
        shards=(features, field.side, field.side),
        dtype="float32" if scale is None else "int8",
        fill_value=np.nan if scale is None else NODATA,
        compressors=compressors,
        dimension_names=("feature", "y", "x"),
        attributes=attributes,
    )


def _write_grid(group: zarr.Group, grid: VectorGrid) -> None:
    """Write the CRS as CF and GDAL describe it, and the centres of the positions, which a rotated grid lacks."""
    from pyproj import CRS

    crs = CRS(grid.crs.to_wkt())
    a, b, c, d, e, f = grid.transform[:6]
    about = crs.to_cf()
    about["spatial_ref"] = about["crs_wkt"]
    about["GeoTransform"] = " ".join(f"{value:.15g}" for value in (c, a, b, f, d, e))
    group.create_array(GRID_MAPPING, data=np.array(0, dtype=np.int32), attributes=about)
    if b or d:
        return
    axes = {axis["axis"]: axis for axis in crs.cs_to_cf()}
    for name, length, first, step in (("x", grid.shape[1], c, a), ("y", grid.shape[0], f, e)):
        centres = first + step * (np.arange(length) + 0.5)
        group.create_array(name, data=centres, dimension_names=(name,), attributes=axes[name.upper()])


def _facts(grid: VectorGrid, origin: Origin, scale: NDArray[np.float32] | None) -> dict[str, Any]:
    """Attributes of the root: text for all readers, and those of the convention ``geoemb``."""
    kind = "float32" if scale is None else "int8"
    quantised = {"method": "per_feature_scale", "original_dtype": "float32", "quantized_dtype": kind}
    return {
        "Conventions": "CF-1.11",
        "title": "Dense embeddings" + (" of synthetic data" if origin.about.get("synthetic") == "true" else ""),
        **origin.about,
        "zarr_conventions": [GEOEMB],
        "geoemb:type": PIXEL,
        "geoemb:dimensions": grid.features,
        "geoemb:model": origin.model,
        "geoemb:source_data": list(origin.source_data),
        "geoemb:data_type": kind,
        **_spacing(grid),
        **({} if scale is None else {"geoemb:quantization": quantised}),
        "geoemb:build_version": origin.about["version"],
    }


def _spacing(grid: VectorGrid) -> dict[str, float]:
    """``geoemb:gsd``, metres between positions; nothing if the CRS has other units."""
    if not grid.crs.is_projected:
        return {}
    _, metres = grid.crs.linear_units_factor
    return {"geoemb:gsd": float(abs(grid.transform.determinant) ** 0.5 * metres)}


def _placed(grid: VectorGrid, conventions: Sequence[Any]) -> dict[str, Any]:
    """Attributes of a group with one grid, which declares its conventions in addition to the given attributes."""
    from pyproj import CRS

    found = grid_attributes(CRS(grid.crs.to_wkt()), grid.transform[:6], grid.shape)
    return {**found, "zarr_conventions": [*conventions, *found["zarr_conventions"]]}


def _write_tiff(
    path: Path, field: Vectors, work: Path, scale: NDArray[np.float32] | None, facts: Mapping[str, Any]
) -> None:
    grid = field.grid
    form = RasterForm(
        bands=tuple(f"feature {number}" for number in range(grid.features)),
        dtype="float32" if scale is None else "int8",
        nodata=np.nan if scale is None else NODATA,
        scale=1.0 if scale is None else tuple(scale.tolist()),
        tile_px=TIFF_BLOCK,
        tags=_tags(facts),
    )
    placed = RasterGrid(crs=grid.crs.to_wkt(), transform=grid.transform[:6], height=grid.shape[0], width=grid.shape[1])

    def blocks() -> Iterator[tuple[Block, NDArray[Any]]]:
        for rows, columns in grid.spans(field.side):
            values = field.read(rows, columns)
            yield Block.of(rows, columns), values if scale is None else quantise(values, scale)

    write_cog(path, work, form, placed, blocks)


def _tags(facts: Mapping[str, Any]) -> dict[str, str]:
    return {
        name.replace(":", "_"): value if isinstance(value, str) else json.dumps(value)  # GDAL ends a name at a colon
        for name, value in facts.items()
        if name not in ("zarr_conventions", "Conventions")
    }
