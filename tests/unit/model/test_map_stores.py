"""Predictions of stores: tables, rasters per tile, and mosaics, against the network applied tile by tile."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas
import numpy as np
import pytest
import rasterio
import torch
from click.testing import CliRunner
from rasterio.warp import transform
from toy_store import write_store

from mmearth_data import InputError, Store, open_store
from mmearth_model import ConvNeXtV2, EncoderConfig, Network, Normaliser, Output, save_network
from mmearth_model.cli import cli
from mmearth_model.heads.probes import TileProbe
from mmearth_model.heads.unet import UNet
from mmearth_model.maps.mosaic import plan_zones, predict_mosaic
from mmearth_model.maps.stores import predict_rasters, predict_table
from mmearth_model.tasks import TaskKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result

SIZE, STEP, TILES, FIRST = 32, 24, 20, 12
"""Pixels of a tile and between tiles; tiles in all and in the first zone."""
CODES = (10, 20, 90)
Columns = dict[str, np.ndarray[Any, Any]]


def place(columns: Columns) -> None:
    """Put tiles side by side with an overlap: 12 in zone 32, 8 in zone 33, with the corner of the last one missing."""
    tiles = np.arange(TILES)
    within = np.where(tiles < FIRST, tiles, tiles - FIRST)
    columns["epsg"][:] = np.where(tiles < FIRST, 32632, 32633)
    columns["ulx"][:] = np.where(tiles < FIRST, 500_000, 300_000) + (within % 4) * STEP * 10.0
    columns["uly"][:] = 5_000_000 - (within // 4) * STEP * 10.0
    columns["sentinel2"][0, :, :8, :8] = 0  # no data, in a corner that no other tile covers
    columns["sentinel2"][TILES - 1] = 0


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("stores") / "cover.zarr"
    write_store(path, TILES, names=("sentinel2",), change=place)
    return open_store(path)


def encoder() -> ConvNeXtV2:
    return ConvNeXtV2(EncoderConfig(depths=(1, 1, 1, 1), widths=(8, 12, 16, 24), patch_size=8, image_size=24))


def make_network(store: Store, kind: TaskKind, window_px: int = SIZE) -> Network:
    """Network with random weights."""
    torch.manual_seed(3)
    module = UNet(encoder(), 3) if kind.per_pixel else TileProbe(encoder(), 3)
    if isinstance(module, TileProbe):
        torch.nn.init.normal_(module.head.weight)
    if kind in (TaskKind.SEGMENTATION, TaskKind.SINGLE_LABEL):
        outputs = tuple(Output(name=f"class {code}", code=code, colour=f"#0000{code:02x}") for code in CODES)
    else:
        outputs = tuple(Output(name=name, units="m" if kind.continuous else "") for name in ("a", "b", "c"))
    if kind is TaskKind.PIXEL_REGRESSION:
        module, outputs = UNet(encoder(), 1), outputs[:1]
    module.eval()
    return Network(
        module=module,
        normaliser=Normaliser(store.modalities.values(), store.statistics, inputs=("sentinel2",)),
        kind=kind,
        outputs=outputs,
        window_px=window_px,
        task="store:toy",
        scale=(np.full(len(outputs), 5.0), np.full(len(outputs), 2.0))
        if kind.continuous
        else (np.zeros(1), np.ones(1)),
    )


@pytest.fixture(scope="module")
def network(store: Store) -> Network:
    return make_network(store, TaskKind.SEGMENTATION)


def raw(network: Network, store: Store) -> np.ndarray[Any, Any]:
    """Raw outputs for all tiles, in one batch."""
    (batch,) = store.loader(batch_size=len(store), shuffle=False, modalities=["sentinel2"])
    with torch.inference_mode():
        return network.module(network.normaliser.images(batch, torch.device("cpu"))).float().numpy()


def observed(store: Store) -> np.ndarray[Any, Any]:
    (batch,) = store.loader(batch_size=len(store), shuffle=False, modalities=["sentinel2"])
    return np.asarray((batch["sentinel2"] != 0).any(axis=1))


def blended(network: Network, store: Store, rows: range) -> np.ndarray[Any, Any]:
    """Probabilities (K, height, width) of a zone, summed pixel by pixel; NaN where nothing was observed."""
    chances = torch.softmax(torch.from_numpy(raw(network, store)), 1).numpy().astype(np.float64)
    seen, coords = observed(store), store.coords
    tops = ((coords["uly"][rows].max() - coords["uly"]) / 10).astype(int)
    lefts = ((coords["ulx"] - coords["ulx"][rows].min()) / 10).astype(int)
    shape = tops[rows].max() + SIZE, lefts[rows].max() + SIZE
    ramp = np.sin(np.pi * (np.arange(SIZE) + 0.5) / SIZE) ** 2
    total, weight = np.zeros((3, *shape)), np.zeros(shape)
    for n in rows:
        for y in range(SIZE):
            for x in range(SIZE):
                if seen[n, y, x]:
                    total[:, tops[n] + y, lefts[n] + x] += ramp[y] * ramp[x] * chances[n, :, y, x]
                    weight[tops[n] + y, lefts[n] + x] += ramp[y] * ramp[x]
    return np.where(weight > 0, total / np.where(weight > 0, weight, 1), np.nan)


@pytest.fixture(scope="module")
def mosaic(network: Network, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mosaic") / "out"
    predict_mosaic(network, store, folder, scores=True, device="cpu")
    return folder


@pytest.mark.parametrize(("epsg", "rows"), [(32632, range(FIRST)), (32633, range(FIRST, TILES))])
def test_a_zone_is_the_blend_of_its_tiles(epsg: int, rows: range, network: Network, store: Store, mosaic: Path) -> None:
    wanted = blended(network, store, rows)
    with (
        rasterio.open(mosaic / f"zone_{epsg}.tif") as dataset,
        rasterio.open(mosaic / f"zone_{epsg}.scores.tif") as likely,
    ):
        codes, scores = dataset.read(1), likely.read()
        corner = store.coords["ulx"][rows].min(), store.coords["uly"][rows].max()
        assert dataset.crs.to_epsg() == epsg
        assert dataset.transform == rasterio.Affine(10, 0, corner[0], 0, -10, corner[1])
        assert (dataset.nodata, dataset.colormap(1)[90]) == (255, (0, 0, 90, 255))
    empty = np.isnan(wanted[0])
    assert 0 < empty.sum() < empty.size
    assert (codes[empty] == 255).all()
    assert (scores[:, empty] == 255).all()
    assert np.abs(0.004 * scores[:, ~empty] - wanted[:, ~empty]).max() < 0.0021
    second, best = np.sort(wanted, axis=0)[1:]
    sure = ~empty & (best - second > 1e-4)
    assert (codes[sure] == np.array(CODES)[wanted.argmax(axis=0)][sure]).all()


def test_the_vrt_reads_every_zone(mosaic: Path) -> None:
    with rasterio.open(mosaic / "mosaic.vrt") as over:
        assert over.crs.to_epsg() == 4326
        assert over.nodata == 255
        assert json.loads(over.tags()["classes"]) == {str(code): f"class {code}" for code in CODES}
        assert over.colormap(1)[20] == (0, 0, 20, 255)
        for epsg in (32632, 32633):
            with rasterio.open(mosaic / f"zone_{epsg}.tif") as zone:
                codes = zone.read(1)
                rows, columns = np.nonzero(codes != 255)
                xs, ys = rasterio.transform.xy(zone.transform, rows, columns)
            lon, lat = transform(f"EPSG:{epsg}", "EPSG:4326", xs, ys)
            found = np.array([value[0] for value in over.sample(zip(lon, lat, strict=True))])
            # The nearest pixel of the other grid may be the neighbour.
            near = np.pad(codes, 1, constant_values=255)  # beyond the zone is no data
            around = np.stack([near[rows + y, columns + x] for y in range(3) for x in range(3)])
            assert (found == around).any(axis=0).all()
            assert (found == codes[rows, columns]).mean() > 0.6


def test_the_folder_of_a_mosaic_can_be_moved(mosaic: Path, tmp_path: Path) -> None:
    shutil.copytree(mosaic, tmp_path / "moved")
    with rasterio.open(mosaic / "mosaic.vrt") as here, rasterio.open(tmp_path / "moved" / "mosaic.vrt") as there:
        assert np.array_equal(here.read(1)[:, :200], there.read(1)[:, :200])
    assert str(mosaic) not in "".join(path.read_text() for path in mosaic.glob("*.vrt"))


def test_one_zone_keeps_its_grid(network: Network, store: Store, mosaic: Path, tmp_path: Path) -> None:
    predict_mosaic(network, store.select(where=store.coords["epsg"] == 32632), tmp_path / "out", device="cpu")
    with rasterio.open(tmp_path / "out" / "mosaic.vrt") as over, rasterio.open(mosaic / "zone_32632.tif") as zone:
        assert (over.crs, over.transform, over.shape) == (zone.crs, zone.transform, zone.shape)
        assert np.array_equal(over.read(), zone.read())
    assert not list((tmp_path / "out").glob("zone_*.vrt"))


def test_smaller_windows_than_tiles_are_blended_within_them(store: Store, tmp_path: Path) -> None:
    network = make_network(store, TaskKind.SEGMENTATION, window_px=24)
    predict_rasters(network, store, tmp_path / "out", scores=True, device="cpu")
    (batch,) = store.loader(batch_size=len(store), shuffle=False, modalities=["sentinel2"])
    images = network.normaliser.images(batch, torch.device("cpu"))[3:4]
    ramp = np.sin(np.pi * (np.arange(24) + 0.5) / 24) ** 2
    total, weight = np.zeros((3, 32, 32)), np.zeros((32, 32))
    with torch.inference_mode():
        for y in (0, 8):
            for x in (0, 8):
                chances = torch.softmax(network.module(images[:, :, y : y + 24, x : x + 24]), 1)[0].numpy()
                total[:, y : y + 24, x : x + 24] += chances * np.outer(ramp, ramp)
                weight[y : y + 24, x : x + 24] += np.outer(ramp, ramp)
    name = store.tiles.index[3] if store.tiles.index.dtype == object else f"{int(store.coords['tile_id'][3]):016x}"
    with rasterio.open(tmp_path / "out" / f"{name}.scores.tif") as dataset:
        assert np.abs(0.004 * dataset.read() - total / weight).max() < 0.0021


def test_rasters_of_tiles(network: Network, store: Store, tmp_path: Path) -> None:
    assert predict_rasters(network, store, tmp_path / "out", device="cpu") == TILES - 1  # one tile has no data
    answers, seen = raw(network, store).argmax(axis=1), observed(store)
    for n in range(TILES - 1):
        with rasterio.open(tmp_path / "out" / f"{int(store.coords['tile_id'][n]):016x}.tif") as dataset:
            assert dataset.crs.to_epsg() == store.coords["epsg"][n]
            assert (dataset.transform.c, dataset.transform.f) == (store.coords["ulx"][n], store.coords["uly"][n])
            assert np.array_equal(dataset.read(1), np.where(seen[n], np.array(CODES)[answers[n]], 255))


def test_rasters_resume(network: Network, store: Store, tmp_path: Path) -> None:
    predict_rasters(network, store, tmp_path / "out", device="cpu")
    files = sorted((tmp_path / "out").glob("*.tif"))
    content, kept = files[0].read_bytes(), files[1].stat().st_ino
    files[0].unlink()
    predict_rasters(network, store, tmp_path / "out", device="cpu")
    assert files[0].read_bytes() == content
    assert files[1].stat().st_ino == kept
    with pytest.raises(InputError, match="of this network and store, got something else"):
        predict_rasters(make_network(store, TaskKind.PIXEL_REGRESSION), store, tmp_path / "out", device="cpu")


def test_a_mosaic_of_quantities(store: Store, tmp_path: Path) -> None:
    network = make_network(store, TaskKind.PIXEL_REGRESSION)
    predict_mosaic(network, store, tmp_path / "out", device="cpu")
    with rasterio.open(tmp_path / "out" / "zone_32632.tif") as dataset:
        values = dataset.read(1)
        assert (dataset.units, np.isnan(dataset.nodata)) == (("m",), True)
    inside = 5 + 2 * raw(network, store)[0, 0]
    assert values[12:24, 12:24] == pytest.approx(inside[12:24, 12:24], abs=1e-5)
    assert np.isnan(values[:8, :8]).all()
    with rasterio.open(tmp_path / "out" / "mosaic.vrt") as dataset:
        assert np.isnan(dataset.nodata)


def softmax(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return torch.softmax(torch.from_numpy(values), 1).numpy()


def test_a_table_of_classes(store: Store, tmp_path: Path) -> None:
    network = make_network(store, TaskKind.SINGLE_LABEL)
    predict_table(network, store, tmp_path / "t.parquet", device="cpu")
    frame, chances = geopandas.read_parquet(tmp_path / "t.parquet"), softmax(raw(network, store))
    assert frame["class"].tolist() == np.array(CODES)[chances.argmax(axis=1)].tolist()
    assert frame.name.tolist() == [f"class {code}" for code in frame["class"]]
    assert frame.filter(like="score_").to_numpy() == pytest.approx(chances, abs=1e-6)
    assert frame.score.to_numpy() == pytest.approx(chances.max(axis=1), abs=1e-6)
    assert frame.tile_id.tolist() == store.coords["tile_id"].tolist()
    assert frame.geometry.geom_equals(geopandas.GeoSeries(store.tiles.geometry.to_numpy(), crs=4326)).all()


def test_a_table_of_labels_and_of_quantities(store: Store, tmp_path: Path) -> None:
    labels, quantities = make_network(store, TaskKind.MULTI_LABEL), make_network(store, TaskKind.REGRESSION)
    predict_table(labels, store, tmp_path / "l.parquet", device="cpu")
    predict_table(quantities, store, tmp_path / "q.parquet", device="cpu")
    frame, values = geopandas.read_parquet(tmp_path / "l.parquet"), raw(labels, store)
    assert np.array_equal(frame[["a", "b", "c"]], values > 0)
    assert frame[["score_a", "score_b", "score_c"]].to_numpy() == pytest.approx(1 / (1 + np.exp(-values)), abs=1e-6)
    frame = geopandas.read_parquet(tmp_path / "q.parquet")
    assert frame[["a", "b", "c"]].to_numpy() == pytest.approx(5 + 2 * raw(quantities, store), rel=1e-5)


# ---------------------------------------------------------------- what is refused


def moved(tile: int, **by: float) -> Callable[[Columns], None]:
    def change(columns: Columns) -> None:
        place(columns)
        for column, distance in by.items():
            columns[column][tile] += distance

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (moved(2, ulx=3.0), "on one grid of 10 m for --mosaic, got 1 of 12 on another"),
        (moved(2, ulx=np.nan, uly=np.nan), "got 1 of 20 without one"),
        (moved(2, ulx=2e5, uly=-4e6), r"cover \S+ % of 400,\d+ x 20,\d+ px in EPSG:32632"),
    ],
    ids=["off the grid", "no grid", "far apart"],
)
def test_tiles_that_make_no_mosaic(change: Callable[[Columns], None], message: str, tmp_path: Path) -> None:
    write_store(tmp_path / "s.zarr", TILES, names=("sentinel2",), change=change)
    with pytest.raises(InputError, match=message):
        plan_zones(open_store(tmp_path / "s.zarr"))


def test_networks_that_do_not_fit(store: Store, network: Network, tmp_path: Path) -> None:
    tiles = make_network(store, TaskKind.SINGLE_LABEL)
    for call in (predict_mosaic, predict_rasters):
        with pytest.raises(InputError, match="which predicts per tile"):
            call(tiles, store, tmp_path / "out")
    with pytest.raises(InputError, match="which predicts per pixel"):
        predict_table(network, store, tmp_path / "t.parquet")
    write_store(tmp_path / "other.zarr", 8, names=("sentinel1",))
    with pytest.raises(InputError, match="expected sentinel2, which the encoder takes"):
        predict_rasters(network, open_store(tmp_path / "other.zarr"), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["other.zarr"]


# ---------------------------------------------------------------- the command


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, ["predict", *map(str, words), "--device", "cpu"])


@pytest.fixture(scope="module")
def saved(network: Network, store: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of a network per pixel and of one per tile."""
    folder = tmp_path_factory.mktemp("networks")
    save_network(folder / "pixels", network)
    save_network(folder / "tiles", make_network(store, TaskKind.SINGLE_LABEL))
    return folder / "pixels", folder / "tiles"


