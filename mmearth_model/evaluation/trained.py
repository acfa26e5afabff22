"""What a trained network records: its outputs, its encoder, its data and their licences, and its result."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mmearth_data import __version__
from mmearth_model.evaluation.results import defined
from mmearth_model.heads.network import Output
from mmearth_model.tasks import StoreImages, TaskKind
from mmearth_model.training.layout import MODEL_FILE
from mmearth_model.weights.released import digest_of
from mmearth_model.weights.store_record import describe_store

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from mmearth_data import Modality
    from mmearth_model.data.targets import Normaliser
    from mmearth_model.evaluation.results import Row
    from mmearth_model.tasks import LabelledSet
    from mmearth_model.weights.checkpoints import Checkpoint


def outputs_of(task: LabelledSet) -> tuple[Output, ...]:
    """Describe the outputs of a network for a task: one per class, label or quantity."""
    names = [task.classes[i] if i < len(task.classes) else str(i) for i in range(task.outputs)]
    if task.kind.continuous:
        return tuple(Output(name=name, units=_units(task.shown, name)) for name in names)
    if task.shown is not None:
        return tuple(Output(name=c.name, code=c.code, colour=c.colour) for c in task.shown.classes)
    colours = [*task.colours, *[None] * (len(names) - len(task.colours))]
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


def training_record(
    task: LabelledSet, checkpoint: Checkpoint, reading: Normaliser, row: Row, folder: Path
) -> dict[str, Any]:
    """Describe what a network was trained on, and its result, JSON-ready.

    Parameters
    ----------
    task
        Its task.
    checkpoint
        Its encoder, as pretrained.
    reading
        Normalisation of its input.
    row
        Its result.
    folder
        Folder that it will be written to, from which the store is found again if both are moved.

    Returns
    -------
    dict
        ``encoder`` (name), ``encoder_digest`` (SHA-256 of the pretrained weights), ``encoder_store`` (store of the
        pretraining) and ``learned`` (modalities predicted in it); ``label`` (modality of the labels, None for files); ``data``, ``data_digest``, ``store`` (None for files),
        ``synthetic``, ``samples`` (number in each part), ``labels`` (share of the training labels), ``seed``; ``licences``
        of pretraining and training data; ``notes``, ``version``, ``result``.
    """
    store = task.images.store if isinstance(task.images, StoreImages) else None
    return {
        "encoder": checkpoint.name,
        "encoder_digest": f"sha256:{digest_of(checkpoint.folder / MODEL_FILE)}",
        "encoder_store": dict(checkpoint.config["store"]),
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
        "licences": licences_of(task, checkpoint, reading),
        "notes": list(task.notes),
        "version": __version__,
        "result": defined(asdict(row)),
    }


def licences_of(task: LabelledSet, checkpoint: Checkpoint, reading: Normaliser) -> list[dict[str, Any]]:
    """Licences of the data that a network was trained on, JSON-ready.

    Each with ``use`` (``pretraining`` or ``training``), ``name``, ``url``, ``attribution``, and ``data``: the modalities, or
    the task, that it applies to.
    """
    images = [m for name, m in task.images.modalities.items() if name in reading.inputs]
    labels = [] if task.shown is None or task.shown.name in reading.inputs else [task.shown]
    own = {"use": "training", "name": task.licence, "url": "", "attribution": "", "data": [task.name]}
    return [
        *_licences("pretraining", checkpoint.normaliser.modalities.values()),
        *([own] if task.licence else _licences("training", [*images, *labels])),
    ]


def _licences(use: str, modalities: Iterable[Modality]) -> Iterator[dict[str, Any]]:
    """One entry for each licence and attribution, in the order of the modalities."""
    data: dict[tuple[str, str, str], list[str]] = {}
    for m in modalities:
        data.setdefault((m.licence.name, m.licence.url, m.licence.attribution), []).append(m.name)
    for (name, url, attribution), names in data.items():
        yield {"use": use, "name": name, "url": url, "attribution": attribution, "data": names}
