"""Containers of images: a folder, a zip, an HDF5 file or a NumPy array, each as an `Images`.

Readers open their file on first use and are pickled without it, since an open file cannot be sent to another process.
Nothing is unpickled, and nothing is written to the disk.
"""

from __future__ import annotations

import hashlib
import os
import threading
import zipfile
import zlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mmearth_data.errors import FileInputError
from mmearth_data.files.listing import is_data
from mmearth_data.rasterfile import Raster, marks_synthetic
from mmearth_data.sources.chips.decoding import SUFFIXES, Axes, decode, is_marked_synthetic, to_planes, unreadable
from mmearth_data.words import did_you_mean, os_problem, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

DIGEST_BYTES = 16
MOST_BYTES = 2**30
"""Largest file in a zip that is read."""
CHUNK_CACHE = 2**26
"""Maximum size of the cache of decoded chunks: a chunk often contains many images, which are read one by one."""
HDF5 = (".h5", ".hdf5", ".he5")
NUMPY = (".npy", ".npz")


class Images(Protocol):
    """Images of one layer."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all images, in a fixed order: paths within a folder or zip, row numbers of an array."""
        ...

    @property
    def in_files(self) -> bool:
        """True if every image is a file of its own, whose name may hold facts."""
        ...

    def digest(self, name: str) -> bytes:
        """Digest of the content of one image; the same content has the same digest in a folder and in a zip."""
        ...

    def is_synthetic(self, name: str) -> bool:
        """Whether an image that was digested is marked as synthetic."""
        ...

    def read(self, name: str, planes: int, axes: Axes | None) -> Raster:
        """Read one image; TileUnavailable if it cannot be read, or has another number of planes."""
        ...


def open_images(path: Path, dataset: str | None) -> Images:
    """Open what a chips file names under ``images``.

    Parameters
    ----------
    path
        Folder, zip, HDF5 file, .npy or .npz file.
    dataset
        Dataset or array within an HDF5 or .npz file; None elsewhere.

    Raises
    ------
    FileInputError
        If there is nothing of the kind, or a dataset is missing or superfluous.
    """
    suffix = path.suffix.lower()
    if path.is_dir() or suffix == ".zip":
        if dataset is not None:
            raise FileInputError(path, f"expected no dataset for files of images, got {dataset!r}; leave it out.")
        return FolderImages(path) if path.is_dir() else ZipImages(path)
    return ArrayImages(open_array(path, dataset))


class _Opened:
    """Holds a handle that is opened on first use and not pickled with the reader."""

    _handle: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_handle", "_lock")}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def _opened(self, opener: Callable[[], Any]) -> Any:  # noqa: ANN401 - libraries' own objects
        with self._lock:
            if self._handle is None:
                self._handle = opener()
            return self._handle


class _Files(_Opened, ABC):
    """Images that are files."""

    in_files = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._synthetic: set[str] = set()
        self.names = tuple(sorted(name for name in self._listed() if is_data(name) and name.lower().endswith(SUFFIXES)))

    @abstractmethod
    def _listed(self) -> list[str]:
        """Paths of all files, images or not."""

    @abstractmethod
    def data(self, name: str) -> bytes:
        """Content of one file; TileUnavailable if it cannot be read."""

    def digest(self, name: str) -> bytes:
        """Digest of the bytes of a file."""
        data = self.data(name)
        if is_marked_synthetic(data, name):
            self._synthetic.add(name)
        return digest_of(data)

    def is_synthetic(self, name: str) -> bool:
        """Whether the tags of a file mark it as synthetic; known once it is digested, so that it is read only once."""
        return name in self._synthetic

    def read(self, name: str, planes: int, axes: Axes | None) -> Raster:
        """Decode one file."""
        return decode(self.data(name), name, planes, axes)


