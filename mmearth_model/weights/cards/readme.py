"""Model card: a README in Markdown with the YAML header that the Hugging Face Hub reads.

https://huggingface.co/docs/hub/model-cards lists the fields of the header.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from mmearth_data import CITATION, markdown_code, markdown_list, markdown_table
from mmearth_model.training.layout import CONFIG_FILE, ITEM_FILE, MODEL_FILE
from mmearth_model.weights.cards.facts import Role, last_part
from mmearth_model.weights.hub import HubFolder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mmearth_data import Modality
    from mmearth_model.weights.cards.facts import ModelFacts

HUB_LICENCES = frozenset(
    [
        "AFL-3.0",
        "AGPL-3.0",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "BSL-1.0",
        "CC-BY-2.0",
        "CC-BY-2.5",
        "CC-BY-3.0",
        "CC-BY-4.0",
        "CC-BY-NC-2.0",
        "CC-BY-NC-3.0",
        "CC-BY-NC-4.0",
        "CC-BY-NC-ND-3.0",
        "CC-BY-NC-ND-4.0",
        "CC-BY-NC-SA-2.0",
        "CC-BY-NC-SA-3.0",
        "CC-BY-NC-SA-4.0",
        "CC-BY-ND-4.0",
        "CC-BY-SA-3.0",
        "CC-BY-SA-4.0",
        "CC0-1.0",
        "EUPL-1.1",
        "EUPL-1.2",
        "GPL-2.0",
        "GPL-3.0",
        "ISC",
        "LGPL-2.1",
        "LGPL-3.0",
        "MIT",
        "MPL-2.0",
        "Unlicense",
        "Zlib",
    ]
)
"""SPDX identifiers that the Hub knows (in lower case); other licences are ``other`` with a name."""
NOT_STATED = "not-stated"
PIPELINES = {
    "single-label": "image-classification",
    "multi-label": "image-classification",
    "segmentation": "image-segmentation",
}
"""Kind of task -> its name on the Hub, which has none for regression on images."""
SYNTHETIC = (
    "> **Trained on synthetic data.** The training data were computed from a model of a planet; none were measured. These "
    "weights are for tests and demonstrations, not for real images."
)
UNTRAINED = "> **Not trained.** These are random weights, for comparison."


def model_card(facts: ModelFacts) -> str:
    """Model card of a folder."""
    sections = {
        "Use": _use(facts),
        "Input": _input(facts),
        "Output": _output(facts),
        "Training": markdown_table(("", ""), _training(facts)),
        "Test result": _result(facts),
        "Licence": _licence(facts),
        "Citation": markdown_code("bibtex", CITATION),
        "Files": markdown_table(("File", "Content"), _files()),
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items() if text)
    header = yaml.safe_dump(header_fields(facts), sort_keys=False, allow_unicode=True)
    return f"---\n{header}---\n\n{_head(facts)}\n\n{body}\n"


# ---------------------------------------------------------------- header


def header_fields(facts: ModelFacts) -> dict[str, Any]:
    """Fields of the header."""
    fields = {
        **hub_licence(facts.licence),
        "library_name": "mmearth",
        "pipeline_tag": _pipeline(facts),
        "tags": list(_tags(facts)),
        **_base_model(facts),
        "model-index": list(_model_index(facts)),
    }
    return {name: value for name, value in fields.items() if value}


def hub_licence(spdx: str) -> dict[str, str]:
    """Fields of the header for a licence.

    Examples
    --------
    >>> hub_licence("CC-BY-4.0"), hub_licence("")
    ({'license': 'cc-by-4.0'}, {'license': 'other', 'license_name': 'not-stated'})
    """
    if spdx in HUB_LICENCES:
        return {"license": spdx.lower()}
    return {"license": "other", "license_name": spdx.lower() or NOT_STATED}


def _pipeline(facts: ModelFacts) -> str:
    if facts.role is Role.NETWORK:
        return PIPELINES.get(facts.config["kind"], "")
    return "image-feature-extraction"


def _tags(facts: ModelFacts) -> Iterator[str]:
    yield from ("earth-observation", "remote-sensing", "geospatial", "mmearth", "convnextv2", "stac")
    if facts.role is Role.PRETRAINED:
        yield from ("mp-mae", "masked-autoencoder", "self-supervised-learning")
    if facts.synthetic:
        yield "synthetic"
    yield from (m.name.replace("_", "-") for m in facts.inputs)


def _base_model(facts: ModelFacts) -> dict[str, str]:
    """Repository of the Hub that the encoder came from."""
    url = (facts.record.get("encoder_origin") or {}).get("url", "")
    return {"base_model": HubFolder.parse(url).repository} if url.startswith("hf://") else {}


def _model_index(facts: ModelFacts) -> Iterator[dict[str, Any]]:
    """Test result as the Hub lists it; leaky results are left out."""
    result, pipeline = facts.result, _pipeline(facts)
    if not result or result.get("leaky"):
        return
    data = facts.data or facts.config["task"]
    metrics = [{"type": name, "name": name, "value": float(value)} for name, value in result["metrics"].items()]
    dataset = {"type": data, "name": f"{data}, {facts.config['task']}", "split": "test"}
    task = {"type": pipeline or "image-regression"}
    yield {"name": facts.title, "results": [{"task": task, "dataset": dataset, "metrics": metrics}]}


# ---------------------------------------------------------------- text


def _head(facts: ModelFacts) -> str:
    notices = [SYNTHETIC] * facts.synthetic + [UNTRAINED] * facts.untrained
    return "\n\n".join([f"# {facts.title}", *notices, lead(facts)])


def lead(facts: ModelFacts) -> str:
    """Describe the weights in a sentence or two, without markup."""
    encoder, total = facts.parameters
    bands = f"images of {facts.encoder['in_channels']} bands, {facts.side_px} px a side"
    if facts.role is Role.NETWORK:
        what = (
            f"for the task {facts.config['task']} ({facts.config['kind']}), with {len(facts.config['outputs'])} outputs"
        )
        return f"A network with {total:,} parameters ({encoder:,} of its encoder) {what}. It takes {bands}."
    rest = f" The file also contains its decoders ({total - encoder:,})." if total > encoder else ""
    return f"An encoder with {encoder:,} parameters, for {bands}, in patches of {facts.encoder['patch_size']} px.{rest}"


def _use(facts: ModelFacts) -> str:
    where = "FOLDER is this folder, or `hf://OWNER/NAME` on the Hub. Install the library with `pip install 'mmearth[model,hub]'`."
    if facts.role is Role.NETWORK:
        code = """from mmearth_model import load_network

