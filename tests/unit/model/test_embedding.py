"""Embeddings, read back by other libraries."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import warnings
from collections import Counter
from pathlib import Path

import geopandas
import numpy as np
import pyarrow as pa
import pytest
import rasterio
import xarray as xr
import zarr
from click.testing import CliRunner
from geopandas.testing import assert_geoseries_equal
from matplotlib import image
from pyarrow import parquet
from rasterio.warp import transform_geom
from shapely import Point, box
from shapely.geometry import mapping, shape
from toy_store import TINY, kinds, write_store

from mmearth_data import InputError, Store, format_tile_id, raster_outline, verify
from mmearth_model import Checkpoint, load_checkpoint, make_recipe, pretrain
from mmearth_model.cli import cli
from mmearth_model.evaluation.embedding import Embeddings, embed, map_figure, neighbours_figure
from mmearth_model.evaluation.embedding_files import write_parquet, write_zarr
from mmearth_model.tasks import open_task


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embed")
    store = write_store(folder / "toy.zarr", 48)
    pretrain(store, make_recipe("demo", {**TINY, "epochs": 1, "batch_size": 12}), folder / "run", device="cpu")
    return folder


@pytest.fixture(scope="module")
def store(folder: Path) -> Store:
    from mmearth_data import open_store

    return open_store(folder / "toy.zarr")


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Checkpoint:
    return load_checkpoint(folder / "run")


def test_what_is_written_is_what_other_libraries_read(
    folder: Path, store: Store, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    arguments = ["embed", str(folder / "toy.zarr"), "--checkpoint", str(folder / "run"), "--out", str(tmp_path / "e.parquet"), "--out", str(tmp_path / "e.zarr"), "--map", str(tmp_path / "map.png")]  # fmt: skip
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    expected = embed(checkpoint, store, device="cpu")
    table = parquet.read_table(tmp_path / "e.parquet")
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 24)
    assert table.column("tile_id").to_pylist() == store.coords["tile_id"].tolist()
    assert np.allclose(np.stack(table.column("embedding").to_numpy()), expected.values)
    data = xr.open_zarr(tmp_path / "e.zarr")
    assert np.allclose(data.embedding.values, expected.values)
    assert data.tile_id.dtype == np.uint64
    assert data.attrs["synthetic"] == "true"
    assert image.imread(tmp_path / "map.png")[..., 0].std() > 0.05


@pytest.fixture(scope="module")
def written(folder: Path, store: Store, checkpoint: Checkpoint) -> Path:
    """Folder with the embeddings of the store as e.parquet and e.zarr."""
    found = embed(checkpoint, store, device="cpu")
    write_parquet(found, folder / "e.parquet")
    write_zarr(found, folder / "e.zarr")
    return folder


def class_names(store: Store, name: str) -> list[str]:
    """Name of the class of each tile, from the stored codes and the catalog entry."""
    names = {label.code: label.name for label in store.modalities[name].classes}
    return [names[code] for code in store.read(name, slice(0, len(store))).tolist()]


def test_a_table_has_outlines_coordinates_and_labels(written: Path, store: Store) -> None:
    frame = geopandas.read_parquet(written / "e.parquet")
    geo = json.loads(parquet.read_schema(written / "e.parquet").metadata[b"geo"])
    assert geo["columns"]["geometry"]["crs"]["id"] == {"authority": "EPSG", "code": 4326}, "stated, not by default"
    assert frame.crs.to_epsg() == 4326
    assert_geoseries_equal(frame.geometry, store.tiles.geometry, check_index_type=False)
    assert frame["id"].tolist() == [format_tile_id(i) for i in store.coords["tile_id"].tolist()]
    assert np.array_equal(frame[["lon", "lat"]], np.stack([store.coords["lon"], store.coords["lat"]], axis=1))
    assert frame["split"].tolist() == ["train"] * 36 + ["test"] * 12
    assert frame["biome"].tolist() == class_names(store, "biome")
    assert frame["eco_region"].tolist() == class_names(store, "eco_region")
    assert (frame["time"].dt.tz_convert(None).to_numpy() == store.coords["time"]).all()


def test_reading_a_box_returns_the_rows_whose_outlines_intersect_it(written: Path, store: Store) -> None:
    west, south, east, north = store.tiles.geometry.iloc[4:7].total_bounds
    found = geopandas.read_parquet(written / "e.parquet", bbox=(west, south, east, north))
    expected = store.tiles.geometry.intersects(box(west, south, east, north))
    assert found["tile_id"].tolist() == store.coords["tile_id"][expected].tolist()


def test_an_array_has_the_same_coordinates_and_declares_its_convention(
    written: Path, folder: Path, store: Store
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = xr.open_zarr(written / "e.zarr")
    assert data["id"].values.tolist() == [format_tile_id(i) for i in store.coords["tile_id"].tolist()]
    assert data["split"].values.tolist() == ["train"] * 36 + ["test"] * 12
    assert data["biome"].values.tolist() == class_names(store, "biome")
    assert (data["time"].values == store.coords["time"]).all()
    assert data.where((data["split"] == "test").compute(), drop=True).sizes["tile"] == 12
    attributes = json.loads((written / "e.zarr" / "zarr.json").read_text())["attributes"]
    model = hashlib.sha256((load_checkpoint(folder / "run").folder / "model.safetensors").read_bytes()).digest()
    assert attributes["model_digest"] == f"sha256:{model.hex()}"
    assert attributes["geoemb:model"] == f"ni:///sha-256;{base64.urlsafe_b64encode(model).decode()[:-1]}"
    assert attributes["geoemb:dimensions"] == data.sizes["feature"] == 24
    assert attributes["geoemb:chip_layout"] == {"layout_type": "irregular", "chip_size": [32, 32]}
    assert attributes["geoemb:gsd"] == 10
    (source,) = attributes["geoemb:source_data"]
    assert source.startswith("urn:uuid:"), "pixels of a synthetic store are not Sentinel-2's"
    assert [entry["name"] for entry in attributes["zarr_conventions"]] == ["geoemb:"]


def test_an_array_is_sharded_and_consolidated(written: Path) -> None:
    root = json.loads((written / "e.zarr" / "zarr.json").read_text())
    arrays = root["consolidated_metadata"]["metadata"]
    assert {name: arrays[name]["codecs"][0]["name"] for name in ("embedding", "lon")} == {
        "embedding": "sharding_indexed",
        "lon": "bytes",
    }
    many = Embeddings(np.zeros((9_000, 512), np.float32), np.arange(9_000).astype(str), *np.zeros((2, 9_000)), {})
    write_zarr(many, written / "many.zarr")
    values = zarr.open_array(written / "many.zarr" / "embedding", mode="r")
    assert values.chunks == (512, 512)
    assert values.shards == (512 * 18, 512)


def test_netcdf_takes_the_arrays_without_the_objects_of_the_convention(written: Path, tmp_path: Path) -> None:
    data = xr.open_zarr(written / "e.zarr").load()
    with pytest.raises(TypeError, match="geoemb:chip_layout"):
        data.to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
    data.drop_attrs(deep=False).to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "x.nc", engine="h5netcdf") as back:
        xr.testing.assert_equal(back.load(), data)


def test_tiles_without_a_corner_are_points_and_without_a_location_nothing(tmp_path: Path) -> None:
    places = np.array([[1.0, np.nan, 5.0], [2.0, np.nan, 6.0]])
    square = np.array([None, None, box(4, 5, 6, 7)], dtype=object)
    points = Embeddings(
        np.eye(3, dtype=np.float32), np.arange(3, dtype=np.uint64), *places, {}, outlines=lambda: square
    )
    write_parquet(points, tmp_path / "e.parquet")
    frame = geopandas.read_parquet(tmp_path / "e.parquet")
    assert frame.geometry.tolist() == [Point(1, 2), None, square[2]]
    boxes = parquet.read_table(tmp_path / "e.parquet")["bbox"].to_pylist()
    assert boxes == [
        {"xmin": 1, "ymin": 2, "xmax": 1, "ymax": 2},
        None,
        {"xmin": 4, "ymin": 5, "xmax": 6, "ymax": 7},
    ]
    geo = json.loads(parquet.read_schema(tmp_path / "e.parquet").metadata[b"geo"])
    assert geo["columns"]["geometry"]["geometry_types"] == ["Point", "Polygon"]


def test_neighbours_are_the_most_similar_and_are_drawn(folder: Path, store: Store, tmp_path: Path) -> None:
    tile = format_tile_id(int(store.coords["tile_id"][5]))
    arguments = ["embed", str(folder / "toy.zarr"), "--checkpoint", str(folder / "run"), "--neighbours", tile, "--figure", str(tmp_path / "n.png")]  # fmt: skip
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert image.imread(tmp_path / "n.png")[..., 0].std() > 0.05
    listed = [line.split() for line in result.stdout.splitlines()[1:]]
    similarities = [float(part[1]) for part in listed]
    assert similarities == sorted(similarities, reverse=True)
    assert tile not in [part[0] for part in listed]
    ids = [format_tile_id(int(i)) for i in store.coords["tile_id"]]
    alike = [kinds(48)[ids.index(part[0])] == kinds(48)[5] for part in listed]
    assert np.mean(alike) > 0.5  # bands distinguish the toy's kinds


def test_neighbours_and_plane_of_known_points() -> None:
    values = np.array([[1, 0, 0], [0.9, 0.1, 0], [0, 1, 0], [-1, 0, 0]], np.float32)
    nowhere = np.full(4, np.nan)
    points = Embeddings(values, np.array(["a", "b", "c", "d"]), nowhere, nowhere, {})
    assert [row for row, _ in points.neighbours(0)] == [1, 2, 3]
    assert points.neighbours(0)[2][1] == pytest.approx(-1)
    places, how = points.plane()
    assert "principal components, 100 %" in how
    distances = np.linalg.norm(places[:, None] - places, axis=-1)
    assert distances == pytest.approx(np.linalg.norm(values[:, None] - values, axis=-1), abs=1e-6)
    with pytest.raises(InputError, match="expected one of the 4 embedded tiles"):
        points.position("e")


def test_files_are_embedded_by_a_task_files_bands(folder: Path, test_data: Path, tmp_path: Path) -> None:
    arguments = ["embed", str(test_data / "eurosat_ms"), "--task", "eurosat-ms", "--checkpoint", str(folder / "run"), "--out", str(tmp_path / "e.parquet")]  # fmt: skip
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    frame = geopandas.read_parquet(tmp_path / "e.parquet").set_index("id")
    assert len(frame) == 70
    assert "tile_id" not in frame
    assert set(frame["split"]) <= {"train", "val", "test"}
    name = frame.index[7]
    with rasterio.open(test_data / "eurosat_ms" / name) as file:
        expected = transform_geom(file.crs, "EPSG:4326", mapping(box(*file.bounds)))
    assert shape(expected).symmetric_difference(frame.geometry[name]).area < 1e-6 * shape(expected).area
    assert shape(expected).contains(Point(frame.lon[name], frame.lat[name]))


def test_files_in_a_zip_have_the_same_outlines_and_files_without_a_georeference_none(
    checkpoint: Checkpoint, test_data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "few"
    for file in sorted((test_data / "eurosat_ms").glob("*/*_1*.tif"))[:4]:
        (folder / file.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder / file.parent.name)
    shutil.make_archive(str(tmp_path / "few"), "zip", tmp_path, "few")
    found = [
        embed(checkpoint, open_task(f"eurosat-ms={path}"), device="cpu") for path in (folder, tmp_path / "few.zip")
    ]
    outlines = [embeddings.outlines() for embeddings in found if embeddings.outlines is not None]
    assert len(outlines) == 2
    assert all(left.equals(right) for left, right in zip(*outlines, strict=True))
    assert found[0].chips is not None
    assert (found[0].chips.size, found[0].chips.gsd) == ((64, 64), None)
    file = next(folder.rglob("*.tif"))
    with rasterio.open(file) as source:
        profile, values = {**source.profile, "crs": None, "transform": rasterio.Affine.identity()}, source.read()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(file, "w", **profile) as target:
            target.write(values)
    assert raster_outline(file, file) is None


def test_nothing_to_do_and_unknown_formats_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for more in ([], ["--out", "x.csv"], ["--map", "m.png", "--neighbours", "0000000000000000"]):
        result = CliRunner().invoke(cli, ["embed", str(folder / "toy.zarr"), "--checkpoint", str(folder / "run"), *more])  # fmt: skip
        assert result.exit_code == 2
        assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())


def test_embeddings_replace_embeddings_and_nothing_else(folder: Path, store: Store, tmp_path: Path) -> None:
    """A store has the same suffix, and its folder would be replaced as a whole."""
    copy, out = tmp_path / "copy.zarr", tmp_path / "e.zarr"
    shutil.copytree(folder / "toy.zarr", copy)
    arguments = ["embed", str(copy), "--checkpoint", str(folder / "run"), "--out"]
    dense, damaged = tmp_path / "dense.zarr", tmp_path / "damaged.zarr"
    xr.Dataset({"embedding": (("feature", "y", "x"), np.zeros((2, 3, 3), np.float32))}).to_zarr(dense, zarr_format=3, consolidated=False)  # fmt: skip
    shutil.copytree(dense, damaged)
    (damaged / "zarr.json").write_text("{")
    for taken, reason in (
        (copy, "expected a new folder or embeddings, which are replaced, got something else"),
        (copy / "biome.zarr", "whose files are its own"),
        (dense, "got something else"),
        (damaged, "got something else"),
    ):
        result = CliRunner().invoke(cli, [*arguments, str(taken)])
        assert result.exit_code == 2
        assert reason in " ".join(result.output.split())
        assert "Embedding" not in result.output, "refused before the work starts"
    assert verify(copy).problems == ()
    for _ in range(2):
        assert CliRunner().invoke(cli, [*arguments, str(out)]).exit_code == 0
    assert xr.open_zarr(out).sizes["tile"] == len(store)


def test_neighbours_are_shown_with_their_labels_and_locations(store: Store) -> None:
    ids = store.coords["tile_id"]
    points = Embeddings(np.eye(len(ids), 4, dtype=np.float32) + 1, ids, store.coords["lon"], store.coords["lat"], {})
    figure = neighbours_figure(points, store, 5)
    assert len(figure.axes) == 9
    assert figure.axes[0].get_label() == points.names[5]
    for axis in figure.axes:
        row = points.position(axis.get_label())
        (about,) = (text.get_text().splitlines() for text in axis.texts)
        code = int(store.read("biome", slice(row, row + 1))[0])
        assert about[0] == store.modalities["biome"].classes[code].name
        assert about[1].split(" · ")[0] == ("L1C", "L2A")[int(store.coords["s2_level"][row])]
        assert about[-1] == points.names[row]
    title, scale = (text.get_text() for text in figure.texts)
    assert title == f"Nearest to {points.names[5]} (synthetic)"
    assert "the same stretch in all tiles" in scale
    assert "B4" in scale


def test_a_map_of_embeddings_has_its_legend_next_to_it(store: Store) -> None:
    ids = store.coords["tile_id"]
    rng = np.random.default_rng(0)
    points = Embeddings(rng.random((len(ids), 4), dtype=np.float32), ids, store.coords["lon"], store.coords["lat"], {})
    (axis,) = map_figure(points, store).axes
    legend = axis.get_legend()
    assert legend is not None
    codes = store.read("biome", slice(0, len(ids)))
    names = {label.code: label.name for label in store.modalities["biome"].classes}
    assert sorted(text.get_text() for text in legend.get_texts()) == sorted(
        f"{names[code]}  ({count})" for code, count in Counter(codes.tolist()).items()
    )
    figure = axis.get_figure()
    figure.canvas.draw()
    assert legend.get_window_extent().x0 > axis.get_window_extent().x1, "beside the points"
    assert all(points.get_sizes()[0] >= 36 for points in axis.collections)
