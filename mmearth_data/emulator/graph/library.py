"""All modules that enter algorithms: importing this one fills the registry."""

from mmearth_data.emulator.algorithms import (  # noqa: F401 - imported for what they enter
    collection_functions,
    date_functions,
    filters,
    geometry_functions,
    grids,
    image_functions,
    neighbourhoods,
    pixel_functions,
    plain_functions,
    presentation,
    reducers,
    regions,
    resolution,
    stacks,
    texts,
)
from mmearth_data.emulator.graph.registry import FUNCTIONS, Implementation
from mmearth_data.emulator.server import profiles  # noqa: F401


def implementation(name: str) -> Implementation | None:
    """Find an algorithm; None if the emulator does not have it."""
    return FUNCTIONS.get(name)
