"""Candidates of a comparison: encoders and baselines, all of one kind.

A candidate has a `Model`, which computes features. Protocols that only need features use its extractor; those that need
maps, or train further, load its network.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch

from mmearth_data import InputError, did_you_mean
from mmearth_model.data.targets import Normaliser
from mmearth_model.evaluation.baselines import (  # fmt: skip
    CONVNEXT,
    RCF,
    STATISTICS,
    ImageStatistics,
    RandomFilters,
    load_convnext,
    own_input,
)
from mmearth_model.evaluation.features import Pooled, input_normaliser
from mmearth_model.network.encoder import ConvNeXtV2, EncoderConfig
from mmearth_model.network.mpmae import MPMAE, MPMAEConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mmearth_model.evaluation.external.encoder import ExternalEncoder
    from mmearth_model.evaluation.features import Extractor, ImageInput
    from mmearth_model.network.backbone import Backbone
    from mmearth_model.tasks import LabelledSet
    from mmearth_model.weights.checkpoints import Checkpoint, Learned

Baseline = Literal["random", "statistics", "rcf", "train-mean"]
BASELINES: tuple[Baseline, ...] = ("random", "statistics", "rcf", "train-mean")
RANDOM = "random init"


def check_choices(option: str, given: Sequence[str], known: Sequence[str]) -> None:
    """Refuse names that are not among the choices of an option."""
    for name in given:
        if name not in known:
            raise InputError(f"{option}: expected {', '.join(known)}, got {name!r}; {did_you_mean(name, known)}")


class Model(ABC):
    """Computes features of the images of a task."""

    @abstractmethod
    def input(self, task: LabelledSet) -> ImageInput:
        """Return what converts the images of the task to the input of the model.

        Raises `InputError` if the task lacks what the model takes.
        """

    @abstractmethod
    def extractor(self, task: LabelledSet, seed: int, device: torch.device) -> Extractor:
        """Return what computes features from these inputs on a device."""

    @property
    def trainable(self) -> bool:
        """Whether it has a trainable network."""
        return False

    def network(self) -> Backbone | None:
        """Load the network on the CPU, in evaluation mode; None if there is none."""
        return None

    def fitted_to(self, task: LabelledSet, seed: int) -> str:
        """Text that identifies the extractor; "" if it is the same for all tasks and seeds."""
        return ""

    def check(self, task: LabelledSet, device: torch.device) -> None:
        """Raise `InputError` if features of the task's images cannot be computed."""
        self.input(task)

    def notes(self, task: LabelledSet) -> tuple[str, ...]:
        """Describe what users of the results must know, one sentence each."""
        return ()


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """An encoder or a baseline in a table of results."""

    name: str
    seeds: tuple[int, ...]  # seeds with which it is probed
    model: Model
    learned: tuple[Learned, ...] = ()  # modalities that it was trained to predict
    checkpoint: Checkpoint | None = None  # None: its probe cannot be saved as a network

    def leaky_for(self, task: LabelledSet) -> bool:
        """Whether it was trained on the task's labels, or on related ones."""
        return any(task.conflicts(modality) for modality in self.learned)


@dataclass(frozen=True)
class Normalised(Model):
    """A model whose input is normalised as a checkpoint or the task does."""

    normaliser: Normaliser | None  # of the checkpoint; None: the task's own

    def input(self, task: LabelledSet) -> Normaliser:
        """Normalise the images."""
        return own_input(task) if self.normaliser is None else input_normaliser(self.normaliser, task)


@dataclass(frozen=True)
class Weights(Normalised):
    """An encoder of this toolkit: pretrained, random, or with other weights of its architecture."""

    load: Callable[[], ConvNeXtV2]

    @property
    def trainable(self) -> bool:
        """It is trained further in fine-tuning."""
        return True

    def network(self) -> ConvNeXtV2:
        """Load the encoder."""
        return self.load().eval()

    def extractor(self, task: LabelledSet, seed: int, device: torch.device) -> Extractor:
        """Average the last map."""
        return Pooled(self.network().to(device))


class Statistics(Normalised):
    """Statistics of each band."""

    def extractor(self, task: LabelledSet, seed: int, device: torch.device) -> Extractor:
        """Compute the statistics of all bands of the input."""
        return ImageStatistics(self.input(task).in_channels)


