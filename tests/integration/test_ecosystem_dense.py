"""Dense embeddings in third-party libraries: rioxarray, odc-geo, zarr-cm, TensorStore, and rules of ``geoemb``.

They need libraries that nothing else needs, so ``make prove-ecosystem`` runs this file in a separate environment.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tensorstore as ts
import xarray as xr
from affine import Affine
from dense_world import NORTH, ORIGIN, STEP, WEST, Given, make_field

from mmearth_model.maps.vector_files import write_vectors

pytestmark = [
    pytest.mark.ecosystem,
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Scales differ across bands:UserWarning"),  # rioxarray leaves them to callers
]
ZONES = ("32632", "32733")


@pytest.fixture(scope="module")
def fields() -> list[Given]:
    """Vectors in two zones, one of them in the south."""
    return [make_field(zone, int(zone)) for zone in ZONES]


@pytest.fixture(scope="module", params=["float32", "int8"])
def written(request: pytest.FixtureRequest, fields: list[Given], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with x.zarr of one grid, zones.zarr of two, and x.tif."""
    folder = tmp_path_factory.mktemp(request.param)
    alone = make_field()
    for name, of in (("x.zarr", [alone]), ("x.tif", [alone]), ("zones.zarr", fields)):
        write_vectors(folder / name, of, ORIGIN, folder, request.param)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _accessors() -> None:
    """Register ``.rio`` and ``.odc``."""
    importlib.import_module("rioxarray")
    importlib.import_module("odc.geo.xr")


@pytest.mark.parametrize(
    ("name", "group", "epsg"), [("x.zarr", None, 32632), *(("zones.zarr", z, int(z)) for z in ZONES)]
)
def test_rioxarray_and_odc_geo_place_the_vectors(written: Path, name: str, group: str | None, epsg: int) -> None:
    data = xr.open_zarr(written / name, group=group)["embedding"]
    assert data.rio.crs.to_epsg() == epsg
    assert data.rio.transform() == Affine(STEP, 0, WEST, 0, -STEP, NORTH)
    box = data.odc.geobox
    assert (box.crs.epsg, box.affine, box.shape) == (epsg, Affine(STEP, 0, WEST, 0, -STEP, NORTH), data.shape[1:])
    assert data.isel(feature=0).rio.reproject("EPSG:4326").notnull().any()


def test_rioxarray_reads_the_same_from_the_geotiff(written: Path) -> None:
    data = importlib.import_module("rioxarray").open_rasterio(written / "x.tif", masked=True)
    data = data * np.reshape(data.attrs.get("scales", 1.0), (-1, 1, 1))
    expected = make_field().values
    with rasterio.open(written / "x.tif") as file:
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    np.testing.assert_array_equal(np.isnan(data.values), np.isnan(expected))
    step = np.nanmax(np.abs(expected), axis=(1, 2)) / 127
    assert (np.nanmax(np.abs(data.values - expected), axis=(1, 2)) <= step / 2 * 1.001).all()


def test_every_declared_convention_is_valid_in_its_newest_revision(written: Path) -> None:
    cm = importlib.import_module("zarr_cm")
    for path in (written / "x.zarr", *(written / "zones.zarr" / zone for zone in ZONES)):
        document = json.loads((path / "zarr.json").read_text())
        cm.validate_all(document["attributes"])
        assert set(cm.detect_revisions(document["attributes"])) >= {"proj", "spatial"}
        for name in ("proj", "spatial"):
            importlib.import_module(f"zarr_cm.{name}").validate_group_metadata(document)
        declared = {entry["name"]: entry for entry in document["attributes"]["zarr_conventions"]}
        assert [declared[name] for name in ("proj", "spatial")] == [
            cm.convention_metadata(n) for n in ("proj", "spatial")
        ]
        shape = document["consolidated_metadata"]["metadata"]["embedding"]["shape"]
        assert document["attributes"]["spatial:shape"] == shape[1:]


URI = {"type": "string", "pattern": "^[a-z][a-z0-9+.-]*:.+"}
GEOEMB_RULES: dict[str, Any] = {
    "type": "object",
    "required": [
        "zarr_conventions",
        *(f"geoemb:{n}" for n in ("type", "dimensions", "model", "source_data", "data_type")),
    ],
    "properties": {
        "geoemb:type": {"const": "pixel"},
        "geoemb:dimensions": {"type": "integer", "minimum": 1},
        "geoemb:model": URI,
        "geoemb:source_data": {"type": "array", "items": URI, "minItems": 1},
        "geoemb:data_type": {"enum": ["float32", "int8"]},
        "geoemb:gsd": {"type": "number", "exclusiveMinimum": 0},
        "geoemb:quantization": {
            "type": "object",
            "required": ["method", "original_dtype"],
            "additionalProperties": False,
            "properties": {name: {"type": "string"} for name in ("method", "original_dtype", "quantized_dtype")},
        },
    },
    "propertyNames": {
        "anyOf": [
            {"not": {"pattern": "^geoemb:"}},
            {"pattern": "^geoemb:(type|dimensions|model|source_data|data_type|gsd|quantization|build_version)$"},
        ]
    },
}
"""Rules for embeddings of pixels as the README of the proposal documents them (fields, types)."""


def test_groups_keep_the_rules_of_the_proposed_convention(written: Path) -> None:
    jsonschema = importlib.import_module("jsonschema")
    for path in (written / "x.zarr", written / "zones.zarr", *(written / "zones.zarr" / zone for zone in ZONES)):
        attributes = json.loads((path / "zarr.json").read_text())["attributes"]
        jsonschema.Draft202012Validator(GEOEMB_RULES).validate(attributes)


def test_tensorstore_reads_the_vectors(written: Path) -> None:
    source = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(written / "x.zarr" / "embedding")}}
    values = ts.open(source).result().read().result()
    np.testing.assert_array_equal(values, xr.open_zarr(written / "x.zarr", mask_and_scale=False)["embedding"].values)
