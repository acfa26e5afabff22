"""Root attributes as texts and numbers, which other formats can hold; and stores of version 1, which had them nested."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import xarray as xr
import zarr
from append_making import build_sampled, write_ecoregions
from click.testing import CliRunner
from numcodecs import blosc
from store_making import make_store, write_shard
from test_store_damage import flip, reseal
from test_store_growth import LAYOUT, MORE, grow
from test_subset_merge import make

from mmearth_data import Store, merge, subset, verify
from mmearth_data import open_store as front_door
from mmearth_data.building.repair import reopen
from mmearth_data.cli import cli
from mmearth_data.store import StoreWriter, open_store, writer
from mmearth_data.store.items import ITEM_COLUMNS, TIME_COLUMN
from mmearth_data.store.manifest import encode_manifest

NESTED = ("source", "modalities", "recipe", "statistics", "class_histograms", "appended")
SIZES = ("tiles", "size_px", "tiles_per_shard")
EXTENT = {
    *("geospatial_lon_min", "geospatial_lat_min", "geospatial_lon_max", "geospatial_lat_max"),
    *("time_coverage_start", "time_coverage_end"),
}
NEWER = EXTENT | {"summary", "keywords", "license", "references", "history", "comment"}
"""Root attributes that the first stores of version 2 did not have."""


def as_first_of_version_2(store: Path) -> Path:
    """Take away what the first stores of version 2 did not have: CF and ACDD attributes, Zarr conventions, STAC items."""
    root = json.loads((store / "zarr.json").read_text())
    kept = {name: value for name, value in root["attributes"].items() if name not in NEWER}
    documents = {"zarr.json": {**root, "attributes": {**kept, "Conventions": "CF-1.11"}}}
    documents |= {f"{name}/zarr.json": array for name, array in root["consolidated_metadata"]["metadata"].items()}
    for key, document in documents.items():
        (store / key).write_text(json.dumps(document, ensure_ascii=False, separators=(",", ":")))
        if (store / "_manifest.json").exists():
            reseal(store, key)
    if (store / "tiles.parquet").exists():
        table = pq.read_table(store / "tiles.parquet")
        table = table.rename_columns(["time" if name == TIME_COLUMN else name for name in table.column_names])
        newer = [name for name in table.column_names if name in ITEM_COLUMNS or name.startswith("proj:")]
        pq.write_table(table.drop_columns(newer), store / "tiles.parquet")
        reseal(store, "tiles.parquet")
        (store / "tiles_spatial.parquet").unlink()
        files = json.loads((store / "_manifest.json").read_text())["files"]
        del files["tiles_spatial.parquet"]
        (store / "_manifest.json").write_bytes(encode_manifest(files, 2))
    return store


def as_version_1(store: Path) -> Path:
    """Write the root as version 1 had it: nested attributes, the three sizes in one of them, and a Boolean."""
    root = json.loads((as_first_of_version_2(store) / "zarr.json").read_text())
    old: dict[str, Any] = {}
    for name, value in root["attributes"].items():
        if name in SIZES:
            old.setdefault("layout", {})[name] = value
        else:
            old[name] = json.loads(value) if name in NESTED else value
    old |= {"format_version": 1, "synthetic": bool(old["synthetic"])}
    text = json.dumps({**root, "attributes": old}, ensure_ascii=False, separators=(",", ":"))
    (store / "zarr.json").write_text(text)
    if (store / "_manifest.json").exists():
        reseal(store, "zarr.json", version=1)
    return store


def own_attributes(store: Path, name: str) -> dict[str, Any]:
    """Attributes of an array in its own metadata."""
    found: dict[str, Any] = json.loads((store / name / "zarr.json").read_text())["attributes"]
    return found


def root_attributes(store: Path) -> dict[str, Any]:
    """Attributes of the root as the file has them."""
    found: dict[str, Any] = json.loads((store / "zarr.json").read_text())["attributes"]
    return found


def version_of(store: Path) -> tuple[int, type]:
    """What the files themselves say."""
    attributes = json.loads((store / "zarr.json").read_text())["attributes"]
    if (store / "_manifest.json").exists():
        manifest = json.loads((store / "_manifest.json").read_text())
        assert manifest["format_version"] == attributes["format_version"]
    return attributes["format_version"], type(attributes["recipe"])


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of version 2."""
    path = tmp_path_factory.mktemp("second") / "s.zarr"
    make_store(path)
    return path


