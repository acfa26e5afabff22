"""Products of a finished class map: polygons, areas, and points to label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmearth_data import InputError, check_output
from mmearth_model.maps.areas import AreaReport, report_areas, write_areas
from mmearth_model.maps.class_map import ClassMap
from mmearth_model.maps.drawing import draw_validation, validation_files, write_validation
from mmearth_model.maps.ground_area import row_areas_m2
from mmearth_model.maps.planning import TABLE_SUFFIX
from mmearth_model.maps.polygons import write_polygons
from mmearth_model.tasks import TaskKind

if TYPE_CHECKING:
    from pathlib import Path

    from mmearth_model.heads.network import Network
    from mmearth_model.maps.raster import RasterGrid


@dataclass(frozen=True, kw_only=True, slots=True)
class Products:
    """Products to make from a map.

    Attributes
    ----------
    vector
        GeoParquet file of polygons.
    report
        File of areas: ``.csv``, ``.json`` or ``.md``.
    validation
        Labelled points for the areas.
    draw
        Number of points to select for labelling; 0 for none.
    seed
        Seed of the random points.
    """

    vector: Path | None = None
    report: Path | None = None
    validation: Path | None = None
    draw: int = 0
    seed: int = 0

    @property
    def wanted(self) -> bool:
        """Whether there is anything to make."""
        return bool(self.vector or self.report or self.validation or self.draw)

    def check(self, network: Network, path: Path) -> None:
        """Refuse products that cannot be made, before the map is computed.

        Raises
        ------
        InputError
            If the network does not predict classes, the result is a table, a file cannot be written or read, or points for the map already exist.
        """
        if not self.wanted:
            return
        if network.kind not in (TaskKind.SINGLE_LABEL, TaskKind.SEGMENTATION):
            raise InputError(
                "--vector, --report, --validation and --draw-validation: expected a network that predicts one class "
                "per pixel or tile, got "
                f"one of {network.task} ({network.kind}); leave them out."
            )
        if path.suffix.lower() == TABLE_SUFFIX:
            raise InputError(
                "--vector, --report, --validation and --draw-validation: expected a map, got a table of windows "
                f"({path.name}); use --out {path.stem}.tif, or leave them out."
            )
        for option, file in (("--vector", self.vector), ("--report", self.report)):
            if file is not None:
                check_output(file, option=option)
        if self.validation is not None and not self.validation.is_file():
            raise InputError(
                f"--validation: expected a file of labelled points, got {self.validation}, which does not exist; "
                "correct the path."
            )
        taken = [file for file in validation_files(path) if file.exists()] if self.draw else []
        if taken and not path.exists():
            raise InputError(
                f"--draw-validation: expected no points yet, found {taken[0]}, which may contain labels; move it."
            )

    def check_grid(self, grid: RasterGrid, scene: Path) -> None:
        """Refuse products that cannot be made from a map of ``scene`` on this grid, before the map is computed.

        Raises
        ------
        FileInputError
            If the grid is not north-up, or its projection distorts areas that are to be computed.
        """
        if self.wanted:
            empty = ClassMap.on(grid, scene)
            if self.report or self.validation or self.draw:
                row_areas_m2(empty)

    def make(self, path: Path) -> Made:
        """Make the products of a finished map.

        Raises
        ------
        InputError
            As `report_areas`, `write_polygons` and `draw_validation` do.
        """
        written: list[Path] = []
        if self.vector is not None:
            write_polygons(path, self.vector)
            written.append(self.vector)
        if self.draw:
            write_validation(draw_validation(path, self.draw, seed=self.seed), validation_files(path))
            written += validation_files(path)
        areas = report_areas(path, self.validation) if self.report or self.validation else None
        if self.report is not None and areas is not None:
            write_areas(areas, self.report)
            written.append(self.report)
        return Made(written, areas)


@dataclass(frozen=True, slots=True)
class Made:
    """Files that were written, and the areas, if requested."""

    written: list[Path]
    areas: AreaReport | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"areas": self.areas.to_dict()} if self.areas is not None else {}

    def refusal(self) -> str | None:
        """Why a validation gave no intervals; None if it gave intervals, or there is no validation."""
        return None if self.areas is None or self.areas.validation is None else self.areas.refused
