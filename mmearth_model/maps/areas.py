"""Areas of the classes of a map: counted from pixels, which is biased, and estimated from a validation sample."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import FittedTable, InputError, Paragraphs, TableColumn, short_path, write_text
from mmearth_model.maps.class_map import ClassMap
from mmearth_model.maps.drawing import STRATIFIED
from mmearth_model.maps.estimators import Estimates, estimate
from mmearth_model.maps.ground_area import row_areas_m2
from mmearth_model.maps.validation import classes_at, read_validation, refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from rich.console import Console, ConsoleOptions, RenderResult

    from mmearth_model.heads.network import Output
    from mmearth_model.maps.validation import Points

M2_PER_HA = 10_000
BIASED = "Mapped areas are counted from pixels. They are biased, since omission and commission errors of a class do not cancel."
ESTIMATED = (
    "Areas with 95 % confidence intervals are estimated from the points, weighted by the mapped areas (Olofsson et al. "
    "2014); "
    "they refer to the reference classes, and account for the errors of the map."
)
NO_POINTS = "no validation points were given; select points with --draw-validation, label them, and give the file to --validation"
COLUMNS = (
    "class", "name", "mapped_px", "mapped_ha", "mapped_is_biased", "points", "area_ha", "area_se_ha", "area_low_ha",
    "area_high_ha", "users_accuracy", "users_accuracy_se", "producers_accuracy", "producers_accuracy_se",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AreaReport:
    """Areas of the K classes of a map.

    Attributes
    ----------
    path
        The map.
    classes
        Its classes, by code.
    pixels
        (K,) pixels of each.
    mapped_ha
        (K,) area of these pixels in hectares.
    digest
        Digest of the map's grid and pixels.
    refused
        Why there are no estimates; None if there are.
    validation
        File of the points; None without one.
    design
        How the points were selected: ``stratified`` or ``simple-random``.
    matrix
        (K, K) points by mapped class (row) and reference class (column); None without estimates.
    estimates
        Areas in hectares, and accuracies; None if refused.
    """

    path: Path
    classes: tuple[Output, ...]
    pixels: NDArray[np.int64]
    mapped_ha: NDArray[np.float64]
    digest: str
    refused: str | None
    validation: Path | None = None
    design: str | None = None
    matrix: NDArray[np.int64] | None = None
    estimates: Estimates | None = None

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary per class, JSON-ready; unknown values are None."""
        return [self._row(k) for k in range(len(self.classes))]

    def _row(self, k: int) -> dict[str, Any]:
        output, found = self.classes[k], self.estimates
        values: tuple[Any, ...] = (output.code, output.name, int(self.pixels[k]), float(self.mapped_ha[k]), True)
        if found is None or self.matrix is None:
            return dict(zip(COLUMNS, (*values, *(None,) * (len(COLUMNS) - len(values))), strict=True))
        arrays = (
            found.area, found.area_se, found.area_low, found.area_high,
            found.users, found.users_se, found.producers, found.producers_se,
        )  # fmt: skip
        numbers = [None if np.isnan(array[k]) else float(array[k]) for array in arrays]
        return dict(zip(COLUMNS, (*values, int(self.matrix[k].sum()), *numbers), strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Everything, JSON-ready."""
        found = self.estimates
        accuracy = None if found is None else {"value": found.overall, "se": found.overall_se}
        return {
            "map": short_path(self.path),
            "map_digest": self.digest,
            "validation": None if self.validation is None else short_path(self.validation),
            "design": self.design,
            "intervals_refused": self.refused,
            "overall_accuracy": accuracy,
            "classes": self.rows(),
            "error_matrix": None if self.matrix is None else self.matrix.tolist(),
            "proportions": None if found is None else found.proportions.tolist(),
            "notes": self.notes(),
        }

    def notes(self) -> list[str]:
        """Return notes for readers of the numbers."""
        if self.refused is not None:
            return [BIASED, f"No intervals: {self.refused}."]
        how = (
            "sampled in each mapped class"
            if self.design == STRATIFIED
            else "sampled uniformly over the mapped area, post-stratified"
        )
        points = 0 if self.matrix is None else int(self.matrix.sum())
        return [BIASED, ESTIMATED, f"{points:,} points, {how}."]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns = [TableColumn("class", wrap=True), TableColumn("mapped ha (biased)", right=True)]
        if self.estimates is not None:
            columns += [
                TableColumn("area ha", right=True),
                TableColumn("95 % interval", right=True),
                TableColumn("user's, %", right=True, rank=1),
                TableColumn("producer's, %", right=True, rank=2),
                TableColumn("points", right=True, rank=3),
            ]
        table = FittedTable(columns)
        for row in self.rows():
            table.add(*_cells(row)[: len(columns)])
        yield table
        overall = (
            []
            if self.estimates is None
            else [f"Overall accuracy {_percent(self.estimates.overall, self.estimates.overall_se)} %."]
        )
        yield Paragraphs([*overall, *self.notes()])


def report_areas(path: str | Path, validation: str | Path | None = None) -> AreaReport:
    """Measure the areas of the classes of a map, and estimate them from labelled points.

    Parameters
    ----------
    path
        The map.
    validation
        Labelled points, as `read_validation` reads them.

    Returns
    -------
    AreaReport
        Without estimates, and with the reason, if there are no points or they are not a probability sample of the map.

    Raises
    ------
    InputError
        If the map or the validation cannot be read, or names a class that is not in the map.
    """
    path = Path(path)
    found = ClassMap.open(path)
    census = found.census
    mapped_ha = census.counts @ row_areas_m2(found) / M2_PER_HA
    about: dict[str, Any] = {
        "path": path, "classes": census.classes, "pixels": census.pixels, "mapped_ha": mapped_ha, "digest": census.digest,
    }  # fmt: skip
    if validation is None:
        return AreaReport(**about, refused=NO_POINTS)
    validation = Path(validation)
    points = read_validation(validation, census)
    at = classes_at(found, census, points)
    about |= {"validation": validation, "design": points.one("design")}
    reason = refusal(points, census, at)
    if reason is not None:
        return AreaReport(**about, refused=f"{short_path(validation)}: {reason}")
    matrix = _matrix(points, at, len(census.classes))
    complete = matrix.sum(axis=1) >= census.pixels
    return AreaReport(**about, refused=None, matrix=matrix, estimates=estimate(matrix, mapped_ha, complete))


def _matrix(points: Points, at: NDArray[np.intp], classes: int) -> NDArray[np.int64]:
    found = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(found, (at, points.reference), 1)
    return found


def check_report(path: Path) -> None:
    """Refuse the name of a report with an unknown extension."""
    if path.suffix.lower() not in WRITERS:
        raise InputError(
            f"--report: expected a file name ending in {', '.join(WRITERS)}, got {path.name!r}; rename it."
        )


def write_areas(found: AreaReport, path: str | Path) -> None:
    """Write a report as CSV, JSON or Markdown, by the file extension.

    Raises
    ------
    InputError
        If the extension is unknown.
    """
    path = Path(path)
    check_report(path)
    write_text(path, WRITERS[path.suffix.lower()](found))


def _csv(found: AreaReport) -> str:
    text = io.StringIO(newline="")
    rows = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    rows.writeheader()
    rows.writerows(found.rows())
    return text.getvalue()


def _json(found: AreaReport) -> str:
    return json.dumps(found.to_dict(), indent=1, ensure_ascii=False) + "\n"


def _markdown(found: AreaReport) -> str:
    heads = ["class", "mapped, ha (biased)"]
    if found.estimates is not None:
        heads += ["area, ha", "95 % interval", "user's accuracy, %", "producer's accuracy, %", "points"]
    lines = [f"# Areas of {found.path.name}", "", _line(heads), _line(["---"] + ["---:"] * (len(heads) - 1))]
    lines += [_line(_cells(row)[: len(heads)]) for row in found.rows()]
    if found.estimates is not None and found.matrix is not None:
        overall = _percent(found.estimates.overall, found.estimates.overall_se)
        names = [output.name for output in found.classes]
        lines += [
            "",
            f"Overall accuracy: {overall} %.",
            "",
            "Points by mapped class (rows) and reference class (columns):",
            "",
        ]
        lines += [_line(["", *names]), _line(["---"] + ["---:"] * len(names))]
        lines += [_line([name, *map(str, row)]) for name, row in zip(names, found.matrix.tolist(), strict=True)]
    return "\n".join([*lines, "", *(f"- {note}" for note in found.notes()), ""])


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _cells(row: dict[str, Any]) -> list[str]:
    """Cells of a class: name, areas, interval, accuracies with standard errors, points."""
    if row["area_ha"] is None:
        return [row["name"], f"{row['mapped_ha']:,.1f}"]
    return [
        row["name"],
        f"{row['mapped_ha']:,.1f}",
        f"{row['area_ha']:,.1f}",
        f"{row['area_low_ha']:,.1f} to {row['area_high_ha']:,.1f}",
        _percent(row["users_accuracy"], row["users_accuracy_se"]),
        _percent(row["producers_accuracy"], row["producers_accuracy_se"]),
        f"{row['points']:,}",
    ]


def _percent(value: float | None, error: float | None) -> str:
    """Per cent with the standard error."""
    return "" if value is None or error is None else f"{100 * value:.1f} \N{PLUS-MINUS SIGN} {100 * error:.1f}"


WRITERS: dict[str, Callable[[AreaReport], str]] = {".csv": _csv, ".json": _json, ".md": _markdown}