@pytest.fixture
def first(second: Path, tmp_path: Path) -> Path:
    """The same store in version 1."""
    shutil.copytree(second, tmp_path / "v1.zarr")
    return as_version_1(tmp_path / "v1.zarr")


# ------------------------------------------------------------------------------------------------- version 2


def test_every_attribute_of_the_root_is_text_or_a_number(second: Path) -> None:
    shown = xr.open_zarr(second).attrs
    assert {type(value) for value in shown.values()} <= {str, int, float}
    assert shown["format_version"] == 2
    assert (shown["tiles"], shown["size_px"], shown["tiles_per_shard"]) == (21, 16, 8)
    assert json.loads(shown["statistics"]) == open_store(second).statistics
    assert [entry["name"] for entry in json.loads(shown["modalities"])] == list(open_store(second).modalities)


def test_an_unfinished_store_s_attributes_too(tmp_path: Path) -> None:
    StoreWriter.create(tmp_path / "s.zarr", LAYOUT, recipe={}, source={"name": "x"}, synthetic=False)
    shown = xr.open_zarr(tmp_path / "s.zarr").attrs
    assert {type(value) for value in shown.values()} <= {str, int, float}
    assert (shown["statistics"], shown["synthetic"]) == ("null", 0)
    assert open_store(tmp_path / "s.zarr").synthetic is False


@pytest.mark.parametrize("opened", ["by xarray", "by us", "version 1 by us"])
def test_what_xarray_opens_xarray_writes_as_netcdf(second: Path, first: Path, tmp_path: Path, opened: str) -> None:
    whole = {
        "by xarray": lambda: xr.open_zarr(second),
        "by us": lambda: open_store(second).dataset,
        "version 1 by us": lambda: open_store(first).dataset,
    }[opened]()
    dataset = whole.isel(tile=slice(9)).load()
    dataset.to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "x.nc", engine="h5netcdf") as back:
        xr.testing.assert_equal(back, dataset)
        assert {name: back.attrs[name] for name in dataset.attrs} == dataset.attrs
        np.testing.assert_array_equal(back["cover"].attrs["flag_values"], dataset["cover"].attrs["flag_values"])


def test_the_root_says_where_when_under_which_terms_and_how(second: Path) -> None:
    shown, store = root_attributes(second), open_store(second)
    _, south, _, north = store.tiles.total_bounds
    assert shown["geospatial_lat_min"] < south < shown["geospatial_lat_min"] + 0.01
    assert shown["geospatial_lat_max"] - 0.01 < north < shown["geospatial_lat_max"]
    eastward = (store.coords["lon"] - shown["geospatial_lon_min"]) % 360
    width = (shown["geospatial_lon_max"] - shown["geospatial_lon_min"]) % 360
    assert 0 < eastward.min() < 0.1 > width - eastward.max() > 0, "the squares of all tiles, and hardly more"
    times = store.coords["time"][~np.isnat(store.coords["time"])]
    ends = [np.datetime64(shown[name].removesuffix("Z"), "ms") for name in ("time_coverage_start", "time_coverage_end")]
    assert ends == [times.min(), times.max()]
    assert shown["Conventions"] == "CF-1.11, ACDD-1.3"
    assert shown["license"].startswith("Synthetic data, not measured.")
    for m in LAYOUT.stored:
        assert m.licence.name in shown["license"]
        assert m.long_name in shown["summary"]
    assert shown["history"] == f"mmearth {version('mmearth')}: created from the source {store.source['name']}"


