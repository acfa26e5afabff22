"""Logistic regression by L-BFGS in the principal axes of the features, where it needs few iterations.

The objective is scikit-learn's: the mean cross-entropy plus ``||W||^2 / (2 C n)``, offsets without a penalty. It is
strictly convex in the weights, so its minimum does not depend on the coordinates in which it is sought. In the axes of the
features' covariance the penalty keeps its form, and the second derivative is close to diagonal: about the mean of
``p (1 - p)`` times the variance of an axis, plus ``1 / (C n)``. Each axis is divided by the square root of this value.

Axes: N samples, D features, R axes with a variance, K classes (K = 1 for two classes).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

FLAT = 1e-14
"""Variance of an axis, relative to the largest, below which features are constant along it; weights there are 0."""
STEP_MEMORY = 10
FUNCTION_TOLERANCE = 64 * np.finfo(np.float64).eps
"""Relative decrease of the objective below which no step can decrease it further in double precision."""
LINE_STEPS = 50
LEAST_CURVATURE = 1e-4
"""Least mean of ``p (1 - p)``: of samples that are all certain, the penalty alone scales the axes."""


@dataclass(frozen=True, slots=True)
class PrincipalAxes:
    """Centred features in the principal axes of their covariance."""

    values: Floats  # (N, R)
    axes: Floats  # (D, R) orthonormal
    variances: Floats  # (R,)

    @classmethod
    def of(cls, values: Floats) -> PrincipalAxes:
        """Rotate standardised features (N, D)."""
        samples, features = values.shape
        if samples < features:
            _, lengths, rows = np.linalg.svd(values, full_matrices=False)
            variances, axes = lengths**2 / samples, rows.T
        else:
            variances, axes = np.linalg.eigh(values.T @ values / samples)
        kept = variances > FLAT * max(float(variances.max(initial=0.0)), np.finfo(np.float64).tiny)
        axes = np.ascontiguousarray(axes[:, kept])
        return cls(values @ axes, axes, variances[kept])


@dataclass(slots=True)
class Logistic:
    """Logistic regression of one label, for ascending C: each fit starts from the previous one.

    Attributes
    ----------
    max_iterations
        Most iterations of one fit.
    tolerance
        Largest derivative with respect to a weight or an offset of a fit that has converged, as in scikit-learn.
    converged
        Whether the last fit has.
    iterations
        Iterations of the last fit.
    """

    max_iterations: int
    tolerance: float
    converged: bool = True
    iterations: int = 0
    _weight: Floats = field(default_factory=lambda: np.zeros((0, 0)))  # (K, R), of the last fit
    _offset: Floats = field(default_factory=lambda: np.zeros(0))  # (K,)

    def fit(self, axes: PrincipalAxes, labels: NDArray[Any], strength: float) -> tuple[NDArray[Any], Floats, Floats]:
        """Fit to features: classes (K,), weights (K, D) and offsets (K,); a single class needs no fit.

        Raises ValueError if the inverse strength C of the regularisation is not positive.
        """
        if not strength > 0:
            raise ValueError(f"expected C above 0, got {strength}")
        classes, codes = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            return classes, np.zeros((1, len(axes.axes))), np.zeros(1)
        outputs = 1 if len(classes) == 2 else len(classes)
        if self._weight.shape != (outputs, len(axes.variances)):
            self._weight, self._offset = np.zeros((outputs, len(axes.variances))), np.zeros(outputs)
        self._minimise(axes, codes, 1 / (strength * len(codes)))
        weight, offset = self._weight @ axes.axes.T, self._offset.copy()
        if outputs > 1:
            return classes, weight, offset
        return classes, np.concatenate([np.zeros_like(weight), weight]), np.concatenate([np.zeros(1), offset])

    def _minimise(self, axes: PrincipalAxes, codes: NDArray[np.intp], penalty: float) -> None:
        from scipy.optimize import minimize

        problem = _Problem(axes, codes, penalty, self._curvature(axes))
        start = problem.pack(self._weight, self._offset)

        def stop(intermediate_result: Any) -> None:  # noqa: ANN401 - scipy's name and type
            if problem.slope(intermediate_result.x) <= self.tolerance:
                raise StopIteration

        options = {
            "maxiter": self.max_iterations,
            "maxfun": 20 * self.max_iterations,
            "maxls": LINE_STEPS,
            "maxcor": STEP_MEMORY,
            "ftol": FUNCTION_TOLERANCE,
            "gtol": 0.0,
        }
        found = minimize(problem, start, jac=True, method="L-BFGS-B", callback=stop, options=options)
        self.iterations = int(found.nit)
        self.converged = problem.slope(found.x) <= self.tolerance or found.status == 0
        self._weight, self._offset = problem.unpack(found.x)

    def _curvature(self, axes: PrincipalAxes) -> float:
        """Mean of ``p (1 - p)`` at the last fit, over samples and outputs."""
        shares = _shares(axes.values @ self._weight.T + self._offset)
        return max(LEAST_CURVATURE, float((shares * (1 - shares)).mean()))


class _Problem:
    """Objective and gradient of one fit, in scaled axes: weights (K, R), then offsets (K,), in one vector."""

    def __init__(self, axes: PrincipalAxes, codes: NDArray[np.intp], penalty: float, curvature: float) -> None:
        self.axes, self.penalty = axes, penalty
        self.scale = 1 / np.sqrt(curvature * axes.variances + penalty)
        self.offset_scale = 1 / np.sqrt(curvature)
        self.codes = codes
        self._at: tuple[Floats, Floats] | None = None  # the last point, and its gradient

    def pack(self, weight: Floats, offset: Floats) -> Floats:
        """Return the vector of unscaled weights and offsets."""
        return np.concatenate([(weight / self.scale).ravel(), offset / self.offset_scale])

    def unpack(self, point: Floats) -> tuple[Floats, Floats]:
        """Return the unscaled weights and offsets of a vector."""
        outputs = len(point) // (len(self.scale) + 1)
        return point[:-outputs].reshape(outputs, -1) * self.scale, point[-outputs:] * self.offset_scale

    def __call__(self, point: Floats) -> tuple[float, Floats]:
        """Value and gradient."""
        weight, offset = self.unpack(point)
        logits = self.axes.values @ weight.T + offset
        loss, error = _cross_entropy(logits, self.codes)
        gradient = error.T @ self.axes.values + self.penalty * weight
        by_point = np.concatenate([(gradient * self.scale).ravel(), error.sum(axis=0) * self.offset_scale])
        self._at = point.copy(), np.concatenate([(gradient @ self.axes.axes.T).ravel(), error.sum(axis=0)])
        return loss + 0.5 * self.penalty * float((weight**2).sum()), by_point

    def slope(self, point: Floats) -> float:
        """Largest derivative with respect to a weight of a feature or an offset."""
        if self._at is None or not np.array_equal(self._at[0], point):
            self(point)
        assert self._at is not None
        return float(np.abs(self._at[1]).max())


def _shares(logits: Floats) -> Floats:
    """(N, K) logits to probabilities; of the second of two classes for K = 1."""
    from scipy.special import expit, softmax

    shares: Floats = expit(logits) if logits.shape[1] == 1 else softmax(logits, axis=1)
    return shares


def _cross_entropy(logits: Floats, codes: NDArray[np.intp]) -> tuple[float, Floats]:
    """Mean cross-entropy, and its gradient (N, K) with respect to the logits."""
    samples = np.arange(len(codes))
    if logits.shape[1] == 1:
        loss = np.logaddexp(0, logits[:, 0]) - codes * logits[:, 0]
        error = _shares(logits) - codes[:, None]
    else:
        top = logits.max(axis=1, keepdims=True)
        spread = np.exp(logits - top)
        total = spread.sum(axis=1, keepdims=True)
        loss = np.log(total[:, 0]) + top[:, 0] - logits[samples, codes]
        error = spread / total
        error[samples, codes] -= 1
    return float(loss.mean()), error / len(codes)
