"""All modules that enter algorithms: importing this one fills the registry."""

from mmearth_data.emulator.algorithms import (  # noqa: F401 - imported for what they enter
    band_functions,
    collection_functions,
    date_functions,
    dictionary_functions,
    filter_texts,
    filters,
    general_functions,
    geometry_functions,
    image_functions,
    joins,
    list_functions,
    neighbourhoods,
    number_functions,
    presentation,
    projection_functions,
    reducers,
    regions,
    resampling,
    sampling_functions,
    stacks,
    string_functions,
)
from mmearth_data.emulator.graph import expressions  # noqa: F401
from mmearth_data.emulator.graph.registry import FUNCTIONS, Implementation
from mmearth_data.emulator.server import profiles  # noqa: F401


def implementation(name: str) -> Implementation | None:
    """Find an algorithm; None of one that the emulator does not have."""
    return FUNCTIONS.get(name)
