"""Make a map from its plan: compute its blocks, resume, and publish its files."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import InputError, __version__, check_output
from mmearth_model.heads.network import Network, save_network
from mmearth_model.maps.blocks import WorkFolder, digest_of, run_blocks
from mmearth_model.maps.jobs import ANSWERS, NETWORK, SCORES, Job
from mmearth_model.maps.raster import (
    IDENTITY_TAG,
    NO_SCORE,
    SCORE_SCALE,
    RasterForm,
    RasterGrid,
    code_form,
    is_finished,
    write_cog,
)
from mmearth_model.tasks import TaskKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from mmearth_model.maps.blocks import Block

SCORES_SUFFIX = ".scores.tif"


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan(ABC):
    """A map, before it is computed.

    Attributes
    ----------
    network
        What is applied.
    grid
        Grid of the map.
    forms
        Path -> form of each file: the answers, then the probabilities, if they are kept.
    identity
        Everything that determines the result, JSON-ready.
    """

    network: Network
    grid: RasterGrid
    forms: Mapping[Path, RasterForm]
    identity: Mapping[str, Any]

    @property
    @abstractmethod
    def blocks(self) -> tuple[Block, ...]:
        """Blocks of the map."""

    @abstractmethod
    def job(self, folder: WorkFolder, device: str) -> Job:
        """Make the job that computes a block."""

    def is_finished(self, path: Path, identity: str) -> bool:
        """Whether a file is already finished. Raises `InputError` if another file has its name, which would be lost."""
        return is_finished(path, identity)

    def publish(self, folder: WorkFolder, identity: str) -> None:
        """Write the files of the map from its blocks."""
        for (path, form), name in zip(self.forms.items(), (ANSWERS, SCORES), strict=False):

            def blocks(name: str = name) -> Iterator[tuple[Block, NDArray[Any]]]:
                for block in self.blocks:
                    yield block, folder.read(block)[name]

            tagged = dataclasses.replace(form, tags={**form.tags, IDENTITY_TAG: identity})
            write_cog(path, folder.path, tagged, self.grid, blocks)


def make_map(
    plan: Plan,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    threads: int = 1,
    device: str = "auto",
    report: Callable[[float, float], None] | None = None,
) -> tuple[Path, ...]:
    """Compute and publish a map, or resume it; a finished one is left unchanged. Raises as `predict_scene`."""
    for path in plan.forms:
        check_output(path)
    whole = {**plan.identity, "blocks": len(plan.blocks)}
    identity, folder = digest_of(whole), WorkFolder.beside(next(iter(plan.forms)))
    states = [plan.is_finished(path, identity) for path in plan.forms]
    finished = all(states)
    if finished and not folder.path.exists():
        return tuple(plan.forms)
    with folder.hold(whole):
        if not finished:
            if not (folder.path / NETWORK).is_dir():
                save_network(folder.path / NETWORK, plan.network)
            job = plan.job(folder, device)
            run_blocks(job, plan.blocks, folder, workers=workers, scheduler=scheduler, threads=threads, report=report)
            plan.publish(folder, identity)
        folder.remove()
    return tuple(plan.forms)


def forms_of(network: Network, out: Path, tags: Mapping[str, str], *, scores: bool) -> dict[Path, RasterForm]:
    """Files of a map and their forms. Raises `InputError` if the network has no scores, or its codes do not fit a map."""
    forms = {out: answers_form(network)}
    if scores:
        forms[out.with_suffix(SCORES_SUFFIX)] = scores_form(network)
    return {path: dataclasses.replace(form, tags=tags) for path, form in forms.items()}


def tags_of(network: Network, synthetic: bool) -> dict[str, str]:
    """Facts of a map for readers that have only the file; ``synthetic`` is whether its input is."""
    made = bool(network.record.get("synthetic")) or synthetic
    return {
        "TIFFTAG_SOFTWARE": f"mmearth {__version__}",
        "TIFFTAG_IMAGEDESCRIPTION": f"{network.task}, predicted" + (" (synthetic data)" if made else ""),
        "task": network.task,
        "network": network.digest,
        "synthetic": "yes" if made else "no",
    }


def answers_form(network: Network) -> RasterForm:
    """Form of the answers of a network. Raises `InputError` if its codes do not fit a map."""
    names = tuple(output.name for output in network.outputs)
    if network.kind.continuous:
        return RasterForm(
            bands=names, dtype="float32", nodata=np.nan, units=tuple(output.units for output in network.outputs)
        )
    if network.kind is TaskKind.MULTI_LABEL:
        return RasterForm(bands=names, dtype="uint8", nodata=255)
    dtype, nodata = code_form(network.outputs)
    return RasterForm(bands=("class",), dtype=dtype, nodata=nodata, classes=network.outputs)


def scores_form(network: Network) -> RasterForm:
    """Form of the probabilities of a network. Raises `InputError` if it has none."""
    if network.kind.continuous:
        raise InputError(
            "--scores: expected a network that predicts classes or labels, got one that predicts quantities, which "
            "have no scores; leave it "
            "out."
        )
    names = tuple(output.name for output in network.outputs)
    return RasterForm(bands=names, dtype="uint8", nodata=NO_SCORE, scale=SCORE_SCALE, units=("1",) * len(names))
