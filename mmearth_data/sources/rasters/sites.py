"""Find the sites, and the file of each layer that belongs to each site."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmearth_data.catalog.tile import NO_TIME
from mmearth_data.errors import FileInputError
from mmearth_data.files.listing import is_data
from mmearth_data.sources.rasters.files import SiteFile, base_of, inspect, quiet_georeferencing
from mmearth_data.sources.rasters.layers import band_problem
from mmearth_data.sources.rasters.mapping import SITE
from mmearth_data.sources.rasters.pixels import code_problem, unknown_codes
from mmearth_data.words import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from mmearth_data.sources.rasters.layers import MappedLayer, Selection
    from mmearth_data.sources.rasters.mapping import RasterMapping


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """One site, with its file of each layer that has one."""

    name: str
    """Text matched by ``{site}``."""
    base: SiteFile
    """The file whose grid the tiles have."""
    files: tuple[SiteFile, ...]
    """In the mapping's order, the base among them."""
    time_ms: int
    """Time of the scene, UTC milliseconds since 1970, or `NO_TIME`."""

    def windows(self, size_px: int) -> Iterator[tuple[int, int]]:
        """(row, col) of the upper-left pixels of all full tiles, row by row; FileInputError if not even one fits."""
        height, width = self.base.grid.height, self.base.grid.width
        if min(height, width) < size_px:
            raise FileInputError(
                self.base.path,
                f"expected at least {size_px} x {size_px} px for one tile, got {height} x {width}; "
                "choose a smaller --tile-size or leave the site out.",
            )
        for row in range(0, height - size_px + 1, size_px):
            for col in range(0, width - size_px + 1, size_px):
                yield row, col


def find_sites(mapping: RasterMapping, path: Path, selection: Selection, root: Path) -> tuple[Site, ...]:
    """Find and inspect the files of all layers; sites are sorted by name.

    ``path`` is the mapping's file, for messages; ``root`` the folder that the layers' paths start from. Raises
    FileInputError if a pattern finds nothing, a site lacks its base file, or a file cannot be used.
    """
    base, pattern = _base_files(selection, path, root, mapping.sites)
    names = sorted(base if mapping.sites is None else mapping.sites)
    missing = next((name for name in names if name not in base), None)
    if missing is not None:
        raise FileInputError(path, f"sites: no file {pattern!r} for {missing!r}; {did_you_mean(missing, base)}")
    if not names:
        raise FileInputError(path, f"{pattern!r} finds no file of level {selection.level}; choose another level.")
    for mapped in selection.layers:
        unknown = next((name for name in mapped.layer.sites if name not in names), None)
        if unknown is not None:
            hint = did_you_mean(unknown, names)
            raise FileInputError(path, f"layer {mapped.layer.path!r}: there is no site {unknown!r}; {hint}")
    found: list[Mapping[Any, Path]] = [_find(mapped, selection, path, root, names) for mapped in selection.layers]
    inspector = _Inspector(root, selection, found)
    with quiet_georeferencing(), ThreadPoolExecutor() as pool:
        return tuple(pool.map(inspector.site, names))


def _base_files(
    selection: Selection, path: Path, root: Path, names: Sequence[str] | None
) -> tuple[dict[str, Path], str]:
    """Site -> a file of the base modality, and the pattern of its first layer.

    A site is named by the text that ``{site}`` matches in a file of the base modality; without ``{site}``, by the first
    file.
    """
    layers = [selection.layers[at] for at in selection.of(selection.base)]
    found: dict[str, Path] = {}
    for mapped in layers:
        if SITE in mapped.layer.path:
            found = {name or "": file for name, file in _find(mapped, selection, path, root, names).items()} | found
    if not found and all(SITE not in mapped.layer.path for mapped in layers):
        found = {file.stem: file for file in _find(layers[0], selection, path, root, names).values()}
    return found, layers[0].layer.path


