"""`MMEarthStore` without torchgeo: keys, types and values of samples and areas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchgeo_world import SIDE_M, TILES, UNLABELLED, placed_store
from toy_store import SIZE_PX

from mmearth_data import InputError, Store
from mmearth_model import ConvNeXtV2, EncoderConfig, MMEarthStore, Normaliser
from mmearth_model.datasets import MMEarthStore as OfModule


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return placed_store(tmp_path_factory.mktemp("placed") / "placed.zarr")


def test_a_sample_has_torchgeos_keys_and_types(store: Store) -> None:
    assert OfModule is MMEarthStore
    data = MMEarthStore(
        store, modalities=["sentinel2", "sentinel1"], target=["esa_worldcover", "biome", "dynamic_world", "era5"]
    )
    sample = data[3]
    assert {name: (value.dtype, tuple(value.shape)) for name, value in sample.items() if torch.is_tensor(value)} == {
        "image": (torch.float32, (13, SIZE_PX, SIZE_PX)),
        "image_sentinel1": (torch.float32, (8, SIZE_PX, SIZE_PX)),
        "mask": (torch.int64, (SIZE_PX, SIZE_PX)),
        "mask_dynamic_world": (torch.int64, (SIZE_PX, SIZE_PX)),
        "label": (torch.int64, ()),
        "label_era5": (torch.float32, (12,)),
        "bounds": (torch.float64, (4,)),
    }
    tile = store[3]
    assert sample["crs"] == "EPSG:32631"
    assert sample["tile_id"] == f"{int(tile['tile']['tile_id']):016x}"
    assert sample["date"] == str(tile["tile"]["time"])[:10]
    assert len(data) == TILES - 1  # one tile has no biome
    assert data.classes == [label.name for label in store.modalities["esa_worldcover"].classes]


def test_values_are_those_of_the_store(store: Store) -> None:
    data = MMEarthStore(store, target="esa_worldcover")
    m = store.modalities["esa_worldcover"]
    for position in (0, 7, -1):
        tile, sample = store[position], data[position]
        np.testing.assert_array_equal(sample["image"].numpy(), tile["sentinel2"])  # its no-data value is 0
        codes = np.array([label.code for label in m.classes])
        seen = tile["esa_worldcover"][0] != m.nodata
        assert 0 < seen.sum() < seen.size
        np.testing.assert_array_equal(codes[sample["mask"].numpy()[seen]], tile["esa_worldcover"][0][seen])
        assert (sample["mask"].numpy()[~seen] == data.ignore_index).all()
        x, y = tile["tile"]["ulx"], tile["tile"]["uly"]
        assert sample["bounds"].tolist() == [x, y - SIDE_M, x + SIDE_M, y]


def test_missing_values_are_0_in_images_and_nan_in_targets(store: Store) -> None:
    data = MMEarthStore(store, modalities="sentinel1", target=["sentinel1.asc_VH", "era5.year_avg_temp"])
    tile, sample = store[2], data[2]
    missing = np.isnan(tile["sentinel1"])
    assert missing.any()
    np.testing.assert_array_equal(sample["image"].numpy(), np.where(missing, 0, tile["sentinel1"]))
    np.testing.assert_array_equal(sample["mask"].numpy(), tile["sentinel1"][1])
    era5 = store.modalities["era5"]
    assert sample["label"].item() == tile["era5"][era5.bands.index("year_avg_temp")]


def test_normalised_bands_are_what_an_encoder_takes(store: Store) -> None:
    m = store.modalities["sentinel2"]
    encoder = ConvNeXtV2(EncoderConfig(depths=(1, 1, 1, 1), widths=(8, 8, 8, 8)))
    encoder.normaliser = Normaliser([m], store.statistics, inputs=["sentinel2"])
    data = MMEarthStore(store, normalise=True, bands={"sentinel2": m.model_bands})
    batch = next(iter(DataLoader(data, batch_size=TILES)))
    torch.testing.assert_close(batch["image"], encoder.preprocess(store), rtol=1e-5, atol=1e-5)


def test_a_label_computed_from_a_coordinate(store: Store) -> None:
    lat = float(store.coords["lat"][2])
    label = MMEarthStore(store, target="lat")[2]["label"]
    np.testing.assert_allclose(label.numpy(), [np.sin(np.radians(lat)), np.cos(np.radians(lat))], atol=1e-6)


def test_splits_and_paths(store: Store) -> None:
    sizes = [len(MMEarthStore(str(store.path), split)) for split in ("train", "val", "test")]
    assert sizes == [len(store.select(split=split)) for split in ("train", "val", "test")]
    with pytest.raises(InputError, match="training"):
        MMEarthStore(store, "training")


def test_tiles_without_a_label_are_left_out(store: Store) -> None:
    data = MMEarthStore(store, target="biome")
    ids = [data[i]["tile_id"] for i in range(len(data))]
    assert f"{int(store.coords['tile_id'][UNLABELLED]):016x}" not in ids
    assert len(set(ids)) == TILES - 1
    assert all(0 <= int(data[i]["label"]) < len(data.classes) for i in range(len(data)))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_and_transforms(store: Store, workers: int) -> None:
    data = MMEarthStore(store, target="biome", transforms=lambda sample: sample | {"image": sample["image"] / 10_000})
    loader = DataLoader(data, batch_size=6, num_workers=workers, multiprocessing_context="fork" if workers else None)
    batch = next(iter(loader))
    assert batch["image"].max() < 7
    assert batch["crs"] == ["EPSG:32631"] * 6
    assert batch["bounds"].shape == (6, 4)


def test_an_area_is_cut_from_the_tile_that_holds_it(store: Store) -> None:
    data = MMEarthStore(store, target="esa_worldcover")
    west, south, east, north = data[4]["bounds"].tolist()
    area = data[west + 30 : west + 190, south + 50 : south + 210]
    assert area["image"].shape == (13, 16, 16)
    rows = slice(SIZE_PX - 5 - 16, SIZE_PX - 5)
    assert torch.equal(area["image"], data[4]["image"][:, rows, 3:19])
    assert torch.equal(area["mask"], data[4]["mask"][rows, 3:19])
    assert area["bounds"].tolist() == [west + 30, south + 50, west + 190, south + 210]
    assert torch.equal(data[west:east, south:north]["image"], data[4]["image"])


def test_an_area_beyond_a_tile_is_missing_there_or_comes_from_its_neighbour(store: Store) -> None:
    data = MMEarthStore(store, target=["esa_worldcover", "sentinel1.asc_VV"])
    west, south, _, north = data[TILES - 2]["bounds"].tolist()
    wide = data[west - 50 : west + 2 * SIDE_M, south:north]
    assert (wide["image"][:, :, :5] == 0).all()
    assert (wide["mask"][:, :5] == data.ignore_index).all()
    assert wide["mask_sentinel1"][:, :5].isnan().all()
    both = torch.cat([data[TILES - 2]["image"], data[TILES - 1]["image"]], dim=2)
    assert torch.equal(wide["image"][:, :, 5:], both)


def test_an_area_has_a_time(store: Store) -> None:
    data = MMEarthStore(store)
    west, south, east, north = data[1]["bounds"].tolist()
    moment = data.index.index[1].left
    assert data[west:east, south:north, moment:moment]["tile_id"] == data[1]["tile_id"]
    with pytest.raises(IndexError, match="none; the tiles are within"):
        data[west:east, south:north, moment + np.timedelta64(900, "D") :]
    with pytest.raises(IndexError, match="Expected an area with tiles"):
        data[0:10, 0:10]
    with pytest.raises(InputError, match="10 m per pixel"):
        data[west:east:20, south:north]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ((slice(None),) * 4, r"area \[xmin:xmax, ymin:ymax, tmin:tmax\]"),
        ((1, 2, 3), r"area \[xmin:xmax, ymin:ymax, tmin:tmax\]"),
        (slice("a", "b"), "area in metres of WGS 84 / UTM zone"),
        (slice(500_000, 500_003), "at least one pixel of 10 m"),
    ],
)
def test_what_is_no_area_is_refused(store: Store, query: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        MMEarthStore(store)[query]


def test_areas_need_one_crs_with_known_corners(tmp_path: Path, store: Store) -> None:
    def mixed(arrays: dict[str, np.ndarray]) -> None:  # type: ignore[type-arg]
        arrays["epsg"][::2] = 32632
        arrays["ulx"][1], arrays["uly"][1], arrays["epsg"][1] = np.nan, np.nan, 0  # as in published data

    from toy_store import write_store

    other = write_store(tmp_path / "mixed.zarr", 8, names=("sentinel2", "biome"), change=mixed)
    known = other.select(where=lambda tile: ~np.isnan(tile["ulx"]))
    with pytest.raises(InputError, match=r"one CRS for areas, got 2 \(EPSG:32631, EPSG:32632"):
        _ = MMEarthStore(known).index
    with pytest.raises(InputError, match="known corners"):
        _ = MMEarthStore(other).crs
    assert MMEarthStore(known.select(where=lambda tile: tile["epsg"] == 32631)).crs.to_epsg() == 32631
    assert MMEarthStore(other)[1]["bounds"].isnan().all()
    assert [MMEarthStore(other)[i]["crs"] for i in (0, 1, 3)] == ["EPSG:32632", "", "EPSG:32631"]


def test_unknown_names_are_reported(store: Store) -> None:
    for options, text in (
        ({"modalities": "biome"}, "expected images among .*got biome"),
        ({"modalities": ["sentinel3"]}, "got sentinel3"),
        ({"target": "soil"}, "expected a target among .*got 'soil'"),
        ({"target": "era5.rain"}, r"era5: expected a band of the target \(.*got 'rain'"),
        ({"target": "biome.x"}, "none, since it has classes"),
        ({"target": 5}, r"Expected names of modalities, got 5 \(int\)"),
        ({"store": 5}, "Expected the path or URL of a store, got 5"),
    ):
        with pytest.raises(InputError, match=text):
            MMEarthStore(**{"store": store, **options})  # type: ignore[arg-type]


def test_a_plot_shows_every_map_and_the_prediction(store: Store) -> None:
    data = MMEarthStore(store, modalities=["sentinel2", "sentinel1"], target=["esa_worldcover", "biome"])
    sample = data[0]
    figure = data.plot(sample | {"prediction": torch.zeros(SIZE_PX, SIZE_PX, dtype=torch.int64)})
    assert len(figure.axes) == 4
    assert [bool(axis.images) for axis in figure.axes] == [True] * 4
    colour, mask = figure.axes[2].images[0], sample["mask"].numpy()
    drawn = colour.cmap(colour.norm(mask))[..., :3]
    classes = store.modalities["esa_worldcover"].classes
    for index in np.unique(mask[mask >= 0]):
        wanted = tuple(int((classes[index].colour or "")[i : i + 2], 16) / 255 for i in (1, 3, 5))
        np.testing.assert_allclose(drawn[mask == index][0], wanted, atol=1e-6)
    assert figure.axes[0].images[0].get_array().shape == (SIZE_PX, SIZE_PX, 3)
    assert "synthetic" in figure.get_suptitle()
    labelled = MMEarthStore(store, target="biome")
    text = labelled.plot(labelled[0] | {"prediction": torch.tensor(1)}, suptitle=None).get_suptitle()
    assert labelled.classes[int(labelled[0]["label"])] in text
    assert f"prediction: {labelled.classes[1]}" in text
    figure.canvas.draw_idle()
