"""Write the cards of a store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmearth_data.errors import InputError
from mmearth_data.files.writing import check_output, write_text
from mmearth_data.inspection.cards import croissant, readme, stac
from mmearth_data.inspection.cards.facts import read_facts
from mmearth_data.store.reader import open_store
from mmearth_data.store.schema import ROOT_KEY
from mmearth_data.words import short_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmearth_data.store.reader import Store


def describe(path: str | Path, out: str | Path | None = None, *, force: bool = False) -> Path:
    """Write cards of a finished store: ``README.md`` (dataset card), ``croissant.json`` and ``collection.json`` (STAC).

    They are made from the metadata and tables of the store alone, so the same store always has the same cards. They are not
    part of the store: its digest and `verify` ignore them.

    Parameters
    ----------
    path
        Folder or URL of the store.
    out
        Folder to write into; by default the store itself, or ``NAME-cards`` in the current folder if it is in a bucket.
    force
        Replace existing files that differ from what would be written.

    Returns
    -------
    Path
        The folder with the cards.

    Raises
    ------
    InputError
        When there is no finished store, one of the files exists with different content, or ``out`` is another store.
    """
    store = open_store(path)
    if not store.finished:
        raise InputError(
            f"{store.path}: expected a finished store to describe, got an unfinished one; run the command that builds it again."
        )
    folder = _folder(store, out)
    check_output(folder, folder=True)
    facts = read_facts(store, folder)
    cards = {
        readme.NAME: readme.dataset_card(facts),
        croissant.NAME: _json(croissant.croissant(facts)),
        stac.NAME: _json(stac.collection(facts)),
    }
    if not force:
        _refuse_others(folder, cards)
    for name, text in cards.items():
        write_text(folder / name, text)
    return folder


def _folder(store: Store, out: str | Path | None) -> Path:
    if out is None:
        return store.path if isinstance(store.path, Path) else Path(f"{store.path.stem}-cards")
    if "://" in str(out):
        raise InputError(f"--out: expected a folder, got the URL {out}; write the cards to a folder and upload them.")
    folder = Path(out)
    own = isinstance(store.path, Path) and folder.exists() and folder.samefile(store.path)
    if not own and (folder / ROOT_KEY).exists():
        raise InputError(
            f"--out: expected a folder for the cards of {store.path}, got another store, {short_path(folder.absolute())}; choose "
            "another folder, or leave --out out."
        )
    return folder


def _json(body: Mapping[str, Any]) -> str:
    return json.dumps(body, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _refuse_others(folder: Path, cards: Mapping[str, str]) -> None:
    """Refuse to replace files with different content, since they may have been edited.

    Raises
    ------
    InputError
        Names the first of these files.
    """
    for name, text in cards.items():
        path = folder / name
        if path.exists() and not (path.is_file() and path.read_bytes() == text.encode()):
            raise InputError(
                f"{short_path(path.absolute())}: expected no file, or the unchanged card of this store, found a file with "
                "different content, which may have been edited; add --force to replace it, or choose another --out."
            )
