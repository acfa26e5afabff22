"""Surfaces and overpasses that were computed recently, kept for the next band of the same area."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from mmearth_data.planet.grids import Grid, Window, bilinear_cover
from mmearth_data.planet.ground import Ground, Lattice
from mmearth_data.planet.optics import OpticalView
from mmearth_data.planet.radar import RadarView
from mmearth_data.planet.season import Season

if TYPE_CHECKING:
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
        grounds: list[Ground] = self._list("grounds")
        for ground in grounds:
            if ground.grid == grid and ground.window.contains(wanted):
                return ground
        return self._keep(grounds, Ground(self.world, grid, wanted, self._lattice(grid)))

    def _lattice(self, grid: Grid) -> Lattice | None:
        """Smooth fields of the latest surface on the same lattice, which maps of one area share."""
        grounds: list[Ground] = self._list("grounds")
        return next((ground.lattice for ground in grounds if ground.grid.lattice == grid.lattice), None)

    def season(self, ground: Ground, time_ms: int) -> Season:
        """Season of a surface."""
        seasons: list[Season] = self._list("seasons")
        for season in seasons:
            if season.ground is ground and season.time_ms == time_ms:
                return season
        return self._keep(seasons, Season(ground, time_ms))

    def overpass(self, scene: OpticalScene, window: Window, *, toa: bool) -> OpticalView:
        """Overpass over a window of 10 m pixels, wide enough to interpolate bands of 60 m."""
        views: list[OpticalView] = self._list("overpasses")
        for view in views:
            if (view.epsg, view.time_ms, view.light, view.toa) == (scene.epsg, scene.time_ms, scene.light, toa) and (
                view.window.contains(window)
            ):
                return view
        cover = bilinear_cover(window, COARSEST_PX).finer(COARSEST_PX)
        ground = Ground(self.world, utm_grid(scene.epsg), cover.padded(1))
        self._keep(self._list("grounds"), ground)
        season = self.season(ground, scene.time_ms)
        return self._keep(views, OpticalView(ground, season, scene.light, toa=toa))

    def radar(self, scene: RadarScene, window: Window) -> RadarView:
        """Radar overpass over a window of 10 m pixels."""
        views: list[RadarView] = self._list("radar")
        ground = self.ground(utm_grid(scene.epsg), window)
        for view in views:
            if view.ground is ground and view.look == scene.look:
                return view
        lon, lat = ground.patch.nodes.lonlat
        incidence = ground.patch.linear(scene.incidence_deg(lon, lat).astype(np.float32))
        return self._keep(views, RadarView(ground, self.season(ground, scene.time_ms), scene.look, incidence))

    def _list(self, name: str) -> list[Any]:
        return self._kept.__dict__.setdefault(name, [])

    def _keep(self, kept: list[T], value: T) -> T:
        kept.insert(0, value)
        del kept[KEPT:]
        return value
