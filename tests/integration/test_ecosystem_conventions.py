"""Conventions in stores and files of embeddings, validated by third-party libraries.

zarr-cm validates Zarr conventions, compliance-checker CF and ACDD, cf-units and ucumvert units, jsonschema the proposed
convention for embeddings; DuckDB reads GeoParquet. They have many dependencies that nothing else needs, so
``make prove-ecosystem`` runs this file in a separate environment.
"""

from __future__ import annotations

import importlib
import json
import re
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import shapely
import tensorstore as ts
import xarray as xr
from store_making import write_shard

from mmearth_data import load_catalog, open_store
from mmearth_data.store import StoreLayout, StoreWriter
from mmearth_data.store.conventions import ucum
from mmearth_data.store.schema import stored_units
from mmearth_model.evaluation.embedding import Chips, Embeddings
from mmearth_model.evaluation.embedding_files import write_parquet, write_zarr

pytestmark = [
    pytest.mark.ecosystem,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:cf_units.*"),
    pytest.mark.filterwarnings("ignore::UserWarning:pint.*"),
]
CATALOG = [m for m in load_catalog().modalities.values() if m.stored]
LAYOUT = StoreLayout(modalities=load_catalog().select(), tiles=23, size_px=16, tiles_per_shard=16)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished store with the modalities of the catalog, marked as measured, so that it has licences."""
    path = tmp_path_factory.mktemp("conventions") / "s.zarr"
    StoreWriter.create(path, LAYOUT, recipe={}, source={"name": "test"}, synthetic=False)
    writer = StoreWriter.resume(path)
    for shard in range(LAYOUT.shards):
        write_shard(writer, shard)
    writer.finish()
    return path


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with e.parquet and e.zarr, of tiles on both sides of the equator."""
    folder = tmp_path_factory.mktemp("embeddings")
    rng = np.random.default_rng(0)
    lon, lat = rng.uniform(-170, 170, 40), rng.uniform(-60, 60, 40)
    squares = shapely.box(lon - 0.01, lat - 0.01, lon + 0.01, lat + 0.01)
    found = Embeddings(
        rng.standard_normal((40, 8)).astype(np.float32),
        np.arange(1, 41, dtype=np.uint64),
        lon,
        lat,
        {"version": "1", "model_digest": "sha256:00", "synthetic": "false"},
        time=np.arange("2019-01-01", "2019-02-10", dtype="datetime64[D]").astype("datetime64[ms]"),
        classes={"split": np.array(["train", "test"] * 20, object), "biome": np.array(["Tundra", ""] * 20, object)},
        outlines=lambda: squares,
        chips=Chips("ni:///sha-256;AA", ("urn:uuid:1b4e28ba-2fa1-11d2-883f-0016d3cca427",), (64, 64), 10.0),
    )
    write_parquet(found, folder / "e.parquet")
    write_zarr(found, folder / "e.zarr")
    return folder


# ------------------------------------------------------------------------------------------------- Zarr conventions


def documents(store: Path) -> dict[str, dict[str, Any]]:
    """Array -> its own metadata."""
    return {file.parent.name: json.loads(file.read_text()) for file in store.glob("*/zarr.json")}


def test_every_declared_convention_is_valid_in_its_newest_revision(store: Path) -> None:
    cm = importlib.import_module("zarr_cm")
    declared: dict[str, set[str]] = {}
    for name, document in documents(store).items():
        attributes = document["attributes"]
        cm.validate_all(attributes)
        for convention, revision in cm.detect_revisions(attributes).items():
            assert revision == cm.latest_revisions().get(convention, "v1")
            importlib.import_module(f"zarr_cm.{convention}").validate_array_metadata(document)
            declared.setdefault(convention, set()).add(name)
        for entry in attributes.get("zarr_conventions", ()):
            assert entry == cm.convention_metadata(entry["name"]), "the identifiers are those of the convention"
    assert declared["license"] == {m.name for m in LAYOUT.stored}
    assert declared["spatial"] == {m.name for m in LAYOUT.rasters}
    assert {"sentinel2", "sentinel1", "canopy_height_eth", "lon", "lat", "ulx", "s1_asc_days"} <= declared["uom"]
    assert "proj" not in declared, "tiles have a CRS each"
    assert not declared["uom"] & {"biome", "split", "era5", "aster"}, (
        "codes have no unit, and some bands have their own"
    )


