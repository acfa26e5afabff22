"""Labelled tasks to evaluate encoders on."""

from mmearth_model.tasks.store import StoreTask, parse_task

__all__ = ["StoreTask", "parse_task"]
