"""Reducers: many numbers to one, over lists, columns, stacks of images and regions alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mmearth_data.emulator.algorithms.image import DOUBLE, INT32, PixelType, least, mask_of, shown
from mmearth_data.emulator.algorithms.list_functions import sort_key
from mmearth_data.emulator.errors import EmulatorError
from mmearth_data.emulator.graph.registry import NOT_PROMOTED, encode, function, functions, named, promotion, type_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from mmearth_data.emulator.graph.registry import Value

Array: TypeAlias = "NDArray[Any]"
Columns: TypeAlias = "Sequence[tuple[Array, Array]]"
"""(values, valid) of each input, (n,)."""
Rows: TypeAlias = "Sequence[Sequence[Value]]"
"""One value per input, including null."""
Table: TypeAlias = "Callable[[Columns, Array | None, Array | None], dict[str, Value]]"
"""(columns, weights, whether each pixel's centre is inside) to output -> value."""
Compute: TypeAlias = Callable[[Array, Array, Array], Array]
"""(values, valid, weights), each (n, ...), to (...); NaN where nothing comes out."""


@dataclass(frozen=True, slots=True)
class Output:
    """One number that a reducer computes."""

    name: str
    compute: Compute
    type: PixelType | None = DOUBLE  # Type of the band it becomes; None keeps that of the input
    input: int = 0  # Which input of the reducer it uses; the first of two for a joint computation
    # Computation from two inputs, if both are needed: (x, y, valid, weights)
    joint: Callable[[Array, Array, Array, Array], Array] | None = None
    # Whether weights apply. If not, a pixel counts fully if its centre is inside the region (Earth Engine guides,
    # "statistics of an image region").
    weighted: bool = True
    picks: bool = False  # Whether the output is one of the input values; in an image it then keeps that value's mask


@named("Reducer")
@dataclass(frozen=True, slots=True)
class Reducer:
    """Reducer argument of the `reduce` functions."""

    name: str
    outputs: tuple[Output, ...]  # Numbers that it computes
    # Computes a list or dictionary from (values, weights) of a flat input instead of numbers; None for most reducers
    gather: Callable[[Array, Array], Value] | None = None
    inputs: int = 1
    # Computes all outputs from (columns, weights, centred), for reducers whose results are not numbers; None for most
    table: Table | None = None
    # Computes all outputs from rows of arbitrary values, for reducers that accept non-numbers; None for most
    rows: Callable[[Rows], dict[str, Value]] | None = None

    @property
    def numeric(self) -> bool:
        """Whether each output is a single number."""
        return self.gather is None and self.table is None

    @property
    def weighted(self) -> bool:
        """Whether weights apply to all outputs."""
        return all(output.weighted for output in self.outputs)

    def over(
        self, stacks: Sequence[tuple[Array, Array]], weights: Array | None = None, centred: Array | None = None
    ) -> list[tuple[Array, Array]]:
        """Reduce along the first axis.

        Parameters
        ----------
        stacks
            (values, mask) of each input, each (n, ...).
        weights
            (n, ...) weights; None weights each value by its mask.
        centred
            (n, ...) values that count for outputs without weights; None is all.

        Returns
        -------
        list of (ndarray, ndarray)
            (values, mask) of each output, (...).
        """
        if not self.numeric:
            raise EmulatorError(f"Reducer.{self.name}: its output is no number, so no image can hold it.")
        results = []
        for output in self.outputs:
            values, mask = stacks[output.input]
            if output.joint is not None:
                other, seen = stacks[output.input + 1]
                mask = least(mask, seen)
            valid, weight = self._counted(output, mask, weights, centred)
            if output.joint is not None:
                found = output.joint(values, other, valid, weight)
            else:
                found = output.compute(values.astype(np.float64), valid, weight)
            fine = np.isfinite(found)
            kept = mask_of_output(output, mask, valid, weight, fine)
            results.append((np.where(fine, found, 0.0), kept))
        return results

    @staticmethod
    def _counted(output: Output, mask: Array, weights: Array | None, centred: Array | None) -> tuple[Array, Array]:
        """Return (valid, weights) of the values of one output."""
        valid = shown(mask)
        if not output.weighted:
            counted = valid if centred is None else valid & centred
            return counted, counted.astype(np.float64)
        if weights is None:
            return valid, mask.astype(np.float64)
        return valid, np.where(valid, weights, 0.0)

    def flat(
        self, columns: Sequence[tuple[Array, Array]], weights: Array | None = None, centred: Array | None = None
    ) -> dict[str, Value]:
        """Output name -> number or null, from (values, mask) columns (n,), weighted as in `over`."""
        if self.table is not None:
            return self.table(columns, weights, centred)
        if self.gather is not None:
            values, mask = columns[0]
            valid, weight = self._counted(self.outputs[0], mask, weights, centred)
            return {self.outputs[0].name: self.gather(values[valid], weight[valid])}
        reduced = self.over(columns, weights, centred)
        return {
            output.name: plain(float(value), output.type) if fine else None
            for output, (value, fine) in zip(self.outputs, reduced, strict=True)
        }

    def reduce_values(self, rows: Rows) -> dict[str, Value]:
        """Output name -> value, from rows with one value per input; each input skips its nulls.

        Raises `EmulatorError` for rows of another length, and for non-numbers where numbers are needed.
        """
        if wrong := next((row for row in rows if len(row) != self.inputs), None):
            raise EmulatorError(f"Reducer.{self.name}: Need {self.inputs} input(s) for the reducer, got {len(wrong)}.")
        if self.rows is not None:
            return self.rows(rows)
        for value in (value for row in rows for value in row if value is not None):
            if not isinstance(value, (int, float)):
                raise EmulatorError(f"Reducer.{self.name}: Expected numbers, found {type_name(value)} {value!r}.")
        known = np.array([[value is not None for value in row] for row in rows], bool).reshape(-1, self.inputs)
        table = np.array([[value or 0 for value in row] for row in rows], np.float64).reshape(-1, self.inputs)
        return self.flat([(table[:, k], known[:, k]) for k in range(self.inputs)])


def rows_of(columns: Columns) -> list[list[Value]]:
    """Rows from columns of numbers; null where they are masked."""
    values = [
        [encode(float(value)) if fine else None for value, fine in zip(*column, strict=True)] for column in columns
    ]
    return [list(row) for row in zip(*values, strict=True)]


def mask_of_output(output: Output, mask: Array, valid: Array, weight: Array, fine: Array) -> Array:
    """Mask of an output: that of the selected value; otherwise 1 wherever there is a result.

    Earth Engine does not document the masks of composites.
    """
    if mask.dtype == bool or not output.picks:
        return np.asarray(fine)
    return mask_of(np.where(fine, np.nan_to_num(output.compute(mask, valid, weight)), 0.0))


def plain(value: float, kind: PixelType | None) -> float | int:
    """Give a number as it is sent: whole where its type is."""
    whole = kind is None or kind.precision == "int"
    return int(value) if whole and value == int(value) else value


# ---------------------------------------------------------------- the computations


def _total(values: Array, valid: Array, weights: Array) -> Array:
    return np.asarray(np.where(valid, values * weights, 0.0).sum(axis=0))


def _sum(values: Array, valid: Array, weights: Array) -> Array:
    return _or_nothing(_total(values, valid, weights), valid)


def _sample_variance(values: Array, valid: Array, weights: Array) -> Array:
    count = valid.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(count > 1, _variance(values, valid, weights) * count / (count - 1), np.nan)


def _moment(power: int) -> Compute:
    """Standardised moment: 3 is the skewness, 4 the kurtosis (0 for the normal distribution)."""

    def compute(values: Array, valid: Array, weights: Array) -> Array:
        away = np.where(valid, values, 0.0) - np.nan_to_num(_mean(values, valid, weights))
        with np.errstate(invalid="ignore", divide="ignore"):
            scaled = _mean(away**power, valid, weights) / _variance(values, valid, weights) ** (power / 2)
        return scaled - (3 if power == 4 else 0)

    return compute


def _fit(x: Array, y: Array, valid: Array, weights: Array) -> tuple[Array, Array, Array]:
    """(slope, offset, correlation) of y over x."""
    mean_x, mean_y = _mean(x, valid, weights), _mean(y, valid, weights)
    away_x, away_y = (np.where(valid, v, 0.0) - np.nan_to_num(m) for v, m in ((x, mean_x), (y, mean_y)))
    joint = _mean(away_x * away_y, valid, weights)
    spread_x, spread_y = _mean(away_x**2, valid, weights), _mean(away_y**2, valid, weights)
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = joint / spread_x
        return slope, mean_y - slope * mean_x, joint / np.sqrt(spread_x * spread_y)


def _or_nothing(found: Array, valid: Array) -> Array:
    return np.where(valid.any(axis=0), found, np.nan)


def _mean(values: Array, valid: Array, weights: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(_total(values, valid, weights) / weights.sum(axis=0))


def _variance(values: Array, valid: Array, weights: Array) -> Array:
    away = np.where(valid, values, 0.0) - np.nan_to_num(_mean(values, valid, weights))
    return _mean(away * away, valid, weights)


def _min(values: Array, valid: Array, weights: Array) -> Array:
    return np.asarray(np.where(valid, values, np.inf).min(axis=0, initial=np.inf))


def _max(values: Array, valid: Array, weights: Array) -> Array:
    return np.asarray(np.where(valid, values, -np.inf).max(axis=0, initial=-np.inf))


def _product(values: Array, valid: Array, weights: Array) -> Array:
    return _or_nothing(np.where(valid, values, 1.0).prod(axis=0), valid)


def _count(values: Array, valid: Array, weights: Array) -> Array:
    return np.asarray(valid.sum(axis=0), np.float64)


def _sorted(values: Array, valid: Array) -> tuple[Array, Array]:
    return np.sort(np.where(valid, values, np.inf), axis=0), valid.sum(axis=0)


def percentile_of(percent: float) -> Compute:
    """Percentile, interpolated linearly between neighbours in order."""

    def compute(values: Array, valid: Array, weights: Array) -> Array:
        if len(values) == 0:
            return np.full(values.shape[1:], np.nan)
        ordered, count = _sorted(values, valid)
        position = np.maximum(count - 1, 0) * (percent / 100)
        low = np.floor(position).astype(np.int64)
        high = np.minimum(low + 1, np.maximum(count - 1, 0))
        a, b = (np.take_along_axis(ordered, k[None], axis=0)[0] for k in (low, high))
        with np.errstate(invalid="ignore"):
            return np.where(count > 0, a + (b - a) * (position - low), np.nan)

    return compute


def mode_of(values: Array, valid: Array, weights: Array) -> Array:
    """Most frequent value; of equally frequent ones the lowest (Earth Engine does not document which)."""
    if len(values) == 0:
        return np.full(values.shape[1:], np.nan)
    best, most = np.full(values.shape[1:], np.nan), np.zeros(values.shape[1:])
    for value in np.unique(values[valid]):
        votes = np.where(valid & (values == value), weights, 0.0).sum(axis=0)
        more = votes > most
        best, most = np.where(more, value, best), np.where(more, votes, most)
    return best


def _pick(last: bool) -> Compute:
    def compute(values: Array, valid: Array, weights: Array) -> Array:
        if len(values) == 0:
            return np.full(values.shape[1:], np.nan)
        along = valid[::-1] if last else valid
        at = np.argmax(along, axis=0)
        at = len(values) - 1 - at if last else at
        return _or_nothing(np.take_along_axis(values, at[None], axis=0)[0], valid)

    return compute


def _all(values: Array, valid: Array, weights: Array) -> Array:
    return _or_nothing(np.asarray(np.where(valid, values != 0, True).all(axis=0), np.float64), valid)


def _any(values: Array, valid: Array, weights: Array) -> Array:
    return _or_nothing(np.asarray((valid & (values != 0)).any(axis=0), np.float64), valid)


def _histogram(values: Array, weights: Array) -> dict[str, Value]:
    found, at = np.unique(values, return_inverse=True)
    counts = np.bincount(at, weights, len(found))
    return {key_of(value): plain(float(n), None) for value, n in zip(found.tolist(), counts, strict=True)}


SIMPLE: dict[str, Output] = {
    "sum": Output("sum", _sum),
    "mean": Output("mean", _mean),
    "min": Output("min", _min, None),
    "max": Output("max", _max, None),
    "product": Output("product", _product),
    "count": Output("count", _count, INT32, weighted=False),
    "median": Output("median", percentile_of(50)),
    "mode": Output("mode", mode_of, None),
    "first": Output("first", _pick(last=False), None, picks=True),
    "firstNonNull": Output("first", _pick(last=False), None, picks=True),
    "last": Output("last", _pick(last=True), None, picks=True),
    "lastNonNull": Output("last", _pick(last=True), None, picks=True),
    "allNonZero": Output("all", _all, INT32),
    "anyNonZero": Output("any", _any, INT32),
    "and": Output("all", _all, INT32),
    "or": Output("any", _any, INT32),
    "variance": Output("variance", _variance),
    "sampleVariance": Output("variance", _sample_variance),
    "stdDev": Output("stdDev", lambda *given: np.sqrt(_variance(*given))),
    "sampleStdDev": Output("stdDev", lambda *given: np.sqrt(_sample_variance(*given))),
    "skew": Output("skew", _moment(3)),
    "kurtosis": Output("kurtosis", _moment(4)),
}
"""Reducers with one output. Counts never apply weights (Earth Engine guides, "statistics of an image region")."""


def _picked(name: str, at: int) -> Callable[[Rows], dict[str, Value]]:
    """First or last of arbitrary values, or null."""

    def rows(given: Rows) -> dict[str, Value]:
        known = [row[0] for row in given if row[0] is not None]
        return {name: known[at] if known else None}

    return rows


def _counted(given: Rows) -> dict[str, Value]:
    """Count the non-null values."""
    return {"count": sum(row[0] is not None for row in given)}


BY_ROWS = {"first": _picked("first", 0), "last": _picked("last", -1), "count": _counted}
"""Output -> function that computes it from values that need not be numbers."""


def simple(name: str) -> Reducer:
    """Reducer with one output."""
    output = SIMPLE[name]
    return Reducer(name, (output,), rows=BY_ROWS.get(output.name))


functions("Reducer", {name: partial(simple, name) for name in SIMPLE})
functions(
    "Reducer",
    {
        "minMax": lambda: Reducer("minMax", (SIMPLE["min"], SIMPLE["max"])),
        # masked pixels are not values, but a null in a table is
        "countDistinct": lambda: _distinct("countDistinct", nulls=True),
        "countDistinctNonNull": lambda: _distinct("countDistinctNonNull", nulls=False),
        "linearFit": lambda: Reducer("linearFit", (_of_fit("scale", 0), _of_fit("offset", 1)), inputs=2),
        "pearsonsCorrelation": lambda: Reducer("pearsonsCorrelation", (_of_fit("correlation", 2),), inputs=2),
        "getOutputs": lambda reducer: [output.name for output in reducer.outputs],
        # every pixel whose centre is inside counts as a whole one
        "unweighted": lambda reducer: replace(
            reducer, outputs=tuple(replace(output, weighted=False) for output in reducer.outputs)
        ),
    },
)


@function("Reducer.percentile")
def reducer_percentile(percentiles: list[float], outputNames: list[str] | None = None) -> Reducer:
    """Percentiles."""
    names = outputNames or [f"p{encode(float(p))}" for p in percentiles]
    if len(names) != len(percentiles):
        raise EmulatorError("Reducer.percentile: there must be as many output names as percentiles.")
    return Reducer("percentile", tuple(Output(n, percentile_of(p)) for n, p in zip(names, percentiles, strict=True)))


@function("Reducer.toList")
def reducer_to_list(tupleSize: int | None = None, numOptional: int = 0) -> Reducer:
    """All values as a list, or grouped into tuples of one value per input if a size is given.

    Only the last ``numOptional`` inputs may be null: a row that lacks any other input is dropped.
    """
    inputs = 1 if tupleSize is None else tupleSize
    needed = inputs - numOptional
    if inputs < 1 or not 0 <= numOptional <= inputs:
        raise EmulatorError(f"Reducer.toList: tupleSize {tupleSize} and numOptional {numOptional} do not fit together.")

    def rows(given: Rows) -> dict[str, Value]:
        kept = [list(row) for row in given if all(value is not None for value in row[:needed])]
        return {"list": [row[0] for row in kept] if tupleSize is None else kept}

    return Reducer("toList", (Output("list", _count),), inputs=inputs, table=_by_rows(rows), rows=rows)


def _by_rows(rows: Callable[[Rows], dict[str, Value]]) -> Table:
    """Adapt a function of rows to columns of pixels."""
    return lambda columns, weights, centred: rows(rows_of(columns))


@function("Reducer.frequencyHistogram")
def reducer_histogram() -> Reducer:
    """Value -> its frequency: the sum of the weights of pixels with that value."""

    def rows(given: Rows) -> dict[str, Value]:
        counted = Counter(key_of(row[0]) for row in given if row[0] is not None)
        return {"histogram": dict(sorted(counted.items()))}

    return Reducer("frequencyHistogram", (Output("histogram", _count),), gather=_histogram, rows=rows)


def key_of(value: Value) -> str:
    """Return the dictionary key of a value: integers without a fraction."""
    return value if isinstance(value, str) else str(encode(float(value) if isinstance(value, int) else value))


def _distinct(name: str, *, nulls: bool) -> Reducer:
    """Reducer that counts distinct values, optionally including null."""

    def rows(given: Rows) -> dict[str, Value]:
        values = [row[0] for row in given if nulls or row[0] is not None]
        return {"count": len({repr(encode(value)) for value in values})}

    return Reducer(name, (Output("count", _count),), gather=lambda values, _: len(np.unique(values)), rows=rows)


@function("Reducer.combine")
def combine(reducer1: Reducer, reducer2: Reducer, outputPrefix: str = "", sharedInputs: bool = False) -> Reducer:
    """Two reducers side by side, on the same inputs or each on its own."""
    if sharedInputs and reducer1.inputs != reducer2.inputs:
        raise EmulatorError("Reducer.combine: Reducers that share inputs must have the same number of inputs.")
    shift = 0 if sharedInputs else reducer1.inputs
    inputs = shift + reducer2.inputs
    second = _named(reducer2, {output.name: f"{outputPrefix}{output.name}" for output in reducer2.outputs})
    outputs = (*reducer1.outputs, *(replace(output, input=output.input + shift) for output in second.outputs))

    def rows(given: Rows) -> dict[str, Value]:
        parts = [row[: reducer1.inputs] for row in given], [row[shift:] for row in given]
        return {**reducer1.reduce_values(parts[0]), **second.reduce_values(parts[1])}

    def table(columns: Columns, weights: Array | None, centred: Array | None) -> dict[str, Value]:
        first = reducer1.flat(columns[: reducer1.inputs], weights, centred)
        return {**first, **second.flat(columns[shift:], weights, centred)}

    whole = reducer1.numeric and reducer2.numeric
    return Reducer("combine", outputs, inputs=inputs, table=None if whole else table, rows=rows)


def _named(reducer: Reducer, names: Mapping[str, str]) -> Reducer:
    """Reducer with renamed outputs."""
    outputs = tuple(replace(output, name=names[output.name]) for output in reducer.outputs)
    table, rows = reducer.table, reducer.rows

    def renamed(found: Mapping[str, Value]) -> dict[str, Value]:
        return {names.get(name, name): value for name, value in found.items()}

    return replace(
        reducer,
        outputs=outputs,
        table=None if table is None else lambda *given: renamed(table(*given)),
        rows=None if rows is None else lambda given: renamed(rows(given)),
    )


@function("Reducer.setOutputs")
def set_outputs(reducer: Reducer, outputs: list[str]) -> Reducer:
    """Rename the outputs."""
    if len(outputs) != len(reducer.outputs):
        raise EmulatorError("Reducer.setOutputs: there must be as many names as outputs.")
    return _named(reducer, {old.name: new for old, new in zip(reducer.outputs, outputs, strict=True)})


@function("Reducer.repeat")
def repeat(reducer: Reducer, count: int) -> Reducer:
    """Apply a reducer to each of several inputs; every output is a list."""
    if count < 1:
        raise EmulatorError(f"Reducer.repeat: count must be at least 1, got {count}.")
    size = reducer.inputs

    def listed(results: Sequence[Mapping[str, Value]]) -> dict[str, Value]:
        return {name: [result[name] for result in results] for name in results[0]}

    def table(columns: Columns, weights: Array | None, centred: Array | None) -> dict[str, Value]:
        return listed([reducer.flat(columns[k * size : (k + 1) * size], weights, centred) for k in range(count)])

    def rows(given: Rows) -> dict[str, Value]:
        return listed([reducer.reduce_values([row[k * size : (k + 1) * size] for row in given]) for k in range(count)])

    return replace(reducer, inputs=size * count, table=table, rows=rows)


@function("Reducer.group")
def group(reducer: Reducer, groupField: int = 0, groupName: str = "group") -> Reducer:
    """Reduce apart what differs in one of the inputs: a list of results, in the order of that input."""

    def table(columns: Columns, weights: Array | None, centred: Array | None) -> dict[str, Value]:
        keys, known = columns[groupField][0], shown(columns[groupField][1])
        others = [column for k, column in enumerate(columns) if k != groupField]
        groups = []
        for key in np.unique(keys[known]).tolist():
            held = known & (keys == key)
            own = [(values[held], valid[held]) for values, valid in others]
            found = reducer.flat(own, *(None if each is None else each[held] for each in (weights, centred)))
            groups.append({groupName: int(key) if key == int(key) else key, **found})
        return {"groups": groups}

    def rows(given: Rows) -> dict[str, Value]:
        keys = {repr(row[groupField]): row[groupField] for row in given if row[groupField] is not None}
        groups = []
        for key in sorted(keys.values(), key=sort_key):
            held = [row for row in given if row[groupField] == key]
            own = [[*row[:groupField], *row[groupField + 1 :]] for row in held]
            groups.append({groupName: key, **reducer.reduce_values(own)})
        return {"groups": groups}

    return replace(reducer, name="group", inputs=reducer.inputs + 1, table=table, rows=rows)


def _of_fit(name: str, at: int) -> Output:
    """Output of a line through (x, y) by least squares."""
    return Output(name, _mean, joint=lambda *given: _fit(*given)[at])


@function("Reducer.fixedHistogram")
def fixed_histogram(min: float, max: float, steps: int, cumulative: bool = False) -> Reducer:
    """Count values in bins of one width: rows of (lower edge, count)."""

    def gather(values: Array, weights: Array) -> Value:
        counts, edges = np.histogram(values, bins=steps, range=(min, max), weights=weights)
        counts = np.cumsum(counts) if cumulative else counts
        return [[float(edge), float(count)] for edge, count in zip(edges[:-1], counts, strict=True)]

    return Reducer("fixedHistogram", (Output("histogram", _count),), gather=gather)


def _buckets(values: Array, weights: Array, most: int, width: float) -> tuple[float, float, Array, Array]:
    """(lower edge, width, weights, bins) of values in buckets whose width is doubled until there are few enough."""
    low = np.floor(values.min() / width) * width if len(values) else 0.0
    while len(values) and (values.max() - low) / width >= most:
        width *= 2
        low = np.floor(values.min() / width) * width
    bins = np.floor((values - low) / width).astype(np.int64)
    return float(low), float(width), np.bincount(bins, weights), bins


MOST_BUCKETS = 256


@function("Reducer.histogram")
def histogram(maxBuckets: int | None = None, minBucketWidth: float | None = None) -> Reducer:
    """Count values in bins whose width is a power of two that leaves no more than so many bins."""

    def gather(values: Array, weights: Array) -> Value:
        low, width, counts, bins = _buckets(values, weights, maxBuckets or MOST_BUCKETS, minBucketWidth or 1.0)
        sums = np.bincount(bins, weights * values, len(counts))
        means = [
            float(s / n) if n else float(low + (k + 0.5) * width)
            for k, (s, n) in enumerate(zip(sums, counts, strict=True))
        ]
        histogram = [float(n) for n in counts]
        return {"bucketMin": low, "bucketWidth": width, "histogram": histogram, "bucketMeans": means}

    return Reducer("histogram", (Output("histogram", _count),), gather=gather)


@function("Reducer.autoHistogram")
def auto_histogram(
    maxBuckets: int | None = None, minBucketWidth: float | None = None, cumulative: bool = False
) -> Reducer:
    """Count values in shared bins, as rows of (lower edge, cumulative count or count in the bin)."""

    def gather(values: Array, weights: Array) -> Value:
        low, width, counts, _ = _buckets(values, weights, maxBuckets or MOST_BUCKETS, minBucketWidth or 1.0)
        counted = np.cumsum(counts) if cumulative else counts
        return [[low + k * width, float(count)] for k, count in enumerate(counted)]

    return Reducer("autoHistogram", (Output("histogram", _count),), gather=gather)


@promotion("Reducer")
def to_reducer(value: Value) -> Value:
    """Reducers, and names of those that need nothing more."""
    if isinstance(value, Reducer):
        return value
    return simple(value) if isinstance(value, str) and value in SIMPLE else NOT_PROMOTED


encode.register(Reducer)(lambda value: {"type": f"Reducer.{value.name}"})


def by_output(reducer: Reducer, names: Sequence[str], results: Mapping[str, Mapping[str, Value]]) -> dict[str, Value]:
    """Name -> value, of results per band: the band's name alone where a reducer has one output."""
    single = len(reducer.outputs) == 1
    return {name if single else f"{name}_{output}": value for name in names for output, value in results[name].items()}
