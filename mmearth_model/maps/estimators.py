"""Area and accuracy from a probability sample of a map.

Stratified estimators of Olofsson et al. (2014), Good practices for estimating area and assessing accuracy of land change,
Remote Sensing of Environment 148, 42-57: strata are the classes of the map. Axes: K classes; I strata (map classes).

Standard errors are those of the paper. Its intervals, the estimate ± 1.96 standard errors, contain the true area too rarely
if the area of a small class depends on a few errors in a large one: with 50 points per class, a class may be missed in a
stratum of which it covers one per cent, and then contributes no variance. The intervals here therefore use the method of
variance estimates recovery for a linear function of binomial proportions (Zou, Huang and Zhang 2009, Computational
Statistics and Data Analysis 53, 1080-1085), from the interval of each proportion under the prior Beta(1/3, 1/3), the
neutral one (Kerman 2011, Electronic Journal of Statistics 5, 1450-1470).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

LEVEL = 0.95
PRIOR = 1 / 3


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Estimates:
    """Estimates for each class: (K,) arrays; NaN if a class is absent from the sample or the map.

    Attributes
    ----------
    area, area_se
        Area, in the unit of the mapped areas, and its standard error.
    area_low, area_high
        Bounds of the 95 % confidence interval of the area.
    users, users_se
        User's accuracy: share of the area mapped as a class that is of this class.
    producers, producers_se
        Producer's accuracy: share of the area of a class that is mapped as this class.
    overall, overall_se
        Overall accuracy: share of the area that is mapped correctly.
    proportions
        (K, K) estimated share of the whole area, by mapped class (row) and reference class (column).
    """

    area: Floats
    area_se: Floats
    area_low: Floats
    area_high: Floats
    users: Floats
    users_se: Floats
    producers: Floats
    producers_se: Floats
    overall: float
    overall_se: float
    proportions: Floats


def estimate(matrix: NDArray[np.int64], mapped: Floats, complete: NDArray[np.bool_] | None = None) -> Estimates:
    """Estimate areas and accuracies.

    Parameters
    ----------
    matrix
        (K, K) number of points by mapped class (row) and reference class (column).
    mapped
        (K,) mapped area of each class.
    complete
        (K,) True where all pixels of a mapped class are in the sample, so that nothing is uncertain.

    Raises
    ------
    ValueError
        If a mapped class has fewer than two points, and these are not all of its pixels.

    Examples
    --------
    >>> found = estimate(np.array([[45, 5], [2, 48]]), np.array([100.0, 300.0]))
    >>> found.area.round(1).tolist(), found.users.tolist()
    ([102.0, 298.0], [0.9, 0.96])
    """
    exact = np.zeros(len(mapped), dtype=bool) if complete is None else complete
    points = matrix.sum(axis=1)
    strata = mapped > 0
    if (strata & (points < np.where(exact, 1, 2))).any():
        raise ValueError("expected at least two points in each mapped class")
    share = matrix / np.maximum(points, 1)[:, None]
    weight = np.where(strata, mapped / mapped.sum(), 0.0)
    spread = share * (1 - share) / np.maximum(points - 1, 1)[:, None] * ~exact[:, None]
    proportions = weight[:, None] * share
    area = proportions.sum(axis=0)
    low, high = _limits(matrix, points)
    below = np.sqrt((weight[:, None] ** 2 * (share - low) ** 2 * ~exact[:, None]).sum(axis=0))
    above = np.sqrt((weight[:, None] ** 2 * (high - share) ** 2 * ~exact[:, None]).sum(axis=0))
    right, right_spread = np.diagonal(share), np.diagonal(spread)
    with np.errstate(invalid="ignore", divide="ignore"):
        producers = np.diagonal(proportions) / area
        others = (weight[:, None] ** 2 * spread).sum(axis=0) - weight**2 * right_spread
        variance = (weight**2 * (1 - producers) ** 2 * right_spread + producers**2 * others) / area**2  # equation 7
    total = float(mapped.sum())
    return Estimates(
        area=total * area,
        area_se=total * np.sqrt((weight[:, None] ** 2 * spread).sum(axis=0)),  # equation 10
        area_low=total * np.maximum(area - below, 0.0),
        area_high=total * np.minimum(area + above, 1.0),
        users=np.where(strata, right, np.nan),
        users_se=np.where(strata, np.sqrt(right_spread), np.nan),  # equation 6
        producers=producers,
        producers_se=np.sqrt(variance),
        overall=float(np.trace(proportions)),
        overall_se=float(np.sqrt((weight**2 * right_spread).sum())),  # equation 5
        proportions=proportions,
    )


def _limits(matrix: NDArray[np.int64], points: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """(K, K) limits of the share of each cell in its row, under the neutral prior; 0 and 1 where all points agree."""
    from scipy.special import betaincinv

    total = np.broadcast_to(points[:, None], matrix.shape)
    tail = (1 - LEVEL) / 2
    low, high = (betaincinv(matrix + PRIOR, total - matrix + PRIOR, q) for q in (tail, 1 - tail))
    return np.where(matrix == 0, 0.0, low), np.where(matrix == total, 1.0, high)
