"""Reducers: many numbers to one, over lists, columns, stacks of images and regions alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mmearth_data.emulator.errors import EmulatorError
from mmearth_data.emulator.image import DOUBLE, INT32, PixelType
from mmearth_data.emulator.list_functions import sort_key
from mmearth_data.emulator.registry import NOT_PROMOTED, encode, function, named, promotion, type_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from mmearth_data.emulator.registry import Context, Value

Array: TypeAlias = "NDArray[Any]"
Columns: TypeAlias = "Sequence[tuple[Array, Array]]"
"""(values, valid) of each input, (n,)."""
Rows: TypeAlias = "Sequence[Sequence[Value]]"
"""One value of each input, null included."""
Compute: TypeAlias = Callable[[Array, Array, Array], Array]
"""(values, valid, weights), each (n, ...), to (...); NaN where nothing comes out."""


@dataclass(frozen=True, slots=True)
class Output:
    """One number that a reducer gives.

    Attributes
    ----------
    name
        Its name.
    compute
        How it comes about.
    type
        Type of the band it becomes; None keeps the input's.
    input
        Which of the reducer's inputs it looks at; the first of two for a joint computation.
    joint
        Computation of two inputs, for those that need both: (x, y, valid, weights).
    """

    name: str
    compute: Compute
    type: PixelType | None = DOUBLE
    input: int = 0
    joint: Callable[[Array, Array, Array, Array], Array] | None = None


@named("Reducer")
@dataclass(frozen=True, slots=True)
class Reducer:
    """What `reduce` functions take.

    Attributes
    ----------
    name
        Of the algorithm.
    outputs
        Numbers that it gives.
    gather
        Gives a list or dictionary of a flat input instead of numbers; None for most.
    rows
        Gives everything from rows of any values, for those that also take what is no number; None for most.
    inputs
        Numbers that it takes at a time.
    weighted
        Whether weights of pixels count.
    table
        Gives everything from (columns, weights), for those whose results are no numbers; None for most.
    """

    name: str
    outputs: tuple[Output, ...]
    gather: Callable[[Array], Value] | None = None
    inputs: int = 1
    weighted: bool = True
    table: Callable[[Columns, Array | None], dict[str, Value]] | None = None
    rows: Callable[[Rows], dict[str, Value]] | None = None

    @property
    def numeric(self) -> bool:
        """Whether each output is one number."""
        return self.gather is None and self.table is None

    def over(self, stacks: Sequence[tuple[Array, Array]], weights: Array | None = None) -> list[tuple[Array, Array]]:
        """Reduce along the first axis.

        Parameters
        ----------
        stacks
            (values, valid) of each input, (n, ...).
        weights
            (n, ...) weights; None is one everywhere.

        Returns
        -------
        list of (ndarray, ndarray)
            (values, valid) of each output, (...).
        """
        if not self.numeric:
            raise EmulatorError(f"Reducer.{self.name}: its output is no number, so no image can hold it.")
        results = []
        for output in self.outputs:
            values, valid = stacks[output.input]
            weight = np.ones(values.shape) if weights is None or not self.weighted else weights
            if output.joint is not None:
                other, seen = stacks[output.input + 1]
                both = valid & seen
                found = output.joint(values, other, both, np.where(both, weight, 0.0))
            else:
                found = output.compute(values.astype(np.float64), valid, np.where(valid, weight, 0.0))
            fine = np.isfinite(found)
            results.append((np.where(fine, found, 0.0), fine))
        return results

    def flat(self, columns: Sequence[tuple[Array, Array]], weights: Array | None = None) -> dict[str, Value]:
        """Output name -> number, or null, of (values, valid) columns (n,)."""
        if self.table is not None:
            return self.table(columns, weights if self.weighted else None)
        if self.gather is not None:
            values, valid = columns[0]
            return {self.outputs[0].name: self.gather(values[valid])}
        reduced = self.over(columns, weights)
        return {
            output.name: plain(float(value), output.type) if fine else None
            for output, (value, fine) in zip(self.outputs, reduced, strict=True)
        }

    def reduce_values(self, rows: Rows) -> dict[str, Value]:
        """Output name -> value of rows with one value an input; each input skips its nulls.

        Raises
        ------
        EmulatorError
            Of rows of another length, and of values that are no numbers where numbers are needed.
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
    """Rows of columns of numbers; null where they are masked."""
    values = [
        [encode(float(value)) if fine else None for value, fine in zip(*column, strict=True)] for column in columns
    ]
    return [list(row) for row in zip(*values, strict=True)]


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


