"""Pretraining, with random numbers that are a function of (seed, epoch, micro-batch).

An interrupted run resumes from its last checkpoint and ends with the same weights, because nothing depends on earlier
steps: neither on the state of a generator nor on the order in which threads read.
"""

from __future__ import annotations

import itertools
import logging
import math
import signal
import time
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException

from mmearth_data import __version__, format_tile_ids
from mmearth_model.data.targets import Normaliser, Window
from mmearth_model.devices import resolve_device, slice_length
from mmearth_model.network.losses import LossConfig, MultiTaskLoss
from mmearth_model.network.masking import random_mask
from mmearth_model.network.mpmae import MPMAE, parameter_groups
from mmearth_model.network.positions import ENGINES
from mmearth_model.training.loggers import check_loggers
from mmearth_model.training.plan import SPLIT, TrainPlan, plan_training, statistics_in_force
from mmearth_model.training.random_numbers import Position, generator, seeded
from mmearth_model.training.ranks import Ranks
from mmearth_model.training.recording import Means, Recorder, TrainingDiverged, TrainingInterrupted, TrainProgress
from mmearth_model.training.runs import Run
from mmearth_model.weights.checkpoints import OPTIMIZER_FILE, Checkpoint, read_progress, read_tensors, restore_optimizer
from mmearth_model.weights.store_record import describe_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from matplotlib.figure import Figure
    from torch import Tensor

    from mmearth_data import Batch, Store
    from mmearth_model.training.recipe import TrainRecipe

__all__ = ["Pretraining", "TrainProgress", "TrainingDiverged", "TrainingInterrupted", "pretrain"]

NAMED_TILES = 8
"""Tiles that an error names at most."""


class Stream:
    """Micro-batches of a run: each iteration is one epoch, the first from ``start`` on.

    Each of the ``world`` processes takes every ``world``-th micro-batch, so that together they learn from what one
    process would have accumulated.
    """

    def __init__(self, store: Store, plan: TrainPlan, start: Position, ranks: Ranks | None = None) -> None:
        self.ranks = ranks or Ranks()
        self.synthetic = store.synthetic
        self.next = start
        self.waited_s = 0.0
        recipe = plan.recipe
        self.batches = plan.steps_per_epoch * recipe.accumulate
        self.loader = store.select(split=SPLIT).loader(
            batch_size=recipe.micro_batch, shuffle=True, seed=recipe.seed, modalities=plan.reads, drop_last=True
        )

    def __iter__(self) -> Iterator[tuple[Position, Batch]]:
        """Positions and raw batches up to the end of the epoch; complete accumulated batches only."""
        epoch, first = self.next.epoch, self.next.batch
        self.next = Position(epoch + 1)
        self.loader.set_epoch(epoch)
        batches = itertools.islice(iter(self.loader), first, self.batches)
        for index in range(first, self.batches):
            begin = time.perf_counter()
            batch = next(batches)
            self.waited_s += time.perf_counter() - begin
            if index % self.ranks.world == self.ranks.rank:
                yield Position(epoch, index), batch


