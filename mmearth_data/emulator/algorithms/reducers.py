"""Reducers: many numbers to one, over lists, columns, stacks of images and regions alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mmearth_data.emulator.algorithms.formatting import text_of
from mmearth_data.emulator.algorithms.image import DOUBLE, INT32, PixelType, least, mask_of, shown
from mmearth_data.emulator.algorithms.plain_functions import sort_key
from mmearth_data.emulator.errors import EmulatorError, wrong_type
from mmearth_data.emulator.graph.registry import NOT_PROMOTED, encode, function, functions, named, promotion, type_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mmearth_data.emulator.graph.registry import Value

Array: TypeAlias = "NDArray[Any]"
Columns: TypeAlias = "Sequence[tuple[Array, Array]]"
"""(values, mask) of each input, (n,); values that need not be numbers are objects, null where masked."""
Summary: TypeAlias = "Callable[[Columns, Array | None, Array | None], dict[str, Value]]"
"""(columns, weights, whether each pixel's centre is inside) to output -> value."""
Compute: TypeAlias = Callable[[Array, Array, Array], Array]
"""(values, valid, weights), each (n, ...), to (...); NaN where there is no result."""


@dataclass(frozen=True, slots=True)
class Output:
    """One value that a reducer computes."""

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
    # Computes it from values that need not be numbers, null included; None if it needs numbers
    objects: Callable[[list[Value]], Value] | None = None


@named("Reducer")
@dataclass(frozen=True, slots=True)
class Reducer:
    """Reducer argument of the `reduce` functions."""

    name: str
    outputs: tuple[Output, ...]
    # Computes a list or dictionary from (values, weights) of a flat input instead of a number; None for most reducers
    gather: Callable[[Array, Array], Value] | None = None
    inputs: int = 1
    # Computes all outputs together, for reducers whose results are not numbers; None for most
    summary: Summary | None = None

    @property
    def numeric(self) -> bool:
        """Whether each output is a single number."""
        return self.gather is None and self.summary is None

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
            values, mask = self._numbers(*stacks[output.input])
            if output.joint is not None:
                other, seen = self._numbers(*stacks[output.input + 1])
                mask = least(mask, seen)
            valid, weight = self._counted(output, mask, weights, centred)
            if output.joint is not None:
                found = output.joint(values, other, valid, weight)
            else:
                found = output.compute(values.astype(np.float64), valid, weight)
            fine = np.isfinite(found)
            kept = _mask_of_output(output, mask, valid, weight, fine)
            results.append((np.where(fine, found, 0.0), kept))
        return results

    def _numbers(self, values: Array, mask: Array) -> tuple[Array, Array]:
        """Convert objects to numbers, which they must be where they are not masked."""
        if values.dtype != object:
            return values, mask
        for value in values[mask]:
            if not isinstance(value, (int, float)):
                raise EmulatorError(f"Reducer.{self.name}: Expected numbers, found {type_name(value)} {value!r}.")
        return np.where(mask, values, 0).astype(np.float64), mask

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

    def flat(self, columns: Columns, weights: Array | None = None, centred: Array | None = None) -> dict[str, Value]:
        """Output name -> value or null, from (values, mask) columns (n,), weighted as in `over`."""
        if self.summary is not None:
            return self.summary(columns, weights, centred)
        found: dict[str, Value] = {}
        for output in self.outputs:
            values, mask = columns[output.input]
            if output.objects is not None and values.dtype == object:
                found[output.name] = output.objects(values.tolist())
            elif self.gather is not None:
                valid, weight = self._counted(output, mask, weights, centred)
                found[output.name] = self.gather(self._numbers(values, mask)[0][valid], weight[valid])
            else:
                ((value, fine),) = replace(self, outputs=(output,)).over(columns, weights, centred)
                found[output.name] = plain(float(value), output.type) if fine else None
        return found

    def reduce_values(self, rows: Sequence[Sequence[Value]]) -> dict[str, Value]:
        """Output name -> value, from rows with one value per input; each input skips its nulls."""
        if wrong := next((row for row in rows if len(row) != self.inputs), None):
            raise EmulatorError(f"Reducer.{self.name}: Need {self.inputs} input(s) for the reducer, got {len(wrong)}.")
        table = [[row[k] for row in rows] for k in range(self.inputs)]
        known = [np.array([value is not None for value in column], bool) for column in table]
        return self.flat(list(zip(map(_objects, table), known, strict=True)))


def _objects(values: list[Value]) -> Array:
    return np.fromiter(values, object, len(values))


def _mask_of_output(output: Output, mask: Array, valid: Array, weight: Array, fine: Array) -> Array:
    """Mask of an output: that of the selected value; otherwise 1 wherever there is a result.

    Earth Engine does not document the masks of composites.
    """
    if mask.dtype == bool or not output.picks:
        return np.asarray(fine)
    return mask_of(np.where(fine, np.nan_to_num(output.compute(mask, valid, weight)), 0.0))


def plain(value: float, kind: PixelType | None) -> float | int:
    """Convert a whole number of an integer type to an integer, as in an answer; at most the largest of 64 bits."""
    whole = kind is None or kind.precision == "int"
    return min(int(value), 2**63 - 1) if whole and value == int(value) else value


# ---------------------------------------------------------------- the computations


def _total(values: Array, valid: Array, weights: Array) -> Array:
    return np.asarray(np.where(valid, values * weights, 0.0).sum(axis=0))


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


def _or_nothing(found: np.float64 | Array, valid: Array) -> Array:
    return np.where(valid.any(axis=0), found, np.nan)


def _mean(values: Array, valid: Array, weights: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(_total(values, valid, weights) / weights.sum(axis=0))


def _variance(values: Array, valid: Array, weights: Array) -> Array:
    away = np.where(valid, values, 0.0) - np.nan_to_num(_mean(values, valid, weights))
    return _mean(away * away, valid, weights)


def _count(values: Array, valid: Array, weights: Array) -> Array:
    return np.asarray(valid.sum(axis=0), np.float64)


def _percentile(percent: float) -> Compute:
    """Percentile, interpolated linearly between neighbours in order."""

    def compute(values: Array, valid: Array, weights: Array) -> Array:
        if len(values) == 0:
            return np.full(values.shape[1:], np.nan)
        ordered, count = np.sort(np.where(valid, values, np.inf), axis=0), valid.sum(axis=0)
        position = np.maximum(count - 1, 0) * (percent / 100)
        low = np.floor(position).astype(np.int64)
        high = np.minimum(low + 1, np.maximum(count - 1, 0))
        a, b = (np.take_along_axis(ordered, k[None], axis=0)[0] for k in (low, high))
        with np.errstate(invalid="ignore"):
            return np.where(count > 0, a + (b - a) * (position - low), np.nan)

    return compute


def _mode(values: Array, valid: Array, weights: Array) -> Array:
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


def _known(values: list[Value]) -> list[Value]:
    return [value for value in values if value is not None]


FIRST = Output("first", _pick(last=False), None, picks=True, objects=lambda v: next(iter(_known(v)), None))
LAST = Output("last", _pick(last=True), None, picks=True, objects=lambda v: next(reversed(_known(v)), None))
COUNT = Output("count", _count, INT32, weighted=False, objects=lambda v: len(_known(v)))
ALL = Output("all", lambda v, seen, _: _or_nothing(np.where(seen, v != 0, True).all(axis=0) * 1.0, seen), INT32)
ANY = Output("any", lambda v, seen, _: _or_nothing((seen & (v != 0)).any(axis=0) * 1.0, seen), INT32)
SIMPLE: dict[str, Output] = {
    "sum": Output("sum", lambda v, seen, weights: _or_nothing(_total(v, seen, weights), seen)),
    "mean": Output("mean", _mean),
    "min": Output("min", lambda v, seen, _: np.where(seen, v, np.inf).min(axis=0, initial=np.inf), None),
    "max": Output("max", lambda v, seen, _: np.where(seen, v, -np.inf).max(axis=0, initial=-np.inf), None),
    "product": Output("product", lambda v, seen, _: _or_nothing(np.where(seen, v, 1.0).prod(axis=0), seen)),
    "count": COUNT,
    "median": Output("median", _percentile(50)),
    "mode": Output("mode", _mode, None),
    **dict.fromkeys(("first", "firstNonNull"), FIRST),
    **dict.fromkeys(("last", "lastNonNull"), LAST),
    **dict.fromkeys(("allNonZero", "and"), ALL),
    **dict.fromkeys(("anyNonZero", "or"), ANY),
    "variance": Output("variance", _variance),
    "sampleVariance": Output("variance", _sample_variance),
    "stdDev": Output("stdDev", lambda *given: np.sqrt(_variance(*given))),
    "sampleStdDev": Output("stdDev", lambda *given: np.sqrt(_sample_variance(*given))),
    "skew": Output("skew", _moment(3)),
    "kurtosis": Output("kurtosis", _moment(4)),
}
"""Reducers with one output. Counts never apply weights (Earth Engine guides, "statistics of an image region")."""


def simple(name: str) -> Reducer:
    """Reducer with one output."""
    return Reducer(name, (SIMPLE[name],))


def _of_fit(name: str, at: int) -> Output:
    return Output(name, _mean, joint=lambda *given: _fit(*given)[at])


def _gathering(
    name: str,
    output: str,
    gather: Callable[[Array, Array], Value],
    objects: Callable[[list[Value]], Value] | None = None,
) -> Reducer:
    return Reducer(name, (Output(output, _count, objects=objects),), gather=gather)


def _distinct(name: str, known: Callable[[list[Value]], list[Value]]) -> Reducer:
    def objects(values: list[Value]) -> int:
        return len({repr(encode(value)) for value in known(values)})

    return _gathering(name, "count", lambda values, _: len(np.unique(values)), objects)


def _frequencies(values: Array, weights: Array) -> dict[str, Value]:
    """Value -> its frequency: the sum of the weights of pixels with that value."""
    found, at = np.unique(values, return_inverse=True)
    counts = np.bincount(at, weights, len(found))
    return {_key_of(value): plain(float(n), None) for value, n in zip(found.tolist(), counts, strict=True)}


def _key_of(value: Value) -> str:
    """Return the dictionary key of a value: integers without a fraction."""
    return text_of(float(value) if isinstance(value, int) else value)


functions("Reducer", {name: partial(simple, name) for name in SIMPLE})
functions(
    "Reducer",
    {
        "minMax": lambda: Reducer("minMax", (SIMPLE["min"], SIMPLE["max"])),
        # masked pixels are not values, but a null in a table is
        "countDistinct": lambda: _distinct("countDistinct", list),
        "countDistinctNonNull": lambda: _distinct("countDistinctNonNull", _known),
        "frequencyHistogram": lambda: _gathering(
            "frequencyHistogram",
            "histogram",
            _frequencies,
            lambda values: dict(sorted(Counter(map(_key_of, _known(values))).items())),
        ),
        "linearFit": lambda: Reducer("linearFit", (_of_fit("scale", 0), _of_fit("offset", 1)), inputs=2),
        "pearsonsCorrelation": lambda: Reducer("pearsonsCorrelation", (_of_fit("correlation", 2),), inputs=2),
        "getOutputs": lambda reducer: [output.name for output in reducer.outputs],
    },
)


@function("Reducer.unweighted")
def _unweighted(reducer: Reducer) -> Reducer:
    """Count every pixel whose centre is inside the region fully."""
    outputs, whole = tuple(replace(output, weighted=False) for output in reducer.outputs), reducer.summary
    if whole is None:
        return replace(reducer, outputs=outputs)

    def summary(columns: Columns, weights: Array | None, centred: Array | None) -> dict[str, Value]:
        inside = slice(None) if centred is None else centred
        return whole([(values[inside], shown(mask[inside])) for values, mask in columns], None, None)

    return replace(reducer, outputs=outputs, summary=summary)


@function("Reducer.percentile")
def _percentiles(percentiles: list[float], outputNames: list[str] | None) -> Reducer:
    names = outputNames or [f"p{encode(float(p))}" for p in percentiles]
    if len(names) != len(percentiles):
        raise EmulatorError("Reducer.percentile: there must be as many output names as percentiles.")
    return Reducer("percentile", tuple(Output(n, _percentile(p)) for n, p in zip(names, percentiles, strict=True)))


@function("Reducer.toList")
def _to_list(tupleSize: int | None, numOptional: int) -> Reducer:
    """All values as a list, or grouped into tuples of one value per input if a size is given.

    Only the last ``numOptional`` inputs may be null: a row that lacks any other input is dropped.
    """
    inputs = 1 if tupleSize is None else tupleSize
    needed = inputs - numOptional
    if inputs < 1 or not 0 <= numOptional <= inputs:
        raise EmulatorError(f"Reducer.toList: tupleSize {tupleSize} and numOptional {numOptional} do not fit together.")

    def summary(columns: Columns, *_: Array | None) -> dict[str, Value]:
        rows = [list(row) for row in zip(*map(_listed, columns), strict=True)]
        kept = [row for row in rows if all(value is not None for value in row[:needed])]
        return {"list": [row[0] for row in kept] if tupleSize is None else kept}

    return Reducer("toList", (Output("list", _count),), inputs=inputs, summary=summary)


def _listed(column: tuple[Array, Array]) -> list[Value]:
    values, mask = column
    if values.dtype == object:
        return list(values)
    return [encode(float(value)) if fine else None for value, fine in zip(values, mask, strict=True)]


@function("Reducer.combine")
def _combine(reducer1: Reducer, reducer2: Reducer, outputPrefix: str, sharedInputs: bool) -> Reducer:
    if sharedInputs and reducer1.inputs != reducer2.inputs:
        raise EmulatorError("Reducer.combine: Reducers that share inputs must have the same number of inputs.")
    shift = 0 if sharedInputs else reducer1.inputs
    second = _named(reducer2, [f"{outputPrefix}{output.name}" for output in reducer2.outputs])
    outputs = (*reducer1.outputs, *(replace(output, input=output.input + shift) for output in second.outputs))

    def summary(columns: Columns, weights: Array | None, centred: Array | None) -> dict[str, Value]:
        first = reducer1.flat(columns[: reducer1.inputs], weights, centred)
        return {**first, **second.flat(columns[shift:], weights, centred)}

    whole = reducer1.numeric and reducer2.numeric
    return Reducer("combine", outputs, inputs=shift + reducer2.inputs, summary=None if whole else summary)


def _named(reducer: Reducer, names: Sequence[str | None]) -> Reducer:
    """Reducer with other names of its outputs; those without a name are dropped."""
    pairs, summary = list(zip(reducer.outputs, names, strict=True)), reducer.summary
    outputs = tuple(replace(output, name=name) for output, name in pairs if name)
    if summary is None:
        return replace(reducer, outputs=outputs)
    new = {output.name: name for output, name in pairs}

    def renamed(*given: Any) -> dict[str, Value]:
        return {name: value for old, value in summary(*given).items() if (name := new[old])}

    return replace(reducer, outputs=outputs, summary=renamed)


@function("Reducer.setOutputs")
def _set_outputs(reducer: Reducer, outputs: list[Value]) -> Reducer:
    if any(not isinstance(name, (str, type(None))) for name in outputs):
        raise wrong_type("Reducer.setOutputs", "outputs", "List<String>", "List", outputs)
    if len(outputs) != len(reducer.outputs):
        raise EmulatorError("Reducer.setOutputs: there must be as many names as outputs.")
    return _named(reducer, outputs)


@function("Reducer.repeat")
def _repeat(reducer: Reducer, count: int) -> Reducer:
    if count < 1:
        raise EmulatorError(f"Reducer.repeat: count must be at least 1, got {count}.")
    size = reducer.inputs

    def summary(columns: Columns, weights: Array | None, centred: Array | None) -> dict[str, Value]:
        results = [reducer.flat(columns[k * size : (k + 1) * size], weights, centred) for k in range(count)]
        return {name: [result[name] for result in results] for name in results[0]}

    return replace(reducer, inputs=size * count, summary=summary)


@function("Reducer.group")
def _group(reducer: Reducer, groupField: int, groupName: str) -> Reducer:
    """Reduce each group of rows with equal values in one of the inputs: a list of results, in the order of that input."""

    def summary(columns: Columns, weights: Array | None, centred: Array | None) -> dict[str, Value]:
        keys, known = columns[groupField][0], shown(columns[groupField][1])
        others = [column for k, column in enumerate(columns) if k != groupField]
        distinct = {repr(key): key for key in keys[known]} if keys.dtype == object else None
        found = np.unique(keys[known]).tolist() if distinct is None else sorted(distinct.values(), key=sort_key)
        groups = []
        for key in found:
            held = known & (keys == key if distinct is None else np.array([other == key for other in keys], bool))
            own = [(values[held], mask[held]) for values, mask in others]
            results = reducer.flat(own, *(None if each is None else each[held] for each in (weights, centred)))
            groups.append({groupName: plain(key, None) if isinstance(key, float) else key, **results})
        return {"groups": groups}

    output = Output("groups", _count, weighted=reducer.weighted)
    return Reducer("group", (output,), inputs=reducer.inputs + 1, summary=summary)


# ---------------------------------------------------------------- histograms


@function("Reducer.fixedHistogram")
def _fixed_histogram(min: float, max: float, steps: int, cumulative: bool) -> Reducer:
    def gather(values: Array, weights: Array) -> Value:
        below = values < max  # numpy counts the maximum in the last bin
        counts, edges = np.histogram(values[below], bins=steps, range=(min, max), weights=weights[below])
        counts = np.cumsum(counts) if cumulative else counts
        return [[float(edge), float(count)] for edge, count in zip(edges[:-1], counts, strict=True)]

    return _gathering("fixedHistogram", "histogram", gather)


def _buckets(values: Array, weights: Array, most: int | None, least: float | None) -> tuple[float, float, Array, Array]:
    """(lower edge, width, weights, bins) of values in buckets whose width is doubled until there are few enough."""
    width = least or 1.0
    low = np.floor(values.min() / width) * width if len(values) else 0.0
    while len(values) and (values.max() - low) / width >= (most or MOST_BUCKETS):
        width *= 2
        low = np.floor(values.min() / width) * width
    bins = np.floor((values - low) / width).astype(np.int64)
    return float(low), float(width), np.bincount(bins, weights), bins


MOST_BUCKETS = 256


@function("Reducer.histogram")
def _histogram(maxBuckets: int | None, minBucketWidth: float | None) -> Reducer:
    """Count values in bins whose width is the smallest power of two that needs no more than the allowed bins."""

    def gather(values: Array, weights: Array) -> Value:
        low, width, counts, bins = _buckets(values, weights, maxBuckets, minBucketWidth)
        sums, middles = np.bincount(bins, weights * values, len(counts)), low + (np.arange(len(counts)) + 0.5) * width
        means = np.divide(sums, counts, out=middles, where=counts != 0)
        return {"bucketMin": low, "bucketWidth": width, "histogram": counts.tolist(), "bucketMeans": means.tolist()}

    return _gathering("histogram", "histogram", gather)


@function("Reducer.autoHistogram")
def _auto_histogram(maxBuckets: int | None, minBucketWidth: float | None, cumulative: bool) -> Reducer:
    def gather(values: Array, weights: Array) -> Value:
        low, width, counts, _ = _buckets(values, weights, maxBuckets, minBucketWidth)
        counted = np.cumsum(counts) if cumulative else counts
        return [[low + k * width, float(count)] for k, count in enumerate(counted)]

    return _gathering("autoHistogram", "histogram", gather)


@promotion("Reducer")
def _to_reducer(value: Value) -> Value:
    if isinstance(value, Reducer):
        return value
    return simple(value) if isinstance(value, str) and value in SIMPLE else NOT_PROMOTED


encode.register(Reducer)(lambda value: {"type": f"Reducer.{value.name}"})
