"""The published HDF5 form, there and back: nothing observed is lost, and readers of that form open what is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from published_world import NAME, PublishedReader, band_stats, make_published, observed
from store_making import make_columns, make_values

from mmearth_data import (
    InputError,
    export,
    import_hdf5,
    load_catalog,
    map_figure,
    open_store,
    published_statistics,
    subset,
    summarise,
    verify,
)
from mmearth_data.building.executor import Progress
from mmearth_data.cli import cli
from mmearth_data.inspection.facts import plan_facts
from mmearth_data.store import StoreLayout, StoreWriter
from mmearth_data.store.encoding import digest_of

ROWS = 21


def digests(folder: Path) -> dict[str, str]:
    files = (f for f in folder.rglob("*") if f.is_file() and "_ledger" not in f.parts)
    return {str(f.relative_to(folder)): digest_of(f.read_bytes()) for f in files}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_published(tmp_path_factory.mktemp("published") / "in", ROWS)


@pytest.fixture(scope="module")
def imported(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("imported") / "s.zarr"
    import_hdf5(published, out)
    return out


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of ours, with an empty row, tiles of two levels and a tile without a date."""
    path = tmp_path_factory.mktemp("native") / "n.zarr"
    modalities = load_catalog().select()
    layout = StoreLayout(modalities=modalities, tiles=ROWS, size_px=16, tiles_per_shard=8)
    writer = StoreWriter.create(path, layout, recipe={"seed": 1}, source={"name": "made up"}, synthetic=True)
    for shard in range(layout.shards):
        columns = make_columns(layout, shard, (2,) if shard == 0 else ())
        rasters = {m.name: make_values(m, layout, shard) for m in layout.rasters}
        for m in layout.rasters:
            if m.dtype == np.uint8 and m.kind.is_continuous:
                rasters[m.name] = np.where(m.observed(rasters[m.name]), rasters[m.name] // 3, m.nodata).astype("uint8")
            if shard == 0:
                rasters[m.name][2] = m.nodata
        writer.write_shard(shard, columns, rasters)
    writer.finish()
    return path


# ---------------------------------------------------------------- HDF5 -> store -> HDF5


def test_every_observed_value_and_every_key_come_back(published: Path, imported: Path, tmp_path: Path) -> None:
    assert export(imported, tmp_path, name=NAME) == tmp_path / NAME
    reader = PublishedReader(tmp_path, NAME)
    with h5py.File(published / f"{NAME}.h5") as before:
        assert set(before) == set(reader.file)
        np.testing.assert_array_equal(before["metadata"][:], reader.file["metadata"][:])
        for name in set(before) - {"metadata"}:
            old, new = before[name][:], reader.file[name][:]
            seen = observed(name, old)
            assert new.dtype == old.dtype
            assert np.array_equal(observed(name, new), seen), name
            assert np.array_equal(old[seen], new[seen]), name
            assert len(np.unique(new[~seen])) <= 1, f"{name}: missing values come back in one spelling"
    given = json.loads((published / f"{NAME}_tile_info.json").read_text(encoding="utf-8"))
    assert set(given) - set(reader.tile_info) == {"never_made"}
    for name, entry in reader.tile_info.items():
        assert json.dumps(entry, sort_keys=True) == json.dumps(given[name], sort_keys=True)
    splits = json.loads((published / f"{NAME}_splits.json").read_text())
    assert {k: sorted(v) for k, v in reader.splits.items()} == {k: sorted(v) for k, v in splits.items()}


def test_what_the_form_lacks_is_not_known_in_the_store(imported: Path, tmp_path: Path) -> None:
    store = open_store(imported)
    assert verify(imported).problems == ()
    assert np.isnan(store.coords["ulx"]).all()
    assert np.isnan(store.coords["s1_asc_days"]).all()
    assert np.isnat(store.coords["time"][4])
    assert store.coords["epsg"][5] == 0
    frame = store.tiles
    assert frame.geometry.isna().all()
    assert json.loads(frame.facts[3])["mmearth_id"] == "1021_0"
    assert gpd.read_parquet(imported / "tiles.parquet").geometry.isna().all()
    assert not store.synthetic
    assert summarise(store).to_dict()["tiles"]
    assert map_figure(store, tmp_path / "map.png").is_file()
    words = {label for table in plan_facts(store[5], store.modalities.values()) for label, *_ in table.rows}
    assert "centre" in words
    assert not {"grid", "corner"} & words


def test_the_store_holds_what_the_file_says(published: Path, imported: Path) -> None:
    store = open_store(imported)
    with h5py.File(published / f"{NAME}.h5") as file:
        m = store.modalities["canopy_height_eth"]
        heights = store.read(m.name, slice(0, ROWS))
        raw = file[m.name][:]
        np.testing.assert_array_equal(m.observed(heights), (raw >= 0) & (raw != 127))
        np.testing.assert_array_equal(heights[raw == 126], 126)
        cover = store.read("esa_worldcover", slice(0, ROWS))
        assert (cover[np.isin(file["esa_worldcover"][:], [0, 255])] == 0).all()
        biome = store.read("biome", slice(0, ROWS))
        assert biome[6] == 255
        assert biome[13] == 13
        bands = store.modalities["sentinel2"].bands
        reflectance = store.read("sentinel2", slice(3, 4))[0]
        np.testing.assert_array_equal(reflectance[bands.index("B8A")], file["sentinel2"][3, 7])
        np.testing.assert_array_equal(reflectance[bands.index("B8")], file["sentinel2"][3, 8])
    codes = dict(zip((0, 1, 2, 255), ("train", "val", "test", None), strict=True))
    assert [codes[int(code)] for code in store.coords["split"][[1, 5, 10, 20]]] == ["train", "val", "test", None]


def stop_after(rows: int) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if progress.rows_done >= rows:
            raise KeyboardInterrupt

    return report


def test_an_interrupted_import_goes_on_and_ends_in_the_same_bytes(
    published: Path, imported: Path, tmp_path: Path
) -> None:
    out = tmp_path / "s.zarr"
    with pytest.raises(KeyboardInterrupt):
        import_hdf5(published, out, report=stop_after(16))
    assert len(open_store(out)) == 16
    told: list[Progress] = []
    import_hdf5(published, out, report=told.append)
    assert told[0].rows_done == 16, "what was committed is not read again"
    assert digests(out) == digests(imported)
    before = digests(out)
    import_hdf5(published, out)
    assert digests(out) == before


def test_an_interrupted_export_goes_on_and_leaves_nothing_behind(imported: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        export(imported, tmp_path, name=NAME, report=stop_after(16))
    assert not (tmp_path / NAME).exists()
    part = tmp_path / f".{NAME}.partial" / "0.h5"
    stamp = part.stat().st_mtime_ns
    (tmp_path / f".{NAME}.partial" / ".1.h5.partial").write_bytes(b"half a file")
    (tmp_path / f".{NAME}.partial" / NAME).mkdir()
    (tmp_path / f".{NAME}.partial" / NAME / f"{NAME}.h5").write_bytes(b"half a file")
    with pytest.raises(KeyboardInterrupt):
        export(imported, tmp_path, name=NAME, report=stop_after(16))
    assert part.stat().st_mtime_ns == stamp
    export(imported, tmp_path, name=NAME)
    assert sorted(path.name for path in tmp_path.iterdir()) == [NAME]
    assert len(PublishedReader(tmp_path, NAME).tile(20)[2]) == 15
    assert export(imported, tmp_path, name=NAME) == tmp_path / NAME


# ---------------------------------------------------------------- a store of ours -> HDF5 -> store


def test_readers_of_the_published_form_open_an_export(native: Path, tmp_path: Path) -> None:
    export(native, tmp_path, name=NAME)
    store = open_store(native)
    reader = PublishedReader(tmp_path, NAME, "train")
    assert len(reader) == len(store.select(split="train"))
    for position in range(len(reader)):
        name, entry, arrays = reader.tile(position)
        tile = store[position]
        assert name == f"{int(tile['tile']['tile_id']):016x}"
        assert arrays["sentinel2"].shape == (13, 16, 16)
        np.testing.assert_array_equal(arrays["sentinel2"], tile["sentinel2"])
        assert arrays["biome"].sum() == (tile["biome"] != 255)
        assert (arrays["canopy_height_eth"] == 127).sum() == (tile["canopy_height_eth"] == 255).sum()
        assert (arrays["esa_worldcover"] == 255).sum() == (tile["esa_worldcover"] == 0).sum()
        assert entry["CRS"] == f"EPSG:{int(tile['tile']['epsg'])}"
        assert entry["S2_type"] == ("l2a" if tile["tile"]["s2_level"] == 1 else "l1c")
        assert entry.get("biome", 255) == tile["biome"]
        assert ("S2_DATE" in entry) == (not np.isnat(tile["tile"]["time"]))
        assert np.isfinite(reader.normalised(position, "sentinel2")).all()
        radar = reader.normalised(position, "sentinel1")
        assert np.isfinite(radar).sum() == np.isfinite(tile["sentinel1"]).sum()
    every = [reader.normalised(position, "aster") for position in range(len(reader))]
    seen = [reader.tile(position)[2]["aster"] != -32768 for position in range(len(reader))]
    values = np.concatenate([v[s] for v, s in zip(every, seen, strict=True)])
    assert abs(values.mean()) < 0.6, "band statistics are those of the train split"
    assert all(data.chunks[0] == 1 and data.compression == "gzip" for data in reader.file.values())
    assert reader.file.attrs["synthetic"]


def test_a_store_of_ours_survives_the_journey(native: Path, tmp_path: Path) -> None:
    export(native, tmp_path / "h5")
    back = import_hdf5(tmp_path / "h5", tmp_path / "back.zarr")
    store = open_store(native)
    assert back.synthetic, "synthetic pixels stay marked"
    assert len(back) == len(store) == ROWS - 1
    for name, column in store.coords.items():
        if name == "time":
            np.testing.assert_array_equal(back.coords[name], column)
        elif name != "valid":
            np.testing.assert_array_equal(back.coords[name], column, err_msg=name)
    for name, m in store.modalities.items():
        if m.stored:
            here = store.read(name, slice(0, ROWS))[store.rows]
            np.testing.assert_array_equal(back.read(name, slice(0, ROWS - 1)), here, err_msg=name)
    facts = [json.loads(text) for text in back.tiles.facts]
    assert [entry["scene"] for entry in facts] == [json.loads(text)["scene"] for text in store.tiles.facts]


def test_heights_that_the_form_cannot_tell_from_missing_ones_are_refused(tmp_path: Path) -> None:
    layout = StoreLayout(
        modalities=load_catalog().select(["canopy_height_eth"]), tiles=1, size_px=16, tiles_per_shard=16
    )
    writer = StoreWriter.create(tmp_path / "s.zarr", layout, recipe={}, source={"name": "x"}, synthetic=False)
    writer.write_shard(0, make_columns(layout, 0), {"canopy_height_eth": np.full((1, 2, 16, 16), 127, dtype=np.uint8)})
    writer.finish()
    refused("export", tmp_path / "s.zarr", "--format", "mmearth-h5", "--out", tmp_path / "out", word="127")


# ---------------------------------------------------------------- missing values, for the released training code


def told(store: Path, out: Path, *options: str) -> list[str]:
    """Lines written to stderr by an export."""
    result = CliRunner().invoke(cli, ["export", str(store), "--format", "mmearth-h5", "--out", str(out), *options])
    assert result.exit_code == 0, result.stderr
    return result.stderr.splitlines()


def test_missing_climate_is_nan_because_infinities_stop_the_released_training(imported: Path, tmp_path: Path) -> None:
    export(imported, tmp_path, name=NAME)
    climate = PublishedReader(tmp_path, NAME).file["era5"][:]
    assert not np.isinf(climate).any()
    assert np.isnan(climate[2]).all()
    assert np.argwhere(np.isnan(climate[3:5])).tolist() == [[0, 4], [1, 3]]


def test_an_export_counts_what_the_released_code_takes_for_values(native: Path, tmp_path: Path) -> None:
    (line,) = (line for line in told(native, tmp_path, "--name", NAME) if "treats as data" in line)
    file = PublishedReader(tmp_path, NAME).file
    bands = [k for k in range(13) if k != 10]  # models do not see B10
    counts = {
        "aster (-32768)": (file["aster"][:] == -32768).sum(),
        "canopy_height_eth (127)": (file["canopy_height_eth"][:] == 127).sum(),
        "sentinel2 (0)": (file["sentinel2"][:][:, bands] == 0).sum(),
    }
    assert all(f"{count:,} of {name}" in line for name, count in counts.items()), (line, counts)
    assert "--fill aster=mean" in line
    assert "sentinel1" not in line
    assert "era5" not in line


def test_means_stand_in_for_what_is_missing_and_nothing_else_changes(native: Path, tmp_path: Path) -> None:
    """Means over the train split, computed independently from the pixels."""
    filled = ("aster", "canopy_height_eth", "sentinel2", "era5")
    told(native, tmp_path / "plain", "--name", NAME)
    plain = PublishedReader(tmp_path / "plain", NAME, "train")
    lines = told(
        native, tmp_path / "filled", "--name", NAME, *(word for f in filled for word in ("--fill", f"{f}=mean"))
    )
    other = PublishedReader(tmp_path / "filled", NAME)
    assert not any("treats as data" in line for line in lines)
    assert len([line for line in lines if "written as the mean of the train split" in line]) == len(filled)
    levels = plain.file["metadata"]["S2_type"]
    for name in set(plain.file) - {"metadata"}:
        old, new = plain.file[name][:], other.file[name][:]
        seen = observed(name, old)
        np.testing.assert_array_equal(new[seen], old[seen])
        if name not in filled:
            np.testing.assert_array_equal(new, old)
            continue
        for row, band in np.argwhere(~seen.reshape(*old.shape[:2], -1).all(axis=2)):
            alike = [r for r in plain.rows if name != "sentinel2" or levels[r] == levels[row]]
            values = old[alike, band][seen[alike, band]].astype(float)
            gap = new[row, band][~seen[row, band]]
            if name == "sentinel2" and levels[row] == b"":
                assert (gap == 0).all(), "a tile of no level has no mean"
            elif name == "era5":
                np.testing.assert_allclose(gap, values.mean(), rtol=1e-5)
            elif len(values):
                assert (gap == round(values.mean())).all(), (name, row, band)
    assert json.loads((tmp_path / "filled" / NAME / f"{NAME}_band_stats.json").read_text()) == plain.statistics
    assert other.tile_info == plain.tile_info, "a filled band is not said to be observed"


def test_a_filled_export_is_another_one(native: Path, tmp_path: Path) -> None:
    out = ("--format", "mmearth-h5", "--out", tmp_path, "--name", NAME)
    with pytest.raises(KeyboardInterrupt):
        export(native, tmp_path, name=NAME, fill={"aster": "mean"}, report=stop_after(8))
    refused("export", native, *out, word="in progress")
    told(native, tmp_path, "--name", NAME, "--fill", "aster=mean")
    told(native, tmp_path, "--name", NAME, "--fill", "aster=mean")
    refused("export", native, *out, word="another data set")


@pytest.mark.parametrize(
    ("fill", "word"),
    [
        ("aster", "expected MODALITY=mean"),
        ("=mean", "expected MODALITY=mean"),
        ("aster=0", "expected aster=mean, got aster=0"),
        ("biome=mean", "got 'biome'"),
        ("lat=mean", "got 'lat'"),
        ("esa_worldcover=mean", "got 'esa_worldcover'"),
        ("snow=mean", "expected a continuous modality of the export (sentinel2, sentinel1, aster"),
    ],
)
def test_what_cannot_be_filled_is_refused(native: Path, tmp_path: Path, fill: str, word: str) -> None:
    refused("export", native, "--format", "mmearth-h5", "--out", tmp_path / "out", "--fill", fill, word=word)
    assert not (tmp_path / "out").exists()


def test_geotiffs_are_not_filled(native: Path, tmp_path: Path) -> None:
    refused("export", native, "--format", "geotiff", "--out", tmp_path / "out", "--fill", "aster=mean", word="--fill")


# ---------------------------------------------------------------- published statistics


def test_the_published_statistics_stay_with_the_store_and_its_parts(imported: Path, tmp_path: Path) -> None:
    part = tmp_path / "part.zarr"
    subset(imported, part, split=["train"])
    expected = band_stats()
    for path in (imported, part):
        store = open_store(path)
        found = published_statistics(store, ["sentinel2", "sentinel1", "era5", "month"])["train"]
        level = found["sentinel2"]["L2A"]
        names = load_catalog().modalities["sentinel2"].bands
        in_file = [*names[:7], "B8A", "B8", *names[9:]]
        for key in ("mean", "std"):
            assert [level[band][key] for band in in_file] == expected["sentinel2_l2a"][key]
            assert [entry[key] for entry in found["era5"]["-"].values()] == expected["era5"][key]
            assert [entry[key] for entry in found["month"]["-"].values()] == expected["month"][key]
        assert found["sentinel2"]["L1C"]["B1"]["mean"] == expected["sentinel2_l1c"]["mean"][0]
        counts = [entry["count"] for entry in found["sentinel1"]["-"].values()]
        assert counts == [1, 1, 0, 1, 1, 1, 1, 1], "a band without statistics was never observed"
        assert verify(path).problems == ()


def test_a_store_without_published_statistics_says_so(native: Path, imported: Path) -> None:
    with pytest.raises(InputError, match=r"--statistics published: expected a store with the band_stats\.json"):
        published_statistics(open_store(native), ["aster"])
    with pytest.raises(InputError, match="got none of copernicus_dem; use --statistics store"):
        published_statistics(open_store(imported), ["aster", "copernicus_dem"])


# ---------------------------------------------------------------- bad input


def refused(*arguments: object, word: str) -> None:
    """One line with the word, exit code 2."""
    result = CliRunner().invoke(cli, [str(a) for a in arguments])
    assert result.exit_code == 2, (result.stdout, result.stderr, result.exception)
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("Error: "))
    assert word in line, line
    assert result.stdout == ""


def rewrite(change: Callable[[h5py.File], None]) -> Callable[[Path], None]:
    def broken(folder: Path) -> None:
        with h5py.File(folder / f"{NAME}.h5", "a") as file:
            change(file)

    return broken


def rewrite_json(stem: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def broken(folder: Path) -> None:
        path = folder / f"{NAME}_{stem}.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(change(content) or content), encoding="utf-8")

    return broken


def cut(stem: str, share: float) -> Callable[[Path], None]:
    def broken(folder: Path) -> None:
        path = folder / f"{NAME}{stem}"
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    return broken


def shorten(file: h5py.File) -> None:
    values = file["aster"][:-1]
    del file["aster"]
    file["aster"] = values


def put(name: str, at: tuple[int, ...], value: Any) -> Callable[[Path], None]:
    def change(file: h5py.File) -> None:
        file[name][at] = value

    return rewrite(change)


def same_place(content: dict[str, Any]) -> None:
    first, second = (content[key] for key in ("1007_0", "1014_0"))
    second.update({key: first[key] for key in ("lat", "lon", "S2_DATE")})


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated HDF5": (cut(".h5", 0.6), "complete HDF5 file"),
    "HDF5 without its end": (cut(".h5", 0.999), "complete HDF5 file"),
    "empty HDF5": (cut(".h5", 0), "complete HDF5 file"),
    "no HDF5": (lambda folder: (folder / f"{NAME}.h5").unlink(), "expected one data set"),
    "no splits": (lambda folder: (folder / f"{NAME}_splits.json").unlink(), "_splits.json"),
    "no tile_info": (lambda folder: (folder / f"{NAME}_tile_info.json").unlink(), "_tile_info.json"),
    "no statistics": (lambda folder: (folder / f"{NAME}_band_stats.json").unlink(), "_band_stats.json"),
    "truncated tile_info": (cut("_tile_info.json", 0.7), "tile_info.json"),
    "truncated splits": (cut("_splits.json", 0.5), "splits.json"),
    "arrays of unequal length": (rewrite(shorten), "aster: expected the shape (21"),
    "array of another form": (rewrite(lambda file: file.create_dataset("ndvi", (21,), "f4")), "ndvi"),
    "no metadata": (rewrite(lambda file: file.pop("metadata")), "metadata"),
    "id of two rows": (put("metadata", (4,), (b"1021_0", b"l2a")), "'1021_0' twice"),
    "id that tile_info lacks": (rewrite_json("tile_info", lambda c: {k: c[k] for k in c if k != "1070_0"}), "1070_0"),
    "tile without a location": (rewrite_json("tile_info", lambda c: c["1070_0"].update(lat=None)), "lat"),
    "row that is not there": (rewrite_json("splits", lambda c: c["val"].append(21)), "0 to 20"),
    "row in two splits": (rewrite_json("splits", lambda c: c["val"].append(c["test"][0])), "twice"),
    "split of another name": (rewrite_json("splits", lambda c: {**c, "holdout": []}), "holdout"),
    "unknown class": (put("esa_worldcover", (3, 0, 0, 0), 11), "esa_worldcover"),
    "two classes at once": (put("biome", (3,), 1), "biome"),
    "same location and date": (rewrite_json("tile_info", same_place), "--skip-duplicates"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_bad_input_is_one_line_and_leaves_nothing(case: str, published: Path, tmp_path: Path) -> None:
    change, word = BROKEN[case]
    shutil.copytree(published, tmp_path / "in")
    change(tmp_path / "in")
    refused("import", tmp_path / "in", "--out", tmp_path / "s.zarr", word=word)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_tiles_that_repeat_another_are_left_out_on_request(published: Path, tmp_path: Path) -> None:
    shutil.copytree(published, tmp_path / "in")
    BROKEN["same location and date"][0](tmp_path / "in")
    store = import_hdf5(tmp_path / "in", tmp_path / "s.zarr", skip_duplicates=True)
    assert len(store) == ROWS - 1
    assert verify(store.path).problems == ()
    (rejected,) = gpd.pd.read_parquet(tmp_path / "s.zarr" / "rejected.parquet").to_dict("records")
    assert rejected["reason"] == "duplicate"
    assert "1014_0" in rejected["detail"]


def test_an_unfinished_store_and_a_taken_folder_are_refused(published: Path, imported: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        import_hdf5(published, tmp_path / "s.zarr", report=stop_after(16))
    out = tmp_path / "out"
    refused("export", tmp_path / "s.zarr", "--format", "mmearth-h5", "--out", out, word="finished store")
    (out / NAME).mkdir(parents=True)
    refused("export", imported, "--format", "mmearth-h5", "--out", out, "--name", NAME, word="--out or --name")
    refused("export", imported, "--format", "mmearth-h5", "--out", out, "--name", "../up", word="--name")
    other = make_published(tmp_path / "other", seed=1)
    refused("import", other, "--out", imported, word="ids")
