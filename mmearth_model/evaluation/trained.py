"""The record of a trained network: its outputs, its encoder, its data and their licences, and its result."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mmearth_data import LicenceUse, __version__, licences
from mmearth_model.evaluation.results import defined
from mmearth_model.heads.network import Output
from mmearth_model.tasks import StoreImages, TaskKind
from mmearth_model.training.layout import MODEL_FILE
from mmearth_model.weights.released import digest_of
from mmearth_model.weights.store_record import describe_store

if TYPE_CHECKING:
    from pathlib import Path

    from mmearth_data import Modality
    from mmearth_model.evaluation.results import Row
    from mmearth_model.tasks import LabelledSet
    from mmearth_model.weights.checkpoints import Checkpoint


def outputs_of(task: LabelledSet) -> tuple[Output, ...]:
    """Describe the outputs of a network for a task: one per class, label or quantity."""
    names = [task.classes[i] if i < len(task.classes) else str(i) for i in range(task.outputs)]
    if task.kind.continuous:
        return tuple(Output(name=name, units=_units(task.shown, name)) for name in names)
    if task.shown is not None and task.kind is not TaskKind.MULTI_LABEL:
        return tuple(Output(name=c.name, code=c.code, colour=c.colour) for c in task.shown.classes)
    own = task.colours if task.shown is None else tuple(c.colour for c in task.shown.classes)
    colours = [*own, *[None] * (len(names) - len(own))]
    pairs = zip(names, colours, strict=True)
    if task.kind is TaskKind.MULTI_LABEL:
        return tuple(Output(name=name, colour=colour) for name, colour in pairs)
    return tuple(Output(name=name, code=index, colour=colour) for index, (name, colour) in enumerate(pairs))


def _units(modality: Modality | None, name: str) -> str:
    """Units of a quantity: of a modality's band, 1 for the share of a class; "" if they are not known."""
    if modality is None:
        return ""
    if modality.kind.is_categorical:
        return "1"
    return modality.units_of(name if name in modality.bands else modality.bands[0])


def training_record(task: LabelledSet, checkpoint: Checkpoint, row: Row, folder: Path) -> dict[str, Any]:
    """Describe the training and the result of a network, JSON-ready.

    Parameters
    ----------
    task
        Its task.
    checkpoint
        Its encoder, as pretrained.
    row
        Its result.
    folder
        Folder that it will be written to, so that the store is found again if both are moved.

    Returns
    -------
    dict
        ``encoder`` (name), ``encoder_digest`` (SHA-256 of the pretrained weights), ``encoder_origin`` (if it was downloaded),
        ``encoder_data`` (store of the pretraining), ``learned`` (modalities predicted in it); ``label`` (modality of the
        labels, None for files); ``data``, ``data_digest``, ``store`` (None for files), ``synthetic``, ``samples`` (number in
        each split), ``labels`` (share of the training labels), ``seed``; ``licences`` of all training data;
        ``notes``, ``version``, ``result``.
    """
    pretrained = checkpoint.config["store"]
    store = task.images.store if isinstance(task.images, StoreImages) else None
    return {
        "encoder": checkpoint.name,
        "encoder_digest": f"sha256:{digest_of(checkpoint.folder / MODEL_FILE)}",
        **({"encoder_origin": checkpoint.origin.to_dict()} if checkpoint.origin else {}),
        "encoder_data": {part: pretrained[part] for part in ("path", "digest", "synthetic") if part in pretrained},
        "learned": [{"name": m.name, "kind": str(m.kind)} for m in checkpoint.learned],
        "label": None if task.shown is None else {"name": task.shown.name, "kind": str(task.shown.kind)},
        "data": str(task.images.origin),
        "data_digest": task.images.digest,
        "store": None if store is None else describe_store(store, folder.absolute().parent),
        "synthetic": task.synthetic,
        "samples": {
            "train": row.train_tiles,
            "validation": len(task.parts.validation),
            "test": row.test_tiles,
        },
        "labels": row.labels,
        "seed": row.seed,
        "licences": _licences(task, checkpoint),
        "notes": list(task.notes),
        "version": __version__,
        "result": defined(asdict(row)),
    }


def _licences(task: LabelledSet, checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """Licences of the training data: those of the encoder, and those of the labels."""
    normaliser = checkpoint.normaliser
    learned = {**normaliser.modalities, **({} if task.shown is None else {task.shown.name: task.shown})}
    uses = licences(m for m in learned.values() if m.stored)
    named = [LicenceUse(task.licence, "", "", (task.name,), ())] if task.licence else []
    before = checkpoint.config.get("licences", ())  # of the network whose encoder this is
    found = [*before, *(defined(asdict(use)) for use in (*uses, *named))]
    return [use for place, use in enumerate(found) if use not in found[:place]]
