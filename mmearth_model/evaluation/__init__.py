"""How good a representation is: probes of frozen encoders on labelled tasks."""

from mmearth_model.evaluation.evaluate import PROTOCOLS, RANDOM, Evaluation, Protocol, Row, Summary, evaluate

__all__ = ["PROTOCOLS", "RANDOM", "Evaluation", "Protocol", "Row", "Summary", "evaluate"]
