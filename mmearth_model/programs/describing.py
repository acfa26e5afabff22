"""The description in an exported file: its inputs and outputs, as self-contained JSON.

``inputs`` has all that is needed to run a program, for example in onnxruntime: the name, type, shape, bands (in order),
no-data value and units of each input.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from mmearth_data import __version__, licences
from mmearth_model.data.targets import LEVELS
from mmearth_model.programs.program import Answers, LastMap, Pooled, Program
from mmearth_model.tasks import TaskKind
from mmearth_model.training.layout import LEVEL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from mmearth_data import Modality
    from mmearth_model.data.targets import Normaliser
    from mmearth_model.heads.network import Network
    from mmearth_model.network.encoder import ConvNeXtV2

RECORDED = ("synthetic", "data_digest", "licence", "learned")
"""Fields of the training record that the description repeats, if known."""
RESULT = ("metric", "value", "test_tiles")
"""Fields of the test result that the description repeats."""
IMAGES = ("batch", "rows", "columns")
"""Names of the axes of variable length: images, and patches along the sides."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """Content of an exported program.

    Attributes
    ----------
    head
        Normalised images to outputs by name.
    normaliser
        Inputs and their statistics.
    outputs
        Description of each output, JSON-ready.
    patch_px
        Pixels along a side of a patch.
    window_px
        Pixels along a side of the images that it was trained on.
    task
        Name of the task; None for an encoder.
    record
        What is known about its training: `RECORDED`, ``result``, and ``licences`` of its training data.
    """

    head: nn.Module
    normaliser: Normaliser
    outputs: tuple[dict[str, Any], ...]
    patch_px: int
    window_px: int
    task: str | None = None
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[Modality, ...]:
        """Modalities that it takes."""
        return tuple(self.normaliser.modalities[name] for name in self.normaliser.inputs)

    def program(self, level: str | None) -> Program:
        """Make the program, in evaluation mode; ``level`` fixes the product level."""
        program = Program(self.head, self.normaliser, patch_px=self.patch_px, level=level)
        return program.eval()


def encoder_content(
    encoder: ConvNeXtV2, normaliser: Normaliser, features: str, record: Mapping[str, Any] | None = None
) -> Content:
    """Content of an encoder: its ``pooled`` features or its last ``map``."""
    pooled = features == "pooled"
    patches = [] if pooled else ["rows", "columns"]
    described = {
        "name": "features",
        "type": "float32",
        "shape": ["batch", encoder.out_channels, *patches],
        **({} if pooled else {"stride_px": encoder.strides[-1]}),
    }
    return Content(
        head=(Pooled if pooled else LastMap)(encoder),
        normaliser=normaliser,
        outputs=(described,),
        patch_px=encoder.strides[-1],
        window_px=encoder.config.image_size,
        record=record or {},
    )


def network_content(network: Network, licence: str | None = None) -> Content:
    """Content of a network: answers, and the probabilities of classes or labels. ``licence`` is that of the weights."""
    return Content(
        head=Answers(network),
        normaliser=network.normaliser,
        outputs=_answers(network),
        patch_px=network.patch_px,
        window_px=network.window_px,
        task=network.task,
        record={**network.record, "licence": licence},
    )


def _answers(network: Network) -> tuple[dict[str, Any], ...]:
    """Describe the outputs of `Answers`."""
    pixels = _sides(network.patch_px) if network.kind.per_pixel else []
    each = ["batch", len(network.outputs), *pixels]
    if network.kind.continuous:
        units = [{"name": output.name, "units": output.units} for output in network.outputs]
        shape = ["batch", *pixels] if pixels else each
        return ({"name": "quantities", "type": "float32", "shape": shape, "quantities": units},)
    probabilities = {"name": "probabilities", "type": "float32", "shape": each}
    if network.kind is TaskKind.MULTI_LABEL:
        labels = [output.name for output in network.outputs]
        return probabilities, {"name": "labels", "type": "int64", "shape": each, "labels": labels}
    classes = [{"code": o.code, "name": o.name, "colour": o.colour} for o in network.outputs]
    return probabilities, {"name": "classes", "type": "int64", "shape": ["batch", *pixels], "classes": classes}


def describe(content: Content, level: str | None) -> dict[str, Any]:
    """Describe an exported program, JSON-ready."""
    known = {key: value for key in RECORDED if (value := content.record.get(key)) is not None}
    result = content.record.get("result")
    return {
        "kind": "encoder" if content.task is None else "network",
        "version": __version__,
        **({} if content.task is None else {"task": content.task}),
        **known,
        **({"result": {part: result[part] for part in RESULT}} if result else {}),
        "inputs": [*(_input(m, content.patch_px) for m in content.inputs), *_level_input(content, level)],
        **({} if level is None else {"level": level}),
        "outputs": list(content.outputs),
        "patch_px": content.patch_px,
        "window_px": content.window_px,
        "licences": list(
            content.record.get("licences") or map(asdict, licences(content.normaliser.modalities.values()))
        ),
    }


def _sides(patch_px: int) -> list[str]:
    """Sides of images, which are multiples of a patch."""
    return [f"{patch_px}*rows", f"{patch_px}*columns"]


def _input(m: Modality, patch_px: int) -> dict[str, Any]:
    return {
        "name": m.name,
        "long_name": m.long_name,
        "type": m.dtype.name,
        "shape": ["batch", len(m.bands), *_sides(patch_px)],
        "bands": list(m.bands),
        "used_bands": list(m.model_bands),
        "nodata": "NaN" if math.isnan(m.nodata) else m.nodata,
        "units": {band: m.units_of(band) for band in m.bands},
        "scale": m.scale,
        "offset": m.offset,
    }


def _level_input(content: Content, level: str | None) -> list[dict[str, Any]]:
    if level is not None or all(m.statistics_by == "none" for m in content.inputs):
        return []
    codes = {name: LEVELS.index(name) for name in content.normaliser.levels}
    return [
        {"name": LEVEL, "long_name": "Product level of each image", "type": "int64", "shape": ["batch"], "codes": codes}
    ]
