"""The plots of the study's page, as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..evaluation.plots import blank_figure
from .statistics import Difference
from .table import StudyTable
from .tables import turns_of


def plot_turns(study: StudyTable, path: Path) -> bool:
    """Mean F1 of the three turns, a line per method, a panel per world; whether there was anything to plot.

    Args:
        study ([`StudyTable`]): As far as it is done.
        path (`Path`): PNG file to write.
    """
    figure, axes = blank_figure(9, 4.2, columns=len(study.grid.worlds))
    drawn = False
    for axis, world in zip(axes, study.grid.worlds):
        for number, method in enumerate(study.methods):
            known = [(turn, one) for turn, one in enumerate(turns_of(study, method.name, world), 1) if one is not None]
            if not known:
                continue
            drawn = True
            places = [turn + 0.03 * (number - len(study.methods) / 2) for turn, _ in known]
            errors = [one.sd or 0.0 for _, one in known]
            style = {"color": "black", "linewidth": 2.5} if method.name == study.grid.ours else {"linewidth": 1.2}
            axis.errorbar(places, [one.mean for _, one in known], yerr=errors, marker="o", capsize=2,
                          label=method.title, **style)  # fmt: skip
        axis.set_xticks((1, 2, 3), ("first", "second", "third"))
        axis.set_title(f"{world} scenes", fontsize=10)
        axis.set_xlabel("turn")
        axis.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel("mean F1 (± sd over seeds)")
    if drawn:
        axes[0].legend(fontsize=8)
    return _saved(figure, path, drawn)


def plot_curves(study: StudyTable, path: Path) -> bool:
    """Mean F1 of the second turn by optimizer steps, a line per method.

    Args:
        study ([`StudyTable`]): As far as it is done.
        path (`Path`): PNG file to write.
    """
    figure, (axis,) = blank_figure(6.5, 4)
    drawn = False
    for method in (method for method in study.methods if method.stages):
        steps = [*study.grid.curve, study.grid.steps]
        found = [(step, study.summary(method.name, "mean_f1", steps=step)) for step in steps]
        known = [(step, one) for step, one in found if one is not None]
        if known:
            drawn = True
            style = {"color": "black", "linewidth": 2.5} if method.name == study.grid.ours else {"linewidth": 1.2}
            axis.errorbar([step for step, _ in known], [one.mean for _, one in known],
                          yerr=[one.sd or 0.0 for _, one in known], marker="o", capsize=2, label=method.title,
                          **style)  # fmt: skip
    axis.set_xlabel("optimizer steps")
    axis.set_ylabel("mean F1 of the second turn")
    axis.grid(alpha=0.3)
    if drawn:
        axis.legend(fontsize=8)
    return _saved(figure, path, drawn)


def plot_differences(gaps: Sequence[tuple[str, Difference]], path: Path) -> bool:
    """Differences with their intervals over seeds, one line each; those right of zero are wins of ours.

    Args:
        gaps (`Sequence[tuple[str, Difference]]`): Title of a method or variant, and what ours is ahead of it; those of
            one seed are left out.
        path (`Path`): PNG file to write.
    """
    shown = [(title, gap) for title, gap in gaps if gap.n > 1]
    figure, (axis,) = blank_figure(7, 0.32 * len(shown) + 1.2)
    for place, (_, gap) in enumerate(shown):
        color = {"better": "tab:green", "worse": "tab:red", "open": "gray"}[gap.verdict]
        axis.errorbar(gap.mean, place, xerr=[[gap.mean - gap.low], [gap.high - gap.mean]], fmt="o", capsize=3,
                      color=color)  # fmt: skip
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(range(len(shown)), [title for title, _ in shown], fontsize=8)
    axis.invert_yaxis()
    figure.supxlabel("ours minus it: mean F1 of the second turn, 95 % interval over seeds", fontsize=9)
    axis.grid(axis="x", alpha=0.3)
    return _saved(figure, path, bool(shown))


def _saved(figure: object, path: Path, drawn: bool) -> bool:
    if drawn:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110, metadata={"Software": None})  # type: ignore[attr-defined]
    return drawn
