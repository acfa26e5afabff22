"""Images without a georeference become stores: pixels, ids, labels and splits, from every container."""

from __future__ import annotations

import json
import pickle
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from chips_world import CATALOG, RGB, SIZE, Chips, folder_of, picture, png, write_chips, write_zip
from click.testing import CliRunner
from PIL import Image
from rasters_world import write_tif

from mmearth_data import build, export, make_recipe, merge, open_store, prepare, repair, subset, verify
from mmearth_data.browse.index import TileIndex
from mmearth_data.browse.plots import whole_view
from mmearth_data.catalog.tile import content_tile_id, is_content_id, resized_tile_ids, tile_ids
from mmearth_data.cli import cli
from mmearth_data.errors import FileInputError, InputError, TileUnavailable
from mmearth_data.inspection.maps import places_of_store
from mmearth_data.inspection.summary import summarise
from mmearth_data.sources.base import Survey
from mmearth_data.sources.chips import ChipSource
from mmearth_data.sources.chips.decoding import decode
from mmearth_data.store.schema import MANIFEST_KEY

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


def surveys_of(source: ChipSource, size: int = SIZE) -> dict[str, Survey]:
    """Image -> survey."""
    found = source.survey(source.places(size))
    return {answer.facts["image"]: answer for answer in found if isinstance(answer, Survey)}


def pixels_of(source: ChipSource, size: int = SIZE) -> dict[str, dict[str, np.ndarray]]:
    """Image -> modality -> array."""
    return {name: source.read(one, source.own_modalities()) for name, one in surveys_of(source, size).items()}


def seen(values: np.ndarray) -> np.ndarray:
    """Bands first, and white one number darker: 255 means missing."""
    return np.minimum(np.moveaxis(values, -1, 0), 254)


def store_of(chips: Chips, out: Path, **fields: Any) -> Any:
    build(make_recipe(None, {**chips.recipe, **fields}), out)
    return open_store(out)


# ---------------------------------------------------------------- containers


def containers(root: Path) -> dict[str, Chips]:
    """The same six pictures in every kind of container."""
    pictures = np.stack([picture(at) for at in range(6)])
    files = {f"{at:03}.png": png(values) for at, values in enumerate(pictures)}
    (root / "folder").mkdir()
    for name, data in files.items():
        (root / "folder" / name).write_bytes(data)
    write_zip(root / "images.zip", files)
    np.save(root / "images.npy", pictures)
    np.savez(root / "images.npz", images=np.moveaxis(pictures, -1, 1))
    with h5py.File(root / "images.h5", "w") as file:
        file.create_dataset("set/images", data=pictures, chunks=(4, SIZE, SIZE, 3), compression="gzip")
    array = {name: value for name, value in RGB.items() if name != "path"}
    entries: dict[str, dict[str, Any]] = {
        "folder": RGB,
        "images.zip": RGB,
        "images.npy": array,
        "images.npz": array | {"dataset": "images"},
        "images.h5": array | {"dataset": "/set/images", "axes": "NHWC"},
    }
    found = {}
    for at, (name, entry) in enumerate(entries.items()):
        (root / str(at)).mkdir()
        found[name] = write_chips(root / str(at), {"images": f"../{name}", "modalities": [entry]})
    return found


def test_every_container_gives_the_pixels_that_were_written(tmp_path: Path) -> None:
    expected = [seen(picture(at)) for at in range(6)]
    for name, chips in containers(tmp_path).items():
        found = list(pixels_of(chips.source()).values())
        np.testing.assert_array_equal([one["rgb"] for one in found], expected, err_msg=name)
        copy = pickle.loads(pickle.dumps(chips.source()))
        np.testing.assert_array_equal([one["rgb"] for one in pixels_of(copy).values()], expected, err_msg=name)


