"""Maps of a store's tiles: one raster per UTM zone in which overlapping tiles are blended, and a VRT over all zones."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import InputError, __version__, make_folder
from mmearth_model.devices import resolve_device
from mmearth_model.heads.network import Network, load_network
from mmearth_model.maps.blocks import plan_blocks
from mmearth_model.maps.jobs import Job
from mmearth_model.maps.making import SCORES_SUFFIX, Plan, forms_of, make_map, tags_of
from mmearth_model.maps.raster import RasterGrid
from mmearth_model.maps.store_tiles import PIXEL_M, StoreTiles, check_grids, opened
from mmearth_model.maps.virtual import write_vrt
from mmearth_model.maps.zones import Zone

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from mmearth_data import Store
    from mmearth_model.maps.blocks import Block, WorkFolder

MOST_EMPTY_PX = 10**9
"""Extent of a zone up to which its tiles may cover any share of it."""
LEAST_COVERED = 0.01
"""Share of a larger extent that the tiles must cover."""
MOSAIC = "mosaic.vrt"


def plan_zones(store: Store) -> tuple[Zone, ...]:
    """Divide the tiles of a store by UTM zone.

    Raises
    ------
    InputError
        If a tile has no known grid, tiles of a zone are on different grids, or are too far from each other for a map.
    """
    check_grids(store)
    return tuple(_zone(store, int(epsg)) for epsg in np.unique(store.coords["epsg"]))


def _zone(store: Store, epsg: int) -> Zone:
    rows = np.flatnonzero(store.coords["epsg"] == epsg)
    ulx, uly, size = store.coords["ulx"][rows], store.coords["uly"][rows], store.layout.size_px
    west, north = float(ulx.min()), float(uly.max())
    lefts, tops = (ulx - west) / PIXEL_M, (north - uly) / PIXEL_M
    astray = int(((lefts != np.rint(lefts)) | (tops != np.rint(tops))).sum())
    if astray:
        raise InputError(
            f"{store.path}: expected tiles of EPSG:{epsg} on one grid of {PIXEL_M} m for --mosaic, got {astray} of {len(rows)} "
            "on another; leave out --mosaic, or build the store with --cover."
        )
    height, width = int(tops.max()) + size, int(lefts.max()) + size
    covered = len(rows) * size**2 / (height * width)
    if height * width > MOST_EMPTY_PX and covered < LEAST_COVERED:
        raise InputError(
            f"{store.path}: expected adjoining tiles for --mosaic, got {len(rows)} that cover {100 * covered:.2g} % of "
            f"{height:,} x {width:,} px in EPSG:{epsg}; leave out --mosaic, or build the store with --cover."
        )
    return Zone(
        epsg=epsg,
        west=west,
        north=north,
        height=height,
        width=width,
        size_px=size,
        tiles=store.rows[rows],
        tops=tops.astype(np.int64),
        lefts=lefts.astype(np.int64),
    )


@dataclass(frozen=True, kw_only=True)
class MosaicJob(Job):
    """Blocks of a map of the tiles of a zone.

    Attributes
    ----------
    store
        Path or URL of the store.
    zone
        Its tiles.
    """

    store: str
    zone: Zone

    def values(self, network: Network, block: Block) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """See `Job.values`."""
        tiles, size = StoreTiles(network, opened(self.store), resolve_device(self.device)), self.zone.size_px
        inside = self.zone.within(block, 1)
        positions = np.searchsorted(tiles.store.rows, self.zone.tiles[inside])  # a finished store may have empty rows
        places = {
            int(position): (self.zone.tops[n] - block.row, self.zone.lefts[n] - block.column)
            for position, n in zip(positions, inside, strict=True)
        }
        total = np.zeros((len(network.outputs), block.height, block.width), np.float32)
        weights = np.zeros((block.height, block.width), np.float32)
        for position, values, weight in tiles.per_pixel(positions):
            top, left = places[position]
            here, there = _common(top, left, size, block)
            total[:, *here] += values[:, *there]
            weights[here] += weight[there]
        observed = weights > 0
        return np.divide(total, weights, out=total, where=observed), observed


def _common(top: int, left: int, size: int, block: Block) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Pixels that a tile and a block share: of the block, and of the tile."""
    spans = [
        (max(0, first), min(length, first + size), first)
        for first, length in ((top, block.height), (left, block.width))
    ]
    rows, columns = (slice(start, end) for start, end, _ in spans)
    own_rows, own_columns = (slice(start - first, end - first) for start, end, first in spans)
    return (rows, columns), (own_rows, own_columns)