def test_the_dataset_of_a_selection_says_where_and_when_that_is(second: Path) -> None:
    store = open_store(second)
    known = np.flatnonzero(~np.isnat(store.coords["time"]))[2:3]
    one = store.select(where=np.isin(np.arange(len(store)), known))
    shown = one.dataset.attrs
    assert shown["geospatial_lat_min"] < one.coords["lat"][0] < shown["geospatial_lat_max"]
    assert shown["geospatial_lat_max"] - shown["geospatial_lat_min"] < 0.01
    assert shown["time_coverage_start"] == shown["time_coverage_end"] == f"{one.coords['time'][0]}Z"
    assert {name: store.dataset.attrs[name] for name in EXTENT} == {name: store.attributes[name] for name in EXTENT}
    assert shown.keys() == store.dataset.attrs.keys()


def test_an_unfinished_store_has_no_extent_and_growing_takes_it_away_until_it_is_finished(
    second: Path, tmp_path: Path
) -> None:
    shutil.copytree(second, tmp_path / "s.zarr")
    before = root_attributes(second)
    StoreWriter.append(tmp_path / "s.zarr", MORE)
    begun = root_attributes(tmp_path / "s.zarr")
    assert not EXTENT & begun.keys()
    assert begun["history"] == f"{before['history']}\nmmearth {version('mmearth')}: {MORE} rows appended"
    grow(tmp_path / "s.zarr")
    assert root_attributes(tmp_path / "s.zarr").keys() >= EXTENT
    assert verify(tmp_path / "s.zarr").problems == ()


def test_an_extent_that_is_not_that_of_the_tiles_is_found(second: Path, tmp_path: Path) -> None:
    shutil.copytree(second, tmp_path / "s.zarr")
    root = json.loads((tmp_path / "s.zarr" / "zarr.json").read_text())
    root["attributes"]["geospatial_lat_max"] += 1
    (tmp_path / "s.zarr" / "zarr.json").write_text(json.dumps(root, ensure_ascii=False, separators=(",", ":")))
    reseal(tmp_path / "s.zarr", "zarr.json")
    (problem,) = verify(tmp_path / "s.zarr").problems
    assert (problem.part, problem.problem) == ("zarr.json", "its extent differs from that of its tiles")


def test_arrays_declare_what_is_true_of_them_only(second: Path, tmp_path: Path) -> None:
    names = {entry["name"] for entry in own_attributes(second, "radar")["zarr_conventions"]}
    assert names == {"spatial", "uom"}, "the catalog's licences are not those of synthetic pixels"
    StoreWriter.create(tmp_path / "s.zarr", LAYOUT, recipe={}, source={"name": "x"}, synthetic=False)
    for m in LAYOUT.stored:
        own = own_attributes(tmp_path / "s.zarr", m.name)
        assert "license" in {entry["name"] for entry in own["zarr_conventions"]}
        assert own["license"] in ({"spdx": m.licence.name}, {"url": m.licence.url})
        assert not [key for key in own if key.startswith("proj:")], "tiles have a CRS each"
        assert own.get("spatial:transform_type") == ("per_tile" if m.kind.is_raster else None)
        assert "spatial:transform" not in own
    assert "zarr_conventions" not in own_attributes(tmp_path / "s.zarr", "tile_id")


def test_each_reader_sees_the_declarations_or_writes_netcdf(second: Path, tmp_path: Path) -> None:
    """Nothing can have both: netCDF has neither lists of objects nor objects."""
    assert "zarr_conventions" in zarr.open_array(second / "radar", mode="r").attrs
    assert "zarr_conventions" in zarr.open_group(second, mode="r", use_consolidated=False)["radar"].attrs
    assert "zarr_conventions" not in zarr.open_group(second, mode="r")["radar"].attrs
    assert "zarr_conventions" not in open_store(second).dataset["radar"].attrs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # files that are not Zarr's
        alone = xr.open_zarr(second, consolidated=False).load()
    assert "zarr_conventions" in alone["radar"].attrs
    with pytest.raises(TypeError):
        alone.to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
    alone.drop_attrs().to_netcdf(tmp_path / "x.nc", engine="h5netcdf")