SIMPLE: dict[str, tuple[Compute, PixelType | None]] = {
    "sum": (_sum, DOUBLE),
    "mean": (_mean, DOUBLE),
    "min": (_min, None),
    "max": (_max, None),
    "product": (_product, DOUBLE),
    "count": (_count, INT32),
    "median": (percentile_of(50), DOUBLE),
    "mode": (mode_of, None),
    "first": (_pick(last=False), None),
    "firstNonNull": (_pick(last=False), None),
    "last": (_pick(last=True), None),
    "lastNonNull": (_pick(last=True), None),
    "allNonZero": (_all, INT32),
    "anyNonZero": (_any, INT32),
    "and": (_all, INT32),
    "or": (_any, INT32),
    "variance": (_variance, DOUBLE),
    "sampleVariance": (_sample_variance, DOUBLE),
    "sampleStdDev": (lambda values, valid, weights: np.sqrt(_sample_variance(values, valid, weights)), DOUBLE),
    "skew": (_moment(3), DOUBLE),
    "kurtosis": (_moment(4), DOUBLE),
    "stdDev": (lambda values, valid, weights: np.sqrt(_variance(values, valid, weights)), DOUBLE),
}
"""Reducers with one output, called as they are."""


OUTPUT_NAMES = {
    "firstNonNull": "first",
    "lastNonNull": "last",
    "allNonZero": "all",
    "anyNonZero": "any",
    "and": "all",
    "or": "any",
    "sampleVariance": "variance",
    "sampleStdDev": "stdDev",
}
"""Reducers whose output has another name than they have."""


def _picked(name: str, at: int) -> Callable[[Rows], dict[str, Value]]:
    """First or last of any values, or null."""

    def rows(given: Rows) -> dict[str, Value]:
        known = [row[0] for row in given if row[0] is not None]
        return {name: known[at] if known else None}

    return rows


def _counted(given: Rows) -> dict[str, Value]:
    """Count the values that are not null."""
    return {"count": sum(row[0] is not None for row in given)}


BY_ROWS = {"first": _picked("first", 0), "last": _picked("last", -1), "count": _counted}
"""Output -> what gives it of values that need not be numbers."""


def simple(name: str) -> Reducer:
    """Reducer with one output."""
    compute, kind = SIMPLE[name]
    output = OUTPUT_NAMES.get(name, name)
    return Reducer(name, (Output(output, compute, kind),), rows=BY_ROWS.get(output))


def _enter(name: str) -> None:
    def make() -> Reducer:
        return simple(name)

    make.__doc__ = f"Reducer `{name}`."
    function(f"Reducer.{name}")(make)


for _name in SIMPLE:
    _enter(_name)


@function("Reducer.minMax")
def reducer_min_max() -> Reducer:
    """Smallest and largest value."""
    return Reducer("minMax", (Output("min", _min, None), Output("max", _max, None)))


@function("Reducer.percentile")
def reducer_percentile(percentiles: list[float], outputNames: list[str] | None = None) -> Reducer:
    """Percentiles."""
    names = outputNames or [f"p{encode(float(p))}" for p in percentiles]
    if len(names) != len(percentiles):
        raise EmulatorError("Reducer.percentile: there must be as many output names as percentiles.")
    return Reducer("percentile", tuple(Output(n, percentile_of(p)) for n, p in zip(names, percentiles, strict=True)))


@function("Reducer.toList")
def reducer_to_list(tupleSize: int | None = None, numOptional: int = 0) -> Reducer:
    """All values as a list; grouped into tuples of one value an input where a size is given.

    Only the last ``numOptional`` inputs may be null: a row that lacks another one is dropped.
    """
    inputs = 1 if tupleSize is None else tupleSize
    needed = inputs - numOptional
    if inputs < 1 or not 0 <= numOptional <= inputs:
        raise EmulatorError(f"Reducer.toList: tupleSize {tupleSize} and numOptional {numOptional} do not fit together.")

    def rows(given: Rows) -> dict[str, Value]:
        kept = [list(row) for row in given if all(value is not None for value in row[:needed])]
        return {"list": [row[0] for row in kept] if tupleSize is None else kept}

    return Reducer("toList", (Output("list", _count),), inputs=inputs, table=_by_rows(rows), rows=rows)


