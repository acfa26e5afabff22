"""How good a representation is: probes of frozen encoders, and fine-tuning, on labelled tasks."""

from mmearth_model.evaluation.candidates import BASELINES, RANDOM, Baseline
from mmearth_model.evaluation.evaluate import DEFAULT_PROTOCOLS, PROTOCOLS, Protocol, evaluate
from mmearth_model.evaluation.external.description import EncoderDescription
from mmearth_model.evaluation.external.encoder import ExternalEncoder
from mmearth_model.evaluation.external.opening import open_encoder
from mmearth_model.evaluation.results import Difference, Evaluation, Row, Summary, write_results

__all__ = [
    "BASELINES",
    "DEFAULT_PROTOCOLS",
    "PROTOCOLS",
    "RANDOM",
    "Baseline",
    "Difference",
    "EncoderDescription",
    "Evaluation",
    "ExternalEncoder",
    "Protocol",
    "Row",
    "Summary",
    "evaluate",
    "open_encoder",
    "write_results",
]
