"""Draw the pictures of a report from checkpoints and their stores, in bounded time; missing pictures are reported."""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from mmearth_data import MMEarthError, open_store, reason_of, summarise
from mmearth_model.devices import resolve_device
from mmearth_model.report.embedding_map import Plane, ShownTiles, affordable, find_plane, look_at, sample_tiles
from mmearth_model.report.images import encode, fitted
from mmearth_model.report.reconstructions import Reconstruction, reconstruct
from mmearth_model.weights.checkpoints import load_checkpoint
from mmearth_model.weights.store_record import find_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from mmearth_data import Store
    from mmearth_model.report.runs import RunRecord
    from mmearth_model.weights.checkpoints import Checkpoint

DRAWN_RUNS = 4
"""Maximum number of runs whose predictions and embeddings are shown, so that a page stays small."""
SECONDS = 30.0
"""Time for the embeddings of one run."""
RECONSTRUCTION_BYTES, EPOCH_BYTES = 600_000, 300_000
"""Maximum size of the pictures of a page, before Base64 encoding."""
EPOCH_PICTURES, EPOCH_WIDTH_PX = 8, 640


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawings:
    """Pictures of a report.

    Attributes
    ----------
    reconstructions
        Run -> tiles; runs with the same store have the same tiles.
    epochs
        Run -> (step, picture) saved during training.
    tiles, planes
        Tiles on the map of embeddings, and their positions by run; None and empty if there is no map.
    store
        Names and values that describe the store.
    missing
        What is not shown and why, one sentence each.
    """

    reconstructions: dict[str, list[Reconstruction]]
    epochs: dict[str, list[tuple[int, bytes]]]
    tiles: ShownTiles | None = None
    planes: tuple[Plane, ...] = ()
    store: tuple[tuple[str, str], ...] = ()
    missing: tuple[str, ...] = ()


def draw_runs(
    runs: Sequence[RunRecord],
    *,
    store: Path | None = None,
    tiles: int = 4,
    embedded: int = 300,
    device: str = "auto",
    report: Callable[[str], None] | None = None,
) -> Drawings:
    """Draw predictions and embeddings of the first runs that have a checkpoint.

    Parameters
    ----------
    runs
        Runs.
    store
        Store whose tiles are drawn; None uses the store that each run was trained on.
    tiles, embedded
        Number of tiles to reconstruct and to embed; 0 skips them.
    device
        ``auto``, ``cpu``, ``cuda``, ...
    report
        Called with a line of text before each step.

    Raises
    ------
    InputError
        When ``store`` is not a store, or there is no such device. Everything else that is missing is listed in the result.
    """
    resolve_device(device)  # refused before anything is drawn
    given = None if store is None else open_store(store)
    some = [run for run in runs if run.checkpoint is not None][:DRAWN_RUNS]
    artist = _Artist(given, tiles, embedded, device, report, _not_drawn(runs, some))
    drawn = {run.name: found for run in some for found in [artist.predictions(run)] if found} if tiles else {}
    facts = artist.facts(some) if tiles or embedded else ()
    shown, planes = artist.map_of(some) if embedded else (None, ())
    return Drawings(
        reconstructions=_within(drawn, RECONSTRUCTION_BYTES),
        epochs=artist.courses(runs[:DRAWN_RUNS]),
        tiles=shown,
        planes=planes,
        store=facts,
        missing=tuple(artist.missing),
    )


def _not_drawn(runs: Sequence[RunRecord], drawn: Sequence[RunRecord]) -> list[str]:
    """List the runs without pictures."""
    missing = [f"{run.name}: no predictions and no embeddings, because it has no checkpoint" for run in runs if run.checkpoint is None]  # fmt: skip
    left = len(runs) - len(missing) - len(drawn)
    return missing + [f"predictions and embeddings of {left} more runs: a page shows at most {DRAWN_RUNS}"] * bool(left)


