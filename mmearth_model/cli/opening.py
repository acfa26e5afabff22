"""Open the stores, checkpoints and networks that a command names, by path or URL."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal, TypeVar, overload

import click

from mmearth_model.cli.output import say

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mmearth_data import Meter, Store
    from mmearth_model import Checkpoint, Network
    from mmearth_model.network.encoder import Padding

Loaded = TypeVar("Loaded", bound="Checkpoint | Network")


def store_at(path: str | Path) -> Store:
    """Open the store at a path or URL."""
    from mmearth_data import open_store

    return open_store(path)


@overload
def open_weights(path: str | Path, padding: Padding | None, *, networks: Literal[False] = False) -> Checkpoint: ...
@overload
def open_weights(path: str | Path, padding: Padding | None, *, networks: Literal[True]) -> Checkpoint | Network: ...
def open_weights(path: str | Path, padding: Padding | None, *, networks: bool = False) -> Checkpoint | Network:
    """Open a checkpoint; with ``networks``, a network is accepted too."""
    from mmearth_model import load_checkpoint
    from mmearth_model.heads.network import load_weights

    return fetched(path, partial(load_weights if networks else load_checkpoint, padding=padding))


def fetched(path: str | Path, load: Callable[..., Loaded]) -> Loaded:
    """Load weights; if they were downloaded, print their origin."""
    from mmearth_data import meter

    if "://" not in str(path):
        return load(path)
    with meter(f"Fetching {path}", "MiB") as show:
        found = load(path, report=bytes_shown(show))
    say(str(found.origin))
    return found


def bytes_shown(show: Meter) -> Callable[[int], None]:
    """Show the progress of a download."""
    return lambda received: show(0, None, f"{received / 2**20:.1f} MiB")


def of_store(task: str) -> bool:
    """Whether a task comes from a store rather than from ``NAME=PATH``."""
    return "=" not in task


def store_of(
    tasks: tuple[str, ...], store: str | Path | None, checkpoints: Sequence[Checkpoint | Network]
) -> Store | None:
    """Store that the tasks come from: the given one, or that of the first checkpoint or network."""
    from mmearth_model.weights.store_record import find_store

    if store is not None:
        return store_at(store)
    if not any(of_store(task) for task in tasks):
        return None
    if not checkpoints:
        raise click.UsageError("expected a store for the tasks, got none; give --store, or NAME=PATH as --task.")
    record, folder = checkpoints[0].store, checkpoints[0].folder
    if folder is None or not record["path"]:
        raise click.UsageError(
            f"expected a store for the tasks, got none, and {checkpoints[0].name} {_without_store(checkpoints[0])}."
        )
    return find_store(record, folder.parent)


def _without_store(found: Checkpoint | Network) -> str:
    """Explain why the weights record no store, and what to do about it."""
    from mmearth_model import Network

    if isinstance(found, Network):
        return "was trained on files; give --store STORE"
    return "was converted without one; convert it again with --store STORE"
