"""After each optimiser step: log, report, save a checkpoint, and stop if a signal came."""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from mmearth_data import MMEarthError
from mmearth_model.saving import save_figure_forms
from mmearth_model.training.layout import FIGURES, WEIGHT_PREFIX
from mmearth_model.training.loggers import close_loggers, open_loggers
from mmearth_model.weights.checkpoints import MEANS, optimizer_tensors, write_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from lightning.pytorch.loggers import Logger
    from torch import Tensor, nn

    from mmearth_data import Batch
    from mmearth_model.training.plan import TrainPlan
    from mmearth_model.training.pretraining import Pretraining, Stream
    from mmearth_model.training.random_numbers import Position
    from mmearth_model.training.runs import Run

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C, and what schedulers send before they kill."""
FIGURE_DPI = 110
LOG_STEPS = 50
"""Steps of one row of the log; an epoch's end closes a row too."""


class TrainingInterrupted(MMEarthError):  # noqa: N818 - named by its remedy: continue
    """Stopped by a signal; progress up to the last checkpoint is saved.

    Parameters
    ----------
    message
        What is saved, and how to continue.
    number
        The signal, SIGINT or SIGTERM; the exit code is 128 more, as in shells.
    """

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message, number)
        self.message = message
        self.exit_code = 128 + number

    def __str__(self) -> str:
        return self.message


class TrainingDiverged(MMEarthError):  # noqa: N818 - named by what happened
    """A loss or a weight is not finite."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainProgress:
    """Progress of a run.

    Attributes
    ----------
    epoch, epochs
        Current pass, from 1, and the number of passes.
    step, steps
        Optimiser steps done, and their number in the whole run.
    resumed
        Steps done by an earlier call.
    loss
        Total loss of the last micro-batch.
    images_per_s, waiting, seconds
        Since this call began; ``waiting`` is the share of the time spent waiting for data.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    resumed: int
    loss: float
    images_per_s: float
    waiting: float
    seconds: float


class Means:
    """Means of the losses since the last row of the log, over the micro-batches of all processes that had a target.

    Parameters
    ----------
    state
        `state` of an interrupted run, to resume it.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        sums, counts, self.last = (dict((state or {}).get(part, {})) for part in MEANS)
        self._sums: dict[str, Tensor] = {name: torch.tensor(value) for name, value in sums.items()}
        self._counts: dict[str, Tensor] = {name: torch.tensor(value) for name, value in counts.items()}

    @property
    def state(self) -> dict[str, Any]:
        """The complete state, JSON-ready; ``last`` has the most recent means."""
        parts = {"sums": self._sums, "counts": self._counts}
        return {part: {name: t.item() for name, t in values.items()} for part, values in parts.items()} | {
            "last": self.last
        }

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Count one micro-batch, on the device."""
        for name, loss in losses.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(loss)).to(loss.device) + loss
            self._counts[name] = self._counts.get(name, torch.zeros_like(loss)).to(loss.device) + (loss != 0)

    def gather(self, total: Callable[[Tensor], Tensor], *, first: bool) -> None:
        """Move the sums and counts of all processes to the first one; all processes must call this at the same step.

        ``total`` sums a tensor over the processes.
        """
        names = sorted(self._sums)
        both = total(torch.stack([part[name] for part in (self._sums, self._counts) for name in names]))
        sums, counts = (dict(zip(names, part, strict=True)) for part in both.tensor_split(2))
        self._sums, self._counts = (sums, counts) if first else ({}, {})

    def take(self) -> dict[str, float]:
        """Return the means and start anew; tasks without any target are left out."""
        means = {name: float(total / self._counts[name]) for name, total in self._sums.items() if self._counts[name]}
        self._sums, self._counts, self.last = {}, {}, means
        return means