class Filters(Normalised):
    """Random convolutional features."""

    def extractor(self, task: LabelledSet, seed: int, device: torch.device) -> Extractor:
        """Choose filters from the training images."""
        return RandomFilters.draw(task, self.input(task), seed)

    def fitted_to(self, task: LabelledSet, seed: int) -> str:
        """Seed and training images of the filters."""
        return f"{seed} {hashlib.blake2b(task.parts.train.tobytes(), digest_size=16).hexdigest()}"


def candidate_of(encoder: Checkpoint | ExternalEncoder, seeds: tuple[int, ...]) -> Candidate:
    """Make a candidate of an encoder."""
    if isinstance(encoder, Model):
        return Candidate(encoder.name, seeds, encoder, encoder.learned)
    return Candidate(encoder.name, seeds, Weights(encoder.normaliser, encoder.encoder), encoder.learned, encoder)


def candidates(
    checkpoints: Sequence[Checkpoint],
    tasks: Sequence[LabelledSet],
    seeds: int,
    *,
    baselines: Sequence[Baseline] = ("random",),
    convnext: Path | None = None,
    encoders: Sequence[ExternalEncoder] = (),
) -> list[Candidate]:
    """List the given encoders, then random ones of each distinct shape, one per seed, then the other baselines.

    Raises `InputError` if two of the given ones have the same name.
    """
    every = tuple(range(seeds))
    given: list[Checkpoint | ExternalEncoder] = [*checkpoints, *encoders]
    found = [candidate_of(encoder, every) for encoder in given]
    _check_names([c.name for c in found])
    if "random" in baselines:
        found += _random(checkpoints, tasks, every)
    first = checkpoints[0].normaliser if checkpoints else None
    if "statistics" in baselines:
        found.append(Candidate(STATISTICS, every, Statistics(first)))
    if "rcf" in baselines:
        found.append(Candidate(RCF, every, Filters(first)))
    return found + ([] if convnext is None else [_convnext(convnext, tasks, every)])


def _check_names(names: Sequence[str]) -> None:
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise InputError(
            f"expected encoders with different names, got {twice} twice; leave one out, or set name in its description."
        )


def _random(checkpoints: Sequence[Checkpoint], tasks: Sequence[LabelledSet], seeds: Sequence[int]) -> list[Candidate]:
    distinct = {f"{c.encoder_config} {c.normaliser.inputs}": c for c in reversed(checkpoints)}
    shapes: list[tuple[EncoderConfig, MPMAEConfig | None, Normaliser | None]] = [
        (c.encoder_config, None if c.encoder_only else c.model_config, c.normaliser)
        for c in reversed(distinct.values())
    ]
    if not checkpoints:
        channels = {own_input(task).in_channels for task in tasks}
        if len(channels) > 1:
            raise InputError("expected tasks with the same bands if no checkpoint is given; evaluate them one by one.")
        shapes = [(EncoderConfig(in_channels=n), None, None) for n in channels]
    return [
        Candidate(
            RANDOM if len(shapes) == 1 else f"{RANDOM} {number}",
            (seed,),
            Weights(normaliser, partial(random_encoder, seed, encoder, model)),
        )
        for number, (encoder, model, normaliser) in enumerate(shapes, start=1)
        for seed in seeds
    ]


def random_encoder(seed: int, config: EncoderConfig, model: MPMAEConfig | None) -> ConvNeXtV2:
    """Make an encoder as it is before training, alone or as a part of a whole network."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if model is None:
            return ConvNeXtV2(config)
        weights = MPMAE(model).encoder.state_dict()
        encoder = ConvNeXtV2(config)
        encoder.load_state_dict(weights)
        return encoder


def _convnext(path: Path, tasks: Sequence[LabelledSet], seeds: tuple[int, ...]) -> Candidate:
    known = {name: modality for task in tasks for name, modality in task.images.modalities.items()}
    pictured = next((m for m in known.values() if m.input and len(m.display.bands) == 3), None)
    if pictured is None:
        raise InputError("--convnext: expected tasks with red, green and blue bands, got none.")
    encoder, rgb = load_convnext(path, pictured)
    recorded = [task.images.recorded_statistics for task in tasks if task.images.recorded_statistics]
    normaliser = Normaliser([rgb], recorded[-1] if recorded else {}, inputs=[rgb.name])
    return Candidate(f"{CONVNEXT} ({path.name})", seeds, Weights(normaliser, lambda: encoder))
