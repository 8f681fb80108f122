"""The report page of a training run: one HTML file with scores, learning curves and examples."""

from .charts import PANELS, Panel
from .examples import Example
from .graph_drawing import Mark, graph_svg
from .page import report_html
from .scores import PairedDifference


__all__ = ["PANELS", "Example", "Mark", "PairedDifference", "Panel", "graph_svg", "report_html"]
