"""A store grows: stored tiles are neither changed nor read again, and an interrupted append ends in the same bytes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from append_making import CATALOG, SIZE_PX, TILES, SignedIn, build_sampled, recipe, write_ecoregions
from build_making import TILES_PER_SHARD, tile_values, tiles_read
from click.testing import CliRunner
from store_making import digests
from test_build_crashes import ENVIRONMENT, RASTERS, TESTS, committed, wait_until, watched
from test_store_building import FullDisk

from mmearth_data import InputError, Store, WriteFailed, build, make_recipe, open_store, preview, repair, verify
from mmearth_data.building import prepare
from mmearth_data.building.append import begin_append
from mmearth_data.cli import cli
from mmearth_data.store.ledger import read_ledger

MORE = 6
FULL_SHARDS = TILES // TILES_PER_SHARD
HALF_FULL = FULL_SHARDS
"""The shard that the first build left half full."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store (``first``), and the same store grown (``grown``)."""
    path = tmp_path_factory.mktemp("grown")
    ecoregions = write_ecoregions(path / "eco.parquet")
    build_sampled(path / "first.zarr", path / "first-log", ecoregions)
    shutil.copytree(path / "first.zarr", path / "grown.zarr")
    build_sampled(path / "grown.zarr", path / "grown-log", ecoregions, append=MORE)
    return path


def grow(folder: Path, store: Path, log: Path, append: int | None = MORE) -> Store:
    return build_sampled(store, log, folder / "eco.parquet", append=append)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """The store before it grew, to try things on."""
    shutil.copytree(folder / "first.zarr", tmp_path / "s.zarr")
    return tmp_path / "s.zarr"


def ids_of(store: Store) -> list[int]:
    ids: list[int] = store.content.column("tile_id").tolist()
    return ids


# ---------------------------------------------------------------- what it is


def test_what_stands_is_neither_touched_nor_read_again(folder: Path) -> None:
    first, grown = open_store(folder / "first.zarr"), open_store(folder / "grown.zarr")
    assert grown.finished
    assert ids_of(grown)[:TILES] == ids_of(first)
    assert len(ids_of(grown)) == TILES + MORE
    assert not set(tiles_read(folder / "grown-log")) & set(ids_of(first))
    before, after = digests(folder / "first.zarr"), digests(folder / "grown.zarr")
    whole = [f"_commits/{shard}.parquet" for shard in range(FULL_SHARDS)]
    whole += [f"{m.name}/c/{shard}/0/0/0" for m in RASTERS for shard in range(FULL_SHARDS)]
    assert [key for key in whole if before[key] != after[key]] == []
    for m in RASTERS:
        shorter, longer = (
            (folder / name / m.name / f"c/{HALF_FULL}/0/0/0").read_bytes() for name in ("first.zarr", "grown.zarr")
        )
        index_bytes = 16 * TILES_PER_SHARD + 4
        assert longer.startswith(shorter[:-index_bytes]), "the older rows keep their bytes and their offsets"


def test_every_tile_is_right_and_the_whole_is_sound(folder: Path) -> None:
    grown = open_store(folder / "grown.zarr")
    assert verify(grown.path).problems == ()
    assert len(grown) > len(open_store(folder / "first.zarr"))
    for row in grown.rows.tolist():
        for m in RASTERS:
            values = grown.read(m.name, slice(row, row + 1))[0]
            np.testing.assert_array_equal(values, tile_values(m, ids_of(grown)[row]))
    plain = xr.open_zarr(grown.path)
    assert plain.sizes["tile"] == TILES + MORE
    assert plain.attrs["appended"] == f"[{MORE}]"
    assert len(grown.tiles) == len(grown)


def test_statistics_are_those_of_the_whole(folder: Path) -> None:
    grown = open_store(folder / "grown.zarr")
    values = np.stack([grown.read("sentinel1", slice(row, row + 1))[0] for row in grown.rows.tolist()])
    for position, band in enumerate(grown.modalities["sentinel1"].bands):
        found, of_band = grown.statistics["all"]["sentinel1"]["-"][band], values[:, position].astype(np.float64)
        assert found["count"] == of_band.size
        assert (found["min"], found["max"]) == (of_band.min(), of_band.max())
        assert found["mean"] == pytest.approx(of_band.mean(), rel=1e-6)
        assert found["std"] == pytest.approx(of_band.std(), rel=1e-6)


