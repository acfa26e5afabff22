"""Identify the bands of scene files by a task or mapping file, or by their descriptions, tags and names.

Sentinel-2 products record their level and processing baseline in tags and names; from baseline 04.00 on, 1000 is added
to their numbers (ESA, Sentinel-2 Products Specification Document 14.9; RADIO_ADD_OFFSET and BOA_ADD_OFFSET).
"""

from __future__ import annotations

import fnmatch
import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import (
    FileInputError,
    InputError,
    calibrate,
    check_marks,
    georeferencing_problem,
    marks_synthetic,
    missing_end,
    open_raster,
    os_problem,
    read_mapping,
    read_yaml,
    short_path,
    tags_of,
    warp_to_utm,
)
from mmearth_model.maps.scene import SAME_GRID_PX, Scene, SceneBand, SceneFile
from mmearth_model.tasks.rasters import DiskRasters
from mmearth_model.tasks.spec import MEAN, TaskSpec, plain_band, read_spec, task_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from mmearth_data import Marks, Modality, RasterMapping
    from mmearth_model.data.targets import Normaliser

PIXEL_M = 10.0
"""Pixel size of stores, and of the images that encoders are trained on, in metres."""
PIXEL_TOLERANCE = 0.01
OFFSET = -1000.0
"""Offset that removes the 1000."""
FIRST_WITH_OFFSET = 4.0
"""Processing baseline from which on 1000 is added."""
LEVEL_TAG = re.compile(r"(processing[_:]?level|product[_:]?type|product[_:]?uri|s2[_:]level)$", re.IGNORECASE)
LEVEL_WORD = re.compile(r"(?:^|^L|MSI|MSIL|LEVEL[-_ ]?)(1C|2A)(?![0-9A-Z])", re.IGNORECASE)
OFFSET_TAG = re.compile(r"(BOA|RADIO)_ADD_OFFSET", re.IGNORECASE)
APPLIED_TAG = re.compile(r"boa_offset_applied$", re.IGNORECASE)
BASELINE_TAG = re.compile(r"processing[_:]?baseline$", re.IGNORECASE)
PRODUCT_NAME = re.compile(r"S2[A-D]_MSIL(1C|2A)_\d{8}T\d{6}_N(\d{4})_")
"""Names of Sentinel-2 products (SAFE), with level and baseline."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Described:
    """One file, and what is known about it from other origins.

    Attributes
    ----------
    path
        The file.
    bands
        (position in the file from 1, modality, band) of each band that is used.
    marks, scale, offset
        As in a task or a mapping file; None if not given.
    level
        Processing level, None if not given.
    """

    path: Path
    bands: tuple[tuple[int, str, str], ...]
    marks: Marks = None
    scale: float | None = None
    offset: float | None = None
    level: str | None = None


@dataclass(frozen=True, slots=True)
class Header:
    """What is read from the header of a file."""

    descriptions: tuple[str | None, ...]
    tags: Mapping[str, str]
    factors: tuple[tuple[float, float], ...]
    nodata: tuple[float | None, ...]
    dtypes: tuple[str, ...]
    crs: str
    transform: tuple[float, float, float, float, float, float]
    height: int
    width: int
    pixel_m: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneOptions:
    """Options that describe a scene.

    Attributes
    ----------
    bands
        Task or mapping file (or the name of a task file of the package) that identifies the bands.
    level
        Processing level, ``L1C`` or ``L2A``.
    offset
        Added to the numbers of modalities whose statistics depend on the level: -1000 for baselines from 04.00 on.
    any_resolution
        Whether pixel sizes other than 10 m are accepted.
    fill_missing
        Whether bands that no file has count as missing everywhere, so that the network uses their mean.
    """

    bands: str | None = None
    level: str | None = None
    offset: float | None = None
    any_resolution: bool = False
    fill_missing: bool = False


def describe_scene(normaliser: Normaliser, inputs: Sequence[Path], given: SceneOptions) -> Scene:
    """Find all bands that a network or an encoder takes in the files of a scene.

    Raises
    ------
    InputError
        If bands are missing or repeated, the level or the offset is not known, files do not overlap, or the pixel size is
        not that of the training images.
    """
    headers = {path: read_header(path) for path in inputs}
    if len(headers) < len(inputs):
        raise InputError(f"{inputs[0]}: expected each file once, got one twice; leave out the repetition.")
    modalities = tuple(normaliser.modalities[name] for name in normaliser.inputs)
    described, fills = _describe(modalities, inputs, headers, given)
    described = [entry for entry in described if entry.bands]
    _check_repeats(described, modalities, inputs)
    if not given.fill_missing:
        _check_missing(described, fills, normaliser, inputs)
    level = _level(normaliser, described, headers, given)
    files = [_scene_file(entry, headers[entry.path], modalities, given, level) for entry in described]
    base = min(described, key=lambda entry: _area(headers[entry.path]))
    grid = headers[base.path]
    if not given.any_resolution:
        _check_resolution(base.path, grid)
    return Scene(
        files=tuple(
            _placed(file, headers[entry.path], grid, base.path) for entry, file in zip(described, files, strict=True)
        ),
        modalities=modalities,
        fills={name: {b: other for b, other in own.items() if other != MEAN} for name, own in fills.items()},
        crs=grid.crs,
        transform=grid.transform,
        height=grid.height,
        width=grid.width,
        level=level,
        synthetic=any(marks_synthetic(headers[entry.path].tags) for entry in described),
    )


# ---------------------------------------------------------------- headers


def read_header(path: Path) -> Header:
    """Read a file's header. Raises `FileInputError` if the file is truncated or unreadable, or has no georeference."""
    import rasterio.errors

    _check_whole(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with open_raster(path, path) as dataset:
            problem = georeferencing_problem(dataset)
            if problem:
                raise FileInputError(path, problem)
            if any(np.dtype(t).kind not in "iuf" for t in dataset.dtypes):
                raise FileInputError(
                    path, f"expected integers or floating-point numbers, got {dataset.dtypes[0]}; convert it."
                )
            crs = dataset.crs
            metres = (
                None if crs.is_geographic else abs(dataset.transform.determinant) ** 0.5 * crs.linear_units_factor[1]
            )
            return Header(
                descriptions=tuple(dataset.descriptions),
                tags={**dataset.tags(1), **dataset.tags()},
                factors=tags_of(dataset, dataset.indexes),
                nodata=tuple(dataset.nodatavals),
                dtypes=tuple(dataset.dtypes),
                crs=crs.to_wkt(),
                transform=tuple(dataset.transform)[:6],
                height=dataset.height,
                width=dataset.width,
                pixel_m=metres,
            )


def _check_whole(path: Path) -> None:
    try:
        end, size = missing_end(path), path.stat().st_size
    except OSError as error:
        raise FileInputError(path, f"expected a readable raster file, got: {os_problem(error)}.") from None
    if end is not None:
        raise FileInputError(path, f"expected at least {end} bytes, got {size}: the file is truncated; copy it again.")


def _area(header: Header) -> float:
    a, b, _, d, e, _ = header.transform
    return abs(a * e - b * d)


def _check_resolution(path: Path, header: Header) -> None:
    found = header.pixel_m
    if found is not None and abs(found / PIXEL_M - 1) <= PIXEL_TOLERANCE:
        return
    got = "a geographic CRS (degrees)" if found is None else f"{found:g} m"
    warp = warp_to_utm(header.crs, header.transform, header.height, header.width)
    raise FileInputError(
        path,
        f"expected pixels of {PIXEL_M:g} m, as in training, got {got}; warp it: {warp}, or give --any-resolution.",
    )


def _placed(file: SceneFile, own: Header, grid: Header, base: Path) -> SceneFile:
    """Position of a file relative to the grid of the scene. Raises `FileInputError` if it does not fit or overlap it."""
    from rasterio import CRS

    if CRS.from_wkt(own.crs) != CRS.from_wkt(grid.crs):
        raise FileInputError(
            file.path,
            f"expected the CRS of {short_path(base)}, got a different one; warp it: rio warp IN OUT --like {base}.",
        )
    (a, b, c), (d, e, f) = np.linalg.solve(_matrix(own), _matrix(grid))[:2].tolist()
    if (abs(b) + abs(d)) * max(grid.height, grid.width) > SAME_GRID_PX or a <= 0 or e <= 0:
        raise FileInputError(
            file.path,
            f"expected the same grid orientation as {short_path(base)}, got a rotated grid; warp it: rio warp IN OUT "
            f"--like {base}.",
        )
    corners = (c, c + a * grid.width, f, f + e * grid.height)
    if corners[1] <= 0 or corners[0] >= own.width or corners[3] <= 0 or corners[2] >= own.height:
        raise FileInputError(
            file.path,
            f"expected a file that overlaps {short_path(base)}, got one that does not; use files of one scene.",
        )
    return replace(file, rows=(e, f), columns=(a, c))


def _matrix(header: Header) -> NDArray[np.float64]:
    """(3, 3) matrix that takes (column, row, 1) to (x, y, 1)."""
    return np.array([header.transform[:3], header.transform[3:], (0.0, 0.0, 1.0)])


# ---------------------------------------------------------------- bands


def _describe(
    modalities: Sequence[Modality], inputs: Sequence[Path], headers: Mapping[Path, Header], given: SceneOptions
) -> tuple[list[Described], dict[str, dict[str, str]]]:
    """Bands of each file, and bands that are filled: modality -> band -> another band, or ``mean``."""
    if given.bands is None:
        return [_by_itself(path, headers[path], modalities) for path in inputs], {}
    if not given.bands.strip():
        raise InputError(f"--bands: expected a task file or a mapping file, got {given.bands!r}; correct it.")
    file = Path(given.bands)
    if given.bands not in task_names() and "layers" in read_yaml(file, "a task or mapping file").values:
        mapping = read_mapping(file)
        names = {m.name for m in modalities}
        return [_by_mapping(path, headers[path], mapping, file, names) for path in inputs], {}
    spec = read_spec(given.bands)
    wanted = next((m for m in modalities if m.name == spec.modality), None)
    if wanted is None:
        raise FileInputError(
            file,
            f"expected bands of {_names(modalities)}, which the network takes, got {spec.modality}; use another file "
            "for --bands.",
        )
    fills = {band: spec.fill.get(band, MEAN) for band in spec.fill} | spec.stand_ins
    return [_by_task(path, headers[path], spec) for path in inputs], {spec.modality: fills}


def _names(modalities: Sequence[Modality]) -> str:
    return ", ".join(m.name for m in modalities)


def _by_itself(path: Path, header: Header, modalities: Sequence[Modality]) -> Described:
    """Bands by the descriptions of the file, or by the name of a file with one band."""
    texts = header.descriptions
    if len(texts) == 1 and not texts[0]:
        texts = (next((token for token in _tokens(path) if _meant(token, modalities)), None),)
    found = [(number, meant) for number, text in enumerate(texts, 1) for meant in _meant(text, modalities)]
    for number, (_, band) in found:
        if sum(1 for other, _ in found if other == number) > 1:
            raise FileInputError(
                path,
                f"expected a band of one modality, got {band}, which two modalities have; identify the bands with "
                "--bands.",
            )
    return Described(path=path, bands=tuple((number, *meant) for number, meant in found))


def _tokens(path: Path) -> list[str]:
    """Words of a file's name, the last one first: T32UQD_20210606T102021_B02_10m."""
    return re.split(r"[^0-9A-Za-z]+", path.stem)[::-1]


def _meant(text: str | None, modalities: Sequence[Modality]) -> list[tuple[str, str]]:
    """Modalities and bands of the catalog that a description means: ``B2``, ``B02``, ``B2, central wavelength 490 nm``."""
    plain = plain_band(text)
    return [(m.name, band) for m in modalities for band in m.bands if band.lower() == plain]


def _by_task(path: Path, header: Header, spec: TaskSpec) -> Described:
    """Bands of a file by a task file: all of them, or the one in its description or name."""
    wanted, texts = spec.band_names, header.descriptions
    pairs = dict(zip(wanted, spec.catalog_bands, strict=True))
    try:
        named = spec.named_bands(texts) if len(texts) > 1 else None
    except InputError as error:
        raise FileInputError(path, str(error)) from None
    if named is not None:
        found = [(number + 1, band) for number, band in zip(named, spec.catalog_bands, strict=True)]
    elif len(texts) == len(spec.file_bands) and not (len(texts) == 1 and len(wanted) > 1):
        found = [(number + 1, band) for number, band in zip(_kept(spec), spec.catalog_bands, strict=True)]
    elif len(texts) == 1:
        names = [name for name in (texts[0], *_tokens(path)) if name in pairs]
        if not names:
            raise FileInputError(
                path,
                f"expected one of the bands {', '.join(wanted)} in the band description or file name, got none; rename "
                "the file.",
            )
        found = [(1, pairs[names[0] or ""])]
    else:
        raise FileInputError(
            path,
            f"expected {len(spec.file_bands)} bands ({', '.join(band or 'null' for band in spec.file_bands)}), got {len(texts)}; "
            "list one name per band of the file in the task file, or null to skip a band.",
        )
    return Described(
        path=path,
        bands=tuple((number, spec.modality, band) for number, band in found),
        marks=spec.nodata if "nodata" in spec.model_fields_set else None,
        scale=spec.scale,
        offset=spec.offset,
        level=spec.level,
    )


def _kept(spec: TaskSpec) -> list[int]:
    return [position for position, band in enumerate(spec.file_bands) if band is not None]


def _by_mapping(path: Path, header: Header, mapping: RasterMapping, file: Path, wanted: set[str]) -> Described:
    """Bands of a file by the layer of a mapping file with a matching path."""
    layers = [layer for layer in mapping.file_layers if _matches(path, layer.path)]
    if not layers:
        paths = ", ".join(dict.fromkeys(layer.path for layer in mapping.file_layers))
        raise FileInputError(
            path,
            f"expected a file whose path ends as one in {file} ({paths}), got none of them; correct path in {file}.",
        )
    layer = layers[0]
    if len(header.descriptions) != len(layer.bands):
        raise FileInputError(
            path,
            f"expected {len(layer.bands)} bands, as listed in {file}, got {len(header.descriptions)}; correct bands in "
            "it.",
        )
    reading = next((own for site, own in layer.sites.items() if site in path.stem), None)
    level = layer.level or mapping.level
    try:
        level = layer.level_rule.level(path.name) if layer.level_rule else level
    except ValueError as error:
        raise FileInputError(path, f"{error}; correct level in {file}.") from None
    bands = zip(layer.band_numbers, (band for band in layer.stored_bands if band is not None), strict=True)

    def own(name: str) -> Any:  # noqa: ANN401 - any field
        if reading is not None and name in reading.model_fields_set:
            return getattr(reading, name)
        return getattr(layer, name)

    return Described(
        path=path,
        bands=tuple((number, layer.modality, band) for number, band in bands if layer.modality in wanted),
        marks=own("nodata"),
        scale=own("scale"),
        offset=own("offset"),
        level=level,
    )


def _matches(path: Path, pattern: str) -> bool:
    """Whether the end of a path matches a path of a mapping file, with anything for the site."""
    wanted = pattern.replace("{site}", "*").split("/")
    parts = path.absolute().parts[-len(wanted) :]
    return len(parts) == len(wanted) and all(fnmatch.fnmatchcase(p, w) for p, w in zip(parts, wanted, strict=True))


def _check_repeats(described: Sequence[Described], modalities: Sequence[Modality], inputs: Sequence[Path]) -> None:
    """Refuse files of which no band is used, and repeated bands."""
    unused = [path for path in inputs if path not in {entry.path for entry in described}]
    if unused:
        raise FileInputError(
            unused[0],
            f"expected bands that the network takes ({_names(modalities)}), identified by descriptions, by the file "
            "name or by "
            "--bands, got none; identify them, or leave the file out.",
        )
    owners: dict[tuple[str, str], Path] = {}
    for entry in described:
        for _, modality, band in entry.bands:
            first = owners.setdefault((modality, band), entry.path)
            if first != entry.path or [own[1:] for own in entry.bands].count((modality, band)) > 1:
                raise FileInputError(
                    entry.path,
                    f"expected each band once, got {band} of {modality} twice ({short_path(first)}); leave one out.",
                )


def _check_missing(
    described: Sequence[Described],
    fills: Mapping[str, Mapping[str, str]],
    normaliser: Normaliser,
    inputs: Sequence[Path],
) -> None:
    """Refuse a scene without bands that the network takes; it ignores those that were never observed in training."""
    for name in normaliser.inputs:
        found = {band for entry in described for _, modality, band in entry.bands if modality == name}
        observed = {band for own in normaliser.statistics[name].values() for band, e in own.items() if e["count"]}
        bands = [band for band in normaliser.modalities[name].model_bands if band in observed]
        absent = [band for band in bands if band not in found and band not in fills.get(name, {})]
        if absent:
            raise InputError(
                f"{short_path(inputs[0])}: expected the bands {', '.join(bands)} of {name}, which the network takes, got no "
                f"{', '.join(absent)}; add their files, identify the bands with --bands, or give --fill-missing, which "
                "uses "
                "their mean."
            )


# ---------------------------------------------------------------- level and offset


def _level(
    normaliser: Normaliser, described: Sequence[Described], headers: Mapping[Path, Header], given: SceneOptions
) -> str | None:
    """Level that all origins agree on. Raises `InputError` if there is none, or the network has no statistics for it."""
    if not normaliser.levels:
        return given.level
    dependent = [entry for entry in described if _depends(entry, normaliser)]
    votes = [("--level", given.level)]
    for entry in dependent:
        votes += [("--bands", entry.level), (short_path(entry.path), level_said(entry.path, headers[entry.path].tags))]
    said = [(origin, level) for origin, level in votes if level is not None]
    if not said:
        raise InputError(
            f"{short_path(dependent[0].path)}: expected the processing level, on which the network's statistics "
            "depend, found none "
            f"in --bands or the file's tags; give --level {' or --level '.join(normaliser.levels)}."
        )
    (first, level), *others = said
    for origin, other in others:
        if other != level:
            raise InputError(
                f"expected one processing level, got {level} ({first}) and {other} ({origin}); correct one of them."
            )
    if level not in normaliser.levels:
        raise InputError(
            f"expected a scene of level {' or '.join(normaliser.levels)}, for which the network has statistics, got "
            f"{level} "
            f"({first}); use a product of that level, or another network."
        )
    return level


def _depends(entry: Described, normaliser: Normaliser) -> bool:
    return any(normaliser.modalities[name].statistics_by == "s2_level" for _, name, _ in entry.bands)


def level_said(path: Path, tags: Mapping[str, str]) -> str | None:
    """Find the processing level by the tags of a file or the name of the product that it belongs to."""
    for name, value in tags.items():
        found = LEVEL_WORD.search(value) if LEVEL_TAG.search(name) else None
        if found:
            return f"L{found[1].upper()}"
    product = PRODUCT_NAME.search(str(path.absolute()))
    return None if product is None else f"L{product[1]}"


def offset_said(path: Path, tags: Mapping[str, str]) -> float | None:
    """Find the offset to add to the numbers, by the tags of a file or the name of the product that it belongs to."""
    baseline = PRODUCT_NAME.search(str(path.absolute()))
    said = None if baseline is None else float(baseline[2]) / 100
    for name, value in tags.items():
        if APPLIED_TAG.search(name) and value.lower() in {"true", "yes", "1"}:
            return 0.0
        number = _number(value)
        if OFFSET_TAG.search(name) and number is not None:
            return number
        if BASELINE_TAG.search(name):
            text = _number(value.upper().removeprefix("N"))
            said = said if text is None else text / (100 if text >= 100 else 1)
    return None if said is None else (OFFSET if said >= FIRST_WITH_OFFSET else 0.0)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _scene_file(
    entry: Described, header: Header, modalities: Sequence[Modality], given: SceneOptions, level: str | None
) -> SceneFile:
    """Calibrate the bands of a file. Raises `InputError` if the offset is not known."""
    known = {m.name: m for m in modalities}
    check_marks(entry.marks, header.dtypes, entry.path)
    bands = []
    for number, name, band in entry.bands:
        tags = (header.factors[number - 1],)
        offset = _offset(entry, header, known[name], tags, given) if level is not None else entry.offset
        factors = calibrate(tags, known[name], entry.scale, offset, entry.path).factors[0]
        bands.append(SceneBand(modality=name, band=band, number=number, factors=factors))
    return SceneFile(
        path=entry.path.absolute(),
        stamp=DiskRasters(entry.path.parent).stamp(entry.path.name),
        bands=tuple(bands),
        marks=_marks(entry, header, known),
        shape=(header.height, header.width),
    )


def _offset(
    entry: Described, header: Header, modality: Modality, tags: tuple[tuple[float, float], ...], given: SceneOptions
) -> float | None:
    """Offset of a band whose statistics may depend on the level; None leaves it to the file's scale and offset tags."""
    if modality.statistics_by != "s2_level":
        return entry.offset
    said = entry.scale is not None or entry.offset is not None or tags != ((1.0, 0.0),)
    if said:
        if given.offset is not None:
            origin = (
                "--bands says"
                if entry.scale is not None or entry.offset is not None
                else "its scale and offset tags say"
            )
            raise FileInputError(
                entry.path, f"expected one offset, got --offset and what {origin}; leave --offset out."
            )
        return entry.offset
    found = given.offset if given.offset is not None else offset_said(entry.path, header.tags)
    if found is None:
        raise FileInputError(
            entry.path,
            "expected the offset of Sentinel-2 numbers, to which baselines from 04.00 on add 1000, found none in "
            "--bands or the "
            "file's tags; give --offset -1000 if 1000 was added, or --offset 0 if not (earlier baselines, or "
            "harmonised numbers).",
        )
    return found


def _marks(entry: Described, header: Header, known: Mapping[str, Modality]) -> Marks:
    """No-data values: as given, by the file's tag, or else the catalog's, if all bands are integers."""
    numbers = [number for number, _, _ in entry.bands]
    if entry.marks is not None or any(header.nodata[n - 1] is not None for n in numbers):
        return entry.marks
    catalog = {known[name].nodata for _, name, _ in entry.bands}
    whole = all(np.dtype(header.dtypes[n - 1]).kind in "iu" for n in numbers)
    own = catalog.pop() if whole and len(catalog) == 1 else np.nan
    return (own,) if np.isfinite(own) else None