def test_flags_have_the_type_of_their_array(second: Path) -> None:
    dataset = open_store(second).dataset
    for name in ("cover", "split", "s2_level"):
        assert dataset[name].attrs["flag_values"].dtype == np.uint8
    assert dataset["valid"].attrs["flag_masks"].dtype == np.uint32


def test_the_first_stores_of_version_2_open_verify_and_grow_as_they_are(second: Path, tmp_path: Path) -> None:
    store = as_first_of_version_2(Path(shutil.copytree(second, tmp_path / "s.zarr")))
    assert verify(store).problems == ()
    xr.testing.assert_equal(open_store(store).dataset.load(), open_store(second).dataset.load())
    grow(store)
    assert version_of(store) == (2, str)
    assert not NEWER & root_attributes(store).keys()
    assert "zarr_conventions" not in own_attributes(store, "radar")
    assert verify(store).problems == ()
    part = subset(store, tmp_path / "part.zarr", split="train")
    assert root_attributes(Path(str(part.path))).keys() >= NEWER - {"references"}


# ------------------------------------------------------------------------------------------------- version 1


def test_a_store_of_version_1_opens_verifies_and_loads(first: Path, second: Path) -> None:
    old, new = open_store(first), open_store(second)
    assert verify(first).problems == ()
    for left, right in ((old.attributes, new.attributes), (old.dataset.attrs, new.dataset.attrs)):
        assert left.keys() == right.keys() - NEWER
        assert all(left[name] == right[name] for name in left.keys() - {"Conventions", "format_version"})
    xr.testing.assert_equal(old.dataset.load(), new.dataset.load())
    for left, right in zip(_batches(first), _batches(second), strict=True):
        np.testing.assert_array_equal(left, right)
    assert "18 of 16" in CliRunner().invoke(cli, ["inspect", str(first)], catch_exceptions=False).output


def _batches(path: Path) -> list[np.ndarray[Any, Any]]:
    return [batch["radar"] for batch in front_door(path).loader(batch_size=4, seed=1)]


def test_it_is_appended_to_and_stays_what_it_is(first: Path, second: Path, tmp_path: Path) -> None:
    shutil.copytree(second, tmp_path / "v2.zarr")
    grow(first)
    grow(tmp_path / "v2.zarr")
    assert version_of(first) == (1, dict)
    assert version_of(tmp_path / "v2.zarr") == (2, str)
    assert verify(first).problems == ()
    assert StoreWriter.resume(first).stages == (21, 21 + MORE)
    xr.testing.assert_equal(open_store(first).dataset.load(), open_store(tmp_path / "v2.zarr").dataset.load())


def test_a_build_of_version_1_is_continued_appended_and_repaired(tmp_path: Path) -> None:
    ecoregions, store = write_ecoregions(tmp_path / "eco.parquet"), tmp_path / "s.zarr"
    build_sampled(store, tmp_path / "log", ecoregions)
    as_version_1(store)
    build_sampled(store, tmp_path / "log", ecoregions)
    build_sampled(store, tmp_path / "log", ecoregions, append=6)
    assert version_of(store) == (1, dict)
    assert verify(store).problems == ()
    whole = {path: path.read_bytes() for path in store.rglob("*") if path.is_file() and "_ledger" not in path.parts}
    flip(store / "sentinel2" / "c" / "1" / "0" / "0" / "0", 900)
    assert reopen(store, verify(store)) == (1,)
    build_sampled(store, tmp_path / "log", ecoregions, append=6)
    assert {path: path.read_bytes() for path in whole} == whole