class StopSignals:
    """The first Ctrl-C or SIGTERM asks the run to end after the current step; the next one ends it immediately.

    ``asked`` is True after the first, ``number`` is its number.
    """

    def __init__(self) -> None:
        self.asked = False
        self.number = signal.SIGINT
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Handle the signals if this is the main thread, the only one that can."""
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the previous handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def listen(self) -> None:
        """Set the handlers (again): Lightning replaces that of SIGTERM when it starts."""
        for number in self._previous:
            signal.signal(number, self._handle)

    def ask(self, number: signal.Signals) -> None:
        """Ask the run to end; only the first signal counts."""
        if not self.asked:
            self.asked, self.number = True, number

    def _handle(self, number: int, _frame: object) -> None:
        self.ask(signal.Signals(number))
        self.__exit__()


class Recorder(Callback):
    """Acts after each optimiser step; only the first process writes and reports.

    ``stream`` provides the time spent waiting and this process's rank, ``first_step`` counts the steps of earlier calls.
    ``means`` are the losses since the last row of the log. ``stop`` ends the run after the current step, ``saved`` is the
    last checkpoint written.
    """

    def __init__(
        self,
        run: Run,
        plan: TrainPlan,
        config: Mapping[str, Any],
        report: Callable[[TrainProgress], None] | None,
        stream: Stream,
        first_step: int,
        means: Means,
    ) -> None:
        self.loggers: list[Logger] = []
        self.run, self.plan, self.config, self.report = run, plan, config, report
        self.stream, self.ranks, self.first_step = stream, stream.ranks, first_step
        self.stop = StopSignals()
        self.saved: Path | None = None
        self.means = means
        names = [m.name for m in plan.pretext]
        weights = [f"{WEIGHT_PREFIX}{name}" for name in names] if plan.recipe.weighting == "uncertainty" else []
        self.table = run.log(["epoch", "step", "lr", "loss", *names, *weights, "images_per_s", "waiting"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, the log and the loggers."""
        self.stop.listen()
        if self.ranks.first:
            self.table.rewind(self.first_step)
            self.loggers = open_loggers(self.plan.recipe.loggers, self.run.folder, self.first_step)
        self.begin = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's signature
        batch: Any,  # noqa: ANN401 - Lightning's signature
        batch_idx: int,
    ) -> None:
        """Count a micro-batch; act when it completes an optimiser step."""
        module: Pretraining = pl_module  # type: ignore[assignment]
        position, raw = batch
        self.means.add(module.last)
        world = self.ranks.world
        if (position.batch // world + 1) % (self.plan.recipe.accumulate // world):
            return
        module.step += 1
        progress, row = self._progress(position.epoch + 1, module), self._ends_row(module)
        if row:
            self._gather(trainer)
        if self.ranks.first:
            self._record(progress, module, position, raw)
        stopping = bool(trainer.strategy.reduce_boolean_decision(self.stop.asked, all=False))
        due = self._ends_epoch(module) and progress.epoch % self.plan.recipe.checkpoint_epochs == 0
        saves = due or stopping or module.step == self.plan.steps
        if saves and not row:
            self._gather(trainer)
        if saves and self.ranks.first:
            self._save(trainer.optimizers[0], module)
        if stopping:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the loggers, and wait for the process that writes the last checkpoint."""
        close_loggers(self.loggers)
        trainer.strategy.barrier()

    def _record(self, progress: TrainProgress, module: Pretraining, position: Position, raw: Batch) -> None:
        ends, every = self._ends_epoch(module), self.plan.recipe.figure_epochs
        if self._ends_row(module):
            self._write_row(progress, module)
        if ends and every and progress.epoch % every == 0:
            self._draw(module, position, raw)
        if self.report is not None:
            self.report(progress)

    def _gather(self, trainer: Trainer) -> None:
        self.means.gather(partial(trainer.strategy.reduce, reduce_op="sum"), first=self.ranks.first)

    def _ends_row(self, module: Pretraining) -> bool:
        return self._ends_epoch(module) or module.step % LOG_STEPS == 0

    def _ends_epoch(self, module: Pretraining) -> bool:
        return module.step % self.plan.steps_per_epoch == 0

    def _draw(self, module: Pretraining, position: Position, raw: Batch) -> None:
        figure = module.reconstruction(raw, position, synthetic=self.stream.synthetic)
        save_figure_forms(figure, self.run.folder / FIGURES / f"step-{module.step:08d}", dpi=FIGURE_DPI)

    def _progress(self, epoch: int, module: Pretraining) -> TrainProgress:
        seconds = time.perf_counter() - self.begin
        return TrainProgress(
            epoch=epoch,
            epochs=self.plan.recipe.epochs,
            step=module.step,
            steps=self.plan.steps,
            resumed=self.first_step,
            loss=float(module.last["loss"]),
            images_per_s=(module.step - self.first_step) * self.plan.recipe.batch_size / seconds,
            waiting=self.stream.waited_s / seconds,
            seconds=seconds,
        )

    def _write_row(self, progress: TrainProgress, module: Pretraining) -> None:
        row: dict[str, float] = {
            "epoch": progress.epoch,
            "step": progress.step,
            "lr": self.plan.learning_rate(progress.step - 1),
            **self.means.take(),
            "images_per_s": round(progress.images_per_s, 1),
            "waiting": round(progress.waiting, 3),
        }
        if self.plan.recipe.weighting == "uncertainty":
            weights = torch.exp(-module.losses.log_vars.detach().double()).tolist()  # infinite if training diverges
            for task, weight in zip(module.losses.tasks, weights, strict=True):
                row[f"{WEIGHT_PREFIX}{task.name}"] = weight
        self.table.append(row)
        for logger in self.loggers:
            logger.log_metrics({key: float(value) for key, value in row.items()}, step=progress.step)

    def _save(self, optimizer: torch.optim.Optimizer, module: Pretraining) -> None:
        modules: dict[str, nn.Module] = {"model": module.model, "losses": module.losses}
        refuse_nan(modules, module.step)
        state = optimizer_tensors(optimizer, module.parameter_names())
        position = {"step": module.step, "steps": self.plan.steps}
        config = {**self.config, "progress": {**position, "loss": self.means.last.get("loss")}}
        progress = {**position, "means": self.means.state}
        self.saved = self.run.publish(
            module.step,
            lambda folder: write_checkpoint(folder, modules, config, optimizer=state, progress=progress),
            keep=self.plan.recipe.keep,
        )


def refuse_nan(modules: Mapping[str, nn.Module], step: int) -> None:
    """Raise `TrainingDiverged` if weights are not finite, before they replace the last good checkpoint."""
    for prefix, module in modules.items():
        for name, tensor in module.state_dict().items():
            if not torch.isfinite(tensor).all():
                raise TrainingDiverged(
                    f"The weights {prefix}.{name} are not finite numbers after step {step}; lower --lr, and continue "
                    "from the last checkpoint or start another run."
                )
