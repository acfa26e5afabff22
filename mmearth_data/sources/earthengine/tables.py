"""Ecoregions from Earth Engine: fetched in pages, simplified, and cached in the user's cache folder."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import ee

from mmearth_data.catalog.tile import WGS84
from mmearth_data.errors import FileInputError
from mmearth_data.geography.ecoregions import ecoregions_of, keep, read_kept
from mmearth_data.resources import cache_folder
from mmearth_data.sources.earthengine.expressions import Template, hole
from mmearth_data.sources.earthengine.failures import TooMuch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from geopandas import GeoDataFrame

    from mmearth_data.catalog.entries import Catalog

ASSET, ID, NAME = "RESOLVE/ECOREGIONS/2017", "ECO_ID", "ECO_NAME"
RECIPE = "ecoregion"
"""Recipe of the modalities that are labels of these polygons."""
SIMPLIFY_M = 100
PAGE = 50
"""Polygons per request; halved if their outlines are too large for one answer."""
FORMAT = "1"


def ecoregion_table(catalog: Catalog) -> str:
    """Asset of the ecoregions, as the catalog names it."""
    named = [m for m in catalog.modalities.values() if m.recipe.get("name") == RECIPE and m.asset]
    return next(iter(named[-1].asset.values())) if named else ASSET


def fetch_ecoregions(
    compute_value: Callable[[str], Any],
    compute_features: Callable[[str, dict[str, Any]], dict[str, Any]],
    asset: str,
) -> GeoDataFrame:
    """Fetch all polygons of a table: RESOLVE's or a copy of it.

    Returns
    -------
    GeoDataFrame
        Same form as from `mmearth_data.geography.ecoregions.read_ecoregions`.
    """
    import geopandas as gpd
    from shapely.geometry import shape

    table = ee.FeatureCollection(asset)
    ids = sorted(set(compute_value(Template(table.aggregate_array(ID)).fill({}))))
    page = table.filter(ee.Filter.inList(ID, hole("ids"))).select([ID, NAME])
    template = Template(page.map(lambda feature: feature.simplify(SIMPLIFY_M)))
    names, outlines = [], []
    for start in range(0, len(ids), PAGE):
        for feature in _features(template, ids[start : start + PAGE], compute_features):
            if feature.get("geometry"):
                names.append(str(feature["properties"][NAME]))
                outlines.append(shape(feature["geometry"]))
    return ecoregions_of(gpd.GeoDataFrame({NAME: names}, geometry=outlines, crs=WGS84), asset)


def _features(
    template: Template, ids: list[Any], compute_features: Callable[[str, dict[str, Any]], dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    token = ""
    try:
        pages = []
        while True:
            answer = compute_features(template.fill({"ids": ids}), {"pageToken": token} if token else {})
            pages.append(answer.get("features", []))
            token = answer.get("nextPageToken", "")
            if not token:
                break
    except TooMuch:
        if len(ids) == 1:
            raise
        middle = len(ids) // 2
        yield from _features(template, ids[:middle], compute_features)
        yield from _features(template, ids[middle:], compute_features)
        return
    for page in pages:
        yield from page


def cached_ecoregions(asset: str) -> GeoDataFrame | None:
    """Ecoregions cached by an earlier run, or None."""
    path = _cache_path(asset)
    frame = read_kept(path)
    try:
        return None if frame is None else ecoregions_of(frame, str(path))
    except FileInputError:  # not in the expected form: fetched again
        return None


def keep_ecoregions(ecoregions: GeoDataFrame, asset: str) -> None:
    """Cache ecoregions for the next run; without effect if the folder is not writable."""
    keep(ecoregions, _cache_path(asset))


def _cache_path(asset: str) -> Path:
    digest = hashlib.blake2b(f"{FORMAT} {asset} {SIMPLIFY_M}".encode(), digest_size=8).hexdigest()
    return cache_folder() / "ecoregions" / f"earthengine-{digest}.parquet"