def test_new_tiles_lie_on_free_ground_and_are_in_order(folder: Path) -> None:
    tiles = open_store(folder / "grown.zarr").coords
    assert set(tiles["epsg"].tolist()) == {32632}, "one zone: squares can be compared as they are"
    x, y = tiles["ulx"], tiles["uly"]
    near = (np.abs(x[:, None] - x) < 10 * SIZE_PX) & (np.abs(y[:, None] - y) < 10 * SIZE_PX)
    assert near.sum() == len(x), "each square meets itself only"
    column = open_store(folder / "grown.zarr").content.column
    split = column("split")[TILES:][column("tile_id")[TILES:] > 0]
    assert np.all(np.diff(split.astype(int)) >= 0), "train, val, test among themselves"
    assert set(split.tolist()) == {0, 1, 2}


def test_the_same_commands_give_the_same_bytes(folder: Path, copy: Path, tmp_path: Path) -> None:
    build_sampled(copy, tmp_path / "log", folder / "eco.parquet", append=MORE, threads=4)
    assert digests(copy) == digests(folder / "grown.zarr")


# ---------------------------------------------------------------- broken off


@pytest.mark.slow
def test_wherever_it_is_broken_off_it_goes_on(folder: Path, copy: Path, tmp_path: Path) -> None:
    """The disk is full after some flushes: readers see right tiles, and the same command ends in the same bytes."""
    whole = xr.open_zarr(folder / "grown.zarr").load()
    flushes, known, shown = 8.0, committed(copy), []
    while _broken_off_after(int(flushes), folder, copy, tmp_path / "log"):
        now = committed(copy)
        assert known <= now
        flushes, known = (flushes * 1.4 if known == now else 24), now
        assert {problem.part for problem in verify(copy).problems} <= {"_manifest.json", *_metadata(copy)}
        plain = xr.open_zarr(copy)
        kept = np.flatnonzero(plain["valid"].to_numpy())
        xr.testing.assert_equal(plain.isel(tile=kept).load(), whole.isel(tile=kept))
        shown.append((_right_tiles(open_store(copy)), len(kept)))
    assert len(shown) > 8
    assert shown[0] < (18, 18) < shown[-1], "open_store shows more and more tiles"
    assert digests(copy) == digests(folder / "grown.zarr")


def _broken_off_after(flushes: int, folder: Path, store: Path, log: Path) -> bool:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", FullDisk(flushes))
        try:
            grow(folder, store, log)
        except WriteFailed:
            return True
    return False


def _metadata(store: Path) -> set[str]:
    return {path.relative_to(store).as_posix() for path in store.rglob("zarr.json")}


def _right_tiles(store: Store) -> int:
    """Compare every tile that a store shows with what its id says."""
    for row in store.rows.tolist():
        for m in RASTERS:
            values = store.read(m.name, slice(row, row + 1))[0]
            np.testing.assert_array_equal(values, tile_values(m, ids_of(store)[row]))
    return len(store)


def test_a_plain_build_goes_on_with_an_append_and_another_append_does_not(
    folder: Path, copy: Path, tmp_path: Path
) -> None:
    begin_append(copy, MORE)
    with pytest.raises(InputError, match=rf"expected --append {MORE}, which was begun and is not finished, got 3"):
        grow(folder, copy, tmp_path / "log", append=3)
    grow(folder, copy, tmp_path / "log", append=None)
    assert digests(copy) == digests(folder / "grown.zarr")


