"""Tables: the ecoregions of the planet, and answers that come in pages."""

from __future__ import annotations

import csv
import io
import json
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

import shapely

from mmearth_data.catalog.entries import eco_regions, load_catalog
from mmearth_data.emulator.algorithms.collections import Collection, listed
from mmearth_data.emulator.algorithms.features import INDEX, Feature, geometry_of
from mmearth_data.emulator.algorithms.geometry import Geometry, to_geojson
from mmearth_data.emulator.algorithms.image import WGS84
from mmearth_data.emulator.assets.directory import plain_id
from mmearth_data.emulator.errors import EmulatorError, not_emulated
from mmearth_data.emulator.graph.registry import encode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmearth_data.emulator.graph.registry import Value
    from mmearth_data.planet.planet import Planet

ECOREGIONS = "RESOLVE/ECOREGIONS/2017"
LARGEST_PAGE = 1000
GEO = ".geo"
ROCK_AND_ICE = {"ECO_NAME": "Rock and Ice", "BIOME_NAME": "N/A", "BIOME_NUM": 11, "ECO_ID": 0, "REALM": "N/A"}
"""The one row of the table that is not an ecoregion; here it is the Antarctic interior, which the planet lacks."""
INTERIOR = shapely.box(-180, -90, 180, -85)
BIOME_NUMBERS = (
    "Tropical & Subtropical Moist Broadleaf Forests",
    "Tropical & Subtropical Dry Broadleaf Forests",
    "Tropical & Subtropical Coniferous Forests",
    "Temperate Broadleaf & Mixed Forests",
    "Temperate Conifer Forests",
    "Boreal Forests/Taiga",
    "Tropical & Subtropical Grasslands, Savannas & Shrublands",
    "Temperate Grasslands, Savannas & Shrublands",
    "Flooded Grasslands & Savannas",
    "Montane Grasslands & Shrublands",
    "Tundra",
    "Mediterranean Forests, Woodlands & Scrub",
    "Deserts & Xeric Shrublands",
    "Mangroves",
)
"""RESOLVE's BIOME_NUM counts from 1 in this order; the class ids of the catalog differ."""


@lru_cache(maxsize=2)
def ecoregions_of(planet: Planet) -> Collection:
    """Table of the planet's ecoregions, with RESOLVE's columns."""
    names = {region.id: region.name for region in eco_regions()}
    biomes = {label.code: label.name for label in load_catalog().modalities["biome"].classes}
    frame = planet.ecoregions()
    rows = [Feature(Geometry(INTERIOR, geodesic=False), {**ROCK_AND_ICE, INDEX: "0"})]
    for row in frame.itertuples():
        biome = biomes[row.biome]
        properties = {
            "ECO_NAME": names[row.eco_region],
            "ECO_ID": int(row.eco_region) + 1,
            "BIOME_NAME": biome,
            "BIOME_NUM": BIOME_NUMBERS.index(biome) + 1,
            "REALM": row.realm,
            INDEX: str(len(rows)),
        }
        rows.append(Feature(Geometry(row.geometry, geodesic=False), properties))
    return Collection(listed(rows), "Feature", {}, ECOREGIONS)


def load_table(asset: str, planet: Planet) -> Collection | None:
    """Table of an asset id, or None."""
    return ecoregions_of(planet) if plain_id(asset) == ECOREGIONS else None


def _whole(text: object, otherwise: int, what: str) -> int:
    try:
        found = int(str(text)) if text else otherwise
    except ValueError:
        found = -1
    if found < 0:
        raise EmulatorError(f"Invalid {what}: '{text}'.")
    return found


def sliced(collection: Collection, size: object, token: object) -> tuple[list[Value], dict[str, str]]:
    """Elements of a page, and the token of the next one if there is one."""
    start = _whole(token, 0, "page token")
    count = min(_whole(size, LARGEST_PAGE, "page size") or LARGEST_PAGE, LARGEST_PAGE)
    found = list(islice(collection, start, start + count + 1))
    return found[:count], ({"nextPageToken": str(start + count)} if len(found) > count else {})


def page(collection: Collection, size: object, token: object) -> dict[str, Any]:
    """Answer of ``table:computeFeatures``: GeoJSON in EPSG:4326 with planar edges."""
    elements, following = sliced(collection, size, token)
    return {"type": "FeatureCollection", "features": [_planar(element) for element in elements], **following}


def _planar(element: Value) -> dict[str, Value]:
    feature: dict[str, Value] = encode(Feature(None, element.properties))
    geometry = geometry_of(element)
    if not geometry.shape.is_empty:
        feature["geometry"] = to_geojson(Geometry(geometry.lonlat, WGS84, geodesic=False))
        feature["geometry"].pop("geodesic", None)
    return feature


def image_page(collection: Collection, size: object, token: object) -> dict[str, Any]:
    """Answer of ``imageCollection:computeImages``."""
    elements, following = sliced(collection, size, token)
    return {"images": [encode(element) for element in elements], **following}


# ---------------------------------------------------------------- files


def table_file(collection: Collection, kind: str, selectors: Sequence[str] | None) -> tuple[bytes, str]:
    """(body, content type) of a table as a CSV or GeoJSON file. Raises `EmulatorError` for another format."""
    if kind not in {"CSV", "GEO_JSON"}:
        raise not_emulated(f"Table format {kind}")
    rows = [_planar(element) for element in collection]
    if kind == "GEO_JSON":
        if selectors:
            kept = set(selectors)
            rows = [row | {"properties": {k: v for k, v in row["properties"].items() if k in kept}} for row in rows]
        return json.dumps({"type": "FeatureCollection", "features": rows}).encode(), "application/geo+json"
    return _csv(rows, selectors), "text/csv"


def _csv(rows: Sequence[Mapping[str, Any]], selectors: Sequence[str] | None) -> bytes:
    """Columns in the order of the service: index, properties by name, geometry."""
    names = sorted({name for row in rows for name in row["properties"]} - {INDEX})
    columns = list(selectors or [INDEX, *names, GEO])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        cells = {**row["properties"], INDEX: row.get("id", row["properties"].get(INDEX, "")), GEO: row.get("geometry")}
        writer.writerow(_cell(cells.get(column)) for column in columns)
    return text.getvalue().encode()


def _cell(value: Value) -> Value:
    return json.dumps(value) if isinstance(value, (dict, list)) else "" if value is None else value
