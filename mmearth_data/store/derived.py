"""Modalities that are computed from a tile's coordinates on read, never stored.

The modality says which coordinate is encoded, and how: ``derived_from`` and ``recipe["name"]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.errors import CatalogError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from mmearth_data.catalog.modality import Modality


def derived(modality: Modality, coords: Mapping[str, np.ndarray[Any, Any]]) -> NDArray[np.float32]:
    """Encode a coordinate of tiles as a point on the unit circle.

    Parameters
    ----------
    modality
        A derived modality with the bands ``sin`` and ``cos``. Recipe ``angle``: the coordinate is an angle in degrees.
        Recipe ``month``: the coordinate is a time (``datetime64`` or UTC milliseconds); each month 1 to 12 is a twelfth
        of the circle.
    coords
        Coordinates of the tiles by name, each (n,).

    Returns
    -------
    ndarray
        (n, 2) float32, sine and cosine, NaN if the coordinate is unknown.

    Raises
    ------
    CatalogError
        If the modality is not derived, or its recipe is unknown.

    Notes
    -----
    After Nedungadi et al. (2024), arXiv:2405.02771: latitude and longitude in radians, month as 2 pi m / 12.
    """
    recipe = str(modality.recipe.get("name"))
    if modality.stored or len(modality.derived_from) != 1 or recipe not in _PHASES:
        raise CatalogError(
            f"{modality.name}: expected one coordinate under derived_from and a recipe of {', '.join(_PHASES)}, "
            f"got derived_from {list(modality.derived_from)} and recipe {recipe}."
        )
    phase = _PHASES[recipe](coords[modality.derived_from[0]])
    return np.stack([np.sin(phase), np.cos(phase)], axis=-1).astype(np.float32)


def _angle(degrees: np.ndarray[Any, Any]) -> NDArray[np.float64]:
    return np.radians(np.asarray(degrees, dtype=np.float64))


def _month(time: np.ndarray[Any, Any]) -> NDArray[np.float64]:
    stamps = np.asarray(time).astype("datetime64[ms]")
    months = stamps.astype("datetime64[M]").astype(np.int64) % 12 + 1.0
    return np.where(np.isnat(stamps), np.nan, 2 * np.pi * months / 12)


_PHASES: Mapping[str, Callable[[np.ndarray[Any, Any]], NDArray[np.float64]]] = {"angle": _angle, "month": _month}