class FolderImages(_Files):
    """Image files below a folder."""

    def _listed(self) -> list[str]:
        found = [os.path.join(folder, name) for folder, _, names in os.walk(self.path) for name in names]  # noqa: PTH118
        return [Path(name).relative_to(self.path).as_posix() for name in found]

    def data(self, name: str) -> bytes:
        """Content of one file."""
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise unreadable(name, os_problem(error)) from None


class ZipImages(_Files):
    """Image files in a zip, which is never extracted."""

    def _listed(self) -> list[str]:
        names = [info.filename for info in self._zip().infolist() if not info.is_dir()]
        hostile = next((name for name in names if _leaves(name)), None)
        if hostile is not None:
            raise FileInputError(
                self.path, f"expected paths within the zip, got {hostile!r}; make the zip again, without such names."
            )
        twice = len(names) - len(set(names))
        if twice:
            raise FileInputError(self.path, f"expected every name once, got {twice} twice; make the zip again.")
        return names

    def _zip(self) -> zipfile.ZipFile:
        def opener() -> zipfile.ZipFile:
            try:
                return zipfile.ZipFile(self.path)
            except OSError as error:
                raise FileInputError(self.path, f"expected a zip of images; {os_problem(error)}.") from None
            except zipfile.BadZipFile as error:
                problem = f"expected a complete zip of images, got one that cannot be read ({reason_of(error)}); copy it again."
                raise FileInputError(self.path, problem) from None

        opened: zipfile.ZipFile = self._opened(opener)
        return opened

    def data(self, name: str) -> bytes:
        """Content of one file."""
        archive = self._zip()
        info = archive.getinfo(name)
        if info.file_size > MOST_BYTES:
            raise unreadable(name, f"expected at most {MOST_BYTES} bytes, got {info.file_size}")
        try:
            return archive.read(info)
        except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError) as error:
            raise unreadable(name, reason_of(error) or "truncated") from None


def _leaves(name: str) -> bool:
    """Whether a name in a zip leads elsewhere if it is taken as a path."""
    return name.startswith("/") or "\\" in name or ":" in name[:2] or ".." in name.split("/")


class Array(Protocol):
    """An array with one entry per image."""

    path: Path
    synthetic: bool
    """Whether its file is marked as synthetic."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape, the images first."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of its numbers."""
        ...

    def row(self, at: int) -> NDArray[Any]:
        """One entry."""
        ...

    def all(self) -> NDArray[Any]:
        """All entries."""
        ...


