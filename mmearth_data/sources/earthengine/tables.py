"""Ecoregions from Earth Engine: fetched in pages, simplified, and cached in the user's cache folder."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import ee

from mmearth_data.catalog.tile import WGS84
from mmearth_data.errors import FileInputError, InputError
from mmearth_data.geography.ecoregions import ecoregions_of, keep, read_kept
from mmearth_data.resources import cache_folder
from mmearth_data.sources.earthengine.expressions import Template, hole
from mmearth_data.sources.earthengine.failures import TooMuch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from geopandas import GeoDataFrame
    from shapely.geometry.base import BaseGeometry

    from mmearth_data.catalog.entries import Catalog
    from mmearth_data.sources.earthengine.ledger import Ledger
    from mmearth_data.sources.earthengine.quota import Limiter
    from mmearth_data.sources.earthengine.session import Session

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


@dataclass(frozen=True, slots=True)
class _Page:
    """One answer about the polygons of a table."""

    ids: frozenset[Any]  # Ids of its polygons
    polygons: list[tuple[str, BaseGeometry]]  # Their names and outlines, without those that have no outline
    token: str  # Token of the next page; empty on the last one


def fetch_ecoregions(session: Session, asset: str, limiter: Limiter, ledger: Ledger) -> GeoDataFrame:
    """Fetch all polygons of a table: RESOLVE's or a copy of it.

    Returns
    -------
    GeoDataFrame
        Same form as from `mmearth_data.geography.ecoregions.read_ecoregions`.
    """
    import geopandas as gpd

    table = ee.FeatureCollection(asset)
    ids = session.compute_value(Template(table.aggregate_array(ID)).fill({}), limiter, ledger, decode=_ids)
    if not ids:
        raise InputError(
            f"Earth Engine: expected polygons with the property {ID} in the table {asset!r}, got none; choose another "
            "table with --asset eco_region=ID, or pass --ecoregions FILE."
        )
    page = table.filter(ee.Filter.inList(ID, hole("ids"))).select([ID, NAME])
    template = Template(page.map(lambda feature: feature.simplify(SIMPLIFY_M)))

    def ask(ids: list[Any], token: str, decode: Callable[[Any], _Page]) -> _Page:
        fields = {"pageToken": token} if token else {}
        return session.compute_features(template.fill({"ids": ids}), fields, decode, limiter, ledger)

    found = [polygon for start in range(0, len(ids), PAGE) for polygon in _polygons(ids[start : start + PAGE], ask)]
    names, outlines = [name for name, _ in found], [outline for _, outline in found]
    return ecoregions_of(gpd.GeoDataFrame({NAME: names}, geometry=outlines, crs=WGS84), asset)


def _ids(result: Any) -> list[Any]:  # noqa: ANN401 - JSON
    """Ids of a table, in order, without duplicates."""
    if not isinstance(result, list):
        raise ValueError(f"expected a list of ids, got {str(result)[:80]!r}")  # noqa: TRY004 - as for any other answer
    return sorted(set(result))


def _polygons(
    ids: list[Any], ask: Callable[[list[Any], str, Callable[[Any], _Page]], _Page]
) -> list[tuple[str, BaseGeometry]]:
    """Names and outlines of the polygons with these ids, in as many requests as their size requires."""
    pages: list[_Page] = []
    try:
        while not pages or pages[-1].token:
            token = pages[-1].token if pages else ""
            missing = frozenset(ids).difference(*(page.ids for page in pages))
            pages.append(ask(ids, token, partial(_page, token=token, missing=missing)))
    except TooMuch:
        if len(ids) == 1:
            raise
        middle = len(ids) // 2
        return _polygons(ids[:middle], ask) + _polygons(ids[middle:], ask)
    return [polygon for page in pages for polygon in page.polygons]


def _page(answer: Any, token: str, missing: frozenset[Any]) -> _Page:  # noqa: ANN401 - JSON
    """Read the page with a token. If it is the last page, it must contain all ids that are still ``missing``."""
    from shapely.geometry import shape

    features, following = answer.get("features", []), answer.get("nextPageToken", "")
    ids = frozenset(feature["properties"][ID] for feature in features)
    if not following and not missing <= ids:
        raise ValueError(f"expected polygons with the {ID} {sorted(missing - ids)[:5]}, got none")
    if following and following == token:
        raise ValueError(f"expected another page than {token!r}, got the same")
    polygons = [(str(f["properties"].get(NAME)), shape(f["geometry"])) for f in features if f.get("geometry")]
    return _Page(ids, polygons, following)


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
