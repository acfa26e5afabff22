"""STAC 1.1 collection of a store: extents, arrays with their bands, and the dimensions of the data cube.

The tiles are its items; ``tiles.parquet`` lists them as stac-geoparquet.
https://github.com/radiantearth/stac-spec; extensions: eo 2.0, raster 2.0, sar 1.3, classification 2.0, datacube 2.2,
scientific 1.0, projection 2.0.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.catalog.modality import ABSENT, PRESENT, ClassLabel
from mmearth_data.catalog.tile import LEVEL_NAMES
from mmearth_data.files.stac import used_extensions
from mmearth_data.inspection.cards.wording import description
from mmearth_data.store.schema import COORDINATES, REJECTED_KEY, SPLIT_NAMES, TILES_KEY, flag_words, stored_units

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mmearth_data.catalog.modality import Modality
    from mmearth_data.inspection.cards.facts import CardFacts

NAME = "collection.json"
VERSION = "1.1.0"
EXTENSIONS = {
    "eo": "https://stac-extensions.github.io/eo/v2.0.0/schema.json",
    "raster": "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
    "sar": "https://stac-extensions.github.io/sar/v1.3.2/schema.json",
    "classification": "https://stac-extensions.github.io/classification/v2.0.0/schema.json",
    "cube": "https://stac-extensions.github.io/datacube/v2.2.0/schema.json",
    "sci": "https://stac-extensions.github.io/scientific/v1.0.0/schema.json",
    "proj": "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
}
"""Prefix of fields -> schema of the extension that defines them."""
ZARR_TYPE, PARQUET_TYPE = "application/vnd.zarr; version=3", "application/vnd.apache.parquet"
WORLD = (-180.0, -90.0, 180.0, 90.0)
RADAR_BANDS = ((0.25, "P"), (1, "L"), (2, "S"), (4, "C"), (8, "X"), (12, "Ku"), (18, "K"), (26.5, "Ka"))
"""Lowest frequency in GHz of each radar band (IEEE 521; P as the SAR extension has it)."""
MOST_CLASSES = 100
"""Longer lists of classes are left out; the attributes of the store contain them."""


def collection(facts: CardFacts) -> dict[str, Any]:
    """STAC collection of a store, JSON-ready."""
    body = {
        "id": facts.identifier,
        "title": facts.name,
        "description": description(facts),
        "keywords": _keywords(facts),
        "license": facts.licences[0].spdx if _one_known(facts) else "other",
        "providers": [
            {
                "name": "MMEarth toolkit",
                "description": f"Built the store with mmearth {facts.summary.code_version}.",
                "roles": ["processor"],
            }
        ],
        "extent": _extent(facts),
        "summaries": _summaries(facts),
        "links": list(_links(facts)),
        "assets": {**_tables(facts), **{m.name: _array(m, facts) for m in facts.stored}},
        "item_assets": {
            "zarr": {"title": "Zarr group with all tiles", "type": ZARR_TYPE, "roles": ["data"], **_gsd(facts, True)}
        },
        "sci:publications": _publications(facts),
        "cube:dimensions": _dimensions(facts),
        "cube:variables": _variables(facts),
    }
    filled = {name: value for name, value in body.items() if value}
    return {
        "type": "Collection",
        "stac_version": VERSION,
        "stac_extensions": used_extensions(filled, EXTENSIONS),
        **filled,
    }


def _keywords(facts: CardFacts) -> list[str]:
    made = ["synthetic"] if facts.summary.synthetic else []
    return ["earth observation", "multi-modal", "machine learning", *made, *(m.long_name for m in facts.stored)]


def _one_known(facts: CardFacts) -> bool:
    """Whether all data have the same licence, and SPDX lists it."""
    return len(facts.licences) == 1 and not facts.licences[0].spdx.startswith("LicenseRef-")


# ---------------------------------------------------------------- extents and summaries


def _extent(facts: CardFacts) -> dict[str, Any]:
    found = facts.extents
    interval = [None, None] if found is None else [_moment(found.start), _moment(found.end)]
    bbox = list(WORLD if found is None else found.bbox)
    return {"spatial": {"bbox": [bbox]}, "temporal": {"interval": [interval]}}


def _moment(time: np.datetime64 | None) -> str | None:
    return None if time is None else f"{np.datetime_as_string(time, unit='ms')}Z"


def _summaries(facts: CardFacts) -> dict[str, Any]:
    s = facts.summary
    found = {
        **({} if s.pixel_m is None else {"gsd": [s.pixel_m]}),
        "proj:code": [f"EPSG:{code}" for code in facts.codes],
        "proj:shape": [[s.size_px, s.size_px]],
        "split": [name for name in SPLIT_NAMES.values() if s.splits.get(name)],
        "s2_level": [name for name in LEVEL_NAMES.values() if s.levels.get(name)],
        "year": list(facts.years),
        "biome": [row.name for row in facts.biomes if row.tiles],
    }
    return {name: values for name, values in found.items() if values}


# ---------------------------------------------------------------- links and assets


def _links(facts: CardFacts) -> Iterator[dict[str, str]]:
    yield {"rel": "items", "href": facts.links.to(TILES_KEY), "type": PARQUET_TYPE, "title": "Tiles (stac-geoparquet)"}
    for use in facts.licences:
        if use.url:
            yield {"rel": "license", "href": use.url, "title": f"{use.name}: {', '.join(use.modalities)}"}
    for publication in _publications(facts):
        yield {"rel": "cite-as", "href": f"https://doi.org/{publication['doi']}"}
    pages = {m.source: m.long_name for m in facts.stored if m.source}
    yield from ({"rel": "about", "href": page, "title": name} for page, name in pages.items())


def _publications(facts: CardFacts) -> list[dict[str, str]]:
    names: dict[str, list[str]] = {}
    for m in facts.stored:
        if m.doi:
            names.setdefault(m.doi, []).append(m.long_name)
    return [{"doi": doi, "citation": ", ".join(titles)} for doi, titles in names.items()]


def _tables(facts: CardFacts) -> dict[str, Any]:
    return {
        "store": {"href": facts.links.to(), "title": "Zarr group", "type": ZARR_TYPE, "roles": ["data"]},
        "tiles": {
            "href": facts.links.to(TILES_KEY),
            "title": "Tiles as stac-geoparquet",
            "type": PARQUET_TYPE,
            "roles": ["collection-mirror"],
        },
        "rejected": {
            "href": facts.links.to(REJECTED_KEY),
            "title": "Rejected candidate locations",
            "type": PARQUET_TYPE,
            "roles": ["metadata"],
        },
    }


def _gsd(facts: CardFacts, has_pixels: bool) -> dict[str, Any]:
    pixel_m = facts.summary.pixel_m
    return {"gsd": pixel_m} if has_pixels and pixel_m is not None else {}


def _array(m: Modality, facts: CardFacts) -> dict[str, Any]:
    """Asset of one array."""
    asset: dict[str, Any] = {
        "href": facts.links.to(m.name),
        "title": m.long_name,
        "description": f"{m.licence.attribution} ({m.licence.name})",
        "type": ZARR_TYPE,
        "roles": ["data"],
        **_gsd(facts, m.kind.is_raster),
        **_values(m),
        "bands": [_band(m, band, facts) for band in m.bands],
        **_classes(m),
    }
    if m.frequency_ghz is not None:
        asset["sar:frequency_band"] = "".join([name for low, name in RADAR_BANDS if low <= m.frequency_ghz][-1:])
        asset["sar:center_frequency"] = m.frequency_ghz
    return {name: value for name, value in asset.items() if value not in ([], "")}


def _values(m: Modality) -> dict[str, Any]:
    """Type, missing value, unit and scale of an array's numbers."""
    found: dict[str, Any] = {"data_type": m.dtype.name, "nodata": "nan" if math.isnan(m.nodata) else m.nodata}
    if not m.band_units and m.units != "1":
        found["unit"] = m.units
    scale = {"raster:scale": (m.scale, 1), "raster:offset": (m.offset, 0)}
    return found | {name: value for name, (value, none) in scale.items() if value != none}


