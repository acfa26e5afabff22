"""Every method of the REST interface that the client calls, and every form in which it names an asset."""

from __future__ import annotations

import ast
import csv
import inspect
import io
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import ee
import numpy as np
import pytest
import rasterio
import requests
from ee_world import refusal

from mmearth_data.emulator.graph.client_files import discovery, methods

L2A, WORLD_COVER = "COPERNICUS/S2_SR_HARMONIZED", "ESA/WorldCover/v100"
CANOPY, DEM = "users/nlang/ETH_GlobalCanopyHeight_2020_10m_v1", "projects/sat-io/open-datasets/ASTER/GDEM"
PUBLIC, LEGACY = "projects/earthengine-public/assets/", "projects/earthengine-legacy/assets/"
PLACE = [8.5, 47.3]

# ---------------------------------------------------------------- what the client calls

RESOURCES = {"_get_cloud_projects", "_get_cloud_projects_raw"}
UNFOLDED = {
    "params": {
        "listAssets": {"parent", "pageSize", "pageToken", "filter", "view"},
        "listFeatures": {"asset", "pageSize", "pageToken", "region", "filter"},
    },
    "queryParams": {"create": {"fields", "body", "workloadTag"}},
}
"""Arguments that the client passes on in a dictionary, by dictionary name and method, as listed in its docstrings."""
MADE = {"execute", "add_response_callback"}
"""Methods of requests, not of the interface."""


def called_methods() -> dict[str, set[str]]:
    """Method -> names of its arguments, from the source of ``ee.data``."""
    found: dict[str, set[str]] = {}
    for function in ast.walk(ast.parse(inspect.getsource(ee.data))):
        if isinstance(function, ast.FunctionDef):
            for name, given in calls_in(function):
                found.setdefault(name, set()).update(given)
    return found


