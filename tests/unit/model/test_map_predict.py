"""Maps of scenes: the same numbers as the network gives for the whole, in files that other programs understand."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import rasterio.shutil
import torch
from map_world import BANDS, CLASSES, MEAN, QUANTITY, STD, make_network, numbers, write_scene

from mmearth_data import InputError
from mmearth_model import Output, SceneOptions, WindowOptions, predict_scene
from mmearth_model.heads.network import Network
from mmearth_model.maps import blocks as blocks_module
from mmearth_model.maps.blocks import plan_blocks
from mmearth_model.network.inference import QuickGRN, quicken
from mmearth_model.tasks import TaskKind

HALF_FIELD = 58
"""Half of the receptive field of the small network, px: 1 (stem), 3, 6, 12, 24 (one block per stage), and 12 of the decoder."""
CODES = [output.code for output in CLASSES]


def whole(network: Network, values: np.ndarray) -> np.ndarray:
    """(K, H, W) probabilities of one run over a whole scene, which is filled up with missing pixels to a multiple of 8."""
    height, width = values.shape[1:]
    images = np.zeros((1, len(values), -(-height // 8) * 8, -(-width // 8) * 8), np.float32)
    images[0, :, :height, :width] = np.where(values == 0, 0, (values - np.float32(MEAN)) / np.float32(STD))
    with torch.inference_mode():
        found = network.module(torch.from_numpy(images))[0, :, :height, :width]
    return torch.softmax(found, dim=0).numpy()


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        found: np.ndarray = dataset.read()
    return found


def scaled(transform: rasterio.Affine, factor: int) -> rasterio.Affine:
    """Grid with the same corner and coarser pixels."""
    a, b, c, d, e, f = tuple(transform)[:6]
    return rasterio.Affine(factor * a, factor * b, c, factor * d, factor * e, f)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """Scene of 190 x 150 px with a hole, a missing corner, and a pixel with one band only."""
    values = numbers(190, 150)
    values[:, 20:40, 30:90] = 0
    values[:, :70, :64] = 0
    values[1:, 100, 100] = 0
    return write_scene(tmp_path_factory.mktemp("scene") / "s2.tif", values), values


def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Divide small scenes into several blocks, as large ones are."""
    monkeypatch.setattr(blocks_module, "MIN_ROWS", 64)
    monkeypatch.setattr(blocks_module, "MULTIPLE", 64)
    monkeypatch.setattr(blocks_module, "WINDOWS_PER_BLOCK", 1)


# ---------------------------------------------------------------- the numbers


def test_windows_give_what_the_whole_scene_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With GRN's gamma at zero and windows wider than the receptive field, the tiled run is exact."""
    small_blocks(monkeypatch)
    values = numbers(250, 203)
    network = make_network(window_px=160, gamma=0.0)
    path = write_scene(tmp_path / "s2.tif", values)
    windows = WindowOptions(overlap_px=128, blend="centre")
    predict_scene(network, [path], tmp_path / "map.tif", tiling=windows, scores=True)
    expected = whole(network, values)
    found = read(tmp_path / "map.scores.tif")
    assert np.abs(found * 0.004 - expected).max() <= 0.002 + 1e-5
    codes = np.array(CODES)[expected.argmax(axis=0)]
    close = np.sort(expected, axis=0)
    decided = close[-1] - close[-2] > 2e-5
    assert (read(tmp_path / "map.tif")[0] == codes)[decided].all()
    assert len(np.unique(codes)) == len(CLASSES)


