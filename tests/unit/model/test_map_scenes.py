"""Files of a scene: which bands they have, on which grid, of which level and offset; and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
import yaml
from map_world import BANDS, CATALOG, S2, make_network, normaliser_of, numbers, write_scene
from rasters_world import ULX, ULY, write_tif

from mmearth_data import FileInputError, InputError
from mmearth_model import Normaliser, SceneOptions, WindowOptions, load_network, predict_scene, save_network
from mmearth_model.maps.describing import describe_scene, level_said, offset_said
from mmearth_model.maps.strips import open_strips
from mmearth_model.tasks import TaskKind, open_task

L2A = normaliser_of("L2A")
SILENT = {"PROCESSING_LEVEL": None, "PROCESSING_BASELINE": None}
PRODUCT = "S2B_MSIL1C_20220401T102559_N0400_R108_T32TQM_20220401T123456.SAFE"


def read_all(normaliser: Normaliser, files: list[Path], **given: Any) -> dict[str, np.ndarray]:
    """Stored numbers of a whole scene, and 5 px around it."""
    scene = describe_scene(normaliser, files, SceneOptions(**given))
    with scene.open() as reader:
        return reader.read(-5, -5, scene.height + 10, scene.width + 10)


def stored(values: np.ndarray, bands: tuple[str, ...] = BANDS) -> np.ndarray:
    """What `read_all` has to give for numbers (bands, H, W) of Sentinel-2, 0 where missing."""
    found = np.zeros((len(S2.bands), values.shape[1] + 10, values.shape[2] + 10), np.float32)
    for band, plane in zip(bands, values, strict=True):
        found[S2.bands.index(band), 5:-5, 5:-5] = plane
    return found


# ---------------------------------------------------------------- pixels


def test_pixels_are_those_of_the_file_and_missing_beyond(tmp_path: Path) -> None:
    values = numbers(40, 30)
    values[:, 3, 4] = 0
    path = write_scene(tmp_path / "s2.tif", values, nodata=None)  # the catalog's no-data value holds
    assert (read_all(L2A, [path])["sentinel2"] == stored(values)).all()
    tagged = write_scene(tmp_path / "tagged.tif", np.where(values == 0, 7, values), nodata=7)
    assert (read_all(L2A, [tagged])["sentinel2"] == stored(values)).all()


NAMED = {"blue": "B2", "green": "B3", "red": "B4"}


@pytest.mark.parametrize(
    ("bands", "names", "order"),
    [
        (NAMED, ("red", "green", "blue"), ("B4", "B3", "B2")),
        (NAMED, ("B04", "B03", "B02"), ("B4", "B3", "B2")),  # not the file's own names, but the catalog's
        (NAMED, (None, None, None), ("B2", "B3", "B4")),
        (NAMED, ("Red", "Green", "Blue"), "expected the band 'blue', got Red, Green, Blue"),
        (["B2", "B3", "B4"], ("B4", "B3", "B2"), "expected the bands in the order B2, B3, B4, got B4, B3, B2"),
        (["B4", "B3", "B2"], ("B1", "B2", "B3"), ("B4", "B3", "B2")),  # numbers of the bands, not names
        (["B2", None, "B4"], ("B04", "B03", "B02"), "expected the bands in the order B2, null, B4, got B04, B03, B02"),
    ],
)
def test_bands_of_a_task_file_are_those_that_the_file_names(
    tmp_path: Path, bands: Any, names: tuple[str, ...], order: Any
) -> None:
    """In a scene as in a labelled sample."""
    values = numbers(16, 16)[:3]
    path = write_scene(tmp_path / "s2.tif", values, names)
    entry = {"name": "mine", "layout": "table", "kind": "segmentation", "mask": "mask", "level": "L2A", "bands": bands}
    (tmp_path / "mine.yaml").write_text(
        yaml.safe_dump({**entry, "classes": ["x", "y"], "splits": {"shares": [50, 0, 50]}})
    )
    write_tif(tmp_path / "m.tif", np.zeros((1, 16, 16), np.uint8), nodata=None)
    shutil.copy(path, tmp_path / "other.tif")
    (tmp_path / "t.csv").write_text("path,mask\ns2.tif,m.tif\nother.tif,m.tif\n")
    images = open_task(f"{tmp_path / 'mine.yaml'}={tmp_path / 't.csv'}").images
    if isinstance(order, str):
        with pytest.raises(FileInputError, match=order):
            read_all(L2A, [path], bands=str(tmp_path / "mine.yaml"))
        with pytest.raises(FileInputError, match=order):
            next(iter(images.batches(np.array([0]), 1, ("sentinel2",))))
        return
    expected = stored(values, order)
    used = [band for band in (bands.values() if isinstance(bands, dict) else bands) if band is not None]
    kept = [S2.bands.index(band) for band in used]
    (sample,) = images.batches(np.array([0]), 1, ("sentinel2",))
    for found in (
        read_all(L2A, [path], bands=str(tmp_path / "mine.yaml"), fill_missing=True)["sentinel2"][kept, 5:-5, 5:-5],
        sample["sentinel2"][0, kept],
    ):
        assert np.array_equal(found, expected[kept, 5:-5, 5:-5])


def test_files_may_be_relative_to_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_scene(tmp_path / "s2.tif", numbers(16, 16))
    monkeypatch.chdir(tmp_path)
    predict_scene(make_network(), ["s2.tif"], "map.tif")
    assert (tmp_path / "map.tif").is_file()


def test_strips_are_the_normalised_windows(tmp_path: Path) -> None:
    values = numbers(600, 40)
    values[:, :300] = 0
    scene = describe_scene(L2A, [write_scene(tmp_path / "s2.tif", values)], SceneOptions())
    expected = np.where(values == 0, 0, (values.astype(np.float32) - 2000) / 900)
    with open_strips(scene, L2A) as reader:
        rows, columns = [0, 0, 290, 300, 560, 590], [0, 8, 30]
        for row, strip in zip(rows, reader.strips(rows, columns, 16), strict=True):
            windows = strip.windows(columns, 16)
            for column, window in zip(columns, windows, strict=True):
                part = expected[:, row : row + 16, column : column + 16]
                np.testing.assert_allclose(window[:, : part.shape[1], : part.shape[2]], part, atol=1e-5)
                assert not window[:, part.shape[1] :].any()
            assert strip.seen(columns, 16) == ([0, 1, 2] if row >= 290 else [])


def test_coarser_files_are_interpolated_to_the_finest_grid(tmp_path: Path) -> None:
    """As PyTorch interpolates the whole band; next to missing pixels, others are missing too."""
    fine, coarse = numbers(48, 60), numbers(16, 20, seed=2)
    coarse[:, 8, 8] = 0
    files = []
    for number, band in enumerate(BANDS):
        rough = band in {"B1", "B9"}
        grid = {"transform": rasterio.Affine(30, 0, ULX, 0, -30, ULY)} if rough else {}
        plane = (coarse if rough else fine)[number : number + 1]
        name = f"T32UQD_20210606T102021_{band if band != 'B1' else 'B01'}_{30 if rough else 10}m.tif"
        tags = {"PROCESSING_LEVEL": "Level-2A", "PROCESSING_BASELINE": "02.12"}
        files.append(write_tif(tmp_path / name, plane, nodata=0, tags=tags, **grid))
    found = read_all(L2A, files)["sentinel2"][:, 5:-5, 5:-5]
    for number, band in enumerate(BANDS):
        plane = found[S2.bands.index(band)]
        if band not in {"B1", "B9"}:
            assert (plane == fine[number]).all()
            continue
        whole = torch.from_numpy(np.where(coarse[number] == 0, np.nan, coarse[number]).astype(np.float32))[None, None]
        expected = torch.nn.functional.interpolate(whole, size=(48, 60), mode="bilinear", align_corners=False)[0, 0]
        np.testing.assert_allclose(plane, expected.nan_to_num(0).numpy(), rtol=1e-5)
        assert (plane == 0).any()


def test_files_may_cover_parts_of_the_finest(tmp_path: Path) -> None:
    values = numbers(40, 30)
    write_scene(tmp_path / "most.tif", values[1:], BANDS[1:])
    moved = {"transform": rasterio.Affine(10, 0, ULX + 100, 0, -10, ULY + 50)}
    write_scene(tmp_path / "first.tif", values[:1], BANDS[:1], **moved)
    found = read_all(L2A, [tmp_path / "most.tif", tmp_path / "first.tif"])["sentinel2"][
        S2.bands.index(BANDS[0]), 5:-5, 5:-5
    ]
    assert (found[:35, 10:] == values[0, 5:, :20]).all()
    assert not found[35:].any()
    assert not found[:, :10].any()


def test_scale_and_offset_become_stored_numbers(tmp_path: Path) -> None:
    """A reflectance of 0.2 is 2,000 in a store, however a file writes it."""
    plain = np.full((len(BANDS), 8, 8), 3000, np.uint16)
    plain[:, 0, 0] = 0
    path = write_scene(tmp_path / "a.tif", plain, tags=SILENT)
    level = {"level": "L2A"}

    def one(**given: Any) -> set[float]:
        return set(np.unique(read_all(L2A, [path], **given)["sentinel2"][0, 5:-5, 5:-5]).tolist())

    assert one(**level, offset=-1000) == {0, 2000}
    assert one(**level, offset=0) == {0, 3000}
    with rasterio.open(path, "r+") as dataset:
        dataset.scales, dataset.offsets = (0.0001,) * len(BANDS), (-0.1,) * len(BANDS)
    assert one(**level) == {0, 2000}
    with pytest.raises(
        FileInputError, match="expected one offset, got --offset and what its scale and offset tags say"
    ):
        one(**level, offset=0)


def test_several_modalities_come_by_a_mapping_file(test_data: Path, repository: Path) -> None:
    s1 = CATALOG["sentinel1"]
    known = {"count": 9, "mean": 0.0, "std": 1.0}
    statistics = {"sentinel2": L2A.statistics["sentinel2"], "sentinel1": {"-": dict.fromkeys(s1.bands, known)}}
    both = Normaliser([S2, s1], {"train": statistics}, inputs=["sentinel2", "sentinel1"])
    site = "38D_378R_2_3.tif"
    files = [test_data / "terramesh" / folder / site for folder in ("S2L2A", "S1RTC")]
    given = {"bands": str(repository / "pipelines" / "rasters" / "terramesh_samples.yaml"), "offset": 0}
    with pytest.raises(InputError, match=r"sentinel1.*got no asc_HH, asc_HV, desc_VV.*--fill-missing"):
        describe_scene(both, files, SceneOptions(**given))
    scene = describe_scene(both, files, SceneOptions(**given, fill_missing=True))
    assert scene.level == "L2A"
    with scene.open() as reader:
        found = reader.read(0, 0, 224, 224)
    for path, name, band, number in ((files[0], "sentinel2", "B8A", 9), (files[1], "sentinel1", "asc_VH", 2)):
        with rasterio.open(path) as dataset:
            assert (found[name][CATALOG[name].bands.index(band)] == dataset.read(number).astype(np.float32)).all()


def test_a_task_file_names_the_bands_in_their_order(tmp_path: Path) -> None:
    values = numbers(16, 16)
    order = tuple(reversed(BANDS))
    path = write_scene(tmp_path / "s2.tif", np.concatenate([values[::-1], values[:1]]), [""] * (len(BANDS) + 1))
    spec = {
        "name": "mine",
        "layout": "folder",
        "kind": "single-label",
        "bands": [*order, None],
        "level": "L2A",
        "offset": 0,
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(spec))
    found = read_all(L2A, [path], bands=str(tmp_path / "mine.yaml"))
    assert (found["sentinel2"] == stored(values)).all()
    less = write_scene(tmp_path / "less.tif", values[1:], [""] * 11)
    spec |= {"bands": list(BANDS[1:]), "fill": {"B1": "B2"}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(spec))
    found = read_all(L2A, [less], bands=str(tmp_path / "mine.yaml"))
    assert (found["sentinel2"][S2.bands.index("B1")] == found["sentinel2"][S2.bands.index("B2")]).all()
    assert found["sentinel2"][S2.bands.index("B1")].any()


# ---------------------------------------------------------------- level and offset


@pytest.mark.parametrize(
    ("tags", "path", "level", "offset"),
    [
        ({"PROCESSING_LEVEL": "Level-2A", "PROCESSING_BASELINE": "05.09"}, "a.tif", "L2A", -1000),
        ({"PROCESSING_LEVEL": "Level-1C", "PROCESSING_BASELINE": "02.06"}, "a.tif", "L1C", 0),
        ({"PRODUCT_TYPE": "S2MSI2A"}, "a.tif", "L2A", None),
        ({"PRODUCT_TYPE": "S2MSI1C", "RADIO_ADD_OFFSET": "-1000"}, "a.tif", "L1C", -1000),
        ({"PRODUCT_URI": PRODUCT, "BOA_ADD_OFFSET_BAND_1": "-1000"}, "a.tif", "L1C", -1000),
        ({"s2:processing_baseline": "04.00", "processing:level": "L2A"}, "a.tif", "L2A", -1000),
        ({"s2:processing_baseline": "04.00", "earthsearch:boa_offset_applied": "true"}, "a.tif", None, 0),
        ({"s2_level": "L1C"}, "a.tif", "L1C", None),
        ({}, f"{PRODUCT}/GRANULE/X/IMG_DATA/T32TQM_20220401T102559_B02.jp2", "L1C", -1000),
        ({}, f"{PRODUCT.replace('N0400', 'N0301')}/IMG_DATA/T32TQM_B02.jp2", "L1C", 0),
        ({"LEVEL": "12A", "comment": "Level-2A"}, "S2A_MSIL2A.tif", None, None),
    ],
)
def test_tags_and_product_names_say_level_and_offset(
    tags: dict[str, str], path: str, level: str | None, offset: float | None
) -> None:
    assert level_said(Path("/data") / path, tags) == level
    assert offset_said(Path("/data") / path, tags) == offset


def test_level_and_offset_are_asked_for_where_nothing_says_them(tmp_path: Path) -> None:
    values = numbers(16, 16)
    silent = write_scene(tmp_path / "silent.tif", values, tags=SILENT)
    both = normaliser_of("L1C", "L2A")
    with pytest.raises(InputError, match="give --level L1C or --level L2A"):
        describe_scene(both, [silent], SceneOptions(offset=0))
    with pytest.raises(InputError, match="give --offset -1000 if 1000 was added, or --offset 0"):
        describe_scene(both, [silent], SceneOptions(level="L1C"))
    assert describe_scene(both, [silent], SceneOptions(level="L1C", offset=-1000)).level == "L1C"
    assert describe_scene(normaliser_of("-"), [silent], SceneOptions()).level is None
    tagged = write_scene(tmp_path / "tagged.tif", values)
    assert describe_scene(both, [tagged], SceneOptions()).level == "L2A"
    with pytest.raises(
        InputError, match=r"expected one processing level, got L1C \(--level\) and L2A \(.*tagged.tif\)"
    ):
        describe_scene(both, [tagged], SceneOptions(level="L1C"))
    with pytest.raises(
        InputError, match="expected a scene of level L1C, for which the network has statistics, got L2A"
    ):
        describe_scene(normaliser_of("L1C"), [tagged], SceneOptions())


def test_a_level_without_observations_has_no_statistics() -> None:
    empty = {"L1C": {band: {"count": 0, "mean": 0.0, "std": 0.0} for band in S2.bands}}
    known = {"L2A": {band: {"count": 1, "mean": 0.0, "std": 1.0} for band in S2.bands}}
    assert Normaliser([S2], {"train": {"sentinel2": empty | known}}, inputs=["sentinel2"]).levels == ("L2A",)


# ---------------------------------------------------------------- what is refused


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write_scene(tmp_path / "good.tif", numbers(40, 40))


def refused(tmp_path: Path, files: list[Path], match: str, **given: Any) -> None:
    """A prediction ends with a message, and leaves nothing."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=match):
        predict_scene(make_network(), files, tmp_path / "map.tif", given=SceneOptions(**given))
    assert sorted(tmp_path.rglob("*")) == before