def test_from_a_store_to_areas(saved: tuple[Path, Path], store: Store, mosaic: Path, tmp_path: Path) -> None:
    words = (saved[0], store.path, "--mosaic", tmp_path / "m", "--workers", "1")
    first = run(*words, "--vector", tmp_path / "m.parquet", "--draw-validation", "60")
    assert first.exit_code == 0, first.output
    with rasterio.open(tmp_path / "m" / "zone_32632.tif") as new, rasterio.open(mosaic / "zone_32632.tif") as old:
        assert np.array_equal(new.read(), old.read())
    frame = geopandas.read_parquet(tmp_path / "m.parquet")
    assert frame.area_m2.sum() == pytest.approx(
        1e2 * sum((read(mosaic, epsg) != 255).sum() for epsg in (32632, 32633)), rel=0.02
    )
    points = tmp_path / "m" / "mosaic-validation.csv"
    refused = run(*words, "--report", tmp_path / "areas.json", "--validation", points)
    assert refused.exit_code == 2
    assert "have no reference class" in refused.stderr
    assert json.loads((tmp_path / "areas.json").read_text())["classes"][0]["area_ha"] is None
    text = points.read_text().splitlines()
    head = text[0].split(",")
    labelled = [line.split(",") for line in text[1:]]
    for row in labelled:
        row[head.index("reference")] = row[head.index("stratum")]
    points.write_text("\n".join(",".join(row) for row in [head, *labelled]))
    found = run(*words, "--report", tmp_path / "areas.json", "--validation", points)
    assert found.exit_code == 0, found.output
    assert "95 % interval" in found.stdout
    content = json.loads((tmp_path / "areas.json").read_text())
    assert content["overall_accuracy"]["value"] == pytest.approx(1)
    assert all(row["area_ha"] == pytest.approx(row["mapped_ha"]) for row in content["classes"])


