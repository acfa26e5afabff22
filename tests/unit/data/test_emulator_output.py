"""Pixels as files, read back by other libraries, and the limits of the service."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from typing import Any

import ee
import numpy as np
import pytest
import rasterio
import shapely
from ee_world import refusal
from emulator_pixels import UTM, array, call, grid, image_of, line, pixels, ramp, request_context

from mmearth_data.emulator.algorithms.geometry import Geometry
from mmearth_data.emulator.algorithms.image import CHEAP, Grid, Image, PixelType, Projection
from mmearth_data.emulator.assets.directory import Source, find
from mmearth_data.emulator.errors import EmulatorError
from mmearth_data.emulator.graph.evaluate import Request
from mmearth_data.emulator.server.cheap import Remembered, form_of
from mmearth_data.emulator.server.output import check_size, render_pixels

BYTE, SHORT = PixelType("int", 0, 255), PixelType("int", -32768, 32767)
TILE = {
    "dimensions": {"width": 4, "height": 3},
    "affineTransform": {"scaleX": 10, "translateX": 500_000, "scaleY": -10, "translateY": 5_000_000},
    "crsCode": "EPSG:32632",
}


def render(image: Image, **request: Any) -> bytes:
    """Body of an answer."""
    return render_pixels(image, {"grid": TILE, **request}, request_context())[0]


def two_bands() -> Image:
    return call("Image.cat", images=[ramp(name="x"), array([1, None, 300], kind=BYTE, name="y")])


def test_npy_is_a_structured_array_with_a_field_a_band() -> None:
    found = np.load(io.BytesIO(render(two_bands(), fileFormat="NPY")))
    assert found.dtype == np.dtype([("x", "<f4"), ("y", "u1")])
    assert found["x"].tolist() == [[0, 1, 2, 3], [100, 101, 102, 103], [200, 201, 202, 203]]


def test_masked_pixels_come_out_as_zero_and_others_keep_to_their_type() -> None:
    found = np.load(io.BytesIO(render(two_bands(), fileFormat="NPY")))
    assert found["y"].tolist() == [[1, 0, 255, 0], [0] * 4, [0] * 4]
    with rasterio.MemoryFile(render(two_bands(), fileFormat="GEO_TIFF", bandIds=["y"])) as file, file.open() as tiff:
        assert tiff.read(1).tolist() == [[1, 0, 255, 0], [0] * 4, [0] * 4]


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"])
def test_geotiff_is_read_by_gdal(dtype: str) -> None:
    image = ramp(kind=PixelType.of(np.dtype(dtype)), name="heights & depths")
    with rasterio.MemoryFile(render(image, fileFormat="GEO_TIFF")) as file, file.open() as tiff:
        assert (tiff.width, tiff.height, tiff.count) == (4, 3, 1)
        assert tiff.crs.to_epsg() == 32632
        assert tiff.transform == rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000)
        assert tiff.descriptions == ("heights & depths",)
        assert tiff.dtypes[0] == dtype
        expected = np.add.outer(100.0 * np.arange(3), np.arange(4.0))
        limit = np.iinfo(dtype).max if np.dtype(dtype).kind in "iu" else np.inf
        np.testing.assert_array_equal(tiff.read(1), np.minimum(expected, limit).astype(dtype))


def downloaded(image: Image) -> tuple[int | float, str]:
    """First value of an image in an NPY file, and its type."""
    found = np.load(io.BytesIO(render(image, fileFormat="NPY")))[image.names[0]]
    return found[0, 0].item(), found.dtype.name


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("toInt64", 1e19, (2**63 - 1, "int64")),  # casts clamp
        ("toInt64", -1e19, (-(2**63), "int64")),
        ("toInt64", 2.0**62, (2**62, "int64")),
        ("floor", 3.3e9, (3_300_000_000, "uint32")),
        ("ceil", -3.3e9, (-3_300_000_000, "int64")),
        ("round", 5e12 + 0.5, (5_000_000_000_001, "int64")),
        ("floor", array([3.3e9]), (3_300_000_000, "int64")),  # of an open range
        ("abs", -128, (128, "uint8")),
        ("bitwiseNot", array([25], kind=PixelType.of(np.uint8)), (-26, "int16")),  # int8 does not hold 255
        ("bitwiseNot", array([100], kind=PixelType("int", 0, 127)), (-101, "int8")),
        ("bitwiseNot", array([4e9], kind=PixelType.of(np.uint32)), (-4_000_000_001, "int64")),
        ("bitwiseNot", 25, (-26, "int8")),
    ],
)
def test_integers_are_not_cut_off_at_a_smaller_type(name: str, value: Any, expected: tuple[int, str]) -> None:
    assert downloaded(call(f"Image.{name}", value=value)) == expected


def test_the_largest_integer_is_the_same_in_a_table(earth: str) -> None:
    largest = ee.Image(1e19).toInt64()
    assert largest.reduceRegion(ee.Reducer.first(), ee.Geometry.Point([8, 47]), 10).getInfo() == {"constant": 2**63 - 1}


@pytest.mark.parametrize(
    "make",
    [
        lambda: call("Image.constant", value=2**53 + 1),
        lambda: call("Image.constant", value=10**19),
        lambda: line(call("Image.add", image1=2**53, image2=1), 1),
        lambda: line(call("Image.multiply", image1=2**40 + 1, image2=2**40 - 1), 1),
        lambda: line(call("Image.bitwiseOr", image1=2**60, image2=1), 1),
        lambda: line(call("Image.bitwiseNot", value=2**60), 1),
    ],
)
def test_integers_that_pixels_cannot_hold_are_refused(make: Any) -> None:
    with pytest.raises(EmulatorError, match=r"Expected (integers of at most 53 bits|an integer that is exact)"):
        make()


def test_long_integers_that_pixels_hold_are_exact() -> None:
    assert line(call("Image.add", image1=2**52, image2=1), 1) == [2**52 + 1]
    assert line(call("Image.leftShift", image1=1, image2=60), 1) == [2**60]
    assert line(call("Image.add", image1=call("Image.toDouble", value=2**53), image2=1), 1) == [2.0**53]


def test_remap_keeps_what_no_short_integer_holds() -> None:
    def remapped(value: float, to: int, default: float | None = None) -> Image:
        image: Image = call("Image.remap", image=array([value]), **{"from": [1], "to": [to]}, defaultValue=default)
        return image

    assert downloaded(remapped(1, 5_000_000_000)) == (5_000_000_000, "int64")
    assert downloaded(remapped(9, 10, default=0.5)) == (0.5, "float64")
    assert downloaded(remapped(1, 10)) == (10, "int32")


def test_geotiff_with_many_bands_and_strips() -> None:
    image = call("Image.cat", images=[ramp(name=f"b{k}") for k in range(5)])
    tall = {**TILE, "dimensions": {"width": 7, "height": 150}}
    with rasterio.MemoryFile(render(image, fileFormat="GEO_TIFF", grid=tall)) as file, file.open() as tiff:
        assert tiff.descriptions == ("b0", "b1", "b2", "b3", "b4")
        assert tiff.read(5)[149, 6] == 100 * 149 + 6


def test_geotiff_in_degrees_and_with_a_sheared_grid() -> None:
    degrees = {
        "dimensions": {"width": 2, "height": 2},
        "affineTransform": {"scaleX": 0.5, "translateX": 10, "scaleY": -0.5, "translateY": 50},
        "crsCode": "EPSG:4326",
    }
    lonlat = call("Image.pixelLonLat")
    with rasterio.MemoryFile(render(lonlat, fileFormat="GEO_TIFF", grid=degrees)) as file, file.open() as tiff:
        assert tiff.crs.to_epsg() == 4326
        assert tiff.read(1).tolist() == [[10.25, 10.75]] * 2
        assert tiff.xy(0, 1) == (10.75, 49.75)
    turned = {**TILE, "affineTransform": {**TILE["affineTransform"], "shearX": 2, "shearY": 1}}
    with rasterio.MemoryFile(render(ramp(), fileFormat="GEO_TIFF", grid=turned)) as file, file.open() as tiff:
        assert tiff.transform == rasterio.Affine(10, 2, 500_000, 1, -10, 5_000_000)


def test_zipped_files_are_named_by_prefix_and_band() -> None:
    whole = zipfile.ZipFile(io.BytesIO(render(two_bands(), fileFormat="ZIPPED_GEO_TIFF", filenamePrefix="tile")))
    assert whole.namelist() == ["tile.tif"]
    each = zipfile.ZipFile(io.BytesIO(render(two_bands(), fileFormat="ZIPPED_GEO_TIFF_PER_BAND")))
    assert each.namelist() == ["download.x.tif", "download.y.tif"]
    with rasterio.MemoryFile(each.read("download.y.tif")) as file, file.open() as tiff:
        assert tiff.dtypes == ("uint8",)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # a picture has no place
def test_png_of_one_band_three_bands_and_a_palette() -> None:
    grey = render(array([0, 100, None], kind=BYTE), fileFormat="PNG", visualizationOptions={"ranges": [{"max": 100}]})
    with rasterio.MemoryFile(grey) as file, file.open() as picture:
        assert picture.count == 2  # grey and alpha
        assert picture.read()[:, 0, :3].tolist() == [[0, 255, 0], [255, 255, 0]]
    three = call("Image.cat", images=[array([k], kind=BYTE) for k in (1, 2, 3)])
    with rasterio.MemoryFile(render(three, fileFormat="PNG")) as file, file.open() as picture:
        assert picture.read()[:, 0, 0].tolist() == [1, 2, 3, 255]
    options = {"ranges": [{"min": 0, "max": 1}], "paletteColors": ["000000", "ff0000"]}
    with rasterio.MemoryFile(render(array([1]), visualizationOptions=options)) as file, file.open() as picture:
        assert picture.read()[:, 0, 0].tolist() == [255, 0, 0, 255]
    with pytest.raises(EmulatorError, match="one or three"):
        render(two_bands(), fileFormat="PNG")


# ---------------------------------------------------------------- limits


def test_the_limit_of_48_mb_is_exact() -> None:
    """48 MB are 50,331,648 bytes: 2048 x 3072 doubles fit, one row more does not."""
    (band,) = ramp(kind=PixelType("double")).bands
    check_size([band], [Grid(UTM, 0, 0, 2048, 3072)])
    with pytest.raises(EmulatorError, match=r"Total request size \(50348032 bytes\) must be less than or equal to 503"):
        check_size([band], [Grid(UTM, 0, 0, 2048, 3073)])


def test_longer_sides_and_more_bands_than_the_service_computes() -> None:
    long = {**TILE, "dimensions": {"width": 32_769, "height": 1}}
    with pytest.raises(EmulatorError, match="Pixel grid dimensions"):
        render(ramp(), fileFormat="NPY", grid=long)
    (band,) = ramp().bands
    many = Image(tuple(replace(band, name=f"b{k}") for k in range(1025)))
    with pytest.raises(EmulatorError, match="Too many bands"):
        render(many, fileFormat="NPY")


def test_bands_and_formats_that_are_not_there() -> None:
    with pytest.raises(EmulatorError, match="Band pattern 'z' did not match any bands"):
        render(two_bands(), fileFormat="NPY", bandIds=["z"])
    with pytest.raises(EmulatorError, match="TF_RECORD_IMAGE"):
        render(two_bands(), fileFormat="TF_RECORD_IMAGE")
    with pytest.raises(EmulatorError, match="no bands"):
        render(Image(), fileFormat="NPY")


def test_an_unbounded_image_needs_a_grid() -> None:
    with pytest.raises(EmulatorError, match="unbounded"):
        render_pixels(ramp(), {"fileFormat": "NPY"}, request_context())


# ---------------------------------------------------------------- windows of downloads


def region(west: float, south: float, east: float, north: float) -> Geometry:
    return Geometry(shapely.box(west, south, east, north), "EPSG:32632", geodesic=False)


def test_a_download_covers_its_region_in_pixels_of_a_scale() -> None:
    clipped = call("Image.clipToBoundsAndScale", input=ramp(), geometry=region(500_010, 4_999_970, 500_040, 5_000_000))
    found = np.load(io.BytesIO(render_pixels(clipped, {"fileFormat": "NPY"}, request_context())[0]))
    assert found["b"].tolist() == [[1, 2, 3], [101, 102, 103], [201, 202, 203]]
    coarse = call(
        "Image.clipToBoundsAndScale", input=ramp(), geometry=region(500_000, 4_999_960, 500_040, 5_000_000), scale=20
    )
    body = render_pixels(coarse, {"fileFormat": "GEO_TIFF"}, request_context())[0]
    with rasterio.MemoryFile(body) as file, file.open() as tiff:
        assert tiff.transform == rasterio.Affine(20, 0, 500_000, 0, -20, 5_000_000)
        assert tiff.read(1).tolist() == [[101, 103], [301, 303]]


def test_a_download_in_a_number_of_pixels() -> None:
    square = region(500_000, 4_999_960, 500_040, 5_000_000)
    wide = call("Image.clipToBoundsAndScale", input=ramp(), geometry=square, width=2, height=4)
    assert np.load(io.BytesIO(render_pixels(wide, {"fileFormat": "NPY"}, request_context())[0])).shape == (4, 2)
    longest = call(
        "Image.clipToBoundsAndScale",
        input=ramp(),
        geometry=region(500_000, 4_999_980, 500_040, 5_000_000),
        maxDimension=8,
    )
    assert np.load(io.BytesIO(render_pixels(longest, {"fileFormat": "NPY"}, request_context())[0])).shape == (4, 8)
    with pytest.raises(EmulatorError, match="unbounded"):
        call("Image.clipToBoundsAndScale", input=ramp(), scale=10)


@pytest.mark.parametrize(
    ("part", "given", "said"),
    [
        ("affineTransform", {"translateX": 500_000, "scaleY": -10}, "have no area"),
        ("affineTransform", {"scaleX": float("nan"), "scaleY": -10}, "have no area"),
        ("affineTransform", {"scaleX": "wide", "scaleY": -10}, "Invalid affine transform"),
        ("affineTransform", [10, 0, 0, 0, -10, 0], "Invalid affine transform"),
        ("dimensions", {"width": -3, "height": 2}, "must be positive"),
        ("dimensions", {"width": "many", "height": 2}, "Invalid pixel grid dimensions"),
        ("dimensions", 4, "Invalid pixel grid dimensions"),
    ],
)
def test_grids_that_are_none_are_refused(part: str, given: Any, said: str) -> None:
    with pytest.raises(EmulatorError, match=said):
        render_pixels(ramp(), {"fileFormat": "NPY", "grid": {**TILE, part: given}}, request_context())


def test_visualize_stretches_to_bytes() -> None:
    found = call("Image.visualize", image=array([0, 5, 10, None]), min=0, max=10)
    assert found.names == ["vis-gray"]
    assert line(found) == [0, 128, 255, None]
    painted = call("Image.visualize", image=array([0, 1]), min=0, max=1, palette=["black", "#0f0"])
    assert painted.names == ["vis-red", "vis-green", "vis-blue"]
    assert [line(painted, 2, k) for k in range(3)] == [[0, 0], [0, 255], [0, 0]]
    with pytest.raises(EmulatorError, match="gain/bias"):
        call("Image.visualize", image=array([0]), min=0, gain=2)


def test_visualize_takes_texts_with_commas(earth: str) -> None:
    colours = ee.Image([0, 5, 10]).rename("a", "b", "c")
    shown = colours.visualize(bands="a, b,c", min="0,0,0", max="10,10,20")
    first = shown.reduceRegion(ee.Reducer.first(), ee.Geometry.Point([8, 47]), 10)
    assert first.getInfo() == {"vis-red": 0, "vis-green": 128, "vis-blue": 128}
    assert "Expected numbers" in refusal(colours.visualize(bands="a", max="ten").bandNames())


# ---------------------------------------------------------------- formulas


FORMULAS: list[tuple[str, float]] = [
    ("1 + 2 * 3", 7),
    ("(1 + 2) * 3", 9),
    ("2 ** 3 ** 2", 512),
    ("-2 ** 2", -4),
    ("10 - 4 - 3", 3),
    ("7 % 4", 3),
    ("x > 3 && x < 6", 1),
    ("x == 5 ? 10 : 20", 10),
    ("x < 5 ? 1 : x < 6 ? 2 : 3", 2),
    ("!(x == 5) || x >= 5", 1),
    ("b('b') + b(0)", 10),
    ("(NIR - x) / (NIR + x)", 0.5),
    ("min(x, 3) + max(x, 7)", 10),
    ("sqrt(abs(-16))", 4),
    ("(6 & 3) | 8", 10),
    ("1 << 4 >> 2", 4),
    ("NIR.b", 15),
    ("1e2 + .5", 100.5),
]


@pytest.mark.parametrize(("text", "expected"), FORMULAS, ids=[row[0] for row in FORMULAS])
def test_formulas(text: str, expected: float) -> None:
    formula = call("Image.parseExpression", expression=text, argName="x", vars=["x", "NIR"])
    found = formula.by_name({"x": array([5]), "NIR": array([15])})
    assert line(found, 1) == [pytest.approx(expected)]


@pytest.mark.parametrize("text", ["1 +", "(1", "x $ 2", "unknown + 1", "sqrt(1, 2)", "1 2"])
def test_formulas_that_make_no_sense(text: str) -> None:
    formula = call("Image.parseExpression", expression=text, argName="x", vars=["x"])
    with pytest.raises(EmulatorError, match="parseExpression"):
        formula.by_name({"x": array([5])})


# ---------------------------------------------------------------- cheap pixels


def test_cheap_pixels_have_the_right_form_and_never_look_at_the_planet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planet's collections stay as they are; classes keep to their codes, and every expression is computed."""
    planet = request_context().planet
    cheap = Request(planet, cheap_pixels=True)
    label = find("GOOGLE/DYNAMICWORLD/V1", cheap)
    assert isinstance(label, Source)
    images = list(label.query(shapely.Point(10.2, 47.3), 1_546_300_800_000, 1_577_836_800_000))
    mode = call("reduce.mode", collection=images)
    land_cover = find("ESA/WorldCover/v100/2020", cheap)
    assert isinstance(land_cover, Image)
    classes = call("Image.add", image1=call("Image.select", input=mode, bandSelectors=["label"]), image2=1)
    both = call("Image.cat", images=[classes, land_cover])
    monkeypatch.setattr(planet, "products", {})
    monkeypatch.setattr(planet.views, "ground", None)
    body, kind = render_pixels(both, {"grid": TILE, "fileFormat": "NPY"}, cheap)
    found = np.load(io.BytesIO(body))
    assert kind == "application/octet-stream"
    assert found.shape == (3, 4)
    assert (found["label"] == 1).all()
    assert (found["Map"] == 10).all()
    assert found.dtype["Map"] == np.uint8
    assert render_pixels(both, {"grid": TILE, "fileFormat": "NPY"}, cheap)[0] == body
    assert not CHEAP.get()


