"""Croissant 1.1 metadata of a store, with the fields of GeoCroissant 1.0 and of Croissant's vocabulary for responsible AI.

Record sets: the table of tiles, which Croissant libraries can read; the classes of its labels; and the paths of the raster
arrays with their bands. Reading rasters requires a Zarr library, since Croissant cannot describe how to decode Zarr.
https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html, https://docs.mlcommons.org/croissant/docs/croissant-geo-spec.html,
https://docs.mlcommons.org/croissant/docs/croissant-rai-spec.html.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmearth_data.catalog.modality import ABSENT, PRESENT
from mmearth_data.inspection.cards import wording
from mmearth_data.pages.markdown import CITATION
from mmearth_data.store.schema import COORDINATES, SPLIT_NAMES, TILES_KEY, stored_units, tabular_columns

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa

    from mmearth_data.catalog.modality import Modality
    from mmearth_data.inspection.cards.facts import CardFacts

NAME = "croissant.json"
CONFORMS_TO = (
    "http://mlcommons.org/croissant/1.1",
    "http://mlcommons.org/croissant/geo/1.0",
    "http://mlcommons.org/croissant/RAI/1.0",
)
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "annotation": "cr:annotation",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "geocr": "http://mlcommons.org/croissant/geo/",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The context of the specification, appendix 1, with https for schema.org and the prefixes of both vocabularies."""
PARQUET_TYPES = ("application/vnd.apache.parquet", "application/x-parquet")
"""The registered media type, and the one that Croissant libraries recognise."""
ZARR_TYPE = "application/vnd.zarr; version=3"
TILES, RASTERS, SPLITS = "tiles", "rasters", "splits"
"""Names of record sets."""
KEYS = ("tile_id", "time", "datetime")
"""Columns that identify a tile: its id and its time. The name of the latter depends on the release that wrote the table."""


def croissant(facts: CardFacts) -> dict[str, Any]:
    """Croissant metadata of a store, JSON-ready."""
    body = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": list(CONFORMS_TO),
        "name": facts.name,
        "identifier": facts.identifier,
        "description": wording.description(facts),
        "license": [use.url for use in facts.licences if use.url],
        "version": f"1.{len(facts.store.attributes.get('appended') or [])}.0",
        "citeAs": CITATION,
        "keywords": ["earth observation", "multi-modal", *(m.long_name for m in facts.stored)],
        "isLiveDataset": False,
        **_coverage(facts),
        **_geo(facts),
        **_responsible(facts),
        "distribution": list(_distribution(facts)),
        "recordSet": [_tiles(facts), _splits(), *_classes(facts), *_rasters(facts)],
    }
    return {name: value for name, value in body.items() if value not in ("", [], None)}


# ---------------------------------------------------------------- the data set as a whole


def _coverage(facts: CardFacts) -> dict[str, Any]:
    found, s = facts.extents, facts.summary
    coverage: dict[str, Any] = {}
    if found is not None:
        west, south, east, north = found.bbox
        # schema.org: lower left corner, then upper right one, each latitude first.
        shape = {"@type": "sc:GeoShape", "box": f"{south:g} {west:g} {north:g} {east:g}"}
        coverage["spatialCoverage"] = {"@type": "sc:Place", "geo": shape}
    if s.first_scene is not None:
        coverage["temporalCoverage"] = f"{s.first_scene}/{s.last_scene}"
    return coverage


def _geo(facts: CardFacts) -> dict[str, Any]:
    bands = [(m, band) for m in facts.rasters for band in m.bands]
    return {
        "geocr:coordinateReferenceSystem": _reference_system(facts),
        **({} if facts.summary.pixel_m is None else {"geocr:spatialResolution": _quantity(facts.summary.pixel_m, "m")}),
        "geocr:samplingStrategy": " ".join(text.replace("`", "") for text in wording.sampling(facts)),
        "geocr:spatialBias": wording.bias(facts),
        "geocr:bandConfiguration": _band_configuration([f"{m.name}/{band}" for m, band in bands]),
        "geocr:spectralBandMetadata": [
            _spectral_band(m, band, f"{m.name}/{band}") for m, band in bands if band in m.wavelengths
        ],
    }


def _reference_system(facts: CardFacts) -> str:
    """Name the coordinate reference systems of the outlines and of the pixels."""
    if len(facts.codes) == 1:
        return f"EPSG:{facts.codes[0]}"
    each = (
        f"; pixels are in the system of their tile, see the column epsg ({len(facts.codes)} systems)"
        if facts.codes
        else ""
    )
    return f"EPSG:4326{each}"


