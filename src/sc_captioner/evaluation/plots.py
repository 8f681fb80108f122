"""Plots of scores, changes and comparisons, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..metrics.correction import KINDS
from .tables import TITLES


if TYPE_CHECKING:
    from .comparison import Comparison


def plot_scores(results: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Bars of every score with two standard errors, one colour per entry of `results`.

    Args:
        results (`Mapping[str, Mapping]`): Label to a summary, see [`TurnScores.summary`].
        path (`Path`): PNG file to write.
    """
    names = [name for name in TITLES if any(name in summary for summary in results.values())]
    figure, (axes,) = blank_figure(0.9 * len(names) + 2, 5)
    width = 0.8 / len(results)
    for i, (label, summary) in enumerate(results.items()):
        places = [x + (i - (len(results) - 1) / 2) * width for x in range(len(names))]
        errors = [2 * summary["standard_errors"].get(name, 0) for name in names]
        axes.bar(places, [summary.get(name, 0) for name in names], width, yerr=errors, label=label, capsize=3)
    axes.set_xticks(range(len(names)), [TITLES[name] for name in names], rotation=40, ha="right")
    axes.set_ylim(0, 1)
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def plot_changes(correction: Mapping[str, Any], path: Path) -> None:
    """Stacked bars of what corrections added and removed, right, unclear and wrong.

    Args:
        correction (`Mapping`): Corpus values of [`correction_statistics`].
        path (`Path`): PNG file to write.
    """
    places = [f"{kind}_{change}" for kind in KINDS for change in ("added", "removed")]
    figure, (axes,) = blank_figure(8, 4)
    below = [0.0] * len(places)
    for verdict, colour in (("right", "tab:green"), ("unclear", "lightgray"), ("wrong", "tab:red")):
        values = [correction[f"{place}_{verdict}"] for place in places]
        axes.bar(range(len(places)), values, bottom=below, label=verdict, color=colour)
        below = [low + value for low, value in zip(below, values)]
    axes.set_xticks(range(len(places)), [place.replace("_", " ") for place in places])
    axes.set_ylabel("changes, all images")
    axes.legend()
    figure.savefig(path, dpi=120)


def plot_comparison(comparison: Comparison, path: Path, turn: str) -> None:
    """Differences of runs to the baseline with 95 % intervals, one line per score of a turn.

    Args:
        comparison ([`Comparison`]): The runs.
        path (`Path`): PNG file to write.
        turn (`str`): `"first"`, `"second"` or `"correction"`.
    """
    found = {name: runs for (t, name), runs in comparison.differences.items() if t == turn and name in TITLES}
    baseline, *others = comparison.runs
    figure, (axes,) = blank_figure(8, 0.3 * len(found) * max(len(others), 1) + 1.5)
    for i, run in enumerate(others):
        rows = [(y, runs[run]) for y, runs in enumerate(found.values()) if run in runs]
        heights = [y + (i - (len(others) - 1) / 2) * 0.2 for y, _ in rows]
        means = [interval.mean for _, interval in rows]
        errors: Sequence[Sequence[float]] = [
            [max(interval.mean - interval.low, 0) for _, interval in rows],
            [max(interval.high - interval.mean, 0) for _, interval in rows],
        ]
        axes.errorbar(means, heights, xerr=errors, fmt="o", capsize=3, label=run)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(found)), [TITLES[name] for name in found])
    axes.invert_yaxis()
    axes.set_xlabel(f"difference to {baseline}, {turn} turn" if turn != "correction" else f"difference to {baseline}")
    axes.grid(axis="x", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def blank_figure(width: float, height: float, columns: int = 1) -> tuple[Any, list[Any]]:
    """A figure of `columns` panels side by side, and the panels; sizes in inches.

    Args:
        width, height (`float`): Size of the whole figure in inches.
        columns (`int`, defaults to `1`): Number of panels, 1 or more.
    """
    # Without pyplot: no display is looked for, and no state is shared.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, [figure.add_subplot(1, columns, column + 1) for column in range(columns)]
