"""The layers of a mapping for one Sentinel-2 level, matched with the catalog."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmearth_data.catalog.modality import fits
from mmearth_data.errors import FileInputError
from mmearth_data.sources.rasters.mapping import PASSES
from mmearth_data.words import did_you_mean

if TYPE_CHECKING:
    from pathlib import Path

    from mmearth_data.catalog.entries import Catalog
    from mmearth_data.catalog.modality import Modality
    from mmearth_data.sources.rasters.mapping import Layer, RasterMapping


@dataclass(frozen=True, kw_only=True, slots=True)
class MappedLayer:
    """A layer of the mapping with the modality that it fills."""

    layer: Layer
    modality: Modality


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The layers of one level."""

    level: str | None
    """``L1C``, ``L2A``, or None if no layer has a level or each file has its own."""
    layers: tuple[MappedLayer, ...]
    """In the mapping's order; the files of a layer have the same bands."""
    base: str
    scene_time: str | None
    """Modality whose finest files define the grid, and the one whose files define the time (None if the base has no
    date).
    """

    def of(self, modality: str) -> tuple[int, ...]:
        """Positions of the layers of a modality."""
        return tuple(at for at, mapped in enumerate(self.layers) if mapped.modality.name == modality)


def select_layers(mapping: RasterMapping, path: Path, catalog: Catalog, level: str | None) -> Selection:
    """Choose the layers of a level (``L1C`` or ``L2A``) and check them against the catalog.

    Without a level, it is that of the mapping, else L2A, else the only one. Raises FileInputError if a modality, band,
    class code or level does not exist, or two layers fill one band.
    """
    for layer in mapping.layers:
        if layer.modality not in catalog.modalities:
            hint = did_you_mean(layer.modality, catalog.modalities)
            raise FileInputError(path, f"expected a modality of the catalog, got {layer.modality!r}; {hint}")
    chosen = _choose_level(mapping, path, level)
    layers = tuple(
        MappedLayer(layer=layer, modality=catalog.modalities[layer.modality])
        for layer in mapping.file_layers
        if layer.level in {None, chosen}
    )
    for mapped in layers:
        problem = _first_problem(mapped)
        if problem:
            raise FileInputError(path, f"layer {mapped.layer.path!r} ({mapped.modality.name}): {problem}")
    names = [mapped.modality.name for mapped in layers]
    for field, name in (("base", mapping.base), ("scene_time", mapping.scene_time)):
        if name is not None and name not in names:
            hint = did_you_mean(name, dict.fromkeys(names))
            raise FileInputError(path, f"{field}: expected a modality of the layers, got {name!r}; {hint}")
    time = mapping.scene_time or mapping.base
    dated = any(mapped.layer.date for mapped in layers if mapped.modality.name == time)
    if mapping.scene_time is not None and not dated:
        raise FileInputError(path, f"scene_time is {time}, which has no date; add one to its layer.")
    return Selection(level=chosen, layers=layers, base=mapping.base, scene_time=time if dated else None)


def _choose_level(mapping: RasterMapping, path: Path, level: str | None) -> str | None:
    layers = mapping.file_layers
    mapped = sorted({layer.level for layer in layers if layer.level is not None})
    wanted = level or mapping.level
    if wanted is not None and wanted not in mapped and not any(layer.level_rule for layer in layers):
        raise FileInputError(
            path, f"expected layers of level {wanted}, got {' and '.join(mapped) or 'no level at all'}; choose another."
        )
    return wanted or ("L2A" if "L2A" in mapped else next(iter(mapped), None))


def _first_problem(mapped: MappedLayer) -> str | None:
    """First problem of a layer, or of its settings at a single site, or None."""
    if not (mapped.modality.kind.is_raster and mapped.modality.stored):
        return f"expected a stored raster modality, got {mapped.modality.kind}; leave the layer out."
    forms = [mapped.layer, *(mapped.layer.at(site) for site in mapped.layer.sites)]
    problems = (band_problem(form, mapped.modality) for form in forms)
    return next(filter(None, problems), None) or _code_problem(mapped)


def band_problem(layer: Layer, modality: Modality) -> str | None:
    """First problem of the bands of a layer, or None."""
    known = modality.bands_by_level.get(layer.level or "", modality.bands)
    for band in layer.targets:
        if band not in known:
            where = f" of level {layer.level}" if band in modality.bands else ""
            return f"expected bands{where} of the catalog, got {band!r}; {did_you_mean(band, known)}"
    if len(set(layer.targets)) != len(layer.targets):
        return f"expected every band once, got {', '.join(layer.targets)}; write null for those to skip."
    for derived, origin in layer.derive.items():
        if origin not in layer.stored_bands:
            return f"derive: {derived} comes from {origin!r}, which is not among the layer's bands; map it too."
    return _pass_problem(layer)


def _pass_problem(layer: Layer) -> str | None:
    for other in PASSES:
        odd = [band for band in layer.targets if band.startswith(f"{other}_")]
        if layer.orbit_pass not in {None, other} and odd:
            return f"pass is {layer.orbit_pass}, but the bands are {', '.join(odd)}; correct one of them."
    return None


def _code_problem(mapped: MappedLayer) -> str | None:
    layer, modality = mapped.layer, mapped.modality
    if layer.codes is not None or modality.kind.is_categorical:
        forms = (layer, *layer.sites.values())
        given = [name for name in ("scale", "offset", "clip") if any(getattr(form, name) is not None for form in forms)]
        if given:
            return f"{' and '.join(given)} would change class codes; leave them out and translate the codes with codes."
    if layer.codes is None:
        return None
    if modality.kind.is_continuous:
        return "codes are for categories and masks; use scale and offset."
    allowed = {label.code for label in modality.classes} | {int(modality.nodata)}
    for code in layer.codes.values():
        if not fits(code, modality.dtype) or (modality.classes and code not in allowed):
            return f"codes: expected class codes of the catalog, got {code}; known are {sorted(allowed)}."
    return None