def calls_in(function: ast.FunctionDef) -> Iterator[tuple[str, set[str]]]:
    rooms: dict[str, list[list[str]]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            path = chain(node.value, {})
            if path:
                rooms.setdefault(node.targets[0].id, []).extend(path)
    for node in ast.walk(function):
        # Exports are passed on as methods that are not called here: `..., projects().image().export)`.
        for argument in node.args if isinstance(node, ast.Call) else ():
            if isinstance(argument, ast.Attribute):
                for path in chain(argument.value, rooms):
                    yield ".".join(["projects", *path, argument.attr]), {"project", "body"}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.keywords:
            for path in chain(node.func.value, rooms):
                if node.func.attr not in MADE:
                    yield ".".join(["projects", *path, node.func.attr]), arguments(node)


def chain(node: ast.AST, rooms: dict[str, list[list[str]]]) -> list[list[str]]:
    """Resources in an expression such as ``_get_cloud_projects().maps().tiles()``; none for other expressions."""
    if isinstance(node, ast.Name):
        return rooms.get(node.id, [])
    if not isinstance(node, ast.Call):
        return []
    if isinstance(node.func, ast.Name):
        return [[]] if node.func.id in RESOURCES else []
    if isinstance(node.func, ast.Attribute) and not node.keywords:
        return [[*path, node.func.attr] for path in chain(node.func.value, rooms)]
    return []


def arguments(node: ast.Call) -> set[str]:
    names = set[str]()
    for keyword in node.keywords:
        if keyword.arg is not None:
            names.add(keyword.arg)
        else:
            assert isinstance(keyword.value, ast.Name)
            assert isinstance(node.func, ast.Attribute)
            names |= UNFOLDED[keyword.value.id][node.func.attr]
    return names


def offered() -> dict[str, tuple[set[str], dict[str, Any]]]:
    """Method -> (names of its arguments, entry), from the emulator's document."""
    document = discovery("http://127.0.0.1/")
    everywhere = set(document["parameters"])

    def walk(room: dict[str, Any], prefix: str) -> Iterator[tuple[str, tuple[set[str], dict[str, Any]]]]:
        for name, entry in room.get("methods", {}).items():
            names = everywhere | set(entry["parameters"]) | ({"body"} if "request" in entry else set())
            yield f"{prefix}{name}", (names, entry)
        for name, inner in room.get("resources", {}).items():
            yield from walk(inner, f"{prefix}{name}.")

    return dict(walk(document, ""))


def test_every_method_that_the_client_calls_is_there_with_its_arguments() -> None:
    called, there = called_methods(), offered()
    assert len(called) >= 38
    assert {"projects.tables.create", "projects.maps.tiles.get", "projects.classifier.export"} <= set(called)
    for name, given in called.items():
        # The client knows `import` as `import_`, and asks for algorithms in one of two ways.
        known = there.get(name.rstrip("_"))
        assert known is not None, name
        if name != "projects.algorithms.list":
            assert given <= known[0], name
    assert called["projects.algorithms.list"] & {"parent", "project"} & there["projects.algorithms.list"][0]


def test_every_method_of_the_document_has_an_answer(earth: str) -> None:
    """No method is missing: unsupported ones are refused with 400 and a message that names the method."""
    refused = set()
    for name, (_, entry) in offered().items():
        path = re.sub(r"\{\w+\}", "x", entry["flatPath"])
        answer = requests.request(entry["httpMethod"], f"{earth}/{path}", json={}, timeout=60)
        assert answer.headers["content-type"].startswith("application/json"), name
        words = answer.json().get("error", {}).get("message", "")
        assert answer.ok or answer.status_code in {400, 404}, (name, answer.status_code)
        assert not words.startswith("Method not found"), name
        if "the emulator does not" in words:
            assert answer.status_code == 400
            assert words.startswith(name.removeprefix("projects."))
            refused.add(name)
    assert {n for n in refused if n.endswith(".export")} == {
        f"projects.{kind}.export" for kind in ("image", "table", "video", "map", "videoMap", "classifier")
    }
    assert len(methods()) == len(offered())


DONE: dict[str, Callable[[], Any]] = {
    "getInfo": lambda: ee.data.getInfo(L2A),
    "getAsset": lambda: ee.data.getAsset(DEM),
    "listImages": lambda: ee.data.listImages(WORLD_COVER),
    "listAssets": lambda: ee.data.listAssets(PUBLIC),
    "listBuckets": lambda: ee.data.listBuckets("projects/earthengine-public"),
    "listFeatures": lambda: ee.data.listFeatures({"assetId": "RESOLVE/ECOREGIONS/2017", "pageSize": 2}),
    "listOperations": lambda: ee.data.listOperations(),
    "getAssetRoots": lambda: ee.data.getAssetRoots(),
    "getMapId": lambda: ee.data.getMapId({"image": ee.Image(1)}),
    "getThumbId": lambda: ee.data.getThumbId({"image": ee.Image(1)}),
    "getTableDownloadId": lambda: ee.data.getTableDownloadId({"table": ee.FeatureCollection([])}),
    "computeImages": lambda: ee.data.computeImages({"expression": ee.ImageCollection([ee.Image(1)])}),
    "computeFeatures": lambda: ee.data.computeFeatures({"expression": ee.FeatureCollection([])}),
}
REFUSED: dict[str, Callable[[], Any]] = {
    "image.export": lambda: ee.data.exportImage("a", {"expression": ee.Image(1)}),
    "table.export": lambda: ee.data.exportTable("a", {"expression": ee.FeatureCollection([])}),
    "video.export": lambda: ee.data.exportVideo("a", {"expression": ee.ImageCollection([])}),
    "map.export": lambda: ee.data.exportMap("a", {"expression": ee.Image(1)}),
    "classifier.export": lambda: ee.data.exportClassifier("a", {"expression": ee.Classifier.smileCart()}),
    "image.import": lambda: ee.data.startIngestion("a", {"name": "projects/p/assets/x", "tilesets": []}),
    "image.importExternal": lambda: ee.data.startExternalImageIngestion({"name": "projects/p/assets/x"}),
    "table.import": lambda: ee.data.startTableIngestion("a", {"name": "projects/p/assets/x", "sources": []}),
    "assets.create": lambda: ee.data.createFolder("projects/p/assets/x"),
    "assets.copy": lambda: ee.data.copyAsset(DEM, "projects/p/assets/x"),
    "assets.move": lambda: ee.data.renameAsset(DEM, "projects/p/assets/x"),
    "assets.delete": lambda: ee.data.deleteAsset(DEM),
    "assets.patch": lambda: ee.data.updateAsset(DEM, {"properties": {}}, []),
    "assets.getIamPolicy": lambda: ee.data.getIamPolicy(DEM),
    "assets.setIamPolicy": lambda: ee.data.setIamPolicy(DEM, {}),
    "getConfig": lambda: ee.data.getProjectConfig(),
    "updateConfig": lambda: ee.data.updateProjectConfig({}),
    "featureView.create": lambda: ee.data.getFeatureViewTilesKey({"assetId": "a/b"}),
    "videoThumbnails.create": lambda: ee.data.getThumbId({"image": ee.ImageCollection([ee.Image(1)])}, "video"),
    "filmstripThumbnails.create": lambda: ee.data.getThumbId({"image": ee.ImageCollection([ee.Image(1)])}, "filmstrip"),
}


@pytest.mark.filterwarnings("ignore:getInfo:DeprecationWarning")
@pytest.mark.parametrize("name", DONE)
def test_a_function_of_the_client_is_answered(earth: str, name: str) -> None:
    with ee.data.workloadTagContext("tagged"):
        assert DONE[name]() is not None


@pytest.mark.parametrize("method", REFUSED)
def test_a_function_of_the_client_is_refused_plainly(earth: str, method: str) -> None:
    with ee.data.workloadTagContext("tagged"), pytest.raises(ee.EEException) as refused:
        REFUSED[method]()
    assert str(refused.value).startswith(f"{method}: Earth Engine has this method; the emulator does not.")


def test_tasks_are_said_not_to_be_there(earth: str) -> None:
    for ask in (ee.data.getOperation, ee.data.cancelOperation):
        with pytest.raises(ee.EEException, match="the emulator runs no tasks"):
            ask("projects/p/operations/abc")


# ---------------------------------------------------------------- names of assets


@pytest.mark.parametrize("asset", [CANOPY, DEM, f"{WORLD_COVER}/2020"])
def test_an_image_is_the_same_by_all_its_names(earth: str, asset: str) -> None:
    project = PUBLIC if asset.startswith("ESA") else LEGACY
    grid = {
        "dimensions": {"width": 4, "height": 4},
        "affineTransform": {"scaleX": 1e-3, "translateX": PLACE[0], "scaleY": -1e-3, "translateY": PLACE[1]},
        "crsCode": "EPSG:4326",
    }
    wanted = {"fileFormat": "NUMPY_NDARRAY", "grid": grid}
    expected = ee.data.computePixels({"expression": ee.Image(asset), **wanted})
    for name in (asset, f"{project}{asset}"):
        described = ee.data.getAsset(name)
        assert (described["id"], described["name"], described["type"]) == (asset, f"{project}{asset}", "IMAGE")
        assert ee.Image(name).getInfo()["id"] == asset
        np.testing.assert_array_equal(ee.data.getPixels({"assetId": name, **wanted}), expected)
        np.testing.assert_array_equal(ee.data.computePixels({"expression": ee.Image(name), **wanted}), expected)


@pytest.mark.parametrize("asset", [WORLD_COVER, "projects/sat-io/open-datasets/landcover/ESRI_Global-LULC_10m_TS"])
def test_a_collection_is_the_same_by_all_its_names(earth: str, asset: str) -> None:
    project = PUBLIC if asset.startswith("ESA") else LEGACY
    expected = ee.ImageCollection(asset).aggregate_array("system:index").getInfo()
    assert expected
    for name in (asset, f"{project}{asset}"):
        assert ee.data.getAsset(name)["type"] == "IMAGE_COLLECTION"
        assert ee.ImageCollection(name).aggregate_array("system:index").getInfo() == expected
        assert [image["id"] for image in ee.data.listImages(name)["images"]] == [f"{asset}/{k}" for k in expected]
        assert len(ee.data.listAssets({"parent": name, "pageSize": 1})["assets"]) == 1


def test_tables_and_folders_have_names_too(earth: str) -> None:
    table = "RESOLVE/ECOREGIONS/2017"
    sizes = {ee.FeatureCollection(name).size().getInfo() for name in (table, f"{PUBLIC}{table}")}
    assert len(sizes) == 1
    assert ee.data.getAsset("COPERNICUS")["type"] == "FOLDER"
    below = {asset["id"] for asset in ee.data.listAssets("COPERNICUS")["assets"]}
    assert {L2A, "COPERNICUS/S1_GRD"} <= below
    assert all(asset.startswith("COPERNICUS/") for asset in below)
    assert [asset["id"] for asset in ee.data.listAssets("projects/sat-io/open-datasets/ASTER")["assets"]] == [DEM]
    with pytest.raises(ee.EEException, match="neither a folder nor an image collection"):
        ee.data.listAssets(DEM)


@pytest.mark.filterwarnings(
    "ignore:getInfo:DeprecationWarning"
)  # only it distinguishes a missing asset from other errors
@pytest.mark.parametrize("asset", ["NO/SUCH", "users/nobody/nothing", f"{LEGACY}projects/sat-io/no", f"{L2A}/2017_x"])
def test_what_the_planet_lacks_is_said_to_be_lacking_here(earth: str, asset: str) -> None:
    lacking = "The emulator has no such asset; Earth Engine may have it."
    for expression in (ee.Image(asset), ee.ImageCollection(asset).size(), ee.FeatureCollection(asset).size()):
        words = refusal(expression)
        assert f"asset '{asset}' not found (does not exist or caller does not have access). {lacking}" in words
    for ask in (ee.data.getAsset, ee.data.listImages):
        with pytest.raises(ee.EEException, match=lacking):
            ask(asset)
    assert ee.data.getInfo(asset) is None


# ---------------------------------------------------------------- lists


def point() -> str:
    return json.dumps({"type": "Point", "coordinates": PLACE})


def test_images_are_listed_as_filters_find_them(earth: str) -> None:
    found = (
        ee.ImageCollection(L2A)
        .filterBounds(ee.Geometry.Point(PLACE))
        .filterDate("2019-06-01", "2019-07-01")
        .filter(ee.Filter.lt("CLOUDY_PIXEL_PERCENTAGE", 50))
    )
    expected = found.aggregate_array("system:index").getInfo()
    listed = ee.data.listImages(
        {
            "parent": L2A,
            "startTime": "2019-06-01T00:00:00Z",
            "endTime": "2019-07-01T00:00:00Z",
            "region": point(),
            "properties": ["CLOUDY_PIXEL_PERCENTAGE < 50"],
        }
    )["images"]
    assert [image["id"].rpartition("/")[2] for image in listed] == expected
    assert listed[0]["properties"]["CLOUDY_PIXEL_PERCENTAGE"] < 50
    assert listed[0]["startTime"].startswith("2019-06-")
    query = f"""intersects("{point().replace('"', "'")}") AND startTime >= "2019-06-01\""""
    basic = ee.data.listAssets({"parent": L2A, "filter": query, "view": "BASIC", "pageSize": 2})
    assert [set(entry) for entry in basic["assets"]] == [{"type", "name", "id"}] * 2
    following = ee.data.listAssets({"parent": WORLD_COVER, "pageToken": "1"})
    assert following["assets"] == []


@pytest.mark.parametrize(
    "wrong", ["CLOUDS < 5", "startTime ~ 3", "properties.X <", "startTime >= '2019-01-01' OR startTime < '2018-01-01'"]
)
def test_a_query_that_is_not_read_is_refused(earth: str, wrong: str) -> None:
    with pytest.raises(ee.EEException, match="Invalid filter"):
        ee.data.listAssets({"parent": L2A, "filter": wrong})


def test_rows_are_listed_by_region_and_property(earth: str) -> None:
    table = "RESOLVE/ECOREGIONS/2017"
    here = ee.FeatureCollection(table).filterBounds(ee.Geometry.Point(PLACE)).aggregate_array("ECO_NAME").getInfo()
    listed = ee.data.listFeatures({"assetId": table, "region": point()})["features"]
    assert [row["properties"]["ECO_NAME"] for row in listed] == here
    named = ee.data.listFeatures({"assetId": table, "filter": f'properties.ECO_NAME = "{here[0]}"'})["features"]
    assert [row["properties"]["ECO_NAME"] for row in named] == here[:1]


# ---------------------------------------------------------------- tables and maps


def test_a_table_is_downloaded(earth: str) -> None:
    rows = [ee.Feature(ee.Geometry.Point([k, 1]), {"name": f"row {k}", "size": k / 2}) for k in range(3)]
    table = ee.FeatureCollection(rows)
    text = requests.get(table.getDownloadURL("csv"), timeout=60).text
    read = list(csv.DictReader(io.StringIO(text)))
    assert list(read[0]) == ["system:index", "name", "size", ".geo"]
    assert [(row["system:index"], row["name"], float(row["size"])) for row in read] == [
        (str(k), f"row {k}", k / 2) for k in range(3)
    ]
    assert json.loads(read[2][".geo"]) == {"type": "Point", "coordinates": [2, 1]}
    assert requests.get(table.getDownloadURL("csv", ["size"]), timeout=60).text == "size\n0\n0.5\n1\n"
    geo = requests.get(table.getDownloadURL("geojson"), timeout=60).json()
    assert [feature["geometry"]["coordinates"] for feature in geo["features"]] == [[0, 1], [1, 1], [2, 1]]
    refused = requests.get(table.getDownloadURL("kml"), timeout=60)
    assert (refused.status_code, "the emulator does not" in refused.text) == (400, True)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_map_tile_shows_what_lies_there(earth: str) -> None:
    lon, lat = (ee.Image.pixelLonLat().select(name) for name in ("longitude", "latitude"))
    shown = ee.Image.cat(lon.gt(0).multiply(255), lat.gt(0).multiply(255), ee.Image(0)).toByte()
    fetcher = shown.getMapId({"min": 0, "max": 255})["tile_fetcher"]
    colours = []
    for x, y in ((0, 0), (1, 0), (0, 1), (1, 1)):
        with rasterio.open(io.BytesIO(fetcher.fetch_tile(x, y, 1))) as opened:
            assert (opened.width, opened.height) == (256, 256)
            pixels = opened.read()
        assert len(np.unique(pixels.reshape(len(pixels), -1), axis=1).T) == 1
        colours.append(tuple(int(channel[0, 0]) for channel in pixels[:3]))
    assert colours == [(0, 255, 0), (255, 255, 0), (0, 0, 0), (255, 0, 0)]
    assert requests.get(fetcher.format_tile_url(0, 0, 0), timeout=60).ok
    outside = requests.get(fetcher.url_format.format(x=0, y=9, z=1), timeout=60)
    assert (outside.status_code, "out of range" in outside.text) == (400, True)


def test_what_is_not_kept_is_said_so(earth: str) -> None:
    lost = requests.get(f"{earth}/v1/projects/p/maps/none/tiles/0/0/0", timeout=60)
    assert (lost.status_code, "not found" in lost.text) == (404, True)