def test_requests_of_one_form_differ_in_place_and_time_only() -> None:
    def body(scene: str, start: int, x: float, zone: int, band: str, fill: int) -> bytes:
        named = {"id": f"COPERNICUS/S2_HARMONIZED/{scene}", "start": start, "x": x, "crs": f"EPSG:{zone}"}
        return json.dumps({**named, "band": band, "fill": fill}).encode()

    one = body("20190202T101717_20190202T102057_T32TNT", 1_546_300_800_000, 590_400, 32_632, "B2", -9999)
    two = body("20180101T222222_20180101T333333_T60KAB", 1_577_836_800_000, 10.123456, 32_760, "B2", -9999)
    assert form_of(one) == form_of(two)
    assert form_of(one) != form_of(one.replace(b"B2", b"B3"))
    assert form_of(one) != form_of(one.replace(b"-9999", b"65535"))
    assert form_of(one) != form_of(one.replace(b"S2_HARMONIZED", b"S2_SR_HARMONIZED"))
    answers: Remembered[bytes, tuple[bytes, str]] = Remembered()
    assert answers.answer(form_of(one), lambda: (b"first", "type")) == (b"first", "type")
    assert answers.answer(form_of(two), lambda: (b"second", "type")) == (b"first", "type")
    assert answers.answer(form_of(one.replace(b"B2", b"B3")), lambda: (b"third", "type")) == (b"third", "type")