def kill_at_random(folder: Path, tmp_path: Path, kills: int, seed: int) -> None:
    """Kill -9 while others read; what was committed is not read again."""
    draw, done = random.Random(seed), 0
    store, log = tmp_path / "k.zarr", tmp_path / "log"
    command = [sys.executable, TESTS / "append_making.py", store, log, folder / "eco.parquet"]
    command += ["--append", MORE, "--read-ms", 20]
    while done < kills:
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(folder / "first.zarr", store)
        with watched(store):
            while done < kills and not _sealed_with(store, TILES + MORE):
                log.unlink(missing_ok=True)
                known = committed(store) if not (store / "_manifest.json").exists() else frozenset()
                with subprocess.Popen(list(map(str, command)), env=ENVIRONMENT, stdout=subprocess.DEVNULL) as process:
                    wait_until(lambda: log.exists() or process.poll() is not None)
                    time.sleep(draw.uniform(0, 0.5))
                    process.kill()
                done += 1
                ids = np.array(ids_of(open_store(store)))
                whole = [shard for shard in known if shard != HALF_FULL and 4 * shard + 4 <= len(ids)]
                assert not set(tiles_read(log)) & {
                    int(i) for shard in whole for i in ids[4 * shard : 4 * shard + 4]
                } - {0}
            if not _sealed_with(store, TILES + MORE):
                grow(folder, store, log)
        assert digests(store) == digests(folder / "grown.zarr")


def _sealed_with(store: Path, tiles: int) -> bool:
    opened = open_store(store)
    return opened.finished and opened.layout.tiles == tiles


@pytest.mark.slow
def test_kill_9_at_thirty_moments(folder: Path, tmp_path: Path) -> None:
    kill_at_random(folder, tmp_path, 30, seed=2)


STOPPED_AT_THE_END = """
import atexit, os, signal, sys
from mmearth_data.building import build as building
from mmearth_data.cli import cli

number, after = int(sys.argv.pop(1)), sys.argv.pop(1)
signal.signal(signal.SIGINT, signal.default_int_handler)
if after == "exit":
    atexit.register(os.kill, os.getpid(), number)
else:
    step = getattr(building, after)
    def stopping(*args, **options):
        step(*args, **options)
        os.kill(os.getpid(), number)
    setattr(building, after, stopping)
cli()
"""
"""Runs a command that receives a signal after a step of the build: the seal, the last one, or all of the program."""
DEMO = ("--recipe", "demo", "--tiles", "12", "--tile-size", "16", "--tiles-per-shard", "8", "--seed", "1")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "demo.zarr"
    assert CliRunner().invoke(cli, ["build", *DEMO, "--out", str(path)]).exit_code == 0
    return path


@pytest.mark.parametrize(
    ("number", "after", "code"),
    [
        (signal.SIGTERM, "_run_stages", 143),
        pytest.param(signal.SIGINT, "_run_stages", 130, marks=pytest.mark.slow),
        (signal.SIGKILL, "_run_stages", -9),
        pytest.param(signal.SIGTERM, "forget_append", 0, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, "forget_append", 0, marks=pytest.mark.slow),
        (signal.SIGTERM, "exit", 0),
        pytest.param(signal.SIGINT, "exit", 0, marks=pytest.mark.slow),
    ],
)
def test_an_append_that_is_stopped_after_its_seal_is_not_repeated(
    number: int, after: str, code: int, demo: Path, tmp_path: Path
) -> None:
    """As long as the command answers with "resume", the same command adds nothing; once it succeeded, it appends again."""
    store = shutil.copytree(demo, tmp_path / "s.zarr")
    words = ["build", *DEMO, "--out", str(store), "--append", "4"]
    program = [sys.executable, "-c", STOPPED_AT_THE_END, str(int(number)), after, *words]
    stopped = subprocess.run(program, capture_output=True, text=True, timeout=120, env=ENVIRONMENT)
    assert stopped.returncode == code, stopped.stderr
    assert ("Run the same command to resume" in stopped.stderr) == (code > 0)
    assert open_store(store).layout.tiles == 16
    assert open_store(store).finished
    if code:
        resumed = CliRunner().invoke(cli, words)
        assert resumed.exit_code == 0
        assert "the interrupted append of 4 tiles is complete" in resumed.stderr
        assert open_store(store).layout.tiles == 16
    again = CliRunner().invoke(cli, words)
    assert again.exit_code == 0
    assert "is complete" not in again.stderr
    assert open_store(store).layout.tiles == 20


