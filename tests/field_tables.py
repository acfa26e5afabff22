"""Tables of all fields of recipes for ``pipelines/README.md``; run it as a program to write them there."""

from __future__ import annotations

import re
from typing import Literal, get_args, get_origin

from mmearth_data import BuildFields, resource_path
from mmearth_data.fields import Field, fields_of, limits_text
from mmearth_model.fields import TrainFields

PAGE = resource_path("pipelines") / "README.md"
TABLES = {"build": BuildFields, "train": TrainFields}
"""Folder of recipes -> class that declares their fields; the page has a heading of the form ``## `FOLDER` `` for each."""
HEAD = "| field | option | meaning | values | default |\n|---|---|---|---|---|\n"


def table(declaration: type) -> str:
    """Markdown table of all fields."""
    return HEAD + "".join(map(row, fields_of(declaration).values()))


def row(field: Field) -> str:
    """One line of a table."""
    choices = field.kind if get_origin(field.kind) is Literal else (*get_args(field.kind), None)[0]
    values = ", ".join(map(str, get_args(choices))) if get_origin(choices) is Literal else limits_text(field.limits)
    cells = (f"`{field.name}`", f"`{field.flag}`" if field.flag else "", field.about.text, values, field.default)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def page(text: str) -> str:
    """Page with its tables replaced by those of the declared fields."""
    for folder, declaration in TABLES.items():
        made = table(declaration).replace("\\", "\\\\")
        text, found = re.subn(rf"(?<=\n)(## `{folder}`\n.*?\n)(?:\|[^\n]*\n)+", rf"\1{made}", text, flags=re.DOTALL)
        assert found == 1, f"{PAGE} has no table under the heading `{folder}`"
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
