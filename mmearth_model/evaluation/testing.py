"""Evaluate networks on the test samples of a task, without fitting anything.

The task may be that of the network, or another one of the same kind whose classes, labels or quantities the network has.
Images are normalised by the statistics that the network was trained with, not by those of the task.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from mmearth_data import InputError
from mmearth_model.devices import slice_length
from mmearth_model.evaluation.features import check_bands, check_levels, levels_of
from mmearth_model.evaluation.metrics import Score, pixel_score, sample_sums, score
from mmearth_model.evaluation.pixels import cut_masks
from mmearth_model.evaluation.results import Row
from mmearth_model.evaluation.trained import outputs_of
from mmearth_model.heads.answers import decide
from mmearth_model.network.pooling import whole_patches
from mmearth_model.tasks import IGNORED, TaskKind
from mmearth_model.tasks.labelled import listed
from mmearth_model.weights.checkpoints import learned_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import nn

    from mmearth_model.heads.network import Network, Output
    from mmearth_model.tasks import LabelledSet

    Floats = NDArray[np.float64]

READ_TILES = 32
PROTOCOL = "network"


class Answered(NamedTuple):
    """A batch of samples."""

    outputs: NDArray[np.float64]  # (B, K) or (B, K, H, W) raw outputs
    truth: NDArray[Any]  # (B, ...) in the form of the task's labels


def outputs_on(
    module: nn.Module,
    task: LabelledSet,
    rows: NDArray[np.intp],
    images: Callable[[NDArray[np.intp]], torch.Tensor],
    device: torch.device,
) -> Iterator[Answered]:
    """Yield the raw outputs for samples of a task, batch by batch, and the truth.

    ``images`` returns the normalised images (B, C, H, W) of some samples, cropped to whole patches; ``module`` is in
    evaluation mode on the device.
    """
    for start in range(0, len(rows), READ_TILES):
        some = rows[start : start + READ_TILES]
        shown = images(some)
        with torch.inference_mode():
            parts = [module(part).cpu() for part in torch.split(shown, slice_length(device, len(shown)))]
        truth = task.labels[some] if task.masks is None else cut_masks(task.masks(some), shown.shape[-2:])
        yield Answered(torch.cat(parts).double().numpy(), truth)


def sums_of(kind: TaskKind, answered: Iterable[Answered], scale: tuple[Floats, Floats], outputs: int) -> Floats:
    """(N, S) contributions of samples to the sums of the metric; see `sample_sums`."""
    return np.concatenate(
        [sample_sums(kind, decide(kind, found, *scale)[0], truth, outputs) for found, truth in answered]
    )


def score_of(
    kind: TaskKind, answered: Iterable[Answered], scale: tuple[Floats, Floats], outputs: int, metric: str = ""
) -> Score:
    """Score raw outputs of a network; ``scale`` is the mean and deviation of its quantities, ``metric`` as in `score`."""
    if kind.per_pixel:
        return pixel_score(kind, sums_of(kind, answered, scale, outputs))
    found, truth = (np.concatenate(part) for part in zip(*answered, strict=True))
    answers, scores = decide(kind, found, *scale)
    return score(kind, answers, truth, outputs, scores, metric)


def check_network(network: Network, task: LabelledSet) -> None:
    """Refuse a task that does not fit a network.

    Raises
    ------
    InputError
        If kind, classes, bands or product level do not fit, or there are no test samples.
    """
    if network.kind is not task.kind:
        raise InputError(
            f"{task.name}: expected a {network.kind} task, for which {network.name} was trained, got a {task.kind} "
            "task; choose "
            "another task or network."
        )
    outputs_asked(network, task)
    check_bands(network.normaliser, task)
    if not len(task.parts.test):
        raise InputError(f"{task.name}: expected test samples, got none; {task.remedy}.")
    remedy = "test samples; choose another task, or train a network on it"
    check_levels(network.normaliser, network.name, levels_of(task, task.parts.test), task.name, remedy)


def outputs_asked(network: Network, task: LabelledSet) -> NDArray[np.intp]:
    """(T,) output of the network for each class, label or quantity of a task of its kind.

    They are matched by name and code, or by name and units alone if that is unambiguous: the codes of task files are only
    positions. A network may have more classes than the task.

    Raises
    ------
    InputError
        If the network lacks one.
    """
    asked = outputs_of(task)
    for key in (lambda output: (output.name, output.code, output.units), lambda output: (output.name, output.units)):
        known = {key(output): place for place, output in enumerate(network.outputs)}
        wanted = [key(output) for output in asked]
        if len(known) == len(network.outputs) and len(set(wanted)) == len(wanted) and known.keys() >= set(wanted):
            return np.array([known[each] for each in wanted], dtype=np.intp)
    raise InputError(_mismatch(network, task, asked))


def _mismatch(network: Network, task: LabelledSet, asked: Sequence[Output]) -> str:
    have = [_described(output) for output in network.outputs]
    lacking = [text for text in map(_described, asked) if text not in have] or [_described(output) for output in asked]
    what = {TaskKind.MULTI_LABEL: "labels", TaskKind.REGRESSION: "quantities", TaskKind.PIXEL_REGRESSION: "quantities"}
    return (
        f"{task.name}: expected {what.get(network.kind, 'classes')} that {network.name} has ({listed(have)}), got "
        f"{listed(lacking)}; choose another task or network."
    )


def _described(output: Output) -> str:
    return f"{output.name} in {output.units}" if output.units not in ("", "1") else output.name


def measure_network(
    network: Network, task: LabelledSet, device: torch.device, report: Callable[[int], None] | None = None
) -> tuple[Row, Floats]:
    """Test a network on the test samples of a task that fits it (`check_network`).

    Returns
    -------
    tuple
        Its row, with the protocol ``network``, and the sums of its test samples.
    """
    columns = outputs_asked(network, task)
    module = network.module.to(device).eval()
    places = np.append(columns, IGNORED)
    side = network.window_px

    def images(rows: NDArray[np.intp]) -> torch.Tensor:
        nonlocal side
        (batch,) = task.images.batches(rows, len(rows), network.normaliser.stored)
        if report is not None:
            report(len(rows))
        shown = whole_patches(network.encoder, network.normaliser.images(batch, device)).contiguous()
        side = min(shown.shape[-2:])
        return shown

    answered: Iterable[Answered] = outputs_on(module, task, task.parts.test, images, device)
    if network.kind.classes:
        answered = (Answered(found, places[truth]) for found, truth in answered)
        found = score_of(network.kind, answered, network.scale, len(network.outputs))
    else:
        answered = (Answered(found[:, columns], truth) for found, truth in answered)
        mean, deviation = (part if len(part) == 1 else part[columns] for part in network.scale)
        found = score_of(network.kind, answered, (mean, deviation), len(columns), task.metric)
    return row_of(network, task, found, side), found.sums


def row_of(network: Network, task: LabelledSet, found: Score, side_px: int) -> Row:
    """Row of a network's score on a task with images of this size."""
    record = network.record
    how = f"{(record.get('result') or {}).get('protocol', 'trained')} on {network.task}"
    if side_px != network.window_px:
        how += f" and images of {network.window_px} px, tested on {side_px} px"
    return Row.of(
        task,
        found,
        encoder=network.name,
        seed=record.get("seed", 0),
        protocol=PROTOCOL,
        labels=record.get("labels", "100%"),
        validation=None,
        converged=None,
        chosen=how,
        leaky=any(task.conflicts(m) for m in learned_of(record.get("learned", ()))),
        train_tiles=record.get("samples", {}).get("train", 0),
    )
