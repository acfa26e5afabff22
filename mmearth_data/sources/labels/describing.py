"""The file that describes labels: names of classes, colours, units, licence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from mmearth_data.catalog.entries import Colour, LicenceEntry, Pair, read_classes
from mmearth_data.errors import FileInputError
from mmearth_data.files.yamlfiles import read_yaml
from mmearth_data.words import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from mmearth_data.files.yamlfiles import YamlFile

SUFFIX = ".yaml"


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class LabelClass(_Entry):
    """One class: only a name, or these fields."""

    name: str
    """Name of the class."""
    code: int | None = None
    """Code that the cells of the table contain instead of the name."""
    colour: Colour | None = None
    """Display colour, ``#rrggbb``."""


class LabelEntry(_Entry):
    """Description of one column."""

    name: str | None = None
    """Name of the modality; by default that of the column."""
    long_name: str | None = None
    """Display name."""
    units: str | None = None
    """Unit of a value, in UDUNITS notation."""
    range: Pair | None = None
    """Range of the values within which percentiles are computed; by default that of the table."""
    classes: list[LabelClass] | None = None
    """All classes, in the order of their codes; by default the sorted names of the table."""
    pretext: bool = False
    """Whether it is a pretext task."""
    doi: str = ""
    """DOI of the publication to cite."""
    source: str = ""
    """Page that describes the data."""
    licence: LicenceEntry | None = None
    """Terms of use, if they differ from those of the file."""


class LabelFile(_Entry):
    """The whole file."""

    labels: dict[str, LabelEntry]
    """Column -> its description."""
    licence: LicenceEntry | None = None
    """Terms of use of all labels."""


def read_description(table: Path, given: Path | None, columns: Collection[str]) -> LabelFile:
    """Read the description of a table's columns: the given file, or else the file of the same name with suffix .yaml.

    A file next to the table is only used if it has a mapping ``labels``. Raises FileInputError with the line if a file
    does not match `LabelFile`, or describes a column that the table lacks.
    """
    path = given or table.with_suffix(SUFFIX)
    if given is None and not path.is_file():
        return LabelFile(labels={})
    file = read_yaml(path, "a description of labels")
    if given is None and not isinstance(file.values.get("labels"), dict):
        return LabelFile(labels={})
    try:
        found = LabelFile.model_validate(_with_classes(file))
    except ValidationError as error:
        raise file.refusal(error, LabelFile, "description of labels") from None
    for column in found.labels:
        if column not in columns:
            hint = did_you_mean(column, columns)
            problem = f"expected columns of {table.name}, got {column!r}; {hint}"
            raise FileInputError(path, problem, file.line_of(("labels", column)))
    return found


def _with_classes(file: YamlFile) -> dict[str, Any]:
    """Values of the file, with all classes as mappings: plain names and CSV files are converted."""
    labels = file.values.get("labels")
    if not isinstance(labels, dict):
        return file.values
    return {**file.values, "labels": {str(name): _replaced(file, str(name), entry) for name, entry in labels.items()}}


def _replaced(file: YamlFile, name: str, entry: Any) -> Any:  # noqa: ANN401 - whatever the file holds
    classes: Any = entry.get("classes") if isinstance(entry, dict) else None
    if isinstance(classes, str):
        at = file.path.parent / classes
        if not at.is_file():
            problem = f"expected a table of classes at {at}, found none; correct the path."
            raise FileInputError(file.path, problem, file.line_of(("labels", name, "classes")))
        found: list[Mapping[str, Any]] = [
            {"name": label.name, "code": label.code, "colour": label.colour} for label in read_classes(at)
        ]
        return {**entry, "classes": found}
    if isinstance(classes, list):
        return {**entry, "classes": [{"name": one} if isinstance(one, str) else one for one in classes]}
    return {} if entry is None else entry
