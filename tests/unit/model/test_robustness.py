"""Changed test images: each change in closed form, figures without change equal to those of `evaluate`, resumption."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from encoders import write_encoder
from matplotlib import image
from toy_store import write_store

from mmearth_data import InputError, load_catalog
from mmearth_model import evaluate, open_encoder, robustness
from mmearth_model.cli import cli
from mmearth_model.evaluation.candidates import candidates
from mmearth_model.evaluation.features import extract
from mmearth_model.evaluation.metrics import score
from mmearth_model.experiments.robustness import run
from mmearth_model.experiments.robustness.changes import CLOUD_REFLECTANCE, HAZE_REFLECTANCE, Scene, all_changes
from mmearth_model.experiments.robustness.curves import Curve, Point, points_of
from mmearth_model.experiments.robustness.groups import CONTINENTS, continents, seasons
from mmearth_model.experiments.robustness.run import CHANGES, ChangedImages
from mmearth_model.tasks import TaskKind, open_task

if TYPE_CHECKING:
    from mmearth_data import Store
    from mmearth_model import Checkpoint
    from mmearth_model.experiments.robustness.changes import Change
    from mmearth_model.tasks import LabelledSet

S2, S1 = load_catalog().find("sentinel2"), load_catalog().find("sentinel1")
SIDE = 64
IMAGES = 3


def spoilt(arrays: dict[str, np.ndarray[Any, Any]]) -> None:
    """Put the tiles on two continents; the toy's kinds, and with them latitudes and seasons, stay as they are."""
    arrays["lon"] += 20.0
    arrays["lon"][1::2] += 55.0
    arrays["lat"][::2], arrays["lat"][1::2] = 15.0, 42.0  # Chad and Sudan; Kyrgyzstan and China


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("toy") / "toy.zarr", 192, shares=(0.5, 0.1), size_px=16)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of two continents."""
    return write_store(tmp_path_factory.mktemp("two") / "two.zarr", 192, shares=(0.5, 0.0), size_px=16, change=spoilt)


@pytest.fixture(scope="module")
def both(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """An encoder of two modalities."""
    return write_encoder(
        tmp_path_factory.mktemp("weights") / "run", store, inputs=("sentinel2", "sentinel1"), depths=(1, 0, 0, 0)
    )


def batch() -> dict[str, np.ndarray[Any, Any]]:
    """Random values as stored, a tenth of them missing."""
    rng = np.random.default_rng(0)
    shape = (IMAGES, len(S2.bands), SIDE, SIDE)
    optical = rng.integers(1, 9000, size=shape).astype(S2.dtype)
    radar = rng.normal(-12, 4, size=(IMAGES, len(S1.bands), SIDE, SIDE)).astype(S1.dtype)
    optical[rng.random(shape) < 0.1] = S2.nodata
    radar[rng.random(radar.shape) < 0.1] = S1.nodata
    return {"sentinel2": optical, "sentinel1": radar, "tile": {"tile_id": np.arange(IMAGES)}}  # type: ignore[dict-item]


def scene(*modalities: Any) -> Scene:
    """A scene in which each band k of a modality has the standard deviation 100 (k + 1)."""
    given = modalities or (S2, S1)
    return Scene(given, {m.name: m.model_bands for m in given}, {m.name: np.arange(100, 100 * len(m.bands) + 1, 100, dtype=np.float64) for m in given})  # fmt: skip


def change(name: str) -> Change:
    return next(c for c in all_changes((S2, S1)) if c.name == name)


def changed(name: str, level: float, given: dict[str, Any] | None = None, of: Scene | None = None) -> dict[str, Any]:
    return change(name).apply(given or batch(), np.arange(IMAGES) + 7, level, of or scene())


EVERY = [c.name for c in all_changes((S2, S1))]
REMOVING = {"missing-bands", "missing-sentinel2", "missing-sentinel1", "shift"}


# ---------------------------------------------------------------- changes


@pytest.mark.parametrize("name", EVERY)
def test_a_change_of_nothing_is_the_same_values(name: str) -> None:
    before = batch()
    after = changed(name, 0.0)
    assert change(name).levels[0] == 0
    assert list(change(name).levels) == sorted(set(change(name).levels))
    for modality in ("sentinel2", "sentinel1"):
        assert np.array_equal(after[modality], before[modality], equal_nan=True)


@pytest.mark.parametrize("name", EVERY)
def test_missing_values_stay_missing_and_others_do_not_become_so(name: str) -> None:
    before = batch()
    for level in change(name).levels[1:]:
        after = changed(name, level)
        for m in (S2, S1):
            assert after[m.name].dtype == m.dtype
            seen, still = m.observed(before[m.name]), m.observed(after[m.name])
            if name not in REMOVING:
                assert np.array_equal(seen, still), level
            elif name != "shift":
                assert not (still & ~seen).any()
    for m in (S2, S1):
        assert np.array_equal(before[m.name], batch()[m.name], equal_nan=True), "the batch itself has changed"


@pytest.mark.parametrize("name", EVERY)
def test_changes_of_an_image_do_not_depend_on_the_others(name: str) -> None:
    given, level = batch(), change(name).levels[-2]
    whole = changed(name, level)
    for k in range(IMAGES):
        one = {n: v[k : k + 1] for n, v in given.items() if n != "tile"}
        alone = change(name).apply(one, np.array([k + 7]), level, scene())
        for modality in ("sentinel2", "sentinel1"):
            assert np.array_equal(alone[modality][0], whole[modality][k], equal_nan=True)


def test_offset_and_gain_change_reflectances_alone() -> None:
    before = batch()["sentinel2"].astype(int)
    seen = before != 0
    for name, level, expected in (
        ("offset", 0.1, before + 1000),
        ("offset", 0.01, before + 100),
        ("gain", 0.3, np.rint(1.3 * before)),
        ("loss", 0.3, np.maximum(1, np.rint(0.7 * before))),
    ):
        after = changed(name, level)
        assert np.abs(after["sentinel2"].astype(int) - expected)[seen].max() <= (name != "offset"), (
            name
        )  # a half rounds
        assert np.array_equal(after["sentinel1"], batch()["sentinel1"], equal_nan=True)


def test_integers_stay_in_their_range_and_observed() -> None:
    given = {"sentinel2": np.array([0, 1, 2, 65000, 65535], S2.dtype).reshape(1, 1, 1, 5)}
    assert changed("offset", 0.1, given)["sentinel2"].ravel().tolist() == [0, 1001, 1002, 65535, 65535]
    assert changed("gain", 0.3, given)["sentinel2"].ravel().tolist() == [0, 1, 3, 65535, 65535]
    given = {"sentinel2": np.array([0, 1], S2.dtype).reshape(1, 1, 1, 2)}
    assert changed("loss", 0.3, given)["sentinel2"].ravel().tolist() == [0, 1]
    darker = replace(S2, offset=-0.1)  # reflectance = stored / 10,000 - 0.1, as since 2022
    found = change("loss").values(np.full((1, 1, 1, 1), 3000, S2.dtype), darker, np.zeros(1), 0.3, scene())
    assert found.item() == 0.7 * 2000 + 1000
    highest = replace(S2, nodata=65535.0)
    found = change("gain").values(np.full((1, 1, 1, 1), 65000, S2.dtype), highest, np.zeros(1), 0.3, scene())
    assert found.item() == 65534


@pytest.mark.parametrize("level", [0.1, 0.25, 1.0])
def test_noise_has_the_stated_standard_deviation(level: float) -> None:
    values = np.full((40, len(S1.bands), SIDE, SIDE), -12, S1.dtype)
    found = change("noise").values(values, S1, np.arange(40), level, scene(S1)) - values
    assert found.std(axis=(0, 2, 3)) == pytest.approx(level * 100 * np.arange(1, len(S1.bands) + 1), rel=0.01)
    assert np.abs(np.corrcoef(found[:, 0].ravel(), found[:, 1].ravel())[0, 1]) < 0.02
    assert np.abs(np.corrcoef(found[0].ravel(), found[1].ravel())[0, 1]) < 0.02
    second = replace(S1, name="second")
    beside = change("noise").values(values, second, np.arange(40), level, scene(second)) - values
    assert np.abs(np.corrcoef(found.ravel(), beside.ravel())[0, 1]) < 0.02


@pytest.mark.parametrize("level", [1, 2, 3])
def test_resolution_is_the_mean_of_observed_pixels(level: int) -> None:
    before, side = batch()["sentinel1"].astype(np.float64), 2**level
    after = changed("resolution", level)["sentinel1"]
    cells = before.reshape(IMAGES, -1, SIDE // side, side, SIDE // side, side)
    with np.errstate(invalid="ignore"):
        mean = np.nansum(cells, axis=(3, 5)) / (~np.isnan(cells)).sum(axis=(3, 5))
    expected = mean.repeat(side, 2).repeat(side, 3)
    seen = ~np.isnan(before)
    assert after[seen] == pytest.approx(expected[seen], rel=1e-5)
    odd = np.arange(25, dtype=S1.dtype).reshape(1, 1, 5, 5)
    found = change("resolution").values(odd, S1, np.zeros(1), 2.0, scene(S1))
    assert found[0, 0, 4, 4] == 24
    assert found[0, 0, 0, 0] == odd[0, 0, :4, :4].mean()


@pytest.mark.parametrize("level", [0.5, 1.0, 2.0, 3.0])
def test_shift_moves_a_ramp_to_the_right(level: float) -> None:
    ramp = np.broadcast_to(10.0 * np.arange(SIDE, dtype=S1.dtype), (IMAGES, len(S1.bands), SIDE, SIDE))
    given = {"sentinel2": batch()["sentinel2"], "sentinel1": ramp}
    after = changed("shift", level, given)
    lost = int(np.ceil(level))
    assert np.isnan(after["sentinel1"][..., :lost]).all()
    assert np.allclose(after["sentinel1"][..., lost:], ramp[..., lost:] - 10 * level)
    assert np.array_equal(after["sentinel2"], given["sentinel2"])
    narrow = change("shift").values(ramp[..., :2], S1, np.arange(IMAGES), level, scene())
    assert narrow.shape[-1] == 2


@pytest.mark.parametrize("level", [0.1, 0.2, 0.4, 0.6, 0.8])
def test_clouds_cover_their_share_and_grow(level: float) -> None:
    dark = {"sentinel2": np.full((IMAGES, len(S2.bands), SIDE, SIDE), 1000, S2.dtype)}
    after = changed("clouds", level, dark)["sentinel2"].astype(float)
    cover = (after - 1000) / (10_000 * CLOUD_REFLECTANCE - 1000)
    assert np.abs(cover.mean(axis=(2, 3)) * SIDE**2 - level * SIDE**2).max() < 1
    assert ((cover > 0.001) & (cover < 0.999)).mean() < 0.1  # edges
    more = changed("clouds", 0.9, dark)["sentinel2"]
    assert (more >= after).all()


def test_haze_is_stronger_in_short_wavelengths() -> None:
    dark = {"sentinel2": np.full((1, len(S2.bands), 4, 4), 1000, S2.dtype)}
    after = change("haze").apply(dark, np.zeros(1), 0.4, scene())["sentinel2"][0, :, 0, 0].astype(float)
    for band, value in zip(S2.bands, after, strict=True):
        weight = min(1.0, 0.4 * 0.49 / S2.wavelengths[band].centre_um)
        assert value == pytest.approx(1000 + weight * (10_000 * HAZE_REFLECTANCE - 1000), abs=1), band
    blue, red, infrared = (after[S2.bands.index(band)] for band in ("B2", "B4", "B12"))
    assert blue > red > infrared


def test_missing_bands_are_nested_and_one_is_left() -> None:
    gone: list[set[tuple[str, int]]] = []
    for level in change("missing-bands").levels:
        after = changed("missing-bands", level)
        gone.append({(m.name, k) for m in (S2, S1) for k in range(len(m.bands)) if not m.observed(after[m.name][:, k]).any()})  # fmt: skip
    bands = len(S2.model_bands) + len(S1.model_bands)
    assert [len(part) for part in gone] == [int(np.ceil(level * bands)) for level in (0, 0.25, 0.5, 0.75)]
    assert gone[0] < gone[1] < gone[2] < gone[3]
    few = Scene((S2,), {"sentinel2": ("B4", "B3")}, {})  # of a photograph; the others are not there to be missing
    after = changed("missing-bands", 0.75, of=few)["sentinel2"]
    left = [band for k, band in enumerate(S2.bands) if S2.observed(after[:, k]).any()]
    assert len({"B4", "B3"} & set(left)) == 1
    assert len(left) == len(S2.bands) - 1


def test_a_modality_is_missing_from_a_share_of_the_images() -> None:
    values = np.ones((400, 1, 2, 2), S1.dtype)
    halves = [change("missing-sentinel1").values(values, S1, np.arange(400), level, scene()) for level in (0.5, 1.0)]
    without = np.isnan(halves[0]).all(axis=(1, 2, 3))
    assert 0.42 < without.mean() < 0.58
    assert np.isnan(halves[0]).mean() == without.mean()
    assert np.isnan(halves[1]).all()


def test_what_does_not_apply_says_why() -> None:
    radar = {c.name: c.obstacle(scene(S1)) for c in all_changes((S1,))}
    assert {name for name, why in radar.items() if why} == {"clouds", "haze", "offset", "gain", "loss", "shift", "missing-sentinel1"}  # fmt: skip
    warm = replace(S2, units="K")
    assert change("offset").obstacle(scene(warm)) == "it needs reflectances in bands with known wavelengths"


# ---------------------------------------------------------------- figures


def figures(encoder: Any, task: LabelledSet, out: Path, **options: Any) -> Any:
    return robustness([], [task], out, encoders=encoder, device="cpu", seeds=2, **options)


@pytest.mark.parametrize(
    ("name", "protocol"), [("store:biome", "linear"), ("store:biome", "knn"), ("store:esa_worldcover/shares", "probe")]
)
def test_without_change_the_figure_is_that_of_evaluate(
    store: Store, both: Checkpoint, tmp_path: Path, name: str, protocol: Any
) -> None:
    task = open_task(name, store)
    baselines: list[Any] = ["statistics", "random"]
    found = robustness(
        [both], [task], tmp_path, baselines=baselines, changes=["offset", "missing-bands"], protocol=protocol, seeds=2, device="cpu",
    )  # fmt: skip
    expected = evaluate([both], store, [task], protocols=[protocol], baselines=baselines, seeds=2, device="cpu")
    means = {s.encoder: (s.mean, s.low, s.high) for s in expected.summaries() if s.protocol != "knn-20"}
    assert len(found.curves) == 6
    for curve in found.curves:
        clean = curve.points[0]
        assert (clean.value, clean.low, clean.high) == means[curve.encoder]
        assert (clean.level, clean.difference, clean.difference_low, clean.difference_high) == (0, 0, 0, 0)
        assert curve.samples == len(task.parts.test)
    assert not (tmp_path / run.WORK).exists()


def test_files_and_encoders_of_others_have_the_figures_of_evaluate(
    test_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("robustnets.py").write_text("from torch import nn\n\ndef net():\n    return nn.Conv2d(2, 4, 8, stride=8)\n")
    Path("net.yaml").write_text("bands: [B4, B3]\nnormalise: task\n")
    task = open_task(f"eurosat-ms={test_data / 'eurosat_ms'}")
    small: Any = task.images
    task = replace(task, images=replace(small, spec=small.spec.model_copy(update={"size_px": 16}), _cache={}))
    encoder = open_encoder("robustnets:net")
    found = robustness([], [task], tmp_path / "o", encoders=[encoder], baselines=[], changes=["missing-bands", "season"], device="cpu")  # fmt: skip
    expected = evaluate([], None, [task], encoders=[encoder], protocols=["linear"], baselines=[], device="cpu")
    (curve,) = found.curves
    assert curve.points[0].value == expected.summaries()[0].mean
    assert curve.points[-1].value < curve.points[0].value
    assert found.notes == (
        f"{task.name}: season is left out, because the locations or dates of the images are unknown.",
    )


def test_images_without_change_are_read_as_they_are(store: Store, both: Checkpoint) -> None:
    task = open_task("store:biome", store)
    (candidate, *_) = candidates([both], [task], 1, baselines=[])
    cpu = torch.device("cpu")
    reading, extractor = candidate.model.input(task), candidate.model.extractor(task, 0, cpu)
    clean = extract(extractor, reading, task.images, cpu)
    rows = np.arange(len(task.images), dtype=np.intp)
    for level, same in ((0.0, True), (1.0, False)):
        images = ChangedImages(task.images, rows, change("missing-sentinel1"), level, scene())
        assert np.array_equal(extract(extractor, reading, images, cpu), clean) == same
    some = ChangedImages(task.images, rows[100:], change("noise"), 1.0, scene())
    parts = [[b["sentinel1"] for b in some.batches(rows[:40], size, ("sentinel1",))] for size in (7, 40)]
    assert np.array_equal(np.concatenate(parts[0]), np.concatenate(parts[1]), equal_nan=True)
    assert some.digest != replace(some, level=0.5).digest != replace(some, rows=rows[:92]).digest


def test_bands_without_which_nothing_is_known_cost_the_most(store: Store, both: Checkpoint, tmp_path: Path) -> None:
    found = robustness([both], [open_task("store:biome", store)], tmp_path, baselines=[], seeds=1, device="cpu")
    curves = {curve.change: curve for curve in found.curves}
    assert list(curves) == EVERY
    assert curves["missing-sentinel2"].points[0].value > 0.9
    assert curves["missing-sentinel2"].points[2].value < 0.6  # of four kinds
    assert curves["missing-sentinel2"].kept < 1
    assert {c.change for c in found.comparisons} <= {"season", "continent"}


def made(values: list[float], levels: list[float], differences: list[tuple[float, float]]) -> Curve:
    points = [Point(at, v, v, v, v - values[0], *d) for at, v, d in zip(levels, values, differences, strict=True)]
    return Curve("t", "e", "linear", "accuracy", "noise", "x", tuple(points), 1, 9)


def test_the_area_is_the_mean_over_the_levels() -> None:
    straight = made([0.8, 0.4], [0, 2.0], [(0, 0), (-0.5, -0.3)])
    assert (straight.area, straight.kept) == pytest.approx((0.6, 0.75))
    assert straight.note == ""
    bent = made([0.8, 0.8, 0.4], [0, 0.75, 1.0], [(0, 0), (0, 0), (-0.5, 0.1)])
    assert bent.area == pytest.approx(0.75 * 0.8 + 0.25 * 0.6)
    assert bent.note == "falls, but the interval of the difference includes 0"
    assert made([0.8, 0.9], [0, 1], [(0, 0), (0, 0.2)]).note == "does not fall"
    lost = made([-0.1, -0.5], [0, 1], [(0, 0), (-1, 0)])
    assert np.isnan(lost.kept)
    assert json.loads(json.dumps(lost.to_dict(), allow_nan=False))["kept"] is None


def test_differences_are_paired(store: Store) -> None:
    task = open_task("store:biome", store)
    rng = np.random.default_rng(5)
    truth = rng.integers(0, task.outputs, 300)
    clean = np.where(rng.random(300) < 0.8, truth, (truth + 1) % task.outputs)
    worse = np.where(rng.random(300) < 0.1, (truth + 1) % task.outputs, clean)
    scores = [[score(TaskKind.SINGLE_LABEL, p, truth, task.outputs, None, metric=task.metric)] for p in (clean, worse)]
    point = points_of(task, (0.0, 1.0), scores)[1]
    drawn = rng.integers(0, 300, (20_000, 300))
    direct = (worse == truth)[drawn].mean(axis=1) - (clean == truth)[drawn].mean(axis=1)
    assert (point.difference_low, point.difference_high) == pytest.approx(np.percentile(direct, (2.5, 97.5)), abs=0.01)
    assert point.difference_high - point.difference_low < 0.6 * (point.high - point.low)


# ---------------------------------------------------------------- groups


def test_seasons_are_those_of_the_hemisphere() -> None:
    dates = np.array(["2019-03-31", "2019-04-01", "2019-09-30", "2019-10-01", "NaT"], "datetime64[ms]")
    north = seasons({"time": dates, "lat": np.full(5, 50.0)})[0]
    south = seasons({"time": dates, "lat": np.full(5, -30.0)})[0]
    assert north.tolist() == [0, 1, 1, 0, -1]
    assert south.tolist() == [1, 0, 0, 1, -1]
    assert seasons({"time": dates, "lat": np.full(5, np.nan)})[0].tolist() == [-1] * 5


def test_continents_are_those_of_the_map() -> None:
    places = {
        "Africa": (37.0, 0.0), "Asia": (78.0, 22.0), "Europe": (10.0, 50.0), "North America": (-100.0, 40.0),
        "South America": (-60.0, -10.0), "Oceania": (134.0, -25.0), "": (-30.0, 0.0), " ": (np.nan, np.nan),
    }  # fmt: skip
    lon, lat = map(np.array, zip(*places.values(), strict=True))
    codes, names = continents({"lon": lon, "lat": lat})
    assert names == CONTINENTS
    assert [names[code] if code >= 0 else "" for code in codes] == [name.strip() for name in places]


@pytest.mark.parametrize("count", [2, 5, 20])
def test_a_random_part_of_a_group_has_two_labels(two: Store, count: int) -> None:
    task = open_task("store:biome", two)
    rare = np.flatnonzero(task.labels == task.labels[0])[:20]
    rows = np.append(rare, np.flatnonzero(task.labels != task.labels[0])[:1])
    for seed in range(10):
        chosen = run._some(task, rows, count, seed)
        assert len(np.unique(chosen)) == count
        assert set(chosen) <= set(rows)
        assert len(np.unique(task.labels[chosen])) == 2


def test_probes_of_other_continents_are_compared_on_the_same_tiles(two: Store, tmp_path: Path) -> None:
    found = robustness([], [open_task("store:biome", two)], tmp_path / "o", baselines=["statistics"], changes=["continent"], seeds=1, device="cpu")  # fmt: skip
    assert [c.test for c in found.comparisons] == ["Africa", "Asia"]
    assert not found.curves
    for c in found.comparisons:
        assert c.samples == 48
        assert c.train_samples == 48
        assert c.own > 0.9  # each continent has two kinds of its own
        assert c.other == 0
        assert c.low <= c.difference <= c.high
        assert c.difference == c.other - c.own


# ---------------------------------------------------------------- commands


def command(*arguments: str) -> Any:
    return CliRunner().invoke(cli, list(arguments))


def test_an_interrupted_run_goes_on_where_it_was(store: Store, tmp_path: Path) -> None:
    task, told = open_task("store:biome", store), []

    def stop(done: int, total: int, what: str) -> None:
        if "noise 0.5" in what:
            raise KeyboardInterrupt

    options: dict[str, Any] = {"baselines": ["statistics"], "changes": ["offset", "noise"], "seeds": 1, "device": "cpu"}
    with pytest.raises(KeyboardInterrupt):
        robustness([], [task], tmp_path / "a", report=stop, **options)
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "a" / run.WORK).iterdir()}
    assert len(kept) == 6  # four of offset, two of noise

    def look(done: int, total: int, what: str) -> None:
        told.append((done, total))
        now = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "a" / run.WORK).glob("*.npy")}
        assert not now or kept.items() <= now.items()

    resumed = robustness([], [task], tmp_path / "a", report=look, **options)
    assert told[-1] == (10, 10)
    assert resumed == robustness([], [task], tmp_path / "b", **options)


def test_results_are_written_as_tables_a_figure_and_a_page(two: Store, tmp_path: Path) -> None:
    arguments = ("--store", str(two.path), "--task", "store:biome", "--baseline", "statistics", "--seeds", "1", "--change", "offset",
                 "--change", "shift", "--change", "season", "--change", "continent", "--cache", str(tmp_path / "c"), "--out", str(tmp_path / "o"), "--html", str(tmp_path / "p.html"))  # fmt: skip
    keep = tmp_path / "o" / "features" / "mine.npy"
    keep.parent.mkdir(parents=True)
    keep.touch()
    result = command("experiment", "robustness", *arguments)
    assert result.exit_code == 0, result.output
    assert keep.is_file()
    assert {p.name for p in (tmp_path / "o").iterdir()} == {"features", "groups.csv", *(f"results.{e}" for e in ("md", "csv", "json", "png", "pdf", "svg"))}  # fmt: skip
    with (tmp_path / "o" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["level"] for row in rows] == ["0", "0.01", "0.02", "0.05", "0.1"]
    told = json.loads((tmp_path / "o" / "results.json").read_text())
    assert [p["value"] for p in told["curves"][0]["points"]] == pytest.approx([float(r["value"]) / 100 for r in rows], abs=0.0006)  # fmt: skip
    assert "shift is left out, because it needs several continuous raster inputs" in (tmp_path / "o" / "results.md").read_text()  # fmt: skip
    assert image.imread(tmp_path / "o" / "results.png")[..., 0].std() > 0.05
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert "Other seasons and continents" in page
    assert "synthetic" in page
    assert 'src="data:image/svg+xml;' in page
    alone = command("robustness", *arguments, "--json")
    assert json.loads(alone.stdout) == told
    assert "robustness" in command("experiment", "list").stdout


def test_the_command_names_all_changes() -> None:
    (option,) = [p for p in cli.commands["robustness"].params if p.name == "changes"]
    assert tuple(getattr(option.type, "choices", ())) == CHANGES


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--change", "fog"), "--change"),
        (("--change", "offse"), "offset"),
        (("--task", "store:esa_worldcover/pixels"), "labels per pixel"),
        (("--task", "store:nosuch"), "nosuch"),
        (("--store", "nosuch.zarr"), "nosuch.zarr"),
        (("--store", "file"), "file"),
        (("--out", "file"), "file"),
        (("--out", "file/below"), "file"),
        (("--html", "file/p.html"), "file"),
        (("--seeds", "0"), "seeds"),
        (("--encoder", "nosuch.onnx"), "nosuch.onnx"),
        (("--baseline", "best"), "best"),
        (("--protocol", "paper"), "paper"),
        (("--device", "warp"), "warp"),
        (("--padding", "same"), "--padding"),
        (("--baseline", "none"), "at least one checkpoint"),
        (("nosuch",), "nosuch"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("x")
    given: tuple[str, ...] = ("--store", str(store.path), "--task", "store:biome", "--cache", "c")
    given = tuple(x for k, x in enumerate(given) if not ({arguments[0]} & {"--task", "--store"} & {given[k - k % 2]}))
    result = command("robustness", *given, *arguments)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 4
    assert "Traceback" not in result.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) in (["file"], ["c", "file"])


def test_names_of_changes_are_all_and_known(store: Store, tmp_path: Path) -> None:
    assert {c.kind for c in all_changes((S2, S1))} | {"season", "continent"} == set(CHANGES)
    with pytest.raises(InputError, match="linear, knn, probe"):
        robustness([], [open_task("store:biome", store)], tmp_path, protocol="paper")