def test_a_plain_build_confirms_an_append_that_was_stopped_after_its_seal(
    folder: Path, copy: Path, tmp_path: Path
) -> None:
    """The intent is no run of the ledger; after the plain build, the append is a new one."""
    writer = begin_append(copy, MORE)
    assert read_ledger(copy) == read_ledger(folder / "first.zarr")
    grow(folder, copy, tmp_path / "log", append=None)
    grow(folder, copy, tmp_path / "log")
    assert open_store(copy).layout.tiles == writer.layout.tiles + MORE


# ---------------------------------------------------------------- readers and repair


@pytest.mark.parametrize("appends", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_grown_store_is_repaired(appends: int, folder: Path, tmp_path: Path) -> None:
    """A shard of the first build, one that it shares with an append, and the last one."""
    store, log, ecoregions = tmp_path / "s.zarr", tmp_path / "log", folder / "eco.parquet"
    shutil.copytree(folder / "grown.zarr", store)
    for _ in range(appends - 1):
        build_sampled(store, log, ecoregions, append=3)
    before = digests(store)
    (store / "_commits" / "1.parquet").unlink()
    for shard in (HALF_FULL, open_store(store).layout.shards - 1):
        path = store / RASTERS[0].name / f"c/{shard}/0/0/0"
        data = bytearray(path.read_bytes())
        data[100] ^= 1
        path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "make_source", lambda recipe, catalog, ecoregions: SignedIn(log))
        report = repair(store, source="synthetic", ecoregions=ecoregions, catalog=CATALOG)
    assert report.problems == ()
    assert digests(store) == before


# ---------------------------------------------------------------- bad input


def test_what_cannot_grow_is_refused_in_one_line(folder: Path, copy: Path, tmp_path: Path) -> None:
    ecoregions, log, before = folder / "eco.parquet", tmp_path / "log", digests(copy)

    def refused(words: str, store: Path = copy, append: int = 2, **options: object) -> None:
        with pytest.raises(InputError, match=words) as caught:
            build_sampled(store, log, ecoregions, append=append, **options)
        assert "\n" not in str(caught.value)

    refused("recipe.seed: 5 -> 6", seed=6)
    refused(rf"recipe.tiles: {TILES} -> 20", tiles=20)
    refused("expected at least one tile, got 0", append=0)
    refused("found nothing there", store=tmp_path / "absent.zarr")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    refused("a folder without zarr.json", store=tmp_path / "other")
    refused(r"about \d+ tiles .* fit", append=10**9)
    assert digests(copy) == before, "and it is as it was: finished"
    with pytest.raises(InputError, match="with the locations of"):
        build(make_recipe(None, {"source": "synthetic", "tiles_file": tmp_path / "p.csv"}), copy, append=2)
    with pytest.raises(InputError, match="the locations of rasters:"):
        build(make_recipe(None, {"source": "rasters:x.yaml"}), copy, append=2)


def test_what_is_not_finished_is_refused(folder: Path, copy: Path, tmp_path: Path) -> None:
    (copy / "_manifest.json").unlink()
    (copy / "_commits" / "2.parquet").unlink()
    with pytest.raises(InputError, match=r"1 of 6 shards missing; run the same command without --append first"):
        grow(folder, copy, tmp_path / "log")


def test_the_command_line_ends_in_2(tmp_path: Path) -> None:
    command = ["build", "--source", "synthetic", "--append", "3", "--out", str(tmp_path / "absent.zarr")]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 2
    assert "expected an MMEarth store, found nothing there" in result.stderr


def test_a_dry_run_tells_of_the_new_tiles(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "make_source", lambda recipe, catalog, ecoregions: SignedIn(folder / "log"))
        account = preview(recipe(folder / "eco.parquet"), append=MORE, out=folder / "first.zarr")
    assert account["tiles"] == account["sample"]["tiles"] == MORE
    files = [path for path in (folder / "grown.zarr").rglob("*") if path.is_file() and "_ledger" not in path.parts]
    assert account["store_objects"] == len(files), "of the store as it will be"
