"""Sites of raster files: which files they have, whose grid is the base, and whether the files are where the tiles are."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from click.testing import CliRunner
from pyproj import Transformer
from rasterio.control import GroundControlPoint
from rasterio.errors import NotGeoreferencedWarning
from rasterio.rio.main import main_group
from rasters_world import CATALOG, EPSG, SIZE, ULX, ULY, World, pixel_lonlat, small_world, tile_mesh, write_tif

from mmearth_data import build, make_recipe
from mmearth_data.errors import InputError
from mmearth_data.sources.rasters import RasterSource
from mmearth_data.sources.rasters.pixels import read_bands


@pytest.fixture
def world(tmp_path: Path) -> World:
    return small_world(tmp_path)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---------------------------------------------------------------- one file per band

BIGEARTHNET = """\
root: .
base: sentinel2
layers:
  - modality: sentinel2
    path: "S2/*/*_T{site}/*_{band}.tif"
    bands: {B01: B1, B02: B2, B03: B3, B04: B4, B05: B5, B06: B6, B07: B7, B08: B8, B8A: B8A, B09: B9, B11: B11, B12: B12}
    date: {filename: '_(\\d{8}T\\d{6})_'}
    level: {filename: 'MSI(L1C|L2A)'}
    orbit: {filename: '_(R\\d{3})_'}
  - modality: sentinel1
    path: "S1/*/*_{site}/*_{band}.tif"
    bands: {VV: "{pass}_VV", VH: "{pass}_VH"}
    pass: {asc: 'T1[4-9]', desc: 'T0[3-9]'}
    date: {filename: '_(\\d{8}T\\d{6})_'}
"""
PATCH_PX = 120
METRES = {"B01": 60, "B09": 60, **dict.fromkeys(("B02", "B03", "B04", "B08"), 10)}
S2_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
SITES = {"33UUP_26_57": (600_000, 5_300_000, "T165043"), "33UUP_27_57": (601_200, 5_300_000, "T052010")}


def surface(number: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A plane of each band, whole at the centres of all pixels: bilinear interpolation gives it back exactly."""
    return 2000 + 100 * number + 0.4 * (x - 600_000) - 0.2 * (y - 5_300_000)


def patch(path: Path, number: int, corner: tuple[int, int], pixel: int, dtype: str) -> None:
    count = PATCH_PX * 10 // pixel
    steps = pixel * (np.arange(count) + 0.5)
    x, y = np.meshgrid(corner[0] + steps, corner[1] - steps)
    transform = rasterio.Affine(pixel, 0, corner[0], 0, -pixel, corner[1])
    write_tif(path, np.rint(surface(number, x, y))[None].astype(dtype), transform=transform)


def bigearthnet(root: Path) -> Path:
    """Two patches as BigEarthNet names and stores them, and a mapping of them."""
    for site, (x, y, hour) in SITES.items():
        scene = "S2A_MSIL2A_20170613T101031_N9999_R022"
        for number, band in enumerate(S2_BANDS):
            name = f"{scene}_T{site}"
            patch(root / "S2" / scene / name / f"{name}_{band}.tif", number, (x, y), METRES.get(band, 20), "uint16")
        scene = f"S1A_IW_GRDH_1SDV_20170614{hour}"
        for number, band in enumerate(("VV", "VH")):
            name = f"{scene}_{site}"
            patch(root / "S1" / scene / name / f"{name}_{band}.tif", number, (x, y), 10, "float32")
    file = root / "bigearthnet.yaml"
    file.write_text(BIGEARTHNET)
    return file


def test_bigearthnet_is_built_from_a_mapping_of_fifteen_lines(tmp_path: Path) -> None:
    assert len(BIGEARTHNET.splitlines()) <= 15
    recipe = make_recipe(None, {"source": f"rasters:{bigearthnet(tmp_path)}", "tile_size": 112})
    store = build(recipe, tmp_path / "b.zarr")
    tiles = store.tiles.sort_values("ulx")
    assert tiles["ulx"].tolist() == [600_000, 601_200]
    assert (tiles["s2_level"] == "L2A").all()
    for at, row in zip(tiles.index, tiles.itertuples(), strict=True):
        steps = 10 * (np.arange(112) + 0.5)
        x, y = np.meshgrid(row.ulx + steps, row.uly - steps)
        pixels = store[int(at)]
        inner = (slice(6, -6), slice(6, -6))  # 60 m pixels: no neighbour to interpolate with beyond the file
        for number, band in enumerate(S2_BANDS):
            stored = pixels["sentinel2"][CATALOG.modalities["sentinel2"].bands.index(band.replace("B0", "B"))]
            np.testing.assert_array_equal(stored[inner], np.rint(surface(number, x, y))[inner], err_msg=band)
        assert (pixels["sentinel2"][10] == 0).all()  # B10: no file
        for name, number in (("VV", 0), ("VH", 1)):
            orbit_pass, other = ("asc", "desc") if row.ulx == 600_000 else ("desc", "asc")
            bands = CATALOG.modalities["sentinel1"].bands
            np.testing.assert_allclose(
                pixels["sentinel1"][bands.index(f"{orbit_pass}_{name}")], np.rint(surface(number, x, y))
            )
            assert np.isnan(pixels["sentinel1"][bands.index(f"{other}_{name}")]).all()


