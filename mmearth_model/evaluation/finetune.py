"""Fine-tuning: train the encoder together with a classifier or a UNet decoder on top of it, or only the decoder.

By default, `FineTuneRecipe` uses layer-wise learning rates (each block below the head a tenth less), linear warm-up and
cosine, weight decay on matrices, stochastic depth, flips and crops; the epoch that is best on the validation samples is
tested, and training stops if none has been better for a while. `PAPER`, `PAPER_FEW`, `PAPER_UNET`, `PAPER_PROBE` and
`PAPER_PROBE_FEW` follow the paper's released code instead, see `mmearth_model.evaluation.paper`.
"""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmearth_data import InputError, MMEarthError, check_limits, documented
from mmearth_model.data.targets import Window
from mmearth_model.devices import resolve_device, slice_length
from mmearth_model.evaluation.candidates import candidate_of
from mmearth_model.evaluation.features import input_normaliser, missing_bands
from mmearth_model.evaluation.metrics import PRIMARY, from_sums
from mmearth_model.evaluation.oddity import data_notes
from mmearth_model.evaluation.paper import smoothed, start_head, thawed_group
from mmearth_model.evaluation.parameter_groups import parameter_groups
from mmearth_model.evaluation.pixels import cut_masks
from mmearth_model.evaluation.probes import loss_function, standardise
from mmearth_model.evaluation.results import Evaluation, Row
from mmearth_model.evaluation.testing import READ_TILES, outputs_on, score_of, sums_of
from mmearth_model.evaluation.trained import outputs_of, training_record
from mmearth_model.fields import FineTuneFields
from mmearth_model.heads.network import Network, check_network_output, save_network
from mmearth_model.heads.paper_unet import PaperUNet
from mmearth_model.heads.unet import UNet
from mmearth_model.network.encoder import Classifier, ConvNeXtV2
from mmearth_model.network.pooling import whole_patches
from mmearth_model.tasks import IGNORED, WHOLE, LabelledSet, LabelShare, TaskKind
from mmearth_model.training.random_numbers import Position, generator, seeded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mmearth_model.evaluation.candidates import Candidate
    from mmearth_model.evaluation.external.encoder import ExternalEncoder
    from mmearth_model.evaluation.features import ImageInput
    from mmearth_model.evaluation.metrics import Score
    from mmearth_model.evaluation.testing import Answered
    from mmearth_model.network.backbone import Backbone
    from mmearth_model.weights.checkpoints import Checkpoint

CROP = 7 / 8
"""Side of the random crop that training sees, rounded to whole patches; the whole image is asked about."""
PER_PIXEL = (
    "expected a task of whole images for an encoder of another architecture, got a task per pixel, whose decoder needs "
    "the maps of four stages; probe it with mmearth-train evaluate."
)
KEPT_BYTES = 2**30
"""Largest size of a task's normalised images that are kept between epochs; larger tasks are read again."""


