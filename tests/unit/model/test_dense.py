"""Dense embeddings of scenes and stores, compared with the encoder applied to single windows."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
import torch
from click.testing import CliRunner, Result
from dense_world import contrast, make_checkpoint
from map_world import BANDS, make_network
from map_world import write_scene as write_map_scene
from matplotlib import image
from numpy.typing import NDArray
from pyproj import Transformer
from toy_store import write_store

from mmearth_data import InputError, Store, open_store
from mmearth_model import (
    Checkpoint,
    ConvNeXtV2,
    WindowOptions,
    embed_dense,
    load_checkpoint,
    open_vectors,
)
from mmearth_model.cli import cli
from mmearth_model.maps import dense

if TYPE_CHECKING:
    from collections.abc import Sequence

HEIGHT, WIDTH, WINDOW, PATCH, FEATURES = 100, 130, 24, 8, 24
WEST, NORTH, EPSG = 600_000.0, 5_300_000.0, 32632
LEVEL = 1  # L2A, as in batches
TILE, APART = 32, 24
"""Side of a tile of the store, and pixels between the corners of two."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with an encoder, a scene, and a store of 3 x 3 overlapping tiles in one zone and one tile in another."""
    folder = tmp_path_factory.mktemp("dense")
    store = write_store(folder / "toy.zarr", 8, names=("sentinel2", "biome"))
    shape = {"depths": (1, 1, 1, 1), "widths": (8, 12, 16, FEATURES)}
    network = make_network(window_px=WINDOW, levels=("L1C", "L2A"), gamma=0.2, encoder=shape)
    make_checkpoint(folder / "run", network.encoder)
    bands = store.modalities["sentinel2"].bands
    pixels = np.random.default_rng(0).integers(500, 3000, (len(bands), HEIGHT, WIDTH)).astype(np.uint16)
    pixels[:, :20, :30] = 0
    write_scene(folder / "scene.tif", pixels, bands)
    write_store(folder / "cover.zarr", 10, names=("sentinel2", "biome"), change=side_by_side)
    return folder


def write_scene(path: Path, pixels: NDArray[np.uint16], bands: tuple[str, ...]) -> None:
    grid = {"crs": f"EPSG:{EPSG}", "transform": rasterio.Affine(10, 0, WEST, 0, -10, NORTH), "nodata": 0}
    count, height, width = pixels.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, dtype="uint16", height=height, width=width, **grid
    ) as file:
        file.write(pixels)
        file.descriptions = bands
        file.update_tags(PROCESSING_LEVEL="L2A", BOA_ADD_OFFSET="0", synthetic="yes")


def side_by_side(arrays: dict[str, NDArray[Any]]) -> None:
    row, column = np.divmod(np.arange(9), 3)
    arrays["ulx"][:9] = WEST + 10 * APART * column
    arrays["uly"][:9] = NORTH - 10 * APART * row
    arrays["epsg"][:9] = EPSG
    arrays["ulx"][9], arrays["uly"][9], arrays["epsg"][9] = 300_000.0, NORTH, EPSG + 1


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Checkpoint:
    return load_checkpoint(folder / "run")


@pytest.fixture(scope="module")
def pixels(folder: Path) -> NDArray[np.uint16]:
    with rasterio.open(folder / "scene.tif") as file:
        return file.read()


def vectors(*found: Any) -> list[NDArray[np.float32]]:
    """All vectors of each grid."""
    return [field.read(slice(0, field.grid.shape[0]), slice(0, field.grid.shape[1])) for field in found]


@cache
def encoder_of(folder: Path) -> ConvNeXtV2:
    return load_checkpoint(folder).encoder()


def maps_of(
    checkpoint: Checkpoint, pixels: NDArray[np.uint16], corners: Sequence[tuple[int, int]]
) -> NDArray[np.float32]:
    """(N, D, 3, 3) last map of each window of a scene; what is beyond the scene is missing."""
    wide = np.pad(pixels, ((0, 0), (64, 64), (64, 64)))
    windows = [wide[:, 64 + y : 64 + y + WINDOW, 64 + x : 64 + x + WINDOW] for y, x in corners]
    encoder = encoder_of(checkpoint.folder)
    levels = np.full(len(corners), LEVEL, np.uint8)
    with torch.no_grad():
        return encoder(encoder.preprocess({"sentinel2": np.stack(windows), "tile": {"s2_level": levels}})).numpy()