def one_band(world: World, name: str, pixel: float = 10, value: int = 5) -> None:
    """A band of site a in a file of its own, on a grid of its own."""
    count = round(SIZE * 10 / pixel)
    transform = rasterio.Affine(pixel, 0, ULX, 0, -pixel, ULY)
    write_tif(world.root / name, np.full((1, count, count), value, "uint16"), transform=transform)


def banded(world: World, bands: Any, path: str = "b/{site}_{band}.tif", **fields: Any) -> RasterSource:
    layer = {"modality": "sentinel2", "path": path, "bands": bands, **fields}
    world.mapping = {"root": ".", "base": "sentinel2", "layers": [layer]}
    return world.source()


def test_names_of_bands_are_those_of_the_catalog_unless_a_map_says_otherwise(world: World) -> None:
    for band, value in (("B2", 2), ("B8", 8), ("B8A", 9)):
        one_band(world, f"b/a_{band}.tif", value=value)
    source = banded(world, ["B2", "B8", "B8A"], notes=["once"])
    pixels = source.read(source.survey(source.places(64))[0], source.modalities(tuple(CATALOG.modalities.values())))
    assert pixels["sentinel2"].max(axis=(1, 2)).tolist() == [0, 2, 0, 0, 0, 0, 0, 9, 8, 0, 0, 0, 0]
    assert source.notes == ["sentinel2: once"]
    source = banded(world, {"B2": "B8", "B8": "B2"})
    pixels = source.read(source.survey(source.places(64))[0], source.modalities(tuple(CATALOG.modalities.values())))
    assert pixels["sentinel2"].max(axis=(1, 2)).tolist() == [0, 8, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]


@pytest.mark.parametrize("order", [["B1", "B2", "B11"], ["B11", "B1", "B2"], ["B2", "B11", "B1"]])
def test_the_base_is_the_10_m_file_wherever_it_is_listed(world: World, order: list[str]) -> None:
    for band, pixel in (("B1", 60), ("B2", 10), ("B11", 20)):
        one_band(world, f"b/a_{band}.tif", pixel)
    source = banded(world, order)
    assert source.sites[0].base.name == "b/a_B2.tif"
    assert (source.survey(source.places(64))[0].grid.ulx, len(source.places(64))) == (ULX, 1)


def test_without_a_10_m_file_the_finest_one_is_named_with_what_helps(world: World) -> None:
    one_band(world, "b/a_B1.tif", 60)
    one_band(world, "b/a_B11.tif", 20)
    message = refusal(lambda: banded(world, ["B1", "B11"]).places(64))
    assert "a_B11.tif: expected a base grid of 10 m pixels" in message
    assert "map a layer of sentinel2 with pixels of 10 m" in message
    assert "the finest of 2 files" in message


def test_a_site_is_found_by_any_file_of_the_base_modality(world: World) -> None:
    one_band(world, "b/a_B2.tif")
    one_band(world, "b/c_B2.tif")
    transform = rasterio.Affine(10, 0, ULX + 3000, 0, -10, ULY)
    write_tif(world.root / "b" / "c_B2.tif", np.ones((1, SIZE, SIZE), "uint16"), transform=transform)
    one_band(world, "b/a_B1.tif", 60)
    assert [site.name for site in banded(world, ["B1", "B2"]).sites] == ["a", "c"]


