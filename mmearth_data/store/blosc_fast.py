"""Call the library that python-blosc2 ships (extra ``fast``), without holding the GIL: from Python and compiled loops.

Each thread keeps its contexts, which avoids allocating memory for small tiles; numcodecs' Blosc creates a Zstandard
context for every block.

Importing this module raises ImportError if the library is not found; `mmearth_data.store.codec` then uses numcodecs.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.store.codec import CRC_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

LIBRARIES = ("lib/libblosc2.so", "lib/libblosc2.dylib", "lib/libblosc2.dll", "lib/blosc2.dll", "bin/libblosc2.dll")
ZSTD, BITSHUFFLE, FILTERS = 5, 2, 6


class _Compression(ctypes.Structure):
    """`blosc2_cparams` of ``blosc2.h``; only the first fields are set, the others keep their defaults."""

    _fields_ = (
        ("compcode", ctypes.c_uint8),
        ("compcode_meta", ctypes.c_uint8),
        ("clevel", ctypes.c_uint8),
        ("use_dict", ctypes.c_int),
        ("typesize", ctypes.c_int32),
        ("nthreads", ctypes.c_int16),
        ("blocksize", ctypes.c_int32),
        ("splitmode", ctypes.c_int32),
        ("schunk", ctypes.c_void_p),
        ("filters", ctypes.c_uint8 * FILTERS),
        ("others", ctypes.c_uint8 * 512),  # more than there is: later releases may add fields
    )


class _Decompression(ctypes.Structure):
    """`blosc2_dparams` of ``blosc2.h``."""

    _fields_ = (("nthreads", ctypes.c_int16), ("others", ctypes.c_uint8 * 510))


def _load() -> ctypes.CDLL:
    """Open the library and declare its functions; ImportError if it is missing or incompatible."""
    found = find_spec("blosc2")
    folders = [] if found is None else found.submodule_search_locations or []
    files = [Path(folder, name) for folder in folders for name in LIBRARIES]
    path = next((file for file in files if file.is_file()), None)
    if path is None:
        raise ImportError("python-blosc2 is not installed, or comes without its library")
    try:
        library = ctypes.CDLL(str(path))
        _declare(library)
    except (OSError, AttributeError) as error:
        raise ImportError(f"{path} cannot be used: {error}") from error
    defaults = library.blosc2_get_blosc2_cparams_defaults()
    if (defaults.clevel, defaults.typesize, defaults.nthreads, *defaults.filters) != (5, 8, 1, 0, 0, 0, 0, 0, 1):
        raise ImportError(f"{path} has other parameters than those of blosc2.h 3.3")
    library.blosc2_init()
    return library


def _declare(library: ctypes.CDLL) -> None:
    address, size = ctypes.c_void_p, ctypes.c_int32
    declared: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "blosc2_init": (None, ()),
        "blosc2_get_version_string": (ctypes.c_char_p, ()),
        "blosc2_get_blosc2_cparams_defaults": (_Compression, ()),
        "blosc2_get_blosc2_dparams_defaults": (_Decompression, ()),
        "blosc2_create_cctx": (address, (_Compression,)),
        "blosc2_create_dctx": (address, (_Decompression,)),
        "blosc2_free_ctx": (None, (address,)),
        "blosc2_compress_ctx": (ctypes.c_int, (address, address, size, address, size)),
        "blosc2_decompress_ctx": (ctypes.c_int, (address, address, size, address, size)),
    }
    for name, (result, arguments) in declared.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments


LIBRARY = _load()
_SIGNATURE = ctypes.CFUNCTYPE(
    ctypes.c_int32, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int32, ctypes.c_size_t, ctypes.c_int32
)
DECOMPRESS = _SIGNATURE(ctypes.cast(LIBRARY.blosc2_decompress_ctx, ctypes.c_void_p).value or 0)
"""`blosc2_decompress_ctx` for compiled loops, with addresses as integers: context, input, its size, output, its
size."""
COMPRESS = _SIGNATURE(ctypes.cast(LIBRARY.blosc2_compress_ctx, ctypes.c_void_p).value or 0)
"""`blosc2_compress_ctx`, called in the same way."""


class _Context:
    """A context of the library, freed when this object is garbage-collected."""

    def __init__(self, create: Callable[[Any], int | None], parameters: ctypes.Structure) -> None:
        address = create(parameters)
        if address is None:
            raise MemoryError("expected memory for a context of Blosc, got none")
        self.address = address
        weakref.finalize(self, LIBRARY.blosc2_free_ctx, address).atexit = False


class _Contexts(threading.local):
    """Contexts of one thread: one decoder, and one encoder per chunk size, item size and level."""

    def __init__(self) -> None:
        self.decoder = _Context(LIBRARY.blosc2_create_dctx, LIBRARY.blosc2_get_blosc2_dparams_defaults())
        self._encoders: dict[tuple[int, int, int], _Context] = {}
        self._room = np.empty(0, np.uint8)

    def encoder(self, size: int, itemsize: int, level: int) -> int:
        """Address of the context that compresses chunks of ``size`` bytes with Zstandard and bitshuffle."""
        key = size, itemsize, level  # a context keeps the block size of its first chunk
        if key not in self._encoders:
            parameters = LIBRARY.blosc2_get_blosc2_cparams_defaults()
            parameters.compcode, parameters.clevel, parameters.typesize = ZSTD, level, itemsize
            parameters.filters[FILTERS - 1] = BITSHUFFLE
            self._encoders[key] = _Context(LIBRARY.blosc2_create_cctx, parameters)
        return self._encoders[key].address

    def room(self, size: int) -> NDArray[np.uint8]:
        """Reusable buffer of ``size`` bytes; the system would clear newly allocated memory for every chunk."""
        if len(self._room) < size:
            self._room = np.empty(size, np.uint8)
        return self._room[:size]


contexts = _Contexts()


def version() -> str:
    """Version of the library."""
    text: bytes = LIBRARY.blosc2_get_version_string()
    return text.decode("ascii")


def decode(frame: bytes, length: int, out: np.ndarray[Any, Any]) -> bool:
    """Decode the first ``length`` bytes of a buffer, whose header must have been checked; False if they are corrupt."""
    done: int = LIBRARY.blosc2_decompress_ctx(contexts.decoder.address, frame, length, out.ctypes.data, out.nbytes)
    return done == out.nbytes


def arguments(chunks: Sequence[bytes]) -> tuple[Any, int, NDArray[np.intp], NDArray[np.int32]]:
    """First arguments of a compiled decoding loop: `DECOMPRESS`, its context, and addresses and sizes of the frames.

    The chunks must stay in memory while the addresses are in use.
    """
    addresses = np.frombuffer(memoryview((ctypes.c_char_p * len(chunks))(*chunks)), np.intp)
    lengths = np.array([len(chunk) - CRC_BYTES for chunk in chunks], np.int32)
    return DECOMPRESS, contexts.decoder.address, addresses, lengths
