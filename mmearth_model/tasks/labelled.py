"""A labelled data set as evaluation sees it, wherever it came from.

Axes: N samples, B those of one batch, K classes, T regression targets, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from mmearth_data import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from mmearth_data import Modality
    from mmearth_model.targets import Normaliser

    Batch = Mapping[str, Any]

IGNORED = -1
"""Class index of a sample or pixel that nobody labelled."""


class TaskKind(StrEnum):
    """What is asked of a sample."""

    SINGLE_LABEL = "single-label"
    MULTI_LABEL = "multi-label"
    REGRESSION = "regression"
    SEGMENTATION = "segmentation"
    PIXEL_REGRESSION = "pixel-regression"

    @property
    def per_pixel(self) -> bool:
        """True where every pixel has an answer of its own."""
        return self in (TaskKind.SEGMENTATION, TaskKind.PIXEL_REGRESSION)

    @property
    def continuous(self) -> bool:
        """True where answers are quantities."""
        return self in (TaskKind.REGRESSION, TaskKind.PIXEL_REGRESSION)


class ImageSource(Protocol):
    """Images of N samples, as raw batches in the form in which a store delivers them."""

    @property
    def digest(self) -> str:
        """Says what the images are; equal digests, equal images."""
        ...

    @property
    def modalities(self) -> Mapping[str, Modality]:
        """What the batches can hold."""
        ...

    def __len__(self) -> int: ...

    def batches(self, rows: NDArray[np.intp], size: int, modalities: tuple[str, ...]) -> Iterator[Batch]:
        """Raw batches of the given samples, in their order: modality -> array as stored, and ``tile``."""
        ...

    def own_normaliser(self, train: NDArray[np.intp]) -> Normaliser | None:
        """Normalise by the training samples' own statistics; None where a checkpoint's hold."""
        ...

    def found_bands(self, modality: Modality) -> tuple[str, ...]:
        """Which of a modality's model bands the images have."""
        ...

    def stand_ins(self, modality: Modality) -> Mapping[str, str]:
        """Band that the images lack -> their band that replaces it."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """Which samples serve for what.

    Attributes
    ----------
    train, validation, test
        (n,) positions among the samples; no two parts share one, unless the data set itself says so.
    """

    train: NDArray[np.intp]
    validation: NDArray[np.intp]
    test: NDArray[np.intp]

    @property
    def used(self) -> NDArray[np.intp]:
        """All of them, ascending, each once."""
        return np.unique(np.concatenate([self.train, self.validation, self.test]))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LabelledSet:
    """Samples, what they show, and how they are divided.

    Attributes
    ----------
    name
        As written on the command line.
    kind
        What is asked.
    classes
        Names of the classes, or of the regression targets.
    images
        Delivers the samples.
    parts
        Train, validation, test.
    labels
        (N,) int64 class index, (N, K) int64 0 or 1, or (N, T) float64; empty (N, 0) where ``kind`` is per pixel.
    masks
        Per pixel: positions (B,) -> (B, H, W) int64 class index, `IGNORED` where unknown; or float64, NaN there.
    conflicts
        Whether a run that learned a modality has seen the labels, or close kin of them.
    partitions
        Label share -> training samples, where the data set publishes them.
    ids
        Name of each sample.
    augment
        Mirrors and crops that a picture of the Earth survives: ``flip``, ``crop``.
    synthetic
        The pixels are no measurement.
    """

    name: str
    kind: TaskKind
    classes: tuple[str, ...]
    images: ImageSource
    parts: Parts
    labels: NDArray[Any]
    masks: Callable[[NDArray[np.intp]], NDArray[Any]] | None = None
    conflicts: Callable[[Modality], bool] = field(default=lambda modality: False)
    partitions: Mapping[float, NDArray[np.intp]] = field(default_factory=dict)
    ids: tuple[str, ...] = ()
    augment: tuple[str, ...] = ("flip", "crop")
    synthetic: bool = False

    def __len__(self) -> int:
        return len(self.images)

    def with_parts(self, parts: Parts) -> Self:
        """Divide the same samples otherwise."""
        return replace(self, parts=parts)

    def check(self) -> None:
        """Refuse what cannot be fitted or scored.

        Raises
        ------
        InputError
            When a part is empty, or the training samples are all of one class.
        """
        counts = len(self.parts.train), len(self.parts.test)
        if not all(counts):
            raise InputError(
                f"{self.name}: expected labelled tiles to train and to test on, got {counts[0]} and {counts[1]}; "
                "cut the test tiles from the whole with --test-share 0.3."
            )
        if self.kind is TaskKind.SINGLE_LABEL and len(np.unique(self.labels[self.parts.train])) < 2:
            raise InputError(
                f"{self.name}: expected at least two classes among the {counts[0]} training tiles, got one only."
            )


@dataclass(frozen=True, slots=True)
class LabelShare:
    """How many of the training labels are used.

    Attributes
    ----------
    text
        ``5%`` or ``10-shot``.
    share
        Share of the training samples, 0 to 1; None where shots count.
    shots
        Samples a class; None where a share counts.
    """

    text: str
    share: float | None = 1.0
    shots: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``1%``, ``0.01x``, or ``5-shot``.

        Raises
        ------
        InputError
            When it is neither.
        """
        word = text.strip().lower()
        try:
            if word.endswith("-shot") and int(word[:-5]) > 0:
                return cls(word, None, int(word[:-5]))
            share = float(word[:-1]) / (100 if word.endswith("%") else 1) if word[-1:] in ("%", "x") else 0.0
        except ValueError:
            share = 0.0
        if not 0 < share <= 1:
            raise InputError(f"--labels: expected a share like 5% or shots like 10-shot, got {text!r}.")
        return cls(f"{100 * share:g}%", share)

    def choose(self, task: LabelledSet, seed: int) -> NDArray[np.intp]:
        """Training samples of this share: the published partition, or a draw that keeps the classes' proportions."""
        train = task.parts.train
        if self.share == 1.0:
            return train
        if self.share is not None and self.share in task.partitions:
            return task.partitions[self.share]
        order = np.random.default_rng([seed, 7]).permutation(train)
        if task.kind is not TaskKind.SINGLE_LABEL:
            count = self.shots * max(1, len(task.classes)) if self.shots else round((self.share or 1.0) * len(train))
            return np.sort(order[: max(2, min(count, len(order)))])
        labels = task.labels[order]
        chosen = [self._of_class(order[labels == label]) for label in np.unique(labels)]
        return np.sort(np.concatenate(chosen))

    def _of_class(self, members: NDArray[np.intp]) -> NDArray[np.intp]:
        """At least one of every class: a class without a label cannot be learned at all."""
        return members[: self.shots or max(1, round((self.share or 1.0) * len(members)))]


WHOLE = LabelShare("100%")


def stratified_parts(strata: NDArray[Any], shares: tuple[float, float, float], seed: int) -> Parts:
    """Divide samples by a seeded draw that gives every stratum the same shares.

    Parameters
    ----------
    strata
        (N,) what is balanced, such as the class.
    shares
        Of train, validation and test; any scale.
    seed
        Decides who goes where.
    """
    order = np.random.default_rng(seed).permutation(len(strata))
    place = np.empty(len(strata))
    for stratum in np.unique(strata):
        members = order[strata[order] == stratum]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    edges = np.cumsum(shares)[:2] / sum(shares)
    part = np.digitize(place, edges)
    return Parts(*(np.flatnonzero(part == number) for number in range(3)))
