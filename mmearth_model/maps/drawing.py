"""Select points of a class map for labelling: a stratified random sample, one stratum per mapped class."""

from __future__ import annotations

import csv
import io
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import InputError, write_bytes
from mmearth_model.geoparquet import write_geoparquet
from mmearth_model.maps.class_map import ClassMap
from mmearth_model.maps.ground_area import row_areas_m2

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmearth_model.maps.class_map import Census

STRATIFIED, SIMPLE = "stratified", "simple-random"
"""Designs of a sample, as in its column ``design``."""
LEAST_POINTS = 50
"""Points per mapped class that suffice to estimate its accuracy; Olofsson et al. (2014), section 5.1, advise 50 to 100."""
SUFFIX = "-validation"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Drawn:
    """Points selected from a map: (N,) columns of the file to label, in random order."""

    columns: dict[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.columns["lon"])


def draw_validation(path: str | Path, count: int, *, seed: int = 0) -> Drawn:
    """Select a stratified random sample of points of a class map.

    Every mapped class gets 50 points, or an equal share if ``count`` is too small for that; the others are allocated in
    proportion to mapped area. If a class has fewer pixels than points, all of its pixels are selected. Within a class,
    pixels are sampled without replacement, with probabilities proportional to their area.

    Parameters
    ----------
    path
        The map.
    count
        Number of points, at least two per mapped class.
    seed
        Seed of the random numbers.

    Raises
    ------
    InputError
        If there are too few points for the mapped classes, or the file is not a class map.
    """
    found = ClassMap.open(Path(path))
    census, areas = found.census, row_areas_m2(found)
    mapped = census.counts @ areas
    points = allocate(census.pixels, mapped, count)
    generator = np.random.default_rng(seed)
    picks = [_pick(counts, areas, int(number), generator) for counts, number in zip(census.counts, points, strict=True)]
    rows, columns = _locate(found, census, picks)
    strata = np.repeat(np.arange(len(points)), points)
    order = generator.permutation(len(strata))
    return _columns(found, census, mapped / np.maximum(points, 1), points, strata[order], rows[order], columns[order])


def allocate(pixels: NDArray[np.int64], mapped: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """(K,) points of each class; see `draw_validation`.

    Parameters
    ----------
    pixels
        (K,) pixels of each class.
    mapped
        (K,) its area.
    count
        Number of points.

    Examples
    --------
    >>> allocate(np.array([10, 5000, 95000]), np.array([10.0, 5000.0, 95000.0]), 300).tolist()
    [10, 62, 228]
    """
    strata = pixels > 0
    if count < 2 * strata.sum():
        raise InputError(
            f"--draw-validation: expected at least {2 * strata.sum()} points, two for each of the {strata.sum()} mapped "
            f"classes, got {count}; use {LEAST_POINTS * strata.sum()} or more."
        )
    points = np.minimum(pixels, min(LEAST_POINTS, count // int(strata.sum())))
    while (left := int(min(count, pixels.sum()) - points.sum())) > 0:
        room = pixels > points
        wanted = left * np.where(room, mapped, 0.0) / mapped[room].sum()
        more = np.minimum(np.floor(wanted).astype(np.int64), pixels - points)
        if not more.any():  # fewer than one each: largest remainders first
            more[np.argsort(-wanted, kind="stable")[:1]] = 1
        points = points + more
    return points


def _pick(
    counts: NDArray[np.int64], areas: NDArray[np.float64], number: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Select distinct pixels of a class: (number, 2) row, and rank among the pixels of the class in that row; sorted."""
    total = int(counts.sum())
    if number == total:
        rows = np.repeat(np.arange(len(counts)), counts)
        return np.stack([rows, np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)], axis=1)
    chances = counts * areas / (counts @ areas)
    chosen: dict[tuple[int, int], None] = {}
    while len(chosen) < number:
        rows = generator.choice(len(counts), size=number, p=chances)
        ranks = generator.integers(counts[rows])
        chosen.update(dict.fromkeys(zip(rows.tolist(), ranks.tolist(), strict=True)))
    return np.array(sorted(list(chosen)[:number]), dtype=np.int64).reshape(-1, 2)


def _locate(
    found: ClassMap, census: Census, picks: list[NDArray[np.int64]]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of picked pixels, class by class."""
    codes = [output.code for output in census.classes]
    columns = [np.zeros(len(pick), dtype=np.intp) for pick in picks]
    for first, values, seen in found.strips():
        for code, pick, places in zip(codes, picks, columns, strict=True):
            start, end = np.searchsorted(pick[:, 0], (first, first + len(values)))
            for n in range(start, end):
                row, rank = pick[n]
                places[n] = np.flatnonzero((values[row - first] == code) & seen[row - first])[rank]
    return np.concatenate([pick[:, 0] for pick in picks]), np.concatenate(columns)


def _columns(
    found: ClassMap,
    census: Census,
    weights: NDArray[np.float64],
    points: NDArray[np.int64],
    strata: NDArray[np.intp],
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
) -> Drawn:
    a, _, c, _, e, f = found.transform
    lon, lat = found.lonlat(columns + 0.5, rows + 0.5)
    codes = np.array([output.code for output in census.classes])
    number = len(strata)
    return Drawn(
        columns={
            "point": np.arange(1, number + 1),
            "lon": lon,
            "lat": lat,
            "x": a * (columns + 0.5) + c,
            "y": e * (rows + 0.5) + f,
            "reference": np.full(number, "", dtype=object),
            "stratum": codes[strata],
            "stratum_points": points[strata],
            "weight_m2": weights[strata],
            "design": np.full(number, STRATIFIED, dtype=object),
            "map_digest": np.full(number, census.digest, dtype=object),
        }
    )


def validation_files(path: Path) -> tuple[Path, Path]:
    """Files of the points of a map: GeoParquet and CSV next to it."""
    return path.with_name(f"{path.stem}{SUFFIX}.parquet"), path.with_name(f"{path.stem}{SUFFIX}.csv")


def write_validation(drawn: Drawn, files: tuple[Path, Path]) -> None:
    """Write points as GeoParquet and as CSV; either can be labelled. Files that have just these points are left unchanged.

    Raises
    ------
    InputError
        If a file has other content, since it may contain labels.
    """
    import pyarrow as pa
    import shapely

    columns = {name: pa.array(values) for name, values in drawn.columns.items()}
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(drawn.columns)
    rows.writerows(zip(*(values.tolist() for values in drawn.columns.values()), strict=True))
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / files[0].name
        write_geoparquet(table, columns, np.asarray(shapely.points(drawn.columns["lon"], drawn.columns["lat"])), {})
        contents = dict(zip(files, (table.read_bytes(), text.getvalue().encode()), strict=True))
    for file, content in contents.items():
        if file.exists() and file.read_bytes() != content:
            raise InputError(f"{file}: expected a new file for the points, found one that may contain labels; move it.")
    for file, content in contents.items():
        if not file.exists():
            write_bytes(file, content)