def _by_rows(rows: Callable[[Rows], dict[str, Value]]) -> Callable[[Columns, Array | None], dict[str, Value]]:
    """Give from columns of pixels what is given from rows."""
    return lambda columns, weights: rows(rows_of(columns))


@function("Reducer.frequencyHistogram")
def reducer_histogram() -> Reducer:
    """Value -> how often it occurs: the sum of the weights of pixels that have it."""

    def rows(given: Rows) -> dict[str, Value]:
        counted = Counter(key_of(row[0]) for row in given if row[0] is not None)
        return {"histogram": dict(sorted(counted.items()))}

    def table(columns: Columns, weights: Array | None) -> dict[str, Value]:
        values, valid = columns[0]
        found, at = np.unique(values[valid], return_inverse=True)
        counts = np.bincount(at, None if weights is None else weights[valid], minlength=len(found))
        return {"histogram": {key_of(v): encode(float(n)) for v, n in zip(found.tolist(), counts, strict=True)}}

    return Reducer("frequencyHistogram", (Output("histogram", _count),), table=table, rows=rows)


def key_of(value: Value) -> str:
    """Key of a value in a dictionary: whole numbers without a fraction."""
    return value if isinstance(value, str) else str(encode(float(value) if isinstance(value, int) else value))


def _distinct(name: str, *, nulls: bool) -> Reducer:
    """Reducer that counts the values that differ, null among them perhaps."""

    def rows(given: Rows) -> dict[str, Value]:
        values = [row[0] for row in given if nulls or row[0] is not None]
        return {"count": len({repr(encode(value)) for value in values})}

    def table(columns: Columns, weights: Array | None) -> dict[str, Value]:
        values, valid = columns[0]
        return {"count": len(np.unique(values[valid]))}

    return Reducer(name, (Output("count", _count),), table=table, rows=rows)


@function("Reducer.countDistinct")
def reducer_count_distinct() -> Reducer:
    """Count the values that differ; masked pixels are no values, a null of a table is one."""
    return _distinct("countDistinct", nulls=True)


@function("Reducer.countDistinctNonNull")
def reducer_count_distinct_non_null() -> Reducer:
    """Count the values that differ and are not null."""
    return _distinct("countDistinctNonNull", nulls=False)


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

    def table(columns: Columns, weights: Array | None) -> dict[str, Value]:
        return {**reducer1.flat(columns[: reducer1.inputs], weights), **second.flat(columns[shift:], weights)}

    # Weights count for all outputs or for none: a combination of both kinds is reduced part by part.
    whole = reducer1.numeric and reducer2.numeric and reducer1.weighted == reducer2.weighted
    return Reducer(
        "combine", outputs, None, inputs, reducer1.weighted or reducer2.weighted, None if whole else table, rows
    )


def _named(reducer: Reducer, names: Mapping[str, str]) -> Reducer:
    """Reducer whose outputs have other names."""
    outputs = tuple(replace(output, name=names[output.name]) for output in reducer.outputs)
    table, rows = reducer.table, reducer.rows

    def renamed(found: Mapping[str, Value]) -> dict[str, Value]:
        return {names.get(name, name): value for name, value in found.items()}

    return replace(
        reducer,
        outputs=outputs,
        table=None if table is None else lambda columns, weights: renamed(table(columns, weights)),
        rows=None if rows is None else lambda given: renamed(rows(given)),
    )


@function("Reducer.unweighted")
def unweighted(reducer: Reducer) -> Reducer:
    """Count every pixel as a whole one."""
    return replace(reducer, weighted=False)


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

    def table(columns: Columns, weights: Array | None) -> dict[str, Value]:
        return listed([reducer.flat(columns[k * size : (k + 1) * size], weights) for k in range(count)])

    def rows(given: Rows) -> dict[str, Value]:
        return listed([reducer.reduce_values([row[k * size : (k + 1) * size] for row in given]) for k in range(count)])

    return replace(reducer, inputs=size * count, table=table, rows=rows)


@function("Reducer.group")
def group(reducer: Reducer, groupField: int = 0, groupName: str = "group") -> Reducer:
    """Reduce apart what differs in one of the inputs: a list of results, in the order of that input."""

    def table(columns: Columns, weights: Array | None) -> dict[str, Value]:
        keys, known = columns[groupField]
        others = [column for k, column in enumerate(columns) if k != groupField]
        groups = []
        for key in np.unique(keys[known]).tolist():
            held = known & (keys == key)
            own = [(values[held], valid[held]) for values, valid in others]
            found = reducer.flat(own, None if weights is None else weights[held])
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


