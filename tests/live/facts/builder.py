"""Facts about the builder's own requests, made by the builder itself."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from _asking import BACKOFF, IN_FLIGHT, Call, Server
from _fact import Equal, Fact, Source
from _world import LAT, LON

from mmearth_data.catalog.entries import load_catalog
from mmearth_data.catalog.tile import Place, tile_ids
from mmearth_data.errors import TileUnavailable
from mmearth_data.sources.base import Rejection, Survey
from mmearth_data.sources.earthengine.failures import REFUSED, TOO_LARGE, TooMuch
from mmearth_data.sources.earthengine.session import SessionOptions
from mmearth_data.sources.earthengine.source import EarthEngineSource
from mmearth_data.sources.earthengine.survey import SceneRules

TILE_PX = 64
BESIDE_DEG = 0.05
"""Distance of the second candidate to the west."""


def candidates() -> list[Place]:
    """Two locations: the town, and one next to it."""
    lons, lats = [LON, LON - BESIDE_DEG], [LAT, LAT]
    ids = tile_ids(lons, lats, TILE_PX)
    return [
        Place(tile_id=int(name), lon=lon, lat=lat, size_px=TILE_PX)
        for name, lon, lat in zip(ids, lons, lats, strict=True)
    ]


@lru_cache(maxsize=1)
def source_of(server: Server) -> EarthEngineSource:
    """Source of a build with all modalities of the catalog, on the server's session."""
    catalog = load_catalog()
    rules = SceneRules(seed=0, years=(2017, 2018, 2019, 2020), levels=("L2A", "L1C"), cloud_percent=10.0)
    options = SessionOptions(url=server.options.url, connections=IN_FLIGHT, backoff=BACKOFF)
    return EarthEngineSource(catalog, catalog.select(), rules, options)


@lru_cache(maxsize=1)
def surveyed(server: Server) -> list[Survey | Rejection]:
    """Answers of the survey."""
    return source_of(server).survey(candidates())


def accepted(server: Server) -> Survey:
    """First candidate with a scene; the message of the refusal if none has one."""
    answers = surveyed(server)
    for answer in answers:
        if isinstance(answer, Survey):
            return answer
    first = answers[0]
    assert isinstance(first, Rejection)
    raise (TooMuch if first.reason == TOO_LARGE else TileUnavailable)(first.reason, first.detail)


def preflight(server: Server) -> bool:
    """Whether a build with all modalities can start; the check before its first tile raises otherwise."""
    source_of(server).connect()
    return True


def survey(server: Server) -> list[str]:
    """Outcome of each candidate."""
    answers = surveyed(server)
    if all(isinstance(answer, Rejection) and answer.reason in {REFUSED, TOO_LARGE} for answer in answers):
        accepted(server)
    return ["scene" if isinstance(answer, Survey) else answer.reason for answer in answers]


def weather(server: Server) -> bool:
    """Whether each number of the survey matches the catalog."""
    found = accepted(server)
    wanted = {m.name: m for m in source_of(server).modalities(load_catalog().select()) if m.name in found.values}
    return all(found.values[name].shape == m.array_shape(TILE_PX) for name, m in wanted.items()) and bool(wanted)


def pixels(server: Server) -> list[str]:
    """Modalities whose array does not match the catalog."""
    found, source = accepted(server), source_of(server)
    modalities = [m for m in source.modalities(load_catalog().select()) if m.kind.is_raster]
    arrays = source.read(found, modalities)
    return [
        m.name for m in modalities if (arrays[m.name].shape, arrays[m.name].dtype) != (m.array_shape(TILE_PX), m.dtype)
    ]


def observed(server: Server) -> dict[str, bool]:
    """Whether the modalities available at every location were observed."""
    found, source = accepted(server), source_of(server)
    modalities = source.modalities(load_catalog().select(list(EVERYWHERE)))
    arrays: dict[str, Any] = source.read(found, modalities)
    return {m.name: bool(m.observed(arrays[m.name]).any()) for m in modalities}


EVERYWHERE = ("sentinel2", "sentinel1", "aster", "esa_worldcover", "dynamic_world")

FACTS = (
    Fact(
        "the builder",
        "a build with all modalities can start: its assets can be read",
        Source.GUIDE,
        lambda: Call(preflight),
        Equal(True),
    ),
    Fact(
        "the builder",
        "a survey of two candidates finds a scene for each",
        Source.GUIDE,
        lambda: Call(survey),
        Equal(["scene", "scene"]),
    ),
    Fact("the builder", "the survey returns the weather values", Source.GUIDE, lambda: Call(weather), Equal(True)),
    Fact(
        "the builder",
        "one request returns all raster modalities of a tile",
        Source.GUIDE,
        lambda: Call(pixels),
        Equal([]),
    ),
    Fact(
        "the builder",
        "modalities available everywhere are observed",
        Source.GUIDE,
        lambda: Call(observed),
        Equal(dict.fromkeys(EVERYWHERE, True)),
    ),
)
