"""No argument of an algorithm is silently dropped: it is used, has no effect for a stated reason, or is refused."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable, Iterator
from functools import partial
from types import CodeType
from typing import Any

import ee
import pytest
import requests
from ee_world import refusal

from mmearth_data.emulator.graph import library
from mmearth_data.emulator.graph.registry import FUNCTIONS, Implementation
from mmearth_data.emulator.graph.signatures import ANY_FUNCTION, HINTS, is_hint, signatures

assert library.implementation("Number.add")

Make = Callable[[], Any]


def names_read(code: CodeType) -> Iterator[str]:
    """Names that a function and the functions within it read."""
    for instruction in dis.get_instructions(code):
        if "LOAD" in instruction.opname:  # Python 3.13 joins a store and a load into one instruction
            names = instruction.argval if isinstance(instruction.argval, tuple) else (instruction.argval,)
            yield from names[1:] if instruction.opname.startswith("STORE") else names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_read(constant)


def ignored(implementation: Implementation) -> set[str]:
    """Arguments that an implementation accepts but never reads."""
    parameters = inspect.signature(implementation.function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):  # entered with what it reads
        return set()
    function = implementation.function
    read = set(names_read((function.func if isinstance(function, partial) else function).__code__))
    return {argument for argument, parameter in implementation.takes.items() if parameter not in read}


def test_every_parameter_is_read() -> None:
    assert not {name: lost for name, implementation in FUNCTIONS.items() if (lost := ignored(implementation))}


def test_every_argument_is_heeded_or_a_hint_or_refused() -> None:
    dropped = {}
    for name, implementation in FUNCTIONS.items():
        known = {argument.name for argument in signatures()[name].arguments}
        refused = {argument.name for argument in signatures()[name].unheeded}
        heeded = set(implementation.takes) - ignored(implementation)
        if lost := {argument for argument in known - heeded - refused if not is_hint(name, argument)}:
            dropped[name] = lost
    assert not dropped


def test_hints_name_arguments_that_exist_and_say_why() -> None:
    for (function, argument), reason in HINTS.items():
        names = signatures() if function == ANY_FUNCTION else [function]
        assert any(argument in {a.name for a in signatures()[name].arguments} for name in names), (function, argument)
        assert len(reason) > 20


def here() -> Any:
    return ee.Geometry.Point([8.5, 47.3])


@pytest.mark.usefixtures("earth")
@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: here().intersects(here(), proj=ee.Projection("EPSG:32632")), "proj"),
        (lambda: ee.Geometry.Polygon([[[0, 0], [1, 0], [1, 1], [0, 0]]], evenOdd=False).area(1), "evenOdd"),
        (lambda: ee.PixelType("int", 0, 1, 2), "dimensions"),
        (lambda: ee.List([1, 2]).reduce(ee.Reducer.max(2)), "numInputs"),
        (lambda: ee.FeatureCollection([here()]).reduceColumns("mean", ["a"], ["b"]), "weightSelectors"),
        (lambda: ee.Image.load("COPERNICUS/DEM/GLO30", 3), "version"),
    ],
)
def test_another_value_than_the_default_is_refused_where_it_would_be_dropped(make: Make, argument: str) -> None:
    assert f"the argument '{argument}'; the emulator supports only its default" in refusal(make())


@pytest.mark.usefixtures("earth")
def test_defaults_and_hints_are_answered() -> None:
    box = ee.Geometry.Rectangle([8, 47, 9, 48])
    found = ee.List(
        [
            here().intersects(box, 1),
            ee.PixelType("int", 0, 1, 0).maxValue(),
            ee.Image(3).reduceRegion("sum", here().buffer(20), 10, tileScale=4, crs="EPSG:32632").size(),
            ee.List([1, 2, 9]).reduce(ee.Reducer.percentile([50], maxRaw=1, maxBuckets=2)),
        ]
    )
    assert found.getInfo() == [True, 1, 1, 2]


@pytest.mark.usefixtures("earth")
def test_a_fixed_kernel_is_checked_against_its_size() -> None:
    row = [1, 1, 1]
    sums = ee.Image(1).reduceNeighborhood("sum", ee.Kernel.fixed(3, 3, [row, row, row], -1, -1))
    area = ee.Geometry.Rectangle([500_000, 5_000_000, 500_010, 5_000_010], "EPSG:32632", False)
    assert sums.reduceRegion("mean", area, crs="EPSG:32632", crsTransform=[10, 0, 0, 0, -10, 0]).getInfo() == {
        "constant_sum": 9
    }
    assert "width is 4, the weights have 3" in refusal(
        ee.Image(1).reduceNeighborhood("sum", ee.Kernel.fixed(4, 3, [row, row, row]))
    )


@pytest.mark.usefixtures("earth")
def test_a_geometry_is_given_in_the_projection_asked_for() -> None:
    box = ee.Geometry.Rectangle([500_000, 5_000_000, 500_100, 5_000_100], "EPSG:32632", False)
    corner = ee.Feature(box.transform("EPSG:4326", 0.1)).geometry(0.1, "EPSG:32632").bounds(0.1, "EPSG:32632")
    assert corner.coordinates().flatten().getInfo()[:2] == pytest.approx([500_000, 5_000_000], abs=0.1)


@pytest.mark.usefixtures("earth")
def test_automatic_histograms_are_rows_of_lower_edge_and_count() -> None:
    values = ee.List([0, 1, 1, 3])
    plain, added = ee.List(
        [values.reduce(ee.Reducer.autoHistogram(4, 1)), values.reduce(ee.Reducer.autoHistogram(4, 1, cumulative=True))]
    ).getInfo()
    assert plain == [[0, 1], [1, 2], [2, 0], [3, 1]]
    assert added == [[0, 1], [1, 3], [2, 3], [3, 4]]


EMPTY: Callable[[], Any] = lambda: ee.Geometry.MultiPoint([])  # noqa: E731 - the client has to be signed in first
ODD: dict[str, Callable[[], Any]] = {
    "range without an extent": lambda: ee.Number(5).unitScale(0, 0),
    "number beyond the domain": lambda: ee.Number(2.5).erfInv(),
    "dictionary for a list": lambda: ee.List([{"a": 1}]).unzip(),
    "dictionary for a ring": lambda: ee.ApiFunction.call_("GeometryConstructors.MultiPolygon", [{"a": 1}]),
    "transform of nothing": lambda: ee.Projection("EPSG:4326", [None]),
    "kernel without weights": lambda: ee.Kernel.fixed(0, 0, []),
    "centre of nothing": lambda: EMPTY().centroid(1),
    "hull of nothing": lambda: EMPTY().convexHull(1),
    "buffer of nothing": lambda: EMPTY().buffer(-1),
    "one band for two": lambda: ee.Image([1, 2]).normalizedDifference(["constant"]),
    "fewer than none": lambda: ee.FeatureCollection([ee.Feature(None)]).limit(-1),
    "bounds of nothing": lambda: ee.FeatureCollection([ee.Feature(None)]).geometry().bounds(1),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_arguments_are_answered_or_refused_and_never_an_internal_error(earth: str, name: str) -> None:
    """A client tries an internal error (500) again and again; a refusal (400) ends it with words."""
    body = {"expression": ee.serializer.encode(ODD[name](), for_cloud_api=True)}
    answer = requests.post(f"{earth}/v1/projects/p/value:compute", json=body, timeout=60)
    assert answer.status_code in {200, 400}
    assert "NaN" not in answer.text.replace('"NaN"', "")
    if answer.status_code == 400:
        assert answer.json()["error"]["message"].strip()


def test_what_an_algorithm_was_not_written_for_is_refused_by_its_name(earth: str) -> None:
    words = refusal(ee.Number(5).unitScale(0, 0))
    assert words.startswith("Number.unitScale: the emulator cannot compute this with the given arguments")
    assert "ZeroDivisionError" in words
