"""Logistic regression by L-BFGS with scaled unknowns, so that it needs few iterations.

The objective is scikit-learn's: the mean cross-entropy plus ``||W||^2 / (2 C n)``, offsets without a penalty. It is
strictly convex, so its minimum does not depend on the scale of the unknowns. The first steps are taken in the principal axes
of the features, divided by the roots of approximate second derivatives: the mean of ``p (1 - p)`` times the variance of an
axis, plus ``1 / (C n)``. If these are not enough, the unknowns of each class are scaled by the Cholesky factor of their
second derivative at the point that was reached.

Axes: N samples, D features, R axes with a variance, K classes (K = 1 for two classes).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

FLAT = 1e-14
"""Variance of an axis, relative to the largest, below which features are constant along it; weights there are 0."""
MEMORY, ROUND = 10, 40
"""Number of steps that L-BFGS stores, and after which the curvature is recomputed."""
FUNCTION_TOLERANCE = 64 * np.finfo(np.float64).eps
"""Relative decrease of the objective below which no step can decrease it further in double precision."""
LINE_STEPS = 50
LEAST_CURVATURE = 1e-4
"""Smallest mean of ``p (1 - p)``: if all samples are predicted with certainty, only the penalty scales the axes."""
FAINT = 1e-3
"""Share of the largest ``p (1 - p)`` below which a sample is left out of the second derivative that scales the steps."""
MOST_ENTRIES = 50_000_000
"""Maximum number of entries of these second derivatives, 400 MB."""


@dataclass(frozen=True, slots=True)
class PrincipalAxes:
    """Centred features in the principal axes of their covariance."""

    values: Floats  # (N, R + 1), the last column 1, for the offset
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
        return cls(np.concatenate([values @ axes, np.ones((samples, 1))], axis=1), axes, variances[kept])


@dataclass(slots=True)
class Logistic:
    """Logistic regression of one label, for ascending C: each fit starts from the previous one.

    Attributes
    ----------
    max_iterations
        Maximum number of iterations of one fit.
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
    _point: Floats = field(default_factory=lambda: np.zeros((0, 0)))  # (K, R + 1) weights and offset of the last fit

    def fit(self, axes: PrincipalAxes, labels: NDArray[Any], strength: float) -> tuple[NDArray[Any], Floats, Floats]:
        """Fit to features: classes (K,), weights (K, D) and offsets (K,); a single class needs no fit.

        Raises ValueError if the inverse strength C of the regularisation is not positive.
        """
        if not strength > 0:
            raise ValueError(f"expected C above 0, got {strength}")
        classes, codes = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            return classes, np.zeros((1, len(axes.axes))), np.zeros(1)
        shape = (1 if len(classes) == 2 else len(classes), axes.values.shape[1])
        if self._point.shape != shape:
            self._point = np.zeros(shape)
        self._minimise(_Problem(axes, codes, 1 / (strength * len(codes))))
        point = self._point - self._point.mean(axis=0) if len(classes) > 2 else self._point
        weight, offset = point[:, :-1] @ axes.axes.T, point[:, -1]
        if len(classes) > 2:
            return classes, weight, offset
        return classes, np.concatenate([np.zeros_like(weight), weight]), np.concatenate([np.zeros(1), offset])

    def _minimise(self, problem: _Problem) -> None:
        """Take rounds of steps, each with the curvature at its start, until the fit converges or stops improving."""
        self.iterations, self.converged = 0, False
        scaling: Scaling = problem.diagonal(self._point)
        while not self.converged and self.iterations < self.max_iterations:
            steps = min(ROUND, self.max_iterations - self.iterations)
            self._point, taken, stuck = _descend(problem, self._point, scaling, self.tolerance, steps)
            self.iterations += taken
            self.converged = stuck or problem.slope(self._point) <= self.tolerance
            if not self.converged:
                scaling = problem.scaling(self._point)


class Scaling(Protocol):
    """A linear change of the unknowns (K, R + 1), in which the second derivative is close to the identity."""

    def enter(self, point: Floats) -> Floats:
        """Unknowns to scaled ones."""
        ...

    def leave(self, scaled: Floats) -> Floats:
        """Scaled unknowns to unknowns."""
        ...

    def gradient(self, gradient: Floats) -> Floats:
        """Turn derivatives with respect to the unknowns into those with respect to the scaled ones."""
        ...


@dataclass(frozen=True, slots=True)
class Diagonal:
    """One factor for each axis, for all classes."""

    factors: Floats  # (R + 1,) roots of the curvatures

    def enter(self, point: Floats) -> Floats:
        """Multiply."""
        return point * self.factors

    def leave(self, scaled: Floats) -> Floats:
        """Divide."""
        return scaled / self.factors

    def gradient(self, gradient: Floats) -> Floats:
        """Divide."""
        return gradient / self.factors