@documented
@dataclass(frozen=True, kw_only=True)
class FineTuneRecipe(FineTuneFields):
    """Settings of fine-tuning; layer decay, drop path and weight decay are the paper's by default."""

    def __post_init__(self) -> None:
        check_limits(FineTuneFields, self)
        if self.min_lr > self.lr:
            raise InputError(f"min_lr: expected at most the peak rate {self.lr:g}, got {self.min_lr:g}; lower it.")

    @property
    def published(self) -> bool:
        """Whether this is, except for the seed, one of the recipes of the paper's released code."""
        return replace(self, seed=0) in PAPERS

    def batches(self, samples: int) -> int:
        """Batches per epoch."""
        return samples // self.batch_size if self.drop_incomplete else -(-samples // self.batch_size)

    def steps(self, samples: int) -> int:
        """Optimiser steps per epoch."""
        batches = self.batches(samples)
        return batches // self.accumulate if self.drop_incomplete else -(-batches // self.accumulate)

    def rate(self, step: int, per_epoch: int) -> float:
        """Learning rate of the head in a step, counted from 0; both are counted in batches."""
        warm, whole = min(self.warmup, self.epochs // 4) * per_epoch, self.epochs * per_epoch
        if step < warm:
            return self.lr * (step + 1) / warm
        cosine = 1 + math.cos(math.pi * (step - warm) / max(1, whole - warm))
        return self.min_lr + (self.lr - self.min_lr) * 0.5 * cosine

    def protocol(self, *, per_pixel: bool) -> str:
        """Name in a table; ``paper`` (frozen) and ``finetune-paper`` if nothing differs from the released settings."""
        if self.published:
            return "paper" if self.frozen and self.thaw is None else "finetune-paper"
        if self.frozen and self.thaw is None:
            return "unet" if per_pixel else "head"
        return "finetune"


PAPER = FineTuneRecipe(
    epochs=100,
    warmup=0,
    batch_size=64,
    accumulate=16,
    drop_incomplete=True,
    lr=2e-4 * (64 * 16) / 256,
    min_lr=1e-6,
    layer_decay=0.9,
    drop_path=0.1,
    weight_decay=0.3,
    label_smoothing=0.2,
    clip=None,
    keep="last",
    head_std=2e-5,
    augment=False,
    rules="released",
)
"""The paper's fine-tuning of whole images."""
PAPER_FEW = replace(PAPER, batch_size=32, accumulate=1, lr=2e-4 * 32 / 256)
"""The same for few samples."""
PAPER_UNET = replace(
    PAPER, epochs=200, batch_size=32, accumulate=1, lr=1e-2 * 32 / 256, label_smoothing=0.0, frozen=True,
    frozen_drop_path=True, thaw=50,
)  # fmt: skip
"""The paper's segmentation: only the decoder for 50 epochs, then the whole network for 150."""
PAPER_PROBE = replace(PAPER, frozen=True, frozen_drop_path=True)
"""The paper's linear probe."""
PAPER_PROBE_FEW = replace(PAPER_FEW, frozen=True, frozen_drop_path=True)
"""The same for few samples."""
PAPERS = (PAPER, PAPER_FEW, PAPER_UNET, PAPER_PROBE, PAPER_PROBE_FEW)


def paper_recipe(task: LabelledSet, train: int, *, probe: bool = False, seed: int = 0) -> FineTuneRecipe:
    """Return the paper's settings for a task, trained on ``train`` samples.

    Those for few samples apply if only a share of the labels is used, or fewer samples than one step takes. ``probe``
    returns the linear probe of a frozen encoder instead of fine-tuning. Raises `InputError` when a probe is requested for a
    task per pixel, or the samples do not fill a batch.
    """
    if probe and task.kind.per_pixel:
        raise InputError(
            f"--protocol paper: expected a task of whole images, got {task.name}, which is a task per pixel; "
            "use mmearth-train finetune --recipe paper."
        )
    whole, few = (PAPER_PROBE, PAPER_PROBE_FEW) if probe else (PAPER, PAPER_FEW)
    full = train == len(task.parts.train) and whole.steps(train) > 0
    recipe = PAPER_UNET if task.kind.per_pixel else whole if full else few
    if not recipe.steps(train):
        raise InputError(
            f"{task.name}: expected at least {recipe.batch_size} training samples for the paper's settings, which leave out "
            f"incomplete batches, got {train}; use more labels, or another protocol."
        )
    return replace(recipe, seed=seed)


def choose_recipe(name: str, task: LabelledSet, labels: LabelShare, given: Mapping[str, Any]) -> FineTuneRecipe:
    """Return the recipe ``default`` or ``paper`` with the ``given`` fields of `FineTuneRecipe`.

    Task and labels determine which of the paper's settings apply. Raises `InputError` when a field is given that the paper's
    recipe fixes, which are all except the seed; see also `paper_recipe`.
    """
    if name == "default":
        return FineTuneRecipe(**given)
    fixed = next((field for field in given if field != "seed"), None)
    seed = int(given.get("seed", 0))
    recipe = paper_recipe(task, len(labels.choose(task, seed)), seed=seed)
    if fixed is not None:
        option = f"--{fixed.replace('_', '-')}"
        raise InputError(
            f"{option}: expected no value with --recipe paper, which sets {fixed} as the paper's code does, got "
            f"{given[fixed]}; leave out {option}, or use --recipe default."
        )
    return recipe


class FineTuner:
    """Training of one network: a copy of an encoder, and the layers that a task and a recipe add.

    ``reading`` makes the encoder's input, ``train`` are the samples to train on.
    """

    def __init__(
        self,
        encoder: Backbone,
        reading: ImageInput,
        task: LabelledSet,
        train: NDArray[np.intp],
        recipe: FineTuneRecipe,
        device: torch.device,
    ) -> None:
        self.task, self.train, self.recipe, self.device, self.reading = task, train, recipe, device, reading
        self.kind = task.kind
        self.outputs = task.outputs
        with seeded(recipe.seed, purpose="head"):
            self.model = _network(encoder, recipe, self.outputs, per_pixel=self.kind.per_pixel).to(device)
        self.centre, self.spread = self._measured()
        self._kept: dict[int, torch.Tensor] = {}
        self._used = len(task.parts.used)

    def _measured(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and deviation of the training quantities."""
        if not self.kind.continuous:
            return np.zeros(1), np.ones(1)
        if not self.kind.per_pixel:
            return standardise(self.task.labels[self.train])
        assert self.task.masks is not None
        values = np.concatenate([self.task.masks(self.train[i : i + READ_TILES]).ravel() for i in range(0, len(self.train), READ_TILES)])  # fmt: skip
        return standardise(values[np.isfinite(values)][:, None])

    def fit(self, report: Callable[[int, float, float], None] | None = None) -> tuple[float | None, int]:
        """Train, and keep the weights of the epoch selected by the recipe.

        Returns the epoch's validation value and its number, counted from 1. Without validation samples, the value is the
        negative training loss if the best epoch is kept, and None if the last one is. If the metric is undefined on the
        validation samples, the value is NaN, and the epoch is selected by the training loss. ``report`` is called after every
        epoch with its number, training loss and validation value; without it, if the last epoch is kept, only that one is
        validated.
        """
        recipe, last = self.recipe, self.recipe.keep == "last"
        optimizer = self.optimizer()
        best, best_epoch, weights = math.nan, 0, {} if last else self.model.state_dict()
        highest = (False, -math.inf)
        for epoch in range(recipe.epochs):
            if epoch == recipe.thaw:
                optimizer.add_param_group(thawed_group(self.model.encoder, recipe.lr))
            loss = self._epoch(epoch, optimizer)
            value = self._validated(loss) if report or epoch + 1 == recipe.epochs or not last else math.nan
            if report is not None:
                report(epoch + 1, loss, value)
            rank = (False, -loss) if math.isnan(value) else (True, value)
            if last:
                best, best_epoch = value, epoch + 1
            elif rank > highest:
                highest, best, best_epoch, weights = rank, value, epoch + 1, copy.deepcopy(self.model.state_dict())
            elif epoch + 1 - best_epoch >= recipe.patience:
                break
        if last:
            return best if len(self.task.parts.validation) else None, best_epoch
        self.model.load_state_dict(weights)
        return best, best_epoch

    def optimizer(self) -> torch.optim.Optimizer:
        """Create the optimiser of the parameters trained first; disable gradients of the others."""
        recipe = self.recipe
        groups = parameter_groups(
            self.model,
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            layer_decay=recipe.layer_decay,
            frozen=recipe.frozen,
            released=recipe.rules == "released",
        )
        return torch.optim.AdamW(groups, betas=(0.9, 0.999))

    def _validated(self, loss: float) -> float:
        held_out = self.task.parts.validation
        if self.task.metric and len(held_out):
            return self.score(held_out).metrics[self.task.metric]
        return float(from_sums(self.kind, self.sums(held_out).sum(axis=0))) if len(held_out) else -loss

    def _epoch(self, epoch: int, optimizer: torch.optim.Optimizer) -> float:
        recipe, size = self.recipe, self.recipe.batch_size
        order = torch.randperm(len(self.train), generator=generator(recipe.seed, Position(epoch), "order")).numpy()
        batches = recipe.batches(len(order))
        self.model.train()
        encoder = self.model.encoder
        if recipe.frozen and (encoder.whole_batches or not recipe.frozen_drop_path):
            encoder.eval()
        total, seen = 0.0, 0
        with seeded(recipe.seed, Position(epoch), "drop"):
            for first in range(0, recipe.steps(len(order)) * recipe.accumulate, recipe.accumulate):
                for group in optimizer.param_groups:
                    group["lr"] = recipe.rate(epoch * batches + first, batches) * group["scale"]
                numbers = range(first, min(first + recipe.accumulate, batches))
                rows = [self.train[order[number * size : (number + 1) * size]] for number in numbers]
                count = sum(map(len, rows))
                total += self._step(rows, Position(epoch, first), optimizer) * count
                seen += count
        if not math.isfinite(total):
            raise MMEarthError(f"{self.task.name}: the loss is not a finite number in epoch {epoch + 1}; lower --lr.")
        return total / seen

    def _step(self, batches: Sequence[NDArray[np.intp]], position: Position, optimizer: torch.optim.Optimizer) -> float:
        optimizer.zero_grad(set_to_none=True)
        samples = sum(map(len, batches))
        total = 0.0
        for number, rows in enumerate(batches):
            images, answers = self._augmented(*self._batch(rows), replace(position, batch=position.batch + number))
            length = len(images) if self.model.encoder.whole_batches else slice_length(self.device, len(images))
            for image, answer in zip(torch.split(images, length), torch.split(answers, length), strict=True):
                loss = self._loss(self.model(image), answer) * (len(image) / samples)
                loss.backward()  # type: ignore[no-untyped-call]
                total += float(loss.detach())
        if self.recipe.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        optimizer.step()
        return total

    def _batch(self, rows: NDArray[np.intp]) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised images and answers of samples, in order."""
        images = self._images(rows)
        if self.kind.per_pixel:
            assert self.task.masks is not None
            answers = cut_masks(self.task.masks(rows), images.shape[-2:])
        else:
            answers = self.task.labels[rows]
        if self.kind.continuous:
            answers = (answers - self.centre) / self.spread
            return images, torch.from_numpy(answers).float().to(self.device)
        return images, torch.from_numpy(answers).to(self.device)

    def _images(self, rows: NDArray[np.intp]) -> torch.Tensor:
        """Read and normalise images, cropped to whole patches; kept in memory if they are small enough in total."""
        absent = np.array([row for row in rows if int(row) not in self._kept], dtype=np.intp)
        if len(absent):
            (batch,) = self.task.images.batches(absent, len(absent), self.reading.stored)
            images = whole_patches(self.model.encoder, self.reading.images(batch, self.device))
            if images[0].nbytes * self._used > KEPT_BYTES:
                return images.contiguous()
            self._kept |= dict(zip(map(int, absent), images, strict=True))
        return torch.stack([self._kept[int(row)] for row in rows])

    def _augmented(
        self, images: torch.Tensor, answers: torch.Tensor, position: Position
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.recipe.augment:
            return images, answers
        patch, crops, flips = self.model.encoder.strides[-1], "crop" in self.task.augment, "flip" in self.task.augment
        chance = generator(self.recipe.seed, position, "crop")
        squares = [
            Window.random(
                len(images), side, max(patch, int(side * CROP) // patch * patch) if crops else side, chance, flips=flips
            )
            for side in dict.fromkeys(images.shape[-2:])
        ]
        window = Window(squares[0].rows, squares[-1].columns).to(images.device)
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
        if self.kind is TaskKind.MULTI_LABEL and self.recipe.label_smoothing:
            answers = smoothed(answers.to(outputs.dtype), self.recipe.label_smoothing)
        return loss_function(self.kind)(outputs, answers)

    def sums(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return the contribution of each sample to the sums of the metric."""
        return sums_of(self.kind, self._outputs(rows), self.scale, self.outputs)

    def score(self, rows: NDArray[np.intp]) -> Score:
        """Return sums, all metrics and their counts on the test samples."""
        return score_of(self.kind, self._outputs(rows), self.scale, self.outputs, self.task.metric)

    def _outputs(self, rows: NDArray[np.intp]) -> Iterator[Answered]:
        self.model.eval()
        return outputs_on(self.model, self.task, rows, self._images, self.device)

    @property
    def scale(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and deviation of the training quantities."""
        return self.centre, self.spread

    def network(self, checkpoint: Checkpoint, row: Row, folder: Path) -> Network:
        """Return the trained network with all that is needed to apply it; ``row`` is its result."""
        record = training_record(self.task, checkpoint, row, folder)
        return Network(
            module=self.model.eval(),
            normaliser=input_normaliser(checkpoint.normaliser, self.task),
            kind=self.kind,
            outputs=outputs_of(self.task),
            window_px=self.image_px,
            task=self.task.name,
            scale=self.scale,
            record={**record, "recipe": asdict(self.recipe)},
        )

    @property
    def image_px(self) -> int:
        """Pixels along the shorter side of the images, cropped to whole patches."""
        return min(self._images(self.train[:1]).shape[-2:])

    def notes(self, validation: float | None) -> tuple[str, ...]:
        """Report that the metric could not choose the epoch, given its validation value."""
        if self.recipe.keep == "last" or validation is None or not math.isnan(validation):
            return ()
        metric, samples = self.task.metric or PRIMARY[self.kind], len(self.task.parts.validation)
        return (
            f"{self.task.name}: {metric} is undefined on the validation samples ({samples}); the epoch was chosen by the training loss",
        )

    @property
    def settings(self) -> str:
        """Description of the paper's settings that are in use."""
        recipe, samples = self.recipe, len(self.train)
        batch = f"{recipe.batch_size} x {recipe.accumulate}" if recipe.accumulate > 1 else f"{recipe.batch_size}"
        thaw = f", encoder from epoch {recipe.thaw + 1}" if recipe.thaw is not None else ""
        steps = f"{recipe.steps(samples)} steps of {batch} per epoch"
        return f"last of {recipe.epochs} epochs{thaw}, {steps}, lr {recipe.lr:g}"


def _network(
    encoder: Backbone, recipe: FineTuneRecipe, outputs: int, *, per_pixel: bool
) -> Classifier[Any] | UNet | PaperUNet:
    """Add the parts required by a task and a recipe to a copy of an encoder."""
    rate = recipe.drop_path if not recipe.frozen or recipe.frozen_drop_path else 0.0
    model: Classifier[Any] | UNet | PaperUNet
    if not per_pixel:
        model = Classifier(encoder.with_drop_path(rate), outputs)
    elif not isinstance(encoder, ConvNeXtV2):
        raise InputError(PER_PIXEL)
    elif recipe.rules == "released":
        model = PaperUNet(encoder.with_drop_path(rate, padding="same"), outputs)
    else:
        model = UNet(encoder.with_drop_path(rate), outputs)
    if recipe.head_std is not None:
        start_head(model.head, recipe.head_std)
    return model


def finetune(
    checkpoint: Checkpoint | ExternalEncoder,
    task: LabelledSet,
    recipe: FineTuneRecipe,
    *,
    labels: LabelShare = WHOLE,
    device: str = "auto",
    out: Path | None = None,
    report: Callable[[int, float, float], None] | None = None,
) -> Evaluation:
    """Fine-tune an encoder on a task, and test it.

    Parameters
    ----------
    checkpoint
        Pretrained encoder, or an external one (`mmearth_model.open_encoder`): a PyTorch module, for tasks of whole
        images. The latter has its own stochastic depth, if any, and its layers are its numbered blocks.
    task
        From `mmearth_model.tasks.open_task`; its validation samples choose the epoch.
    recipe
        Settings.
    labels
        Share of the training labels.
    device
        ``auto``, ``cpu``, ``cuda``, ...
    out
        Folder for the fine-tuned network (safetensors and JSON), of a checkpoint only; None keeps none.
    report
        Called after every epoch with its number, training loss and validation value.

    Raises
    ------
    InputError
        When checkpoint, task and recipe do not fit each other.
    """
    task.check()
    candidate, where = candidate_of(checkpoint, (recipe.seed,)), resolve_device(device)
    _check(candidate, task, out)
    reading, network = _prepared(candidate, task, where)
    train = labels.choose(task, recipe.seed)
    tuner = FineTuner(network, reading, task, train, recipe, where)
    validation, epoch = tuner.fit(report)
    found = tuner.score(task.parts.test)
    row = Row.of(
        task,
        found,
        encoder=candidate.name,
        seed=recipe.seed,
        protocol=recipe.protocol(per_pixel=task.kind.per_pixel),
        labels=labels.text,
        validation=validation,
        converged=None,
        chosen=f"epoch {epoch}" if recipe.keep == "best" else tuner.settings,
        leaky=candidate.leaky_for(task),
        train_tiles=len(train),
    )
    if out is not None and candidate.checkpoint is not None:
        save_network(out, tuner.network(candidate.checkpoint, row, out))
    filled = missing_bands(reading, task)
    known = [candidate.checkpoint.normaliser.statistics] if candidate.checkpoint else []
    notes = (*data_notes(task, known), *candidate.model.notes(task), *tuner.notes(validation))
    return Evaluation((row,), (found.sums,), {(task.name, candidate.name): filled} if filled else {}, notes)


def _check(candidate: Candidate, task: LabelledSet, out: Path | None) -> None:
    """Refuse an encoder that cannot be trained, and a folder for a network that cannot be saved."""
    if not candidate.model.trainable:
        raise InputError(
            f"{candidate.name}: expected a PyTorch module with weights to fine-tune, got none; probe it with evaluate."
        )
    if out is not None and candidate.checkpoint is None:
        raise InputError(
            f"--out: expected none with {candidate.name}, since networks can only be saved with an encoder of this toolkit; leave it out."
        )
    if task.kind.per_pixel and candidate.checkpoint is None:
        raise InputError(f"{candidate.name}: {PER_PIXEL}")
    if out is not None:
        check_network_output(out)


def _prepared(candidate: Candidate, task: LabelledSet, device: torch.device) -> tuple[ImageInput, Backbone]:
    """Return what makes the encoder's input, and the encoder."""
    candidate.model.check(task, device)
    network = candidate.model.network()
    assert network is not None
    return candidate.model.input(task), network
