"""Plan a map of a scene: its windows, its grid, its files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmearth_data import InputError, __version__, check_apart
from mmearth_model.maps.blocks import WorkFolder, plan_blocks
from mmearth_model.maps.describing import SceneOptions, describe_scene
from mmearth_model.maps.jobs import Job, PixelJob, TileJob
from mmearth_model.maps.making import SCORES_SUFFIX, Plan, forms_of, tags_of
from mmearth_model.maps.raster import (
    RasterGrid,
)
from mmearth_model.maps.windows import BLENDINGS, Axis, Blending, plan_axis, step_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mmearth_model.heads.network import Network
    from mmearth_model.maps.blocks import Block
    from mmearth_model.maps.scene import Scene

TABLE_SUFFIX = ".parquet"
TILE_BLOCK_PX = 32
"""Pixels of a block of a network that predicts per tile, each of which is a whole window."""


@dataclass(frozen=True, kw_only=True)
class WindowOptions:
    """How windows cover a scene.

    Attributes
    ----------
    overlap_px
        Pixels that neighbouring windows share, for networks that predict per pixel; None is about half a window.
    blend
        How overlapping windows are combined, for networks that predict per pixel: ``smooth`` or ``centre``.
    stride_px
        Scene pixels per side of a map pixel, for networks that predict per tile; None is half a window.
    """

    overlap_px: int | None = None
    blend: Blending = "smooth"
    stride_px: int | None = None

    def __post_init__(self) -> None:
        if self.blend not in BLENDINGS:
            raise InputError(f"--blend: expected {' or '.join(BLENDINGS)}, got {self.blend!r}; choose one of them.")


@dataclass(frozen=True, kw_only=True, eq=False)
class ScenePlan(Plan):
    """A map of a scene, before it is computed.

    Attributes
    ----------
    scene
        What is mapped.
    rows, columns
        Windows.
    """

    scene: Scene
    rows: Axis
    columns: Axis

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Blocks of the map."""
        if self.network.kind.per_pixel:
            return plan_blocks(self.grid.height, self.grid.width, self.rows.window, channels=len(self.network.outputs))
        return plan_blocks(self.grid.height, self.grid.width, 1, side=TILE_BLOCK_PX)

    def job(self, folder: WorkFolder, device: str) -> Job:
        """Make the job that computes a block."""
        kind = PixelJob if self.network.kind.per_pixel else TileJob
        return kind(
            scene=self.scene,
            folder=folder,
            form=next(iter(self.forms.values())),
            scores=len(self.forms) > 1,
            device=device,
            rows=self.rows,
            columns=self.columns,
        )


def plan_map(
    network: Network, inputs: Sequence[Path], out: Path, given: SceneOptions, tiling: WindowOptions, *, scores: bool
) -> ScenePlan:
    """Plan a map; raises as `predict_scene`."""
    _check_out(out, inputs, scores=scores)
    scene = describe_scene(network.normaliser, inputs, given)
    axes = _axes(network, scene, tiling)
    factor = 1 if network.kind.per_pixel else _stride(network, tiling)
    a, b, c, d, e, f = scene.transform
    grid = RasterGrid(
        crs=scene.crs,
        transform=(a * factor, b * factor, c, d * factor, e * factor, f),
        height=-(-scene.height // factor),
        width=-(-scene.width // factor),
    )
    level = {} if scene.level is None else {"s2_level": scene.level}
    tags = {**tags_of(network, scene.synthetic), "inputs": ", ".join(file.path.name for file in scene.files), **level}
    identity = {
        "version": __version__,
        "network": network.digest,
        "scene": scene.identity(),
        "windows": [network.window_px, axes[0].offsets.tolist(), axes[1].offsets.tolist(), tiling.blend, factor],
        "scores": scores,
    }
    return ScenePlan(
        network=network,
        grid=grid,
        forms=forms_of(network, out, tags, scores=scores),
        identity=identity,
        scene=scene,
        rows=axes[0],
        columns=axes[1],
    )


def _check_out(out: Path, inputs: Sequence[Path], *, scores: bool) -> None:
    if out.suffix.lower() not in {".tif", ".tiff", TABLE_SUFFIX}:
        raise InputError(f"--out: expected a .tif file, got {out.name!r}; use {out.stem or 'map'}.tif.")
    check_apart({"--out": out, "--scores": out.with_suffix(SCORES_SUFFIX) if scores else None}, inputs)


def _axes(network: Network, scene: Scene, tiling: WindowOptions) -> tuple[Axis, Axis]:
    """Windows along rows and columns."""
    window, align = network.window_px, network.patch_px
    if network.kind.per_pixel:
        if tiling.stride_px is not None:
            raise InputError("--stride: expected none with a network that predicts per pixel; leave it out.")
        step = step_of(window, tiling.overlap_px, align)
        return (
            plan_axis(scene.height, window, step, align=align, blend=tiling.blend),
            plan_axis(scene.width, window, step, align=align, blend=tiling.blend),
        )
    if tiling.overlap_px is not None or tiling.blend != "smooth":
        raise InputError(
            "--overlap and --blend: expected neither with a network that predicts per tile; use --stride instead."
        )
    stride = _stride(network, tiling)
    return centred(scene.height, window, stride), centred(scene.width, window, stride)


def _stride(network: Network, tiling: WindowOptions) -> int:
    stride = max(1, network.window_px // 2) if tiling.stride_px is None else tiling.stride_px
    if stride < 1:
        raise InputError(f"--stride: expected at least 1 px, got {stride}.")
    return stride


def centred(length: int, window: int, stride: int) -> Axis:
    """Plan windows around the pixels of a coarser grid, shifted into the scene at its borders.

    ``weights`` are ones: windows are not blended.
    """
    centres = np.arange(-(-length // stride)) * stride + stride // 2
    offsets = np.clip(centres - window // 2, 0, max(0, length - window))
    return Axis(length, offsets.astype(np.int64), np.ones((len(offsets), window), np.float32))