def test_files_without_a_location_are_refused(tmp_path: Path) -> None:
    values = numbers(16, 16)
    refused(tmp_path, [write_scene(tmp_path / "a.tif", values, crs=None)], "expected a CRS, got none")
    refused(tmp_path, [write_tif(tmp_path / "b.tif", values, transform=None)], "expected a geotransform, got none")


def test_other_pixels_are_refused_with_the_command_that_warps_them(tmp_path: Path) -> None:
    values = numbers(16, 16)
    coarse = write_scene(tmp_path / "a.tif", values, transform=rasterio.Affine(20, 0, ULX, 0, -20, ULY))
    refused(
        tmp_path, [coarse], r"expected pixels of 10 m.*got 20 m; warp it: rio warp IN OUT --dst-crs EPSG:32632 --res 10"
    )
    degrees = {"crs": "EPSG:4326", "transform": rasterio.Affine(1e-4, 0, 9, 0, -1e-4, 48)}
    globe = write_scene(tmp_path / "b.tif", values, **degrees)
    refused(
        tmp_path, [globe], r"got a geographic CRS \(degrees\); warp it: rio warp IN OUT --dst-crs EPSG:32632 --res 10"
    )
    feet = write_scene(tmp_path / "c.tif", values, crs="EPSG:2263")
    refused(tmp_path, [feet], r"got 3\.048\d* m")
    predict_scene(make_network(), [coarse], tmp_path / "map.tif", given=SceneOptions(any_resolution=True))
    with rasterio.open(tmp_path / "map.tif") as found, rasterio.open(coarse) as source:
        assert found.transform == source.transform