def _find(
    mapped: MappedLayer, selection: Selection, path: Path, root: Path, names: Sequence[str] | None
) -> dict[str | None, Path]:
    """Site -> file; the key None serves all sites if the pattern has no ``{site}``."""
    pattern = mapped.layer.path
    site = "[^/]+" if names is None else "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    shape = _shape(pattern, site)
    found: dict[str | None, Path] = {}
    fitting = False
    anywhere = re.sub(r"\*+", "*", re.sub(r"[\[\]?]", r"[\g<0>]", pattern).replace(SITE, "*"))
    for file in sorted(root.glob(anywhere)):
        name = file.relative_to(root).as_posix()
        match = shape.fullmatch(name)
        if match is None or not is_data(name) or not file.is_file():
            continue
        fitting = True
        if not _belongs(file, mapped, selection):
            continue
        key = match.groupdict().get("site")
        if key in found:
            other = found[key].relative_to(root).as_posix()
            problem = f"layer {pattern!r}: expected one file per site, got {other} and {name}; narrow the pattern."
            raise FileInputError(path, problem)
        found[key] = file
    if not fitting:
        where = f"layer {pattern!r} ({mapped.modality.name})"
        raise FileInputError(
            path, f"{where}: the pattern finds no files in {root}; correct the path or the root folder."
        )
    return found


def _belongs(file: Path, mapped: MappedLayer, selection: Selection) -> bool:
    """Whether a file, judged by its name, has the layer's pass and the selected level."""
    try:
        return mapped.layer.has(file.name, selection.level)
    except ValueError as error:
        raise FileInputError(file, f"{error}; correct the layer of {mapped.modality.name} in the mapping.") from None


def _check_bands_once(files: Sequence[SiteFile]) -> None:
    filled: dict[tuple[str, str], SiteFile] = {}
    for file in files:
        for band in file.layer.targets:
            other = filled.setdefault((file.modality.name, band), file)
            if other is not file:
                problem = f"{file.modality.name} gets its band {band} from {other.name} too; map it once."
                raise FileInputError(file.path, problem)


def _shape(pattern: str, site: str) -> re.Pattern[str]:
    """Regular expression of a path pattern; all occurrences of ``{site}`` match the same text."""
    parts = re.split(r"(\{site\}|\*)", pattern)
    first = parts.index(SITE) if SITE in parts else -1
    spelled = {first: f"(?P<site>{site})"} if first >= 0 else {}
    wild = {SITE: "(?P=site)", "*": "[^/]*"}
    return re.compile("".join(spelled.get(i) or wild.get(part) or re.escape(part) for i, part in enumerate(parts)))


class _Inspector:
    """Inspects the files of sites; a file that serves all sites is inspected once."""

    def __init__(self, root: Path, selection: Selection, found: Sequence[Mapping[str | None, Path]]) -> None:
        self._root = root
        self._selection = selection
        self._found = found
        self._shared: dict[int, SiteFile] = {}

    def site(self, name: str) -> Site:
        files = [
            self._file(position, name) for position, paths in enumerate(self._found) if name in paths or None in paths
        ]
        base = base_of([file for file in files if file.modality.name == self._selection.base])
        _check_bands_once(files)
        times = [file.time_ms for file in files if file.modality.name == self._selection.scene_time]
        time_ms = next((time for time in times if time != NO_TIME), NO_TIME)
        return Site(name=name, base=base, files=tuple(files), time_ms=time_ms)

    def _file(self, position: int, name: str) -> SiteFile:
        mapped, paths = self._selection.layers[position], self._found[position]
        layer = mapped.layer.at(name)
        own = paths.get(name)
        if own is None and layer is mapped.layer and position in self._shared:
            return self._shared[position]
        path = paths[None] if own is None else own
        read_as = layer.of_file(path.name)
        problem = band_problem(read_as, mapped.modality)
        if problem:
            raise FileInputError(path, problem)
        file = inspect(path, path.relative_to(self._root).as_posix(), read_as, mapped.modality)
        if own is None:
            if layer is mapped.layer:
                self._shared[position] = file
            return file
        codes = unknown_codes(file)
        if codes:
            raise FileInputError(path, code_problem(file, codes))
        return file
