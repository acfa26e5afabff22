"""Published results of other encoders, and their comparison with measured ones."""

from mmearth_model.published.comparing import ELSEWHERE, HERE, Beside, Comparison, Line, Measured, compare
from mmearth_model.published.reading import COLUMNS, METRICS, PUBLISHED, Published, read_published
from mmearth_model.published.rendering import render_beside

__all__ = [
    "COLUMNS",
    "ELSEWHERE",
    "HERE",
    "METRICS",
    "PUBLISHED",
    "Beside",
    "Comparison",
    "Line",
    "Measured",
    "Published",
    "compare",
    "read_published",
    "render_beside",
]
