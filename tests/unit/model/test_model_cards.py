"""Cards of checkpoints and networks: what they say is true, and stays so wherever the folder is."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from huggingface_hub import ModelCard
from safetensors.numpy import load_file
from toy_store import write_store
from weights_making import make_checkpoint, make_network

from mmearth_data import FileInputError, InputError, Store
from mmearth_model import ConvNeXtV2, describe, load_checkpoint, load_encoder, load_network
from mmearth_model.cli import cli
from mmearth_model.weights.describing import check_licence

CARD, ITEM, CONFIG, MODEL = "README.md", "item.json", "config.json", "model.safetensors"
RESULT = {
    "metric": "jaccard",
    "value": 0.51,
    "low": 0.4,
    "high": 0.6,
    "metrics": {"jaccard": 0.51, "accuracy": 0.75},
    "train_tiles": 12,
    "test_tiles": 6,
    "leaky": False,
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("toy") / "toy.zarr", 24, shares=(0.5, 0.25))


@pytest.fixture(scope="module")
def checkpoint(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(store, tmp_path_factory.mktemp("weights") / "step-00000004")


@pytest.fixture(scope="module")
def network(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_network(checkpoint, tmp_path_factory.mktemp("weights") / "network", result=RESULT)


@pytest.fixture(params=["checkpoint", "network"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of each kind of folder."""
    return Path(shutil.copytree(request.getfixturevalue(request.param), tmp_path / "here"))


def item(folder: Path) -> Any:
    return json.loads((folder / ITEM).read_text(encoding="utf-8"))


def text(folder: Path) -> str:
    return (folder / CARD).read_text(encoding="utf-8")


def encoder_of(folder: Path) -> ConvNeXtV2:
    network = json.loads((folder / CONFIG).read_text())["architecture"] == "network"
    return load_network(folder).encoder if network else load_encoder(folder)


# ---------------------------------------------------------------- what it says


def test_the_hub_reads_the_header(checkpoint: Path, network: Path) -> None:
    for folder, pipeline in ((checkpoint, "image-feature-extraction"), (network, "image-segmentation")):
        card = ModelCard.load(folder / CARD)
        assert (card.data.license, card.data.license_name) == ("other", "not-stated")
        assert card.data.library_name == "mmearth"
        assert card.data.pipeline_tag == pipeline
        assert {"earth-observation", "synthetic", "sentinel2"} <= set(card.data.tags)
        assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()
    (result, _) = ModelCard.load(network / CARD).data.eval_results
    assert (result.metric_type, result.metric_value, result.task_type) == ("jaccard", 0.51, "image-segmentation")
    assert (result.dataset_name, result.dataset_split) == ("toy.zarr, store:land_cover/pixels", "test")


def test_a_result_on_what_was_learned_before_is_no_result(checkpoint: Path, tmp_path: Path) -> None:
    folder = make_network(checkpoint, tmp_path / "n", result={**RESULT, "leaky": True})
    assert ModelCard.load(folder / CARD).data.eval_results is None
    assert "**Leaky:**" in text(folder)


def test_synthetic_and_random_weights_say_so_first(checkpoint: Path, store: Store, tmp_path: Path) -> None:
    assert text(checkpoint).split("\n\n")[2].startswith("> **Trained on synthetic data.**")
    assert item(checkpoint)["properties"]["description"].startswith("Trained on synthetic data.")
    random = make_checkpoint(store, tmp_path / "random", progress={"step": 0, "steps": 4})
    assert "> **Not trained.**" in text(random)
    assert item(random)["properties"]["mlm:pretrained"] is False
    assert item(random)["properties"]["mlm:pretrained_source"] is None
    measured = make_network(checkpoint, tmp_path / "n", synthetic=False, encoder_data={"synthetic": True, "path": "x"})
    assert "> **Trained on synthetic data.**" in text(measured), "so was its encoder"


def test_the_item_has_the_digests_and_numbers_of_the_files(folder: Path) -> None:
    found = item(folder)
    for name, asset in ((MODEL, "model"), (CONFIG, "config")):
        data = (folder / name).read_bytes()
        assert found["assets"][asset]["href"] == f"./{name}"
        # A multihash: code of the function (0x12, SHA-256), length (32), digest.
        assert found["assets"][asset]["file:checksum"] == "1220" + hashlib.sha256(data).hexdigest()
        assert found["assets"][asset]["file:size"] == len(data)
    numbers = sum(tensor.size for tensor in load_file(folder / MODEL).values())
    assert found["properties"]["mlm:total_parameters"] == numbers
    encoder = sum(p.numel() for p in encoder_of(folder).parameters())
    assert f"{encoder:,}" in text(folder).split("## Use")[0]
    assert set(found["assets"]["model"]["roles"]) >= {"mlm:model", "mlm:weights"}


def test_the_statistics_of_the_item_normalise_as_the_network_does(folder: Path, store: Store) -> None:
    bands = item(folder)["assets"]["model"]["bands"]
    assert [band["name"] for band in bands] == item(folder)["properties"]["mlm:input"][0]["bands"]
    batch = next(iter(store.loader(batch_size=4, shuffle=False, modalities=["sentinel2"])))
    assert len(set(batch["tile"]["s2_level"].tolist())) == 2
    normaliser = encoder_of(folder).normaliser
    assert normaliser is not None
    images = normaliser.images(batch).numpy()
    names = store.modalities["sentinel2"].bands
    for row, code in enumerate(batch["tile"]["s2_level"]):
        level = {0: "L1C", 1: "L2A"}[int(code)]
        for channel, band in enumerate(bands):
            stored = batch["sentinel2"][row, names.index(band["name"])].astype(float)
            figures = band["mmearth:statistics"][level]
            expected = np.where(stored == 0, 0, (stored - figures["mean"]) / figures["stddev"])
            np.testing.assert_allclose(images[row, channel], expected, atol=1e-4)


