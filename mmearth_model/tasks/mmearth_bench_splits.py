"""The split file of a task of MMEarth-Bench: parts, partitions of the training samples, and statistics of both."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import FileInputError
from mmearth_model.tasks.labelled import Parts, listed, meant
from mmearth_model.tasks.mmearth_bench_form import bench_form

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from mmearth_model.tasks.mmearth_bench_form import BenchArray

WHOLE = "train_100%"
"""Partition with all training samples."""
REMEDY = "download the split file again"


@dataclass(frozen=True, eq=False)
class Splits:
    """Content of the split file."""

    path: Path
    rows: int  # of the HDF5 file
    content: Mapping[str, Any]

    def part(self, name: str) -> NDArray[np.intp]:
        """Rows of a part, ascending. Raises `FileInputError` when they are not different rows of the file."""
        given = self._entry(f"{name}_indices")
        if not isinstance(given, list) or not all(type(number) is int for number in given):
            raise FileInputError(self.path, f"{name}_indices: expected a list of row numbers, got others; {REMEDY}.")
        numbers = np.array(given, dtype=np.int64)
        outside = numbers[(numbers < 0) | (numbers >= self.rows)]
        if len(outside):
            raise FileInputError(
                self.path,
                f"{name}_indices: expected rows 0 to {self.rows - 1} of the HDF5 file, got {outside[0]}; use the split "
                "file of the same task.",
            )
        found = np.unique(numbers).astype(np.intp)
        if len(found) < len(numbers):
            raise FileInputError(self.path, f"{name}_indices: expected every row once, got one twice; {REMEDY}.")
        return found

    def parts(self, test: str) -> Parts:
        """Training and validation samples, and those of a test.

        Raises `FileInputError` when a row is in two parts, of either test.
        """
        found = {role: self.part(name) for role, name in bench_form().parts.items()}
        for one, other in combinations(found, 2):
            both = np.intersect1d(found[one], found[other])
            if len(both):
                names = (f"{bench_form().parts[role]}_indices" for role in (one, other))
                raise FileInputError(
                    self.path, f"expected every row in one part, got row {both[0]} in {' and '.join(names)}; {REMEDY}."
                )
        return Parts(found["train"], found["validation"], found[test])

    def partitions(self) -> dict[float, NDArray[np.intp]]:
        """Label share -> training samples. Raises `FileInputError` when they are not all training samples."""
        found = {share: self.part(name) for name, share in bench_form().partitions.items()}
        for name, share in bench_form().partitions.items():
            others = np.setdiff1d(found[share], found[1.0])
            if len(others):
                raise FileInputError(
                    self.path, f"{name}_indices: expected rows of {WHOLE}_indices, got {others[0]}; {REMEDY}."
                )
        return found

    def is_part(self, name: str, rows: NDArray[np.intp]) -> bool:
        """Whether these are the rows of a part."""
        return np.array_equal(self.part(name), np.sort(rows))

    def statistics(self, array: BenchArray, partition: str) -> tuple[list[float], list[float]]:
        """Mean and deviation of each band; null, of a band without any value, is 0 and 1 as in the published code.

        Raises `FileInputError` when there are none, or not as many as bands.
        """
        known = [name for name in array.statistics if f"{name}_{partition}_means" in self.content]
        name = known[0] if known else array.statistics[0]
        return self._numbers(f"{name}_{partition}_means", array, 0.0), self._numbers(
            f"{name}_{partition}_stds", array, 1.0
        )

    def _numbers(self, key: str, array: BenchArray, null: float) -> list[float]:
        try:
            filled = np.array(self._entry(key), dtype=object).ravel().tolist()
            numbers = [null if value is None else float(value) for value in filled]
        except (TypeError, ValueError):
            numbers = []
        if len(numbers) != len(array.bands) or not np.isfinite(numbers).all():
            raise FileInputError(
                self.path,
                f"{key}: expected a number or null for each of {len(array.bands)} bands, got others; {REMEDY}.",
            )
        return numbers

    def _entry(self, key: str) -> Any:  # noqa: ANN401 - whatever JSON holds
        if key not in self.content:
            raise FileInputError(
                self.path, f"expected {key}, got {listed(sorted(self.content), 3)}; {REMEDY}.{meant(key, self.content)}"
            )
        return self.content[key]
