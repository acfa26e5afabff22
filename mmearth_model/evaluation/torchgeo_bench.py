"""The protocol of torchgeo-bench (https://github.com/torchgeo/torchgeo-bench), release 0.4.0, and its table of results.

A frozen encoder receives images of 224 px, normalised by statistics that the benchmark lists for each data set
(`mmearth_model.evaluation.torchgeo_inputs`). Its features are probed by the 5 nearest neighbours and by logistic
regression (`mmearth_model.evaluation.torchgeo_probes`), with accuracy or, for multi-label tasks, micro-averaged average
precision as metric.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmearth_data import InputError, write_text
from mmearth_model.data.targets import Normaliser
from mmearth_model.evaluation.metrics import Count, Score, average_precision
from mmearth_model.evaluation.probes import Prediction
from mmearth_model.evaluation.results import to_csv
from mmearth_model.evaluation.torchgeo_inputs import ListedImages, as_benched, bands_used
from mmearth_model.evaluation.torchgeo_probes import (  # fmt: skip
    BINS,
    NEIGHBOURS,
    RESAMPLES,
    STRENGTHS,
    linear,
    nearest,
    resampled,
)
from mmearth_model.tasks import TaskKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from mmearth_model.evaluation.features import ImageInput
    from mmearth_model.evaluation.probes import Question
    from mmearth_model.evaluation.results import Evaluation, Row
    from mmearth_model.evaluation.torchgeo_inputs import Bands
    from mmearth_model.evaluation.torchgeo_probes import Answer
    from mmearth_model.tasks import LabelledSet

TORCHGEO_BENCH = "torchgeo-bench"
IMAGE_PX = 224
TABLE_FILE = "torchgeo-bench.csv"
METRICS = {"accuracy": "accuracy", "micro_map": "micro_mAP"}
"""Metric -> its name in the table of torchgeo-bench."""
COLUMNS = (
    "dataset", "method", "metric_name", "metric_value", "ci_lower", "ci_upper", "feature_dim", "best_c", "best_lr",
    "best_batch_size", "n_train", "n_val", "n_test", "seed", "model", "name", "normalization", "image_size",
    "interpolation", "partition", "bands", "c_range_start", "c_range_stop", "c_range_num", "merge_val", "bootstrap",
    "fw_iou", "precision", "recall", "f1", "ece", "rms_ce", "mce", "ece_ts", "rms_ce_ts", "mce_ts", "temperature",
    "calibration_n_bins",
)  # fmt: skip
"""Columns of the table of torchgeo-bench; those that are about segmentation stay empty."""
FIXED = {
    "interpolation": "bilinear",
    "c_range_start": -6,
    "c_range_stop": 4,
    "c_range_num": len(STRENGTHS),
    "merge_val": True,
    "bootstrap": RESAMPLES,
}
BY_DATA, BY_MODEL = "bandspec_zscore", "model_native"
"""Column `normalization`: with the statistics of the data set, or as determined by the encoder."""
ENCODER, OTHER = "torchgeo_bench_model.MMEarth", "mmearth_model"
"""Column `model`: the class that runs our encoders in torchgeo-bench (pipelines/integrations), and for baselines."""


@dataclass(frozen=True, slots=True)
class TorchgeoInput:
    """Input of the protocol.

    Attributes
    ----------
    bands
        ``rgb`` (the default of torchgeo-bench) or ``all``.
    size_px
        Side length to which images are resized; None keeps their size, as torchgeo-bench does for models that ask for it.
    """

    bands: Bands = "rgb"
    size_px: int | None = IMAGE_PX


@dataclass(frozen=True, slots=True)
class Bench:
    """The protocol, with the probes that were already fitted: results of different seeds often have the same features."""

    input: TorchgeoInput
    fitted: dict[tuple[Any, ...], tuple[Answer, Answer]] = field(default_factory=dict)

    def answers(
        self,
        question: Question,
        details: Mapping[str, Any],
        key: tuple[Any, ...],
        report: Callable[[str], None],
    ) -> Iterator[tuple[Prediction, Score]]:
        """Probe features.

        Parameters
        ----------
        question
            Features of a task from `prepared`, and its labels.
        details
            From `bench_details`.
        key
            Determines the features and the training samples.
        report
            Called with the current step.
        """
        if key not in self.fitted:
            self.fitted[key] = _fitted(question, report)
        by_neighbours, by_line = self.fitted[key]
        common = {**FIXED, **details, "image_size": self.input.size_px, **_counts(question)}
        voted = {"method": f"knn{NEIGHBOURS}", "calibration_n_bins": NEIGHBOURS + 1}
        fitted = {"method": "linear", "calibration_n_bins": BINS, "best_c": by_line.strength}
        for answer, own in ((by_neighbours, voted), (by_line, fitted)):
            yield _result(question, answer, {**common, **own, **answer.errors})


def prepared(tasks: Sequence[LabelledSet], given: TorchgeoInput) -> list[LabelledSet]:
    """Return tasks with the images that the protocol feeds to encoders.

    Raises
    ------
    InputError
        If the protocol does not apply to a task.
    """
    for task in tasks:
        if task.kind not in (TaskKind.SINGLE_LABEL, TaskKind.MULTI_LABEL):
            raise InputError(
                f"--protocol {TORCHGEO_BENCH}: expected single-label or multi-label tasks of whole images, got {task.name} "
                f"({task.kind}); leave it out."
            )
        if not len(task.parts.validation):
            raise InputError(
                f"--protocol {TORCHGEO_BENCH}: expected validation samples to choose C, got none in {task.name}; "
                "add some, or use --protocol linear."
            )
    return [as_benched(task, given.bands, given.size_px) for task in tasks]


def bench_details(
    task: LabelledSet, given: TorchgeoInput, train: NDArray[np.intp], reading: ImageInput, pretrained: bool
) -> dict[str, Any]:
    """Entries for `COLUMNS` that depend on the encoder and the training samples.

    ``reading`` is the encoder's input; unless it is ``pretrained``, it would take other bands too.
    """
    parts = {f"{share:.2f}x_train": rows for share, rows in task.partitions.items() if share < 1}
    named = "default" if train is task.parts.train else next((n for n, rows in parts.items() if rows is train), "")
    taken = {f"{name}.{band}" for name in reading.inputs for band in reading.modalities[name].model_bands}
    return {
        "model": ENCODER if pretrained else OTHER,
        "normalization": BY_DATA if _by_data(task, train, reading) else BY_MODEL,
        "partition": named,
        "bands": bands_used(task.images, given.bands, taken if pretrained else None),
    }


def _by_data(task: LabelledSet, train: NDArray[np.intp], reading: ImageInput) -> bool:
    """Whether an input is normalised by the statistics of the data set, in all bands that both have."""
    own = task.images.own_normaliser
    if own is None or not isinstance(reading, Normaliser):
        return False
    known = own(train).statistics
    pairs = [
        (found[band], bands[band])
        for name, levels in reading.statistics.items()
        for level, bands in levels.items()
        for found in (known.get(name, {}).get(level, {}),)
        for band in bands
        if band in found
    ]
    return bool(pairs) and all(a[key] == b[key] for a, b in pairs for key in ("mean", "std"))


def bench_notes(tasks: Sequence[LabelledSet], given: TorchgeoInput) -> tuple[str, ...]:
    """Describe what readers of the results may not expect of the protocol."""
    listed = [task.name for task in tasks if isinstance(task.images, ListedImages)]
    others = [task.name for task in tasks if task.name not in listed]
    found = []
    if others:
        found.append(
            f"torchgeo-bench does not list {', '.join(others)}: images are normalised by the statistics of the training "
            "samples or of the checkpoint."
        )
    if given.bands == "rgb":
        found.append("only red, green and blue are used, the default of torchgeo-bench; --torchgeo-bands all uses all bands.")  # fmt: skip
    return tuple(found)


def bench_table(result: Evaluation) -> str:
    """CSV table of the rows of this protocol, with the columns of torchgeo-bench."""
    return to_csv(COLUMNS, [_cells(row) for row in result.rows if row.details])


def write_bench_table(result: Evaluation, folder: Path) -> None:
    """Write ``torchgeo-bench.csv`` into a folder, if the results have rows of this protocol."""
    if any(row.details for row in result.rows):
        write_text(folder / TABLE_FILE, bench_table(result))


def _cells(row: Row) -> list[str]:
    own = {
        "dataset": row.task,
        "metric_name": METRICS[row.metric],
        "metric_value": row.value,
        "ci_lower": row.low,
        "ci_upper": row.high,
        "seed": row.seed,
        "name": row.encoder,
    }
    cells = {**row.details, **own, "partition": row.details["partition"] or row.labels}
    return ["" if cells.get(column) is None else str(cells[column]) for column in COLUMNS]


def _fitted(question: Question, report: Callable[[str], None]) -> tuple[Answer, Answer]:
    parts = question.train, question.validation, question.test
    report("nearest neighbours")
    voted = nearest(question.train, question.test)
    return voted, linear(*parts, lambda number: report(f"C {number + 1}/{len(STRENGTHS)}"))


def _counts(question: Question) -> dict[str, int]:
    return {
        "feature_dim": int(question.train.values.shape[1]),
        "n_train": len(question.train),
        "n_val": len(question.validation),
        "n_test": len(question.test),
    }


def _result(question: Question, answer: Answer, details: dict[str, Any]) -> tuple[Prediction, Score]:
    truth = question.test.labels
    if truth.ndim == 1:
        metrics = {"accuracy": float((truth == answer.predicted).mean())}
    else:
        metrics = {"micro_map": average_precision(truth, answer.scores)}
    prediction = Prediction(
        f"{TORCHGEO_BENCH} {details['method']}",
        answer.predicted,
        answer.scores,
        validation=answer.validation,
        chosen="" if answer.strength is None else f"C={answer.strength:.4g}",
        details=details,
    )
    counts = dict.fromkeys(metrics, Count(len(truth)))
    return prediction, Score(resampled(truth, answer, question.seed), metrics, counts)
