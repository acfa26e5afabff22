"""Ask the real Earth Engine and the emulator the same, and compare: ``make check-live``.

Needs an account, as `mmearth-data build` does, and a project: EARTHENGINE_PROJECT or GOOGLE_CLOUD_PROJECT. Each server is
asked in a process of its own, since the client knows one server a process. Values that depend on what the archive holds
are compared by form: type, length, keys, or the first words of a refusal.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import ee
from emulator_process import emulator

from mmearth_data.errors import EXIT_FAILURE, EXIT_INPUT, EXIT_OK, InputError
from mmearth_data.sources.earthengine.session import SessionOptions, open_session

if TYPE_CHECKING:
    from collections.abc import Callable

S2, L1C, S1 = "COPERNICUS/S2_SR_HARMONIZED", "COPERNICUS/S2_HARMONIZED", "COPERNICUS/S1_GRD"
ERA5, DEM = "ECMWF/ERA5_LAND/MONTHLY_AGGR", "projects/sat-io/open-datasets/ASTER/GDEM"
LON, LAT = 11.4, 47.3


def point() -> ee.Geometry:
    """Innsbruck: mountains, a town, no sea."""
    return ee.Geometry.Point([LON, LAT])


def square() -> ee.Geometry:
    """640 m around it, on its UTM grid."""
    return ee.Geometry.Rectangle([681000, 5241000, 681640, 5241640], "EPSG:32632", False)


def scenes(asset: str = S2) -> ee.ImageCollection:
    """A summer of scenes."""
    return ee.ImageCollection(asset).filterDate("2019-06-01", "2019-09-01").filterBounds(point())


def ramp() -> ee.Image:
    """Columns of pixels counted from the square's edge."""
    return ee.Image.pixelCoordinates("EPSG:32632").select("x").subtract(681000)


def mean(image: ee.Image, scale: float = 10) -> ee.Dictionary:
    """Mean over the square."""
    return image.reduceRegion(ee.Reducer.mean(), square(), scale, "EPSG:32632")


def constants(*values: float) -> ee.ImageCollection:
    """Collection of constant images."""
    return ee.ImageCollection([ee.Image.constant(value) for value in values])


EQUAL: dict[str, Callable[[], Any]] = {
    "number: add": lambda: ee.Number(1).add(2),
    "number: divide integers": lambda: ee.Number(7).divide(2),
    "number: floor of a negative": lambda: ee.Number(-1.5).floor(),
    "number: round half up": lambda: ee.Number(0.5).round(),
    "number: round half down": lambda: ee.Number(-0.5).round(),
    "number: round 2.5": lambda: ee.Number(2.5).round(),
    "number: large product": lambda: ee.Number(4294967295).multiply(1048575),
    "number: toInt truncates": lambda: ee.Number(-1.9).toInt(),
    "list: slice beyond the end": lambda: ee.List([1, 2]).slice(0, 5),
    "list: get": lambda: ee.List([3, 4]).get(1),
    "list: cat, sort": lambda: ee.List([3, 1]).cat([2]).sort(),
    "list: map": lambda: ee.List([1, 2]).map(lambda n: ee.Number(n).multiply(10)),
    "list: nested map": lambda: ee.List([1, 2]).map(lambda a: ee.List([1, 2]).map(lambda b: ee.Number(a).add(b))),
    "dictionary: get with a default": lambda: ee.Dictionary({"a": 1}).get("b", 7),
    "string: compare by sort": lambda: ee.List(["b", "A", "a"]).sort(),
    "if: the other branch is not touched": lambda: ee.Algorithms.If(True, 1, ee.Number(None)),
    "date: fromYMD": lambda: ee.Date.fromYMD(2020, 1, 31).advance(1, "month").format("YYYY-MM-dd"),
    "date: advance back": lambda: ee.Date("2020-03-01").advance(-1, "month").millis(),
    "date: year": lambda: ee.Date(1577836800000).get("year"),
    "collection: first of none": lambda: constants().first(),
    "collection: toList of none": lambda: scenes().filterDate("1990-01-01", "1990-01-02").toList(1),
    "collection: size of none": lambda: scenes().filterDate("1990-01-01", "1990-01-02").size(),
    "collection: end is exclusive": lambda: ee.ImageCollection(ERA5).filterDate("2019-01-01", "2019-02-01").size(),
    "collection: start is inclusive": lambda: ee.ImageCollection(ERA5).filterDate("2019-01-01", "2019-01-02").size(),
    "collection: merge": lambda: constants(1).merge(constants(2)).size(),
    "image: bands of L2A": lambda: ee.Image(scenes().first()).select(["B2", "SCL"]).bandNames(),
    "image: bands of L1C": lambda: ee.Image(scenes(L1C).first()).select(["B10"]).bandNames(),
    "image: band names that clash": lambda: ee.Image.cat([ee.Image(1), ee.Image(2)]).bandNames(),
    "image: toBands": lambda: constants(1, 2).toBands().bandNames(),
    "image: projection of a composite": lambda: constants(1, 2).mosaic().projection().nominalScale(),
    "image: crs of B2": lambda: ee.Image(scenes().first()).select("B2").projection().crs(),
    "image: DEM's projection": lambda: ee.Image(DEM).projection().crs(),
    "mode: tie": lambda: mean(constants(3, 1, 2).mode()),
    "mode: masked counts not": lambda: mean(constants(1, 2, 2).map(lambda i: i.updateMask(i.lt(2))).mode()),
    "reduce: median of two": lambda: mean(constants(1, 2).median()),
    "cast: truncates": lambda: mean(ee.Image(2.9).toUint16()),
    "cast: clamps": lambda: mean(ee.Image(-3).toUint16()),
    "cast: clamps above": lambda: mean(ee.Image(300).toByte()),
    "round: 0.5": lambda: mean(ee.Image(0.5).round()),
    "round: -0.5": lambda: mean(ee.Image(-0.5).round()),
    "unmask: outside the footprint": lambda: mean(ee.Image(1).clip(ee.Geometry.Point([0, 0]).buffer(10)).unmask(5)),
    "unmask: without the footprint": lambda: mean(
        ee.Image(1).clip(ee.Geometry.Point([0, 0]).buffer(10)).unmask(5, False)
    ),
    "reduceRegion: nothing there": lambda: mean(ee.Image(1).updateMask(0)),
    "reduceRegion: a ramp": lambda: mean(ramp()),
    "remap": lambda: mean(ee.Image(2).remap([1, 2], [10, 20])),
    "remap: what is not named is masked": lambda: mean(ee.Image(3).remap([1, 2], [10, 20])),
    "geometry: contains": lambda: point().buffer(100).contains(point(), 1),
    "geometry: coordinates": lambda: point().coordinates(),
}
ALIKE: dict[str, Callable[[], Any]] = {
    "refusal: band that is not there": lambda: ee.Image(scenes().first()).select("B99").bandNames(),
    "refusal: asset that is not there": lambda: ee.Image("projects/nobody/assets/nothing").bandNames(),
    "refusal: null argument": lambda: ee.Image(constants().first()).bandNames(),
    "refusal: mode of none": lambda: mean(scenes().filterDate("1990-01-01", "1990-01-02").mode().select("B2")),
    "refusal: L1C has no SCL": lambda: ee.Image(scenes(L1C).first()).select("SCL").bandNames(),
    "scene: properties": lambda: ee.Image(scenes().first()).toDictionary(["MGRS_TILE", "CLOUDY_PIXEL_PERCENTAGE"]),
    "radar: bands": lambda: ee.Image(scenes(S1).first()).bandNames(),
    "climate: a month": lambda: mean(ee.ImageCollection(ERA5).first().select("temperature_2m")),
    "slope": lambda: mean(ee.Terrain.slope(ee.Image(DEM))),
    "ecoregion": lambda: ee.FeatureCollection("RESOLVE/ECOREGIONS/2017").filterBounds(point()).first().get("ECO_NAME"),
}