def without_overlap(
    checkpoint: Checkpoint, pixels: NDArray[np.uint16], top: int = 0, left: int = 0
) -> NDArray[np.float32]:
    """Vectors of windows side by side, the first of which begins at (top, left)."""
    rows, columns = range(top, HEIGHT, WINDOW), range(left, WIDTH, WINDOW)
    maps = maps_of(checkpoint, pixels, list(itertools.product(rows, columns)))
    blocks = maps.reshape(len(rows), len(columns), FEATURES, 3, 3)
    return blocks.transpose(2, 0, 3, 1, 4).reshape(FEATURES, 3 * len(rows), 3 * len(columns))


SEPARATE = WindowOptions(overlap_px=0)


def test_without_overlap_a_vector_is_the_encoder_s_own(
    folder: Path, checkpoint: Checkpoint, pixels: NDArray[np.uint16], tmp_path: Path
) -> None:
    (found,) = vectors(*embed_dense(checkpoint, [folder / "scene.tif"], tmp_path / "x.zarr", windows=SEPARATE))
    assert found.shape == (FEATURES, 13, 17)
    expected = without_overlap(checkpoint, pixels)
    inside = slice(3, 9), slice(4, 12)  # the last window along an axis ends with the scene
    np.testing.assert_allclose(found[:, *inside], expected[:, *inside], atol=2e-5)
    (last,) = maps_of(checkpoint, pixels, [(104 - WINDOW, 6 * PATCH)])
    np.testing.assert_allclose(found[:, 12, 6:9], last[:, 2], atol=2e-5)


def test_a_finer_stride_is_the_encoder_at_shifted_windows(
    folder: Path, checkpoint: Checkpoint, pixels: NDArray[np.uint16], tmp_path: Path
) -> None:
    finer = WindowOptions(stride_px=4, overlap_px=0)
    (found,) = vectors(*embed_dense(checkpoint, [folder / "scene.tif"], tmp_path / "x.zarr", windows=finer))
    assert found.shape == (FEATURES, 25, 33)
    for down, across in itertools.product(range(2), repeat=2):
        # The patch of a position is centred on it: 2 px before it and 2 px after it.
        expected = without_overlap(checkpoint, pixels, 4 * down - 2, 4 * across - 2)
        np.testing.assert_allclose(found[:, 8 + down : 18 : 2, 8 + across : 22 : 2], expected[:, 4:9, 4:11], atol=2e-5)


