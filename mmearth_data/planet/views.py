"""Surfaces and overpasses that were computed recently, kept for the next band of the same area."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from mmearth_data.planet.grids import Grid, Window, bilinear_cover
from mmearth_data.planet.ground import Ground, Lattice
from mmearth_data.planet.optics import OpticalView
from mmearth_data.planet.radar import RadarView
from mmearth_data.planet.season import Season

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmearth_data.planet.noise import Float32
    from mmearth_data.planet.scenes import OpticalScene, RadarScene
    from mmearth_data.planet.world import World

T = TypeVar("T")
KEPT = 6
COARSEST_PX = 6
"""Pixels of 60 m, the coarsest of Sentinel-2."""


def utm_grid(epsg: int) -> Grid:
    """10 m grid of a UTM zone."""
    return Grid(epsg, (10, 1))


class Views:
    """What each thread has computed recently. A pixel has the same value in every window."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._kept = threading.local()

    def forget(self) -> None:
        """Forget what this thread has computed."""
        self._kept.__dict__.clear()

    def ground(self, grid: Grid, window: Window) -> Ground:
        """Surface whose window contains the given one, with a margin of one pixel."""
        wanted = window.padded(1)
        return self._kept_or(
            Ground,
            lambda ground: ground.grid == grid and ground.window.contains(wanted),
            lambda: Ground(self.world, grid, wanted, self._lattice(grid)),
        )

    def _lattice(self, grid: Grid) -> Lattice | None:
        """Smooth fields of the latest surface on the same lattice, which maps of one area share."""
        return next((ground.lattice for ground in self._list(Ground) if ground.grid.lattice == grid.lattice), None)

    def season(self, ground: Ground, time_ms: int) -> Season:
        """Season of a surface."""
        return self._kept_or(
            Season,
            lambda season: season.ground is ground and season.time_ms == time_ms,
            lambda: Season(ground, time_ms),
        )

    def overpass(self, scene: OpticalScene, window: Window, *, toa: bool) -> OpticalView:
        """Overpass over a window of 10 m pixels, wide enough to interpolate bands of 60 m."""
        wanted = (scene.epsg, scene.time_ms, scene.light, toa)
        return self._kept_or(
            OpticalView,
            lambda v: (v.epsg, v.time_ms, v.light, v.toa) == wanted and v.window.contains(window),
            lambda: self._overpass(scene, bilinear_cover(window, COARSEST_PX).finer(COARSEST_PX), toa=toa),
        )

    def _overpass(self, scene: OpticalScene, window: Window, *, toa: bool) -> OpticalView:
        ground = Ground(self.world, utm_grid(scene.epsg), window.padded(1))
        self._keep(ground)
        return OpticalView(ground, self.season(ground, scene.time_ms), scene.light, toa=toa)

    def radar(self, scene: RadarScene, window: Window) -> RadarView:
        """Radar overpass over a window of 10 m pixels."""
        ground = self.ground(utm_grid(scene.epsg), window)
        return self._kept_or(
            RadarView,
            lambda view: view.ground is ground and view.look == scene.look,
            lambda: RadarView(ground, self.season(ground, scene.time_ms), scene.look, _incidence(scene, ground)),
        )

    def _kept_or(self, kind: type[T], wanted: Callable[[T], bool], make: Callable[[], T]) -> T:
        found = next(filter(wanted, self._list(kind)), None)
        return self._keep(make()) if found is None else found

    def _list(self, kind: type[T]) -> list[T]:
        found: list[T] = self._kept.__dict__.setdefault(kind.__name__, [])
        return found

    def _keep(self, value: T) -> T:
        kept = self._list(type(value))
        kept.insert(0, value)
        del kept[KEPT:]
        return value


def _incidence(scene: RadarScene, ground: Ground) -> Float32:
    return ground.patch.linear(scene.incidence_deg(*ground.patch.nodes.lonlat).astype(np.float32))
