"""Facts about the client's own calls and its handling of refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import ee
import requests
from _asking import Call, Server, Then
from _fact import Answered, Both, Equal, Fact, OneOf, Refused, Source
from _world import CANOPY, CRS, DEM, ECOREGIONS, ERA5, LAT, LON, WORLD_COVER, constant, point, reduced

from mmearth_data.errors import RetryLater
from mmearth_data.sources.earthengine.transport import Transport

CLIENT, GUIDE, ISSUE, MEMORY = Source.CLIENT, Source.GUIDE, Source.ISSUE, Source.MEMORY
WAIT_S = 120


def kinds_of_requests(act: Callable[[], object]) -> dict[str, bool]:
    """Kinds of requests that a call of the client makes."""
    seen: list[str] = []
    original = Transport.request

    def noted(self: Transport, uri: str, *arguments: Any, **more: Any) -> Any:
        seen.append(urlsplit(uri).path)
        return original(self, uri, *arguments, **more)

    Transport.request = noted  # type: ignore[method-assign]
    try:
        act()
    finally:
        Transport.request = original  # type: ignore[method-assign]
    return {
        "discovery": any("discovery" in path for path in seen),
        "algorithms": any(path.endswith("/algorithms") for path in seen),
        "values": any(path.endswith("value:compute") for path in seen),
    }


def signatures(server: Server) -> dict[str, bool]:
    """Kinds of requests made to fetch the service's functions, which is part of signing in."""

    def learn() -> None:
        ee.ApiFunction.reset()
        ee.ApiFunction.allSignatures()

    return kinds_of_requests(learn)


def deadline(server: Server) -> dict[str, bool]:
    """Kinds of requests made after setting a new deadline."""
    try:
        return kinds_of_requests(lambda: ee.data.setDeadline(300_000))
    finally:
        ee.data.setDeadline(0)


def hidden_error(server: Server) -> list[Any]:
    """Kind of the client's error, and kind and status of the one in its context."""
    try:
        ee.data.computeValue(ee.List([]).get(0))
    except ee.EEException as error:
        cause = error.__context__
        return [type(error).__name__, type(cause).__name__, int(cause.resp.status) if cause is not None else None]  # type: ignore[attr-defined]
    return ["answered"]


def restricted(server: Server) -> bool:
    """Whether the service announced restricted mode while the facts were checked."""
    server.value(ee.Number(1))
    found = server.session._transport.latest.restricted
    if found and server.options.url is None:
        raise RetryLater("this account is in restricted mode: beyond its monthly compute time")
    return found


def profile_heading(server: Server) -> str:
    """First line of the profile of a request; empty if the server has no profile."""
    ids: list[str] = []
    with ee.data.profiling(ids.append):
        ee.Number(1).add(1).getInfo()
    table = ee.ApiFunction.lookup("Profile.getProfiles").call(ids=ids).getInfo() if ids else ""
    return str(table).partition("\n")[0]


def fetched(url: str) -> list[Any]:
    """Status and content type of a URL returned by the client."""
    with requests.get(url, timeout=WAIT_S) as answer:
        return [answer.status_code, answer.headers.get("content-type", "").partition(";")[0]]


def picture() -> ee.Image:
    return constant(7)


GRID = {"region": [[LON, LAT], [LON + 0.001, LAT], [LON + 0.001, LAT + 0.001], [LON, LAT + 0.001], [LON, LAT]]}


def download(server: Server) -> list[Any]:
    options = {**GRID, "scale": 10, "crs": CRS, "format": "NPY", "filePerBand": False}
    return fetched(ee.data.makeDownloadUrl(ee.data.getDownloadId({"image": picture(), **options})))[:1]


def thumbnail(server: Server) -> list[Any]:
    return fetched(picture().getThumbURL({**GRID, "dimensions": 16, "min": 0, "max": 10, "format": "png"}))


def map_tile(server: Server) -> list[Any]:
    tiles = picture().getMapId({"min": 0, "max": 10})["tile_fetcher"]
    return fetched(tiles.format_tile_url(1, 0, 1))[:1]


def table_download(server: Server) -> list[Any]:
    table = ee.FeatureCollection([ee.Feature(point(), {"a": 1})])
    return fetched(table.getDownloadURL("csv"))[:1]


def tagged(server: Server) -> int:
    with ee.data.workloadTagContext("check-live"):
        found: int = ee.Number(1).add(1).getInfo()
        return found


def asset_type(asset: str) -> Call:
    return Call(lambda server: ee.data.getAsset(asset)["type"])


def page_of_table(server: Server) -> list[bool]:
    page = ee.data.computeFeatures(
        {"expression": ee.FeatureCollection(ECOREGIONS).select(["ECO_NAME"], None, False), "pageSize": 10}
    )
    return [len(page["features"]) == 10, bool(page.get("nextPageToken"))]


def listed_images(server: Server) -> list[str]:
    parameters = {
        "parent": f"projects/earthengine-public/assets/{ERA5}",
        "startTime": "2019-01-01T00:00:00Z",
        "endTime": "2019-03-02T00:00:00Z",
    }
    return sorted(image["id"].rpartition("/")[2] for image in ee.data.listImages(parameters)["images"])


def listed_assets(server: Server) -> bool:
    return len(ee.data.listAssets("projects/earthengine-public/assets/")["assets"]) > 3