# ---------------------------------------------------------------- neighbourhoods


def test_kernels_by_hand() -> None:
    window = grid()
    assert call("Kernel.square", radius=1).weights(window).tolist() == [[1 / 9] * 3] * 3
    assert call("Kernel.circle", radius=1, normalize=False).weights(window).tolist() == [
        [0, 1, 0],
        [1, 1, 1],
        [0, 1, 0],
    ]
    assert call("Kernel.circle", radius=10, units="meters", normalize=False).weights(window).sum() == 5
    assert call("Kernel.plus", radius=1, normalize=False).weights(window).sum() == 5
    assert call("Kernel.manhattan", radius=1).weights(window).tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    assert call("Kernel.gaussian", radius=3).weights(window).sum() == pytest.approx(1)
    assert call("Kernel.fixed", weights=[[1, 2, 1]]).weights(window).tolist() == [[1, 2, 1]]


def test_convolve_focal_and_gradient_by_hand() -> None:
    inner = grid(1, 1, UTM, 5, 5)
    assert pixels(call("Image.convolve", image=ramp(), kernel=call("Kernel.square", radius=1)), inner) == [
        [pytest.approx(505)]
    ]
    assert pixels(call("Image.convolve", image=ramp(), kernel=call("Kernel.laplacian4")), inner) == [[0]]
    assert pixels(call("Image.focalMax", image=ramp(), radius=1, kernelType="square"), inner) == [[606]]
    assert pixels(call("Image.focalMin", image=ramp(), radius=1, kernelType="square", iterations=2), inner) == [[303]]
    assert pixels(call("Image.focalMean", image=ramp(), radius=1), inner) == [[pytest.approx(505)]]
    assert pixels(call("Image.focalMedian", image=array([1, 9, 4]), radius=1, kernelType="square"), grid(3, 1)) == [
        [5, 4, 6.5]
    ]
    gradient = call("Image.gradient", input=ramp())
    assert [pixels(gradient, inner, k) for k in (0, 1)] == [[[0.1]], [[-10]]]
    found = call(
        "Image.reduceNeighborhood",
        image=array([1, 9, 4]),
        reducer=call("Reducer.sum"),
        kernel=call("Kernel.square", radius=1, normalize=False),
    )
    assert found.names == ["b_sum"]
    assert line(found, 3) == [10, 14, 13]


def test_grids_may_be_left_open() -> None:
    place = Projection("EPSG:4326", (1.0, 0.0, 0.0, 0.0, -1.0, 10.0))
    image = image_of(lambda c, r: c, projection=place, footprint=shapely.box(2, 3, 5, 7))
    found = np.load(io.BytesIO(render_pixels(image, {"fileFormat": "NPY"}, request_context())[0]))
    assert found["b"].tolist() == [[2, 3, 4]] * 4
    body = {"fileFormat": "NPY", "grid": {"dimensions": {"width": 6, "height": 2}}}
    assert (
        np.load(io.BytesIO(render_pixels(image, body, request_context())[0]))["b"].tolist() == [[2, 2, 3, 3, 4, 4]] * 2
    )
    area = {"type": "Polygon", "coordinates": [[[3, 3], [5, 3], [5, 4], [3, 4], [3, 3]]]}
    found = np.load(io.BytesIO(render_pixels(image, {"fileFormat": "NPY", "region": area}, request_context())[0]))
    assert found["b"].tolist() == [[3, 4]]
