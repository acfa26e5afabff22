"""Fine-tuning: the encoder goes on learning, with a classifier or a UNet decoder on top; or the decoder alone does.

Rate by layer (each block below the head a tenth less), linear warm-up and cosine, weight decay on matrices, stochastic
depth, mirrors and crops; the epoch that is best on the validation samples counts, and training stops when none has been
better for a while.
"""

from __future__ import annotations

import copy
import json
import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save_file

from mmearth_data import InputError, MMEarthError
from mmearth_model.devices import resolve_device, slice_length
from mmearth_model.draws import Position, generator, seeded
from mmearth_model.encoder import ConvNeXtV2
from mmearth_model.evaluation.features import input_normaliser, missing_bands, whole_patches
from mmearth_model.evaluation.metrics import (  # fmt: skip
    PRIMARY,
    all_metrics,
    bootstrap,
    from_sums,
    interval,
    pixel_metrics,
    sample_sums,
)
from mmearth_model.evaluation.networks import network, parameter_groups
from mmearth_model.evaluation.pixels import cut_masks
from mmearth_model.evaluation.probes import Linear, loss_function
from mmearth_model.evaluation.results import Evaluation, Row
from mmearth_model.runs import publish_folder
from mmearth_model.targets import Window
from mmearth_model.tasks import IGNORED, WHOLE, LabelledSet, LabelShare, TaskKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from mmearth_model.checkpoints import Checkpoint
    from mmearth_model.targets import Normaliser

