"""A source whose tiles also have labels: values from the rows of a table, and label maps rasterised from polygons."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from mmearth_data.errors import TileUnavailable
from mmearth_data.sources.base import Rejection, Survey

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from geopandas import GeoDataFrame

    from mmearth_data.catalog.modality import Modality
    from mmearth_data.catalog.tile import Place
    from mmearth_data.geography.zones import ZonePart
    from mmearth_data.sources.base import Source
    from mmearth_data.sources.labels.table import LabelTable

AT_SEA = "at_sea"
SEA_DETAIL = "the location is in no ecoregion (sea, ice or outside the ecoregion file)"


class Burner(Protocol):
    """Makes the label maps of tiles."""

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The maps: modalities of kind ``raster/categorical`` or ``raster/continuous``."""
        ...

    def identity(self) -> dict[str, Any]:
        """Everything that determines the maps, JSON-ready and without paths."""
        ...

    def read(self, survey: Survey) -> Mapping[str, np.ndarray[Any, Any]]:
        """Modality -> array of one tile, as stored (shape `Modality.array_shape`); safe to call from several threads."""
        ...


class LabelledSource:
    """Tiles of a source with labels.

    Parameters
    ----------
    inner
        Delivers everything else.
    table
        Labels of the locations; None if there is no table.
    burner
        Makes label maps; None if there are none.
    """

    recipe_fields: ClassVar[frozenset[str]] = frozenset({"labels", "labels_file", "date_column", "polygons", "burn"})

    def __init__(self, inner: Source, table: LabelTable | None = None, burner: Burner | None = None) -> None:
        self.inner = inner
        self.name = inner.name
        self._table = table
        self._burner = burner
        own = (*(table.modalities if table else ()), *(burner.modalities if burner else ()))
        self._own = {m.name: m for m in own}

    @property
    def labels(self) -> tuple[Modality, ...]:
        """Modalities of the labels."""
        return tuple(self._own.values())

    @property
    def synthetic(self) -> bool:
        """As of the inner source."""
        return self.inner.synthetic

    def identity(self) -> dict[str, Any]:
        """Identity of the inner source, and digests of the labels."""
        table = {} if self._table is None else {"labels": self._table.identity()}
        burnt = {} if self._burner is None else {"burnt": self._burner.identity()}
        return {**self.inner.identity(), **table, **burnt}

    def modalities(self, wanted: Sequence[Modality]) -> tuple[Modality, ...]:
        """Those of the inner source, and the labels."""
        others = self.inner.modalities([m for m in wanted if m.name not in self._own])
        known = {m.name for m in others} | set(self._own)
        return tuple(m for m in wanted if m.name in known)

    def own_modalities(self) -> tuple[Modality, ...]:
        """Those of the inner source, and the labels."""
        return (*self.inner.own_modalities(), *self.labels)

    @property
    def coordinates(self) -> frozenset[str]:
        """Those of the inner source."""
        return self.inner.coordinates

    @property
    def remarks(self) -> list[str]:
        """Those of the inner source."""
        return self.inner.remarks

    def places(self, size_px: int) -> list[Place]:
        """Those of the inner source."""
        return self.inner.places(size_px)

    def area(self) -> tuple[ZonePart, ...]:
        """Areas of the inner source's files."""
        return self.inner.area()

    def ecoregions(self) -> GeoDataFrame:
        """Those of the inner source."""
        return self.inner.ecoregions()

    def survey(self, places: Sequence[Place]) -> list[Survey | Rejection]:
        """One result per location, in order; rows of a table that cannot be used are rejected with their numbers."""
        if self._table is None:
            return self.inner.survey(places)
        table = self._table
        asked = [place for place in places if not table.at_sea(place)]
        answers = iter(self.inner.survey(asked))
        found: list[Survey | Rejection] = []
        for place in places:
            answer = Rejection(place=place, reason=AT_SEA, detail=SEA_DETAIL) if table.at_sea(place) else next(answers)
            found.append(_with_row(answer, table) if isinstance(answer, Rejection) else _labelled(answer, table))
        return found

    def read(self, survey: Survey, modalities: Sequence[Modality]) -> dict[str, np.ndarray[Any, Any]]:
        """Arrays of one tile: those of the inner source, and the label maps."""
        try:
            arrays = self.inner.read(survey, [m for m in modalities if m.name not in self._own])
        except TileUnavailable as refusal:
            row = None if self._table is None else self._table.row_of(survey.place)
            raise TileUnavailable(refusal.reason, _detail(row, refusal.detail)) from None
        wanted = {m.name for m in modalities}
        if self._burner is not None and any(m.name in wanted for m in self._burner.modalities):
            burnt = self._burner.read(survey)
            arrays |= {name: array for name, array in burnt.items() if name in wanted}
        return arrays


def _labelled(survey: Survey, table: LabelTable) -> Survey:
    row = table.row_of(survey.place)
    facts = survey.facts if row is None else {**survey.facts, "table_row": row}
    return replace(survey, values={**survey.values, **table.values_of(survey.place)}, facts=facts)


def _with_row(rejection: Rejection, table: LabelTable) -> Rejection:
    return replace(rejection, detail=_detail(table.row_of(rejection.place), rejection.detail))


def _detail(row: int | None, detail: str) -> str:
    """Prepend the row of the table to the detail of a rejection."""
    return detail if row is None else f"row {row}: {detail}".removesuffix(": ")