def test_products_never_replace_labels_and_are_made_again(
    saved: tuple[Path, Path], store: Store, tmp_path: Path
) -> None:
    words = (saved[0], store.path, "--mosaic", tmp_path / "m", "--workers", "1", "--draw-validation", "30")
    assert run(*words).exit_code == 0
    table, points = (tmp_path / "m" / f"mosaic-validation.{kind}" for kind in ("parquet", "csv"))
    before = {file: file.stat().st_mtime_ns for file in (table, points)}
    again = run(*words)
    assert again.exit_code == 0, again.output
    assert {file: file.stat().st_mtime_ns for file in (table, points)} == before
    content = points.read_bytes()
    points.unlink()  # as after an interruption between the two
    assert run(*words).exit_code == 0
    assert points.read_bytes() == content
    refused = run(*words, "--seed", "1")
    assert refused.exit_code == 2
    assert "may contain labels; move it" in refused.stderr
    for more in (("--report", points, "--validation", points), ("--vector", table), ("--report", points)):
        refused = run(*words[:-2], *more)
        assert refused.exit_code == 2
        assert "expected a file of its own, got the input" in refused.stderr
    assert points.read_bytes() == content


def test_a_map_inside_its_store_is_refused(saved: tuple[Path, Path], store: Store) -> None:
    for words in ((saved[0], "--mosaic", ""), (saved[0], "--out", "m"), (saved[1], "--out", "m.parquet")):
        network, option, name = words
        refused = run(network, store.path, option, Path(str(store.path)) / name)
        assert refused.exit_code == 2
        assert "expected a" in refused.stderr
    assert not [file for file in Path(str(store.path)).iterdir() if file.name.startswith(("m", "zone"))]


