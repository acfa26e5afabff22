"""A labelled data set for evaluation, independent of its format.

Axes: N samples, B those of one batch, K classes, T regression targets, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np

from mmearth_data import InputError, closest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mmearth_data import Modality
    from mmearth_model.data.targets import Normaliser
    from mmearth_model.weights.checkpoints import Learned

    Batch = Mapping[str, Any]

IGNORED = -1
"""Class index of an unlabelled sample or pixel."""


TRAIN_AND_TEST = ("train", "test")
CUT_FROM_THE_WHOLE = "take test tiles from all tiles with --test-share 0.3"


class TaskKind(StrEnum):
    """Kind of a task."""

    SINGLE_LABEL = "single-label"
    MULTI_LABEL = "multi-label"
    REGRESSION = "regression"
    SEGMENTATION = "segmentation"
    PIXEL_REGRESSION = "pixel-regression"

    @property
    def per_pixel(self) -> bool:
        """True if every pixel has a label."""
        return self in (TaskKind.SEGMENTATION, TaskKind.PIXEL_REGRESSION)

    @property
    def classes(self) -> bool:
        """True if every image or pixel has one class."""
        return self in (TaskKind.SINGLE_LABEL, TaskKind.SEGMENTATION)

    @property
    def continuous(self) -> bool:
        """True if labels are quantities."""
        return self in (TaskKind.REGRESSION, TaskKind.PIXEL_REGRESSION)


class ImageSource(Protocol):
    """Images of N samples, as raw batches in the form in which a store delivers them."""

    redrawn: ClassVar[bool]  # whether a test share divides the samples anew
    # whether modalities that the images lack are filled with no-data; otherwise an encoder that takes them is refused
    fills_missing: ClassVar[bool]

    @property
    def origin(self) -> Path | str:
        """Store, folder or file, for messages."""
        ...

    @property
    def digest(self) -> str:
        """Digest of the images; equal digests mean equal images."""
        ...

    @property
    def modalities(self) -> Mapping[str, Modality]:
        """Modalities of the batches."""
        ...

    def __len__(self) -> int: ...

    def batches(self, rows: NDArray[np.intp], size: int, modalities: tuple[str, ...]) -> Iterator[Batch]:
        """Raw batches of the given samples, in their order: modality -> array as stored, and ``tile``."""
        ...

    @property
    def own_normaliser(self) -> Callable[[NDArray[np.intp]], Normaliser] | None:
        """Normalises by statistics of the given training samples; None where those of a checkpoint apply."""
        ...

    @property
    def recorded_statistics(self) -> Mapping[str, Any] | None:
        """Statistics that were recorded with the images, as in `Store.statistics`; None: none were."""
        ...

    @property
    def coords(self) -> Mapping[str, NDArray[Any]]:
        """Coordinates of the samples, ``tile_id``, ``lon`` and ``lat`` among them; empty: unknown."""
        ...

    def outlines(self) -> NDArray[Any]:
        """(N,) shapely outlines of the samples in EPSG:4326, None where unknown."""
        ...

    def found_bands(self, modality: Modality) -> tuple[str, ...]:
        """Model bands of a modality that the images have."""
        ...

    @property
    def stand_ins(self) -> Mapping[str, Mapping[str, str]]:
        """Modality -> band that the images lack -> their band that replaces it."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """Division of the samples."""

    # (n,) positions of the samples; parts are disjoint unless the data set's own parts overlap
    train: NDArray[np.intp]
    validation: NDArray[np.intp]
    test: NDArray[np.intp]

    @classmethod
    def of(cls, codes: NDArray[Any]) -> Self:
        """Parts of samples with the codes 0 train, 1 validation, 2 test; others are in no part."""
        return cls(*(np.flatnonzero(codes == code) for code in range(3)))

    @property
    def used(self) -> NDArray[np.intp]:
        """Positions of all parts, ascending, each once."""
        return np.unique(np.concatenate([self.train, self.validation, self.test]))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LabelledSet:
    """Samples, their labels, and their division."""

    name: str  # as written on the command line
    kind: TaskKind
    classes: tuple[str, ...]  # names of the classes, or of the regression targets
    images: ImageSource
    parts: Parts
    # (N,) int64 class index, (N, K) int64 0 or 1, or (N, T) float64; empty (N, 0) if ``kind`` is per pixel
    labels: NDArray[Any]
    # per pixel: positions (B,) -> (B, H, W) int64 class index, `IGNORED` where unknown; or float64, NaN there
    masks: Callable[[NDArray[np.intp]], NDArray[Any]] | None = None
    shown: Modality | None = None  # modality of a store that the labels come from; None: the labels are no modality
    # label share -> training samples, if the data set publishes them
    partitions: Mapping[float, NDArray[np.intp]] = field(default_factory=dict)
    ids: tuple[str, ...] = ()
    augment: tuple[str, ...] = ("flip", "crop")  # augmentations that keep the labels valid: ``flip``, ``crop``
    synthetic: bool = False  # whether the pixels are synthetic
    colours: tuple[str, ...] = ()  # ``#rrggbb`` of each class, from a task file; empty: none, or those of ``shown``
    licence: str = ""  # terms of use of images and labels, from a task file; "": none, or those of the modalities
    notes: tuple[str, ...] = ()  # what users of the results must know about the data, one sentence each
    metric: str = ""  # main metric of its results; "": that of the kind
    needed: tuple[str, ...] = TRAIN_AND_TEST  # parts that must not be empty
    remedy: str = CUT_FROM_THE_WHOLE  # what to do if one is

    def __len__(self) -> int:
        return len(self.images)

    @property
    def outputs(self) -> int:
        """Number of classes, labels or targets."""
        if self.labels.ndim == 2 and not self.kind.per_pixel:
            return int(self.labels.shape[1])
        return max(len(self.classes), int(self.labels.max()) + 1 if self.kind is TaskKind.SINGLE_LABEL else 0)

    def conflicts(self, modality: Modality | Learned) -> bool:
        """Whether a run that learned this modality has seen the labels, or related ones."""
        return self.shown is not None and akin(self.shown, modality)

    def check(self) -> None:
        """Refuse a task that cannot be fitted or scored."""
        counts = {name: len(getattr(self.parts, name)) for name in ("train", "validation", "test")}
        if not all(counts[name] for name in self.needed):
            raise InputError(
                f"{self.name}: expected labelled samples to train and to test on, got {counts['train']} to train, "
                f"{counts['validation']} to validate and {counts['test']} to test on; {self.remedy}."
            )
        if self.kind is TaskKind.SINGLE_LABEL and len(np.unique(self.labels[self.parts.train])) < 2:
            raise InputError(
                f"{self.name}: expected at least two classes among the {counts['train']} training samples, got one only."
            )


def akin(labels: Modality, learned: Modality | Learned) -> bool:
    """Whether one modality reveals the labels of another.

    Labels of whole tiles are nested in each other (an ecoregion is within one biome), and maps of classes describe
    the same area: categorical modalities of one kind reveal each other. Labels that users gave to whole tiles, which come
    from no asset, are only revealed by themselves.
    """
    if labels.kind.is_categorical and (labels.kind.is_raster or labels.asset):
        return learned.kind is labels.kind
    return learned.name == labels.name


@dataclass(frozen=True, slots=True)
class LabelShare:
    """Share or number of the training labels that are used."""

    text: str  # ``5%`` or ``10-shot``
    share: float | None = 1.0  # share of the training samples, 0 to 1; None for shots
    shots: int | None = None  # samples per class; None for a share

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``1%``, ``0.01x``, or ``5-shot``. Raises `InputError` when it is neither."""
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
        """Training samples of this share: the published partition, or a stratified random subset."""
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
        """Return the first samples of a class, at least one: a class without a label cannot be learned."""
        return members[: self.shots or max(1, round((self.share or 1.0) * len(members)))]