def _responsible(facts: CardFacts) -> dict[str, Any]:
    made = wording.SYNTHETIC if facts.summary.synthetic else ""
    collected = " ".join(text.replace("`", "") for text in (made, *wording.sampling(facts)))
    found = {
        "rai:dataCollection": collected.strip(),
        "rai:dataCollectionMissingData": wording.missing(facts),
        "rai:dataBiases": [wording.bias(facts)],
        "rai:dataLimitations": list(wording.limits(facts)),
        "rai:hasSyntheticData": facts.summary.synthetic,
    }
    return {name: value for name, value in found.items() if value not in ("", [""], [])}


def _quantity(value: float, unit: str) -> dict[str, Any]:
    return {"@type": "sc:QuantitativeValue", "value": value, "unitText": unit}


def _band_configuration(names: Sequence[str]) -> dict[str, Any]:
    return {"@type": "geocr:BandConfiguration", "geocr:totalBands": len(names), "geocr:bandNameList": list(names)}


def _spectral_band(m: Modality, band: str, name: str) -> dict[str, Any]:
    seen = m.wavelengths[band]
    return {
        "@type": "geocr:SpectralBand",
        "name": name,
        "geocr:centerWavelength": _quantity(round(1000 * seen.centre_um, 3), "nm"),
        "geocr:bandwidth": _quantity(round(1000 * seen.width_um, 3), "nm"),
    }


# ---------------------------------------------------------------- files


def _distribution(facts: CardFacts) -> Iterator[dict[str, Any]]:
    yield {
        "@type": "cr:FileObject",
        "@id": TILES_KEY,
        "name": TILES_KEY,
        "description": "GeoParquet with one row per tile: location, time, split, labels and outline.",
        "contentUrl": facts.links.plain(TILES_KEY),
        "contentSize": f"{facts.tiles.size} B",
        "encodingFormat": list(PARQUET_TYPES),
        "sha256": facts.tiles.sha256,
    }
    yield {
        "@type": "cr:FileSet",
        "@id": "arrays",
        "name": "arrays",
        "description": "Zarr group: metadata, and the chunks and shards of all arrays.",
        "encodingFormat": ZARR_TYPE,
        "includes": [facts.links.plain(pattern) for pattern in ("zarr.json", "*/zarr.json", "*/c/**")],
    }


# ---------------------------------------------------------------- record sets


def _tiles(facts: CardFacts) -> dict[str, Any]:
    about = _columns(facts)
    return {
        "@type": "cr:RecordSet",
        "@id": TILES,
        "name": TILES,
        "description": "Tiles of the store; the column row gives the row of the tile in the arrays.",
        "key": [{"@id": f"{TILES}/{name}"} for name in facts.tiles.schema.names if name in KEYS],
        "field": [
            _column(field, about.get(field.name, ""))
            for field in facts.tiles.schema
            if _data_type(field.type) is not None
        ],
    }


def _column(field: pa.Field, text: str) -> dict[str, Any]:
    found = {
        "@type": "cr:Field",
        "@id": f"{TILES}/{field.name}",
        "name": field.name,
        "description": text,
        "dataType": _data_type(field.type),
        "source": {"fileObject": {"@id": TILES_KEY}, "extract": {"column": field.name}},
    }
    return {name: value for name, value in found.items() if value}


def _columns(facts: CardFacts) -> dict[str, str]:
    """Descriptions of the columns of the table of tiles."""
    found = {c.name: str(c.attributes["long_name"]) for c in COORDINATES}
    for m in facts.store.layout.tabular:
        for column, band in zip(tabular_columns(m), m.bands or ("",), strict=True):
            unit = m.units_of(band)
            found[column] = f"{m.long_name}: {band}" if band else m.long_name
            found[column] += f", {unit}" if unit != "1" and not m.classes else ""
            found[column] += _codes_of(m)
    found["split"] += f"; codes as in the record set {SPLITS}"
    return found | {
        "row": "row of the tile in the arrays",
        "id": "tile id as text of 16 hex digits",
        "datetime": found["time"],
        "collection": "identifier of the STAC collection",
        "proj:code": "coordinate reference system of the tile",
        "facts": "scene ids and other metadata of the source, as JSON text",
        "geometry": "outline of the tile (WKB, EPSG:4326)",
    }