@dataclass(frozen=True, kw_only=True, eq=False)
class MosaicPlan(Plan):
    """A map of the tiles of a zone, before it is computed."""

    store: Store
    zone: Zone

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Blocks with any tile."""
        planned = plan_blocks(self.grid.height, self.grid.width, self.zone.size_px)
        return tuple(block for block in planned if len(self.zone.within(block, 1)))

    def job(self, folder: WorkFolder, device: str) -> MosaicJob:
        """Make the job that computes a block."""
        form, *more = self.forms.values()
        return MosaicJob(
            folder=folder, form=form, scores=bool(more), device=device, store=str(self.store.path), zone=self.zone
        )


def predict_mosaic(
    network: Network | str | Path,
    store: Store,
    out: str | Path,
    *,
    scores: bool = False,
    workers: int = 1,
    scheduler: str | None = None,
    threads: int = 1,
    device: str = "auto",
    report: Callable[[float, float], None] | None = None,
) -> tuple[Path, ...]:
    """Map the tiles of a store: ``zone_EPSG.tif`` for each UTM zone, and ``mosaic.vrt`` over them.

    Where tiles overlap, probabilities are blended with weights that fall to nearly zero at the border of a tile. Pixels
    without a tile are no-data. Repeating an interrupted call resumes it.

    Parameters
    ----------
    network
        A network that predicts per pixel, or its folder.
    store
        Tiles of a zone share a grid of 10 m, as those of ``build --cover`` do.
    out
        Folder.
    scores
        Whether to write probabilities as well: ``zone_EPSG.scores.tif`` and ``mosaic.scores.vrt``.
    workers, scheduler, threads, device, report
        As for `predict_scene`.

    Returns
    -------
    tuple
        The VRT, and the files of the zones.

    Raises
    ------
    InputError
        If the network predicts per tile, or store and network do not match; see `plan_zones`.
    WriteFailed, RetryLater
        As for `predict_scene`.
    """
    net = network if isinstance(network, Network) else load_network(network)
    folder = Path(out).absolute()
    plans = plan_mosaic(net, store, folder, scores=scores)
    make_folder(folder)
    totals = [sum(block.pixels for block in plan.blocks) for plan in plans]
    for number, plan in enumerate(plans):
        before, everything = sum(totals[:number]), sum(totals)

        def tell(done: float, _: float, before: float = before, everything: float = everything) -> None:
            if report is not None:
                report(before + done, everything)

        make_map(plan, workers=workers, scheduler=scheduler, threads=threads, device=device, report=tell)
    files = [list(plan.forms) for plan in plans]
    names = [MOSAIC, MOSAIC.replace(".vrt", SCORES_SUFFIX.replace(".tif", ".vrt"))]
    over = [write_vrt(folder / name, list(paths)) for name, paths in zip(names, zip(*files, strict=True), strict=False)]
    return (*over, *(path for paths in files for path in paths))


def plan_mosaic(network: Network, store: Store, folder: Path, *, scores: bool) -> list[MosaicPlan]:
    """Plan the map of each zone; raises as `predict_mosaic`."""
    if not network.kind.per_pixel:
        raise InputError(
            f"--mosaic: expected a network that predicts per pixel, got one of {network.task}, which predicts per "
            "tile; use "
            "--out tiles.parquet instead."
        )
    if not store.finished:
        raise InputError(
            f"{store.path}: expected a finished store for --mosaic, got an unfinished one; run its build to the end."
        )
    StoreTiles.of(network, store)
    return [_plan(network, store, zone, folder, scores=scores) for zone in plan_zones(store)]


def _plan(network: Network, store: Store, zone: Zone, folder: Path, *, scores: bool) -> MosaicPlan:
    from rasterio.crs import CRS

    tags = {**tags_of(network, store.synthetic), "inputs": Path(str(store.path)).name}
    identity: dict[str, Any] = {
        "version": __version__,
        "network": network.digest,
        "store": store.digest,
        "tiles": hashlib.blake2b(zone.tiles.tobytes(), digest_size=16).hexdigest(),
        "zone": [zone.epsg, zone.west, zone.north, zone.height, zone.width],
        "scores": scores,
    }
    return MosaicPlan(
        network=network,
        grid=RasterGrid(
            crs=CRS.from_epsg(zone.epsg).to_wkt(),
            transform=zone.transform,
            height=zone.height,
            width=zone.width,
        ),
        forms=forms_of(network, folder / f"zone_{zone.epsg}.tif", tags, scores=scores),
        identity=identity,
        store=store,
        zone=zone,
    )
