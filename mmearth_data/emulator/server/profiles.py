"""Profiles of requests, as Earth Engine stores them for clients that request them.

The service counts EECU-seconds, a unit of its own; the emulator counts its own processor seconds, which say nothing
about what Earth Engine would count. Only the table's text format is documented, so no other is supported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmearth_data.emulator.errors import EmulatorError, not_emulated
from mmearth_data.emulator.graph.registry import function
from mmearth_data.emulator.server.cheap import Remembered

if TYPE_CHECKING:
    from mmearth_data.emulator.graph.registry import Context

ASKED = "X-Earth-Engine-Computation-Profiling"
"""Header of a request that is to be profiled."""
ANSWERED = "x-earth-engine-computation-profile"
"""Header of its answer: the id of the profile."""
KEPT = 4096
HEADING = " EECU\u00b7s PeakMem Count  Description"


class Profiles(Remembered[str, float]):
    """Seconds by profile id."""

    def __init__(self) -> None:
        super().__init__(KEPT)


@function("Profile.getProfiles")
def _get_profiles(ids: list[str], format: str, context: Context) -> str:
    if format != "text":
        raise not_emulated(f"Profile.getProfiles with format '{format}'")
    found = [context.profiles.get(name) for name in ids]
    if None in found:
        raise EmulatorError(f"Profile.getProfiles: Profile '{ids[found.index(None)]}' not found.")
    total = sum(seconds for seconds in found if seconds is not None)
    return f"{HEADING}\n{total:7.3f} {'-':>7} {len(ids):5d}  (plumbing)\n"
