"""The description of an external encoder: its bands, their units and normalisation, and its output."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mmearth_data import NO_LEVEL, FileInputError, InputError, Kind, load_catalog, read_yaml, scale_of
from mmearth_model.data.targets import LEVELS, Normaliser
from mmearth_model.evaluation.external.inputs import Clipped
from mmearth_model.evaluation.features import check_bands, input_normaliser
from mmearth_model.tasks.labelled import meant

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mmearth_data import Modality
    from mmearth_model.evaluation.features import ImageInput
    from mmearth_model.tasks import LabelledSet

Units = Literal["physical", "stored", "0-1", "0-255"]
PICTURES: dict[str, float] = {"0-1": 1.0, "0-255": 255.0}
"""Units of RGB images -> value of white."""
Output = Literal["vector", "map", "map-last", "tokens"]


class EncoderDescription(BaseModel):
    """Input and output of an external encoder; the fields of its YAML file.

    Attributes
    ----------
    name
        Name in tables; by default that of the file or the factory.
    modality
        Modality of the catalog, or of the store of the task.
    bands
        Its bands by their names in the catalog, in the order of the encoder's channels.
    units
        Units of the encoder's input before its normalisation. ``physical``: those of the catalog (reflectance from 0 to 1,
        decibels, metres); ``stored``: the values in a store (for Sentinel-2, reflectance times 10,000); ``0-1`` and
        ``0-255``: values of an RGB image, clipped.
    range
        For ``0-1`` and ``0-255``: the physical values of black and white. By default, those with which the catalog
        displays the modality.
    mean, std
        Mean and standard deviation of each band, in ``units``; subtracted, and divided by.
    normalise
        Instead of ``mean`` and ``std``: ``task`` normalises each band by the statistics of the task's training samples or
        store; ``none`` leaves the values as they are.
    size_px
        Side length to which images are resized (bilinear), for encoders with a fixed input size.
    output
        Form of the features: ``vector`` (B, D), ``map`` (B, D, h, w), ``map-last`` (B, h, w, D) or ``tokens`` (B, N,
        D). By default, it is inferred from the number of axes: two for a vector, four for a map, three for tokens.
    output_name
        Output with the features, if the encoder returns several named outputs. For a list of maps, it is not needed:
        the last map gives the features of an image, and all maps together those of its pixels.
    class_tokens
        Number of leading tokens that do not belong to image patches.
    pool
        Features of an image: the ``mean`` of its map or tokens, or the first ``class`` token.
    arguments
        Keyword arguments of the factory.
    weights
        File of weights for the module (.safetensors, or .pt and .pth with tensors only), relative to this file.
    learned
        Modalities on whose labels it was trained; results on these labels are marked as leaky.
    licence, source
        Terms of use and origin of the encoder; recorded with the results.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str | None = Field(default=None, min_length=1, max_length=100)
    modality: str = "sentinel2"
    bands: tuple[str, ...] = Field(min_length=1)
    units: Units = "physical"
    range: tuple[float, float] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    normalise: Literal["task", "none"] | None = None
    size_px: int | None = Field(default=None, ge=8, le=2048)
    output: Output | None = None
    output_name: str | None = None
    class_tokens: int = Field(default=0, ge=0, le=1000)
    pool: Literal["mean", "class"] = "mean"
    arguments: dict[str, Any] = {}
    weights: str | None = None
    learned: tuple[str, ...] = ()
    licence: str = ""
    source: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> EncoderDescription:
        checks = (self._problem_of_bands, self._problem_of_values, self._problem_of_output)
        problem = next((found for check in checks if (found := check())), None)
        if problem:
            raise InputError(problem)
        return self

    def _problem_of_bands(self) -> str | None:
        if self.name is not None and not self.name.isprintable():
            return f"name: expected printable text in one line, got {self.name!r}; correct it."
        twice = next((band for place, band in enumerate(self.bands) if band in self.bands[:place]), None)
        if twice is not None:
            return f"bands: expected every band once, got {twice} twice; leave one out."
        known = load_catalog().modalities
        unknown = next((name for name in self.learned if name not in known), None)
        if unknown is not None:
            return f"learned: expected modalities of the catalog, got {unknown!r}.{meant(unknown, known)}"
        # a modality that the catalog lacks may be one of a store
        return _unknown_band(known[self.modality], self.bands) if self.modality in known else None

    def _problem_of_values(self) -> str | None:
        lists = {"mean": self.mean, "std": self.std}
        given = [name for name, values in lists.items() if values is not None]
        if (len(given) != 2) == (self.normalise is None) or (given and self.normalise is not None):
            got = [*given, *([f"normalise: {self.normalise}"] if self.normalise else [])]
            return f"expected mean and std, or normalise: task or none, got {' and '.join(got) or 'neither'}; give one of the two."
        for name, values in lists.items():
            if values is not None and len(values) != len(self.bands):
                return f"{name}: expected {len(self.bands)} numbers, one for each band, got {len(values)}."
        if self.std is not None and min(self.std) <= 0:
            return f"std: expected numbers above 0, got {min(self.std):g}."
        if self.normalise == "task" and {"units", "range"} & self.model_fields_set:
            return "units: expected none with normalise: task, which subtracts the mean in any units; leave it out."
        if self.range is not None and (self.units not in PICTURES or self.range[0] >= self.range[1]):
            return f"range: expected two ascending numbers, with units 0-1 or 0-255, got {list(self.range)} with {self.units}; correct it."
        return None

    def _problem_of_output(self) -> str | None:
        tokens = self.output in (None, "tokens")
        if self.class_tokens and not tokens:
            return f"class_tokens: expected none for the output {self.output}, got {self.class_tokens}; leave it out."
        if self.pool == "class" and not self.class_tokens:
            return "pool: class needs a class token; set class_tokens, or use pool: mean."
        return None

    def input(self, task: LabelledSet) -> ImageInput:
        """Return what converts images of a task to the input of the encoder. Raises `InputError` if bands are missing."""
        modality = self._modality(task)
        if self.normalise == "task":
            return _task_normaliser(modality, task)
        values = self._affine(modality)
        entries = {
            band: {"count": 1, "mean": mean, "std": std} for band, (mean, std) in zip(self.bands, values, strict=True)
        }
        statistics = {modality.name: dict.fromkeys((*LEVELS, NO_LEVEL), entries)}
        normaliser = Normaliser([modality], {"train": statistics}, inputs=[modality.name])
        check_bands(normaliser, task)
        return Clipped(normaliser, *self._limits()) if self.units in PICTURES else normaliser

    def notes(self, task: LabelledSet) -> tuple[str, ...]:
        """No notes: nothing differs from a checkpoint."""
        return ()

    def _modality(self, task: LabelledSet) -> Modality:
        """Modality of the store or the catalog, reduced to the bands of the encoder."""
        known = {**load_catalog().modalities, **task.images.modalities}
        if self.modality not in known:
            raise InputError(
                f"modality: expected one of the catalog or of {task.images.origin}, got {self.modality!r}."
                f"{meant(self.modality, known)}"
            )
        problem = _unknown_band(known[self.modality], self.bands)
        if problem:
            raise InputError(problem)
        return replace(known[self.modality], model_bands=self.bands)

    def _affine(self, modality: Modality) -> list[tuple[float, float]]:
        """(mean, std) of each band in stored numbers, with which (stored - mean) / std is the encoder's input."""
        scale, offset = self._conversion(modality)
        means, stds = self._scaling()
        found = [((mean - offset) / scale, std / scale) for mean, std in zip(means, stds, strict=True)]
        for band, (mean, std) in zip(self.bands, found, strict=True):
            if scale_of({"count": 1, "mean": mean, "std": std})[1] != 1 / std:
                raise InputError(f"std: expected a larger number for {band}, got one below the resolution of the data.")
        return found

    def _scaling(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of each band in `units`; 0 and 1 without normalisation."""
        none = ((0.0,) * len(self.bands), (1.0,) * len(self.bands))
        return none if self.mean is None or self.std is None else (self.mean, self.std)

    def _conversion(self, modality: Modality) -> tuple[float, float]:
        """(factor, offset) with which stored * factor + offset is in `units`."""
        if self.units == "stored":
            return 1.0, 0.0
        if self.units == "physical":
            return modality.scale, modality.offset
        if self.range is not None:
            low, high = self.range
        else:
            stored = modality.display.range
            if stored is None:
                raise InputError(
                    f"range: expected the physical values of black and white, since the catalog has none for "
                    f"{modality.name}; add range."
                )
            low, high = (value * modality.scale + modality.offset for value in stored)
        factor = PICTURES[self.units] / (high - low)
        return modality.scale * factor, (modality.offset - low) * factor

    def _limits(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Smallest and largest input of each band: black and white, normalised."""
        pairs = list(zip(*self._scaling(), strict=True))
        white = PICTURES[self.units]
        return tuple(-mean / std for mean, std in pairs), tuple((white - mean) / std for mean, std in pairs)


def _unknown_band(modality: Modality, bands: tuple[str, ...]) -> str | None:
    if modality.kind is not Kind.RASTER_CONTINUOUS:
        return f"modality: expected one of kind raster/continuous, got {modality.name} ({modality.kind}); correct it."
    unknown = next((band for band in bands if band not in modality.bands), None)
    if unknown is None:
        return None
    known = ", ".join(modality.bands)
    return f"bands: expected bands of {modality.name} ({known}), got {unknown!r}.{meant(unknown, modality.bands)}"


def _task_normaliser(modality: Modality, task: LabelledSet) -> Normaliser:
    """Normalise by the statistics of the task's training samples, or of its store."""
    recorded: Mapping[str, Any] | None = task.images.recorded_statistics
    if recorded is None and task.images.own_normaliser is None:
        raise InputError(
            f"{task.name}: expected statistics of the task for normalise: task, got none; set normalise: task in the task "
            "file, or give mean and std of the encoder."
        )
    return input_normaliser(Normaliser([modality], recorded or {}, inputs=[modality.name]), task)


def read_description(path: Path) -> EncoderDescription:
    """Read the YAML file of an encoder.

    Raises `FileInputError` if there is none, or it is invalid; with the line, what was expected and what was found.
    """
    file = read_yaml(path, "the description of an encoder")
    try:
        return EncoderDescription(**file.values)
    except ValidationError as error:
        raise file.refusal(error, EncoderDescription, "description") from None
    except InputError as error:
        raise FileInputError(path, str(error)) from None
