"""Caption metrics over scene graphs: pure functions from graphs to corpus and per-sample scores."""

from .bootstrap import Interval, bootstrap, paired_bootstrap
from .capture import capture
from .correction import correction_statistics
from .facts import fact_scores
from .modules import module_path
from .refined_capture import attributes_by_object, refined_capture
from .result import MetricResult


__all__ = [
    "Interval",
    "MetricResult",
    "attributes_by_object",
    "bootstrap",
    "capture",
    "correction_statistics",
    "fact_scores",
    "module_path",
    "paired_bootstrap",
    "refined_capture",
]