WHOLE = LabelShare("100%")


def stratified_parts(strata: NDArray[Any], shares: tuple[float, float, float], seed: int) -> Parts:
    """Divide samples (N,) at random, with the same shares of train, validation and test in every stratum.

    A small stratum may have no sample in a small part: of three samples, none is in a part of 15 %; see
    `working_shares`.
    """
    order = np.random.default_rng(seed).permutation(len(strata))
    place = np.empty(len(strata))
    for stratum in np.unique(strata):
        members = order[strata[order] == stratum]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return Parts.of(np.digitize(place, np.cumsum(shares)[:2] / sum(shares)))


USUAL_SHARES = ((70, 15, 15), (60, 20, 20), (50, 20, 30), (50, 25, 25), (34, 33, 33), (50, 0, 50))
MOST_NEEDED = 1000


def working_shares(strata: NDArray[Any], shares: tuple[float, float, float]) -> str:
    """Remedy for shares that leave a part empty: other shares, or more samples; see `stratified_parts`."""
    for usual in USUAL_SHARES:
        if len(strata) and not missing_parts(stratified_parts(strata, usual, 0), usual):
            return f"set splits: {{shares: [{', '.join(map(str, usual))}]}} in the task file, or add samples"
    for count in range(2, MOST_NEEDED):
        if not missing_parts(stratified_parts(np.zeros(count), shares, 0), shares):
            return f"add samples: with these shares, at least one class needs {count}"
    return "add samples, or choose larger shares for validation and test"