def test_values_of_the_conventions_agree_with_the_catalog(store: Path) -> None:
    cm = importlib.import_module("zarr_cm")
    _, found = cm.extract_all(documents(store)["esa_worldcover"]["attributes"])
    assert found["license"] == {"spdx": "CC-BY-4.0"}
    _, found = cm.extract_all(documents(store)["sentinel2"]["attributes"])
    assert found["license"] == {"url": load_catalog().modalities["sentinel2"].licence.url}
    assert found["spatial"]["spatial:dimensions"] == ["y", "x"]
    assert documents(store)["sentinel2"]["dimension_names"][-2:] == ["y", "x"]
    assert documents(store)["sentinel2"]["shape"][-2:] == found["spatial"]["spatial:shape"]


def test_tensorstore_opens_an_array_with_declarations(store: Path) -> None:
    array = ts.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": str(store / "sentinel2")}}).result()
    attributes = array.spec().to_json()["metadata"]["attributes"]
    assert "spatial" in {entry["name"] for entry in attributes["zarr_conventions"]}
    np.testing.assert_array_equal(array[3].read().result(), open_store(store).read("sentinel2", slice(3, 4))[0])


@pytest.mark.parametrize("m", CATALOG, ids=lambda m: str(m.name))
def test_units_are_those_of_udunits_and_their_ucum_is_the_same_quantity(m: Any) -> None:
    units = importlib.import_module("cf_units")
    pint = importlib.import_module("ucumvert").PintUcumRegistry()
    for text in set(m.band_units.values()) or {stored_units(m)}:
        if text != "dB":  # a canonical unit of the CF standard name table that UDUNITS lacks
            assert not units.Unit(text).is_unknown()
        code = ucum(text)
        if code is not None and text != "dB":
            base = str(units.Unit(re.sub(r"^[0-9.e-]+ ?", "", text) or "1"))
            factor = units.Unit(text).convert(1.0, base)
            assert float(pint.from_ucum(code).to_base_units().magnitude) == pytest.approx(
                factor * float(pint.from_ucum(ucum(base) or "1").to_base_units().magnitude)
            )


# ------------------------------------------------------------------------------------------------- CF and ACDD


def complaints(path: Path, convention: str) -> list[str]:
    """What compliance-checker demands of a netCDF file, and would like."""
    checker = importlib.import_module("compliance_checker.runner")
    importlib.import_module("compliance_checker.suite").CheckSuite.load_all_available_checkers()
    out = path.with_suffix(f".{convention.partition(':')[0]}.json")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checker.ComplianceChecker.run_checker(
            str(path), [convention], 0, "strict", output_filename=str(out), output_format="json"
        )
    (report,) = json.loads(out.read_text()).values()
    wrong = [entry for level in ("high_priorities", "medium_priorities") for entry in report[level]]
    return [message for entry in wrong if entry["value"][0] < entry["value"][1] for message in entry["msgs"]]


def test_a_netcdf_file_of_a_store_conforms_to_cf(store: Path, tmp_path: Path) -> None:
    open_store(store).dataset.isel(tile=slice(5)).load().to_netcdf(tmp_path / "s.nc", engine="h5netcdf")
    assert [text for text in complaints(tmp_path / "s.nc", "cf:1.11") if "units_metadata" not in text] == [
        'units for sentinel1, "dB" are not recognized by UDUNITS'  # they are canonical in the CF standard name table
    ]


def test_plain_xarray_s_file_differs_in_the_type_of_flags_only(store: Path, tmp_path: Path) -> None:
    xr.open_zarr(store, mask_and_scale=False).isel(tile=slice(5)).load().to_netcdf(tmp_path / "s.nc", engine="h5netcdf")
    others = [text for text in complaints(tmp_path / "s.nc", "cf:1.11") if "units" not in text]
    assert others
    assert all(re.match(r"flag_(values|masks) \(.*int64.*must be the same data type", text) for text in others)


def test_attributes_that_acdd_highly_recommends_are_present(store: Path, tmp_path: Path) -> None:
    open_store(store).dataset.isel(tile=slice(5)).load().to_netcdf(tmp_path / "s.nc", engine="h5netcdf")
    wrong = complaints(tmp_path / "s.nc", "acdd:1.3")
    ours = (
        "title",
        "keywords",
        "summary",
        "Conventions",
        "license",
        "history",
        "geospatial_lat_min",
        "time_coverage_end",
    )
    assert not [text for text in wrong if re.search(rf"\b({'|'.join(ours)})\b", text) and "not present" in text]


