"""torchgeo with our data set: samplers, data modules, trainers, transforms, and its own reading of the same tiles.

It has many dependencies that nothing else needs, so ``make prove-ecosystem`` runs this file in a separate environment.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchgeo_world import SIDE_M, TILES, placed_store
from toy_store import SIZE_PX

from mmearth_data import Store, export
from mmearth_model import MMEarthStore

pytestmark = [
    pytest.mark.ecosystem,
    pytest.mark.filterwarnings("ignore"),  # of several libraries, about one another
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return placed_store(tmp_path_factory.mktemp("placed") / "placed.zarr")


@pytest.fixture(scope="module")
def geo() -> Any:
    """Modules of torchgeo by name."""
    names = ("datasets", "samplers", "datamodules", "trainers", "transforms")
    return type("torchgeo", (), {name: importlib.import_module(f"torchgeo.{name}") for name in names})


@pytest.fixture(scope="module")
def kornia() -> Any:
    return importlib.import_module("kornia.augmentation")


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# ---------------------------------------------------------------- its own reading of the same tiles


@pytest.fixture(scope="module")
def files(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiles as GeoTIFFs, one per modality and tile."""
    folder = tmp_path_factory.mktemp("tiles") / "out"
    export(str(store.path), folder, form="geotiff")
    return folder


def test_areas_are_what_torchgeo_reads_from_geotiffs_of_the_same_tiles(geo: Any, store: Store, files: Path) -> None:
    """Images and classes, through its own raster data set, at areas that its own sampler chooses."""
    ours = MMEarthStore(store, target="esa_worldcover")
    codes = np.array([label.code for label in store.modalities["esa_worldcover"].classes])
    images = geo.datasets.RasterDataset(str(files / "sentinel2"))
    masks = geo.datasets.RasterDataset(str(files / "esa_worldcover"))
    masks.is_image = False
    assert images.crs == ours.crs
    assert images.res == ours.res
    assert images.bounds[:2] == ours.bounds[:2]
    areas = list(geo.samplers.RandomGeoSampler(ours, size=12, length=12, generator=seeded()))
    for x, y, _ in areas:
        sample = ours[x, y]
        torch.testing.assert_close(sample["image"], images[x, y]["image"], rtol=0, atol=0)
        found, known = masks[x, y]["mask"].numpy(), sample["mask"].numpy() >= 0
        np.testing.assert_array_equal(found[known], codes[sample["mask"].numpy()[known]])


# ---------------------------------------------------------------- samplers


def test_its_random_sampler_finds_whole_areas_in_tiles(geo: Any, store: Store) -> None:
    data = MMEarthStore(store, target="dynamic_world")
    sampler = geo.samplers.RandomGeoSampler(data, size=16, length=20, generator=seeded())
    loader = DataLoader(data, batch_size=5, sampler=sampler, collate_fn=geo.datasets.stack_samples)
    batches = list(loader)
    assert [tuple(batch["image"].shape) for batch in batches] == [(5, 13, 16, 16)] * 4
    tiles = {data[i]["tile_id"]: i for i in range(len(data))}
    for batch in batches:
        for image, bounds, name in zip(batch["image"], batch["bounds"], batch["tile_id"], strict=True):
            whole, corner = data[tiles[name]], (bounds - data[tiles[name]]["bounds"]) / 10
            left, up = int(corner[0]), -int(corner[3])
            assert torch.equal(image, whole["image"][:, up : up + 16, left : left + 16])


def test_its_grid_sampler_covers_every_tile_once(geo: Any, store: Store) -> None:
    data = MMEarthStore(store)
    sampler = geo.samplers.GridGeoSampler(data, size=16)
    assert len(sampler) == 4 * TILES
    total = sum(data[area]["image"].double().sum() for area in sampler)
    assert total == sum(data[i]["image"].double().sum() for i in range(len(data)))


def test_its_sampler_of_chips_gives_the_tiles(geo: Any, store: Store) -> None:
    data = MMEarthStore(store)
    for position, area in enumerate(geo.samplers.PreChippedGeoSampler(data)):
        assert torch.equal(data[area]["image"], data[position]["image"])


