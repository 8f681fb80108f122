"""Evaluation of captioners: scores of both turns, tables and plots, and comparisons of runs."""

from .comparison import Comparison, Run, compare, load_run
from .plots import plot_changes, plot_comparison, plot_scores
from .scores import METRICS, TURNS, TurnScores, differences, results_of, scores_of_turns
from .tables import comparison_table, difference_table, result_tables, score_table


__all__ = [
    "METRICS",
    "TURNS",
    "Comparison",
    "Run",
    "TurnScores",
    "compare",
    "comparison_table",
    "difference_table",
    "differences",
    "load_run",
    "plot_changes",
    "plot_comparison",
    "plot_scores",
    "result_tables",
    "results_of",
    "score_table",
    "scores_of_turns",
]