READ_TILES = 32
CROP = 7 / 8
"""Side of the random crop that training sees, rounded to whole patches; the whole image is asked about."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FineTuneRecipe:
    """How a network is fine-tuned.

    Attributes
    ----------
    epochs
        Passes over the training samples, at most.
    warmup
        Epochs of the linear warm-up.
    patience
        Epochs without a better validation value after which training stops.
    batch_size
        Samples of a step.
    lr
        Of the head.
    layer_decay, drop_path, weight_decay
        As in the paper's fine-tuning.
    label_smoothing
        Of single-label tasks.
    frozen
        Train what stands on the encoder, and leave the encoder as it is.
    seed
        Decides the head's weights, order, mirrors and crops.
    """

    epochs: int = 100
    warmup: int = 5
    patience: int = 15
    batch_size: int = 32
    lr: float = 1e-3
    layer_decay: float = 0.9
    drop_path: float = 0.1
    weight_decay: float = 0.3
    label_smoothing: float = 0.0
    frozen: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.epochs, self.patience, self.batch_size) < 1 or not 0 < self.layer_decay <= 1 or self.lr <= 0:
            raise InputError(
                f"expected at least one epoch, sample and epoch of patience, a layer decay in (0, 1] and a rate above 0, got {self}."
            )

    def rate(self, step: int, per_epoch: int) -> float:
        """Learning rate of the head in a step, from 0."""
        warm, whole = min(self.warmup, self.epochs - 1) * per_epoch, self.epochs * per_epoch
        if step < warm:
            return self.lr * (step + 1) / warm
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, whole - warm)))


class FineTuner:
    """One network on its way.

    Parameters
    ----------
    encoder
        Where it starts; it is copied.
    normaliser
        Of its input.
    task, train
        Set, and the samples that are learned from.
    recipe
        How.
    device
        Where.
    """

    def __init__(
        self,
        encoder: ConvNeXtV2,
        normaliser: Normaliser,
        task: LabelledSet,
        train: NDArray[np.intp],
        recipe: FineTuneRecipe,
        device: torch.device,
    ) -> None:
        self.task, self.train, self.recipe, self.device, self.normaliser = task, train, recipe, device, normaliser
        self.kind = task.kind
        self.outputs = task.labels.shape[1] if task.labels.ndim == 2 and not self.kind.per_pixel else len(task.classes)
        if self.kind is TaskKind.SINGLE_LABEL:
            self.outputs = max(self.outputs, int(task.labels.max()) + 1)
        with seeded(recipe.seed, purpose="head"):
            self.model = network(regularised(encoder, recipe), self.outputs, per_pixel=self.kind.per_pixel).to(device)
        self.centre, self.spread = self._scale()

    def _scale(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and deviation of the training quantities."""
        if not self.kind.continuous:
            return np.zeros(1), np.ones(1)
        if not self.kind.per_pixel:
            return Linear.standardise(self.task.labels[self.train])
        assert self.task.masks is not None
        values = np.concatenate([self.task.masks(self.train[i : i + READ_TILES]).ravel() for i in range(0, len(self.train), READ_TILES)])  # fmt: skip
        return Linear.standardise(values[np.isfinite(values)][:, None])

    def fit(self, report: Callable[[int, float, float], None]) -> tuple[float, int]:
        """Train; keep the best epoch's weights. Returns its validation value and number (from 1)."""
        recipe = self.recipe
        groups = parameter_groups(self.model, lr=recipe.lr, weight_decay=recipe.weight_decay, layer_decay=recipe.layer_decay, frozen=recipe.frozen)  # fmt: skip
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999))
        held_out = self.task.parts.validation
        best, best_epoch, weights = -math.inf, 0, copy.deepcopy(self.model.state_dict())
        for epoch in range(recipe.epochs):
            loss = self._epoch(epoch, optimizer)
            value = float(from_sums(self.kind, self.sums(held_out).sum(axis=0))) if len(held_out) else -loss
            report(epoch + 1, loss, value)
            if value > best:
                best, best_epoch, weights = value, epoch + 1, copy.deepcopy(self.model.state_dict())
            elif epoch + 1 - best_epoch >= recipe.patience:
                break
        self.model.load_state_dict(weights)
        return best, best_epoch

    def _epoch(self, epoch: int, optimizer: torch.optim.Optimizer) -> float:
        recipe = self.recipe
        order = torch.randperm(len(self.train), generator=generator(recipe.seed, Position(epoch), "order")).numpy()
        per_epoch = -(-len(order) // recipe.batch_size)
        self.model.train()
        if recipe.frozen:
            self.model.encoder.eval()
        total = 0.0
        with seeded(recipe.seed, Position(epoch), "drop"):
            for step in range(per_epoch):
                rows = self.train[order[step * recipe.batch_size : (step + 1) * recipe.batch_size]]
                for group in optimizer.param_groups:
                    group["lr"] = recipe.rate(epoch * per_epoch + step, per_epoch) * group["scale"]
                total += self._step(rows, Position(epoch, step), optimizer) * len(rows)
        if not math.isfinite(total):
            raise MMEarthError(f"{self.task.name}: the loss is not a finite number in epoch {epoch + 1}; lower --lr.")
        return total / len(order)

    def _step(self, rows: NDArray[np.intp], position: Position, optimizer: torch.optim.Optimizer) -> float:
        images, answers = self._augmented(*self._batch(rows), position)
        optimizer.zero_grad(set_to_none=True)
        length = slice_length(self.device, len(images))
        total = 0.0
        for image, answer in zip(torch.split(images, length), torch.split(answers, length), strict=True):
            loss = self._loss(self.model(image), answer) * (len(image) / len(images))
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        optimizer.step()
        return total

    def _batch(self, rows: NDArray[np.intp]) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised images and answers of samples, in order."""
        (batch,) = self.task.images.batches(rows, len(rows), self.normaliser.stored)
        images = whole_patches(self.model.encoder, self.normaliser.images(batch, self.device))
        if self.kind.per_pixel:
            assert self.task.masks is not None
            answers = cut_masks(self.task.masks(rows), images.shape[-1])
        else:
            answers = self.task.labels[rows]
        if self.kind.continuous:
            answers = (answers - self.centre) / self.spread
            return images, torch.from_numpy(answers).float().to(self.device)
        return images, torch.from_numpy(answers).to(self.device)

    def _augmented(
        self, images: torch.Tensor, answers: torch.Tensor, position: Position
    ) -> tuple[torch.Tensor, torch.Tensor]:
        patch, side = self.model.encoder.config.patch_size, images.shape[-1]
        crop = max(patch, int(side * CROP) // patch * patch) if "crop" in self.task.augment else side
        chance = generator(self.recipe.seed, position, "crop")
        window = Window.random(len(images), side, crop, chance, flips="flip" in self.task.augment).to(images.device)
        if self.kind.per_pixel:
            answers = window.take(answers[:, None])[:, 0]
        return window.take(images), answers

    def _loss(self, outputs: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
        cross_entropy = torch.nn.functional.cross_entropy
        if self.kind is TaskKind.SEGMENTATION:
            if not (answers != IGNORED).any():
                return outputs.sum() * 0
            return cross_entropy(outputs, answers, ignore_index=IGNORED)
        if self.kind is TaskKind.PIXEL_REGRESSION:
            seen = torch.isfinite(answers)
            error = torch.where(seen, outputs[:, 0] - torch.where(seen, answers, 0.0), 0.0)
            return (error**2).sum() / seen.sum().clamp(min=1)
        if self.kind is TaskKind.SINGLE_LABEL:
            return cross_entropy(outputs, answers, label_smoothing=self.recipe.label_smoothing)
        return loss_function(self.kind)(outputs, answers)

    def outputs_of(self, rows: NDArray[np.intp]) -> Iterator[tuple[NDArray[np.float64], NDArray[Any]]]:
        """Yield outputs (B, K, ...) and answers of samples, batch by batch."""
        self.model.eval()
        for start in range(0, len(rows), READ_TILES):
            images, answers = self._batch(rows[start : start + READ_TILES])
            with torch.inference_mode():
                parts = [self.model(p).cpu() for p in torch.split(images, slice_length(self.device, len(images)))]
            yield torch.cat(parts).double().numpy(), answers.cpu().numpy()

    def sums(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return what each sample adds to the sums of the metric."""
        return np.concatenate(
            [
                sample_sums(self.kind, self._decided(outputs), self._restored(answers), self.outputs)
                for outputs, answers in self.outputs_of(rows)
            ]
        )

    def _decided(self, outputs: NDArray[np.float64]) -> NDArray[Any]:
        if self.kind is TaskKind.MULTI_LABEL:
            return (outputs > 0).astype(np.int64)
        if self.kind.continuous:
            scaled = outputs[:, 0] if self.kind.per_pixel else outputs
            quantities: NDArray[np.float64] = scaled * self.spread + self.centre
            return quantities
        classes: NDArray[np.int64] = outputs.argmax(axis=1)
        return classes

    def _restored(self, answers: NDArray[Any]) -> NDArray[Any]:
        if not self.kind.continuous:
            return answers
        restored: NDArray[np.float64] = answers * self.spread + self.centre
        return restored

    def score(self, rows: NDArray[np.intp]) -> tuple[NDArray[np.float64], dict[str, float]]:
        """Return sums, and all metrics, on test samples."""
        if self.kind.per_pixel:
            sums = self.sums(rows)
            return sums, pixel_metrics(self.kind, sums)
        pairs = list(self.outputs_of(rows))
        outputs, answers = (np.concatenate(part) for part in zip(*pairs, strict=True))
        predicted, truth = self._decided(outputs), self._restored(answers)
        scores = 1 / (1 + np.exp(-outputs)) if self.kind is TaskKind.MULTI_LABEL else None
        sums = sample_sums(self.kind, predicted, truth, self.outputs)
        return sums, all_metrics(self.kind, predicted, truth, self.outputs, scores)


def regularised(encoder: ConvNeXtV2, recipe: FineTuneRecipe) -> ConvNeXtV2:
    """Copy an encoder, with stochastic depth."""
    changed = ConvNeXtV2(replace(encoder.config, drop_path=0.0 if recipe.frozen else recipe.drop_path))
    changed.load_state_dict(encoder.state_dict())
    return changed


def finetune(
    checkpoint: Checkpoint | None,
    task: LabelledSet,
    recipe: FineTuneRecipe,
    *,
    encoder: ConvNeXtV2 | None = None,
    normaliser: Normaliser | None = None,
    name: str = "",
    labels: LabelShare = WHOLE,
    device: str = "auto",
    out: Path | None = None,
    report: Callable[[int, float, float], None] = lambda epoch, loss, value: None,
) -> Evaluation:
    """Fine-tune an encoder on a task, and say how good it is.

    Parameters
    ----------
    checkpoint
        Where it starts; None where ``encoder``, its ``normaliser`` and its ``name`` are given instead.
    task
        From `mmearth_model.tasks.open_task`; its validation samples choose the epoch.
    recipe
        How.
    labels
        Share of the training labels.
    device
        ``auto``, ``cpu``, ``cuda``, ...
    out
        Folder for the fine-tuned network (safetensors and JSON); None keeps none.
    report
        Told of every epoch: its number, training loss and validation value.

    Raises
    ------
    InputError
        When checkpoint, task and recipe do not fit each other.
    """
    if checkpoint is not None:
        encoder, normaliser, name = checkpoint.encoder(), checkpoint.normaliser, str(checkpoint.folder)
    if encoder is None or normaliser is None:
        raise InputError("expected a checkpoint, or an encoder and its normaliser, got neither.")
    task.check()
    reading = input_normaliser(normaliser, task)
    train = labels.choose(task, recipe.seed)
    tuner = FineTuner(encoder, reading, task, train, recipe, resolve_device(device))
    validation, epoch = tuner.fit(report)
    sums, metrics = tuner.score(task.parts.test)
    low, high = interval(bootstrap(task.kind, [sums]))
    metric = PRIMARY[task.kind]
    row = Row(
        task=task.name,
        kind=task.kind.value,
        encoder=name,
        seed=recipe.seed,
        protocol=("unet" if task.kind.per_pixel else "head") if recipe.frozen else "finetune",
        labels=labels.text,
        metric=metric,
        value=metrics[metric],
        low=low,
        high=high,
        metrics=metrics,
        validation=validation,
        converged=None,
        chosen=f"epoch {epoch}",
        leaky=checkpoint is not None and any(task.conflicts(m) for m in checkpoint.learned),
        train_tiles=len(train),
        test_tiles=len(task.parts.test),
    )
    if out is not None:
        publish_folder(out, lambda folder: _write(folder, tuner, row, reading))
    filled = missing_bands(reading, task)
    return Evaluation((row,), (sums,), {(task.name, name): filled} if filled else {})


def _write(folder: Path, tuner: FineTuner, row: Row, normaliser: Normaliser) -> None:
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in sorted(tuner.model.state_dict().items())}, folder / "model.safetensors")  # fmt: skip
    config = {
        "architecture": type(tuner.model).__name__,
        "encoder": asdict(tuner.model.encoder.config),
        "outputs": tuner.outputs,
        "classes": list(tuner.task.classes),
        "normaliser": normaliser.to_config(),
        "scale": {"mean": tuner.centre.tolist(), "std": tuner.spread.tolist()},
        "recipe": asdict(tuner.recipe),
        "result": asdict(row),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
