"""What builds from raster files take for missing, for units and for ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasters_world import SIZE, World, small_world, write_tif

from mmearth_data.errors import FileInputError, InputError

FLOOR = np.full((1, SIZE, SIZE), 12345, "int16")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return small_world(tmp_path)


def tag(path: Path, scale: float, offset: float = 0.0) -> None:
    with rasterio.open(path, "r+") as dataset:
        dataset.scales, dataset.offsets = (scale,) * dataset.count, (offset,) * dataset.count


@pytest.mark.parametrize("mark", [-9999.9, -3.4e38, 1e20])
@pytest.mark.parametrize("as_tag", [False, True])
def test_decimal_no_data_of_float32_files_is_missing(world: World, mark: float, as_tag: bool) -> None:
    values = np.full((2, SIZE, SIZE), -12.5, "float32")
    values[:, :10] = mark
    write_tif(world.root / "s1" / "a.tif", values, **({"nodata": mark} if as_tag else {}))
    layer = {"modality": "sentinel1", "path": "s1/{site}.tif", "bands": ["asc_VV", "asc_VH"]}
    world.mapping["layers"].append(layer | ({} if as_tag else {"nodata": mark}))
    found = world.read()["sentinel1"][:2]
    assert np.isnan(found[:, :10]).all()
    assert (found[:, 10:] == -12.5).all()


def test_several_numbers_mean_missing_and_null_cancels_a_wrong_tag(world: World) -> None:
    heights = np.tile(np.arange(SIZE, dtype="int16"), (1, SIZE, 1))
    write_tif(world.root / "dem" / "a.tif", heights, nodata=7)
    for nodata, missing in (([3, 5], [3, 5]), (None, []), ([], [])):
        world.layer("aster")["nodata"] = nodata
        row = world.read()["aster"][0, 0]
        assert np.flatnonzero(row == -32768).tolist() == missing
    del world.layer("aster")["nodata"]
    world.layer("aster")["sites"] = {"a": {"nodata": None}}
    assert (world.read()["aster"][0, 0] == np.arange(64)).all()


def test_a_number_that_the_files_cannot_hold_marks_nothing_and_is_refused(world: World) -> None:
    write_tif(world.root / "dem" / "a.tif", np.ones((1, SIZE, SIZE), "uint8"))
    world.layer("aster")["nodata"] = -9999
    with pytest.raises(FileInputError, match=r"dem/a\.tif: nodata: expected a number that uint8 can hold, got -9999"):
        world.source().places(64)


@pytest.mark.parametrize("nodata", ["1e20", True, [[1]]])
def test_a_field_nodata_that_is_no_number_is_refused_with_its_line(world: World, nodata: object) -> None:
    world.layer("aster")["nodata"] = nodata
    with pytest.raises(FileInputError, match="nodata: expected a number, a list of numbers or null"):
        world.source().places(64)


def test_scale_and_offset_tags_lead_to_stored_units(world: World) -> None:
    write_tif(world.root / "dem" / "a.tif", FLOOR)
    tag(world.root / "dem" / "a.tif", 0.1)
    tag(world.root / "s2" / "a.tif", 0.0001, -0.1)
    with rasterio.open(world.root / "s2" / "a.tif") as dataset:
        numbers = dataset.read().astype(int)
    world.layer("sentinel2")["clip"] = [1, 65535]
    found = world.read()
    assert set(found["aster"][0].flat) == {1235}  # 1234.5 m, halves away from zero
    assert np.array_equal(found["sentinel2"][1], np.clip(numbers[0, :64, :64] - 1000, 1, 65535))


def test_tags_may_differ_between_bands(world: World) -> None:
    write_tif(world.root / "s1" / "a.tif", np.full((2, SIZE, SIZE), -100, "int16"))
    with rasterio.open(world.root / "s1" / "a.tif", "r+") as dataset:
        dataset.scales, dataset.offsets = (0.1, 0.25), (0.0, 1.0)
    world.mapping["layers"].append({"modality": "sentinel1", "path": "s1/{site}.tif", "bands": ["asc_VV", "asc_VH"]})
    found = world.read()["sentinel1"]
    assert found[:2, 0, 0].tolist() == [-10.0, -24.0]


def test_the_mappings_numbers_replace_tags_and_the_store_notes_it(world: World) -> None:
    write_tif(world.root / "dem" / "a.tif", FLOOR)
    tag(world.root / "dem" / "a.tif", 0.1)
    world.layer("aster").update(scale=1, offset=0)
    assert set(world.read()["aster"][0].flat) == {12345}
    (note,) = world.source().identity()["notes"]
    assert note == "aster: the tags scale 0.1 and offset 0 are ignored for the mapping's numbers (dem/a.tif, 1 in all)"
    del world.layer("aster")["scale"]
    with pytest.raises(FileInputError, match=r"dem/a\.tif: expected scale and offset both or neither.*add scale"):
        world.source().places(64)


@pytest.mark.parametrize("field", ["scale", "offset", "clip"])
def test_class_codes_are_never_scaled(world: World, field: str) -> None:
    world.layer("io_lulc")[field] = [1, 9] if field == "clip" else 2
    with pytest.raises(InputError, match=f"{field} would change class codes; leave them out"):
        world.source().places(64)


def test_fractional_codes_and_ids_are_refused_as_they_are(world: World) -> None:
    codes = np.full((1, SIZE, SIZE), 2, "float32")
    codes[0, 5, 5] = 2.5
    write_tif(world.root / "lulc" / "a.tif", codes, tags={"datetime": "2021-07-20"})
    with pytest.raises(InputError, match=r"lulc/a\.tif: expected class codes of io_lulc .*, got 2\.5;"):
        world.source().places(64)
    write_tif(world.root / "lulc" / "a.tif", np.floor(codes), tags={"datetime": "2021-07-20"})
    write_tif(world.root / "scl" / "a.tif", codes)
    layer = {"modality": "sentinel2_scl", "path": "scl/{site}.tif", "bands": ["SCL"]}
    world.mapping["layers"].append(layer)
    with pytest.raises(InputError, match=r"scl/a\.tif: expected whole numbers for sentinel2_scl, got 2\.5; resample"):
        world.read()
    layer["scale"] = layer["offset"] = 1
    assert world.read()["sentinel2_scl"][0, 5, 5] == 4  # 3.5, asked for


def test_a_code_of_64_bits_is_not_taken_for_another(world: World) -> None:
    codes = np.full((1, SIZE, SIZE), 2, "int64")
    codes[0, 5, 5] = 2**32 + 2  # 2 in 32 bits
    write_tif(world.root / "lulc" / "a.tif", codes, tags={"datetime": "2021-07-20"})
    with pytest.raises(InputError, match=r"lulc/a\.tif: expected class codes of io_lulc .*, got 4294967298;"):
        world.source().places(64)


def test_numbers_beyond_float32_are_refused(world: World) -> None:
    write_tif(world.root / "s1" / "a.tif", np.full((1, SIZE, SIZE), -1.7976931348623157e308))
    world.mapping["layers"].append({"modality": "sentinel1", "path": "s1/{site}.tif", "bands": ["asc_VV"]})
    with pytest.raises(
        InputError, match=r"s1/a\.tif: sentinel1: expected numbers that fit float32, got -1\.79769e\+308"
    ):
        world.read()


@pytest.mark.parametrize("name", ["a.tif.msk", "a.tif.aux.xml", "a.tif.ovr", "a.tfw", "a.TFW", "a.wld"])
def test_sidecars_are_part_of_a_sources_identity(world: World, name: str) -> None:
    before = world.source().identity()["files"]
    (world.root / "dem" / "b.csv").write_text("no sidecar")
    assert world.source().identity()["files"] == before
    if name.endswith("msk"):
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK="NO"), rasterio.open(world.root / "dem" / "a.tif", "r+") as dataset:
            dataset.write_mask(np.eye(SIZE, dtype=bool))
    elif name.endswith("ovr"):
        with rasterio.Env(TIFF_USE_OVR="YES"), rasterio.open(world.root / "dem" / "a.tif", "r+") as dataset:
            dataset.build_overviews([2])
    else:
        (world.root / "dem" / name).write_text("<PAMDataset/>" if "xml" in name else "10\n0\n0\n-10\n600003\n5300007\n")
    after = world.source().identity()["files"]
    assert after["aster"]["blake2b"] != before["aster"]["blake2b"]
    assert after["aster"]["files"] == before["aster"]["files"] + 1
    assert {k: v for k, v in after.items() if k != "aster"} == {k: v for k, v in before.items() if k != "aster"}