class NumpyArray(_Opened):
    """A .npy file, read as needed, or an array of a .npz file; see `Array`."""

    synthetic = False

    def __init__(self, path: Path, name: str | None) -> None:
        self.path, self._name = path, name
        self._lock = threading.Lock()
        self.shape: tuple[int, ...] = self.all().shape
        self.dtype: np.dtype[Any] = self.all().dtype

    def row(self, at: int) -> NDArray[Any]:
        """One entry."""
        return np.asarray(self.all()[at])

    def all(self) -> NDArray[Any]:
        """All entries."""
        opened: NDArray[Any] = self._opened(self._load)
        return opened

    def _load(self) -> NDArray[Any]:
        try:
            loaded = np.load(self.path, mmap_mode="r" if self._name is None else None, allow_pickle=False)
            if self._name is None:
                return np.asarray(loaded)
            with loaded as arrays:
                known = list(arrays)
                if self._name in known:
                    return np.asarray(arrays[self._name])
        except OSError as error:
            raise FileInputError(self.path, f"expected a NumPy array; {os_problem(error)}.") from None
        except (ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
            problem = f"expected a NumPy array of numbers, got a file that cannot be read ({reason_of(error)})"
            raise FileInputError(self.path, f"{problem}; write it again, without objects.") from None
        raise FileInputError(self.path, f"expected the array {self._name!r}; {did_you_mean(self._name, known)}")


class Hdf5Array(_Opened):
    """A dataset of an HDF5 file."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self._name = path, name
        self._lock = threading.Lock()
        dataset = self._dataset()
        self.synthetic = marks_synthetic(dataset.file.attrs)
        self.shape: tuple[int, ...] = dataset.shape
        self.dtype: np.dtype[Any] = dataset.dtype

    def row(self, at: int) -> NDArray[Any]:
        """One entry."""
        return np.asarray(self._dataset()[at])

    def all(self) -> NDArray[Any]:
        """All entries; text as str."""
        import h5py

        dataset = self._dataset()
        return np.asarray(dataset.asstr()[...] if h5py.check_string_dtype(dataset.dtype) else dataset[...])

    def _dataset(self) -> Any:  # noqa: ANN401 - h5py has no types
        return self._opened(self._load)

    def _load(self) -> Any:  # noqa: ANN401
        import h5py

        try:
            file = h5py.File(self.path, "r", rdcc_nbytes=CHUNK_CACHE)
            link = file.get(self._name, getlink=True)
            found = None if isinstance(link, h5py.ExternalLink) else file.get(self._name)
        except (OSError, ValueError, KeyError) as error:
            problem = f"expected an HDF5 file, got one that cannot be read ({reason_of(error)}); copy it again."
            raise FileInputError(self.path, problem) from None
        if isinstance(found, h5py.Dataset) and found.shape:
            return found
        known: list[str] = []
        file.visititems(lambda name, item: known.append(name) if isinstance(item, h5py.Dataset) else None)
        raise FileInputError(self.path, f"expected the dataset {self._name!r}; {did_you_mean(self._name, known)}")


def open_array(path: Path, name: str | None) -> Array:
    """Open an array of a file.

    Parameters
    ----------
    path
        HDF5 file, .npy or .npz file.
    name
        Dataset or array in the file; None for .npy.

    Raises
    ------
    FileInputError
        If the file is of another kind or not there, or has no such array.
    """
    suffix = path.suffix.lower()
    if suffix not in (*HDF5, *NUMPY):
        found = "a file" if path.exists() else "nothing"
        problem = f"expected a folder, a zip, HDF5 ({', '.join(HDF5)}), .npy or .npz, found {found}; correct the path."
        raise FileInputError(path, problem)
    if not path.is_file():
        raise FileInputError(path, "expected a file of images, found none; correct the path.")
    if (suffix == ".npy") != (name is None):
        word = "no dataset for a .npy file" if suffix == ".npy" else "dataset, the name of an array in the file"
        raise FileInputError(path, f"expected {word}, got {name!r}; {'remove' if name else 'add'} it.")
    return Hdf5Array(path, str(name)) if suffix in HDF5 else NumpyArray(path, name)


class ArrayImages:
    """Images along the first axis of an array."""

    in_files = False

    def __init__(self, array: Array) -> None:
        self._array = array
        if len(array.shape) not in (3, 4) or array.dtype.kind not in "iufb":
            raise FileInputError(
                array.path,
                "expected an array of numbers with the axes (image, y, x) or (image, y, x, band) in any order, got "
                f"{array.dtype} of shape {array.shape}; choose another dataset.",
            )
        self.names = tuple(str(at) for at in range(array.shape[0]))

    def digest(self, name: str) -> bytes:
        """Digest of type, shape and numbers."""
        row = np.ascontiguousarray(self._array.row(int(name)))
        return digest_of(f"{row.dtype.str}{row.shape}".encode(), row.tobytes())

    def is_synthetic(self, name: str) -> bool:
        """Whether the file of the array is marked as synthetic."""
        return self._array.synthetic

    def read(self, name: str, planes: int, axes: Axes | None) -> Raster:
        """Read one image."""
        return Raster.of(to_planes(self._array.row(int(name)), planes, axes, f"row {name}"))


def digest_of(*parts: bytes) -> bytes:
    """BLAKE2b digest of some bytes."""
    content = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        content.update(part)
    return content.digest()
