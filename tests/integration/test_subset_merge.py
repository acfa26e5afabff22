"""Parts of stores and stores put together: the right tiles, whole shards byte for byte, statistics of what is there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from store_making import empty_positions, make_columns, make_rasters, make_rejected

from mmearth_data import Progress, Store, load_catalog, merge, open_store, read_ids, subset, verify
from mmearth_data.catalog.tile import tile_ids
from mmearth_data.cli import cli
from mmearth_data.store import StoreLayout, StoreWriter
from mmearth_data.store.encoding import digest_of

MODALITIES = ("sentinel2", "esa_worldcover", "era5", "month", "biome")
TILES, SIZE_PX, PER_SHARD = 29, 32, 8


def make(path: Path, shift: float = 0.0, modalities: tuple[str, ...] = MODALITIES, per_shard: int = PER_SHARD) -> Path:
    """A store whose last shard is not full and which has empty rows; locations may be shifted to the north."""
    layout = StoreLayout(
        modalities=load_catalog().select(modalities), tiles=TILES, size_px=SIZE_PX, tiles_per_shard=per_shard
    )
    writer = StoreWriter.create(path, layout, recipe={"seed": 1}, source={"name": "made up"}, synthetic=True)
    for shard in range(layout.shards):
        empty = empty_positions(layout, shard)
        columns = make_columns(layout, shard, empty)
        columns["lat"] = np.round(columns["lat"] + shift, 6)
        columns["tile_id"] = tile_ids(columns["lon"], columns["lat"], SIZE_PX)
        columns["tile_id"][list(empty)] = 0
        rasters = make_rasters(layout, shard, empty)
        rasters["esa_worldcover"][1] = 0  # so that the bits of `valid` differ from modality to modality
        writer.write_shard(shard, columns, rasters, make_rejected(shard))
    writer.finish()
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("one") / "one.zarr")


@pytest.fixture(scope="module")
def another(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("two") / "two.zarr", shift=1.0)


def tiles_of(store: Store) -> dict[tuple[int, int], dict[str, np.ndarray]]:  # type: ignore[type-arg]
    """Every stored value of every tile, by id and time."""
    whole = {name: store.read(name, slice(0, store.layout.tiles)) for name, m in store.modalities.items() if m.stored}
    whole |= {name: store.tile_columns[name] for name in store.tile_columns if name != "valid"}
    facts = dict(zip(store.rows.tolist(), store.tiles.facts, strict=True))
    time = store.tile_columns["time"].astype(np.int64)
    return {
        (int(whole["tile_id"][row]), int(time[row])): {
            **{name: values[row] for name, values in whole.items()},
            "facts": np.array(facts[row]),
        }
        for row in store.rows.tolist()
    }


def assert_tiles(store: Store, expected: dict[tuple[int, int], dict[str, np.ndarray]]) -> None:  # type: ignore[type-arg]
    found = tiles_of(store)
    assert found.keys() == expected.keys()
    for key, tile in found.items():
        for name, values in tile.items():
            np.testing.assert_array_equal(values, expected[key][name], err_msg=name)


def assert_statistics(store: Store) -> None:
    """Count, mean, deviation and extremes are those of the pixels that are there."""
    rows = store.rows
    for name, by, level in (("sentinel2", 1, "L2A"), ("sentinel2", 0, "L1C"), ("era5", None, "-")):
        m = store.modalities.get(name)
        if m is None:
            continue
        kept = rows if by is None else rows[store.tile_columns["s2_level"][rows] == by]
        for split, chosen in (("all", kept), ("train", kept[store.tile_columns["split"][kept] == 0])):
            values = store.read(name, slice(0, store.layout.tiles))[chosen][:, 0].astype(np.float64)
            seen = values[m.observed(values.astype(m.dtype))]
            entry = store.statistics[split][name].get(level, {}).get(m.bands[0], {"count": 0})
            assert entry["count"] == seen.size
            if seen.size:
                assert entry["mean"] == pytest.approx(seen.mean(), rel=1e-9)
                assert entry["std"] == pytest.approx(seen.std(), rel=1e-6)
                assert (entry["min"], entry["max"]) == (seen.min(), seen.max())


def check(store: Store) -> None:
    assert verify(store.path).problems == ()
    assert_statistics(store)
    assert store.synthetic


def objects_of(path: Path, modality: str) -> set[str]:
    return {digest_of(file.read_bytes()) for file in (path / modality / "c").rglob("*") if file.is_file()}


def stop_after(rows: int) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if progress.rows_done >= rows:
            raise KeyboardInterrupt

    return report


# ---------------------------------------------------------------- subset


def test_a_subset_of_modalities_copies_every_full_shard(store: Path, tmp_path: Path) -> None:
    made = subset(store, tmp_path / "s.zarr", modalities=["esa_worldcover", "era5", "month"])
    check(made)
    assert list(made.modalities) == ["esa_worldcover", "era5", "month"]
    assert not (tmp_path / "s.zarr" / "sentinel2").exists()
    whole = tiles_of(open_store(store))
    names = {"era5", "esa_worldcover", "facts", *made.tile_columns} - {"valid"}
    assert_tiles(made, {key: {name: tile[name] for name in names} for key, tile in whole.items()})
    assert len(objects_of(store, "esa_worldcover") & objects_of(tmp_path / "s.zarr", "esa_worldcover")) >= 3
    masks = [(mask, name) for mask, name in zip((1, 2), ("esa_worldcover", "era5"), strict=True)]
    for mask, name in masks:
        values = made.read(name, slice(0, made.layout.tiles))
        seen = made.modalities[name].observed(values).any(tuple(range(1, values.ndim)))
        np.testing.assert_array_equal((made.tile_columns["valid"] & mask) > 0, seen)
    recipe = made.recipe["subset"]
    assert recipe == {"of": [open_store(store).digest], "modalities": ["esa_worldcover", "era5", "month"]}


@pytest.mark.parametrize(
    "part",
    [
        {"split": ["train"]},
        {"biome": [0, 1, 2, 3, "Mangroves"]},
        {"split": ["train"], "region": "bbox:-100,-90,100,90", "modalities": ["era5", "biome"]},
    ],
    ids=lambda part: "+".join(part),
)
def test_a_subset_holds_the_tiles_that_select_gives(part: dict[str, object], store: Path, tmp_path: Path) -> None:
    source = open_store(store)
    selected = source.select(**part)  # type: ignore[arg-type]
    made = subset(store, tmp_path / "s.zarr", **part)
    check(made)
    assert 0 < len(made) < len(source)
    wanted = {key for key, tile in tiles_of(source).items() if int(tile["tile_id"]) in selected.coords["tile_id"]}
    names = {name for name, m in made.modalities.items() if m.stored} | {"facts", *made.tile_columns} - {"valid"}
    whole = tiles_of(source)
    assert_tiles(made, {key: {name: whole[key][name] for name in names} for key in wanted})


def test_a_random_share_is_nested_seeded_and_of_the_right_size(store: Path, tmp_path: Path) -> None:
    ids = {}
    for name, share, seed in (("small", 0.2, 3), ("large", 0.5, 3), ("other", 0.5, 4)):
        made = subset(store, tmp_path / name, share=share, seed=seed, modalities=["esa_worldcover"])
        ids[name] = set(made.coords["tile_id"].tolist())
        assert len(made) == round(share * len(open_store(store)))
    assert ids["small"] < ids["large"]
    assert ids["large"] != ids["other"]


def test_a_list_of_ids_may_name_them_as_published(store: Path, tmp_path: Path) -> None:
    wanted = open_store(store).coords["tile_id"][[3, 17]]
    (tmp_path / "ids.txt").write_text("\n".join(f"{tile_id:016x}" for tile_id in wanted.tolist()) + "\n\n")
    call("subset", store, "--out", tmp_path / "s.zarr", "--ids", tmp_path / "ids.txt")
    assert open_store(tmp_path / "s.zarr").coords["tile_id"].tolist() == wanted.tolist()
    refused("subset", store, "--out", tmp_path / "t.zarr", "--ids", "55d4a802aea54004,no-such", word="got 2 of others")


def test_texts_that_are_too_long_for_the_name_of_a_file_are_read_as_what_they_are(store: Path, tmp_path: Path) -> None:
    """A name has at most 255 bytes (Linux, limits.h), 16 ids with their commas have 271."""
    wanted = open_store(store).coords["tile_id"][:16]
    ids = [f"{tile_id:016x}" for tile_id in wanted.tolist()]
    assert read_ids(",".join(ids)) == ids
    call("subset", store, "--out", tmp_path / "ids.zarr", "--ids", ",".join(ids))
    assert open_store(tmp_path / "ids.zarr").coords["tile_id"].tolist() == wanted.tolist()
    zeros = "0" * 100
    call("subset", store, "--out", tmp_path / "box.zarr", "--region", f"bbox:-180.{zeros},-90.{zeros},180.{zeros},90")
    assert len(open_store(tmp_path / "box.zarr")) == len(open_store(store))


def test_a_crop_is_the_middle_of_the_tile_around_the_same_place(store: Path, tmp_path: Path) -> None:
    made = subset(store, tmp_path / "s.zarr", crop=16)
    check(made)
    before = tiles_of(open_store(store))
    assert len(made) == len(before)
    outlines = dict(zip(open_store(store).coords["tile_id"].tolist(), open_store(store).tiles.geometry, strict=True))
    after = dict(zip(made.coords["tile_id"].tolist(), made.tiles.geometry, strict=True))
    for (tile_id, time), old in before.items():
        new = tiles_of(made)[((tile_id & ~127) | 1, time)] if tile_id == next(iter(before))[0] else None
        small = after[(tile_id & ~127) | 1]
        assert outlines[tile_id].contains(small)
        assert small.centroid.distance(outlines[tile_id].centroid) < 1e-6
        if new is not None:
            for name in ("sentinel2", "esa_worldcover"):
                np.testing.assert_array_equal(new[name], old[name][:, 8:24, 8:24])
            facts = json.loads(str(new["facts"]))
            assert (facts["crop_of"], facts["crop_offset_px"]) == (f"{tile_id:016x}", 8)
            np.testing.assert_array_equal(new["era5"], old["era5"])


def test_an_interrupted_subset_goes_on_and_ends_in_the_same_bytes(store: Path, tmp_path: Path) -> None:
    subset(store, tmp_path / "once", split=["train", "val"])
    with pytest.raises(KeyboardInterrupt):
        subset(store, tmp_path / "twice", split=["train", "val"], report=stop_after(8))
    subset(store, tmp_path / "twice", split=["train", "val"])
    assert digests(tmp_path / "once") == digests(tmp_path / "twice")
    refused("subset", store, "--out", tmp_path / "once", "--split", "train", word="recipe.subset.split")


def digests(path: Path) -> dict[str, str]:
    files = (f for f in path.rglob("*") if f.is_file() and "_ledger" not in f.parts)
    return {str(f.relative_to(path)): digest_of(f.read_bytes()) for f in files}


@pytest.mark.parametrize("command", ["subset", "merge"])
def test_damage_is_taken_out_by_repair_and_put_back_by_the_command(
    command: str, store: Path, another: Path, tmp_path: Path
) -> None:
    """A copied shard and one that was put together are damaged; the store does not know where its tiles came from."""
    out = tmp_path / "out.zarr"

    def make_it() -> None:
        subset(store, out, share=0.9) if command == "subset" else merge([store, another], out)

    make_it()
    whole = digests(out)
    for shard in (0, len(list((out / "sentinel2/c").iterdir())) - 1):
        (path,) = (f for f in (out / f"sentinel2/c/{shard}").rglob("*") if f.is_file())
        broken = bytearray(path.read_bytes())
        broken[len(broken) // 3] ^= 1
        path.write_bytes(broken)
    assert len(verify(out).problems) >= 2
    refused("verify", out, "--repair", word="run that command again")
    make_it()
    assert digests(out) == whole
    assert verify(out).problems == ()


# ---------------------------------------------------------------- merge


def test_a_merge_holds_the_tiles_of_all_and_copies_full_shards(store: Path, another: Path, tmp_path: Path) -> None:
    made = merge([store, another], tmp_path / "m.zarr")
    check(made)
    assert_tiles(made, tiles_of(open_store(store)) | tiles_of(open_store(another)))
    for name in ("sentinel2", "esa_worldcover"):
        copied = objects_of(tmp_path / "m.zarr", name) & (objects_of(store, name) | objects_of(another, name))
        assert len(copied) >= 3
    assert made.layout.tiles_per_shard == PER_SHARD
    assert made.recipe["merge"]["of"] == [open_store(store).digest, open_store(another).digest]


def test_parts_put_together_again_have_the_statistics_of_the_whole(store: Path, tmp_path: Path) -> None:
    subset(store, tmp_path / "a", split=["train"])
    subset(store, tmp_path / "b", split=["val", "test"])
    made = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "m")
    check(made)
    whole = open_store(store)
    assert_tiles(made, tiles_of(whole))
    assert made.class_histograms == whole.class_histograms
    for band, entry in whole.statistics["all"]["era5"]["-"].items():
        assert made.statistics["all"]["era5"]["-"][band] == pytest.approx(entry)


def test_tiles_in_both_are_refused_with_the_way_out(store: Path, another: Path, tmp_path: Path) -> None:
    subset(store, tmp_path / "train", split=["train"])
    out = tmp_path / "m.zarr"
    refused("merge", store, tmp_path / "train", "--out", out, word="--drop-clashes")
    assert not out.exists()
    call("merge", store, another, tmp_path / "train", "--drop-clashes", "--out", out)
    made = open_store(out)
    check(made)
    assert_tiles(made, tiles_of(open_store(store)) | tiles_of(open_store(another)))


def test_ground_in_two_splits_is_refused_with_the_way_out(tmp_path: Path) -> None:
    for name, lat, split in (("a", 10.0, 0), ("b", 10.0001, 1)):
        layout = StoreLayout(
            modalities=load_catalog().select(["esa_worldcover"]), tiles=2, size_px=SIZE_PX, tiles_per_shard=16
        )
        columns = make_columns(layout, 0)
        columns["lat"][0], columns["lon"][0] = lat, 20.0
        columns["lat"][1] += lat
        columns["split"] = np.array([split, split])
        columns["tile_id"] = tile_ids(columns["lon"], columns["lat"], SIZE_PX)
        writer = StoreWriter.create(tmp_path / name, layout, recipe={}, source={"name": "x"}, synthetic=True)
        writer.write_shard(0, columns, make_rasters(layout, 0))
        writer.finish()
    refused("merge", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "m", word="overlap")
    made = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "m", drop_clashes=True)
    assert verify(made.path).problems == ()
    assert made.coords["split"].tolist().count(1) < 2


# ---------------------------------------------------------------- wrong input


def call(*arguments: object) -> None:
    result = CliRunner().invoke(cli, [str(a) for a in arguments])
    assert result.exit_code == 0, (result.stderr, result.exception)


def refused(*arguments: object, word: str) -> None:
    """One line with the word, exit code 2."""
    result = CliRunner().invoke(cli, [str(a) for a in arguments])
    assert result.exit_code == 2, (result.stdout, result.stderr, result.exception)
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("Error: "))
    assert word in line, line
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--modalities", "snow"), "snow"),
        (("--modalities", "month"), "at least one modality"),
        (("--biome", "Steppe"), "Steppe"),
        (("--region", "Atlantis"), "Atlantis"),
        (("--region", "bbox:0,0,0.001,0.001"), "at least one tile meets"),
        (("--share", "0"), "--share"),
        (("--share", "1.5"), "--share"),
        (("--crop", "64"), "--crop"),
        (("--crop", "20"), "multiple of 16"),
        (("--ids", "xyz"), "xyz"),
    ],
)
def test_conditions_that_cannot_be_met_are_one_line(
    options: tuple[str, ...], word: str, store: Path, tmp_path: Path
) -> None:
    refused("subset", store, "--out", tmp_path / "s.zarr", *options, word=word)
    assert not list(tmp_path.iterdir())


def test_stores_that_do_not_fit_together_are_told_how_to(store: Path, tmp_path: Path) -> None:
    subset(store, tmp_path / "crop", crop=16)
    subset(store, tmp_path / "few", modalities=["sentinel2", "month"])
    refused("merge", store, tmp_path / "crop", "--out", tmp_path / "m", word="subset --crop 16")
    refused("merge", store, tmp_path / "few", "--out", tmp_path / "m", word="subset --modalities sentinel2,month")
    refused("merge", store, "--out", tmp_path / "m", word="at least two")
    assert not (tmp_path / "m").exists()


def test_a_damaged_source_is_named_and_nothing_false_is_written(store: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(store, tmp_path / "broken")
    shard = next((tmp_path / "broken" / "sentinel2" / "c").rglob("0"))
    shard = next(f for f in (tmp_path / "broken" / "sentinel2" / "c" / "0").rglob("*") if f.is_file())
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(bytes(data))
    result = CliRunner().invoke(
        cli, ["subset", str(tmp_path / "broken"), "--out", str(tmp_path / "s"), "--split", "train"]
    )
    assert result.exit_code == 1
    assert "sentinel2/c/0/0/0/0 is damaged" in result.stderr
