"""Read a folder in the published format, and check that its files agree."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import h5py
import numpy as np

from mmearth_data.catalog.tile import LEVEL_NAMES
from mmearth_data.errors import FileInputError, InputError
from mmearth_data.files.listing import is_data
from mmearth_data.interchange.entries import SCENE, read_scene
from mmearth_data.interchange.jsonstream import ObjectWalker
from mmearth_data.store.schema import SPLIT_NAMES, SPLIT_NONE
from mmearth_data.words import reason_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mmearth_data.catalog.entries import Catalog
    from mmearth_data.catalog.modality import Modality
    from mmearth_data.interchange.form import PublishedArray, PublishedForm

SYNTHETIC = "synthetic"
"""Attribute of an exported file: whether its pixels are synthetic."""


@dataclass(frozen=True, slots=True)
class Files:
    """Paths of the four files of one data set."""

    h5: Path
    band_stats: Path
    splits: Path
    tile_info: Path

    @classmethod
    def at(cls, folder: Path, name: str) -> Self:
        """Files of a data set of this name."""
        stems = ("band_stats", "splits", "tile_info")
        return cls(folder / f"{name}.h5", *(folder / f"{name}_{stem}.json" for stem in stems))


def find_files(folder: Path, name: str | None) -> Files:
    """Files of the one data set in a folder, or in a folder below it.

    Raises
    ------
    InputError
        If there is none, several but no name is given, or a file is missing.
    """
    if not folder.is_dir():
        raise FileInputError(folder, "expected a folder with NAME.h5, got no folder; check the path.")
    there = [*folder.glob("*.h5"), *folder.glob("*/*.h5")]
    found = sorted(path for path in there if is_data(path.relative_to(folder)))
    chosen = [path for path in found if name is None or path.stem == name]
    if len(chosen) != 1:
        names = ", ".join(path.stem for path in found) or "none"
        raise FileInputError(folder, f"expected one data set NAME.h5, got {names}; select one with --name.")
    files = Files.at(chosen[0].parent, chosen[0].stem)
    for path in (files.band_stats, files.splits, files.tile_info):
        if not path.is_file():
            raise FileInputError(path, "expected this file beside the HDF5 file, found none; copy it there.")
    return files


@dataclass(frozen=True, slots=True)
class OpenArray:
    """One array of an open file."""

    form: PublishedArray
    modality: Modality
    data: Any


class PublishedFolder:
    """One open data set: arrays, ids and splits of its rows, and the position of their entries in tile_info.

    Attributes
    ----------
    files
        Paths of its files.
    arrays
        The arrays it contains.
    size_px
        Pixels per side.
    ids
        (rows,) published ids.
    scenes
        (rows,) location and time of each tile, see `mmearth_data.interchange.entries.SCENE`.
    split
        (rows,) split codes as used in the store.
    unused_entries
        Entries of tile_info without a row.
    band_stats
        Content of ``NAME_band_stats.json``.
    """

    def __init__(self, files: Files, file: h5py.File, form: PublishedForm, catalog: Catalog) -> None:
        self.files = files
        self._form = form
        self.synthetic = bool(file.attrs.get(SYNTHETIC, False))
        with reading(files.h5):
            self.arrays = _open_arrays(files.h5, file, form, catalog)
            self.ids, self._levels = _read_metadata(files.h5, file, form)
        self.rows = len(self.ids)
        self.size_px = _check_shapes(files.h5, self.arrays, self.rows)
        self.band_stats = read_json(files.band_stats)
        self.split = read_splits(files.splits, self.rows)
        self.scenes, self._spans, self.unused_entries = self._index_entries()

    def _index_entries(self) -> tuple[NDArray[Any], NDArray[np.int64], int]:
        """Read tile_info once: scenes of all rows, and the positions of their entries."""
        path = self.files.tile_info
        rows = {published_id: row for row, published_id in enumerate(self.ids.tolist())}
        if len(rows) < self.rows:
            ids, counts = np.unique(self.ids, return_counts=True)
            twice = ids[counts > 1][0].decode(errors="replace")
            raise FileInputError(
                self.files.h5, f"expected rows with different ids, got {twice!r} twice; repair the file."
            )
        scenes = np.zeros(self.rows, dtype=SCENE)
        spans = np.full((self.rows, 2), -1, dtype=np.int64)
        unused = 0
        for key, entry, offset, length in ObjectWalker(path).entries():
            row = rows.get(key.encode())
            if row is None:
                unused += 1
                continue
            if spans[row, 0] >= 0:
                raise FileInputError(path, f"expected one entry for {key!r}, got two; remove one.")
            scenes[row] = self._scene(key, entry)
            spans[row] = offset, length
        lost = np.flatnonzero(spans[:, 0] < 0)
        if len(lost):
            first = self.ids[lost[0]].decode(errors="replace")
            raise FileInputError(
                path,
                f"expected an entry for every row of {self.files.h5.name}, got none for {len(lost)}, the first is "
                f"{first!r} (row {lost[0]}); take the files of one data set.",
            )
        known = self._levels >= 0
        scenes["s2_level"][known] = self._levels[known]
        return scenes, spans, unused

    def _scene(self, key: str, entry: Any) -> tuple[Any, ...]:  # noqa: ANN401 - whatever JSON holds
        if not isinstance(entry, dict):
            raise FileInputError(self.files.tile_info, f"{key}: expected an object, got {type(entry).__name__}.")
        try:
            return read_scene(self._form, entry)
        except InputError as error:
            raise FileInputError(self.files.tile_info, f"{key}: {error}.") from None

    def entries(self, rows: Sequence[int]) -> Iterator[Mapping[str, Any]]:
        """Entries of tile_info of some rows."""
        with self.files.tile_info.open("rb") as file:
            for row in rows:
                offset, length = self._spans[row].tolist()
                file.seek(offset)
                yield json.loads(file.read(length))

    def read(self, array: OpenArray, rows: slice) -> np.ndarray[Any, Any]:
        """Raw values of consecutive rows.

        Raises
        ------
        FileInputError
            When the file is damaged there.
        """
        with reading(self.files.h5, f" ({array.form.name}, rows {rows.start} to {rows.stop - 1})"):
            return np.asarray(array.data[rows])


@contextmanager
def open_folder(files: Files, form: PublishedForm, catalog: Catalog) -> Iterator[PublishedFolder]:
    """Open a data set and check it.

    Raises
    ------
    InputError
        When a file is missing or damaged, or files contradict each other.
    """
    with reading(files.h5):
        # Every chunk is read once: a cache of them would only hold memory.
        file = h5py.File(files.h5, "r", rdcc_nbytes=0)
    with file:
        yield PublishedFolder(files, file, form, catalog)


@contextmanager
def reading(path: Path, where: str = "") -> Iterator[None]:
    """Convert HDF5's errors about a damaged file to one line."""
    try:
        yield
    except (OSError, RuntimeError, KeyError) as error:
        words = " ".join(str(error).split())
        raise FileInputError(
            path, f"expected a complete HDF5 file, got: {words}{where}; copy the file again."
        ) from None