def test_missing_doubled_and_unknown_bands_are_refused(tmp_path: Path, good: Path) -> None:
    values = numbers(40, 40)
    less = write_scene(tmp_path / "less.tif", values[:-2], BANDS[:-2])
    refused(
        tmp_path,
        [less],
        r"expected the bands B1, .* of sentinel2, which the network takes, got no B11, B12; add their files",
    )
    refused(
        tmp_path,
        [good, write_scene(tmp_path / "b4.tif", values[:1], ["B4"])],
        "expected each band once, got B4 of sentinel2 twice",
    )
    nameless = write_scene(tmp_path / "nameless.tif", values, [""] * len(BANDS))
    refused(tmp_path, [nameless], "expected bands that the network takes .*got none; identify them")
    refused(tmp_path, [good, good], "expected each file once, got one twice")


def test_files_elsewhere_are_refused(tmp_path: Path) -> None:
    values = numbers(40, 40)
    first = write_scene(tmp_path / "first.tif", values[:6], BANDS[:6])
    for name, profile, match in (
        (
            "away",
            {"transform": rasterio.Affine(10, 0, ULX + 400, 0, -10, ULY)},
            "expected a file that overlaps .*first.tif",
        ),
        ("zone", {"crs": "EPSG:32633"}, "expected the CRS of .*first.tif.*rio warp"),
        ("turned", {"transform": rasterio.Affine(10, 1, ULX, 1, -10, ULY)}, "expected the same grid orientation as"),
    ):
        other = write_scene(tmp_path / f"{name}.tif", values[6:], BANDS[6:], **profile)
        refused(tmp_path, [first, other], match)


