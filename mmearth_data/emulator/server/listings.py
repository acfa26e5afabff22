"""Answers that list assets or elements: pages, files of tables, and textual queries about stored assets.

The query is a conjunction in the syntax of https://google.aip.dev/160, over the fields named in the REST reference.
"""

from __future__ import annotations

import csv
import io
import json
import re
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

from mmearth_data.emulator.algorithms.features import INDEX, Feature, geometry_of
from mmearth_data.emulator.algorithms.filters import TIME, Filter, Query, Sides, all_of, compare
from mmearth_data.emulator.algorithms.geometry import Geometry, to_geojson
from mmearth_data.emulator.algorithms.image import WGS84
from mmearth_data.emulator.algorithms.texts import COMPARISONS
from mmearth_data.emulator.assets.directory import image_entry
from mmearth_data.emulator.errors import EmulatorError, not_emulated
from mmearth_data.emulator.graph.registry import encode
from mmearth_data.emulator.graph.values import parse_date

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmearth_data.emulator.algorithms.collections import Collection
    from mmearth_data.emulator.graph.registry import Context, Value

LARGEST_PAGE = 1000
GEO = ".geo"
BASIC = ("type", "name", "id")
END = "system:time_end"
TERM = re.compile(
    r"""\s*(?:intersects\(\s*"(?P<shape>[^"]*)"\s*\)
    |(?P<field>startTime|endTime|properties\.[\w:.]+|"properties\.[^"]+")\s*(?P<sign><=|>=|!=|=|<|>)\s*
     (?:"(?P<text>[^"]*)"|'(?P<quoted>[^']*)'|(?P<bare>[^\s"'()]+)))\s*""",
    re.VERBOSE,
)
SIGNS = {"=" if sign == "==" else sign: name for sign, name in COMPARISONS.items()}


def image_list(collection: Collection, query: Mapping[str, str], context: Context) -> dict[str, Any]:
    """Answer of ``listAssets`` for an image collection."""
    if text := query.get("filter"):
        collection = collection.where(query_filter(text, context))
    images, following = sliced(collection, query.get("pageSize"), query.get("pageToken"))
    entries = [image_entry(image, str(image.id)) for image in images]
    if query.get("view") == "BASIC":
        entries = [{key: entry[key] for key in BASIC} for entry in entries]
    return {"assets": entries, **following}


def query_filter(text: str, context: Context) -> Filter:
    """Filter of a query such as ``startTime >= "2019-01-01T00:00:00Z" AND properties.MGRS_TILE = "32TMT"``."""
    terms, at = [], 0
    while True:
        term = TERM.match(text, at)
        if term is None:
            raise EmulatorError(
                f"Invalid filter: '{text[at:]}'. The emulator supports startTime, endTime and properties.NAME with "
                '= != < <= > >= and intersects("GEOJSON"), joined by AND.'
            )
        terms.append(_term(term, context))
        if term.end() == len(text):
            return all_of(terms)
        joined = re.compile("AND\\b|,").match(text, term.end())
        at = joined.end() if joined else term.end()


def _term(term: re.Match[str], context: Context) -> Filter:
    if term["shape"] is not None:
        return region_filter(term["shape"], context)
    name, sign = term["field"].strip('"'), term["sign"]
    texts = [text for text in term.group("text", "quoted", "bare") if text is not None]
    if name in {"startTime", "endTime"}:
        return _time_filter(name, SIGNS[sign], parse_date(texts[0]))
    value: Value = texts[0]
    if term["bare"] is not None:
        with suppress(ValueError):
            value = float(value)
    return compare(SIGNS[sign], Sides(name.removeprefix("properties."), value, None, None))


def _time_filter(name: str, comparison: str, ms: int) -> Filter:
    if name == "startTime":
        return compare(comparison, Sides(TIME, ms, None, None))
    # An image without an end time ends when it starts; anything that ends before a time has started before it.
    ends, starts = (compare(comparison, Sides(key, ms, None, None)) for key in (END, TIME))

    def test(left: Value, right: Value) -> bool:
        return (ends if END in left.properties else starts).test(left, right)

    return Filter(test, Query(end_ms=ms + 1) if comparison.startswith("less") else Query(), 0)


def region_filter(text: str, context: Context) -> Filter:
    """Filter by a region given as GeoJSON text; single quotes are accepted instead of double quotes."""
    try:
        geometry = context.promote(json.loads(text.replace("'", '"')), "Geometry")
    except ValueError:
        raise EmulatorError(f"Invalid region: expected GeoJSON, got '{text[:80]}'.") from None
    made = context.call("Filter.intersects", leftField=".all", rightValue=geometry)
    assert isinstance(made, Filter)
    return made


# ---------------------------------------------------------------- pages and files


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


def table_file(collection: Collection, kind: str, selectors: Sequence[str] | None) -> tuple[bytes, str]:
    """(body, content type) of a table as a CSV or GeoJSON file."""
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
