"""Predictions for the windows of a scene as a table, by networks that predict per tile."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import FileInputError, InputError, reason_of
from mmearth_model.geoparquet import sample_columns, write_geoparquet
from mmearth_model.maps.jobs import TileJob
from mmearth_model.maps.planning import ScenePlan
from mmearth_model.maps.raster import IDENTITY_TAG, refuse_other
from mmearth_model.maps.stores import answer_columns

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from mmearth_model.heads.network import Network
    from mmearth_model.maps.blocks import Block, WorkFolder
    from mmearth_model.maps.jobs import Job

VALUES, OBSERVED = "values", "observed"
"""Arrays of a block: (K, height, width) probabilities or raw quantities, and where the window has data."""


class ValuesJob(TileJob):
    """Blocks of the raw predictions for windows, before they become a map."""

    def arrays(
        self, network: Network, values: NDArray[np.float32], observed: NDArray[np.bool_]
    ) -> dict[str, NDArray[Any]]:
        """See `Job.arrays`."""
        return {VALUES: values, OBSERVED: observed}


@dataclass(frozen=True, kw_only=True, eq=False)
class TablePlan(ScenePlan):
    """A table of the windows of a scene, before it is computed."""

    def job(self, folder: WorkFolder, device: str) -> Job:
        """Make the job that computes a block."""
        form = next(iter(self.forms.values()))
        return ValuesJob(
            scene=self.scene,
            folder=folder,
            form=form,
            scores=False,
            device=device,
            rows=self.rows,
            columns=self.columns,
        )

    def is_finished(self, path: Path, identity: str) -> bool:
        """See `Plan.is_finished`."""
        if not path.exists():
            return False
        return refuse_other(path, _identity_of(path), identity)

    def publish(self, folder: WorkFolder, identity: str) -> None:
        """Write one row for each window with data, from north to south."""
        ((path, form),) = self.forms.items()
        parts = [self._rows(block, folder.read(block)) for block in self.blocks]
        rows, columns = (np.concatenate([part[axis] for part in parts]) for axis in (0, 1))
        values = np.concatenate([part[2] for part in parts])
        order = np.lexsort((columns, rows))
        rows, columns, values = rows[order], columns[order], values[order]
        shapes, lon, lat = self._outlines(self.rows.offsets[rows], self.columns.offsets[columns])
        names = [f"{row}-{column}" for row, column in zip(rows.tolist(), columns.tolist(), strict=True)]
        found = {**sample_columns(names, lon, lat, None), **answer_columns(self.network, values)}
        write_geoparquet(path, found, shapes, {"mmearth": {**form.tags, IDENTITY_TAG: identity}})

    @staticmethod
    def _rows(block: Block, arrays: dict[str, NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Rows and columns of the windows of a block that have data, and their numbers (N, K)."""
        rows, columns = np.nonzero(arrays[OBSERVED])
        return rows + block.row, columns + block.column, arrays[VALUES][:, rows, columns].T

    def _outlines(self, top: NDArray[Any], left: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """(N,) outlines of windows in EPSG:4326, and the longitudes and latitudes of their centres."""
        import shapely
        from pyproj import Transformer

        size = self.network.window_px
        bottom, right = np.minimum(top + size, self.scene.height), np.minimum(left + size, self.scene.width)
        column = np.stack([left, right, right, left, (left + right) / 2])
        row = np.stack([top, top, bottom, bottom, (top + bottom) / 2])
        a, b, c, d, e, f = self.scene.transform
        to_degrees = Transformer.from_crs(self.scene.crs, "EPSG:4326", always_xy=True)
        lon, lat = to_degrees.transform(a * column + b * row + c, d * column + e * row + f)
        corners = np.stack([lon[:4].T, lat[:4].T], axis=-1)
        return np.asarray(shapely.polygons(corners), dtype=object), lon[4], lat[4]


def as_table(plan: ScenePlan, *, scores: bool) -> ScenePlan:
    """Plan a table instead of a map. Raises `InputError` if the network predicts per pixel."""
    if plan.network.kind.per_pixel:
        raise InputError(
            "--out: expected a .tif file with a network that predicts per pixel, got a table; use map.tif."
        )
    if scores:
        raise InputError("--scores has no effect with a table, which always has the scores; leave it out.")
    return TablePlan(**{field.name: getattr(plan, field.name) for field in dataclasses.fields(plan)})


def _identity_of(path: Path) -> str | None:
    """Identity of the result in a table; None if the file has none, or is not a table."""
    from pyarrow import ArrowException, parquet

    try:
        metadata = parquet.read_schema(path).metadata or {}
        about = json.loads(metadata.get(b"mmearth", b"{}"))
    except (ArrowException, OSError, ValueError) as error:
        raise FileInputError(
            path,
            f"expected a new file or a table that predict wrote, found another file ({reason_of(error)}); choose "
            "another --out.",
        ) from None
    return about.get(IDENTITY_TAG) if isinstance(about, dict) else None