@dataclass(frozen=True, slots=True)
class _Artist:
    """Settings, and the list of what could not be drawn."""

    store: Store | None
    tiles: int
    embedded: int
    device: str
    report: Callable[[str], None] | None
    missing: list[str]

    def say(self, line: str) -> None:
        if self.report is not None:
            self.report(line)

    def predictions(self, run: RunRecord) -> list[Reconstruction]:
        self.say(f"{run.name}: predicting {self.tiles} tiles")
        try:
            checkpoint, store = self._opened(run)
            return reconstruct(checkpoint, store, self.tiles, resolve_device(self.device))
        except MMEarthError as error:
            self.missing.append(f"{run.name}: no reconstructions: {reason_of(error)}")
            return []

    def _opened(self, run: RunRecord) -> tuple[Checkpoint, Store]:
        checkpoint = load_checkpoint(run.checkpoint or run.folder)
        store = find_store(run.store, run.folder) if self.store is None else self.store
        return checkpoint, store

    def facts(self, runs: Sequence[RunRecord]) -> tuple[tuple[str, str], ...]:
        """Describe the store of the first run that has one."""
        for run in runs:
            with suppress(MMEarthError):  # reconstructions and embeddings name what is missing
                return store_facts(self._opened(run)[1])
        return ()

    def map_of(self, runs: Sequence[RunRecord]) -> tuple[ShownTiles | None, tuple[Plane, ...]]:
        """Embed the same tiles with every run that has the store of the first."""
        planes: list[Plane] = []
        sample: Store | None = None
        for run in runs:
            self.say(f"{run.name}: embedding tiles")
            try:
                checkpoint, store = self._opened(run)
                if sample is None:
                    sample = self._sample(checkpoint, store)
                elif store.digest != sample.digest:
                    self.missing.append(
                        f"{run.name}: no embeddings, because its store differs from that of {runs[0].name}"
                    )
                    continue
                planes.append(find_plane(checkpoint, sample, run.name, self.device))
            except MMEarthError as error:
                self.missing.append(f"{run.name}: no embeddings: {reason_of(error)}")
        return (look_at(sample), tuple(planes)) if planes and sample is not None else (None, ())

    def _sample(self, checkpoint: Checkpoint, store: Store) -> Store:
        whole = sample_tiles(store, self.embedded)
        count = affordable(checkpoint, whole, SECONDS, self.device)
        if count < len(whole):
            self.missing.append(f"embeddings of {len(whole) - count} of {len(whole)} tiles: they would take more than {SECONDS:.0f} s")  # fmt: skip
        return sample_tiles(whole, count)

    def courses(self, runs: Sequence[RunRecord]) -> dict[str, list[tuple[int, bytes]]]:
        """Find the pictures that runs saved during training, evenly spaced and reduced to fit the page."""
        found = {run.name: list(self._course(run)) for run in runs}
        found = {run: pictures for run, pictures in found.items() if pictures}
        most = EPOCH_BYTES // max(1, len(found))
        return {
            run: list(
                zip((step for step, _ in pictures), fitted([picture for _, picture in pictures], most), strict=True)
            )
            for run, pictures in found.items()
        }

    def _course(self, run: RunRecord) -> Iterator[tuple[int, bytes]]:
        steps = sorted(run.pictures)
        if len(steps) > EPOCH_PICTURES:
            steps = [steps[place] for place in np.linspace(0, len(steps) - 1, EPOCH_PICTURES).round().astype(int)]
        for step in steps:
            try:
                yield step, _smaller(run.pictures[step])
            except (OSError, UnidentifiedImageError, ValueError) as error:
                self.missing.append(f"{run.name}: its picture of step {step}: {reason_of(error)}")


def store_facts(store: Store) -> tuple[tuple[str, str], ...]:
    """Names and values that describe a store."""
    s = summarise(store)
    stored = [modality.name for modality in s.modalities if modality.stored]
    scenes = f"{s.first_scene} to {s.last_scene}" if s.first_scene else "unknown"
    splits = ", ".join(f"{name} {count:,}" for name, count in s.splits.items() if count)
    return (
        ("store", s.path),
        ("tiles", f"{s.tiles:,} of {s.size_px} by {s.size_px} pixels"),
        ("splits", splits),
        ("scenes", scenes),
        ("source", str(s.source.get("name", "unknown"))),
        ("modalities", f"{len(stored)}: {', '.join(stored)}"),
    )


def _smaller(file: Path) -> bytes:
    with Image.open(io.BytesIO(file.read_bytes())) as picture:
        height = max(1, round(picture.height * EPOCH_WIDTH_PX / picture.width))
        small = picture.convert("RGB").resize((EPOCH_WIDTH_PX, height))
    return encode(np.asarray(small), lossy=True)


def _within(drawn: dict[str, list[Reconstruction]], most: int) -> dict[str, list[Reconstruction]]:
    """Keep as many tiles of each run as fit, at least one of the first run."""
    for count in range(max(map(len, drawn.values()), default=0), 0, -1):
        kept = {run: tiles[:count] for run, tiles in drawn.items()}
        if sum(_size(tile) for tiles in kept.values() for tile in tiles) <= most:
            return kept
    return {run: tiles[:1] for run, tiles in list(drawn.items())[:1]}


def _size(tile: Reconstruction) -> int:
    return len(tile.mask) + sum(len(raster.prediction) + len(raster.truth) for raster in tile.rasters)
