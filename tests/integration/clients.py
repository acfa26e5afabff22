"""What the tests of other people's clients share.

They run in an environment of their own (`make prove-ecosystem`), each against the emulator that all tests of a process
share; what they are to find is read from the planet directly.
"""

from __future__ import annotations

import importlib
from typing import Any

import ee
import pytest

PLACE = (8.5, 47.3)
L2A, ERA5, WORLD_COVER = "COPERNICUS/S2_SR_HARMONIZED", "ECMWF/ERA5_LAND/MONTHLY_AGGR", "ESA/WorldCover/v100"

MARKS = [
    pytest.mark.clients,
    pytest.mark.usefixtures("earth"),
    pytest.mark.filterwarnings("ignore"),  # what other people's modules warn of is theirs
]


def client(name: str) -> Any:
    """Import a client, which only its own environment has."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise AssertionError(f"{error}: this test runs in `make prove-ecosystem`") from error


def scenes(start: str, end: str, lon: float = PLACE[0], lat: float = PLACE[1]) -> Any:
    """Sentinel-2 scenes over a place."""
    return ee.ImageCollection(L2A).filterBounds(ee.Geometry.Point([lon, lat])).filterDate(start, end)