def read(folder: Path, epsg: int) -> np.ndarray[Any, Any]:
    with rasterio.open(folder / f"zone_{epsg}.tif") as dataset:
        return dataset.read(1)


def test_a_table_from_the_command(saved: tuple[Path, Path], store: Store, tmp_path: Path) -> None:
    found = run(saved[1], store.path, "--out", tmp_path / "t.parquet", "--json")
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["written"][0].endswith("t.parquet")
    assert len(geopandas.read_parquet(tmp_path / "t.parquet")) == TILES


@pytest.mark.parametrize(
    ("kind", "words", "message"),
    [
        (0, (), "expected either --out, or --mosaic for a store"),
        (0, ("--out", "a", "--mosaic", "b"), "got neither or both"),
        (0, ("--out", "a", "--vector", "v.parquet"), "--vector has no effect without --mosaic"),
        (0, ("--out", "a", "--workers", "2"), "--workers has no effect without --mosaic"),
        (0, ("--mosaic", "a", "--stride", "2"), "--stride has no effect for a store"),
        (0, ("--mosaic", "a", "--seed", "2"), "--seed has no effect without --draw-validation"),
        (0, ("--mosaic", "a", "--validation", "none.csv"), "--validation: expected a file of labelled points"),
        (1, ("--mosaic", "a"), "which predicts per tile"),
        (1, ("--out", "t.parquet", "--scores"), "--scores has no effect with a table"),
        (1, ("--out", "folder"), r"use --out tiles.parquet"),
    ],
)
def test_options_that_do_not_go_together(
    kind: int,
    words: tuple[str, ...],
    message: str,
    saved: tuple[Path, Path],
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    found = run(saved[kind], store.path, *words)
    assert found.exit_code == 2
    assert message in found.stderr
    assert not list(tmp_path.iterdir())


def test_empty_rows_move_no_tile(network: Network, store: Store, mosaic: Path, tmp_path: Path) -> None:
    """A finished store has empty rows where no scene was available: the tiles after them stay where they are."""

    def emptied(columns: Columns) -> None:
        place(columns)
        columns["tile_id"][0], columns["split"][0], columns["time"][0] = 0, 255, -(2**63)
        columns["sentinel2"][0] = 0

    path = tmp_path / "holes.zarr"
    write_store(path, TILES, names=("sentinel2",), change=emptied)
    holes = open_store(path)
    assert len(holes) == TILES - 1
    predict_mosaic(network, holes, tmp_path / "out", device="cpu")
    with (
        rasterio.open(tmp_path / "out" / "zone_32632.tif") as less,
        rasterio.open(mosaic / "zone_32632.tif") as whole,
        rasterio.open(tmp_path / "out" / "zone_32633.tif") as other,
        rasterio.open(mosaic / "zone_32633.tif") as same,
    ):
        assert (other.read(1) == same.read(1)).all()
        away = np.ones((whole.height, whole.width), dtype=bool)
        away[:SIZE, :SIZE] = False
        assert (less.read(1)[away] == whole.read(1)[away]).all()
        assert (less.read(1)[:STEP, :STEP] == 255).all()


def test_a_mosaic_of_a_store_that_is_not_there(saved: tuple[Path, Path], tmp_path: Path) -> None:
    found = run(saved[0], tmp_path / "absent.zarr", "--mosaic", tmp_path / "mosaic")
    assert found.exit_code == 2
    assert f"--mosaic: expected a store, got {tmp_path / 'absent.zarr'}; correct its path" in found.stderr
