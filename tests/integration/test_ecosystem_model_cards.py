"""STAC items of weights, read and validated by pystac and its classes for the extensions that they use.

pystac contains no schemas of STAC extensions, so extensions are checked through its classes.
``make prove-ecosystem`` runs this file in a separate environment.
"""

from __future__ import annotations

import importlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from toy_store import write_store
from weights_making import make_checkpoint, make_network

pytestmark = [
    pytest.mark.ecosystem,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def _offline() -> Iterator[None]:
    """Refuse connections, so that nothing is validated with schemas from the network."""

    def refuse(*args: Any, **options: Any) -> None:
        raise OSError("no network in this test")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    checkpoint = make_checkpoint(write_store(folder / "toy.zarr", 24, shares=(0.5, 0.25)), folder / "checkpoint")
    return {"checkpoint": checkpoint, "network": make_network(checkpoint, folder / "network")}


@pytest.fixture(params=["checkpoint", "network"])
def folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    return folders[request.param]


def test_pystac_accepts_the_item(folder: Path) -> None:
    pystac = importlib.import_module("pystac")
    body = json.loads((folder / "item.json").read_text(encoding="utf-8"))
    assert pystac.validation.validate_dict({**body, "stac_extensions": []})
    with pytest.raises(pystac.STACValidationError):
        pystac.validation.validate_dict({**body, "stac_extensions": [], "properties": {}})
    item = pystac.Item.from_file(str(folder / "item.json"))
    assert item.to_dict()["properties"] == body["properties"]
    for asset in item.assets.values():
        assert Path(asset.get_absolute_href()).is_file()


def test_the_extensions_that_are_used_are_declared_and_no_others(folder: Path) -> None:
    text = (folder / "item.json").read_text(encoding="utf-8")
    declared = {url.split("/")[3] for url in json.loads(text)["stac_extensions"]}
    assert declared == {name for name in ("mlm", "file", "eo", "classification", "processing") if f'"{name}:' in text}


def test_pystac_finds_input_and_output_of_the_model(folder: Path) -> None:
    pystac = importlib.import_module("pystac")
    mlm = importlib.import_module("pystac.extensions.mlm")
    item = pystac.Item.from_file(str(folder / "item.json"))
    assert mlm.MLMExtension.get_schema_uri() in item.stac_extensions, "the version that pystac knows"
    found = mlm.MLMExtension.ext(item)
    (given,) = found.input
    bands = [band if isinstance(band, str) else band.name for band in given.bands]
    assert bands == [band["name"] for band in item.assets["model"].extra_fields["bands"]]
    assert given.input.shape[:2] == [-1, len(bands)]
    assert list(given.input.dim_order) == ["batch", "channel", "height", "width"]
    assert {str(task) for task in found.tasks} <= {str(task) for task in mlm.TaskType} | {t.value for t in mlm.TaskType}
    (output,) = found.output
    assert len(output.result.shape) == len(output.result.dim_order)
    if folder.name == "network":
        assert [c.value for c in output.classes] == [10, 80, 255]
    asset = mlm.AssetDetailedMLMExtension.ext(item.assets["model"])
    assert asset.artifact_type == "safetensors"


def test_pystac_finds_the_digest_of_the_weights(folder: Path) -> None:
    pystac = importlib.import_module("pystac")
    file = importlib.import_module("pystac.extensions.file").FileExtension
    item = pystac.Item.from_file(str(folder / "item.json"))
    for asset in (item.assets["model"], item.assets["config"]):
        assert file.ext(asset).size == Path(asset.get_absolute_href()).stat().st_size
        assert file.ext(asset).checksum.startswith("1220")
