"""The tables of a report: scores of both turns before and after training, and paired differences between them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from .charts import interval


STAGES = (("before", "Before training"), ("after", "After training"))
TURNS = (("first", "first caption"), ("second", "corrected caption"))
COLUMNS = (
    ("objects_f1", "Objects F1"),
    ("attributes_f1", "Attributes F1"),
    ("relations_f1", "Relations F1"),
    ("mean_f1", "Mean F1"),
    ("broken_grammar", "Broken grammar"),
)


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """A difference of two scores on the same samples.

    Args:
        name (`str`): What is compared, e.g. `"corrected caption, after against before"`.
        mean (`float`): Mean difference; above 0 where the first is better.
        standard_error (`float`): Of the mean, from the differences per sample.
        n (`int`): Number of samples.
    """

    name: str
    mean: float
    standard_error: float
    n: int

    @classmethod
    def of(cls, name: str, scores: Sequence[float], baseline: Sequence[float]) -> PairedDifference:
        """From the scores of each sample, in the same order.

        Args:
            name (`str`): What was compared.
            scores (`Sequence[float]`): Score of every sample.
            baseline (`Sequence[float]`): Scores of the same samples to compare with.

        Raises:
            ValueError: If the lengths differ or there are fewer than two samples.
        """
        if len(scores) != len(baseline) or len(scores) < 2:
            raise ValueError(
                f"{name}: {len(scores)} and {len(baseline)} scores cannot be paired; pass two or more pairs."
            )
        differences = [a - b for a, b in zip(scores, baseline)]
        n = len(differences)
        return cls(name, statistics.fmean(differences), statistics.stdev(differences) / math.sqrt(n), n)

    @property
    def is_clear(self) -> bool:
        """Whether the mean is more than two standard errors away from 0."""
        return abs(self.mean) > 2 * self.standard_error


def score_table(results: Mapping[str, Any]) -> str:
    """The four rows of `results.json`; the best value of a column is marked.

    Args:
        results (`Mapping[str, Any]`): By stage and turn, scores by name.
    """
    rows = [
        (f"{stage_label}, {turn_label}", results[stage][turn])
        for stage, stage_label in STAGES
        if stage in results
        for turn, turn_label in TURNS
        if turn in results[stage]
    ]
    shown = [column for column in COLUMNS if any(column[0] in scores for _, scores in rows)]
    head = "".join(f'<th scope="col">{label}</th>' for _, label in shown)
    body = "".join(
        f'<tr><th scope="row">{escape(label)}</th>'
        + "".join(_cell(key, scores, rows) for key, _ in shown)
        + f"<td>{scores.get('n', '')}</td></tr>"
        for label, scores in rows
    )
    return (
        f'<div class="wide"><table class="scores"><thead><tr><th scope="col">Captions</th>{head}'
        f'<th scope="col">Samples</th></tr></thead><tbody>{body}</tbody></table></div>'
    )


def _cell(key: str, scores: Mapping[str, Any], rows: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    if scores.get(key) is None:
        return "<td>–</td>"
    value = float(scores[key])
    known = [float(other[key]) for _, other in rows if other.get(key) is not None]
    is_best = value == (min(known) if key == "broken_grammar" else max(known)) and len(set(known)) > 1
    text = f"{value:.1%}" if key == "broken_grammar" else f"{value:.3f}"
    error = (scores.get("standard_errors") or {}).get(key)
    if error is not None:
        text += f"<small> ± {f'{error:.1%}' if key == 'broken_grammar' else f'{error:.3f}'}</small>"
    return f'<td class="best">{text}</td>' if is_best else f"<td>{text}</td>"


def difference_table(differences: Sequence[PairedDifference]) -> str:
    """One row per comparison: mean, standard error, and a drawing with two standard errors to each side.

    Args:
        differences (`Sequence[PairedDifference]`): What to show.
    """
    if not differences:
        return ""
    span = max(abs(d.mean) + 2 * d.standard_error for d in differences) or 1.0
    body = "".join(
        f'<tr><th scope="row">{escape(d.name)}</th><td>{d.mean:+.3f}<small> ± {d.standard_error:.3f}</small></td>'
        f"<td>{interval(d.mean, d.standard_error, span)}</td>"
        f"<td>{'clear' if d.is_clear else 'within noise'}</td><td>{d.n}</td></tr>"
        for d in differences
    )
    return (
        "<h3>Paired differences</h3><p>Mean over the same samples ± its standard error; the bars reach two standard "
        "errors to each side, a bar that leaves zero out is called clear.</p>"
        '<div class="wide"><table class="scores"><thead><tr><th scope="col">Comparison</th>'
        '<th scope="col">Difference</th>'
        '<th scope="col"><span class="unseen">Drawing</span></th><th scope="col">Verdict</th>'
        f'<th scope="col">Samples</th></tr></thead><tbody>{body}</tbody></table></div>'
    )