network = load_network("FOLDER")
images = network.normaliser.images(batch)  # batch: modality -> array as stored
answers = network.answers(network.module(images).detach().numpy())"""
        command = "mmearth-train predict FOLDER SCENE.tif --out MAP.tif"
    else:
        code = """from mmearth_model import load_encoder

encoder = load_encoder("FOLDER")
embeddings = encoder.embed(tiles)  # a store, or modality -> array as stored"""
        command = "mmearth-train embed STORE --checkpoint FOLDER --out embeddings.parquet"
    return "\n\n".join([where, markdown_code("python", code), markdown_code("text", command)])


def _input(facts: ModelFacts) -> str:
    if not facts.inputs:
        return (
            f"{facts.encoder['in_channels']} bands. The folder records neither their names nor statistics to normalise them: "
            "`load_encoder` takes both from a store (`store=`)."
        )
    rows = [
        (f"`{m.name}`", ", ".join(m.model_bands), m.units if m.units != "1" else "", m.dtype.name, f"{m.nodata:g}")
        for m in facts.inputs
    ]
    rule = (
        "Bands in this order, with values as stored; the library normalises them, and missing values become the mean."
    )
    heads = ("Modality", "Bands", "Unit", "Type", "No data")
    statistics = [row for m in facts.inputs for row in _statistics(facts, m)]
    used = "Mean and standard deviation that normalise the stored numbers, by product level where they depend on it:"
    table = markdown_table(("Level", "Band", "Mean", "Standard deviation"), statistics, right=(2, 3))
    return "\n\n".join([rule, markdown_table(heads, rows), *[used, table][: 2 * bool(statistics)]])


def _statistics(facts: ModelFacts, modality: Modality) -> Iterator[tuple[str, str, str, str]]:
    for level, bands in facts.statistics(modality).items():
        for band, entry in bands.items():
            if entry["count"]:
                yield level, facts.band_name(modality, band), f"{entry['mean']:.6g}", f"{entry['std']:.6g}"