def test_an_image_has_the_same_id_in_a_folder_and_in_a_zip(tmp_path: Path) -> None:
    found = containers(tmp_path)
    ids = {name: [place.tile_id for place in chips.source().places(SIZE)] for name, chips in found.items()}
    assert ids["folder"] == ids["images.zip"]
    assert ids["images.npy"] == ids["images.h5"]
    for numbers in ids.values():
        assert len(set(numbers)) == 6
        assert is_content_id(numbers).all()
        assert {number & 127 for number in numbers} == {SIZE // 16}


def test_no_location_has_the_id_of_an_image() -> None:
    corners = [(lon, lat) for lon in (-180.0, 0.0, 179.999999, 180.0) for lat in (-90.0, 0.0, 90.0)]
    lon, lat = np.array(corners).T
    for size in (16, 2032):
        assert not is_content_id(tile_ids(lon, lat, size)).any()
        smallest, largest = content_tile_id(bytes(8), size), content_tile_id(b"\xff" * 8, size)
        assert int(tile_ids(180.0, 90.0, 2032)) < smallest < largest < 2**64
        assert is_content_id([smallest, largest]).all()
    assert resized_tile_ids(tile_ids(lon, lat, 128), 64).tolist() == tile_ids(lon, lat, 64).tolist()


def test_numbers_are_those_of_other_readers(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 60_000, (3, SIZE, SIZE)).astype(np.uint16)
    (tmp_path / "images").mkdir()
    for suffix, driver in ((".tif", "GTiff"), (".png", "PNG")):
        write_tif(tmp_path / "images" / f"deep{suffix}", deep + (suffix == ".png"), driver=driver)
    np.save(tmp_path / "images" / "plain.npy", np.moveaxis(deep + 2, 0, -1))
    define = {"dtype": "uint16", "range": [0, 60_000]}
    chips = write_chips(tmp_path, {"images": "images", "modalities": [RGB | {"define": define}]})
    found = {name: arrays["rgb"].astype(int) for name, arrays in pixels_of(chips.source()).items()}
    assert set(found) == {"deep.tif", "deep.png", "plain.npy"}
    np.testing.assert_array_equal(found["deep.tif"], deep)
    np.testing.assert_array_equal(found["deep.png"], deep.astype(int) + 1, err_msg="16 bits, not the upper 8")
    np.testing.assert_array_equal(found["plain.npy"], deep.astype(int) + 2)


def test_no_thread_warns_of_images_without_a_grid(tmp_path: Path) -> None:
    """Python's filters of warnings belong to all threads; a warning is an error in these tests."""
    write_tif(tmp_path / "bare.tif", np.ones((3, 8, 8), np.uint8), crs=None, transform=None)
    data = (tmp_path / "bare.tif").read_bytes()
    with ThreadPoolExecutor(4) as pool:
        # Each round begins with the filters as they were: the first thread to end restores these while others read.
        found = [
            total
            for _ in range(150)
            for total in pool.map(lambda _: decode(data, "bare.tif", 3).values.sum(), range(4))
        ]
    assert found == [3 * 64] * 600


def test_a_photograph_is_decoded_as_pillow_decodes_it(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    smooth = np.asarray(Image.fromarray(picture(1, 4)).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    Image.fromarray(smooth).save(tmp_path / "images" / "a.jpg", quality=90)
    Image.fromarray(smooth).quantize(16).save(tmp_path / "images" / "b.png")
    chips = write_chips(tmp_path, {"images": "images", "modalities": [RGB]})
    found = pixels_of(chips.source())
    for name, mode in (("a.jpg", "RGB"), ("b.png", "RGB")):
        with Image.open(tmp_path / "images" / name) as image:
            np.testing.assert_array_equal(found[name]["rgb"], seen(np.asarray(image.convert(mode))))


# ---------------------------------------------------------------- modalities


def test_bands_of_the_catalog_are_scaled_and_ordered_and_missing_numbers_stay_missing(tmp_path: Path) -> None:
    reflectance = np.random.default_rng(0).uniform(0.01, 0.5, (2, SIZE, SIZE, 4)).astype(np.float32)
    reflectance[0, 3, 4] = np.nan
    reflectance[1, 5, 6, 1] = -1
    np.save(tmp_path / "images.npy", reflectance)
    entry = {"modality": "sentinel2", "bands": ["B8", "B4", None, "B2"], "scale": 10_000, "offset": 5, "nodata": -1}
    chips = write_chips(tmp_path, {"images": "images.npy", "level": "L2A", "modalities": [entry]})
    source = chips.source()
    (m,) = source.own_modalities()
    known = CATALOG.modalities["sentinel2"]
    assert m.bands == m.model_bands == ("B2", "B4", "B8"), "in the catalog's order"
    assert (m.wavelengths["B8"], m.scale, m.histogram_range) == (known.wavelengths["B8"], 0.0001, known.histogram_range)
    assert set(m.native_m) == {"B2", "B4", "B8"}
    assert m.display.bands == ("B2", "B4", "B8"), "no composite of bands that are not there"
    for at, (name, arrays) in enumerate(pixels_of(source).items()):
        assert surveys_of(source)[name].s2_level == 1
        expected = np.floor(reflectance[at].astype(np.float64) * 10_000 + 5 + 0.5)[..., [3, 1, 0]]
        expected = np.where(np.isnan(expected) | (reflectance[at][..., [3, 1, 0]] == -1), m.nodata, expected)
        np.testing.assert_array_equal(arrays["sentinel2"], np.moveaxis(expected, -1, 0))


def test_images_of_one_chip_are_found_by_its_name(tmp_path: Path) -> None:
    for at, chip in enumerate(("a/1", "a/2", "b/1")):
        for kind, bands in (("photo", 3), ("mask", 1)):
            path = tmp_path / "images" / kind / f"{chip}_{kind}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            if (chip, kind) != ("b/1", "mask"):
                values = picture(at, bands=bands)
                path.write_bytes(png(values if kind == "photo" else values % 3))
    classes = [{"code": code, "name": name} for code, name in enumerate(("none", "field", "house"))]
    define = {"kind": "raster/categorical", "classes": classes}
    mask = {"modality": "parcels", "path": "mask/{chip}_mask.png", "bands": ["code"], "define": define}
    layers = [RGB | {"path": "photo/{chip}_photo.png"}, mask]
    source = write_chips(tmp_path, {"images": "images", "modalities": layers}).source()
    found = pixels_of(source)
    assert {name: set(arrays) for name, arrays in found.items()} == {
        "a/1": {"rgb", "parcels"},
        "a/2": {"rgb", "parcels"},
        "b/1": {"rgb"},
    }
    np.testing.assert_array_equal(found["a/2"]["parcels"][0], picture(1, bands=1) % 3)
    np.testing.assert_array_equal(found["a/2"]["rgb"], seen(picture(1)))


def test_larger_images_are_cropped_at_their_centre_only_if_asked(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for at in range(2):
        (tmp_path / "images" / f"{at}.png").write_bytes(png(picture(at, 40)))
    chips = write_chips(tmp_path, {"images": "images", "modalities": [RGB], "size_px": 32})
    with pytest.raises(FileInputError, match=r"expected 32 x 32 px, got 40 x 40 \(crop: centre"):
        chips.source().places(32)
    with pytest.raises(FileInputError, match=r"expected square tiles of a multiple of 16 px .* got 40 x 40"):
        _ = chips.changed(size_px=None).source().size_px
    found = pixels_of(chips.changed(size_px=32, crop="centre").source(), 32)
    np.testing.assert_array_equal(found["1.png"]["rgb"], seen(picture(1, 40)[4:36, 4:36]))
    with pytest.raises(FileInputError, match="expected 48 x 48 px, got 40 x 40;"):
        prepare(make_recipe(None, {**chips.recipe, "tile_size": 48}))


# ---------------------------------------------------------------- labels and splits


def test_labels_are_those_of_the_table_the_folders_and_the_names(tmp_path: Path) -> None:
    chips = folder_of(tmp_path)
    (tmp_path / "facts.csv").write_text(
        "image;crop;ph;birds;x;y;day\n000.png;rye;6,5;owl,jay;10,5;50;2021-07-03\nforest/002;maize;;;;;20210704\n"
        "999.png;rye;7;owl;0;0;2021-07-03\n003;rye;7;jay;-4;3;2020-02-29\n"
    )
    origins = {
        "crop": {"column": "crop", "content": "class"},
        "soil_ph": {"column": "ph", "content": "value", "units": "1", "pretext": True},
        "birds": {"column": "birds", "content": "multi", "separator": ",", "classes": ["jay", "owl", "tit"]},
        "number": {"filename": r"(\d+)\.png", "content": "class"},
        "cover_class": {"folder": True, "content": "class"},
    }
    table = {"file": "facts.csv", "image": "image"}
    wrong = {"soil_ph": {"column": "crop", "content": "value"}}
    with pytest.raises(
        FileInputError, match=r"chips.yaml:\d+: soil_ph: expected a number, got 'rye' for forest/000.png"
    ):
        chips.changed(labels=wrong, table=table).source().places(SIZE)
    source = chips.changed(labels=origins, table=table, lon="x", lat="y", date={"column": "day"}).source()
    found = surveys_of(source)
    label = {m.name: m for m in source.own_modalities()}
    assert [entry.name for entry in label["crop"].classes] == ["maize", "rye"]
    values = {name: one.values for name, one in found.items()}
    assert [int(values[f"{name}.png"]["crop"]) for name in ("forest/000", "forest/002", "river/003")] == [1, 0, 1]
    assert int(values["forest/004.png"]["crop"]) == label["crop"].nodata
    assert values["forest/000.png"]["soil_ph"].tolist() == [6.5]
    assert np.isnan(values["forest/002.png"]["soil_ph"]).all()
    assert values["forest/000.png"]["birds"].tolist() == [1, 1, 0]
    assert values["forest/002.png"]["birds"].tolist() == [255, 255, 255], "unknown, not absent"
    assert [entry.name for entry in label["number"].classes] == [f"{at:03}" for at in range(6)]
    assert [int(values[name]["cover_class"]) for name in ("forest/000.png", "river/003.png")] == [0, 1]
    assert str(np.datetime64(found["river/003.png"].time_ms, "ms")) == "2020-02-29T00:00:00.000"
    assert str(np.datetime64(found["forest/002.png"].time_ms, "ms")) == "2021-07-04T00:00:00.000"
    assert (found["river/003.png"].place.lon, found["river/003.png"].place.lat) == (-4.0, 3.0)
    assert np.isnan(found["forest/002.png"].place.lon)
    notes = " ".join(source.remarks)
    assert "3 images have no row in facts.csv" in notes
    assert "1 rows of facts.csv name no image" in notes
    assert source.coordinates == {"lon", "lat", "time"}


def test_labels_of_arrays_are_one_per_image_whatever_is_left_out(tmp_path: Path) -> None:
    pictures = np.stack([picture(at) for at in (0, 1, 1, 2)])
    codes = np.array([2, 0, 0, 1])
    with h5py.File(tmp_path / "images.h5", "w") as file:
        file["x"], file["y"], file["words"] = pictures, codes, ["c", "a", "a", "b"]
        file["many"] = np.array([[0, 1], [1, 1], [1, 1], [0, 0]])
    np.save(tmp_path / "ph.npy", np.array([7.0, 6.0, 6.0, np.nan]))
    layer = {"modality": "rgb", "dataset": "x", "bands": RGB["bands"], "define": {}}
    labels = {
        "zone": {"dataset": "y", "content": "class", "classes": ["low", "mid", "high"]},
        "word": {"dataset": "words", "content": "class"},
        "several": {"dataset": "many", "content": "multi", "classes": ["red", "blue"]},
        "ph": {"file": "ph.npy", "content": "value"},
    }
    splits = {"dataset": "y"}
    chips = write_chips(tmp_path, {"images": "images.h5", "modalities": [layer], "labels": labels, "splits": splits})
    source = chips.source()
    found = surveys_of(source)
    assert list(found) == ["0", "1", "3"], "the third image is a copy of the second"
    assert "1 image has the same content as another and is left out: 2 (as 1)." in source.remarks
    assert source.identity()["notes"] == source.remarks, "the store records what was left out"
    assert [int(one.values["zone"]) for one in found.values()] == [2, 0, 1]
    assert [int(one.values["word"]) for one in found.values()] == [2, 0, 1]
    assert [one.values["several"].tolist() for one in found.values()] == [[0, 1], [1, 1], [0, 0]]
    assert [one.split for one in found.values()] == [2, 0, 1]
    np.testing.assert_array_equal([one.values["ph"][0] for one in found.values()], np.float32([7, 6, np.nan]))
    problem = labels | {"zone": {"dataset": "y", "content": "class"}}
    with pytest.raises(FileInputError, match="zone: expected classes, the names of the codes"):
        chips.changed(labels=problem).source().places(SIZE)


def test_splits_have_their_shares_in_every_class_and_depend_on_the_seed(tmp_path: Path) -> None:
    chips = folder_of(tmp_path, 40).changed(splits={"shares": [70, 10, 20], "stratify": "cover_class"})
    for name in ("forest", "river"):
        mine = [one.split for image, one in surveys_of(chips.source()).items() if image.startswith(name)]
        assert np.bincount(mine).tolist() == [14, 2, 4]
    first, again, other = ([one.split for one in surveys_of(chips.source(seed)).values()] for seed in (0, 0, 1))
    assert first == again != other
    assert chips.source(0).identity() != chips.source(1).identity()


def test_lists_say_what_is_built(tmp_path: Path) -> None:
    chips = folder_of(tmp_path)
    (tmp_path / "train.txt").write_text("forest/000.png\nriver/001\n\n")
    (tmp_path / "test.txt").write_text("002.png\n")
    source = chips.changed(splits={"train": "train.txt", "test": "test.txt"}).source()
    splits = {name: one.split for name, one in surveys_of(source).items()}
    assert splits == {"forest/000.png": 0, "river/001.png": 0, "forest/002.png": 2}
    assert "3 images are in no split and are not built." in source.remarks
    (tmp_path / "test.txt").write_text("002.png\n001\n")
    source = chips.changed(splits={"train": "train.txt", "test": "test.txt"}).source()
    with pytest.raises(FileInputError, match=r"test.txt:2: expected every image in one split, got '001' twice"):
        source.places(SIZE)


# ---------------------------------------------------------------- stores


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Chips, Any]:
    """A store of forty pictures, of which four cannot be used."""
    root = tmp_path_factory.mktemp("made")
    chips = folder_of(root, 40).changed(splits={"shares": [50, 25, 25], "stratify": "cover_class"})
    river = root / "images" / "river"
    (river / "broken.png").write_bytes(png(picture(1))[:200])
    (river / "text.jpg").write_bytes(b"no image")
    (river / "large.png").write_bytes(png(picture(2, 32)))
    (river / "grey.png").write_bytes(png(picture(3, bands=1)))
    return chips, store_of(chips, root / "made.zarr")


def test_a_store_has_the_pixels_labels_and_splits(made: tuple[Chips, Any]) -> None:
    _, store = made
    assert store.layout.size_px == SIZE, "that of the images"
    assert [m.name for m in store.modalities.values()] == ["rgb", "cover_class"]
    frame = pq.read_table(store.path / "tiles.parquet").to_pandas()
    assert len(frame) == len(store) == 40
    for row, text in zip(store.rows.tolist(), frame["facts"], strict=True):
        name = json.loads(text)["image"]
        at = int(Path(name).stem)
        np.testing.assert_array_equal(store.read("rgb", slice(row, row + 1))[0], seen(picture(at)))
        assert store.read("cover_class", slice(row, row + 1))[0] == at % 2
    forest = store.read("cover_class", slice(0, store.layout.tiles))[store.rows] == 0
    assert np.bincount(store.coords["split"][forest]).tolist() == [10, 5, 5]
    assert verify(store.path).problems == ()
    assert np.isnan(store.coords["lon"]).all()
    assert np.isnan(store.coords["ulx"]).all()


def test_images_that_cannot_be_used_are_listed_with_the_reason(made: tuple[Chips, Any]) -> None:
    _, store = made
    rejected = pq.read_table(store.path / "rejected.parquet").to_pylist()
    reasons = {Path(row["detail"].partition(":")[0]).name: row["reason"] for row in rejected}
    assert reasons == {
        "broken.png": "image_unreadable",
        "text.jpg": "image_unreadable",
        "large.png": "image_size",
        "grey.png": "image_bands",
    }
    assert all(row["lon"] is None for row in rejected)
    assert " at 0x" not in str(rejected), "no addresses: the same images give the same bytes"


def test_the_same_images_give_the_same_bytes(made: tuple[Chips, Any], tmp_path: Path) -> None:
    chips, store = made
    assert store_of(chips, tmp_path / "again.zarr").digest == store.digest


def test_a_damaged_store_is_repaired_with_the_file_of_its_source(made: tuple[Chips, Any], tmp_path: Path) -> None:
    chips, store = made
    store_of(chips, tmp_path / "s.zarr")
    shard = max(found for found in (tmp_path / "s.zarr" / "rgb" / "c").rglob("*") if found.is_file())
    shard.write_bytes(shard.read_bytes()[:-3])
    with pytest.raises(InputError, match=r"expected every file .*, got none for source; add --source chips:FILE\.yaml"):
        repair(tmp_path / "s.zarr")
    assert (tmp_path / "s.zarr" / MANIFEST_KEY).exists()  # nothing has been removed
    assert not repair(tmp_path / "s.zarr", source=chips.recipe["source"]).problems
    assert open_store(tmp_path / "s.zarr").digest == store.digest


def test_whatever_needs_a_location_says_that_there_is_none(made: tuple[Chips, Any], tmp_path: Path) -> None:
    _, store = made
    with pytest.raises(InputError, match="expected tiles with a location to map, got 40 without"):
        places_of_store(store, "split")
    for form in ("geotiff", "mmearth-h5"):
        with pytest.raises(InputError, match="expected tiles with a location, got 40 of 40 without"):
            export(store.path, tmp_path / form, form=form)
        assert not (tmp_path / form).exists()
    summary = summarise(store)
    assert (summary.bounds, summary.pixel_m) == (None, None)
    assert "no known location" in repr(store)
    assert "of 10 m" not in repr(store)
    tile = store.tile(0)
    assert "no location" in repr(tile)
    assert store.tile(tile.id).row == tile.row
    with pytest.raises(InputError, match="region: expected tiles with a location, got 40 without"):
        subset(store.path, tmp_path / "here.zarr", region="bbox:0,0,10,10")
    index = TileIndex.of(store)
    assert index.latitude_bars.counts(np.ones(len(index), bool)).sum() == 0
    assert np.isfinite([whole_view(index).west, whole_view(index).north]).all()


def test_crops_and_merges_keep_the_ids(made: tuple[Chips, Any], tmp_path: Path) -> None:
    _, store = made
    subset(store.path, tmp_path / "train.zarr", split=["train"])
    subset(store.path, tmp_path / "rest.zarr", split=["val", "test"])
    merge([tmp_path / "train.zarr", tmp_path / "rest.zarr"], tmp_path / "merged.zarr")
    merged = open_store(tmp_path / "merged.zarr")
    assert set(merged.coords["tile_id"].tolist()) == set(store.coords["tile_id"].tolist())
    for name in ("train", "merged"):
        assert verify(tmp_path / f"{name}.zarr").problems == ()
    with pytest.raises(InputError, match="share no tile"):
        merge([store.path, tmp_path / "train.zarr"], tmp_path / "twice.zarr")


def test_chips_with_a_location_and_a_date_are_mapped(tmp_path: Path) -> None:
    chips = folder_of(tmp_path, 4)
    rows = [f"{at:03},{at},{50 + at},2020-0{at + 1}-01" for at in range(3)]
    (tmp_path / "facts.csv").write_text("\n".join(["image,lon,lat,day", *rows]))
    chips = chips.changed(table={"file": "facts.csv"}, lon="lon", lat="lat", date="day")
    store = store_of(chips, tmp_path / "x.zarr")
    assert {"lat", "lon", "month"} <= set(store.modalities), "derived from what is known"
    assert sorted(store.coords["lat"].tolist())[:3] == [50.0, 51.0, 52.0]
    places = places_of_store(store, "split")
    assert len(places.lon) == 3
    assert any("1 without a location" in line for line in places.details)
    assert verify(store.path).problems == ()
    with pytest.raises(InputError, match="1 of whose 4 tiles have no location, got block"):
        prepare(make_recipe(None, {**chips.recipe, "split": "block"}))


# ---------------------------------------------------------------- wrong input


def broken_zip(root: Path) -> None:
    write_zip(root / "images.zip", {"a.png": png(picture(0))})
    whole = (root / "images.zip").read_bytes()
    (root / "images.zip").write_bytes(whole[: len(whole) // 2])


def pickled(root: Path) -> None:
    np.save(root / "images.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)


def flat(root: Path) -> None:
    with h5py.File(root / "images.h5", "w") as file:
        file["x"] = np.zeros((4, 5))


def outside(root: Path) -> None:
    write_zip(root / "images.zip", {"../a.png": png(picture(0))})


def elsewhere(root: Path) -> None:
    with h5py.File(root / "images.h5", "w") as file:
        file["x"] = h5py.ExternalLink("/etc/passwd", "x")


ARRAY = {"modality": "rgb", "bands": ["red"], "define": {}}


@pytest.mark.parametrize(
    ("make", "entry", "words"),
    [
        (broken_zip, {"images": "images.zip", "modalities": [RGB]}, "images.zip: expected a complete zip"),
        (outside, {"images": "images.zip", "modalities": [RGB]}, "expected paths within the zip, got '../a.png'"),
        (pickled, {"images": "images.npy", "modalities": [ARRAY]}, "images.npy: expected a NumPy array of numbers"),
        (flat, {"images": "images.h5", "modalities": [ARRAY | {"dataset": "x"}]}, "got float64 of shape (4, 5)"),
        (flat, {"images": "images.h5", "modalities": [ARRAY | {"dataset": "y"}]}, "expected the dataset 'y'"),
        (flat, {"images": "images.h5", "modalities": [ARRAY]}, "expected dataset, the name of an array"),
        (elsewhere, {"images": "images.h5", "modalities": [ARRAY | {"dataset": "x"}]}, "expected the dataset 'x'"),
        (None, {"images": "absent", "modalities": [RGB]}, "found nothing; correct the path"),
        (None, {"images": "chips.yaml", "modalities": [RGB]}, "found a file; correct the path"),
        (None, {"images": "images", "modalities": [RGB | {"path": "*.jpg"}]}, "'*.jpg' matches none of 6 images"),
        (None, {"images": "images", "modalities": [RGB | {"path": "../*"}]}, "without '..'"),
        (None, {"images": "images", "modalities": [RGB | {"bands": ["a", "b"]}]}, "expected 2 channels"),
        (None, {"images": "images", "modalities": [RGB | {"band": []}]}, "unknown field 'modalities.0.band'"),
        (None, {"images": "images", "modalities": []}, "modalities"),
        (None, {"images": "images", "modalities": [{"modality": "sentinel3", "bands": ["B2"]}]}, "sentinel2"),
        (None, {"images": "images", "modalities": [RGB | {"modality": "sentinel2"}]}, "is in the catalog"),
        (None, {"images": "images", "modalities": [RGB | {"modality": "r g b"}]}, "must be a plain identifier"),
        (None, {"images": "images", "modalities": [RGB, RGB]}, "once, got rgb twice"),
        (None, {"images": "images", "modalities": [RGB], "lon": "x"}, "lon and lat both or neither"),
        (None, {"images": "images", "modalities": [RGB], "size_px": 20}, "a multiple of 16 px"),
        (
            None,
            {"images": "images", "modalities": [RGB], "splits": {"shares": [50, 50, 50]}},
            "three shares that add up to 100",
        ),
        (
            None,
            {"images": "images", "modalities": [RGB], "labels": {"a": {"content": "class"}}},
            "expected exactly one of folder",
        ),
        (
            None,
            {"images": "images", "modalities": [RGB], "labels": {"a": {"filename": "(x)y", "content": "class"}}},
            "expected names that match '(x)y'",
        ),
        (
            None,
            {"images": "images", "modalities": [RGB], "labels": {"lon": {"filename": "(.)", "content": "class"}}},
            "with other names than the arrays and columns of a store, and the conditions of Store.select, got lon; rename them",
        ),
        (
            None,
            {"images": "images", "modalities": [RGB], "labels": {"splits": {"column": "a", "content": "class"}}},
            "expected table if a column is named",
        ),
        (
            None,
            {"images": "images", "modalities": [RGB | {"define": {"dtype": "float32"}}]},
            "expected range, [low, high]",
        ),
    ],
    ids=lambda value: "",
)
def test_wrong_input_is_refused_in_one_line(make: Any, entry: dict[str, Any], words: str, tmp_path: Path) -> None:
    folder_of(tmp_path)
    if make is not None:
        make(tmp_path)
    chips = write_chips(tmp_path, entry)
    done = CliRunner().invoke(cli, ["build", "--source", f"chips:{chips.file}", "--out", str(tmp_path / "x.zarr")])
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    last = done.output.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert words in last
    assert not (tmp_path / "x.zarr").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"split": "block"}, "expected random with chips:"),
        ({"tile_size": 32}, "expected 32 x 32 px, got 16 x 16"),
        ({"modalities": ("rgb", "lat")}, "delivers, got lat"),
        ({"modalities": ("cover_class",)}, "Expected at least one raster modality"),
        ({"region": "Denmark"}, "region (--region): expected none with the source chips:"),
    ],
    ids=lambda value: "",
)
def test_options_that_do_not_fit_are_refused(given: dict[str, Any], words: str, tmp_path: Path) -> None:
    chips = folder_of(tmp_path)
    with pytest.raises(InputError) as caught:
        prepare(make_recipe(None, {**chips.recipe, **given}))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_splits_are_given_once(tmp_path: Path) -> None:
    chips = folder_of(tmp_path).changed(splits={"shares": [50, 0, 50]})
    with pytest.raises(InputError, match=r"split_shares \(--split-shares\): expected none with chips:"):
        prepare(make_recipe(None, {**chips.recipe, "split_shares": (60, 20, 20)}))


def test_an_image_of_the_wrong_numbers_is_left_out_but_not_if_all_are(tmp_path: Path) -> None:
    numbers = np.full((3, SIZE, SIZE), 100.0, dtype=np.float32)
    numbers[1] = np.nan
    numbers[2] = 1e6
    np.save(tmp_path / "images.npy", numbers)
    entry = {"modality": "grey", "bands": ["grey"], "define": {}}
    source = write_chips(tmp_path, {"images": "images.npy", "modalities": [entry]}).source()
    found = list(surveys_of(source).values())
    assert source.read(found[0], source.own_modalities())["grey"].max() == 100
    for at, reason, words in ((1, "image_empty", "every number is missing"), (2, "image_values", "got 1e+06 to 1e+06")):
        with pytest.raises(TileUnavailable, match=words.replace("+", r"\+")) as caught:
            source.read(found[at], source.own_modalities())
        assert caught.value.reason == reason
    np.save(tmp_path / "images.npy", np.full((3, SIZE, SIZE), 1e6) + np.arange(3)[:, None, None])
    with pytest.raises(FileInputError, match=r"chips.yaml:\d+: 0: grey: expected numbers that fit uint8"):
        write_chips(tmp_path, {"images": "images.npy", "modalities": [entry]}).source().places(SIZE)


def test_a_picture_that_claims_too_many_pixels_is_not_decoded(tmp_path: Path) -> None:
    """The header of the second file claims 9,000 x 9,000 px (PNG specification, 11.2.2)."""
    small = png(picture(1))
    header = small[12:16] + struct.pack(">II", 9000, 9000) + small[24:29]
    bomb = small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:]
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(png(picture(0)))
    (tmp_path / "images" / "b.png").write_bytes(bomb)
    source = write_chips(tmp_path, {"images": "images", "modalities": [RGB]}).source()
    survey = surveys_of(source)["b.png"]
    with pytest.raises(TileUnavailable, match="expected at most 67108864 pixels, got 9000 x 9000"):
        source.read(survey, source.own_modalities())


@pytest.mark.parametrize("kind", ["folder", "zip", "h5"])
@pytest.mark.parametrize(("tag", "synthetic"), [("yes", True), ("no", False), (None, False)])
def test_images_that_are_marked_as_synthetic_make_the_store_synthetic(
    kind: str, tag: str | None, synthetic: bool, tmp_path: Path
) -> None:
    """One of them suffices; HDF5 exports are marked by an attribute of the file."""
    folder, tags = tmp_path / "images", {} if tag is None else {"synthetic": tag}
    for at in range(2):
        values = np.moveaxis(picture(at), -1, 0)
        write_tif(folder / f"{at}.tif", values, tags=tags if at else {})
    if kind == "zip":
        write_zip(tmp_path / "images.zip", {path.name: path.read_bytes() for path in folder.iterdir()})
    with h5py.File(tmp_path / "images.h5", "w") as file:
        file["x"] = np.stack([picture(at) for at in range(2)])
        if tag is not None:
            file.attrs["synthetic"] = tag == "yes"
    images = {"folder": "images", "zip": "images.zip", "h5": "images.h5"}[kind]
    layer = {**RGB, "dataset": "x"} if kind == "h5" else RGB
    layer = {name: value for name, value in layer.items() if kind != "h5" or name != "path"}
    chips = write_chips(tmp_path, {"images": images, "modalities": [layer]})
    assert chips.source().synthetic is synthetic
    assert store_of(chips, tmp_path / "s.zarr").synthetic is synthetic
