"""An Earth of our own: every modality, without an account. Never measured, and marked so everywhere."""

from __future__ import annotations

from mmearth_data.sources.synthetic.source import SyntheticSource

__all__ = ["SyntheticSource"]
