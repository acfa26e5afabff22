"""`mmearth-train describe`: rewrite the cards of weights, and state their licence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmearth_data import FileInputError, InputError, check_output, short_path, write_text
from mmearth_model.training.layout import CONFIG_FILE
from mmearth_model.weights.cards.facts import Role, read_facts
from mmearth_model.weights.cards.writing import cards_of, write_cards
from mmearth_model.weights.checkpoints import find_checkpoint, read_json

if TYPE_CHECKING:
    from collections.abc import Mapping


def describe(path: str | Path, *, licence: str | None = None, force: bool = False) -> Path:
    """Rewrite the cards of a checkpoint or a network: ``README.md`` (model card) and ``item.json`` (STAC, MLM).

    Both are made from the configuration and the weights alone, so that the same weights always have the same cards.
    New checkpoints and networks already have cards; those of earlier versions do not.

    Parameters
    ----------
    path
        Folder of a checkpoint or a network, or of a run (its last checkpoint).
    licence
        SPDX identifier of the licence of the weights, such as ``CC-BY-4.0``, which is recorded in their
        configuration. None keeps the recorded licence.
    force
        Also replace cards that were edited.

    Returns
    -------
    Path
        The folder with the cards.

    Raises
    ------
    InputError
        When there are no weights, a card was edited, or the licence is not an SPDX identifier.
    """
    stated = None if licence is None else check_licence(licence)
    folder = find_checkpoint(Path(path))
    check_output(folder, folder=True)
    config = _read(folder / CONFIG_FILE)
    if not force:
        _refuse_edited(folder, cards_of(read_facts(folder, config)))
    if stated is not None:
        config = {**config, "licence": stated}
        write_text(folder / CONFIG_FILE, json.dumps(config, indent=1, allow_nan=False) + "\n")
    write_cards(folder, config)
    return folder


def _read(file: Path) -> dict[str, Any]:
    config = read_json(file, "the configuration of a checkpoint or a network")
    found = config.get("architecture") if isinstance(config, dict) else None
    if found not in set(Role):
        raise FileInputError(file, f"expected architecture {', '.join(Role)}, got {found!r}; give a checkpoint or a network.")  # fmt: skip
    return dict(config)


def check_licence(text: str) -> str:
    """SPDX identifier, or expression of several, in its usual form.

    Raises
    ------
    InputError
        For anything else.

    Examples
    --------
    >>> check_licence("cc-by-4.0")
    'CC-BY-4.0'
    """
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    try:
        return str(canonicalize_license_expression(text))
    except InvalidLicenseExpression:
        raise InputError(
            "--licence: expected an identifier of the SPDX list (https://spdx.org/licenses), such as CC-BY-4.0, or "
            f"LicenseRef-NAME, got {text!r}; correct it."
        ) from None


def _refuse_edited(folder: Path, cards: Mapping[str, str]) -> None:
    for name, text in cards.items():
        path = folder / name
        if path.exists() and not (path.is_file() and path.read_bytes() == text.encode()):
            raise InputError(
                f"{short_path(path.absolute())}: expected no file, or the unedited card of these weights, found a file "
                "with "
                "different content; add --force to replace it."
            )