def test_missing_pixels_stay_missing_and_others_get_a_class(scene: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    path, values = scene
    predict_scene(make_network(), [path], tmp_path / "map.tif", scores=True)
    found, scores = read(tmp_path / "map.tif")[0], read(tmp_path / "map.scores.tif")
    missing = (values == 0).all(axis=0)
    assert not missing[100, 100]
    assert ((found == 255) == missing).all()
    assert set(np.unique(found[~missing])) <= set(CODES)
    assert ((scores == 255) == missing).all()
    assert np.abs(scores[:, ~missing].sum(axis=0, dtype=int) - 250).max() <= len(CLASSES) / 2


def test_a_finer_overlap_is_closer_to_the_mean_of_all_windows(tmp_path: Path) -> None:
    """A quantity is blended as it is: with one answer for all pixels of a window, the map is that answer everywhere."""
    network = make_network(TaskKind.PIXEL_REGRESSION, outputs=QUANTITY, scale=(500.0, 100.0))
    with torch.no_grad():
        network.module.head.weight.zero_()
        network.module.head.offset.fill_(0.25)
    path = write_scene(tmp_path / "s2.tif", numbers(90, 70))
    predict_scene(network, [path], tmp_path / "map.tif", tiling=WindowOptions(overlap_px=24))
    with rasterio.open(tmp_path / "map.tif") as dataset:
        np.testing.assert_allclose(dataset.read(1), 525, atol=1e-3)
        assert (dataset.units, dataset.descriptions, dataset.dtypes) == (("m",), ("elevation",), ("float32",))
        assert np.isnan(dataset.nodata)


@pytest.mark.parametrize("stride", [None, 8, 40])
def test_a_network_of_tiles_answers_for_the_window_around_each_pixel(
    scene: tuple[Path, np.ndarray], tmp_path: Path, stride: int | None
) -> None:
    path, values = scene
    network = make_network(TaskKind.SINGLE_LABEL)
    predict_scene(network, [path], tmp_path / "map.tif", tiling=WindowOptions(stride_px=stride), scores=True)
    step, size = stride or 16, network.window_px
    height, width = values.shape[1:]
    found = read(tmp_path / "map.tif")[0]
    assert found.shape == (-(-height // step), -(-width // step))
    for row, column in np.ndindex(found.shape):
        top = min(max(row * step + step // 2 - size // 2, 0), height - size)
        left = min(max(column * step + step // 2 - size // 2, 0), width - size)
        window = values[:, top : top + size, left : left + size].astype(np.float32)
        if not window.any():
            assert found[row, column] == 255
            continue
        image = np.where(window == 0, 0, (window - MEAN) / STD)[None].astype(np.float32)
        with torch.inference_mode():
            outputs = network.module(torch.from_numpy(image)).numpy()
        assert found[row, column] == network.answers(outputs)[0]
    with rasterio.open(path) as source, rasterio.open(tmp_path / "map.tif") as dataset:
        assert dataset.transform == scaled(source.transform, step)
        assert dataset.crs == source.crs


def test_labels_have_a_band_each(scene: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    labels = (Output(name="forest"), Output(name="water"))
    network = make_network(TaskKind.MULTI_LABEL, outputs=labels)
    predict_scene(network, [scene[0]], tmp_path / "map.tif", scores=True)
    with rasterio.open(tmp_path / "map.tif") as dataset, rasterio.open(tmp_path / "map.scores.tif") as scores:
        found, numbers_ = dataset.read(), scores.read()
        assert dataset.descriptions == scores.descriptions == ("forest", "water")
    seen = found != 255
    assert seen.any()
    undecided = np.abs(numbers_.astype(int) - 125) <= 1
    assert ((found == 1) == (numbers_ > 125))[seen & ~undecided].all()


def test_answers_of_windows_are_a_table_that_geopandas_reads(scene: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    """One row for each pixel of the map that has data, with the outline of its window."""
    network, out = make_network(TaskKind.SINGLE_LABEL), tmp_path / "windows.parquet"
    assert predict_scene(network, [scene[0]], out) == (out,)
    before = out.read_bytes()
    assert predict_scene(network, [scene[0]], out) == (out,)
    assert out.read_bytes() == before
    predict_scene(network, [scene[0]], tmp_path / "map.tif")
    found = geopandas.read_parquet(out)
    with rasterio.open(tmp_path / "map.tif") as dataset:
        codes, size = dataset.read(1), network.window_px
        crs, corner = dataset.crs, (dataset.transform.c, dataset.transform.f)
    assert found["class"].tolist() == codes[codes != 255].tolist()
    assert (found["score"] == found[[f"score_{output.name}" for output in CLASSES]].max(axis=1)).all()
    areas = found.to_crs(crs).area
    np.testing.assert_allclose(areas, (10 * size) ** 2, rtol=1e-3)
    first = found.to_crs(crs).total_bounds
    np.testing.assert_allclose((first[0], first[3]), corner, atol=1e-2)
    with pytest.raises(InputError, match="with a network that predicts per pixel, got a table"):
        predict_scene(make_network(), [scene[0]], out)
    with pytest.raises(InputError, match="another network, scene or option"):
        predict_scene(network, [scene[0]], out, tiling=WindowOptions(stride_px=8))


# ---------------------------------------------------------------- the files


def test_a_map_has_grid_colours_names_and_overviews(scene: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    """As GDAL understands the file: its copy as a VRT repeats the names of the classes."""
    values = numbers(600, 40)
    grid = {"transform": rasterio.Affine(10, 2, 600_003.25, 1, -10, 5_300_007.75), "crs": "EPSG:32719"}
    path = write_scene(tmp_path / "s2.tif", values, **grid)
    predict_scene(make_network(synthetic=True), [path], tmp_path / "map.tif")
    with rasterio.open(path) as source, rasterio.open(tmp_path / "map.tif") as dataset:
        assert (dataset.crs, dataset.transform, dataset.shape) == (source.crs, source.transform, source.shape)
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert dataset.overviews(1) == [2]
        colours = dataset.colormap(1)
        assert colours[10] == (0, 100, 0, 255)
        assert colours[50] == (250, 0, 0, 255)
        assert len({colours[code] for code in CODES}) == len(CODES)
        tags = dataset.tags()
    assert json.loads(tags["classes"]) == {str(output.code): output.name for output in CLASSES}
    assert (tags["synthetic"], tags["inputs"], tags["s2_level"]) == ("yes", "s2.tif", "L2A")
    assert "synthetic" in tags["TIFFTAG_IMAGEDESCRIPTION"]
    rasterio.shutil.copy(tmp_path / "map.tif", tmp_path / "map.vrt", driver="VRT")
    text = (tmp_path / "map.vrt").read_text()
    categories = text[text.index("<CategoryNames>") : text.index("</CategoryNames>")]
    entries = [
        line.strip().removeprefix("<Category>").removesuffix("</Category>") for line in categories.splitlines()[1:-1]
    ]
    assert entries[10] == "Tree cover"
    assert entries[50] == "Built-up &amp; bare"


def test_scores_are_probabilities_by_their_scale(scene: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    predict_scene(make_network(), [scene[0]], tmp_path / "map.tif", scores=True)
    with rasterio.open(tmp_path / "map.scores.tif") as dataset:
        assert dataset.descriptions == tuple(output.name for output in CLASSES)
        assert set(dataset.scales) == {0.004}
        assert dataset.nodata == 255
        shown = np.ma.filled(dataset.read(masked=True).astype(float) * 0.004, np.nan)
    with rasterio.open(tmp_path / "map.tif") as dataset:
        best = dataset.read(1)
    seen = best != 255
    index = np.searchsorted(CODES, best[seen])
    assert (np.take_along_axis(shown[:, seen], index[None], 0)[0] == np.nanmax(shown[:, seen], axis=0)).all()


def test_more_classes_than_a_byte_has_colours_get_two_bytes(tmp_path: Path) -> None:
    many = tuple(Output(name=f"kind {code}", code=code) for code in range(300))
    path = write_scene(tmp_path / "s2.tif", numbers(40, 40))
    predict_scene(make_network(outputs=many), [path], tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as dataset:
        assert (dataset.dtypes, dataset.nodata) == (("uint16",), 65535)
        colours = dataset.colormap(1)
        assert len({colours[code] for code in range(300)}) > 250
    full = tuple(Output(name=f"kind {code}", code=code) for code in range(256))
    predict_scene(make_network(outputs=full), [path], tmp_path / "full.tif")
    with rasterio.open(tmp_path / "full.tif") as dataset:
        assert dataset.dtypes == ("uint16",)
    huge = (Output(name="a", code=0), Output(name="b", code=70_000))
    with pytest.raises(InputError, match="class codes from 0 to 65535"):
        predict_scene(make_network(outputs=huge), [path], tmp_path / "huge.tif")


# ---------------------------------------------------------------- resuming


def test_blocks_divide_a_map() -> None:
    blocks = plan_blocks(10_980, 10_980, 56)
    seen = np.zeros((10_980, 10_980), np.uint8)
    for block in blocks:
        seen[block.row : block.row + block.height, block.column : block.column + block.width] += 1
    assert (seen == 1).all()
    assert all(block.row % 512 == 0 and block.column % 512 == 0 for block in blocks)


def test_an_interrupted_map_resumes_to_the_same_bytes(
    scene: tuple[Path, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_blocks(monkeypatch)
    network, arguments = make_network(), ([scene[0]],)
    predict_scene(network, *arguments, tmp_path / "one.tif", scores=True)
    stopped = _Stop(3)
    with pytest.raises(KeyboardInterrupt):
        predict_scene(network, *arguments, tmp_path / "two.tif", scores=True, report=stopped)
    work = tmp_path / ".two.tif.work"
    kept = {path.name: path.stat().st_mtime_ns for path in work.glob("block-*")}
    assert len(kept) == 3
    assert not (tmp_path / "two.tif").exists()
    begun: list[float] = []
    predict_scene(network, *arguments, tmp_path / "two.tif", scores=True, report=lambda done, total: begun.append(done))
    assert begun[0] == stopped.seen[-1] > 0
    for name in ("tif", "scores.tif"):
        assert (tmp_path / f"two.{name}").read_bytes() == (tmp_path / f"one.{name}").read_bytes()
    assert not work.exists()
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{stem}.{ending}" for stem in ("one", "two") for ending in ("tif", "tif.aux.xml", "scores.tif")
    }


class _Stop:
    """Interrupts a run after some blocks."""

    def __init__(self, blocks: int) -> None:
        self.left, self.seen = blocks, list[float]()

    def __call__(self, done: float, total: float) -> None:
        self.seen.append(done)
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


def test_a_finished_map_is_left_unchanged_and_others_are_refused(
    scene: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    network, out = make_network(), tmp_path / "map.tif"
    predict_scene(network, [scene[0]], out)
    before = out.stat()
    assert predict_scene(network, [scene[0]], out) == (out,)
    assert out.stat().st_mtime_ns == before.st_mtime_ns
    with pytest.raises(InputError, match="another network, scene or option"):
        predict_scene(network, [scene[0]], out, tiling=WindowOptions(blend="centre"))
    with pytest.raises(InputError, match="another network, scene or option"):
        predict_scene(make_network(gamma=0.1), [scene[0]], out)
    (tmp_path / "other.tif").write_text("mine")
    with pytest.raises(InputError, match="another file"):
        predict_scene(network, [scene[0]], tmp_path / "other.tif")
    assert (tmp_path / "other.tif").read_text() == "mine"


def test_blocks_of_another_command_are_not_taken(
    scene: tuple[Path, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_blocks(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        predict_scene(make_network(), [scene[0]], tmp_path / "map.tif", report=_Stop(2))
    with pytest.raises(InputError, match=r"different: network.*delete the folder"):
        predict_scene(make_network(gamma=0.1), [scene[0]], tmp_path / "map.tif")


# ---------------------------------------------------------------- a real scene


@pytest.mark.parametrize("kind", [TaskKind.SEGMENTATION, TaskKind.REGRESSION])
def test_a_real_scene_keeps_its_georeference(test_data: Path, tmp_path: Path, kind: TaskKind) -> None:
    path = test_data / "terramesh" / "S2L2A" / "38D_378R_2_3.tif"
    mapping = Path("pipelines/rasters/terramesh_samples.yaml").resolve()
    outputs = CLASSES if kind is TaskKind.SEGMENTATION else QUANTITY
    given = SceneOptions(bands=str(mapping), offset=0)
    predict_scene(
        make_network(kind, outputs=outputs),
        [path],
        tmp_path / "map.tif",
        given=given,
        tiling=WindowOptions(stride_px=None),
    )
    with rasterio.open(path) as source, rasterio.open(tmp_path / "map.tif") as dataset:
        factor = source.width // dataset.width
        assert dataset.crs == source.crs
        assert dataset.transform == scaled(source.transform, factor)
        assert dataset.bounds == source.bounds
        found = dataset.read(1)
    assert np.isfinite(found).all()
    assert len(np.unique(found)) > 1


def test_quick_layers_give_the_numbers_of_the_network() -> None:
    """To rounding, for every head; whatever PyTorch was built with."""
    images = torch.randn(3, len(BANDS), 32, 32, generator=torch.Generator().manual_seed(1))
    for kind in (TaskKind.SEGMENTATION, TaskKind.PIXEL_REGRESSION, TaskKind.SINGLE_LABEL):
        network = make_network(kind)
        with torch.inference_mode():
            expected = network.module(images)
            found = quicken(network.module)(images)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert any(isinstance(layer, QuickGRN) for layer in network.module.modules())