def test_classes_keep_their_codes_and_colours(network: Path) -> None:
    (output,) = item(network)["properties"]["mlm:output"]
    classes = {c["description"]: (c["value"], c.get("color_hint")) for c in output["classification:classes"]}
    assert classes == {"Trees": (10, "006400"), "Water | ice": (80, "0064C8"), "Rest": (255, None)}
    assert output["result"]["shape"] == [-1, 3, 24, 24]
    assert "| 1 | Water \\| ice | 80 | #0064c8 |" in text(network)


def test_licences_of_the_data_are_named(checkpoint: Path, store: Store) -> None:
    for m in load_checkpoint(checkpoint).normaliser.modalities.values():
        if m.stored:
            assert m.licence.attribution in text(checkpoint), m.name
            assert m.licence.url in text(checkpoint), m.name


def test_the_card_of_a_run_has_its_data_and_its_loss(checkpoint: Path, store: Store) -> None:
    rows = [line.strip("| ").split(" | ") for line in text(checkpoint).splitlines() if line.startswith("| ")]
    found = {row[0]: row[-1] for row in rows}
    assert found["Data"] == "toy.zarr (synthetic)"
    assert found["Digest of the data"] == f"`{store.digest}`"
    assert found["Optimiser steps"] == "4"
    assert found["Loss"] == "1.25, mean over the last steps"


def test_cards_name_no_folder_of_this_machine(folder: Path, store: Store) -> None:
    for name in (CARD, ITEM):
        content = (folder / name).read_text()
        assert str(store.path.parent) not in content
        assert "/home/me" not in content


# ---------------------------------------------------------------- describe


def test_a_folder_that_moved_has_the_same_cards(folder: Path) -> None:
    before = {name: (folder / name).read_bytes() for name in (CARD, ITEM)}
    moved = folder.rename(folder.parent / "there")
    assert describe(moved) == moved
    assert {name: (moved / name).read_bytes() for name in (CARD, ITEM)} == before


def test_a_licence_is_recorded_and_shown(folder: Path) -> None:
    weights = (folder / MODEL).read_bytes()
    describe(folder, licence="cc-by-4.0")
    assert ModelCard.load(folder / CARD).data.license == "cc-by-4.0"
    assert "Licence of the weights: CC-BY-4.0." in text(folder)
    assert item(folder)["properties"]["license"] == "CC-BY-4.0"
    assert json.loads((folder / CONFIG).read_text())["licence"] == "CC-BY-4.0"
    assert (folder / MODEL).read_bytes() == weights
    describe(folder)
    assert ModelCard.load(folder / CARD).data.license == "cc-by-4.0", "it stays"
    describe(folder, licence="LicenseRef-Ours")
    assert yaml.safe_load(text(folder).split("---\n")[1])["license_name"] == "licenseref-ours"


def test_an_edited_card_is_kept(folder: Path) -> None:
    (folder / CARD).write_text(text(folder) + "\nMore words.\n")
    config = (folder / CONFIG).read_bytes()
    with pytest.raises(InputError, match=r"README.md: expected no file, or the unedited card.*--force"):
        describe(folder, licence="MIT")
    assert "More words." in text(folder)
    assert (folder / CONFIG).read_bytes() == config
    describe(folder, licence="MIT", force=True)
    assert "More words." not in text(folder)


def test_folders_of_earlier_versions_get_cards(folder: Path) -> None:
    cards = {name: (folder / name).read_bytes() for name in (CARD, ITEM)}
    for name in cards:
        (folder / name).unlink()
    assert encoder_of(folder)
    describe(folder)
    assert {name: (folder / name).read_bytes() for name in cards} == cards


def test_a_run_stands_for_its_last_checkpoint_and_others_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(checkpoint, tmp_path / "run" / checkpoint.name)
    result = CliRunner().invoke(cli, ["describe", str(tmp_path / "run"), "--licence", "Apache-2.0"])
    assert result.exit_code == 0, result.output
    assert ModelCard.load(copy / CARD).data.license == "apache-2.0"
    (copy / CONFIG).write_text('{"architecture": "other"}')
    with pytest.raises(FileInputError, match="expected architecture mp-mae, convnext-v2, network, got 'other'"):
        describe(copy)
    with pytest.raises(InputError, match=r"expected a checkpoint"):
        describe(tmp_path)


@pytest.mark.parametrize("text", ["", "free", "CC BY 4.0", "CC-BY-4.0 OR"])
def test_what_is_no_licence_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"expected an identifier of the SPDX list"):
        check_licence(text)


def test_a_url_is_not_taken_for_a_folder() -> None:
    from click.testing import CliRunner

    from mmearth_model.cli import cli

    refused = CliRunner().invoke(cli, ["describe", "https://me:secret@192.0.2.1/atto"])
    assert refused.exit_code == 2
    assert "expected a path on this machine, got a URL" in refused.stderr
    assert "secret" not in refused.stderr
