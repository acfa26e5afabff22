"""Attributes of a store that follow public conventions: CF, ACDD and Zarr conventions.

Attributes of CF (cfconventions.org) and ACDD (Attribute Convention for Data Discovery 1.3) are text and numbers. An array
declares a Zarr convention (github.com/zarr-conventions) by an object in its attribute ``zarr_conventions``, and the values
of some conventions are objects. netCDF supports neither objects nor lists of them.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from mmearth_data.store.about import licence_summary, spdx

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from pyproj import CRS

    from mmearth_data.store.about import Extents
    from mmearth_data.store.schema import StoreLayout

DECLARED = "zarr_conventions"
"""Attribute of the declarations (Zarr conventions specification)."""
GITHUB, RAW = "https://github.com", "https://raw.githubusercontent.com"
SPATIAL = {
    "uuid": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
    "schema_url": f"{RAW}/zarr-conventions/spatial/refs/tags/v0.1/schema.json",
    "spec_url": f"{GITHUB}/zarr-conventions/spatial/blob/v0.1/README.md",
    "name": "spatial",
    "description": "Spatial coordinate information",
}
PROJ = {
    "uuid": "f17cb550-5864-4468-aeb7-f3180cfb622f",
    "schema_url": f"{RAW}/zarr-conventions/proj/refs/tags/v0.1/schema.json",
    "spec_url": f"{GITHUB}/zarr-conventions/proj/blob/v0.1/README.md",
    "name": "proj",
    "description": "Coordinate reference system information for geospatial data",
}
LICENSE = {
    "uuid": "b77365e5-2b0c-4141-b917-c03b7c68e935",
    "schema_url": f"{RAW}/clbarnes/zarr-convention-license/refs/tags/v1/schema.json",
    "spec_url": f"{GITHUB}/clbarnes/zarr-convention-license/blob/v1/README.md",
    "name": "license",
    "description": "License specifier for Zarr data",
}
UOM = {
    "uuid": "3bbe438d-df37-49fe-8e2b-739296d46dfb",
    "schema_url": f"{RAW}/clbarnes/zarr-convention-uom/refs/tags/v1/schema.json",
    "spec_url": f"{GITHUB}/clbarnes/zarr-convention-uom/blob/v1/README.md",
    "name": "uom",
    "description": "Units of measurement for Zarr arrays",
}
TRANSFORM_PER_TILE = "per_tile"
"""``spatial:transform_type`` of the rasters: each tile has its own affine transform, made from its ``ulx`` and ``uly``."""
UCUM = {
    "1": "1",
    "m": "m",
    "K": "K",
    "dB": "dB",
    "percent": "%",
    "degree": "deg",
    "degrees_north": "deg",
    "degrees_east": "deg",
    "days": "d",
}
"""Unit in UDUNITS notation, as in CF -> the same unit in UCUM notation, as in the convention ``uom``."""
SCALED = re.compile(r"(?P<factor>[0-9.]+(?:e-?[0-9]+)?)(?: (?P<unit>[^@]+))?")
EXTENT = (
    "geospatial_lon_min",
    "geospatial_lat_min",
    "geospatial_lon_max",
    "geospatial_lat_max",
    "time_coverage_start",
    "time_coverage_end",
)
"""Root attributes (ACDD) that are only known when the build ends."""


def described(attributes: Mapping[str, Any]) -> bool:
    """Whether a store has these attributes; stores of version 1, and early ones of version 2, have none."""
    return "license" in attributes


def root_attributes(layout: StoreLayout, *, source: Mapping[str, Any], synthetic: bool, version: str) -> dict[str, str]:
    """CF and ACDD attributes of the root that are known when a store is created."""
    names = [m.long_name for m in layout.stored]
    found = {
        "Conventions": "CF-1.11, ACDD-1.3",
        "title": "MMEarth store" + (" (synthetic, not measured)" if synthetic else ""),
        "summary": f"Aligned tiles of {layout.size_px} x {layout.size_px} pixels of 10 m with {', '.join(names)}.",
        "keywords": ", ".join(["Earth observation", "machine learning", *names]),
        "license": _imitated(licence_summary(layout.stored), synthetic),
        "references": "; ".join(dict.fromkeys(f"https://doi.org/{m.doi}" for m in layout.stored if m.doi)),
        "history": f"mmearth {version}: created from the source {source.get('name', 'without a name')}",
        "comment": "Each tile is on a pixel grid of its own: see its epsg, ulx and uly.",
    }
    return {name: text for name, text in found.items() if text}


def appended_history(history: str, rows: int, version: str) -> str:
    """Attribute ``history`` of a store to which rows are appended."""
    return f"{history}\nmmearth {version}: {rows} rows appended"


def extent_attributes(extents: Extents | None) -> dict[str, float | str]:
    """ACDD attributes of the extent of a finished store; empty if no tile has a known location."""
    if extents is None:
        return {}
    bounds = dict(zip(EXTENT[:4], extents.bbox, strict=True))
    if extents.start is None or extents.end is None:
        return {**bounds}
    return {**bounds, EXTENT[4]: _moment(extents.start), EXTENT[5]: _moment(extents.end)}


def declared(metadata: Mapping[str, Any], *, synthetic: bool) -> dict[str, Any]:
    """Metadata of an array with the Zarr conventions that it follows.

    The array's own ``zarr.json`` contains this metadata. The consolidated metadata of the root, from which xarray takes
    attributes, lacks the declarations, because xarray copies attributes into netCDF files, which cannot contain objects.

    Parameters
    ----------
    metadata
        Zarr metadata of an array.
    synthetic
        True if the values are not measurements, so that the licence of the modality does not apply to them.
    """
    attributes, dimensions = metadata["attributes"], metadata["dimension_names"]
    found: list[tuple[Mapping[str, str], dict[str, Any]]] = []
    if dimensions[-2:] == ["y", "x"]:
        found.append((SPATIAL, _spatial(metadata["shape"])))
    if "licence" in attributes and not synthetic:
        found.append((LICENSE, {"license": _license(attributes["licence"], attributes["licence_url"])}))
    unit = ucum(attributes.get("units", ""))
    if unit is not None and "flag_values" not in attributes:  # class codes are not quantities
        found.append((UOM, {"uom": {"ucum": {"unit": unit}}}))
    if not found:
        return dict(metadata)
    conventions = {DECLARED: [dict(convention) for convention, _ in found]}
    for _, values in found:
        conventions |= values
    return {**metadata, "attributes": {**attributes, **conventions}}


def grid_attributes(crs: CRS, transform: Sequence[float], shape: tuple[int, int]) -> dict[str, Any]:
    """Attributes of a Zarr group whose arrays share one grid, following the conventions ``proj`` and ``spatial`` of GeoZarr.

    Parameters
    ----------
    crs
        Coordinate reference system.
    transform
        The six coefficients that convert (column, row) to (x, y) of the CRS, in the order of `affine.Affine`.
    shape
        Rows and columns.

    Examples
    --------
    >>> from pyproj import CRS
    >>> found = grid_attributes(CRS(32632), (80, 0, 600_000, 0, -80, 5_000_000), (3, 2))
    >>> found["proj:code"], found["spatial:bbox"]
    ('EPSG:32632', [600000.0, 4999760.0, 600160.0, 5000000.0])
    """
    a, b, c, d, e, f = (float(value) for value in transform)
    height, width = shape
    corners = [(a * x + b * y + c, d * x + e * y + f) for x in (0, width) for y in (0, height)]
    (west, south), (east, north) = map(min, zip(*corners, strict=True)), map(max, zip(*corners, strict=True))
    authority = crs.to_authority(min_confidence=100)
    return {
        DECLARED: [dict(PROJ), dict(SPATIAL)],
        **({"proj:code": ":".join(authority)} if authority else {"proj:wkt2": crs.to_wkt()}),
        "spatial:dimensions": ["y", "x"],
        "spatial:shape": [height, width],
        "spatial:registration": "pixel",
        "spatial:transform_type": "affine",
        "spatial:transform": [a, b, c, d, e, f],
        "spatial:bbox": [west, south, east, north],
    }


def ucum(units: str) -> str | None:
    """Convert a unit from UDUNITS notation, as in the arrays of a store, to UCUM; None if that is not possible.

    Examples
    --------
    >>> [ucum(text) for text in ("0.0001", "0.01 K", "2.75e-05", "degrees_east", "2 K @ 273.15", "furlong")]
    ['10*-4', '10*-2.K', '275.10*-7', 'deg', None, None]
    """
    if units in UCUM:
        return UCUM[units]
    scaled = SCALED.fullmatch(units)
    if scaled is None or (scaled["unit"] or "1") not in UCUM:
        return None
    _, digits, exponent = Decimal(scaled["factor"]).normalize().as_tuple()
    whole = int("".join(map(str, digits)))
    parts = [*([str(whole)] if whole != 1 else []), *([f"10*{exponent}"] if exponent else [])]
    return ".".join([*parts, *([UCUM[scaled["unit"]]] if scaled["unit"] else [])])


def _spatial(shape: list[int]) -> dict[str, Any]:
    return {
        "spatial:dimensions": ["y", "x"],
        "spatial:shape": shape[-2:],
        "spatial:registration": "pixel",
        "spatial:transform_type": TRANSFORM_PER_TILE,
    }


def _license(name: str, url: str) -> dict[str, str]:
    """Value of the convention ``license``: an SPDX identifier, or the URL of a licence that SPDX does not list."""
    identifier = spdx(name)
    return {"url": url} if url and identifier.startswith("LicenseRef-") else {"spdx": identifier}


def _imitated(licence: str, synthetic: bool) -> str:
    return f"Synthetic data, not measured. They imitate data under these licences: {licence}" if synthetic else licence


def _moment(time: np.datetime64) -> str:
    """ISO 8601 in UTC."""
    return f"{time}Z"
