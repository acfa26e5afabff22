"""External encoders: PyTorch modules and ONNX files, probed and fine-tuned like checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch

from mmearth_data import InputError
from mmearth_model.devices import slice_length
from mmearth_model.evaluation.candidates import Model
from mmearth_model.evaluation.features import Pooled
from mmearth_model.network.pooling import whole_patches

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmearth_model.evaluation.external.backbone import External
    from mmearth_model.evaluation.features import Extractor, ImageInput
    from mmearth_model.tasks import LabelledSet
    from mmearth_model.weights.checkpoints import Learned

TRIED = 2
"""Number of images with which an encoder is tested before the evaluation."""


class Described(Protocol):
    """Makes the input of an encoder."""

    def input(self, task: LabelledSet) -> ImageInput:
        """Return what converts images of a task to the input of the encoder. Raises `InputError` if bands are missing."""
        ...

    def notes(self, task: LabelledSet) -> tuple[str, ...]:
        """Describe what differs from the input of a checkpoint."""
        ...


@dataclass(frozen=True, eq=False)
class ExternalEncoder(Model):
    """An external encoder, or one exported by this toolkit; use `open_encoder`.

    It is probed, fine-tuned and timed like a checkpoint: see `mmearth_model.evaluate`.

    Attributes
    ----------
    name
        Name in tables.
    backbone
        Computes its maps.
    described
        Makes its input.
    learned
        Modalities on whose labels it was trained.
    record
        What is recorded with the results, JSON-ready: the program and its digest, the description, licence and source.
    """

    name: str
    backbone: External
    described: Described
    learned: tuple[Learned, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)
    _tried: set[tuple[str, str]] = field(default_factory=set)

    @property
    def trainable(self) -> bool:
        """Whether it is a module with weights, which fine-tuning changes."""
        return any(True for _ in self.backbone.parameters())

    def input(self, task: LabelledSet) -> ImageInput:
        """Make the input as its description says."""
        try:
            return self.described.input(task)
        except InputError as error:
            raise InputError(f"{self.name}: {error}") from None

    def network(self) -> External:
        """Return the encoder in evaluation mode, on the CPU."""
        return self.backbone.cpu().eval()

    def extractor(self, task: LabelledSet, seed: int, device: torch.device) -> Extractor:
        """Average the last map."""
        self.check(task, device)
        return Pooled(self.backbone.to(device).eval())

    def check(self, task: LabelledSet, device: torch.device) -> None:
        """Compute features of the first training images of a task, once."""
        key = (task.images.digest, str(device))
        if key in self._tried:
            return
        reading = self.input(task)
        (batch,) = task.images.batches(task.parts.train[:TRIED], TRIED, reading.stored)
        encoder = self.backbone.to(device).eval()
        images = whole_patches(encoder, reading.images(batch, device))
        with torch.inference_mode():
            maps = encoder.forward_features(images[: slice_length(device, len(images))])
        if task.kind.per_pixel and all(part.shape[-2:].numel() == 1 for part in maps):
            raise InputError(
                f"{self.name}: expected maps or tokens for {task.name}, a task per pixel, got one vector per image; return the "
                "map, or leave the task out."
            )
        self._tried.add(key)

    def notes(self, task: LabelledSet) -> tuple[str, ...]:
        """Describe what differs from a checkpoint."""
        return tuple(f"{task.name}: {self.name} {note}" for note in self.described.notes(task))
