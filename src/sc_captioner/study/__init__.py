"""The study: training methods side by side on the scenes, over seeds; what each part of ours is worth; one page."""

from .grid import Cell, Grid, load_grid
from .page import write_page
from .runs import Runs, run_study
from .statistics import Difference, over_scenes, paired_difference
from .table import StudyTable, load_table


__all__ = [
    "Cell",
    "Difference",
    "Grid",
    "Runs",
    "StudyTable",
    "load_grid",
    "load_table",
    "over_scenes",
    "paired_difference",
    "run_study",
    "write_page",
]