@dataclass(frozen=True, slots=True)
class Blocks:
    """The second derivative within each class, as its Cholesky factor."""

    factors: Floats  # (K, R + 1, R + 1) lower triangles L, with L L^T the second derivative
    inverses: Floats  # (K, R + 1, R + 1)

    @classmethod
    def of(cls, curvatures: Floats) -> Blocks:
        """Factorise (K, R + 1, R + 1) positive definite matrices; these are not kept."""
        from scipy.linalg.lapack import dtrtri

        factors: Floats = np.linalg.cholesky(curvatures).astype(np.float64, copy=False)
        return cls(factors, np.stack([dtrtri(each, lower=1)[0] for each in factors]))

    def enter(self, point: Floats) -> Floats:
        """L^T w."""
        found: Floats = np.matmul(point[:, None], self.factors)[:, 0]
        return found

    def leave(self, scaled: Floats) -> Floats:
        """L^-T v."""
        found: Floats = np.matmul(scaled[:, None], self.inverses)[:, 0]
        return found

    def gradient(self, gradient: Floats) -> Floats:
        """L^-1 g."""
        found: Floats = np.matmul(self.inverses, gradient[:, :, None])[:, :, 0]
        return found


def _descend(
    problem: _Problem, start: Floats, scaling: Scaling, tolerance: float, steps: int
) -> tuple[Floats, int, bool]:
    """Take L-BFGS steps in scaled unknowns: the last point, the number of steps, whether no step decreases the objective."""
    from scipy.optimize import minimize

    shape = start.shape

    def value(scaled: Floats) -> tuple[float, Floats]:
        loss, gradient = problem(scaling.leave(scaled.reshape(shape)))
        return loss, scaling.gradient(gradient).ravel()

    def stop(intermediate_result: Any) -> None:  # noqa: ANN401 - scipy's name and type
        if problem.slope(scaling.leave(intermediate_result.x.reshape(shape))) <= tolerance:
            raise StopIteration

    options = {"maxiter": steps, "maxls": LINE_STEPS, "maxcor": MEMORY, "ftol": FUNCTION_TOLERANCE, "gtol": 0.0}
    options["maxfun"] = LINE_STEPS * steps
    start_scaled = scaling.enter(start).ravel()
    found = minimize(value, start_scaled, jac=True, method="L-BFGS-B", callback=stop, options=options)
    return scaling.leave(found.x.reshape(shape)), int(found.nit), found.status == 0


class _Problem:
    """Objective and gradient of one fit at weights and offsets (K, R + 1)."""

    def __init__(self, axes: PrincipalAxes, codes: NDArray[np.intp], penalty: float) -> None:
        self.axes, self.codes, self.penalty = axes, codes, penalty
        self._at: tuple[Floats, Floats] | None = None  # the last point, and its gradient

    def __call__(self, point: Floats) -> tuple[float, Floats]:
        """Value and gradient."""
        loss, error = _cross_entropy(self.axes.values @ point.T, self.codes)
        weight = point.copy()
        weight[:, -1] = 0.0
        if (
            len(weight) > 1
        ):  # adding a vector to the weights of all classes changes no probability, and costs nothing here
            weight -= weight.mean(axis=0)
        gradient = error.T @ self.axes.values + self.penalty * weight
        self._at = point.copy(), gradient
        return loss + 0.5 * self.penalty * float((weight**2).sum()), gradient

    def slope(self, point: Floats) -> float:
        """Largest derivative with respect to a weight of a feature or an offset."""
        if self._at is None or not np.allclose(self._at[0], point, rtol=1e-12, atol=0):
            self(point)
        assert self._at is not None
        gradient = self._at[1]
        return float(max(np.abs(gradient[:, :-1] @ self.axes.axes.T).max(initial=0.0), np.abs(gradient[:, -1]).max()))

    def diagonal(self, point: Floats) -> Diagonal:
        """Scale by the variances of the axes, and the mean of ``p (1 - p)`` at a point."""
        weights = self._weights(point)
        curvature = max(LEAST_CURVATURE, float(weights.mean()))
        return Diagonal(np.sqrt(curvature * np.append(self.axes.variances, 1.0) + np.append(self._ridge()[:-1], 0.0)))

    def scaling(self, point: Floats) -> Scaling:
        """Scale by the second derivatives at a point; if these do not fit into memory, as `diagonal` does."""
        outputs, width = point.shape
        if outputs * width**2 > MOST_ENTRIES:
            return self.diagonal(point)
        curvatures = np.empty((outputs, width, width))
        for output, weights in enumerate(self._weights(point).T):
            kept = weights > FAINT * weights.max(initial=0.0)
            rows = self.axes.values[kept]
            curvatures[output] = (rows * (weights[kept, None] / len(weights))).T @ rows
            curvatures[output].flat[:: width + 1] += self._ridge()
        return Blocks.of(curvatures)

    def _ridge(self) -> Floats:
        """(R + 1,) second derivative of the penalty; small for the offset, so that matrices are positive definite."""
        return np.append(np.full(len(self.axes.variances), self.penalty), LEAST_CURVATURE * self.penalty)

    def _weights(self, point: Floats) -> Floats:
        """(N, K) values of ``p (1 - p)``."""
        shares = _shares(self.axes.values @ point.T)
        return shares * (1 - shares)


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
