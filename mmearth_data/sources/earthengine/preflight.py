"""Check that the assets of a build are readable before its first tile is requested: third-party assets move.

Otherwise a missing asset would reject every candidate, one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmearth_data.errors import InputError, TileUnavailable
from mmearth_data.sources.earthengine.failures import UNREADABLE, AccessRefused
from mmearth_data.sources.earthengine.recipes import RECIPES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mmearth_data.catalog.modality import Modality


@dataclass(frozen=True, slots=True)
class Needed:
    """One asset read by a build."""

    modality: Modality  # Catalog entry that names it
    key: str  # Its key in that entry
    type: str  # Type that the service must report: ``IMAGE``, ``IMAGE_COLLECTION`` or ``TABLE``
    bands: Sequence[str] = ()  # Bands that an image must have; the service does not list those of a collection

    @property
    def id(self) -> str:
        """Asset id."""
        return self.modality.asset[self.key]

    @property
    def option(self) -> str:
        """Its name in the option `--asset`."""
        name = self.modality.name
        return name if len(self.modality.asset) == 1 else f"{name}.{self.key}"


def needed_assets(modalities: Sequence[Modality], base: Modality, levels: Sequence[str]) -> list[Needed]:
    """List the assets that these modalities, and the base scene at these levels, are read from, without duplicates.

    An asset that is needed as two types, or with other bands for another modality, is listed twice.
    """
    found: dict[tuple[str, str, tuple[str, ...]], Needed] = {}
    for needed in _of_all(modalities, base, levels):
        found.setdefault((needed.id, needed.type, tuple(needed.bands)), needed)
    return list(found.values())


def _of_all(modalities: Sequence[Modality], base: Modality, levels: Sequence[str]) -> Iterator[Needed]:
    yield from (Needed(base, level, RECIPES[base.recipe["name"]].asset_type) for level in levels)
    for m in modalities:
        if m.recipe["name"] != base.recipe["name"]:  # bands of the base scene come from its own asset
            kind = RECIPES[m.recipe["name"]]
            bands = kind.asset_bands
            yield from (Needed(m, key, kind.asset_type, bands(m, key) if bands else ()) for key in m.asset)


def require_assets(
    needed: Sequence[Needed],
    describe: Callable[[str], Mapping[str, Any]],
    base: Modality,
    modalities: Sequence[Modality],
) -> None:
    """Ask the service about every asset once, by a function that requests its description.

    Raises `InputError` if an asset is missing, unreadable, of another type, or lacks a band; with its id, its modality
    and what to do, for which ``base`` and ``modalities`` determine what could be left out.
    """
    wrong = [(of, problem) for of in needed if (problem := _problem(of, describe)) is not None]
    if not wrong:
        return
    said = "; ".join(f"{of.id!r} (modality {of.modality.name}): {problem.rstrip('.')}" for of, problem in wrong)
    names = dict.fromkeys(of.modality.name for of, _ in wrong)
    fix = f"name another asset with --asset {wrong[0][0].option}=ID"
    if base.name not in names:
        rest = ",".join(m.name for m in modalities if m.name not in names)
        fix += f", or leave out {' and '.join(names)}: --modalities {rest}"
    raise InputError(f"Earth Engine: expected assets that this account can read, got {said}. To continue, {fix}.")


def described(answer: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """Check the description of an asset. Raises an exception if it has no type, or its bands have no ids."""
    found: dict[str, Any] = {**answer, "bands": [{"id": band["id"]} for band in answer.get("bands", ())]}
    if not isinstance(found["type"], str):
        raise ValueError(f"expected the type of an asset, got {found['type']!r}")  # noqa: TRY004 - as any other answer
    return found


def _problem(needed: Needed, describe: Callable[[str], Mapping[str, Any]]) -> str | None:
    try:
        found = describe(needed.id)
    except TileUnavailable as refusal:
        # Any other refusal does not concern the asset: the requests that need it will report it.
        return f"missing or not readable ({refusal.detail})" if UNREADABLE.search(refusal.detail) else None
    except AccessRefused as refusal:
        if UNREADABLE.search(str(refusal)) is None:
            raise
        return "missing or not readable (HTTP 403)"
    if found["type"] != needed.type:
        return f"expected {needed.type}, is {found['type']}"
    has = [band["id"] for band in found["bands"]]
    lacks = [band for band in needed.bands if has and band not in has]
    return f"expected band {', '.join(lacks)}, has {', '.join(map(str, has[:20]))}" if lacks else None
