"""STAC 1.1 item of the weights in a folder, with the Machine Learning Model extension (MLM 1.4).

https://github.com/stac-extensions/mlm; further extensions: file 2.1, eo 2.0, classification 2.0, processing 1.2.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from mmearth_data import used_extensions
from mmearth_model.training.layout import CARD_FILE, CONFIG_FILE, MODEL_FILE
from mmearth_model.weights.cards.facts import Role
from mmearth_model.weights.cards.readme import SYNTHETIC, UNTRAINED, lead

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmearth_data import Modality
    from mmearth_model.weights.cards.facts import File, ModelFacts

VERSION = "1.1.0"
EXTENSIONS = {
    "mlm": "https://stac-extensions.github.io/mlm/v1.4.0/schema.json",
    "file": "https://stac-extensions.github.io/file/v2.1.0/schema.json",
    "eo": "https://stac-extensions.github.io/eo/v2.0.0/schema.json",
    "classification": "https://stac-extensions.github.io/classification/v2.0.0/schema.json",
    "processing": "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
}
"""Prefix of fields -> schema of the extension that defines them."""
TASKS = {
    "single-label": "scene-classification",
    "multi-label": "scene-classification",
    "regression": "regression",
    "segmentation": "semantic-segmentation",
    "pixel-regression": "regression",
}
"""Kind of a task -> its name in MLM."""
SHA256 = "1220"
"""Beginning of a multihash: SHA-256, 32 bytes."""
START, END = "1900-01-01T00:00:00Z", "9999-12-31T23:59:59Z"
"""Interval of an item without a known time; the folder records neither times nor locations of the training data."""


def item(facts: ModelFacts) -> dict[str, Any]:
    """STAC item of a folder, JSON-ready."""
    body = {
        "id": f"mmearth-{facts.files[MODEL_FILE].sha256[:16]}",
        "geometry": None,
        "properties": _properties(facts),
        "links": list(_links(facts)),
        "assets": {
            "model": _model_asset(facts),
            "config": {
                "href": f"./{CONFIG_FILE}",
                "title": "Shape, normalisation, data and recipe",
                "type": "application/json",
                "roles": ["metadata"],
                **_checksum(facts.files[CONFIG_FILE]),
            },
            "card": {"href": f"./{CARD_FILE}", "title": "Model card", "type": "text/markdown", "roles": ["metadata"]},
        },
    }
    return {"type": "Feature", "stac_version": VERSION, "stac_extensions": used_extensions(body, EXTENSIONS), **body}


def _properties(facts: ModelFacts) -> dict[str, Any]:
    notices = [SYNTHETIC] * facts.synthetic + [UNTRAINED] * facts.untrained
    plain = [notice.removeprefix("> ").replace("**", "") for notice in notices]
    return {
        "title": facts.title,
        "description": " ".join([*plain, lead(facts)]),
        "datetime": None,
        "start_datetime": START,
        "end_datetime": END,
        "license": facts.licence or "other",
        "mlm:name": re.sub(r"[^A-Za-z0-9_. -]+", "-", facts.title).strip("-. _"),
        "mlm:architecture": "ConvNeXt V2"
        if facts.role is not Role.NETWORK
        else f"{facts.config['module']} on ConvNeXt V2",
        "mlm:tasks": _tasks(facts),
        "mlm:framework": "PyTorch",
        "mlm:memory_size": facts.files[MODEL_FILE].size,
        "mlm:total_parameters": facts.parameters[1],
        "mlm:pretrained": not facts.untrained,
        "mlm:pretrained_source": None if facts.untrained or not facts.data else _source(facts),
        "mlm:input": [_input(facts)],
        "mlm:output": [_output(facts)],
        "processing:software": {"mmearth": str(facts.config.get("version") or facts.record.get("version"))},
    }


def _source(facts: ModelFacts) -> str:
    made = "synthetic, " if facts.synthetic else ""
    return f"{facts.data} ({made}digest {facts.data_digest or 'not recorded'})"


def _tasks(facts: ModelFacts) -> list[str]:
    return [TASKS[facts.config["kind"]]] if facts.role is Role.NETWORK else ["similarity-search"]


# ---------------------------------------------------------------- input and output


def _input(facts: ModelFacts) -> dict[str, Any]:
    bands = [facts.band_name(m, band) for m in facts.inputs for band in m.model_bands]
    side = facts.side_px
    return {
        "name": ", ".join(m.name for m in facts.inputs) or "images",
        "description": (
            "Bands in this order, as stored. Missing values become the mean of their band. If the statistics depend on "
            "the "
            "product level, those of the level of each scene apply."
        ),
        "bands": bands,
        "input": {
            "shape": [-1, int(facts.encoder["in_channels"]), side, side],
            "dim_order": ["batch", "channel", "height", "width"],
            "data_type": "float32",
        },
        "value_scaling": _scaling(facts),
        "resize_type": None,
        "pre_processing_function": {"format": "python", "expression": "mmearth_model:Normaliser.images"}
        if bands
        else None,
    }


def _scaling(facts: ModelFacts) -> list[dict[str, Any]] | None:
    """One z-score per band; None if there are several product levels, or a band was never observed."""
    found: list[dict[str, Any]] = []
    for m in facts.inputs:
        levels = facts.statistics(m)
        figures = [next(iter(levels.values())).get(band) for band in m.model_bands] if len(levels) == 1 else [None]
        for entry in figures:
            if entry is None or not entry["count"]:
                return None
            found.append({"type": "z-score", "mean": entry["mean"], "stddev": entry["std"]})
    return found or None


def _output(facts: ModelFacts) -> dict[str, Any]:
    if facts.role is not Role.NETWORK:
        return {
            "name": "features",
            "description": "Features of the last stage, averaged over each image.",
            "tasks": _tasks(facts),
            "bands": [],
            "result": _result([-1, facts.encoder["widths"][-1]], ["batch", "feature"]),
        }
    outputs, side = facts.config["outputs"], facts.side_px
    per_pixel = facts.config["kind"] in ("segmentation", "pixel-regression")
    coded = [output for output in outputs if output["code"] is not None]
    shape, axes = [-1, len(outputs)], ["batch", "class" if coded else "output"]
    return {
        "name": facts.config["task"],
        "description": "; ".join(f"{o['name']} ({o['units']})" if o["units"] else o["name"] for o in outputs),
        "tasks": _tasks(facts),
        "bands": [],
        "result": _result([*shape, side, side], [*axes, "height", "width"]) if per_pixel else _result(shape, axes),
        **({"classification:classes": [_class(output) for output in coded]} if coded else {}),
    }


def _result(shape: list[int], axes: list[str]) -> dict[str, Any]:
    return {"shape": shape, "dim_order": axes, "data_type": "float32"}


def _class(output: dict[str, Any]) -> dict[str, Any]:
    words = re.sub(r"[^0-9A-Za-z_-]+", "_", output["name"]).strip("_") or f"class_{output['code']}"
    colour = {"color_hint": output["colour"][1:].upper()} if output["colour"] else {}
    return {"value": output["code"], "name": words, "description": output["name"], **colour}


# ---------------------------------------------------------------- files


def _model_asset(facts: ModelFacts) -> dict[str, Any]:
    bands = [_band(facts, m, band) for m in facts.inputs for band in m.model_bands]
    return {
        "href": f"./{MODEL_FILE}",
        "title": "Weights (safetensors)",
        "type": "application/octet-stream; application=safetensors",
        "roles": ["mlm:model", "mlm:weights", "data"],
        "mlm:artifact_type": "safetensors",
        **_checksum(facts.files[MODEL_FILE]),
        **({"bands": bands} if bands else {}),
    }


def _checksum(file: File) -> dict[str, Any]:
    return {"file:size": file.size, "file:checksum": f"{SHA256}{file.sha256}"}


def _band(facts: ModelFacts, m: Modality, band: str) -> dict[str, Any]:
    """Band of the input, with the statistics that normalise it by level."""
    found: dict[str, Any] = {"name": facts.band_name(m, band), "data_type": m.dtype.name}
    if m.units_of(band) != "1":
        found["unit"] = m.units_of(band)
    if band in m.wavelengths:
        found["eo:center_wavelength"] = m.wavelengths[band].centre_um
        found["eo:full_width_half_max"] = m.wavelengths[band].width_um
    levels = {
        level: {"mean": bands[band]["mean"], "stddev": bands[band]["std"]}
        for level, bands in facts.statistics(m).items()
        if bands.get(band, {}).get("count")
    }
    return found | ({"mmearth:statistics": levels} if levels else {})


def _links(facts: ModelFacts) -> Iterator[dict[str, str]]:
    for use in facts.data_licences:
        if use.url:
            yield {
                "rel": "about",
                "href": use.url,
                "title": f"Licence of the data {', '.join(use.modalities)}: {use.name}",
            }
    yield {"rel": "cite-as", "href": "https://arxiv.org/abs/2405.02771"}
