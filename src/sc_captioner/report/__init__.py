"""Reports as one HTML file each: a training run, one correction explained, all corrections of a run."""

from .charts import PANELS, Panel
from .examples import Example
from .explanations import explanation_html
from .graph_drawing import Mark, graph_svg
from .page import report_html
from .run_report import RunSummary, write_run_report
from .scores import PairedDifference


__all__ = [
    "PANELS",
    "Example",
    "Mark",
    "PairedDifference",
    "Panel",
    "RunSummary",
    "explanation_html",
    "graph_svg",
    "report_html",
    "write_run_report",
]
