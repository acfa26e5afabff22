"""What a trained network records: its outputs, its data and its result."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mmearth_data import LicenceUse, __version__, licences
from mmearth_model.heads.network import Output
from mmearth_model.tasks import TaskKind

if TYPE_CHECKING:
    from mmearth_data import Modality
    from mmearth_model.evaluation.results import Row
    from mmearth_model.tasks import LabelledSet
    from mmearth_model.weights.checkpoints import Checkpoint


def outputs_of(task: LabelledSet) -> tuple[Output, ...]:
    """Describe the outputs of a network for a task: one per class, label or quantity."""
    names = [task.classes[i] if i < len(task.classes) else str(i) for i in range(task.outputs)]
    if task.kind.continuous:
        return tuple(Output(name=name, units=_units(task.shown, name)) for name in names)
    if task.kind is TaskKind.MULTI_LABEL:
        return tuple(Output(name=name) for name in names)
    if task.shown is None:
        return tuple(Output(name=name, code=index) for index, name in enumerate(names))
    return tuple(Output(name=c.name, code=c.code, colour=c.colour) for c in task.shown.classes)


def _units(modality: Modality | None, name: str) -> str:
    """Units of a quantity: of a modality's band, 1 for the share of a class; "" if they are not known."""
    if modality is None:
        return ""
    if modality.kind.is_categorical:
        return "1"
    return modality.units_of(name if name in modality.bands else modality.bands[0])


def training_record(task: LabelledSet, checkpoint: Checkpoint, row: Row) -> dict[str, Any]:
    """Describe what a network was trained on, and its result, JSON-ready."""
    pretrained = checkpoint.config["store"]
    return {
        "encoder": checkpoint.name,
        **({"encoder_origin": checkpoint.origin.to_dict()} if checkpoint.origin else {}),
        "encoder_data": {part: pretrained[part] for part in ("path", "digest", "synthetic") if part in pretrained},
        "data": str(task.images.origin),
        "data_digest": task.images.digest,
        "synthetic": task.synthetic,
        "licences": _licences(task, checkpoint),
        "notes": list(task.notes),
        "version": __version__,
        "result": asdict(row),
    }


def _licences(task: LabelledSet, checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """Licences of the data that the network learned from: those of the encoder, and those of the labels."""
    normaliser = checkpoint.normaliser
    learned = {**normaliser.modalities, **({} if task.shown is None else {task.shown.name: task.shown})}
    uses = licences(m for m in learned.values() if m.stored)
    named = [LicenceUse(task.licence, "", "", (task.name,), ())] if task.licence else []
    return [asdict(use) for use in (*uses, *named)]
