"""Compute one block of a map: read its windows, apply the network, combine the predictions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmearth_model.devices import resolve_device, slice_length
from mmearth_model.heads.network import Network, load_network
from mmearth_model.maps.raster import NO_SCORE, SCORE_SCALE
from mmearth_model.maps.strips import open_strips
from mmearth_model.maps.windows import Axis, Blend
from mmearth_model.network.inference import quicken

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mmearth_model.maps.blocks import Block, WorkFolder
    from mmearth_model.maps.raster import RasterForm
    from mmearth_model.maps.scene import Scene
    from mmearth_model.maps.strips import Strip

ANSWERS, SCORES = "answers", "scores"
"""Arrays of a block: (bands, height, width) of the map, and uint8 probabilities (outputs, height, width)."""
SPAN_ROWS = 64
"""Rows of a block that are converted to answers together, since the conversion needs more memory than the answers."""
NETWORK = "network"
"""Folder of the network in a work folder."""


@lru_cache(maxsize=1)
def loaded(folder: Path, device: str) -> Network:
    """Load the network of a work folder, once per process."""
    where = resolve_device(device)
    network = load_network(folder / NETWORK, device=where)
    if where.type == "cpu":
        quicken(network.module)
    return network


@dataclass(frozen=True, kw_only=True)
class Job(ABC):
    """Everything that a process needs to compute blocks of a map; small when pickled.

    Attributes
    ----------
    folder
        Where the network is, and blocks are written.
    form
        Form of the map.
    scores
        Whether probabilities are kept.
    device
        Device of each process.
    """

    folder: WorkFolder
    form: RasterForm
    scores: bool
    device: str

    def __call__(self, block: Block) -> None:
        """Compute and write a block."""
        network = loaded(self.folder.path, self.device)
        values, observed = self.values(network, block)
        self.folder.write(block, self.arrays(network, values, observed))

    @abstractmethod
    def values(self, network: Network, block: Block) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """(K, height, width) probabilities or quantities of a block, and (height, width) where there is one."""

    def arrays(
        self, network: Network, values: NDArray[np.float32], observed: NDArray[np.bool_]
    ) -> dict[str, NDArray[Any]]:
        """Turn probabilities or quantities into the arrays of a block."""
        spans = [slice(row, row + SPAN_ROWS) for row in range(0, values.shape[1], SPAN_ROWS)]
        parts = [arrays_of(network, values[:, s], observed[s], self.form, scores=self.scores) for s in spans]
        return {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}


def arrays_of(
    network: Network, values: NDArray[np.float32], observed: NDArray[np.bool_], form: RasterForm, *, scores: bool
) -> dict[str, NDArray[Any]]:
    """Turn (K, H, W) probabilities or raw quantities into the arrays of a map: `ANSWERS`, and `SCORES` if they are kept."""
    found = answers_of(network, values)
    arrays = {ANSWERS: np.where(observed, found.astype(form.dtype), np.array(form.nodata, dtype=form.dtype))}
    if scores:
        numbers = np.rint(values / SCORE_SCALE).astype(np.uint8)
        arrays[SCORES] = np.where(observed, numbers, np.uint8(NO_SCORE))
    return arrays


@dataclass(frozen=True, kw_only=True)
class SceneJob(Job):
    """Blocks of a map of a scene.

    Attributes
    ----------
    scene
        What is mapped.
    rows, columns
        Windows along both axes of the scene.
    """

    scene: Scene
    rows: Axis
    columns: Axis


def answers_of(network: Network, values: NDArray[np.float32]) -> NDArray[Any]:
    """(K, H, W) probabilities or raw quantities to (bands, H, W) codes, labels or quantities in their units."""
    kind = network.kind
    if kind.continuous:
        mean, deviation = (np.asarray(part, np.float64)[:, None, None] for part in network.scale)
        quantities: NDArray[Any] = values * deviation + mean
        return quantities
    if network.codes.min() < 0:  # labels, any number of which may be true
        return (values > 0.5).astype(np.uint8)
    codes: NDArray[Any] = network.codes[values.argmax(axis=0)][None]
    return codes


def apply_network(network: Network, images: torch.Tensor) -> torch.Tensor:
    """(B, K, ...) float32 probabilities or raw quantities of normalised images (B, C, S, S)."""
    device = next(network.module.parameters()).device
    with torch.inference_mode():
        outputs: torch.Tensor = network.module(images.to(device)).float()
        if network.kind.continuous:
            return outputs.cpu()
        labels = bool(network.codes.min() < 0)
        return (torch.sigmoid(outputs) if labels else torch.softmax(outputs, dim=1)).cpu()


def batches(strip: Strip, columns: Sequence[int], size_px: int, device: torch.device) -> Iterator[list[int]]:
    """Positions among ``columns`` of the windows with any observed pixel, in groups that are computed together."""
    seen = strip.seen(columns, size_px)
    step = slice_length(device, max(1, len(seen)))
    for start in range(0, len(seen), step):
        yield seen[start : start + step]


class PixelJob(SceneJob):
    """Blocks of a network that predicts per pixel: overlapping windows are blended."""

    def values(self, network: Network, block: Block) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """See `Job.values`."""
        rows = self.rows.within(block.row, block.row + block.height)
        columns = self.columns.within(block.column, block.column + block.width)
        size, offsets = rows.window, columns.offsets.tolist()
        blend = Blend(columns, len(network.outputs), block.column, block.column + block.width)
        found = np.zeros((len(network.outputs), block.height, block.width), np.float32)
        observed = np.zeros((block.height, block.width), bool)
        device = resolve_device(self.device)
        with open_strips(self.scene, network.normaliser) as reader:
            strips = reader.strips(rows.offsets.tolist(), offsets, size)
            for row, weights, strip in zip(rows.offsets.tolist(), rows.weights, strips, strict=True):
                _put(found, blend.advance(row), block)
                _note(observed, strip, row, block)
                for batch in batches(strip, offsets, size, device):
                    images = strip.windows([offsets[n] for n in batch], size)
                    for column, values in zip(batch, apply_network(network, images).numpy(), strict=True):
                        blend.add(column, weights, values)
            _put(found, blend.rest(block.row + block.height), block)
        return found, observed


def _put(found: NDArray[Any], finished: tuple[int, NDArray[Any]], block: Block) -> None:
    """Copy finished rows of the scene into a block."""
    first, values = finished
    start, end = max(first, block.row), min(first + values.shape[1], block.row + block.height)
    if start < end:
        found[:, start - block.row : end - block.row] = values[:, start - first : end - first]


def _note(observed: NDArray[np.bool_], strip: Strip, row: int, block: Block) -> None:
    """Record which pixels of a block were observed, from a strip at ``row``."""
    seen = strip.observed[:, block.column - strip.left :][:, : block.width].numpy()
    _put(observed[None], (row, seen[None]), block)


class TileJob(SceneJob):
    """Blocks of a network that predicts per tile: each pixel of the map has the prediction for the window around it."""

    def values(self, network: Network, block: Block) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """See `Job.values`."""
        rows = self.rows.offsets[block.row : block.row + block.height].tolist()
        columns = self.columns.offsets[block.column : block.column + block.width].tolist()
        size = self.rows.window
        found = np.zeros((len(network.outputs), block.height, block.width), np.float32)
        observed = np.zeros((block.height, block.width), bool)
        device = resolve_device(self.device)
        with open_strips(self.scene, network.normaliser) as reader:
            for number, strip in enumerate(reader.strips(rows, columns, size)):
                for batch in batches(strip, columns, size, device):
                    images = strip.windows([columns[n] for n in batch], size)
                    found[:, number, batch] = apply_network(network, images).numpy().T
                    observed[number, batch] = True
        return found, observed