def test_a_coarser_stride_is_the_mean_of_its_patches(folder: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    (fine,) = vectors(*embed_dense(checkpoint, [folder / "scene.tif"], tmp_path / "x.zarr"))
    coarser = WindowOptions(stride_px=16)
    (found,) = vectors(*embed_dense(checkpoint, [folder / "scene.tif"], tmp_path / "y.zarr", windows=coarser))
    assert found.shape == (FEATURES, 7, 9)
    means = fine[:, :12, :16].reshape(FEATURES, 6, 2, 8, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(found[:, 2:6, :8], means[:, 2:], atol=1e-5)


def test_overlapping_windows_are_blended_by_their_distance_to_the_border(
    folder: Path, checkpoint: Checkpoint, pixels: NDArray[np.uint16], tmp_path: Path
) -> None:
    windows = WindowOptions(overlap_px=16)
    (found,) = vectors(*embed_dense(checkpoint, [folder / "scene.tif"], tmp_path / "x.zarr", windows=windows))
    ramp = np.sin(np.pi * (np.arange(3) + 0.5) / 3) ** 2
    row, column, total, weight = 6, 9, 0.0, 0.0
    shifts = list(itertools.product(range(3), repeat=2))
    maps = maps_of(checkpoint, pixels, [(PATCH * (row - down), PATCH * (column - across)) for down, across in shifts])
    for (down, across), values in zip(shifts, maps, strict=True):
        total = total + ramp[down] * ramp[across] * values[:, down, across]
        weight += ramp[down] * ramp[across]
    np.testing.assert_allclose(found[:, row, column], total / weight, atol=2e-5)


def test_windows_that_overlap_leave_no_seam(tmp_path: Path) -> None:
    """On a smooth scene, for a network whose answers depend on the whole window; a trained one is proved elsewhere."""
    y, x = np.mgrid[:256, :256]
    waves = [800 * np.sin(x / (37 + 3 * band)) + 700 * np.cos(y / (41 + 2 * band) + band) for band in range(len(BANDS))]
    noise = np.random.default_rng(0).normal(0, 60, (len(BANDS), 256, 256))
    scene = write_map_scene(tmp_path / "scene.tif", (2000 + np.stack(waves) + noise).astype(np.uint16))
    checkpoint = make_checkpoint(tmp_path / "run", make_network(window_px=32, gamma=1.0).encoder)
    (smooth,) = vectors(*embed_dense(checkpoint, [scene], tmp_path / "x.zarr"))
    (apart,) = vectors(*embed_dense(checkpoint, [scene], tmp_path / "y.zarr", windows=SEPARATE))
    assert contrast(smooth, 2, margin=4) <= 1.05
    assert contrast(apart, 4, margin=4) > 1.3


def test_positions_with_less_than_half_of_their_pixels_have_no_vector(
    folder: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """The corner of 20 x 30 px is missing, and the scene ends 4 px into its last row, 2 px into its last column."""
    float_file, int_file = tmp_path / "x.zarr", tmp_path / "x.tif"
    (found,) = vectors(*embed_dense(checkpoint, [folder / "scene.tif"], float_file))
    missing = np.isnan(found).all(axis=0)
    assert np.array_equal(missing, np.isnan(found).any(axis=0))
    expected = np.zeros((13, 17), dtype=bool)
    expected[:2, :4] = True  # 20 px are 2.5 patches, 30 px 3.75
    expected[:, 16] = True
    np.testing.assert_array_equal(missing, expected)
    (rounded,) = vectors(*embed_dense(checkpoint, [folder / "scene.tif"], int_file, kind="int8"))
    np.testing.assert_array_equal(np.isnan(rounded[0]), expected)
    step = np.nanmax(np.abs(found), axis=(1, 2)) / 127
    assert (np.nanmax(np.abs(rounded - found), axis=(1, 2)) <= step / 2 * 1.001).all()


def content(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


class StoppedError(Exception):
    """Raised by a report."""


def test_an_interrupted_run_is_resumed_with_the_same_bytes(
    folder: Path, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finer = WindowOptions(stride_px=2)
    monkeypatch.setattr(dense, "BLOCK_VALUES", FEATURES * 32**2)
    source = [folder / "scene.tif"]
    embed_dense(checkpoint, source, tmp_path / "x.zarr", windows=finer)
    calls = []

    def stop(done: float, total: float) -> None:
        calls.append(done)
        if len(calls) == 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        embed_dense(checkpoint, source, tmp_path / "y.zarr", windows=finer, report=stop)
    assert not (tmp_path / "y.zarr").exists()
    told: list[float] = []
    embed_dense(checkpoint, source, tmp_path / "y.zarr", windows=finer, report=lambda done, total: told.append(done))
    assert told[0] == calls[-1] > 0, "finished blocks are not computed again"
    assert told[-1] == 50 * 65
    assert content(tmp_path / "x.zarr") == content(tmp_path / "y.zarr")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.zarr", "y.zarr"]


def test_blocks_leave_no_trace_in_the_vectors(
    folder: Path, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finer = WindowOptions(stride_px=2)
    (whole,) = vectors(*embed_dense(checkpoint, [folder / "scene.tif"], tmp_path / "x.zarr", windows=finer))
    monkeypatch.setattr(dense, "BLOCK_VALUES", FEATURES * 32**2)
    (parts,) = vectors(*embed_dense(checkpoint, [folder / "scene.tif"], tmp_path / "y.zarr", windows=finer))
    np.testing.assert_allclose(parts, whole, atol=2e-5)


def test_tiles_of_a_store_are_placed_and_blended(folder: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    store = open_store(folder / "cover.zarr")
    fields = embed_dense(checkpoint, store, tmp_path / "x.zarr")
    assert [field.name for field in fields] == ["32632", "32633"]
    assert fields[0].grid.transform[:6] == (80, 0, WEST, 0, -80, NORTH)
    first, second = vectors(*fields)
    assert (first.shape, second.shape) == ((FEATURES, 10, 10), (FEATURES, 4, 4))
    maps = tile_maps(checkpoint, store)
    np.testing.assert_allclose(second, maps[9], atol=2e-5)
    np.testing.assert_allclose(first[:, :3, :3], maps[0][:, :3, :3], atol=2e-5)  # tiles are 3 positions apart, 4 wide
    ramp = np.sin(np.pi * (np.arange(4) + 0.5) / 4) ** 2
    shared = (maps[0][:, 1, 3] * ramp[3] + maps[1][:, 1, 0] * ramp[0]) / (ramp[3] + ramp[0])
    np.testing.assert_allclose(first[:, 1, 3], shared, atol=2e-5)
    np.testing.assert_allclose(first[:, 8, 5], maps[7][:, 2, 2], atol=2e-5)


def tile_maps(checkpoint: Checkpoint, store: Store) -> NDArray[np.float32]:
    """(N, D, 4, 4) last map of each tile."""
    encoder = checkpoint.encoder()
    with torch.no_grad():
        return encoder(encoder.preprocess(store)).numpy()


def test_tiles_whose_positions_do_not_coincide_are_refused(
    folder: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    def shifted(arrays: dict[str, NDArray[Any]]) -> None:
        side_by_side(arrays)
        arrays["ulx"][4] += 30

    odd = write_store(tmp_path / "odd.zarr", 10, names=("sentinel2", "biome"), change=shifted)
    with pytest.raises(InputError, match=r"multiples of 8 px apart.*got 27 and 24 px in EPSG:32632.*--cover"):
        embed_dense(checkpoint, odd, tmp_path / "x.zarr")
    with pytest.raises(InputError, match="one tile at each location"):
        embed_dense(checkpoint, open_store(folder / "toy.zarr"), tmp_path / "x.zarr")
    with pytest.raises(InputError, match=r"several UTM zones \(32632, 32633\)"):
        embed_dense(checkpoint, open_store(folder / "cover.zarr"), tmp_path / "x.tif")
    assert not (tmp_path / "x.zarr").exists()


def run(folder: Path, *words: str) -> Result:
    """Run embed in the folder's words: IN/ and OUT/ are replaced by the test."""
    return CliRunner().invoke(cli, ["embed", *words])


def lonlat(row: int, column: int) -> str:
    """Location of the centre of a position, as --query takes it."""
    x, y = WEST + 80 * (column + 0.5), NORTH - 80 * (row + 0.5)
    lon, lat = Transformer.from_crs(EPSG, 4326, always_xy=True).transform(x, y)
    return f"{lon},{lat}"


def test_a_command_makes_the_file_its_picture_and_the_map_of_a_place(folder: Path, tmp_path: Path) -> None:
    out, picture, similar = tmp_path / "x.zarr", tmp_path / "p.tif", tmp_path / "s.tif"
    made = run(
        folder, str(folder / "scene.tif"), "--dense", "--checkpoint", str(folder / "run"), "--out", str(out),
        "--type", "int8", "--picture", str(picture), "--query", lonlat(9, 11), "--similarity", str(similar),
        "--workers", "1", "--device", "cpu",
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    assert "13 x 17 positions with 24 features" in made.stdout
    with rasterio.open(similar) as file:
        values = file.read(1)
        assert (file.crs.to_epsg(), file.transform) == (EPSG, rasterio.Affine(80, 0, WEST, 0, -80, NORTH))
        assert np.unravel_index(np.nanargmax(values), values.shape) == (9, 11)
        assert values[9, 11] == pytest.approx(1, abs=1e-5)
        assert np.isnan(values[0, 0])
    with rasterio.open(picture) as file:
        assert [interpretation.name for interpretation in file.colorinterp] == ["red", "green", "blue"]
        assert not file.dataset_mask()[0, 0]
        assert file.dataset_mask()[5, 5]
    again = run(folder, str(out), "--query", lonlat(9, 11), "--similarity", str(tmp_path / "t.tif"), "--picture", str(tmp_path / "p.png"))  # fmt: skip
    assert again.exit_code == 0, again.output
    assert (tmp_path / "t.tif").read_bytes() == similar.read_bytes()
    assert image.imread(tmp_path / "p.png").shape == (13 * 47, 17 * 47, 4)


REFUSALS = {
    "--stride 6": "--stride: expected a divisor or a multiple of the encoder's patch of 8 px, got 6",
    "--overlap 5": "--overlap: expected an overlap",
    "--query 11": "--query: expected LON,LAT",
    "--query 11,48": "--query: expected a location inside",
    "--cache c": "--cache has no effect with --dense",
    "--neighbours 0": "--neighbours has no effect with --dense",
    "--similarity s.tif": "--similarity has no effect without --query",
    "--out y.tif": "expected one --out x.zarr or x.tif with --dense, got 2",
    "--level L1C": "expected one processing level",
    "--padding reference": "use --padding same",
    "--workers 2 --scheduler tcp://localhost:1": "--workers has no effect with --scheduler",
}


@pytest.mark.parametrize("words", REFUSALS)
def test_a_command_with_something_wrong_says_so_and_writes_nothing(folder: Path, tmp_path: Path, words: str) -> None:
    out = tmp_path / "x.zarr"
    made = run(folder, str(folder / "scene.tif"), "--dense", "--checkpoint", str(folder / "run"), "--out", str(out), *words.split())  # fmt: skip
    assert made.exit_code == 2
    assert REFUSALS[words] in made.stderr
    assert not list(tmp_path.iterdir())


def test_pictures_and_similarity_never_replace_what_they_are_made_of(folder: Path, tmp_path: Path) -> None:
    scene, out = tmp_path / "scene.tif", tmp_path / "x.tif"
    scene.write_bytes((folder / "scene.tif").read_bytes())
    (tmp_path / "link.tif").symlink_to(scene)
    words = (str(scene), "--dense", "--checkpoint", str(folder / "run"), "--out", str(out), "--workers", "1")
    place = ("--query", lonlat(9, 11))
    for more, found in (
        (("--picture", str(scene)), "--picture: expected a file of its own, got the input"),
        (("--picture", str(tmp_path / "link.tif")), "--picture: expected a file of its own, got the input"),
        ((*place, "--similarity", str(scene)), "--similarity: expected a file of its own, got the input"),
        (("--picture", str(out)), "--picture: expected a file of its own, got that of --out,"),
        ((*place, "--similarity", "p.tif", "--picture", "./p.tif"), "got that of --picture,"),
    ):
        made = run(folder, *words, *more)
        assert made.exit_code == 2
        assert found in made.stderr
    assert scene.read_bytes() == (folder / "scene.tif").read_bytes()
    assert run(folder, *words).exit_code == 0
    before = out.read_bytes()
    for more in (("--picture", str(out)), (*place, "--similarity", str(out))):
        made = run(folder, str(out), *more)
        assert (made.exit_code, out.read_bytes() == before) == (2, True), made.output


def test_sources_and_options_that_do_not_match_are_refused(folder: Path, tmp_path: Path) -> None:
    scene, network = str(folder / "scene.tif"), ("--checkpoint", str(folder / "run"))
    out = ("--out", str(tmp_path / "x.zarr"))
    for words, message in (
        ((scene, *network, *out, "--stride", "4"), "--stride has no effect without --dense"),
        ((scene, *network, *out, "--picture", "p.png"), "--picture has no effect without --dense"),
        ((scene, scene, *network, *out), "expected one store or folder without --dense, got 2"),
        ((scene, "--dense", *out), "expected --checkpoint CKPT"),
        (
            (scene, "--dense", *network, "--out", str(tmp_path / "x.parquet")),
            "expected x.zarr or x.tif, got 'x.parquet'",
        ),
        (
            (str(folder / "cover.zarr"), "--dense", *network, *out, "--level", "L2A"),
            "--level has no effect with a store",
        ),
        ((str(tmp_path / "none.tif"), "--dense", *network, *out), "none.tif"),
    ):
        made = run(folder, *words)
        assert made.exit_code == 2, (words, made.output)
        assert message in made.stderr
    assert not list(tmp_path.iterdir())


def test_a_finished_file_is_kept_and_another_one_is_never_replaced(
    folder: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    source = [folder / "scene.tif"]
    for name in ("x.zarr", "x.tif"):
        embed_dense(checkpoint, source, tmp_path / name)
        stamp = (tmp_path / name).stat().st_mtime_ns
        embed_dense(checkpoint, source, tmp_path / name)
        assert (tmp_path / name).stat().st_mtime_ns == stamp
        with pytest.raises(InputError, match="delete it, or choose another --out"):
            embed_dense(checkpoint, source, tmp_path / name, kind="int8")
    words = (str(tmp_path / "x.zarr"), "--checkpoint", str(folder / "run"), "--picture", str(tmp_path / "p.png"))
    assert "--checkpoint has no effect with a file that --dense wrote" in run(folder, *words).stderr
    assert "expected --picture or --query" in run(folder, str(tmp_path / "x.zarr")).stderr
    assert open_vectors(tmp_path / "x.tif")[0].grid.shape == (13, 17)