def _codes_of(m: Modality) -> str:
    """Meaning of the codes of a label, as the end of a description."""
    if m.kind.is_multi_label:
        return f"; {PRESENT} if present, {ABSENT} if absent, {m.nodata:g} if not observed"
    return f"; codes as in the record set {_class_set(m)}" if m.classes else ""


def _data_type(kind: pa.DataType) -> str | None:
    """Croissant data type of a column; None for nested columns."""
    import pyarrow as pa

    if pa.types.is_nested(kind):
        return None
    checks = (
        (pa.types.is_boolean, "sc:Boolean"),
        (pa.types.is_timestamp, "sc:DateTime"),
        (pa.types.is_date, "sc:Date"),
        (pa.types.is_integer, f"cr:{_number(kind)}"),
        (pa.types.is_floating, f"cr:{_number(kind)}"),
    )
    return next((name for check, name in checks if check(kind)), "sc:Text")


def _number(kind: pa.DataType) -> str:
    """Croissant's name of a number type: ``UInt8``, ``Int64``, ``Float32``."""
    name = str(kind).replace("double", "float64").replace("halffloat", "float16")
    name = "float32" if name == "float" else name
    return name.replace("uint", "UInt").replace("int", "Int").replace("float", "Float")


def _splits() -> dict[str, Any]:
    named = {"train": "cr:TrainingSplit", "val": "cr:ValidationSplit", "test": "cr:TestSplit"}
    rows = [
        {f"{SPLITS}/code": code, f"{SPLITS}/name": name, f"{SPLITS}/url": named[name]}
        for code, name in SPLIT_NAMES.items()
    ]
    fields = {"code": "cr:UInt8", "name": "sc:Text", "url": "sc:URL"}
    return _inline(SPLITS, "cr:Split", "Codes and names of the column split.", fields, rows)


def _classes(facts: CardFacts) -> Iterator[dict[str, Any]]:
    """Record sets with the classes of the labels of tiles."""
    for m in facts.store.layout.tabular:
        if m.kind.is_categorical:
            name = _class_set(m)
            rows = [{f"{name}/code": label.code, f"{name}/name": label.name} for label in m.classes]
            fields = {"code": "sc:Integer", "name": "sc:Text"}
            yield _inline(name, "sc:Enumeration", f"Classes of the label {m.long_name}.", fields, rows)


def _class_set(m: Modality) -> str:
    return f"{m.name}-classes"


def _inline(
    name: str, kind: str, text: str, fields: Mapping[str, str], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Record set whose records are part of the metadata."""
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": text,
        "dataType": kind,
        "key": {"@id": f"{name}/code"},
        "field": [
            {"@type": "cr:Field", "@id": f"{name}/{field}", "name": field, "dataType": data_type}
            for field, data_type in fields.items()
        ],
        "data": list(rows),
    }


def _rasters(facts: CardFacts) -> Iterator[dict[str, Any]]:
    """Record set of one record, the paths of the raster arrays; its fields describe their content."""
    if facts.rasters:
        yield {
            "@type": "cr:RecordSet",
            "@id": RASTERS,
            "name": RASTERS,
            "description": "Paths of the raster arrays in the Zarr group; open them with a Zarr library.",
            "field": [_raster(m, facts) for m in facts.rasters],
            "data": [{f"{RASTERS}/{m.name}": facts.links.plain(m.name) for m in facts.rasters}],
        }


def _raster(m: Modality, facts: CardFacts) -> dict[str, Any]:
    size = facts.summary.size_px
    shape = f"({facts.store.layout.tiles:,}, {len(m.bands)}, {size}, {size})"
    unit = "" if m.classes or m.band_units or stored_units(m) == "1" else f", in units of {stored_units(m)}"
    field = {
        "@type": "cr:Field",
        "@id": f"{RASTERS}/{m.name}",
        "name": m.name,
        "description": (
            f"{m.long_name}: {m.dtype.name} array {shape}{unit}, with the axes tile, band, y and x; no-data value {m.nodata:g}."
        ),
        "dataType": "sc:Text",
        "geocr:bandConfiguration": _band_configuration(m.bands),
        "geocr:spectralBandMetadata": [_spectral_band(m, band, band) for band in m.wavelengths],
    }
    return {name: value for name, value in field.items() if value}
