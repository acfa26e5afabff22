"""Helpers shared by the tests of third-party clients.

The tests run in their own environments (`make prove-ecosystem`) against the emulator shared by all tests of a process;
expected values are read directly from the planet.
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
    pytest.mark.filterwarnings("ignore"),  # warnings of third-party modules are not ours to fix
]


def client(name: str) -> Any:
    """Import a client, which is installed only in its own environment."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise AssertionError(f"{error}: this test runs in `make prove-ecosystem`") from error


def scenes(start: str, end: str, lon: float = PLACE[0], lat: float = PLACE[1]) -> Any:
    """Sentinel-2 scenes over a location."""
    return ee.ImageCollection(L2A).filterBounds(ee.Geometry.Point([lon, lat])).filterDate(start, end)