def test_broken_files_are_refused(tmp_path: Path, good: Path) -> None:
    cut = tmp_path / "cut.tif"
    cut.write_bytes(good.read_bytes()[:-500])
    refused(tmp_path, [cut], "the file is truncated; copy it again")
    empty = tmp_path / "empty.tif"
    empty.touch()
    refused(tmp_path, [empty], "expected a complete GeoTIFF")
    refused(tmp_path, [tmp_path / "absent.tif"], "expected a readable raster file, got: no such file")


def test_a_scene_without_pixels_gives_a_map_without_classes(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "dark.tif", np.zeros((len(BANDS), 40, 40), np.uint16))
    predict_scene(make_network(), [path], tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as dataset:
        assert (dataset.read(1) == dataset.nodata).all()


def test_a_scene_smaller_than_a_window_is_mapped(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "small.tif", numbers(5, 9))
    for kind in (TaskKind.SEGMENTATION, TaskKind.SINGLE_LABEL):
        predict_scene(make_network(kind), [path], tmp_path / f"{kind}.tif")
        with rasterio.open(tmp_path / f"{kind}.tif") as dataset:
            assert (dataset.read(1) != dataset.nodata).all()


def test_outputs_that_would_be_lost_or_have_no_use_are_refused(tmp_path: Path, good: Path) -> None:
    network, before = make_network(), good.read_bytes()
    for out, match in (
        (good, "expected a file of its own, got the input"),
        (tmp_path / "map.png", "expected a .tif file"),
    ):
        with pytest.raises(InputError, match=match):
            predict_scene(network, [good], out)
    assert good.read_bytes() == before
    with pytest.raises(InputError, match="expected none with a network that predicts per pixel"):
        predict_scene(network, [good], tmp_path / "map.tif", tiling=WindowOptions(stride_px=8))
    with pytest.raises(InputError, match="expected neither with a network that predicts per tile"):
        predict_scene(
            make_network(TaskKind.SINGLE_LABEL), [good], tmp_path / "map.tif", tiling=WindowOptions(overlap_px=8)
        )
    with pytest.raises(InputError, match=r"scores.*got one that predicts quantities"):
        predict_scene(make_network(TaskKind.PIXEL_REGRESSION), [good], tmp_path / "map.tif", scores=True)


def test_damaged_and_newer_networks_are_refused(tmp_path: Path, good: Path) -> None:
    save_network(tmp_path / "net", make_network())
    weights = tmp_path / "net" / "model.safetensors"
    for name, change, match in (
        ("cut", lambda folder: (folder / weights.name).write_bytes(weights.read_bytes()[:-9]), "model.safetensors"),
        ("newer", lambda folder: (folder / "config.json").write_text((tmp_path / "net" / "config.json").read_text().replace('"format": 1', '"format": 9')), "version"),
    ):  # fmt: skip
        shutil.copytree(tmp_path / "net", tmp_path / name)
        change(tmp_path / name)
        with pytest.raises(InputError, match=match):
            predict_scene(tmp_path / name, [good], tmp_path / "map.tif")
    assert load_network(tmp_path / "net").digest == make_network().digest