def _open_arrays(path: Path, file: h5py.File, form: PublishedForm, catalog: Catalog) -> tuple[OpenArray, ...]:
    known = {array.name: array for array in form.arrays}
    arrays = {name for name in file if isinstance(file[name], h5py.Dataset)}
    unknown = sorted((set(file) - set(known) - {form.metadata.array}) | (set(file) - arrays))
    if unknown:
        raise FileInputError(
            path, f"expected arrays of the published form ({', '.join(known)}), got {', '.join(unknown)}; remove them."
        )
    opened = [
        OpenArray(array, catalog.find(array.modality), file[name]) for name, array in known.items() if name in file
    ]
    if not any(array.modality.kind.is_raster for array in opened):
        raise FileInputError(path, f"expected at least one array of pixels, got {', '.join(file) or 'none'}.")
    return tuple(opened)


def _read_metadata(path: Path, file: h5py.File, form: PublishedForm) -> tuple[NDArray[np.bytes_], NDArray[np.int64]]:
    """Read published ids of all rows, and their levels as codes, -1 where the file does not say."""
    words = form.metadata
    data = file.get(words.array)
    names = () if data is None else data.dtype.names or ()
    if words.id not in names:
        raise FileInputError(
            path, f"expected an array {words.array} with a field {words.id}, got none; copy the file again."
        )
    ids: NDArray[np.bytes_] = data[words.id]
    ids = ids.astype(f"S{max(1, int(np.char.str_len(ids).max(initial=1)))}")
    levels = np.full(len(ids), -1, dtype=np.int64)
    if words.level in names:
        given = data[words.level]
        for code, level in LEVEL_NAMES.items():
            levels[given == form.levels[level].encode()] = code
    return ids, levels


def _check_shapes(path: Path, arrays: Sequence[OpenArray], rows: int) -> int:
    """Pixels per side of all rasters.

    Raises
    ------
    FileInputError
        With the array that does not fit.
    """
    if not rows:
        raise FileInputError(path, "expected at least one row, got none.")
    size_px = next(int(a.data.shape[-1]) for a in arrays if a.modality.kind.is_raster)
    for array in arrays:
        shape = (rows, *array.form.shape(array.modality, size_px))
        if tuple(array.data.shape) != shape:
            got = tuple(array.data.shape)
            raise FileInputError(
                path,
                f"{array.form.name}: expected the shape {shape} (one row per tile), got {got}; copy the file again.",
            )
        wanted, dtype = np.dtype(array.form.dtype), array.data.dtype
        same_kind = (dtype.kind == "f") == (wanted.kind == "f") and dtype.kind in "iuf"
        if not same_kind or (dtype.kind == "f" and dtype.itemsize > wanted.itemsize):
            raise FileInputError(path, f"{array.form.name}: expected numbers of type {wanted}, got {dtype}.")
    return size_px


def read_json(path: Path) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Content of a JSON file.

    Raises
    ------
    FileInputError
        When it cannot be read.
    """
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise FileInputError(path, f"expected JSON, got: {error}; copy the file again.") from None
    except OSError as error:
        raise FileInputError(path, f"expected a file that can be read, got: {reason_of(error)}.") from None


def read_splits(path: Path, rows: int) -> NDArray[np.uint8]:
    """(rows,) split codes from lists of row numbers.

    Raises
    ------
    FileInputError
        If a split is unknown, or a row does not exist or is in two splits.
    """
    content = read_json(path)
    codes = {name: code for code, name in SPLIT_NAMES.items()}
    if not isinstance(content, dict) or set(content) - set(codes):
        got = ", ".join(sorted(set(content) - set(codes))) if isinstance(content, dict) else type(content).__name__
        raise FileInputError(path, f"expected lists of rows under {', '.join(codes)}, got {got}; rename them.")
    split = np.full(rows, SPLIT_NONE, dtype=np.uint8)
    for name, listed in content.items():
        members = np.asarray(listed if isinstance(listed, list) else [None])
        if members.size and (members.dtype.kind not in "iu" or members.min() < 0 or members.max() >= rows):
            raise FileInputError(
                path, f"{name}: expected row numbers from 0 to {rows - 1}, got others; take the files of one data set."
            )
        members = members.astype(np.intp)
        if (split[members] != SPLIT_NONE).any() or len(np.unique(members)) < len(members):
            raise FileInputError(path, f"{name}: expected every row in at most one split, got one twice; remove it.")
        split[members] = codes[name]
    return split
