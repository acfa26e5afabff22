"""Root attributes as texts and numbers, which other formats can hold; and stores of version 1, which had them nested."""

from __future__ import annotations

import json
import re
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import xarray as xr
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

NESTED = ("source", "modalities", "recipe", "statistics", "class_histograms", "appended")
SIZES = ("tiles", "size_px", "tiles_per_shard")


def as_version_1(store: Path) -> Path:
    """Write the root as version 1 had it: nested attributes, the three sizes in one of them, and a Boolean."""
    root = json.loads((store / "zarr.json").read_text())
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


# ------------------------------------------------------------------------------------------------- version 1


def test_a_store_of_version_1_opens_verifies_and_loads(first: Path, second: Path) -> None:
    old, new = open_store(first), open_store(second)
    assert verify(first).problems == ()
    assert {**old.attributes, "format_version": 2} == dict(new.attributes)
    assert {**old.dataset.attrs, "format_version": 2} == new.dataset.attrs
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