METHODS = {
    "value": ("compute",),
    "image": ("computePixels", "export"),
    "table": ("computeFeatures", "export"),
    "assets": ("get", "listAssets", "listImages", "getPixels", "listFeatures"),
    "thumbnails": ("create", "getPixels"),
    "filmstripThumbnails": ("create", "getPixels"),
    "maps": ("create",),
    "tables": ("create", "getFeatures"),
    "operations": ("get", "list"),
    "algorithms": ("list",),
}
"""Resource of a project -> methods called by the client."""


def lacking_methods(server: Server) -> list[str]:
    """Methods missing from the service's discovery document."""
    project = ee.data._get_cloud_projects()
    groups = {name: getattr(project, name)() for name in METHODS if hasattr(project, name)}
    called = [(name, method) for name, methods in METHODS.items() for method in methods]
    return [f"{name}.{method}" for name, method in called if not hasattr(groups.get(name), method)]


def many_aggregations() -> ee.List:
    """Sixty aggregations in one request."""
    return ee.List.sequence(1, 60).map(lambda n: reduced(ee.Image.constant(ee.Number(n))))


FACTS = (
    Fact(
        "the client",
        "the functions are fetched when signing in",
        CLIENT,
        lambda: Call(signatures),
        Equal({"discovery": False, "algorithms": True, "values": False}),
    ),
    Fact(
        "the client",
        "a new deadline fetches the discovery document again",
        CLIENT,
        lambda: Call(deadline),
        Equal({"discovery": True, "algorithms": False, "values": False}),
    ),
    Fact(
        "the client",
        "the HTTP error is in the context of the client's error",
        CLIENT,
        lambda: Call(hidden_error),
        Equal(["EEException", "HttpError", 400]),
    ),
    Fact(
        "the client",
        "it retries five times by default",
        CLIENT,
        lambda: Call(lambda server: type(ee.data._get_state())().max_retries),
        Equal(5),
    ),
    Fact("the client", "the service has all methods it calls", CLIENT, lambda: Call(lacking_methods), Equal([])),
    Fact("calls of the client", "a download works", GUIDE, lambda: Call(download), Equal([200])),
    Fact(
        "calls of the client", "a thumbnail is a PNG image", GUIDE, lambda: Call(thumbnail), Equal([200, "image/png"])
    ),
    Fact("calls of the client", "a map tile is served", GUIDE, lambda: Call(map_tile), Equal([200])),
    Fact("calls of the client", "a table can be downloaded", GUIDE, lambda: Call(table_download), Equal([200])),
    Fact("calls of the client", "a workload tag is accepted", GUIDE, lambda: Call(tagged), Equal(2)),
    Fact("calls of the client", "an elevation is an image", GUIDE, lambda: asset_type(DEM), Equal("IMAGE")),
    Fact(
        "calls of the client",
        "WorldCover is a collection",
        GUIDE,
        lambda: asset_type(WORLD_COVER),
        Equal("IMAGE_COLLECTION"),
    ),
    Fact("calls of the client", "ecoregions are a table", GUIDE, lambda: asset_type(ECOREGIONS), Equal("TABLE")),
    Fact("calls of the client", "tables are paged", GUIDE, lambda: Call(page_of_table), Equal([True, True])),
    Fact(
        "calls of the client",
        "images of a collection are listed by time",
        GUIDE,
        lambda: Call(listed_images),
        Equal(["201901", "201902"]),
    ),
    Fact(
        "calls of the client",
        "the public catalog can be listed",
        GUIDE,
        lambda: Call(listed_assets),
        Equal(True),
        Both.NOT,
    ),
    Fact("asset names", "an asset is found by its legacy name", ISSUE, lambda: asset_type(CANOPY), Equal("IMAGE")),
    Fact(
        "asset names",
        "an asset is found by the longer form of its legacy name",
        MEMORY,
        lambda: asset_type(f"projects/earthengine-legacy/assets/{CANOPY}"),
        Equal("IMAGE"),
    ),
    Fact(
        "asset names",
        "an asset is found by its public name",
        GUIDE,
        lambda: asset_type(f"projects/earthengine-public/assets/{WORLD_COVER}"),
        Equal("IMAGE_COLLECTION"),
    ),
    Fact(
        "refusals",
        "a missing asset is refused",
        GUIDE,
        lambda: asset_type("projects/no-such/assets/thing"),
        Refused(r"HTTP 40[034]: .*no-such"),
    ),
    Fact(
        "refusals", "a wrong type is 400", GUIDE, lambda: ee.Number(ee.List(["a"]).get(0)).add(1), Refused(r"HTTP 400")
    ),
    Fact(
        "quota", "an account within its compute time is not restricted", GUIDE, lambda: Call(restricted), Equal(False)
    ),
    Fact(
        "quota",
        "a profile starts with compute time",
        GUIDE,
        lambda: Call(profile_heading),
        Answered(),
        Both.EQUAL,
    ),
    Fact(
        "quota",
        "sixty aggregations in one request are computed, or refused as too many at once",
        ISSUE,
        lambda: Then([many_aggregations()], lambda found: found == list(range(1, 61))),
        OneOf((Equal(True), Refused(r"HTTP 429: .*concurrent aggregations"))),
    ),
)
