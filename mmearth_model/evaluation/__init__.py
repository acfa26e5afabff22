"""How good a representation is: probes of frozen encoders, and fine-tuning, on labelled tasks."""

from mmearth_model.evaluation.candidates import BASELINES, RANDOM, Baseline
from mmearth_model.evaluation.evaluate import DEFAULT_PROTOCOLS, PROTOCOLS, Protocol, evaluate
from mmearth_model.evaluation.results import Difference, Evaluation, Row, Summary, write_results

__all__ = [
    "BASELINES",
    "DEFAULT_PROTOCOLS",
    "PROTOCOLS",
    "RANDOM",
    "Baseline",
    "Difference",
    "Evaluation",
    "Protocol",
    "Row",
    "Summary",
    "evaluate",
    "write_results",
]
