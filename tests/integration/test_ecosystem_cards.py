"""Cards of a store, read and validated by the libraries that they are made for: mlcroissant, pystac, huggingface_hub.

pystac contains no schemas of STAC extensions, so extensions are checked by structure and through pystac's classes.
``make prove-ecosystem`` runs this file in a separate environment.
"""

from __future__ import annotations

import importlib
import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import zarr
from append_making import write_ecoregions
from published_world import make_published

from mmearth_data import build, describe, import_hdf5, make_recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.ecosystem,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
VND_PARQUET = "application/vnd.apache.parquet"
MODALITIES = ("sentinel2", "sentinel1", "aster", "esa_worldcover", "era5", "lat", "biome", "eco_region")


@pytest.fixture(scope="module", autouse=True)
def _offline() -> Iterator[None]:
    """Refuse connections, so that nothing is validated with schemas from the network."""

    def refuse(*args: Any, **options: Any) -> None:
        raise OSError("no network in this test")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        yield


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that was sampled and built on the synthetic planet."""
    folder = tmp_path_factory.mktemp("sampled")
    recipe = {"source": "synthetic", "ecoregions": write_ecoregions(folder / "eco.parquet"), "tiles": 20}
    more = {"tile_size": 16, "tiles_per_shard": 8, "modalities": MODALITIES}
    build(make_recipe(None, {**recipe, **more}), folder / "planet.zarr")
    return describe(folder / "planet.zarr")


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without outlines, with all modalities of the published data."""
    folder = tmp_path_factory.mktemp("imported")
    import_hdf5(make_published(folder / "in", 20), folder / "imported.zarr")
    return describe(folder / "imported.zarr")