def _output(facts: ModelFacts) -> str:
    if facts.role is not Role.NETWORK:
        return f"A vector of {facts.encoder['widths'][-1]} features per image, and feature maps of four stages."
    rows = [
        (str(index), output["name"], _text(output["code"]), _text(output["colour"]), output["units"])
        for index, output in enumerate(facts.config["outputs"])
    ]
    return markdown_table(("Output", "Name", "Code in maps", "Colour", "Unit"), rows, right=(0, 2))


def _text(value: object) -> str:
    return "" if value is None else str(value)


# ---------------------------------------------------------------- training


def _training(facts: ModelFacts) -> Iterator[tuple[str, str]]:
    """Facts about the training, as name and value."""
    recipe, progress = (
        facts.config.get("recipe") or facts.record.get("recipe") or {},
        facts.config.get("progress") or {},
    )
    made = " (synthetic)" if facts.record.get("synthetic", facts.synthetic) else ""
    rows = {
        "Data": f"{facts.data or 'not recorded'}{made}",
        "Digest of the data": f"`{facts.data_digest}`" if facts.data_digest else "",
        "Tiles": _count((facts.config.get("store") or {}).get("tiles")),
        "Learned to predict": ", ".join(m.long_name for m in facts.learned),
        "Encoder": last_part(facts.record.get("encoder", ""), 2),
        "Encoder pretrained on": facts.encoder_data,
        "Weights converted from": last_part((facts.config.get("origin") or {}).get("source", ""), 2),
        "Epochs": _text(recipe.get("epochs")),
        "Optimiser steps": _steps(progress),
        "Loss": f"{progress['loss']:.4g}, mean over the last steps" if progress.get("loss") is not None else "",
        "Images per step": _text(recipe.get("batch_size")),
        "Share of masked patches": _text(recipe.get("mask_ratio")),
        "Seed": _text(recipe.get("seed")),
        "Software": f"mmearth {facts.config.get('version') or facts.record.get('version')}",
    }
    yield from ((name, value) for name, value in rows.items() if value)


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _steps(progress: Mapping[str, Any]) -> str:
    step, steps = progress.get("step"), progress.get("steps")
    if step is None:
        return ""
    return f"{step:,}" if step == steps or steps is None else f"{step:,} of {steps:,}"


def _result(facts: ModelFacts) -> str:
    result = facts.result
    if not result:
        return ""
    rows = [(name, f"{value:.4g}") for name, value in result["metrics"].items()]
    main = f"{result['metric']}: {result['value']:.4g}, 95 % interval {result['low']:.4g} to {result['high']:.4g}"
    where = f"{main}, on {result['test_tiles']:,} test samples after training on {result['train_tiles']:,}."
    leaky = "**Leaky:** the encoder was trained on these or related labels." if result.get("leaky") else ""
    return "\n\n".join(filter(None, [where, leaky, markdown_table(("Metric", "Value"), rows, right=(1,))]))


def _licence(facts: ModelFacts) -> str:
    own = (
        f"Licence of the weights: {facts.licence}."
        if facts.licence
        else "The licence of the weights has not been stated."
    )
    rows = [
        (", ".join(f"`{name}`" for name in use.modalities), f"[{use.name}]({use.url})" if use.url else use.name, "; ".join(use.attributions))
        for use in facts.data_licences
    ]  # fmt: skip
    imitated = "which the synthetic training data imitate" if facts.synthetic else "that they were trained on"
    notes = [f"{own} These are the licences of the data {imitated}:"] if rows else [own]
    noted = markdown_list(facts.record.get("notes") or ())
    return "\n\n".join(filter(None, [*notes, markdown_table(("Modalities", "Licence", "Attribution"), rows), noted]))


def _files() -> list[tuple[str, str]]:
    return [
        (f"`{MODEL_FILE}`", "weights (safetensors)"),
        (f"`{CONFIG_FILE}`", "shape, normalisation, data and recipe: everything needed to use the weights"),
        (f"`{ITEM_FILE}`", "STAC item with the Machine Learning Model extension, and the digests of both files"),
    ]