def _band(m: Modality, band: str, facts: CardFacts) -> dict[str, Any]:
    found: dict[str, Any] = {"name": band}
    if band in m.band_units:
        found["unit"] = m.band_units[band]
    if band in m.wavelengths:
        seen = m.wavelengths[band]
        found |= {"eo:center_wavelength": seen.centre_um, "eo:full_width_half_max": seen.width_um}
    if band in m.native_m:
        found["raster:spatial_resolution"] = m.native_m[band]
    return found | _statistics(m, band, facts)


def _statistics(m: Modality, band: str, facts: CardFacts) -> dict[str, Any]:
    """Statistics of a band over all tiles, if they do not depend on the product level."""
    levels = facts.store.statistics["all"].get(m.name, {})
    figures: Mapping[str, Any] = levels[next(iter(levels))].get(band, {}) if len(levels) == 1 else {}
    if not figures.get("count"):
        return {}
    names = {"minimum": "min", "maximum": "max", "mean": "mean", "stddev": "std", "count": "count"}
    return {"statistics": {name: figures[ours] for name, ours in names.items()}}


def _classes(m: Modality) -> dict[str, Any]:
    labels = (ClassLabel(ABSENT, "absent"), ClassLabel(PRESENT, "present")) if m.kind.is_multi_label else m.classes
    if not 0 < len(labels) <= MOST_CLASSES:
        return {}
    words = flag_words([label.name for label in labels])
    return {
        "classification:classes": [
            {
                "value": label.code,
                "name": "".join(c if c.isalnum() or c in "-_" else "_" for c in word),
                "title": label.name,
                **({"color_hint": label.colour[1:].upper()} if label.colour else {}),
            }
            for label, word in zip(labels, words, strict=True)
        ]
    }