@function("Reducer.linearFit")
def linear_fit() -> Reducer:
    """Line through (x, y) by least squares."""
    return Reducer(
        "linearFit",
        (
            Output("scale", _mean, joint=lambda *given: _fit(*given)[0]),
            Output("offset", _mean, joint=lambda *g: _fit(*g)[1]),
        ),
        inputs=2,
    )


@function("Reducer.pearsonsCorrelation")
def pearsons_correlation() -> Reducer:
    """Correlation of two inputs."""
    return Reducer(
        "pearsonsCorrelation", (Output("correlation", _mean, joint=lambda *given: _fit(*given)[2]),), inputs=2
    )


@function("Reducer.fixedHistogram")
def fixed_histogram(min: float, max: float, steps: int, cumulative: bool = False) -> Reducer:
    """Count values in bins of one width: rows of (lower edge, count)."""

    def gather(values: Array) -> Value:
        counts, edges = np.histogram(values, bins=steps, range=(min, max))
        counts = np.cumsum(counts) if cumulative else counts
        return [[float(edge), float(count)] for edge, count in zip(edges[:-1], counts, strict=True)]

    return Reducer("fixedHistogram", (Output("histogram", _count),), gather=gather)


def _buckets(values: Array, most: int, width: float) -> tuple[float, float, Array, Array]:
    """(lower edge, width, counts, bins) of values in buckets whose width is doubled until they are few enough."""
    low = np.floor(values.min() / width) * width if len(values) else 0.0
    while len(values) and (values.max() - low) / width >= most:
        width *= 2
        low = np.floor(values.min() / width) * width
    bins = np.floor((values - low) / width).astype(np.int64)
    counts = np.bincount(bins) if len(values) else np.zeros(0)
    return float(low), float(width), counts, bins


MOST_BUCKETS = 256


@function("Reducer.histogram")
def histogram(maxBuckets: int | None = None, minBucketWidth: float | None = None) -> Reducer:
    """Count values in bins whose width is a power of two that leaves no more than so many bins."""

    def gather(values: Array) -> Value:
        low, width, counts, bins = _buckets(values, maxBuckets or MOST_BUCKETS, minBucketWidth or 1.0)
        means = [float(values[bins == k].mean()) if n else float(low + (k + 0.5) * width) for k, n in enumerate(counts)]
        return {
            "bucketMin": low,
            "bucketWidth": width,
            "histogram": [float(n) for n in counts],
            "bucketMeans": means,
        }

    return Reducer("histogram", (Output("histogram", _count),), gather=gather)


@function("Reducer.autoHistogram")
def auto_histogram(
    maxBuckets: int | None = None, minBucketWidth: float | None = None, cumulative: bool = False
) -> Reducer:
    """Count values in the same bins, as rows of (lower edge, count so far or in the bin)."""

    def gather(values: Array) -> Value:
        low, width, counts, _ = _buckets(values, maxBuckets or MOST_BUCKETS, minBucketWidth or 1.0)
        counted = np.cumsum(counts) if cumulative else counts
        return [[low + k * width, float(count)] for k, count in enumerate(counted)]

    return Reducer("autoHistogram", (Output("histogram", _count),), gather=gather)


@function("Reducer.getOutputs")
def get_outputs(reducer: Reducer) -> list[str]:
    """Names of the outputs."""
    return [output.name for output in reducer.outputs]


@promotion("Reducer")
def to_reducer(value: Value, context: Context) -> Value:
    """Reducers, and names of those that need nothing more."""
    if isinstance(value, Reducer):
        return value
    return simple(value) if isinstance(value, str) and value in SIMPLE else NOT_PROMOTED


@encode.register(Reducer)
def _(value: Reducer) -> Value:
    return {"type": f"Reducer.{value.name}"}


def by_output(reducer: Reducer, names: Sequence[str], results: Mapping[str, Mapping[str, Value]]) -> dict[str, Value]:
    """Name -> value, of results per band: the band's name alone where a reducer has one output."""
    single = len(reducer.outputs) == 1
    return {name if single else f"{name}_{output}": value for name in names for output, value in results[name].items()}
