"""All modules that enter algorithms: importing this one fills the registry."""

from mmearth_data.emulator import (
    band_functions,
    collection_functions,
    date_functions,
    dictionary_functions,
    expressions,
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
    profiles,
    projection_functions,
    reducers,
    regions,
    resampling,
    sampling_functions,
    stacks,
    string_functions,
)
from mmearth_data.emulator.registry import FUNCTIONS, Implementation

MODULES = (
    band_functions,
    collection_functions,
    date_functions,
    dictionary_functions,
    expressions,
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
    profiles,
    projection_functions,
    reducers,
    regions,
    resampling,
    sampling_functions,
    stacks,
    string_functions,
)
"""Imported for what they enter."""


def implementation(name: str) -> Implementation | None:
    """Find an algorithm; None of one that the emulator does not have."""
    return FUNCTIONS.get(name)
