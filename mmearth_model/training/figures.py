"""Figures of reconstructions: the input of the encoder for some tiles, its prediction, and the truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mmearth_data import Kind, format_tile_ids
from mmearth_model.network.losses import patch_statistics
from mmearth_model.network.masking import patchify, unpatchify, upsample_mask

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from mmearth_data import Batch, Modality
    from mmearth_model.data.targets import Normalised
    from mmearth_model.network.losses import Target
    from mmearth_model.network.mpmae import TaskSpec

    Picture = np.ndarray[Any, np.dtype[Any]]

TILES = 3
"""Maximum number of tiles in a figure."""
CELL, GAP, MARGIN, HEAD, LINE, BETWEEN = 1.3, 0.08, 0.3, 0.42, 0.19, 0.22
"""Inches: side of a picture, space between two, margin, heads of the columns, line of text, space between tiles."""
LEFT = 0.62
"""Inches for the labels of the rows."""
LEGEND_WIDTH = 2.3
"""Inches of a column of the legend."""
INK, SOFT, HIDDEN, MISSING = "#18181b", "#52525b", "#a1a1aa", "#e4e4e7"
SPREAD = (2, 98)
"""Percentiles of the truth at the ends of a scale."""
LEAST_SPAN = 0.5
"""Minimum span of a scale, in standard deviations."""
SHOWN_VALUES = 2
"""Maximum number of values of a tile that are printed; for more, the error is given."""
TEXT, SMALL, TITLE = 7.0, 6.5, 10.0
EXPLAINED = (
    "Truth and prediction share one scale per tile and band: the 2nd to 98th percentile of the truth. Predictions of modalities "
    "that are normalised per patch are shown with the mean and standard deviation of the truth in each patch."
)


@dataclass(frozen=True, slots=True)
class Scene:
    """Data of a batch that a figure shows.

    Attributes
    ----------
    tasks
        Modality -> its task and catalog entry.
    normalised, predictions
        Inputs and targets, and the output of `MPMAE`.
    hidden
        (B, H, W) bool, True where hidden from the encoder.
    patch_size
        Side of a patch.
    inputs
        Modalities of the images, in the order of their channels.
    ids
        Ids of the tiles.
    """

    tasks: Mapping[str, tuple[TaskSpec, Modality]]
    normalised: Normalised
    predictions: Mapping[str, Tensor]
    hidden: Picture
    patch_size: int
    inputs: tuple[Modality, ...]
    ids: tuple[str, ...]

    @property
    def rasters(self) -> list[str]:
        """Tasks with pictures."""
        return [name for name, (task, _) in self.tasks.items() if task.kind.is_raster]

    @property
    def values(self) -> list[str]:
        """Tasks with values of whole tiles."""
        return [name for name, (task, _) in self.tasks.items() if not task.kind.is_raster]

    def pair(self, name: str, tile: int) -> tuple[Target, Tensor]:
        """Target and prediction of one tile, with a batch of one."""
        target = self.normalised.targets[name]
        one = type(target)(target.values[tile : tile + 1].cpu(), target.valid[tile : tile + 1].cpu())
        return one, self.predictions[name][tile : tile + 1].float().cpu()


def reconstruction(
    tasks: Mapping[str, tuple[TaskSpec, Modality]],
    raw: Batch,
    normalised: Normalised,
    predictions: Mapping[str, Tensor],
    mask: Tensor,
    *,
    patch_size: int,
    inputs: tuple[Modality, ...],
    synthetic: bool,
) -> Figure:
    """Draw the first tiles of a batch: a column per raster, truth above prediction; values of tiles are in a table.

    ``tasks`` is modality -> its task and catalog entry; ``raw`` provides the tiles' ids; ``predictions`` are those of
    `MPMAE` under ``mask`` (B, L) bool, True where hidden; ``inputs`` are the modalities of the images, in the order of
    their channels. The title says whether the tiles are synthetic.
    """
    tiles = min(TILES, len(normalised.images))
    grid = normalised.images.shape[-1] // patch_size
    hidden = upsample_mask(mask[:tiles], (grid, grid), patch_size).cpu().numpy()
    ids = tuple(format_tile_ids(raw["tile"]["tile_id"][:tiles]).tolist())
    scene = Scene(tasks, normalised, predictions, hidden, patch_size, inputs, ids)
    sheet = _Sheet.of(scene)
    sheet.title(f"Reconstruction of {tiles} {'synthetic ' if synthetic else ''}tiles")
    for tile in range(tiles):
        _draw_tile(sheet, scene, tile)
    _draw_table(sheet, scene)
    _draw_legend(sheet, scene)
    return sheet.figure


class _Sheet:
    """A figure with positions in inches from its upper left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height), facecolor="white")
        FigureCanvasAgg(self.figure)

    @classmethod
    def of(cls, scene: Scene) -> _Sheet:
        """Sheet with room for a scene."""
        columns = 1 + len(scene.rasters)
        width = max(6.5, 2 * MARGIN + LEFT + columns * (CELL + GAP))
        table = LINE * (2.5 + len(scene.values)) if scene.values else 0.0
        legend = LINE * (-(-len(_classes(scene)) // max(1, int((width - 2 * MARGIN) // LEGEND_WIDTH))) + 3)
        return cls(width, tile_top(len(scene.ids)) + table + legend + MARGIN)

    def title(self, words: str) -> None:
        """Write the title."""
        self.text(MARGIN, MARGIN, words, size=TITLE, weight="bold")

    def text(self, x: float, y: float, words: str, *, size: float = TEXT, colour: str = INK, **style: Any) -> None:
        """Write a text whose upper edge is at y."""
        style = {"va": "top", "ha": "left", **style}
        self.figure.text(x / self.width, 1 - y / self.height, words, fontsize=size, color=colour, **style)

    def box(self, x: float, y: float, side: float, colour: str) -> None:
        """Draw a coloured square."""
        size = (side / self.width, side / self.height)
        corner = (x / self.width, 1 - (y + side) / self.height)
        self.figure.add_artist(Rectangle(corner, *size, facecolor=colour, edgecolor=SOFT, linewidth=0.3))

    def picture(self, x: float, y: float, image: Picture, label: str) -> None:
        """Draw an image (H, W, 3) of 0 to 1."""
        place = (x / self.width, 1 - (y + CELL) / self.height, CELL / self.width, CELL / self.height)
        axis = self.figure.add_axes(place, label=label)
        axis.imshow(image, interpolation="nearest")
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set(linewidth=0.4, color=SOFT)


def tile_top(tile: int) -> float:
    """Upper edge of a tile's pictures in inches."""
    return MARGIN + HEAD + 0.35 + tile * (2 * CELL + GAP + BETWEEN)


def _column(number: int) -> float:
    return MARGIN + LEFT + number * (CELL + GAP)


def _draw_tile(sheet: _Sheet, scene: Scene, tile: int) -> None:
    """Draw the encoder's input, then truth and prediction of every raster."""
    top = tile_top(tile)
    below = top + CELL + GAP
    for y, words in ((top, "truth"), (below, "prediction")):
        sheet.text(MARGIN + LEFT - 0.1, y + CELL / 2, words, colour=SOFT, ha="right", va="center")
    shown, image = _input(scene, tile)
    sheet.picture(_column(0), top, image, f"input {tile}")
    share = float(scene.hidden[tile].mean())
    facts = f"tile {tile + 1}\n{scene.ids[tile]}\n{share:.0%} of the patches\nhidden"
    sheet.text(_column(0), below + 0.05, facts, size=SMALL, colour=SOFT, linespacing=1.4)
    if tile == 0:
        _head(sheet, 0, "input", shown)
    for number, name in enumerate(scene.rasters, start=1):
        task, modality = scene.tasks[name]
        target, prediction = scene.pair(name, tile)
        shown, predicted, truth = _pictures(task, modality, target, prediction, scene.patch_size)
        sheet.picture(_column(number), top, truth, f"{name} truth {tile}")
        sheet.picture(_column(number), below, predicted, f"{name} prediction {tile}")
        if tile == 0:
            _head(sheet, number, name, shown)


def _head(sheet: _Sheet, column: int, name: str, shown: str) -> None:
    words = name.replace("_", " ") if len(name) < 20 else name.replace("_", "\n", 1).replace("_", " ")
    sheet.text(_column(column), tile_top(0) - 0.2, words, weight="bold", va="bottom")
    sheet.text(_column(column), tile_top(0) - 0.06, shown, size=SMALL, colour=SOFT, va="bottom")


def restored(task: TaskSpec, prediction: Tensor, target: Target, patch_size: int) -> Tensor:
    """Prediction (1, L, P) as an image (C, H, W) in the units of the target, with the truth's mean and deviation per patch."""
    if task.patch_norm:
        values, valid = (patchify(t[:1].cpu(), patch_size) for t in (target.values, target.valid))
        mean, deviation = patch_statistics(values, valid)
        prediction = prediction * deviation + mean
    return unpatchify(prediction, patch_size)[0]


def _pictures(
    task: TaskSpec, modality: Modality, target: Target, prediction: Tensor, patch_size: int
) -> tuple[str, Picture, Picture]:
    """Return a description, and prediction and truth, (H, W, 3) each in 0 to 1."""
    image = restored(task, prediction, target, patch_size)
    truth, valid = target.values[0], target.valid[0].numpy()
    if task.kind is Kind.RASTER_CATEGORICAL:
        colours = _colours(modality)
        drawn = _with_missing(colours[truth[0].numpy()], valid[0])
        return "classes", colours[image.argmax(dim=0).numpy()], drawn
    bands = shown_bands(modality, valid)
    seen = truth[bands].numpy()
    limits = [_limits(band[ok]) for band, ok in zip(seen, valid[bands], strict=True)]
    predicted, drawn = (_stretched(part, limits, modality) for part in (image[bands].numpy(), seen))
    names = [modality.model_bands[band] for band in bands]
    return ", ".join(names), predicted, _with_missing(drawn, np.logical_and.reduce(valid[bands]))


def _input(scene: Scene, tile: int) -> tuple[str, Picture]:
    """Return a description of the encoder's input, and the picture (H, W, 3) with hidden patches in grey."""
    parts = torch.split(scene.normalised.images[tile].float().cpu(), [len(m.model_bands) for m in scene.inputs])
    pictured = next((k for k, m in enumerate(scene.inputs) if len(m.display.bands) == 3), 0)
    modality, part = scene.inputs[pictured], parts[pictured].numpy()
    bands = shown_bands(modality, np.ones(part.shape, dtype=bool))
    image = _stretched(part[bands], [_limits(band) for band in part[bands]], modality)
    grey = np.array(mpl.colors.to_rgb(HIDDEN), dtype=np.float32)
    names = ", ".join(modality.model_bands[band] for band in bands)
    return names, np.where(scene.hidden[tile][..., None], grey, image)


def _with_missing(image: Picture, valid: Picture) -> Picture:
    found: Picture = np.where(valid[..., None], image, np.array(mpl.colors.to_rgb(MISSING), dtype=np.float32))
    return found


def _limits(values: Picture) -> tuple[float, float]:
    """Return the ends of the scale of a band, at least `LEAST_SPAN` apart, so that noise on flat areas is not amplified."""
    low, high = (float(end) for end in np.percentile(values, SPREAD)) if values.size else (0.0, 1.0)
    return low, max(high, low + LEAST_SPAN)


def _stretched(bands: Picture, limits: Sequence[tuple[float, float]], modality: Modality) -> Picture:
    """(1 or 3, H, W) to (H, W, 3), with the limits of each band at the ends of its scale."""
    low, high = (np.array(ends)[:, None, None] for ends in zip(*limits, strict=True))
    scaled = np.clip((bands - low) / (high - low), 0, 1)
    image: Picture = mpl.colormaps[modality.display.colormap](scaled[0])[..., :3]
    return (scaled.transpose(1, 2, 0) if len(scaled) == 3 else image).astype(np.float32)


def shown_bands(modality: Modality, valid: Picture) -> list[int]:
    """Positions of the picture's three bands among those of the model, or of the band that was observed most.

    ``valid`` is (C, H, W) bool. Of bands that were observed equally, the display's own and then the first is taken.
    """
    wanted = [band for band in modality.display.bands if band in modality.model_bands]
    if len(wanted) == 3:
        return [modality.model_bands.index(band) for band in wanted]
    counts = valid.reshape(len(valid), -1).sum(axis=1)
    first = [modality.model_bands.index(band) for band in wanted]
    best = [*first, *range(len(counts))]
    return [max(best, key=lambda band: (counts[band], -best.index(band)))]


def _colours(modality: Modality) -> Picture:
    return np.array([mpl.colors.to_rgb(label.colour or "#888888") for label in modality.classes], dtype=np.float32)


# ---------------------------------------------------------------- table and legend


def _draw_table(sheet: _Sheet, scene: Scene) -> None:
    """Draw the values of whole tiles: truth and prediction of each."""
    if not scene.values:
        return
    top = tile_top(len(scene.ids))
    width = (sheet.width - 2 * MARGIN - CELL) / len(scene.ids)
    sheet.text(MARGIN, top, "whole tile", weight="bold")
    for tile in range(len(scene.ids)):
        sheet.text(MARGIN + CELL + tile * width, top, f"tile {tile + 1}: truth / prediction", weight="bold")
    for row, name in enumerate(scene.values, start=1):
        y = top + LINE * (row + 0.15)
        sheet.text(MARGIN, y, name.replace("_", " "), colour=SOFT)
        for tile in range(len(scene.ids)):
            task, modality = scene.tasks[name]
            words = answer_text(task, modality, *scene.pair(name, tile))
            sheet.text(MARGIN + CELL + tile * width, y, _fit(words, width), size=SMALL)


def answer_text(task: TaskSpec, modality: Modality, target: Target, prediction: Tensor) -> str:
    """Truth and prediction of a whole tile as text; the error, in standard deviations, of more than two numbers."""
    if not bool(target.valid.any()):
        return "not observed"
    if task.kind is Kind.TILE_CATEGORICAL:
        names = [label.name for label in modality.classes]
        return f"{names[int(target.values[0])]} / {names[int(prediction[0].argmax())]}"
    truth, found, valid = target.values[0], prediction[0], target.valid[0]
    if task.kind is Kind.TILE_MULTI_LABEL:
        return " / ".join(present_names(modality, part) for part in (truth > 0, found > 0))
    if len(truth) > SHOWN_VALUES:
        error = float((found - truth)[valid].square().mean().sqrt())
        return f"error {error:.2f} sd, over {int(valid.sum())} values"
    return " / ".join(" ".join(f"{float(value):+.2f}" for value in part) for part in (truth, found))


def present_names(modality: Modality, present: Tensor) -> str:
    """Names of the present classes of a multi-label modality, (K,) bool; only some of them if there are many."""
    names = [name for name, there in zip(modality.model_bands, present.tolist(), strict=True) if there]
    more = f", {len(names) - SHOWN_VALUES} more" if len(names) > SHOWN_VALUES else ""
    return (", ".join(names[:SHOWN_VALUES]) or "none") + more


def _fit(words: str, inches: float) -> str:
    """Shorten a text to a width, at about 0.055 inches per character; both halves of a pair keep their beginning."""
    most = int(inches / 0.055)
    if len(words) <= most:
        return words
    parts = words.split(" / ")
    each = (most - 3 * (len(parts) - 1)) // len(parts)
    return " / ".join(part if len(part) <= each else f"{part[: each - 1].rstrip()}…" for part in parts)


def _classes(scene: Scene) -> list[tuple[str, str]]:
    """Names and colours of the classes in the pictures, and of hidden and missing pixels."""
    found = {"hidden from the encoder": HIDDEN, "not observed": MISSING}
    for name in scene.rasters:
        task, modality = scene.tasks[name]
        if task.kind is Kind.RASTER_CATEGORICAL:
            target = scene.normalised.targets[name]
            tiles = len(scene.ids)
            for index in torch.unique(target.values[:tiles][target.valid[:tiles]]).tolist():
                label = modality.classes[int(index)]
                found[f"{label.name} ({name.replace('_', ' ')})"] = label.colour or "#888888"
    return list(found.items())


def _draw_legend(sheet: _Sheet, scene: Scene) -> None:
    columns = max(1, int((sheet.width - 2 * MARGIN) // LEGEND_WIDTH))
    entries: Sequence[tuple[str, str]] = _classes(scene)
    rows = -(-len(entries) // columns)
    top = sheet.height - MARGIN - LINE * (rows + 1.9)
    for number, (name, colour) in enumerate(entries):
        x, y = MARGIN + LEGEND_WIDTH * (number // rows), top + LINE * (number % rows)
        sheet.box(x, y, 0.11, colour)
        sheet.text(x + 0.17, y - 0.01, name if len(name) <= 40 else f"{name[:39]}…", size=SMALL)
    sheet.text(MARGIN, sheet.height - MARGIN - LINE, EXPLAINED, size=5.5, colour=SOFT, wrap=True)
