"""The command `mmearth-data` as a user meets it: what works, and the error message for every kind of bad input."""

from __future__ import annotations

import hashlib
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr
import zarr
from click.testing import CliRunner, Result

from mmearth_data import open_store
from mmearth_data.cli import cli

MAPPING = "pipelines/rasters/terramesh_samples.yaml"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments])


def refused(*arguments: object, word: str, code: int = 2) -> None:
    """The command ends with one line that contains the word, the code of wrong input, and no traceback."""
    result = call(*arguments)
    assert result.exit_code == code, (result.stdout, result.stderr)
    message = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(message) == 1, result.stderr
    assert word in message[0], message[0]
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def digests(folder: Path) -> dict[str, str]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and "_ledger" not in p.parts)
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def terramesh(test_data: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("terramesh") / "t.zarr"
    ecoregions = test_data / "ecoregions" / "resolve2017_simplified.gpkg"
    source = f"rasters:{repository / MAPPING}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMEARTH_TEST_DATA", str(test_data))
        result = call("build", "--source", source, "--tile-size", 64, "--ecoregions", ecoregions, "--out", out)
    assert result.exit_code == 0, result.stderr
    assert "45 tiles" in result.stdout
    return out


def test_terramesh_makes_45_tiles_whose_pixels_are_the_files(terramesh: Path, test_data: Path) -> None:
    store = open_store(terramesh)
    assert len(store) == 45
    seen = 0
    for position in range(len(store)):
        tile = store[position]
        facts = json.loads(store.tiles.facts.iloc[position])
        window = rasterio.windows.Window(facts["col"], facts["row"], 64, 64)
        with rasterio.open(test_data / "terramesh" / "S2L2A" / f"{facts['site']}.tif") as file:
            expected = file.read(window=window)
            assert (tile["tile"]["ulx"], tile["tile"]["uly"]) == pytest.approx(
                rasterio.transform.xy(file.transform, facts["row"], facts["col"], offset="ul")
            )
        bands = ["B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12"]
        stored = tile["sentinel2"][[store.modalities["sentinel2"].bands.index(b) for b in bands]]
        np.testing.assert_array_equal(stored, expected)
        with rasterio.open(test_data / "terramesh" / "S1RTC" / f"{facts['site']}.tif") as file:
            radar = tile["sentinel1"][~np.isnan(tile["sentinel1"]).all(axis=(1, 2))]
            np.testing.assert_array_equal(radar, file.read(window=window).astype(np.float32))
        seen += 1
    assert seen == 45


def test_xarray_zarr_and_the_front_door_read_the_same(terramesh: Path) -> None:
    store = open_store(terramesh)
    plain = xr.open_zarr(terramesh, mask_and_scale=False)
    group = zarr.open_group(terramesh, mode="r")
    for name, modality in store.modalities.items():
        if not modality.stored:
            continue
        ours = store.read(name, slice(0, 45))
        np.testing.assert_array_equal(ours, plain[name].values)
        np.testing.assert_array_equal(ours, group[name][:])
        masked = store.dataset[name].values
        assert np.isnan(masked).sum() == (~modality.observed(ours)).sum(), "masked where nothing was observed"


def test_labels_come_from_the_ecoregion_polygons(terramesh: Path) -> None:
    store = open_store(terramesh)
    assert {"biome", "eco_region"} <= set(store.modalities)
    assert np.all(store.read("biome", slice(0, 45)) < 14)