class Pretraining(LightningModule):
    """MP-MAE with its losses: the training step of a micro-batch.

    ``step`` counts the optimiser steps done; ``optimizer_state`` is that of
    `mmearth_model.weights.checkpoints.optimizer_tensors`, None at the start of a run.
    """

    def __init__(
        self,
        plan: TrainPlan,
        normaliser: Normaliser,
        *,
        step: int = 0,
        optimizer_state: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        recipe = plan.recipe
        self.plan, self.normaliser, self.step, self.optimizer_state = plan, normaliser, step, optimizer_state
        self.patches, self.visible = plan.patches, plan.visible
        with seeded(recipe.seed):
            self.model = MPMAE(plan.model_config())
        self.model.encoder.engine = ENGINES[recipe.engine]
        self.losses = MultiTaskLoss(
            self.model.config.tasks, LossConfig(preset=recipe.preset, weighting=recipe.weighting)
        )
        self.last: dict[str, Tensor] = {}

    def training_step(self, batch: tuple[Position, Batch], batch_idx: int) -> Tensor:
        """Total loss of a micro-batch. Raises `TrainingDiverged` when it is not finite; names the tasks and tiles."""
        position, raw = batch
        window, mask = self.crop_and_mask(position, len(raw["tile"]["tile_id"]))
        with seeded(self.plan.recipe.seed, position, "drop"):
            total, losses = self.learn(raw, window, mask)
        if not math.isfinite(total.item()):
            raise TrainingDiverged(self._diagnosis(position, raw, window, mask, losses))
        self.last = {"loss": total.detach(), **{name: loss.detach() for name, loss in losses.items()}}
        return total

    def crop_and_mask(self, position: Position, tiles: int) -> tuple[Window, Tensor]:
        """Crop window of each tile at a position, and mask (B, L) bool, True where hidden."""
        plan, seed = self.plan, self.plan.recipe.seed
        crops = generator(seed, position, "crop")
        window = Window.random(tiles, plan.tile_size, plan.image_size, crops, flips=plan.recipe.flips)
        masks = generator(seed, position, "mask")
        return window, random_mask(tiles, self.patches, plan.recipe.mask_ratio, masks, self.device)

    def learn(self, raw: Batch, window: Window, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss of a raw batch, and the loss of each task."""
        batch = self.normaliser(raw, self.device, window)
        result: tuple[Tensor, dict[str, Tensor]] = self.losses(self.predict(batch.images, mask), batch.targets, mask)
        return result

    def predict(self, images: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Forward pass; in slices that fit the cache, unless GRN pools over the batch."""
        whole = self.model.config.encoder.grn == "batch"
        wanted = len(images) if whole else self.plan.recipe.slice_images
        length = slice_length(self.device, len(images), wanted, training=True)
        slices = zip(torch.split(images, length), torch.split(mask, length), strict=True)
        parts = [self.model(*part, self.visible) for part in slices]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    @torch.no_grad()
    def reconstruction(self, raw: Batch, position: Position, *, synthetic: bool) -> Figure:
        """Draw the reconstructions of the first tiles of a micro-batch, with their crops and masks."""
        from mmearth_model.training.figures import TILES, reconstruction

        window, mask = self.crop_and_mask(position, len(raw["tile"]["tile_id"]))
        raw, window, mask = _some(raw, window, mask, slice(TILES))
        normalised = self.normaliser(raw, self.device, window)
        predictions = self.model(normalised.images, mask)
        modalities = self.normaliser.modalities
        return reconstruction(
            {task.name: (task, modalities[task.name]) for task in self.model.config.tasks},
            raw,
            normalised,
            predictions,
            mask,
            patch_size=self.plan.patch_size,
            inputs=tuple(modalities[name] for name in self.normaliser.inputs),
            synthetic=synthetic,
        )

    def _diagnosis(
        self, position: Position, raw: Batch, window: Window, mask: Tensor, losses: Mapping[str, Tensor]
    ) -> str:
        """Message with the tasks, and the tiles whose own loss is not finite; all tiles if that is so for none or all."""
        tasks = [name for name, loss in losses.items() if not math.isfinite(loss.item())]
        ids = format_tile_ids(raw["tile"]["tile_id"]).tolist()
        guilty = [tile for i, tile in enumerate(ids) if not self._finite_alone(raw, window, mask, slice(i, i + 1))]
        found = 0 < len(guilty) < len(ids)
        named = guilty if found else ids
        more = f" and {len(named) - NAMED_TILES} more" if len(named) > NAMED_TILES else ""
        return (
            f"The loss of {', '.join(tasks) or 'all tasks together'} is not a finite number in epoch "
            f"{position.epoch + 1}, step {self.step + 1} (tiles {', '.join(named[:NAMED_TILES])}{more}); "
            f"{'' if found else 'lower --lr, or '}look at these tiles with mmearth-data inspect --tile ID --figure F.png."
        )

    @torch.no_grad()
    def _finite_alone(self, raw: Batch, window: Window, mask: Tensor, one: slice) -> bool:
        total, _ = self.learn(*_some(raw, window, mask, one))
        return math.isfinite(total.item())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW, with the state of an interrupted run."""
        recipe = self.plan.recipe
        groups = parameter_groups(
            self.model, self.losses, weight_decay=recipe.weight_decay, decay_grn=recipe.preset == "reference"
        )
        optimizer = torch.optim.AdamW(groups, lr=recipe.peak_lr, betas=recipe.betas)
        if self.optimizer_state is not None:
            restore_optimizer(optimizer, self.parameter_names(), self.optimizer_state)
            self.optimizer_state = None
        return optimizer

    def parameter_names(self) -> dict[int, str]:
        """Id of each parameter -> its name."""
        return {id(parameter): name for name, parameter in self.named_parameters()}

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Set the learning rate of this step."""
        for group in optimizer.param_groups:
            group["lr"] = self.plan.learning_rate(self.step)

    def transfer_batch_to_device(
        self,
        batch: Any,  # noqa: ANN401 - Lightning's signature
        device: torch.device,
        dataloader_idx: int,
    ) -> Any:  # noqa: ANN401 - Lightning's signature
        """Leave raw arrays on the host: the normaliser moves what it needs."""
        return batch


def pretrain(
    store: Store,
    recipe: TrainRecipe,
    out: str | Path,
    *,
    device: str = "auto",
    report: Callable[[TrainProgress], None] | None = None,
) -> Path:
    """Pretrain an MP-MAE on a store, or continue an interrupted run.

    Parameters
    ----------
    store
        From `mmearth_data.open_store`; its split ``train`` is used.
    recipe
        From `mmearth_model.make_recipe`.
    out
        Folder of the run. An interrupted run in it is continued, a finished one left unchanged.
    device
        ``auto``, ``cpu``, ``cuda``, ...
    report
        Called after each optimiser step.

    Returns
    -------
    Path
        The last checkpoint.

    Raises
    ------
    InputError
        When recipe, store, folder and device do not fit each other; nothing is written.
    TrainingDiverged
        When a loss is not finite; names tasks and tiles.
    TrainingInterrupted
        After Ctrl-C or SIGTERM; the same call continues.
    RetryLater
        When another process is training in this folder.
    """
    out, ranks = Path(out), Ranks.here()
    recipe = recipe.among(ranks.world)
    check_loggers(recipe.loggers)
    plan = plan_training(store, recipe)
    where = resolve_device(device)
    identity = {"recipe": recipe.identity(), "store": describe_store(store, out), "version": __version__}
    run = Run.check(out, identity)
    latest = run.latest()
    checkpoint = None if latest is None else Checkpoint.read(latest)
    names = ["loss", *(m.name for m in plan.pretext)]
    progress = {} if checkpoint is None else read_progress(checkpoint.folder, plan.steps, names)
    step = progress.get("step", 0)
    if checkpoint is not None and step >= plan.steps:
        return checkpoint.folder
    module = prepare(plan, store, checkpoint, step)
    stream = Stream(store, plan, position_of(step, plan), ranks)
    means = Means(progress.get("means") if ranks.first else None)
    recorder = Recorder(run, plan, configuration(module, identity), report, stream, step, means)
    with run.hold(identity, latest) if ranks.first else nullcontext():
        fit(module, stream, recorder, where)
    saved = recorder.saved if ranks.first else run.latest()
    if module.step < plan.steps or saved is None:
        raise TrainingInterrupted(
            f"Interrupted after step {module.step} of {plan.steps}; {saved or latest or 'nothing'} is saved, and the "
            "same command continues.",
            recorder.stop.number,
        )
    return saved


def prepare(plan: TrainPlan, store: Store, checkpoint: Checkpoint | None, step: int) -> Pretraining:
    """Make the module of a new run, or of a run resumed from a checkpoint."""
    normaliser = Normaliser.of_preset(
        plan.recipe.preset,
        plan.modalities,
        statistics_in_force(store, plan.recipe, plan.modalities),
        inputs=[m.name for m in plan.inputs],
        targets=[m.name for m in plan.pretext],
    )
    if checkpoint is None:
        return Pretraining(plan, normaliser)
    state = read_tensors(checkpoint.folder / OPTIMIZER_FILE)
    module = Pretraining(plan, normaliser, step=step, optimizer_state=state)
    checkpoint.load_into({"model": module.model, "losses": module.losses})
    return module


def configuration(module: Pretraining, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Content of a checkpoint's ``config.json``, except for the progress."""
    recipe = module.plan.recipe
    return {
        "model": module.model.config.to_dict(),
        "loss": {"preset": recipe.preset, "weighting": recipe.weighting},
        "normaliser": module.normaliser.to_config(),
        "recipe": recipe.model_dump(mode="json"),
        "store": identity["store"],
        "version": identity["version"],
    }


def fit(module: Pretraining, stream: Stream, recorder: Recorder, device: torch.device) -> None:
    """Run Lightning's loop over the rest of the stream."""
    recipe, ranks = module.plan.recipe, stream.ranks
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings(), recorder.stop:
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        trainer = Trainer(
            accelerator="gpu" if device.type == "cuda" else device.type,
            **_processes(ranks, device),
            precision="bf16-mixed" if _bfloat16(recipe, device) else "32-true",
            max_epochs=recipe.epochs - stream.next.epoch,
            accumulate_grad_batches=recipe.accumulate // ranks.world,
            gradient_clip_val=recipe.clip_norm,
            callbacks=[recorder],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=recorder.run.folder,
        )
        try:
            trainer.fit(module, train_dataloaders=stream)
        except SIGTERMException:  # before the first step, SIGTERM is Lightning's
            recorder.stop.ask(signal.SIGTERM)
        except SystemExit:  # Lightning's answer to a second signal
            recorder.stop.ask(signal.SIGINT)


def _processes(ranks: Ranks, device: torch.device) -> dict[str, Any]:
    """Lightning's options for one process, or for those started by torchrun."""
    if ranks.world == 1:
        return {"devices": [device.index or 0] if device.type == "cuda" else 1}
    strategy = DDPStrategy(process_group_backend="nccl" if device.type == "cuda" else "gloo")
    return {
        "devices": ranks.local,
        "num_nodes": ranks.nodes,
        "strategy": strategy,
        "use_distributed_sampler": False,
    }


def position_of(step: int, plan: TrainPlan) -> Position:
    """Position of the first micro-batch of an optimiser step."""
    epoch, within = divmod(step, plan.steps_per_epoch)
    return Position(epoch, within * plan.recipe.accumulate)


def _some(raw: Batch, window: Window, mask: Tensor, rows: slice) -> tuple[Batch, Window, Tensor]:
    """Select tiles of a batch, with their windows and masks."""

    def take(batch: Batch) -> Batch:
        return {key: take(value) if isinstance(value, dict) else value[rows] for key, value in batch.items()}

    return take(raw), Window(window.rows[rows], window.columns[rows]), mask[rows]


def _bfloat16(recipe: TrainRecipe, device: torch.device) -> bool:
    if recipe.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return recipe.precision == "bfloat16"
