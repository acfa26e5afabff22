"""Embeddings, read back by other libraries."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import geopandas
import numpy as np
import pyarrow as pa
import pytest
import xarray as xr
from click.testing import CliRunner
from matplotlib import image
from pyarrow import parquet
from toy_store import TINY, kinds, write_store

from mmearth_data import InputError, Store, format_tile_id
from mmearth_model import Checkpoint, load_checkpoint, make_recipe, pretrain
from mmearth_model.cli import cli
from mmearth_model.evaluation.embedding import Embeddings, embed, map_figure, neighbours_figure


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
    frame = geopandas.read_parquet(tmp_path / "e.parquet")
    assert frame.crs.to_epsg() == 4326 or "CRS84" in frame.crs.to_string()
    assert np.allclose(frame.geometry.x, store.coords["lon"])
    data = xr.open_zarr(tmp_path / "e.zarr", consolidated=False)
    assert np.allclose(data.embedding.values, expected.values)
    assert data.tile_id.dtype == np.uint64
    assert data.attrs["synthetic"] == "true"
    assert image.imread(tmp_path / "map.png")[..., 0].std() > 0.05


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
    assert len(parquet.read_table(tmp_path / "e.parquet")) == 70


def test_nothing_to_do_and_unknown_formats_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for more in ([], ["--out", "x.csv"], ["--map", "m.png", "--neighbours", "0000000000000000"]):
        result = CliRunner().invoke(cli, ["embed", str(folder / "toy.zarr"), "--checkpoint", str(folder / "run"), *more])  # fmt: skip
        assert result.exit_code == 2
        assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())


def test_neighbours_are_drawn_with_what_is_known_of_them(store: Store) -> None:
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


def test_a_map_of_embeddings_has_its_legend_beside_it(store: Store) -> None:
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
