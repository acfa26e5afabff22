"""Blocks of a large result: each is computed once, by any process, and kept until the result is complete.

::

    .OUT.work/identity.json        what is computed; must not change
    .OUT.work/claim                the process that computes it
    .OUT.work/network/             the network that every process loads
    .OUT.work/block-ROW-COLUMN.npz finished blocks
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import FileInputError, InputError, RetryLater, make_folder, write_bytes, write_text
from mmearth_model.claims import claim
from mmearth_model.devices import limited_threads
from mmearth_model.spreading import Spreading, spread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

IDENTITY_FILE = "identity.json"
CLAIM = "claim"
MULTIPLE = 512
"""Blocks begin and end at multiples of the tile size of the output files."""
MIN_ROWS, WINDOWS_PER_BLOCK = 1024, 8
"""Windows across the border of two blocks are computed for both, so blocks are many windows high: 4 % more than the
necessary windows for half a window of overlap."""


FEW_BLOCKS = 8
"""Blocks of the usual size below which a result is divided into smaller ones."""
MAX_NUMBERS = 2**24
"""Maximum number of float32 values of a block in memory: 64 MiB; several arrays of that size exist at once."""


@dataclass(frozen=True, slots=True, order=True)
class Block:
    """Part of a result, in its pixels."""

    row: int
    column: int
    height: int
    width: int

    @classmethod
    def of(cls, rows: slice, columns: slice) -> Block:
        """Block of some rows and columns."""
        return cls(rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start)

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return self.height * self.width

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"block-{self.row:07d}-{self.column:07d}.npz"


def plan_blocks(
    height: int, width: int, window: int, *, channels: int = 1, side: int | None = None
) -> tuple[Block, ...]:
    """Divide a result into blocks.

    The division depends on sizes only, and never on how many processes work on it.

    Parameters
    ----------
    height, width
        Pixels of the result.
    window
        Pixels of the result that one window covers, along one axis.
    channels
        Values per pixel in memory while a block is computed, which limit its size.
    side
        Rows of a block; None chooses enough rows that few windows overlap two blocks. Blocks are twice as wide.
    """
    fitting = int((MAX_NUMBERS / (2 * channels)) ** 0.5) // MULTIPLE * MULTIPLE
    wanted = _whole(max(MIN_ROWS, WINDOWS_PER_BLOCK * window))
    if height * width < FEW_BLOCKS * 2 * wanted**2:  # so that several processes have work
        wanted = min(wanted, _whole(2 * window))
    rows = side or max(MULTIPLE, min(wanted, fitting))
    columns = 2 * rows
    return tuple(
        Block(row, column, min(rows, height - row), min(columns, width - column))
        for row in range(0, height, rows)
        for column in range(0, width, columns)
    )


def _whole(rows: int) -> int:
    """Round up to a multiple of `MULTIPLE`."""
    return -(-rows // MULTIPLE) * MULTIPLE


@dataclass(frozen=True, slots=True)
class WorkFolder:
    """Folder next to a result with its finished blocks."""

    path: Path

    @classmethod
    def beside(cls, out: Path) -> WorkFolder:
        """Work folder of a result."""
        return cls(out.with_name(f".{out.name}.work"))

    @contextmanager
    def hold(self, identity: Mapping[str, Any]) -> Iterator[None]:
        """Create the folder, or resume that of an interrupted run, for one process at a time.

        Raises
        ------
        InputError
            If it contains blocks of another result.
        RetryLater
            If another process is using it.
        """
        make_folder(self.path)
        with claim(self.path / CLAIM) as ours:
            if not ours:
                raise RetryLater(
                    f"{self.path}: another process is computing this result; wait until it ends, or choose another "
                    "--out."
                )
            self._identify(identity)
            yield

    def _identify(self, identity: Mapping[str, Any]) -> None:
        file, text = self.path / IDENTITY_FILE, json.dumps(identity, indent=1) + "\n"
        if not file.is_file():
            write_text(file, text)
        elif file.read_text(encoding="utf-8") != text:
            raise InputError(
                f"{self.path}: expected the blocks of this command, found those of {_difference(file, identity)}; run that "
                "command again to finish it, delete the folder, or choose another --out."
            )

    def finished(self, block: Block) -> bool:
        """Whether a block is finished."""
        return (self.path / block.name).is_file()

    def write(self, block: Block, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write a block atomically."""
        content = io.BytesIO()
        named: dict[str, Any] = dict(arrays)
        np.savez(content, **named)
        write_bytes(self.path / block.name, content.getbuffer())

    def read(self, block: Block) -> dict[str, NDArray[Any]]:
        """Read the arrays of a block. Raises `FileInputError` if the file is damaged."""
        path = self.path / block.name
        try:
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except (OSError, ValueError, KeyError) as error:
            raise FileInputError(
                path,
                f"expected a finished block, got an unreadable file ({error}); delete it and run the command again.",
            ) from None

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path)


def _difference(file: Path, identity: Mapping[str, Any]) -> str:
    """Describe the difference from the identity of earlier blocks."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        names = [name for name in {**found, **identity} if found.get(name) != identity.get(name)]
    except (ValueError, AttributeError):
        names = []
    return f"another command (different: {', '.join(names)})" if names else "another command"


def digest_of(identity: Mapping[str, Any]) -> str:
    """Digest of an identity, for the tags of a result."""
    return hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=16).hexdigest()


def run_blocks(
    compute: Callable[[Block], None],
    blocks: Sequence[Block],
    folder: WorkFolder,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    threads: int = 1,
    report: Callable[[float, float], None] | None = None,
) -> None:
    """Compute the blocks that are not finished.

    Parameters
    ----------
    compute
        Computes one block and writes it into the work folder; it is pickled for other processes.
    blocks
        All blocks of the result.
    folder
        Where they are kept.
    workers
        Number of processes on this machine.
    scheduler
        Address of a Dask scheduler instead, whose workers see the same folders.
    threads
        Threads of each process on this machine. A different number may change the last bits of the result.
    report
        Called with the number of finished pixels, and their total.

    Raises
    ------
    InputError
        If the scheduler does not respond.
    RetryLater
        When a process died.
    """
    total = sum(block.pixels for block in blocks)
    todo = [block for block in blocks if not folder.finished(block)]
    done = total - sum(block.pixels for block in todo)
    tell = report or _silent
    tell(done, total)
    for block in _computed(compute, todo, Spreading(min(workers, max(1, len(todo))), scheduler, threads)):
        done += block.pixels
        tell(done, total)


def _computed(compute: Callable[[Block], None], todo: Sequence[Block], where: Spreading) -> Iterator[Block]:
    if where.elsewhere and todo:
        yield from (block for block, _ in spread(compute, todo, where))
        return
    with limited_threads(where.threads or 1):
        for block in todo:
            compute(block)
            yield block


def _silent(done: float, total: float) -> None:
    """Report nothing."""
