"""Write the cards of a folder with weights."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mmearth_data import write_text
from mmearth_model.training.layout import CARD_FILE, ITEM_FILE
from mmearth_model.weights.cards.facts import ModelFacts, read_facts
from mmearth_model.weights.cards.readme import model_card
from mmearth_model.weights.cards.stac import item

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def cards_of(facts: ModelFacts) -> dict[str, str]:
    """Text of each card, by the name of its file."""
    return {
        CARD_FILE: model_card(facts),
        ITEM_FILE: json.dumps(item(facts), indent=2, ensure_ascii=False, allow_nan=False) + "\n",
    }


def write_cards(folder: Path, config: Mapping[str, Any]) -> None:
    """Write the cards of a folder with weights, whose configuration is ``config``.

    The cards depend on these two files alone: the same weights have the same cards, wherever the folder is.
    """
    for name, text in cards_of(read_facts(folder, config)).items():
        write_text(folder / name, text)
