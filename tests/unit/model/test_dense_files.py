"""Files of dense embeddings, read back by other libraries; similarity, and pictures."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr
from dense_world import FEATURES, HEIGHT, NORTH, ORIGIN, STEP, WEST, WIDTH, Given, make_field
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from rasterio.crs import CRS

from mmearth_data import FileInputError, InputError
from mmearth_model.maps.components import fit_components, picture_of
from mmearth_model.maps.similarity import find_place, parse_place, similarity_map
from mmearth_model.maps.vector_files import write_vectors
from mmearth_model.maps.vectors import open_vectors, quantise, restore, scale_of_largest


@pytest.fixture(scope="module", params=["x.zarr", "x.tif"])
def floats(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("floats")
    write_vectors(folder / request.param, [make_field()], ORIGIN, folder)
    return folder / request.param


@pytest.fixture(scope="module", params=["x.zarr", "x.tif"])
def integers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("integers")
    write_vectors(folder / request.param, [make_field()], ORIGIN, folder, "int8")
    return folder / request.param


def plain(path: Path) -> tuple[NDArray[np.float64], list[float], int | None]:
    """Vectors, GeoTransform and EPSG code, as xarray or GDAL reads them."""
    if path.suffix == ".zarr":
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            data = xr.open_zarr(path)
        reference = data["spatial_ref"].attrs
        values = data["embedding"] * data["scale"] if "scale" in data else data["embedding"]
        transform = [float(text) for text in reference["GeoTransform"].split()]
        return values.transpose("feature", "y", "x").values, transform, CRS.from_wkt(reference["crs_wkt"]).to_epsg()
    with rasterio.open(path) as file:
        values = np.where(file.read(masked=True).mask, np.nan, file.read() * np.array(file.scales)[:, None, None])
        return values, list(file.transform.to_gdal()), file.crs.to_epsg()


def test_other_libraries_read_the_same_vectors_at_the_same_place(floats: Path) -> None:
    values, transform, epsg = plain(floats)
    np.testing.assert_array_equal(values, make_field().values)
    assert (transform, epsg) == ([WEST, STEP, 0, NORTH, 0, -STEP], 32632)
    assert [path.name for path in floats.parent.iterdir() if path.name != "parts.tif"] == [floats.name]


def test_rounding_to_int8_changes_a_value_by_at_most_half_a_step(integers: Path) -> None:
    values, transform, _ = plain(integers)
    expected = make_field().values
    assert transform[0] == WEST
    np.testing.assert_array_equal(np.isnan(values), np.isnan(expected))
    largest = np.nanmax(np.abs(expected), axis=(1, 2))
    error = np.nanmax(np.abs(values - expected), axis=(1, 2))
    assert (error <= largest / 254 * (1 + 1e-5)).all()
    assert (error > largest / 600).all(), "eight bits cannot do better"


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float32, (3, 4, 2), elements=st.floats(-1e6, 1e6, width=32) | st.just(np.nan)))
def test_every_value_survives_int8_within_half_a_step(values: NDArray[np.float32]) -> None:
    largest = np.nan_to_num(np.abs(values)).max(axis=(1, 2))
    scale = scale_of_largest(largest)
    again = restore(quantise(values, scale), scale)
    np.testing.assert_array_equal(np.isnan(again), np.isnan(values))
    assert (np.nan_to_num(np.abs(again - values)).max(axis=(1, 2)) <= scale / 2 * (1 + 1e-5)).all()


def test_reading_back_gives_what_was_written(floats: Path) -> None:
    (found,) = open_vectors(floats)
    assert (found.grid.shape, found.grid.features, found.grid.transform) == (
        (HEIGHT, WIDTH),
        FEATURES,
        make_field().grid.transform,
    )
    assert found.grid.crs == CRS.from_epsg(32632)
    np.testing.assert_array_equal(found.read(slice(30, 40), slice(20, 45)), make_field().values[:, 30:40, 20:45])


def test_a_group_per_zone_is_placed_in_its_zone(tmp_path: Path) -> None:
    zones = [make_field("32632"), make_field("32633", 32633, 300_000.0)]
    write_vectors(tmp_path / "x.zarr", zones, ORIGIN, tmp_path, "int8")
    west, east = (xr.open_zarr(tmp_path / "x.zarr", group=name) for name in ("32632", "32633"))
    assert east["spatial_ref"].attrs["crs_wkt"] != west["spatial_ref"].attrs["crs_wkt"]
    assert float(east["x"][0]) == 300_000.0 + STEP / 2
    assert float(east["y"][1]) == NORTH - 1.5 * STEP
    np.testing.assert_array_equal(west["scale"], east["scale"])
    assert [found.name for found in open_vectors(tmp_path / "x.zarr")] == ["32632", "32633"]


def test_the_group_states_model_data_spacing_and_rounding(tmp_path: Path) -> None:
    write_vectors(tmp_path / "x.zarr", [make_field()], ORIGIN, tmp_path, "int8")
    document = json.loads((tmp_path / "x.zarr" / "zarr.json").read_text())
    attributes = document["attributes"]
    assert attributes["geoemb:type"] == "pixel"
    assert attributes["geoemb:gsd"] == STEP
    assert attributes["geoemb:data_type"] == document["consolidated_metadata"]["metadata"]["embedding"]["data_type"]
    assert attributes["geoemb:dimensions"] == FEATURES
    assert attributes["geoemb:quantization"]["quantized_dtype"] == "int8"
    assert attributes["proj:code"] == "EPSG:32632"
    assert attributes["title"].endswith("synthetic data")
    shards = [path for path in (tmp_path / "x.zarr" / "embedding" / "c").rglob("*") if path.is_file()]
    assert len(shards) == 3 * 2 - 1, "one file per shard, none without data"


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "y.zarr").mkdir()
    (tmp_path / "y.zarr" / "zarr.json").write_text('{"attributes": {"geoemb:type": "chip"}}')
    for name in ("y.zarr", "none.zarr", "none.tif"):
        with pytest.raises(FileInputError, match="expected a dense embedding"):
            open_vectors(tmp_path / name)
    (tmp_path / "y.zarr" / "zarr.json").write_text(
        '{"zarr_format": 3, "node_type": "group", "attributes": {"geoemb:type": "pixel"}}'
    )
    (tmp_path / "y.zarr" / "embedding").mkdir()
    (tmp_path / "y.zarr" / "embedding" / "zarr.json").write_text("{}")
    with pytest.raises(FileInputError, match="complete dense embedding"):
        open_vectors(tmp_path / "y.zarr")


def lonlat(row: float, column: float) -> tuple[float, float]:
    """Location of the centre of a position."""
    from pyproj import Transformer

    return Transformer.from_crs(32632, 4326, always_xy=True).transform(
        WEST + STEP * (column + 0.5), NORTH - STEP * (row + 0.5)
    )


def test_similarity_is_the_cosine_of_the_angle_to_the_vector_of_the_place() -> None:
    given_field = make_field()
    query = find_place([given_field], *lonlat(50, 40))
    found = similarity_map(given_field, query)
    vector = given_field.values[:, 50, 40]
    for row, column in ((50, 40), (10, 40), (69, 0)):
        other = given_field.values[:, row, column]
        cosine = vector @ other / np.sqrt((vector @ vector) * (other @ other))
        assert found[row, column] == pytest.approx(cosine, abs=1e-6)
    assert np.isnan(found[:33, :33]).all()
    assert np.isfinite(found[33:]).all()


def test_a_query_outside_or_without_data_is_refused() -> None:
    with pytest.raises(InputError, match=r"inside 10\.\d+,47\.\d+ to 10\.\d+,47\.\d+, got 11,48"):
        find_place([make_field()], 11.0, 48.0)
    with pytest.raises(InputError, match="expected a location with data"):
        find_place([make_field()], *lonlat(3, 4))
    for text in ("11", "a,b", "11,48,3", "200,10", "10,95", "nan,3"):
        with pytest.raises(InputError, match="expected LON,LAT"):
            parse_place(text)


def test_components_are_those_of_scikit_learn() -> None:
    from sklearn.decomposition import PCA

    given_field = make_field()
    components = fit_components([given_field])
    vectors = given_field.values.reshape(FEATURES, -1).T
    known = vectors[np.isfinite(vectors).all(axis=1)]
    expected = PCA(3).fit(known)
    angles = np.abs((components.axes * expected.components_).sum(axis=1))
    assert angles[:2] == pytest.approx(1, abs=1e-4)
    assert components.share[:2] == pytest.approx(expected.explained_variance_ratio_[:2], abs=1e-4)


def test_a_picture_is_transparent_without_data_and_uses_the_whole_range() -> None:
    picture = picture_of(make_field(), fit_components([make_field()]))
    assert not picture[3, :33, :33].any()
    assert (picture[3, 33:] == 255).all()
    assert [picture[band][picture[3] > 0].min() for band in range(2)] == [0, 0]
    assert [picture[band][picture[3] > 0].max() for band in range(2)] == [255, 255]
    np.testing.assert_array_equal(picture, picture_of(make_field(), fit_components([make_field()])))


def test_a_picture_of_nothing_is_refused() -> None:
    empty = Given(np.full((FEATURES, HEIGHT, WIDTH), np.nan, np.float32), make_field().grid)
    with pytest.raises(InputError, match="at least 2 positions with data, got 0"):
        fit_components([empty])
