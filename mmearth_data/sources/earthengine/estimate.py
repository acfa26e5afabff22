"""Estimate of a build's requests and hours before any request is sent."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmearth_data.catalog.modality import Modality

SURVEY_BATCH = 20
"""Initial number of candidates per survey request."""
LATENCIES_S = (1.0, 5.0, 20.0)
EECU_SECONDS = (1.0, 5.0, 20.0)
"""Seconds per request and EECU-seconds per tile for which estimates are tabulated until measured."""
HOW_TO_MEASURE = (
    "`mmearth-data build ... --profile 20` measures both on your account. Or build 100 tiles. Seconds per request: "
    "`mmearth-data inspect STORE`, ledger, seconds / requests. EECU-seconds per tile: Cloud Monitoring, metric "
    "earthengine.googleapis.com/project/cpu/usage_time, workload tag mmearth-build, divided by 100. "
    "Give them as --latency and --eecu-per-tile."
)


def estimate(
    tiles: int,
    size_px: int,
    modalities: Sequence[Modality],
    *,
    in_flight: int,
    per_second: float,
    latency_s: float | None = None,
    eecu_per_tile: float | None = None,
    oversample: float = 1.0,
) -> dict[str, Any]:
    """Price a build; JSON-ready.

    Parameters
    ----------
    tiles, size_px, modalities
        Number, side and content of the tiles.
    in_flight, per_second
        Limits.
    latency_s, eecu_per_tile
        As measured; without them, tables for a few values.
    oversample
        Locations per tile: those beyond the first replace rejected ones.

    Returns
    -------
    dict
        ``requests`` if no location is rejected, and ``requests_at_most`` if each location is tried, surveyed twice and
        read; ``download_bytes`` (pixels of the tiles); ``hours``, ``hours_at_most`` (of ``requests_at_most``) and
        ``eecu_hours``: one number, or a table from seconds (EECU-seconds) to hours.
    """
    surveys = math.ceil(tiles / SURVEY_BATCH)
    rasters = [m for m in modalities if m.stored and m.kind.is_raster]
    per_tile = sum(math.prod(m.array_shape(size_px)) * m.dtype.itemsize for m in rasters)
    requests = surveys + tiles
    tried = math.ceil(tiles * oversample)
    most = {"value:compute": 2 * math.ceil(tried / SURVEY_BATCH), "image:computePixels": tried}
    most["total"] = sum(most.values())

    def hours(seconds: float, requests: int = requests) -> float:
        return round(max(requests / per_second, requests * seconds / in_flight) / 3600, 4)

    def at_most(seconds: float) -> float:
        return hours(seconds, most["total"])

    def eecu(seconds: float) -> float:
        return round(tiles * seconds / 3600, 4)

    return {
        "requests": {"value:compute": surveys, "image:computePixels": tiles, "total": requests},
        "requests_at_most": most,
        "download_bytes": tiles * per_tile,
        "hours": hours(latency_s) if latency_s else {f"{s:g}": hours(s) for s in LATENCIES_S},
        "hours_at_most": at_most(latency_s) if latency_s else {f"{s:g}": at_most(s) for s in LATENCIES_S},
        "eecu_hours": eecu(eecu_per_tile) if eecu_per_tile else {f"{s:g}": eecu(s) for s in EECU_SECONDS},
        "how_to_measure": HOW_TO_MEASURE,
    }