@pytest.mark.parametrize("name", ["._a_B2.tif", ".ipynb_checkpoints/a_B2.tif", "__MACOSX/a_B2.tif"])
def test_hidden_files_are_no_rasters(world: World, name: str) -> None:
    one_band(world, "b/a_B2.tif")
    (world.root / "b" / name).parent.mkdir(exist_ok=True)
    (world.root / "b" / name).write_bytes(b"\0\5\x16\7" * 20)
    for path in ("b/*{site}_{band}.tif", "*/{site}_{band}.tif", "b/{site}_{band}.tif"):
        assert [site.name for site in banded(world, ["B2"], path).sites] == ["a"]


@pytest.mark.parametrize(
    ("path", "fields", "words"),
    [
        ("b/{site}_{band}.tif", {"bands": ["B2", None]}, "a band is skipped by leaving it out"),
        ("b/{site}_{band}.tif", {"bands": {"B/2": "B2"}}, "names of bands as they are in file names"),
        ("b/{site}_{band}.tif", {"bands": {}}, "layers.0.bands"),
        ("b/{site}_{band}.tif", {"bands": {"B2": "B22"}}, "'B22'; did you mean 'B2'"),
        ("b/{site}_{band}.tif", {"bands": ["B3"]}, r"'b/\{site\}_B3.tif' .*finds no files"),
        ("b/{site}.tif", {"bands": {"B2": "B2"}}, r"the path has no \{band\}"),
        ("b/{site}_{band}.tif", {"bands": ["B2"], "level": {"filename": "MSI"}}, "needs a group"),
        ("b/{site}_{band}.tif", {"bands": ["B2"], "level": {"filename": "(B2)"}}, "expected L1C or L2A .*got 'B2'"),
        ("b/{site}_{band}.tif", {"bands": ["B2"], "level": {"filename": "(L2A)"}}, "file name that matches"),
        ("b/{site}_{band}.tif", {"bands": ["B2"], "orbit": {"filename": "_(R[0-9])"}}, "file name that matches"),
        ("b/{site}_{band}.tif", {"bands": ["B2"], "pass": {"filename": "_(B2)"}}, "expected ASC or DESC .*got 'B2'"),
        ("b/{site}_{band}.tif", {"bands": ["B2"], "pass": {"filename": "_(["}}, "not a regular expression"),
        ("b/{site}_{band}.tif", {"bands": ["B2"], "pass": {"asc": "B2"}}, "asc and desc"),
        ("b/{site}_{band}.tif", {"bands": ["B2"], "pass": {"asc": "B", "desc": "2"}}, "matches either"),
        ("b/{site}_{band}.tif", {"bands": ["B2"], "pass": {"filename": "(B)"}, "sites": {"a": {"pass": "asc"}}}, "site a"),
    ],
)  # fmt: skip
def test_a_wrong_pattern_or_rule_is_refused(world: World, path: str, fields: dict[str, Any], words: str) -> None:
    one_band(world, "b/a_B2.tif")
    with pytest.raises(InputError, match=words):
        banded(world, fields.pop("bands"), path, **fields).places(64)


def test_the_pass_in_file_names_sorts_the_files_of_a_site(world: World) -> None:
    for orbit_pass, value in (("ASC", 1.5), ("DESC", -2.5)):
        grid = {"transform": rasterio.Affine(10, 0, ULX, 0, -10, ULY)}
        name = world.root / "s1" / f"a_{orbit_pass}_2021073{value > 0:d}_O044.tif"
        write_tif(name, np.full((2, SIZE, SIZE), value, "float32"), **grid)
    world.mapping["sites"] = ["a"]
    world.mapping["layers"].append(
        {
            "modality": "sentinel1",
            "path": "s1/{site}_*.tif",
            "bands": ["{pass}_VV", "{pass}_VH"],
            "pass": {"filename": "_(ASC|DESC)_"},
            "date": {"filename": r"_(\d{8})_"},
            "orbit": {"filename": r"_O(\d{3})\."},
        }
    )
    source, (survey,) = world.surveys()
    pixels = source.read(survey, [CATALOG.modalities["sentinel1"]])["sentinel1"]
    assert np.nan_to_num(pixels[:, 0, 0], nan=9).tolist() == [1.5, 1.5, 9, 9, -2.5, -2.5, 9, 9]
    assert survey.s1_asc_days == pytest.approx(10.443, abs=0.01)  # 31 July, less 20 July 13:22
    assert survey.s1_desc_days == pytest.approx(9.443, abs=0.01)
    assert survey.facts["orbits"] == {"sentinel1": "044"}