# ------------------------------------------------------------------------------------------------- embeddings

URI = {"type": "string", "pattern": "^[a-z][a-z0-9+.-]*:.+"}
CHIP_LAYOUT = {
    "type": "object",
    "required": ["layout_type", "chip_size"],
    "additionalProperties": False,
    "properties": {
        "layout_type": {"enum": ["regular_grid", "irregular"]},
        "chip_size": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 2, "maxItems": 2},
        "stride": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 2, "maxItems": 2},
        "grid_id": {"type": "string"},
        "grid_definition": URI,
    },
}
REQUIRED = ["type", "dimensions", "model", "source_data", "data_type"]
GEOEMB_RULES: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["zarr_format", "node_type", "attributes"],
    "properties": {
        "node_type": {"const": "group"},
        "attributes": {
            "type": "object",
            "required": ["zarr_conventions", *(f"geoemb:{name}" for name in REQUIRED), "geoemb:chip_layout"],
            "properties": {
                "geoemb:type": {"const": "chip"},
                "geoemb:dimensions": {"type": "integer", "minimum": 1},
                "geoemb:model": URI,
                "geoemb:source_data": {"type": "array", "items": URI, "minItems": 1},
                "geoemb:data_type": {"type": "string"},
                "geoemb:gsd": {"type": "number", "exclusiveMinimum": 0},
                "geoemb:build_version": {"type": "string"},
                "geoemb:chip_layout": CHIP_LAYOUT,
                "zarr_conventions": {
                    "contains": {
                        "required": ["uuid"],
                        "properties": {"uuid": {"const": "61c12cc5-0e28-4056-999a-480cf3fb7e4c"}},
                    }
                },
            },
            "propertyNames": {
                "anyOf": [
                    {"not": {"pattern": "^geoemb:"}},
                    {"pattern": "^geoemb:(type|dimensions|model|source_data|data_type|gsd|chip_layout|build_version)$"},
                ]
            },
        },
    },
}
"""Rules for embeddings of chips as the README of the proposal documents them (fields, types, what chips require).

The proposal's own schema comes without a licence, so it is not copied here.
"""


def test_a_group_of_embeddings_keeps_the_rules_of_the_proposed_convention(embeddings: Path) -> None:
    jsonschema = importlib.import_module("jsonschema")
    group = json.loads((embeddings / "e.zarr" / "zarr.json").read_text())
    jsonschema.Draft202012Validator(GEOEMB_RULES).validate(group)
    importlib.import_module("zarr_cm").validate_all(group["attributes"])
    attributes = group["attributes"]
    assert all(urlsplit(uri).scheme for uri in [attributes["geoemb:model"], *attributes["geoemb:source_data"]])
    arrays = group["consolidated_metadata"]["metadata"]
    assert attributes["geoemb:dimensions"] == arrays["embedding"]["shape"][1]
    assert attributes["geoemb:data_type"] == arrays["embedding"]["data_type"]


def test_tensorstore_reads_the_embeddings(embeddings: Path) -> None:
    source = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(embeddings / "e.zarr" / "embedding")}}
    values = ts.open(source).result().read().result()
    np.testing.assert_array_equal(values, xr.open_zarr(embeddings / "e.zarr")["embedding"].values)


def test_duckdb_reads_rows_by_their_box_and_their_class(embeddings: Path) -> None:
    duckdb = importlib.import_module("duckdb")
    file = str(embeddings / "e.parquet")
    rows = duckdb.sql(
        f"select id, split, biome, len(embedding) from '{file}' where bbox.ymin > 0 and biome is not null"
    )
    data = xr.open_zarr(embeddings / "e.zarr")
    expected = (data["lat"].values - 0.01 > 0) & (data["biome"].values == "Tundra")
    assert rows.fetchall() == [(text, "train", "Tundra", 8) for text in data["id"].values[expected]]
    (kind,) = duckdb.sql(f"select typeof(geometry) from '{file}' limit 1").fetchone()
    assert kind.startswith("GEOMETRY(")
    assert '"authority":"EPSG","code":4326' in kind, "the reference system that the file states"