@pytest.fixture(params=["sampled", "imported", "elsewhere"])
def cards(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """Folder of the cards, and the store."""
    if request.param == "elsewhere":
        store: Path = request.getfixturevalue("sampled")
        return describe(store, tmp_path / "cards"), store
    store = request.getfixturevalue(request.param)
    return store, store


# ---------------------------------------------------------------- Croissant


def test_mlcroissant_accepts_the_metadata(cards: tuple[Path, Path]) -> None:
    dataset = importlib.import_module("mlcroissant").Dataset(jsonld=str(cards[0] / "croissant.json"))
    issues = dataset.metadata.ctx.issues
    assert not issues.errors
    # The store does not know when it was published.
    assert all("datePublished" in str(warning) for warning in issues.warnings)
    assert dataset.metadata.ctx.is_v1_1()
    assert dataset.metadata.license
    assert dataset.metadata.data_biases
    assert dataset.metadata.data_limitations


def test_mlcroissant_reads_the_tiles(cards: tuple[Path, Path]) -> None:
    folder, store = cards
    dataset = importlib.import_module("mlcroissant").Dataset(jsonld=str(folder / "croissant.json"))
    records = pd.DataFrame(list(dataset.records("tiles"))).rename(columns=lambda name: name.removeprefix("tiles/"))
    table = pd.read_parquet(store / "tiles.parquet")
    assert len(records) == len(table)
    (time,) = {"time", "datetime"} & set(table)
    assert {"tile_id", "lon", "lat", time, "split", "biome", "geometry"} <= set(records)
    for name in ("tile_id", "lon", "lat", time, "split", "biome", "s2_level"):
        pd.testing.assert_series_equal(records[name], table[name], check_dtype=False)


def test_mlcroissant_reads_classes_and_paths(cards: tuple[Path, Path]) -> None:
    folder, store = cards
    dataset = importlib.import_module("mlcroissant").Dataset(jsonld=str(folder / "croissant.json"))
    names = {row["biome-classes/code"]: row["biome-classes/name"] for row in dataset.records("biome-classes")}
    assert len(names) == 14
    assert set(pd.read_parquet(store / "tiles.parquet")["biome"]) - {255} <= set(names)
    assert [row["splits/name"] for row in dataset.records("splits")] == ["train", "val", "test"]
    (paths,) = dataset.records("rasters")
    for name, path in paths.items():
        array = zarr.open_array(folder / path)
        (field,) = [f for f in dataset.metadata.record_sets[-1].fields if f.id == name]
        assert str(array.dtype) in str(field.description)
        assert ", ".join(f"{n}" for n in array.shape) in str(field.description)


# ---------------------------------------------------------------- STAC


def test_pystac_accepts_the_collection(cards: tuple[Path, Path]) -> None:
    pystac = importlib.import_module("pystac")
    path = cards[0] / "collection.json"
    body = json.loads(path.read_text(encoding="utf-8"))
    # Schemas of STAC itself are in the package, those of extensions are on the web.
    assert pystac.validation.validate_dict({**body, "stac_extensions": []})
    with pytest.raises(pystac.STACValidationError):
        pystac.validation.validate_dict({**body, "stac_extensions": [], "extent": {}})
    collection = pystac.Collection.from_file(str(path))
    assert collection.to_dict()["id"] == body["id"]
    for asset in collection.assets.values():
        assert Path(asset.get_absolute_href()).exists()
    # The type that the specification of stac-geoparquet asks for.
    assert collection.assets["tiles"].media_type == collection.get_links("items")[0].media_type == VND_PARQUET
    assert collection.assets["tiles"].roles == ["collection-mirror"]
    assert {provider.name for provider in collection.providers} == {"MMEarth toolkit"}


def test_the_extensions_that_are_used_are_declared_and_no_others(cards: tuple[Path, Path]) -> None:
    text = (cards[0] / "collection.json").read_text(encoding="utf-8")
    prefixes = {"eo": "eo", "raster": "raster", "sar": "sar", "classification": "classification"}
    prefixes |= {"cube": "datacube", "sci": "scientific", "proj": "projection"}
    declared = {url.split("/")[3] for url in json.loads(text)["stac_extensions"]}
    assert declared == {name for prefix, name in prefixes.items() if f'"{prefix}:' in text}


def test_pystac_finds_the_data_cube(cards: tuple[Path, Path]) -> None:
    folder, store = cards
    collection = importlib.import_module("pystac").Collection.from_file(str(folder / "collection.json"))
    cube = importlib.import_module("pystac.extensions.datacube").DatacubeExtension.ext(collection)
    group = zarr.open_group(store, mode="r")
    for name, variable in cube.variables.items():
        array = group[name]
        assert isinstance(array, zarr.Array)
        assert tuple(variable.dimensions) == array.metadata.dimension_names
        assert set(variable.dimensions) <= set(cube.dimensions)
    assert set(cube.variables) == {name for name, _ in group.arrays() if not name.endswith("_band")}
    assert cube.dimensions["tile"].to_dict()["type"] == "geometry"


def test_pystac_finds_bands_with_their_wavelengths_and_units(cards: tuple[Path, Path]) -> None:
    folder, store = cards
    collection = importlib.import_module("pystac").Collection.from_file(str(folder / "collection.json"))
    names = zarr.open_group(store, mode="r")["sentinel2_band"]
    assert isinstance(names, zarr.Array)
    bands = collection.assets["sentinel2"].extra_fields["bands"]
    assert [band["name"] for band in bands] == list(names[:])
    centres = np.array([band["eo:center_wavelength"] for band in bands])
    # Centres in micrometres that pystac's extension for bands gives as ranges of common names.
    ranges = importlib.import_module("pystac.extensions.eo").Band.band_range
    for name, common in {"B2": "blue", "B3": "green", "B4": "red", "B11": "swir16", "B12": "swir22"}.items():
        low, high = ranges(common)
        assert low <= centres[[band["name"] for band in bands].index(name)] <= high
    radar = collection.assets["sentinel1"].extra_fields
    sar = importlib.import_module("pystac.extensions.sar")
    assert sar.FrequencyBand(radar["sar:frequency_band"]) is sar.FrequencyBand.C


# ---------------------------------------------------------------- Hugging Face


def test_the_hub_reads_the_header(cards: tuple[Path, Path]) -> None:
    hub = importlib.import_module("huggingface_hub")
    card = hub.DatasetCard.load(cards[0] / "README.md")
    assert isinstance(card.data, hub.DatasetCardData)
    assert card.data.license == "other"
    assert card.data.size_categories == ["n<1K"]
    assert "image-segmentation" in card.data.task_categories
    assert card.data.pretty_name.split()[0] == cards[1].stem
    again = hub.DatasetCard(str(card))
    assert again.data.to_dict() == card.data.to_dict()
    assert card.text.lstrip().startswith(f"# {cards[1].stem}\n")