def test_the_level_in_file_names_is_that_of_the_tile_and_selects_files(world: World) -> None:
    for number, level in enumerate(("L1C", "L2A")):
        transform = rasterio.Affine(10, 0, ULX + 3000 * number, 0, -10, ULY)
        for band in ("B2", "B10"):
            name = world.root / "b" / f"{level}x{band}.tif"
            write_tif(name, np.ones((1, SIZE, SIZE), "uint16"), transform=transform)
    source = banded(world, ["B2"], "b/{site}x{band}.tif", level={"filename": "(L1C|L2A)"})
    assert [survey.s2_level for survey in source.survey(source.places(64))] == [0, 1]
    other = RasterSource(world.file, catalog=CATALOG, level="L2A")
    assert [site.name for site in other.sites] == ["L2A"]
    message = refusal(lambda: banded(world, ["B10"], "b/{site}x{band}.tif", level={"filename": "(L1C|L2A)"}).sites)
    assert "L2AxB10.tif: expected bands of level L2A" in message


# ---------------------------------------------------------------- longitudes go round


def planet(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """Heights all around the Earth, smooth across every meridian."""
    value: np.ndarray = 3000 * np.sin(np.radians(3 * lon)) + 2000 * np.sin(np.radians(2 * lat))
    return value


def interpolated(lon: np.ndarray, lat: np.ndarray, step: float) -> np.ndarray:
    """Bilinear interpolation between pixel centres at (k + 1/2) step, in closed form."""
    left, low = np.floor(lon / step - 0.5), np.floor(lat / step - 0.5)
    s, t = lon / step - 0.5 - left, lat / step - 0.5 - low
    corners = [[planet((left + i + 0.5) * step, (low + j + 0.5) * step) for i in (0, 1)] for j in (0, 1)]
    rows = [c[0] * (1 - s) + c[1] * s for c in corners]
    value: np.ndarray = rows[0] * (1 - t) + rows[1] * t
    return value


def utm_site(world: World, lon: float, lat: float, epsg: int) -> tuple[float, float]:
    """Move the base of the world's only site to a point; its upper-left corner."""
    x, y = Transformer.from_crs(4326, epsg, always_xy=True).transform(lon, lat)
    corner = (round(x) - 320.0, round(y) + 320.0)
    transform = rasterio.Affine(10, 0, corner[0], 0, -10, corner[1])
    one = np.ones((3, 64, 64), "int16")
    write_tif(world.root / "s2" / "a.tif", one, crs=f"EPSG:{epsg}", transform=transform)
    world.mapping["sites"] = ["a"]
    world.mapping["layers"] = world.mapping["layers"][:2]
    world.mapping["layers"][1] = {"modality": "aster", "path": "dem.tif", "bands": ["elevation"]}
    del world.mapping["scene_time"]
    return corner


@pytest.mark.parametrize(
    ("lon", "epsg"),
    [(-70.0, 32719), (0.0, 32731), (180.0, 32701), (179.999, 32760), (-179.9995, 32701), (9.0, 32732)],
)
@pytest.mark.parametrize(
    ("west", "width"), [(0.0, 360.0), (-180.0, 360.0), (-0.25, 360.5)], ids=["0..360", "-180..180", "one more"]
)
def test_a_grid_all_around_the_earth_is_read_on_any_meridian(
    world: World, lon: float, epsg: int, west: float, width: float
) -> None:
    utm_site(world, lon, -22.6, epsg)
    around_the_earth(world, west, width, (-23, -22), 0.25)
    check_heights(world, 0.25)


@pytest.mark.parametrize(("west", "lon", "epsg"), [(289.0, -70.0, 32719), (-71.0, -70.0, 32719), (179, 180.0, 32701)])
def test_a_part_of_a_grid_is_read_whichever_turn_it_counts(world: World, west: float, lon: float, epsg: int) -> None:
    utm_site(world, lon, -22.6, epsg)
    around_the_earth(world, west, 2, (-23, -22), 0.01)
    check_heights(world, 0.01)


def around_the_earth(world: World, west: float, width: float, lats: tuple[int, int], step: float) -> None:
    cols, rows = np.arange(round(width / step)), np.arange(round((lats[1] - lats[0]) / step))
    lon, lat = np.meshgrid(west + step * (cols + 0.5), lats[1] - step * (rows + 0.5))
    transform = rasterio.Affine(step, 0, west, 0, -step, lats[1])
    write_tif(world.root / "dem.tif", planet(lon, lat)[None], crs="EPSG:4326", transform=transform)


def check_heights(world: World, step: float) -> None:
    source, (survey,) = world.surveys()
    file = next(file for file in source.sites[0].files if file.modality.name == "aster")
    heights = read_bands(file, survey.grid)["elevation"]
    lon, lat = pixel_lonlat(survey.grid.epsg, *tile_mesh(survey))
    np.testing.assert_allclose(heights, interpolated(lon, lat, step), atol=0.01)


# ---------------------------------------------------------------- a file that is somewhere else


def elsewhere(world: World, **grid: Any) -> str:
    write_tif(world.root / "dem" / "a.tif", np.ones((1, 50, 50), "int16"), **grid)
    return refusal(lambda: world.source().places(64))


def test_a_file_that_meets_no_tile_is_refused_with_both_bounds(world: World) -> None:
    message = elsewhere(world, crs="EPSG:4326", transform=rasterio.Affine(0.001, 0, 100, 0, -0.001, 10))
    assert "dem/a.tif: expected a file that meets the tiles of site a (west" in message
    corners = pixel_lonlat(EPSG, ULX + np.array([0, 0, 640, 640]), ULY - np.array([0, 640, 0, 640]))
    expected = [corners[0].min(), corners[1].min(), corners[0].max(), corners[1].max()]
    np.testing.assert_allclose([float(n) for n in re.findall(r"[\d.]+(?=[, ])", message)][:4], expected, atol=1e-4)
    assert "got west 100, south 9.95, east 100.05, north 10 degrees" in message


def test_swapped_axes_are_said(world: World) -> None:
    message = elsewhere(world, crs="EPSG:4326", transform=rasterio.Affine(0.001, 0, 47.82, 0, -0.001, 10.36))
    assert "its axes are swapped: write it again with longitude as x" in message
    message = elsewhere(world, transform=rasterio.Affine(20, 0, ULY - 500, 0, -20, ULX + 500))
    assert "its axes are swapped: write it again with easting as x" in message


def test_a_wrong_zone_is_said_and_the_command_helps(world: World) -> None:
    message = elsewhere(world, crs="EPSG:32633")
    assert "its numbers meet in EPSG:32632" in message
    command(message.partition("may be wrong: ")[2], world.root / "dem" / "a.tif")
    assert len(world.source().places(64)) == 2


def test_a_file_for_all_sites_must_meet_one_of_them(world: World) -> None:
    world.layer("aster").update(path="dem/a.tif")
    assert len(world.source().places(64)) == 2  # it covers site a alone
    grid = {"transform": rasterio.Affine(10, 0, ULX + 20_000, 0, -10, ULY)}
    write_tif(world.root / "dem" / "a.tif", np.ones((1, 50, 50), "int16"), **grid)
    assert "meets the tiles of site a" in refusal(lambda: world.source().places(64))


def test_a_file_with_numbers_of_no_location_is_refused(world: World) -> None:
    message = elsewhere(world, transform=rasterio.Affine(10, 0, 9e9, 0, -10, 9e9))
    assert "west 9e+09, south 9e+09" in message
    assert "in a CRS that does not cover them" in message
    message = elsewhere(world, crs="EPSG:32661", transform=rasterio.Affine(10, 0, 2e6, 0, -10, 2e6))
    assert "got west" in message


def test_a_base_with_numbers_of_no_location_is_refused(world: World) -> None:
    write_tif(
        world.root / "s2" / "a.tif", np.ones((3, 64, 64), "int16"), transform=rasterio.Affine(10, 0, 9e9, 0, -10, 9e9)
    )
    message = refusal(lambda: world.source().places(64))
    assert "s2/a.tif: expected a site on the Earth" in message


def test_a_file_beside_the_last_full_tile_meets_none(world: World) -> None:
    message = elsewhere(world, transform=rasterio.Affine(10, 0, ULX + 650, 0, -10, ULY))  # tiles end at 640 m of 800
    assert "meets the tiles of site a" in message


# ---------------------------------------------------------------- what the messages advise works


def command(text: str, source: Path, out: Path | None = None) -> None:
    """Run a command of a message on a file."""
    words = text.strip(".").split()
    assert words.pop(0) == "rio"
    if "(the" in words:
        words = words[: words.index("(the")]
    names = {"IN": str(source), "OUT": str(out), "FILE": str(source)}
    rio(*(names.get(word, word) for word in words))


def rio(*words: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rio's own code is not ours to warn of
        done = CliRunner().invoke(main_group, words)
    assert done.exit_code == 0, done.output


def advice(message: str) -> str:
    return message[message.index("rio ") :]


def follow(world: World, message: str) -> None:
    """Warp site a's base as a message says; the build then has both sites."""
    path = world.root / "s2" / "a.tif"
    out = path.with_name("out.tif")
    command(advice(message), path, out)
    out.replace(path)
    world.mapping["layers"] = world.mapping["layers"][:1]
    world.mapping.pop("scene_time", None)
    assert [site.name for site in world.source().sites] == ["a", "b"]
    assert len(world.source().places(16)) > 25


@pytest.mark.parametrize(
    "grid",
    [
        {"crs": "EPSG:4326", "transform": rasterio.Affine(1e-4, 0, 10.33, 0, -1e-4, 47.84)},
        {"crs": "EPSG:2056", "transform": rasterio.Affine(10, 0, 2_600_000, 0, -10, 1_200_000) @ rasterio.Affine.rotation(9)},
        {"crs": f"EPSG:{EPSG}", "transform": rasterio.Affine(20, 0, ULX, 0, -20, ULY)},
        {"crs": "EPSG:2227", "transform": rasterio.Affine(30, 0, 6_000_000, 0, -30, 2_000_000)},
        {"crs": "+proj=laea +lat_0=47 +lon_0=10 +units=m", "transform": rasterio.Affine(10, 0, 0, 0, -10, 0)},
        {"crs": "+proj=laea +lat_0=47 +lon_0=10 +units=m +geoidgrids=egm96_15.gtx", "transform": rasterio.Affine(10, 0, 0, 0, -10, 0)},
    ],
    ids=["degrees", "rotated", "20 m", "feet", "no EPSG code", "no EPSG code and a height"],
)  # fmt: skip
def test_the_command_for_a_base_of_another_grid_helps(world: World, grid: dict[str, Any]) -> None:
    write_tif(world.root / "s2" / "a.tif", np.ones((3, SIZE, SIZE), "int16"), **grid)
    follow(world, refusal(lambda: world.source().places(16)))


def test_a_file_with_control_points_only_is_warped_as_the_message_says(world: World) -> None:
    path = world.root / "s2" / "a.tif"
    corners: Sequence[tuple[int, int]] = [(0, 0), (0, SIZE), (SIZE, 0), (SIZE, SIZE)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        write_tif(path, np.ones((3, SIZE, SIZE), "int16"), crs=None, transform=None)
        with rasterio.open(path, "r+") as dataset:
            points = [GroundControlPoint(r, c, 500_000 + 10 * c, 5_200_000 - 10 * r) for r, c in corners]
            dataset.gcps = (points, rasterio.CRS.from_epsg(EPSG))
    message = refusal(lambda: world.source().places(16))
    assert "a.tif: expected a geotransform, got ground control points only" in message
    follow(world, message)


def test_a_crs_and_a_geotransform_are_assigned_as_the_messages_say(world: World) -> None:
    path = world.root / "s2" / "a.tif"
    write_tif(path, np.ones((3, SIZE, SIZE), "int16"), crs=None)
    command(advice(refusal(lambda: world.source().sites)).replace("CODE", str(EPSG)), path)
    assert len(world.source().places(64)) == 2
    write_tif(path, np.ones((3, SIZE, SIZE), "int16"), transform=None)
    message = advice(refusal(lambda: world.source().sites))
    assert message.startswith("rio edit-info --transform '[WIDTH, 0, WEST, 0, -HEIGHT, NORTH]' FILE")
    rio("edit-info", "--transform", f"[10, 0, {ULX}, 0, -10, {ULY}]", str(path))
    assert len(world.source().places(64)) == 2


def test_a_crs_with_heights_is_taken_for_its_horizontal_part(world: World) -> None:
    for site in "ab":
        for folder in ("s2", "dem"):
            path = world.root / folder / f"{site}.tif"
            with rasterio.open(path) as dataset:
                values, transform = dataset.read(), dataset.transform
            write_tif(path, values, crs=f"EPSG:{EPSG}+5773", transform=transform)
    source, surveys = world.surveys()
    assert {survey.grid.epsg for survey in surveys} == {EPSG}
    with rasterio.open(world.root / "dem" / "a.tif") as dataset:
        expected = dataset.read(1)[:64, :64]
    np.testing.assert_array_equal(source.read(surveys[0], [CATALOG.modalities["aster"]])["aster"][0], expected)
