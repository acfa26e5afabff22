"""Requests about stored assets without an expression: lists of images, and rows of tables, that pass a textual query.

The query is a conjunction in the syntax of https://google.aip.dev/160, over the fields named in the REST reference.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mmearth_data.emulator.algorithms.filters import TIME, Filter, Query, Sides, all_of, compare
from mmearth_data.emulator.algorithms.texts import COMPARISONS
from mmearth_data.emulator.assets.directory import image_entry
from mmearth_data.emulator.assets.tables import sliced
from mmearth_data.emulator.errors import EmulatorError
from mmearth_data.emulator.graph.values import parse_date

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmearth_data.emulator.algorithms.collections import Collection
    from mmearth_data.emulator.graph.registry import Context, Value

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