def missing_parts(parts: Parts, shares: tuple[float, float, float]) -> tuple[str, ...]:
    """Names of the parts with a share but no samples."""
    return tuple(
        name
        for name, share in zip(("train", "validation", "test"), shares, strict=True)
        if share > 0 and not len(getattr(parts, name))
    )


def class_notes(
    classes: Sequence[str], labels: NDArray[Any], parts: Parts, name: Callable[[int], str]
) -> tuple[str, ...]:
    """Describe classes that cannot be both learned and tested.

    ``labels`` are class indices (N,), negative where there is none; ``name`` returns the name of a sample for messages,
    such as its file or row.
    """
    used = parts.used
    counts = np.bincount(labels[used][labels[used] >= 0], minlength=len(classes))
    once = [int(index) for index in np.flatnonzero(counts == 1)]
    learned = set(labels[parts.train].tolist())
    asked = [int(index) for index in np.unique(labels[parts.test]) if index >= 0 and index not in learned]
    found = []
    if once:
        places = [f"{_named(classes, index)} ({name(int(used[labels[used] == index][0]))})" for index in once]
        found.append(f"occur once and can be learned or tested, not both: {listed(places)}.")
    if asked:
        found.append(f"are tested and have no training sample: {listed([_named(classes, index) for index in asked])}.")
    return tuple(f"classes that {text}" for text in found)


def _named(classes: Sequence[str], index: int) -> str:
    return classes[index] if index < len(classes) else str(index)


def listed(names: Sequence[object], most: int = 5) -> str:
    """Join names for a message, shortened after ``most``."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more if names else "nothing"


def meant(name: str, known: Iterable[str]) -> str:
    """End of a message about an unknown name: `` Did you mean X?``, or nothing."""
    close = closest(name, known)
    return f" Did you mean {close[0]!r}?" if close else ""


def classes_in_masks(masks: Callable[[NDArray[np.intp]], NDArray[Any]], samples: int, where: object) -> tuple[str, ...]:
    """Class names of a segmentation whose task file lists none: the ids in its masks, from 0.

    All ``samples`` are read. Raises `InputError` if nothing is labelled, or the ids are not 0, 1, 2, ... without a gap:
    an id beyond a gap may mean unlabelled.
    """
    found: set[int] = set()
    for row in range(samples):
        found.update(np.unique(masks(np.array([row], dtype=np.intp))).tolist())
    ids = sorted(found - {IGNORED})
    if not ids:
        raise InputError(f"{where}: expected labelled pixels, got masks without any; correct ignore in the task file.")
    if ids[0] < 0 or ids[-1] != len(ids) - 1:
        raise InputError(
            f"{where}: expected the ids 0, 1, 2, ... without a gap in masks of a task file without classes, got "
            f"{listed(ids, 12)}; list classes in order of their ids, or give ignore (such as {ids[-1]})."
        )
    return tuple(map(str, ids))
