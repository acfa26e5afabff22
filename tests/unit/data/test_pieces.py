"""Points in prepared polygons, shared among threads."""

from __future__ import annotations

import numpy as np
import shapely

from mmearth_data.geography.pieces import contains


def stars(count: int, corners: int) -> np.ndarray:
    """Star-shaped polygons, all with their centre at the origin and radii between 1 and 2."""
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    radius = np.random.default_rng(0).uniform(1, 2, (count, corners))
    return shapely.polygons(np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1))


def test_threads_share_no_prepared_polygon() -> None:
    # Many polygons, each asked for the first time by points from all over the array: GEOS builds its indexes then.
    rng = np.random.default_rng(1)
    points = 200_000
    lon, lat = rng.uniform(-2, 2, (2, points))
    distance = np.hypot(lon, lat)
    for _ in range(3):
        polygons = np.append(stars(300, 2_000), None)
        shapely.prepare(polygons)
        of = rng.integers(0, len(polygons), points)
        inside = contains(polygons, of, lon, lat, threads=8)
        everywhere = of == len(polygons) - 1
        assert inside[everywhere | (distance < 0.9)].all()
        assert not inside[~everywhere & (distance > 2)].any()
        between = np.flatnonzero(~everywhere & (distance > 0.9))[:2_000]
        alone = [
            shapely.contains_xy(shapely.from_wkb(shapely.to_wkb(polygons[of[i]])), lon[i], lat[i]) for i in between
        ]
        assert inside[between].tolist() == alone