def test_two_builds_are_equal_byte_for_byte_and_a_finished_one_is_left_alone(
    terramesh: Path, test_data: Path, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMEARTH_TEST_DATA", str(test_data))
    ecoregions = test_data / "ecoregions" / "resolve2017_simplified.gpkg"
    command = ("build", "--source", f"rasters:{repository / MAPPING}", "--tile-size", 64, "--ecoregions", ecoregions)
    again = tmp_path / "again.zarr"
    assert call(*command, "--threads", 1, "--out", again).exit_code == 0
    assert digests(again) == digests(terramesh)
    before = {p: p.stat().st_mtime_ns for p in terramesh.rglob("*")}
    assert call(*command, "--out", terramesh).exit_code == 0
    assert {p: p.stat().st_mtime_ns for p in terramesh.rglob("*")} == before


def test_inspect_tells_what_is_there(terramesh: Path, tmp_path: Path) -> None:
    summary = json.loads(call("inspect", terramesh, "--json").stdout)
    assert summary["synthetic"] is False
    assert "radiometric offset not harmonised" in json.dumps(summary)
    assert "RTC" in json.dumps(summary)
    text = call("inspect", terramesh).stdout
    assert "sentinel2" in text
    picture = tmp_path / "tile.png"
    assert call("inspect", terramesh, "--tile", 3, "--figure", picture).exit_code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_verify_finds_a_flipped_byte(terramesh: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy.zarr"
    shutil.copytree(terramesh, copy)
    assert call("verify", copy).exit_code == 0
    shard = copy / "sentinel2" / "c" / "1" / "0" / "0" / "0"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    result = call("verify", copy)
    assert result.exit_code == 1
    assert "sentinel2/c/1" in result.stdout


def test_inspect_finds_the_one_store_of_the_folder(terramesh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(terramesh.parent)
    assert json.loads(call("inspect", "--json").stdout)["tiles"]


@pytest.mark.parametrize("name", ["-lead.zarr", "my store#1.zarr"])
def test_the_command_that_a_build_prints_can_be_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    built = call("build", "--recipe", "demo", "--tiles", 4, "--tile-size", 16, f"--out={name}")
    program, *words = shlex.split(built.stdout.partition("Inspect it: ")[2])
    assert program == "mmearth-data"
    assert json.loads(call(*words, "--json").stdout)["tiles"]


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("size", [0, 100, 4096, -64])
def test_tile_size(size: int, tmp_path: Path) -> None:
    out = tmp_path / "x.zarr"
    refused("build", "--source", "synthetic", "--tile-size", size, "--out", out, word="multiple of 16")
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--source", "moon"), "synthetic"),
        (("--source", "rasters:"), "rasters"),
        (("--source", "rasters:absent.yaml"), "absent.yaml"),
        (("--modalities", "sentinel7"), "sentinel2"),
        (("--modalities", ""), "modalit"),
        (("--tiles", 0), "tiles"),
        (("--seed", -1), "seed"),
        (("--split-shares", "50,50"), "split_shares"),
        (("--split-shares", "a,b,c"), "split_shares"),
        (("--years", "MMXX"), "years"),
        (("--recipe", "absent"), "recipe"),
        (("--catalog", "absent"), "absent"),
    ],
)
def test_options(options: tuple[object, ...], word: str, tmp_path: Path) -> None:
    out = tmp_path / "x.zarr"
    base = () if "--source" in options else ("--source", "synthetic")
    refused("build", *base, "--tile-size", 64, *options, "--out", out, word=word)
    assert not out.exists()


def test_mapping_is_not_yaml(tmp_path: Path) -> None:
    mapping = tmp_path / "m.yaml"
    mapping.write_text("root: [never closed\n")
    refused("build", "--source", f"rasters:{mapping}", "--out", tmp_path / "x.zarr", word="m.yaml")


def test_out_is_a_folder_of_other_things(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    refused("build", "--source", "synthetic", "--tiles", 4, "--out", tmp_path, word="other files")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_out_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("keep me")
    refused("build", "--source", "synthetic", "--tiles", 4, "--out", file, word="found a file")
    assert file.read_text() == "keep me"


def test_a_store_of_another_recipe_says_what_differs(
    terramesh: Path, test_data: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMEARTH_TEST_DATA", str(test_data))
    before = digests(terramesh)
    ecoregions = test_data / "ecoregions" / "resolve2017_simplified.gpkg"
    source = ("--source", f"rasters:{repository / MAPPING}", "--ecoregions", ecoregions)
    refused("build", *source, "--tile-size", 64, "--seed", 9, "--out", terramesh, word="recipe.seed: 0 -> 9")
    refused("build", *source, "--tile-size", 32, "--out", terramesh, word="recipe.tile_size: 64 -> 32")
    assert digests(terramesh) == before


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_no_store(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(command, tmp_path / "absent.zarr", word="absent.zarr")
    refused(command, tmp_path, word=str(tmp_path))
    monkeypatch.chdir(tmp_path)
    refused(command, word="got none")
    (tmp_path / "broken.zarr").mkdir()
    (tmp_path / "broken.zarr" / "zarr.json").write_text("{")
    assert call(command, tmp_path / "broken.zarr").exit_code in (1, 2)


def test_pictures_must_be_png(terramesh: Path, tmp_path: Path) -> None:
    refused("inspect", terramesh, "--figure", tmp_path / "tile.jpg", word="tile.png")
    refused("inspect", terramesh, "--tile", 99, "--figure", tmp_path / "tile.png", word="99")
    refused("inspect", terramesh, "--tile", "zzz", "--figure", tmp_path / "tile.png", word="zzz")
    assert list(tmp_path.iterdir()) == []


def test_catalog_entries_of_ones_own_are_checked(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\nkind: raster/sideways\n")
    refused("catalog", "--catalog", tmp_path, word="mine.yaml")
    refused("catalog", "sentinel7", word="sentinel2")


def test_the_catalog_is_shown_as_a_table_and_entry_by_entry() -> None:
    assert "sentinel2" in call("catalog").stdout
    assert "Mangroves" in call("catalog", "esa_worldcover").stdout


def test_no_arguments_show_help_and_the_version_is_told() -> None:
    assert "Usage" in (call().stdout + call().stderr)
    assert call("--version").stdout.startswith("mmearth-data, version ")