# ---------------------------------------------------------------- data cube


def _dimensions(facts: CardFacts) -> dict[str, Any]:
    """Dimensions of the arrays: the tiles are the geometries of a vector data cube, and pixels are counted within a tile."""
    bbox = list(WORLD if facts.extents is None else facts.extents.bbox)
    pixels = [0, facts.summary.size_px - 1]
    found: dict[str, Any] = {
        "tile": {
            "type": "geometry",
            "axes": ["x", "y"],
            "bbox": bbox,
            "geometry_types": ["Polygon", "MultiPolygon"],
            "reference_system": 4326,
            "description": f"Tiles, in {facts.store.layout.tiles:,} rows; rows with tile_id 0 are empty",
        }
    }
    if facts.rasters:
        pixel_m = facts.summary.pixel_m
        grid = f"of {pixel_m} m, in the coordinate reference system of the tile (array epsg)"
        grid = "of the tile, whose pixel size is not known" if pixel_m is None else grid
        found["y"] = {
            "type": "row",
            "extent": pixels,
            "step": 1,
            "description": f"Rows {grid}, counted from its northern edge",
        }
        found["x"] = {
            "type": "column",
            "extent": pixels,
            "step": 1,
            "description": f"Columns {grid}, counted from its western edge",
        }
    return found | {f"{m.name}_band": {"type": "bands", "values": list(m.bands)} for m in facts.stored if m.bands}


def _variables(facts: CardFacts) -> dict[str, Any]:
    specs = {spec.name: spec for spec in facts.store.layout.arrays}
    data = {m.name: _variable(list(specs[m.name].dimensions), "data", m.long_name, _unit(m)) for m in facts.stored}
    coordinates = {
        c.name: _variable(["tile"], "auxiliary", str(c.attributes["long_name"]), str(c.attributes.get("units", "")))
        for c in COORDINATES
    }
    return {**data, **coordinates}


def _unit(m: Modality) -> str:
    return "" if m.band_units or m.classes else stored_units(m)


def _variable(dimensions: list[str], kind: str, text: str, unit: str) -> dict[str, Any]:
    return {
        "dimensions": dimensions,
        "type": kind,
        "description": text,
        **({"unit": unit} if unit not in ("", "1") else {}),
    }