def pixels() -> object:
    """A few pixels of a constant."""
    grid = {"dimensions": {"width": 4, "height": 4}, "crsCode": "EPSG:32632"}
    grid["affineTransform"] = {"scaleX": 10, "translateX": 681000, "scaleY": -10, "translateY": 5241640}
    return ee.data.computePixels({"expression": ee.Image.constant(1), "fileFormat": "NPY", "grid": grid})


PROFILED = {"profile: a value": lambda: ee.Number(1).add(1).getInfo(), "profile: pixels": pixels}
"""Requests whose profiles are compared by their headings."""


def heading(request: Callable[[], object]) -> str:
    """First line of the profile of a request; nothing where the server keeps none."""
    ids: list[str] = []
    with ee.data.profiling(ids.append):
        request()
    table = ee.ApiFunction.lookup("Profile.getProfiles").call(ids=ids).getInfo() if ids else ""
    return str(table).partition("\n")[0]


def answers() -> dict[str, Any]:
    """Answer of the session's server to every expression; a refusal as its words."""
    found: dict[str, Any] = {name: heading(request) for name, request in PROFILED.items()}
    for name, make in {**EQUAL, **ALIKE}.items():
        try:
            found[name] = ee.data.computeValue(make())
        except ee.EEException as error:
            found[name] = {"refused": str(error)}
    return found


def form(answer: Any) -> Any:
    """What remains of an answer when its values are left out."""
    if isinstance(answer, dict):
        return {"refused": ""} if "refused" in answer else sorted(answer)
    return type(answer).__name__


def ask(*arguments: str) -> dict[str, Any]:
    """Answers of one server, from a process of its own."""
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=False)
    if done.returncode == EXIT_INPUT:
        raise InputError(done.stderr.strip())
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def compare() -> int:
    """Compare both servers; exit code."""
    live = ask("live")
    with emulator(seed=0) as running:
        emulated = ask(running.url)
    different = 0
    for name in (*EQUAL, *ALIKE, *PROFILED):
        mine, theirs = emulated[name], live[name]
        same = mine == theirs if name in {*EQUAL, *PROFILED} else form(mine) == form(theirs)
        different += not same
        sys.stdout.write(f"{'same     ' if same else 'DIFFERENT'} {name}: {json.dumps(theirs)[:200]}\n")
        if not same:
            sys.stdout.write(f"          the emulator: {json.dumps(mine)[:200]}\n")
    sys.stdout.write(f"{len(live) - different} of {len(live)} alike\n")
    return EXIT_FAILURE if different else EXIT_OK


def main(arguments: list[str]) -> int:
    """Answer for one server, or compare both."""
    try:
        if not arguments:
            return compare()
        open_session(SessionOptions(url=None if arguments == ["live"] else arguments[0]))
        sys.stdout.write(json.dumps(answers()))
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_INPUT
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
