"""Everything that can be wrong with a mapping or its files: one clear line, and the file's name in it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasters_world import CATALOG, SIZE, ULX, ULY, World, small_world, write_tif

from mmearth_data.errors import EXIT_INPUT, FileInputError, InputError
from mmearth_data.sources.rasters import RasterSource

MODALITIES = tuple(CATALOG.modalities.values())
NORTH_UP = rasterio.Affine(10, 0, ULX, 0, -10, ULY)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return small_world(tmp_path)


def use_all(source: RasterSource, size_px: int = 64) -> None:
    """Everything that a build does."""
    source.identity()
    source.modalities(MODALITIES)
    for survey in source.survey(source.places(size_px)):
        source.read(survey, source.modalities(MODALITIES))


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert caught.value.exit_code == EXIT_INPUT
    assert "\n" not in message
    assert message.endswith((".", "?", ")"))
    return message


# The mapping


def layer(name: str, **changes: object) -> Callable[[World], None]:
    return lambda world: world.layer(name).update(changes)


def top(**changes: object) -> Callable[[World], None]:
    return lambda world: world.mapping.update(changes)


def site(name: str, **changes: object) -> Callable[[World], None]:
    return layer(name, sites={"a": changes})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (layer("aster", modality="astre"), "'astre'.*did you mean 'aster'"),
        (layer("aster", modality="era5", bands=["year_avg_temp"], derive={}), "raster modality, got tile/continuous"),
        (layer("sentinel2", bands=["B2", "B3", "B8b"]), "'B8b'.*did you mean 'B8A'|'B8b'.*did you mean 'B8'"),
        (layer("sentinel2", bands=["B2", "B3", "B10"]), "bands of level L2A.*'B10'"),
        (layer("sentinel2", bands=["B2", "B3", "B3"]), "every band once"),
        (layer("sentinel2", bands=["B2", "B3"]), "s2/a.tif: expected 2 bands.*got 3"),
        (layer("sentinel2", bands=[]), "layers.0.bands"),
        (layer("sentinel2", bands="B2"), "layers.0.bands: .*expected a list, got 'B2'"),
        (layer("sentinel2", scale="big"), "layers.0.scale: .*got 'big'"),
        (layer("sentinel2", scael=2), "unknown field 'layers.0.scael'; did you mean 'scale'"),
        (layer("sentinel2", level="L3"), "layers.0.level"),
        (layer("sentinel2", clip=[5, 1]), r"expected \[low, high\]"),
        (layer("sentinel2", codes={1: 1}), "codes are for categories"),
        (layer("io_lulc", codes={1: 10}), "class codes of the catalog, got 10"),
        (layer("io_lulc", codes={1: 300}), "class codes of the catalog, got 300"),
        (layer("io_lulc", codes={"a": 1}), "layers.2.codes"),
        (layer("aster", derive={"slope": "height"}), "comes from 'height'"),
        (layer("aster", derive={"aspect": "elevation"}), "'aspect'"),
        (layer("aster", path="../dem/{site}.tif"), "inside root"),
        (layer("aster", path="dem/../../{site}.tif"), "inside root"),
        (layer("aster", path="/etc/{site}.tif"), "relative to root"),
        (layer("aster", path="~/{site}.tif"), "relative to root"),
        (layer("aster", path="C:/{site}.tif"), "relative to root"),
        (layer("aster", path="dem\\{site}.tif"), "relative to root"),
        (layer("aster", path=""), "relative to root"),
        (layer("aster", path="dem/{id}.tif"), "no placeholder but"),
        (layer("aster", path="**/{site}.tif"), "no placeholder but"),
        (layer("aster", path="nothing/{site}.tif"), "finds no files"),
        (layer("aster", path="*/{site}.tif"), "one file per site"),
        (layer("aster", bands=["{pass}_VV"]), "has no pass"),
        (layer("aster", date={}), "exactly one of tag, filename and constant"),
        (layer("aster", date={"tag": "a", "constant": "2020"}), "exactly one of"),
        (layer("aster", date={"constant": "yesterday"}), "ISO 8601 date.*'yesterday'"),
        (layer("aster", date={"filename": "(["}), "not a regular expression"),
        (layer("aster", date={"filename": "[0-9]+"}), "needs a group"),
        (layer("io_lulc", date={"tag": "date"}), "lulc/a.tif: expected the date in the tag 'date'.*datetime"),
        (layer("io_lulc", date={"tag": "datetime", "format": "%Y"}), "lulc/a.tif: expected a date like '%Y'"),
        (layer("io_lulc", date={"filename": "_(.*)"}), "lulc/a.tif: expected a file name"),
        (layer("io_lulc", date=None), "scene_time is io_lulc, which has no date"),
        (site("sentinel2", offset="x"), "layers.0.sites.a.offset"),
        (site("aster", **{"pass": "up"}), "layers.1.sites.a.pass"),
        (layer("sentinel2", sites={"aa": {"offset": 1}}), "no site 'aa'; did you mean 'a'"),
        (layer("sentinel2", offset=-20000), "s2/a.tif: .*fit uint16"),
        (top(base="aster", scene_time="sentinel1"), "scene_time: .*'sentinel1'; did you mean 'sentinel2'"),
        (top(base="dem"), "base: .*'dem'; known are sentinel2, aster, io_lulc"),
        (top(sites=["a", "c"]), "sites: no file 's2/{site}.tif' for 'c'"),
        (top(sites=["../a"]), "names without slashes"),
        (top(sites=[1]), "sites.0: .*expected text, got 1"),
        (top(sites=["a", "a"]), "every site once"),
        (top(sites=[]), "sites: "),
        (top(level="L1C"), "layers of level L1C, got L2A"),
        (top(layers=[]), "layers: "),
        (top(root={"env": "MMEARTH_NOT_SET"}), "MMEARTH_NOT_SET is not set"),
        (top(root="no/such/folder"), "'no/such/folder', found none"),
        (top(root={}), "expected env"),
        (lambda world: world.mapping.pop("base"), "the field 'base' is missing"),
    ],
)  # fmt: skip
def test_a_wrong_mapping_is_refused_in_one_line(
    world: World, change: Callable[[World], None], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    change(world)
    message = refused(lambda: use_all(world.source()))
    assert re.search(words, message), message
    assert message.startswith(str(world.root))
    assert capfd.readouterr() == ("", "")


def test_a_level_that_no_layer_has_is_refused(world: World) -> None:
    assert "layers of level L1C, got L2A" in refused(lambda: world.source(level="L1C").places(64))


def test_a_pass_that_contradicts_the_bands_is_refused(world: World) -> None:
    extra = {"modality": "sentinel1", "path": "dem/{site}.tif", "bands": ["asc_VV"], "sites": {"a": {"pass": "desc"}}}
    world.mapping["layers"].append(extra)
    assert "pass is desc, but the bands are asc_VV" in refused(lambda: world.source().places(64))


def test_one_band_from_two_files_is_refused(world: World) -> None:
    world.mapping["layers"].append(world.layer("aster") | {"path": "lulc/{site}.tif"})
    message = refused(lambda: world.source().places(64))
    assert "elevation from dem/a.tif too" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"root: [", "not YAML"),
        (b"\xff\xfe\x00root", "UTF-8"),
        (b"", "expected a mapping file of `field: value` lines"),
        (b"- a\n- b\n", "expected a mapping file of `field: value` lines"),
        (b"root: .\nbase: x\nlayers: {}\n", "mapping.yaml:3: layers"),
        (b"root: .\nbase: x\nlayers:\n  - modality: x\n    path: 7\n    bands: [a]\n", "mapping.yaml:5: layers.0.path"),
        (b"root: !!python/object/apply:os.getcwd []\nbase: x\nlayers: []\n", "not YAML"),
        (b"? [a, b]\n: c\n", "mapping.yaml"),
    ],
)
def test_a_broken_mapping_file_is_refused_with_its_line(tmp_path: Path, text: bytes, words: str) -> None:
    path = tmp_path / "mapping.yaml"
    path.write_bytes(text)
    assert words in refused(lambda: RasterSource(path, catalog=CATALOG).places(64))


def test_a_missing_mapping_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        assert str(path) in refused(lambda p=path: RasterSource(p, catalog=CATALOG).identity())


def test_an_environment_variable_that_points_nowhere_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.mapping["root"] = {"env": "MMEARTH_SOMEWHERE", "default": "."}
    for value in (str(world.root / "gone"), str(world.file)):
        monkeypatch.setenv("MMEARTH_SOMEWHERE", value)
        message = refused(lambda: world.source().places(64))
        assert "MMEARTH_SOMEWHERE" in message
        assert value in message
    monkeypatch.setenv("MMEARTH_SOMEWHERE", "")
    assert len(world.source().places(64)) == 2


# The files


def rewrite(path: str, **profile: object) -> Callable[[World], None]:
    """Write a file anew with another grid or type."""

    def change(world: World) -> None:
        with rasterio.open(world.root / path) as dataset:
            values, tags = dataset.read(), dataset.tags()
        write_tif(world.root / path, values.astype(profile.pop("dtype", values.dtype)), tags=tags, **profile)

    return change


def cut(path: str, keep: float) -> Callable[[World], None]:
    def change(world: World) -> None:
        content = (world.root / path).read_bytes()
        (world.root / path).write_bytes(content[: int(len(content) * keep)])

    return change


def fill(path: str, value: int) -> Callable[[World], None]:
    def change(world: World) -> None:
        with rasterio.open(world.root / path, "r+") as dataset:
            values = dataset.read(1)
            values[3, 60] = value
            dataset.write(values, 1)

    return change


def text_file(world: World) -> None:
    (world.root / "s2" / "a.tif").write_text("not a raster at all", encoding="utf-8")


def picture(world: World) -> None:
    write_tif(world.root / "s2" / "a.tif", np.zeros((3, 80, 80), "uint8"), driver="PNG")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (text_file, "s2/a.tif: expected a complete GeoTIFF"),
        (picture, "s2/a.tif: expected a GeoTIFF or JPEG 2000, got the format PNG"),
        (cut("s2/a.tif", 0.5), "s2/a.tif: .*truncated"),
        (cut("s2/a.tif", 0.001), "s2/a.tif: .*truncated"),
        (cut("s2/b.tif", 0), "s2/b.tif: expected a complete GeoTIFF"),
        (cut("lulc/b.tif", 0.9), "lulc/b.tif: .*truncated"),
        (cut("dem/b.tif", 0.99), "dem/b.tif: .*truncated"),
        (rewrite("s2/a.tif", crs=None), "s2/a.tif: expected a CRS, got none"),
        (rewrite("dem/b.tif", crs=None), "dem/b.tif: expected a CRS, got none"),
        (rewrite("s2/a.tif", transform=None), "s2/a.tif: expected a geotransform, got none"),
        (rewrite("s2/a.tif", dtype="complex64"), "s2/a.tif: expected integers"),
        (rewrite("s2/a.tif", transform=NORTH_UP @ rasterio.Affine.rotation(3)), "s2/a.tif: .*rotated"),
        (rewrite("s2/a.tif", transform=rasterio.Affine(20, 0, ULX, 0, -20, ULY)), "10 m pixels.*got 20 x 20 m"),
        (rewrite("s2/a.tif", transform=rasterio.Affine(10, 0, ULX, 0, 10, ULY)), "north up, got 10 x -10 m"),
        (rewrite("s2/a.tif", crs="EPSG:4326"), "projected CRS"),
        (rewrite("s2/a.tif", crs="EPSG:2227"), "in metres"),
        (rewrite("s2/a.tif", crs="+proj=tmerc +lat_0=1.5 +lon_0=9.1 +ellps=bessel"), "EPSG code"),
        (rewrite("s2/b.tif", transform=NORTH_UP), "s2/b.tif: .*got that of s2/a.tif"),
        (fill("lulc/b.tif", 12), r"lulc/b.tif: .*class codes of io_lulc .*got 12"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_named(
    world: World, change: Callable[[World], None], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    change(world)
    message = refused(lambda: world.source().places(64))  # before any tile is read
    assert re.search(words, message), message
    assert capfd.readouterr() == ("", "")


def test_a_site_smaller_than_a_tile_is_refused(world: World) -> None:
    write_tif(world.root / "s2" / "b.tif", np.ones((3, 50, 70), "int16"))
    message = refused(lambda: world.source().places(64))
    assert re.search("s2/b.tif: expected at least 64 x 64 px.*got 50 x 70", message)
    for size_px in (0, 100, 4096):
        assert str(size_px) in refused(lambda s=size_px: world.source().places(s))


def test_a_code_that_the_map_lacks_is_refused_in_a_shared_file_when_it_is_read(world: World) -> None:
    """A file for all sites may cover a country; it is not read through beforehand."""
    write_tif(world.root / "all.tif", np.full((1, SIZE, SIZE), 77, "uint8"), tags={"datetime": "2021-07-20"})
    world.layer("io_lulc").update(path="all.tif", codes={76: 1})
    source, surveys = world.surveys()
    message = refused(lambda: source.read(surveys[0], [CATALOG.modalities["io_lulc"]]))
    assert "all.tif" in message
    assert "(76), got 77" in message


@pytest.mark.parametrize(
    "options", [{}, {"compress": "deflate"}, {"tiled": True, "compress": "lzw", "interleave": "band"}]
)
def test_no_cut_of_a_file_goes_unnoticed(world: World, options: dict[str, object]) -> None:
    blocks = {"blockxsize": 32, "blockysize": 32} if "tiled" in options else {}
    values = np.random.default_rng(0).integers(1, 9000, (3, SIZE, SIZE)).astype("int16")
    whole = write_tif(world.root / "s2" / "a.tif", values, **options, **blocks).read_bytes()
    for keep in np.linspace(0, len(whole) - 1, 25).astype(int):
        (world.root / "s2" / "a.tif").write_bytes(whole[:keep])
        assert "s2/a.tif" in refused(lambda: world.source().places(64))
    (world.root / "s2" / "a.tif").write_bytes(whole)
    use_all(world.source())


def test_damage_inside_a_file_is_noticed_when_it_is_read(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    values = np.random.default_rng(0).integers(1, 9000, (3, SIZE, SIZE)).astype("int16")
    path = write_tif(world.root / "s2" / "a.tif", values, compress="deflate")
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 400] = bytes(400)
    path.write_bytes(content)
    assert "s2/a.tif" in refused(lambda: use_all(world.source()))
    assert capfd.readouterr() == ("", "")


def test_jpeg_2000_is_read_and_its_cuts_are_noticed(world: World) -> None:
    values = np.random.default_rng(0).integers(1, 9000, (1, SIZE, SIZE)).astype("uint16")
    lossless = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}
    path = write_tif(world.root / "jp" / "a.jp2", values, **lossless)
    world.mapping["layers"].append({"modality": "sentinel2", "path": "jp/{site}.jp2", "bands": ["B12"], "level": "L2A"})
    np.testing.assert_array_equal(world.read()["sentinel2"][12], values[0, :64, :64])
    whole = path.read_bytes()
    for keep in (len(whole) - 10, len(whole) // 2, 200, 20, 0):
        path.write_bytes(whole[:keep])
        assert "jp/a.jp2" in refused(lambda: use_all(world.source()))


def test_a_file_that_vanishes_is_named(world: World) -> None:
    source, surveys = world.surveys()
    (world.root / "dem" / "a.tif").unlink()
    with pytest.raises(FileInputError, match=r"dem/a\.tif"):
        source.read(surveys[0], [CATALOG.modalities["aster"]])


def test_the_default_root_is_found_beside_the_mapping_and_from_the_current_folder(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.mapping["root"] = f"../{world.root.name}"
    (world.root / "inner").mkdir()
    monkeypatch.chdir(world.root / "inner")
    assert len(world.source().places(64)) == 2  # beside the mapping: root/../root
    world.mapping["root"] = "../s2"
    for entry in world.mapping["layers"]:
        entry["path"] = entry["path"].replace("s2/", "")
    world.mapping["layers"] = world.mapping["layers"][:1]
    del world.mapping["scene_time"]
    assert len(world.source().places(64)) == 2  # from the current folder: inner/../s2
