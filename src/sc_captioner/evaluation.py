"""Scores of both turns from a predictions file: per sample, in sum, as a table and as a picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .metrics.facts import fact_scores
from .scene_graph import load_lexicon, load_parser, parse_captions


if TYPE_CHECKING:
    from .scene_graph import SceneGraphParser
    from .scene_graph.lexicon import LexiconName

TURNS = {"first": "predict", "second": "predict_turn2"}
_TITLES = {
    "objects_f1": "objects F1",
    "attributes_f1": "attributes F1",
    "relations_f1": "relations F1",
    "mean_f1": "mean F1",
    "broken_grammar": "broken grammar",
}


@dataclass(frozen=True)
class TurnScores:
    """Scores of one turn's captions.

    Args:
        per_sample (`dict[str, list[float]]`): `objects_f1`, `attributes_f1`, `relations_f1` and `mean_f1`, each in
            [0, 1], and `broken_grammar` (0 or 1) where grammar is checked; one value per sample, in order.
    """

    per_sample: dict[str, list[float]]

    def summary(self) -> dict[str, Any]:
        """Means by name, `n`, and under `standard_errors` the standard error of every mean."""
        n = len(self.per_sample["mean_f1"])
        means = {name: math.fsum(values) / n for name, values in self.per_sample.items()}
        errors = {name: _standard_error(values, means[name]) for name, values in self.per_sample.items()}
        return {**means, "n": n, "standard_errors": errors}


def _standard_error(values: Sequence[float], mean: float) -> float:
    if len(values) < 2:
        return 0.0
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))


def scores_of_turns(
    predictions: Sequence[Mapping[str, str]],
    *,
    parser: SceneGraphParser | str = "compact",
    lexicon: LexiconName = "auto",
    grammar_errors: Callable[[str], list[str]] | None = None,
) -> dict[str, TurnScores]:
    """Exact agreement with the reference's facts, for each turn.

    Args:
        predictions (`Sequence[Mapping]`): Rows with `label` (reference), `predict` and `predict_turn2`.
        parser ([`SceneGraphParser`] or `str`): Reads captions and references alike.
        lexicon (`str`): See `load_lexicon`.
        grammar_errors (`Callable`, *optional*): Errors of a caption, for worlds whose grammar is known.

    Returns:
        `dict` with the keys `first` and `second`.
    """
    reader, words = load_parser(parser), load_lexicon(lexicon)
    columns = ("label", *TURNS.values())
    graphs = parse_captions(reader, words, [row[column] for column in columns for row in predictions])
    n = len(predictions)
    by_column = {column: graphs[i * n : (i + 1) * n] for i, column in enumerate(columns)}
    scores = {}
    for turn, column in TURNS.items():
        samples = fact_scores(by_column[column], by_column["label"], words).per_sample
        per_sample = {name: [sample[name] for sample in samples if sample] for name in list(_TITLES)[:4]}
        if grammar_errors is not None:
            per_sample["broken_grammar"] = [float(bool(grammar_errors(row[column]))) for row in predictions]
        scores[turn] = TurnScores(per_sample)
    return scores


def score_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A table for the terminal: one line per entry of `results`, which maps a label to a summary."""
    names = [name for name in _TITLES if any(name in summary for summary in results.values())]
    width = max(map(len, results))
    lines = [" " * width + "".join(f"{_TITLES[name]:>18}" for name in names) + f"{'n':>7}"]
    for label, summary in results.items():
        cells = "".join(
            f"{summary[name]:>10.3f} ± {summary['standard_errors'][name]:.3f}" if name in summary else f"{'-':>18}"
            for name in names
        )
        lines.append(f"{label:<{width}}{cells}{summary['n']:>7}")
    return "\n".join(lines)


def plot_scores(results: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Bars of every score with two standard errors, one colour per entry of `results`, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [name for name in _TITLES if any(name in summary for summary in results.values())]
    figure = Figure(figsize=(1.8 * len(names) + 1, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    width = 0.8 / len(results)
    for i, (label, summary) in enumerate(results.items()):
        places = [x + (i - (len(results) - 1) / 2) * width for x in range(len(names))]
        errors = [2 * summary["standard_errors"].get(name, 0) for name in names]
        axes.bar(places, [summary.get(name, 0) for name in names], width, yerr=errors, label=label, capsize=3)
    axes.set_xticks(range(len(names)), [_TITLES[name] for name in names])
    axes.set_ylim(0, 1)
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