def test_parts_of_it_and_merged_stores_are_of_version_2(tmp_path: Path) -> None:
    one, two = as_version_1(make(tmp_path / "one.zarr")), make(tmp_path / "two.zarr", shift=1.0)
    part = subset(one, tmp_path / "part.zarr", split="train")
    both = merge([one, two], tmp_path / "both.zarr")
    for made in (part, both):
        assert version_of(Path(str(made.path))) == (2, str)
        assert root_attributes(Path(str(made.path))).keys() >= EXTENT | {"license", "history"}
        assert "zarr_conventions" in own_attributes(Path(str(made.path)), "lon")
        assert verify(made.path).problems == ()
    assert len(both) == len(Store.open(one)) + len(Store.open(two))


def test_a_damaged_attribute_is_damage(second: Path, tmp_path: Path) -> None:
    shutil.copytree(second, tmp_path / "s.zarr")
    root = tmp_path / "s.zarr" / "zarr.json"
    root.write_text(root.read_text().replace('"modalities":"[', '"modalities":"'))
    reseal(tmp_path / "s.zarr", "zarr.json")
    (problem,) = verify(tmp_path / "s.zarr").problems
    assert problem.part == "zarr.json"
    assert "contradict themselves" in problem.problem


# ------------------------------------------------------------------------------------------------- encoders

OTHERS = "numcodecs 9.9 with Blosc 9.9"


def encoders_of(store: Path, shard: int) -> list[str]:
    """What the record of a shard says, read with pyarrow alone."""
    found: list[str] = json.loads(pq.read_schema(store / "_commits" / f"{shard}.parquet").metadata[b"mmearth_encoders"])
    return found


def test_every_shard_names_the_libraries_that_encoded_it(second: Path) -> None:
    (name,) = encoders_of(second, 0)
    assert re.fullmatch(f"numcodecs {version('numcodecs')} with Blosc {blosc.VERSION_STRING}(, Blosc 3.*)?", name)
    assert verify(second).encoders == {name: LAYOUT.shards}
    result = CliRunner().invoke(cli, ["verify", str(second)])
    assert result.stdout.splitlines()[1] == f"encoded with {name} ({LAYOUT.shards} shards)"


def test_a_store_that_other_libraries_continue_and_grow_is_sound_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "s.zarr"
    StoreWriter.create(store, LAYOUT, recipe={}, source={"name": "x"}, synthetic=True)
    begin = StoreWriter.resume(store)
    write_shard(begin, 0)
    monkeypatch.setattr(writer, "encoder_name", lambda: OTHERS)
    for shard in (1, 2):
        write_shard(StoreWriter.resume(store), shard)
    StoreWriter.resume(store).finish()
    (own,) = encoders_of(store, 0)
    assert verify(store).problems == ()
    assert verify(store).encoders == {own: 1, OTHERS: 2}
    monkeypatch.undo()
    grow(store)
    assert encoders_of(store, 2) == [OTHERS, own], "its first rows keep their bytes"
    assert verify(store).problems == ()
    part = subset(store, tmp_path / "part.zarr", modalities=["radar", "zone"])
    assert encoders_of(Path(str(part.path)), 1) == [OTHERS], "taken over byte for byte"


def test_records_that_name_none_stay_valid(second: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    shutil.copytree(second, store)
    for record in (store / "_commits").iterdir():
        table = pq.read_table(record)
        kept = {k: v for k, v in table.schema.metadata.items() if k in {b"mmearth", b"mmearth_statistics"}}
        pq.write_table(table.replace_schema_metadata(kept), record)
        reseal(store, record.relative_to(store).as_posix())
    report = verify(store)
    assert report.problems == ()
    assert report.encoders == {}
    assert CliRunner().invoke(cli, ["verify", str(store)]).stdout.count("\n") == 1
