"""An experiment file: a question, the variants to compare, and the scales at which it can run."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mmearth_data import FileInputError, InputError, RecipeFolder, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmearth_data import Modality

Search = Literal["grid", "leave-one-out", "greedy"]
Network = Literal["trained", "random", "convnext"]
EXPERIMENTS = RecipeFolder("experiments", "an experiment")


class Selection(BaseModel):
    """Tiles of a store that are used.

    Attributes
    ----------
    years
        Years of the scene.
    bboxes
        West, south, east, north in degrees; tiles must be in one of them.
    tiles
        Number of training tiles, the first ones (any run of consecutive tiles is a fair sample); other splits are kept.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    years: tuple[int, ...] | None = None
    bboxes: tuple[tuple[float, float, float, float], ...] | None = None
    tiles: int | None = Field(default=None, ge=1)


class Variant(BaseModel):
    """One variant that is compared.

    Attributes
    ----------
    train
        Fields of the training recipe that differ.
    select
        Tiles used for pretraining.
    network
        ``trained``; ``random`` weights; the user's plain ``convnext`` weights.
    store
        Name of the store used for pretraining, if several are given; ``default`` is that of the tasks.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: dict[str, Any] = {}
    select: Selection = Selection()
    network: Network = "trained"
    store: str = "default"


class Scale(BaseModel):
    """Size of an experiment.

    Attributes
    ----------
    build
        Fields of the build recipe of its own store; None uses the user's store.
    recipe, train
        Training recipe, and fields that differ in every variant.
    exclude
        Modalities that no variant learns, because they are labels of the tasks.
    tiles
        Numbers of training tiles, one variant per number.
    tasks, protocols, labels, seeds
        As in `mmearth_model.evaluate`.
    axes
        Axes that replace those of the experiment.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    build: dict[str, Any] | None = None
    recipe: str = "default"
    exclude: tuple[str, ...] = ()
    train: dict[str, Any] = {}
    tasks: tuple[str, ...] = Field(min_length=1)
    protocols: tuple[Literal["knn", "linear", "probe", "paper"], ...] = ("knn", "linear")
    labels: tuple[str, ...] = ("100%",)
    seeds: int = Field(default=3, ge=1)
    axes: dict[str, tuple[Any, ...]] = {}
    tiles: tuple[int, ...] = ()


class Experiment(BaseModel):
    """One file of ``pipelines/experiments``.

    Attributes
    ----------
    name, question
        Shown to the user.
    baseline
        Variant that the others are compared with.
    search
        ``grid``: the variants, or the product of ``axes``; ``leave-one-out``: all modalities, then all but each;
        ``greedy``: add the modality that improves validation most, until none improves it.
    start
        Modalities that a greedy search begins with.
    variants
        Name -> variant.
    axes
        Field of the training recipe -> values.
    probe
        Tiles used for probing.
    scales
        ``demo``, ``paper``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    question: str
    baseline: str
    search: Search = "grid"
    start: tuple[str, ...] = ("sentinel2",)
    variants: dict[str, Variant] = {}
    axes: dict[str, tuple[Any, ...]] = {}
    probe: Selection = Selection()
    scales: dict[Literal["demo", "paper"], Scale] = Field(min_length=1)

    @model_validator(mode="after")
    def _has_its_baseline(self) -> Experiment:
        axes = [scale.axes or self.axes for scale in self.scales.values()]
        known = {*self.variants, *(name for part in axes for name, _ in axis_variants(part))}
        known |= {_tiles_name(n) for scale in self.scales.values() for n in scale.tiles}
        known |= (
            {"all"} if self.search == "leave-one-out" else {joined(self.start)} if self.search == "greedy" else set()
        )
        if self.baseline not in known:
            raise InputError(
                f"baseline: expected one of {', '.join(sorted(known))}, got {self.baseline!r}; {did_you_mean(self.baseline, known)}"
            )
        return self

    def scale(self, name: str) -> Scale:
        """Return a scale by name. Raises `InputError` if the experiment has no such scale."""
        for known, scale in self.scales.items():
            if known == name:
                return scale
        raise InputError(f"{self.name}: expected --scale {' or '.join(self.scales)}, got {name}; a synthetic store would lack its data.")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Unit:
    """One run: a variant with a seed."""

    name: str
    variant: Variant
    seed: int

    @property
    def key(self) -> str:
        """Name of its folder."""
        return f"{re.sub(r'[^A-Za-z0-9.+-]+', '_', self.name)}-{self.seed}"


def joined(modalities: Sequence[str]) -> str:
    """Name of a set of modalities."""
    return "+".join(modalities)


def axis_variants(axes: Mapping[str, Sequence[Any]]) -> list[tuple[str, Variant]]:
    """All combinations of the axes' values, by name."""
    if not axes:
        return []
    found = []
    for values in itertools.product(*axes.values()):
        given = dict(zip(axes, values, strict=True))
        found.append((", ".join(f"{key} {value}" for key, value in given.items()), Variant(train=given)))
    return found


def _tiles_name(count: int) -> str:
    return f"{count} tiles"


def plan_units(
    experiment: Experiment, scale: Scale, modalities: Sequence[Modality], validations: Mapping[str, float]
) -> list[Unit]:
    """List all runs that are known to be needed, as a pure function of the finished ones.

    ``modalities`` are those of the store; ``validations`` is variant -> mean validation metric, of variants whose runs are
    all finished.
    """
    named = list(experiment.variants.items()) + axis_variants(scale.axes or experiment.axes)
    named += [(_tiles_name(n), Variant(select=Selection(tiles=n))) for n in scale.tiles]
    pretext = [m.name for m in modalities if m.pretext and m.name not in scale.exclude]
    if experiment.search == "leave-one-out":
        inputs = [m.name for m in modalities if m.input]
        named += [("all", Variant())]
        named += [(f"without {n}", Variant(train={"exclude": [*scale.exclude, n]})) for n in pretext if n not in inputs]  # fmt: skip
    elif experiment.search == "greedy":
        named += [(joined(s), Variant(train={"modalities": list(s)})) for s in greedy(experiment.start, pretext, validations)]  # fmt: skip
    return [Unit(name, variant, seed) for name, variant in named for seed in range(scale.seeds)]


def greedy(start: Sequence[str], pool: Sequence[str], validations: Mapping[str, float]) -> list[tuple[str, ...]]:
    """List the sets that a greedy search has tried or will try next, given the results so far."""
    chosen = tuple(start)
    tried = [chosen]
    while joined(chosen) in validations:
        following = [(*chosen, name) for name in pool if name not in chosen]
        tried += following
        if not following or any(joined(s) not in validations for s in following):
            break
        best = max(following, key=lambda s: validations[joined(s)])
        if validations[joined(best)] <= validations[joined(chosen)]:
            break
        chosen = best
    return tried


def read_experiment(name_or_file: str) -> Experiment:
    """Read an experiment: a name in ``pipelines/experiments`` or a YAML file.

    Raises `InputError` if there is none, or it is invalid.
    """
    file = EXPERIMENTS.read(name_or_file)
    try:
        return Experiment.model_validate(file.values)
    except ValidationError as error:
        raise file.refusal(error, Experiment, "experiment") from None
    except InputError as error:
        raise FileInputError(file.path, str(error)) from None