def test_its_batch_sampler_and_regions_of_interest(geo: Any, store: Store) -> None:
    import pandas as pd
    import shapely

    data = MMEarthStore(store)
    batches = geo.samplers.RandomBatchGeoSampler(data, size=8, batch_size=4, length=12, generator=seeded())
    shapes = [tuple(b["image"].shape) for b in DataLoader(data, batch_sampler=batches)]
    assert shapes == [(4, 13, 8, 8)] * 3
    west, south, _, north = data[0]["bounds"].tolist()
    half = shapely.box(west, south, west + SIDE_M / 2, north)
    toi = pd.Interval(pd.Timestamp("2019-01-01"), pd.Timestamp("2019-12-31"))
    (area,) = geo.samplers.GridGeoSampler(data, size=(SIZE_PX, SIZE_PX // 2), roi=half, toi=toi)
    assert torch.equal(data[area]["image"], data[0]["image"][:, :, : SIZE_PX // 2])


# ---------------------------------------------------------------- transforms


def test_its_transforms_and_kornias_take_whole_samples(geo: Any, kornia: Any, store: Store) -> None:
    """Flips move images and masks together; texts, labels and bounds pass through."""
    data = MMEarthStore(store, modalities=["sentinel2", "sentinel1"], target=["esa_worldcover", "biome"])
    batch = next(iter(DataLoader(data, batch_size=4)))
    flip = kornia.AugmentationSequential(kornia.RandomHorizontalFlip(p=1.0), data_keys=None, keepdim=True)
    flipped = flip(dict(batch))
    for key in ("image", "image_sentinel1", "mask"):
        assert torch.equal(flipped[key].to(batch[key].dtype), batch[key].flip(-1)), key
    for key in ("label", "bounds"):
        assert torch.equal(flipped[key], batch[key])
    assert flipped["crs"] == batch["crs"]
    bands = data.bands["sentinel2"]
    red, nir = bands.index("B4"), bands.index("B8")
    indexed = geo.transforms.AppendNDVI(index_nir=nir, index_red=red)(batch["image"])
    expected = (batch["image"][:, nir] - batch["image"][:, red]) / (batch["image"][:, nir] + batch["image"][:, red] + 1e-10)  # fmt: skip
    torch.testing.assert_close(indexed[:, -1], expected)


def test_batches_are_unbound_into_samples_and_plotted(geo: Any, store: Store) -> None:
    data = MMEarthStore(store, target="esa_worldcover")
    batch = next(iter(DataLoader(data, batch_size=3)))
    batch["prediction"] = batch["mask"].clamp(min=0)
    samples = geo.datasets.unbind_samples(batch)
    assert [sample["tile_id"] for sample in samples] == [data[i]["tile_id"] for i in range(3)]
    assert len(data.plot(samples[1]).axes) == 3


# ---------------------------------------------------------------- training


def fit(task: Any, data: Any, folder: Path) -> Any:
    """One epoch with validation and test, as a user would train."""
    from lightning.pytorch import Trainer
    from lightning.pytorch.loggers import TensorBoardLogger

    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=TensorBoardLogger(folder),
        enable_checkpointing=False,
        enable_progress_bar=False,
        log_every_n_steps=1,
    )
    trainer.fit(task, datamodule=data)
    trainer.test(task, datamodule=data, verbose=False)
    return trainer


def test_its_trainer_of_classes_learns_from_tiles(geo: Any, store: Store, tmp_path: Path) -> None:
    """With its data module, which makes the data set of each split itself, and logs pictures of samples."""
    data = geo.datamodules.NonGeoDataModule(
        MMEarthStore, batch_size=4, store=str(store.path), target="biome", normalise=True
    )
    task = geo.trainers.ClassificationTask(model="resnet18", in_channels=13, num_classes=14, task="multiclass")
    trainer = fit(task, data, tmp_path)
    assert np.isfinite(trainer.logged_metrics["test_loss"])
    assert len(data.val_dataset) == len(MMEarthStore(store, "val", target="biome"))


def test_its_trainer_of_maps_learns_from_tiles_and_from_areas(geo: Any, store: Store, tmp_path: Path) -> None:
    for module, more in ((geo.datamodules.NonGeoDataModule, {}), (geo.datamodules.GeoDataModule, {"patch_size": 32})):
        data = module(MMEarthStore, batch_size=4, store=store, target="esa_worldcover", normalise=True, **more)
        task = geo.trainers.SemanticSegmentationTask(
            model="unet", backbone="resnet18", in_channels=13, num_classes=11, task="multiclass", ignore_index=MMEarthStore.ignore_index
        )  # fmt: skip
        trainer = fit(task, data, tmp_path / module.__name__)
        assert np.isfinite(trainer.logged_metrics["test_loss"])


def test_its_trainer_of_quantities_learns_from_tiles(geo: Any, store: Store, tmp_path: Path) -> None:
    data = geo.datamodules.NonGeoDataModule(
        MMEarthStore, batch_size=4, store=store, target="era5.year_avg_temp", normalise=True
    )
    task = geo.trainers.RegressionTask(model="resnet18", in_channels=13, num_outputs=1)
    assert np.isfinite(fit(task, data, tmp_path).logged_metrics["test_loss"])
