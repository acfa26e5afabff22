"""The paper's experiments, and those that it leaves open, as commands: grids of runs that are finished once."""

from mmearth_model.experiments.run import Setting, run_experiment
from mmearth_model.experiments.spec import Experiment, experiment_names, read_experiment

__all__ = ["Experiment", "Setting", "experiment_names", "read_experiment", "run_experiment"]
