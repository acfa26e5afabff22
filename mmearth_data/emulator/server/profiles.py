"""Profiles of requests, as Earth Engine keeps them for a client that asks for them.

The service counts EECU-seconds, a unit of its own; here stand processor seconds of the emulator, which say nothing
about what Earth Engine would count. Only the format of the table as text is known, so that is all there is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmearth_data.emulator.errors import EmulatorError, not_emulated
from mmearth_data.emulator.graph.registry import function
from mmearth_data.emulator.server.cheap import Latest

if TYPE_CHECKING:
    from mmearth_data.emulator.graph.registry import Context

ASKED = "X-Earth-Engine-Computation-Profiling"
"""Header of a request that is to be profiled."""
ANSWERED = "x-earth-engine-computation-profile"
"""Header of its answer: the id of the profile."""
KEPT = 4096
HEADING = " EECU\u00b7s PeakMem Count  Description"


class Profiles(Latest[str, float]):
    """Seconds by profile id."""

    def __init__(self) -> None:
        super().__init__(KEPT)


@function("Profile.getProfiles")
def get_profiles(context: Context, ids: list[str], format: str = "text") -> str:
    """Table of some profiles together."""
    if format != "text":
        raise not_emulated(f"Profile.getProfiles with format '{format}'")
    found = [context.profiles.get(name) for name in ids]
    if None in found:
        raise EmulatorError(f"Profile.getProfiles: Profile '{ids[found.index(None)]}' not found.")
    total = sum(seconds for seconds in found if seconds is not None)
    return f"{HEADING}\n{total:7.3f} {'-':>7} {len(ids):5d}  (plumbing)\n"
