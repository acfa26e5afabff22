"""Encoders in ONNX files exported by this toolkit, which contain their description."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import FileInputError, InputError, load_catalog
from mmearth_model.evaluation.external.backbone import External, Reading
from mmearth_model.evaluation.external.encoder import ExternalEncoder
from mmearth_model.evaluation.external.inputs import Stored
from mmearth_model.evaluation.external.onnxfiles import OnnxModule
from mmearth_model.evaluation.features import check_bands
from mmearth_model.training.layout import LEVEL
from mmearth_model.weights.checkpoints import learned_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmearth_model.evaluation.external.onnxfiles import OnnxFile, OnnxInput
    from mmearth_model.tasks import LabelledSet


@dataclass(frozen=True, slots=True)
class AsStored:
    """The inputs of an exported encoder: modalities as stored, which it normalises itself."""

    entries: tuple[Mapping[str, Any], ...]  # of the modalities, as in the file
    levelled: bool

    def input(self, task: LabelledSet) -> Stored:
        """Return what takes the modalities from a batch. Raises `InputError` if they are not stored as in pretraining."""
        known = {**load_catalog().modalities, **task.images.modalities}
        found = {}
        for entry in self.entries:
            modality = known.get(entry["name"])
            if modality is None or not modality.stored:
                raise InputError(
                    f"expected {entry['name']}, which the encoder takes, got none in the catalog; add its entry."
                )
            stored = [*modality.bands, modality.dtype.name, str(modality.nodata)]
            wanted = [*entry["bands"], entry["type"], str(np.dtype(entry["type"]).type(entry["nodata"]).item())]
            if stored != wanted:
                raise InputError(
                    f"expected {modality.name} as stored in pretraining ({', '.join(wanted)}), got ({', '.join(stored)}); "
                    "use the same catalog entry."
                )
            found[modality.name] = replace(modality, model_bands=tuple(entry["used_bands"]))
        reading = Stored(found, self.levelled)
        check_bands(reading, task)
        return reading

    def notes(self, task: LabelledSet) -> tuple[str, ...]:
        """Report tasks for which a checkpoint would be normalised with the statistics of the task."""
        if task.images.own_normaliser is None:
            return ()
        return (
            "is normalised with the statistics in its file; a checkpoint would be normalised with those of the task.",
        )


def exported_encoder(file: OnnxFile, name: str, description: Mapping[str, Any]) -> ExternalEncoder:
    """Make an encoder of a file and the description in it. Raises `FileInputError` if it is no encoder, or damaged."""
    if description.get("kind") != "encoder":
        raise FileInputError(
            file.path,
            f"expected an encoder, got a {description.get('kind')}, which outputs predictions; evaluate its folder.",
        )
    try:
        entries = [entry for entry in description["inputs"] if entry["name"] != LEVEL]
        inputs = _ordered(file.inputs, [entry["name"] for entry in description["inputs"]])
        channels = sum(len(entry["bands"]) for entry in entries) + len(inputs) - len(entries)
        learned, patch_px = learned_of(description.get("learned", ())), int(description["patch_px"])
        described = AsStored(tuple(entries), len(inputs) > len(entries))
    except (KeyError, TypeError, ValueError, InputError) as error:
        raise FileInputError(
            file.path, f"expected the description of an encoder, got one that does not fit: {error}; export it again."
        ) from None
    backbone = External(
        OnnxModule(file.session, inputs),
        name=name,
        in_channels=channels,
        identity=file.digest,
        reading=Reading(),
        patch_px=patch_px,
    )
    record = {"program": str(file.path), "digest": f"sha256:{file.digest}", "licence": description.get("licence")}
    return ExternalEncoder(name, backbone, described, learned, record)


def _ordered(inputs: list[OnnxInput], names: list[str]) -> list[OnnxInput]:
    """Arrange the inputs of a file as in its description."""
    known = {each.name: each for each in inputs}
    if sorted(known) != sorted(names):
        raise InputError(f"inputs {', '.join(known)} are not {', '.join(names)}")
    return [known[name] for name in names]
