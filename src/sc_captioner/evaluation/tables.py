"""Tables of scores, in Markdown that is aligned for the terminal as well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .comparison import Comparison

# In the order of the tables; scores that stand in no table are in the JSON and the parquet file.
TITLES = {
    "objects_f1": "facts: objects F1",
    "attributes_f1": "facts: attributes F1",
    "relations_f1": "facts: relations F1",
    "mean_f1": "facts: mean F1",
    "broken_grammar": "broken grammar",
    "capture": "CAPTURE",
    "capture_object_f1": "CAPTURE: objects F1",
    "capture_attribute_f1": "CAPTURE: attributes F1",
    "capture_relation_f1": "CAPTURE: relations F1",
    "refined_object_precision": "refined: objects precision",
    "refined_object_recall": "refined: objects recall",
    "refined_object_f1": "refined: objects F1",
    "refined_attribute_precision": "refined: attributes precision",
    "refined_attribute_recall": "refined: attributes recall",
    "refined_attribute_f1": "refined: attributes F1",
    "relation_qa": "relations by questions",
    "correction_reward": "correction reward",
    "unchanged": "unchanged corrections",
}


def score_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Means with their standard errors: one line per score, one column per entry of `results`.

    Args:
        results (`Mapping[str, Mapping]`): Label to a summary, see [`TurnScores.summary`].
    """
    names = [name for name in TITLES if any(name in summary for summary in results.values())]
    rows = [["score", *results]]
    for name in names:
        cells = [
            f"{summary[name]:.3f} ± {summary['standard_errors'][name]:.3f}" if name in summary else "-"
            for summary in results.values()
        ]
        rows.append([TITLES[name], *cells])
    if any("refined_skipped" in summary for summary in results.values()):
        rows.append(["refined: without attributes", *(_count(s, "refined_skipped") for s in results.values())])
    rows.append(["n", *(str(summary["n"]) for summary in results.values())])
    return markdown_table(rows)


def difference_table(differences: Mapping[str, Mapping[str, float]]) -> str:
    """Paired differences with 95 % intervals and p-values, one line per score; see [`differences`].

    Args:
        differences (`Mapping[str, Mapping[str, float]]`): By name of the score, see [`differences`].
    """
    rows = [["second turn minus first", "difference", "95 % interval", "p"]]
    for name, title in TITLES.items():
        if name in differences:
            found = differences[name]
            bounds = f"[{found['low']:+.3f}, {found['high']:+.3f}]"
            rows.append([title, f"{found['mean']:+.3f}", bounds, _p_value(found["p_value"])])
    return markdown_table(rows)


def result_tables(results: Mapping[str, Any]) -> str:
    """All tables of a run: scores by turn, the difference between turns, and the corrections; see [`results_of`].

    Args:
        results (`Mapping[str, Any]`): What [`results_of`] gave.
    """
    turns = {name: results[name] for name in ("first", "second") if name in results}
    tables = [score_table(turns)]
    if "second_minus_first" in results:
        tables.append(difference_table(results["second_minus_first"]))
    if "correction" in results:
        tables.append(score_table({"correction": results["correction"]}))
    return "\n\n".join(tables)


def comparison_table(comparison: Comparison) -> str:
    """Scores of runs side by side: means of all, and differences to the baseline with their significance.

    `*` and `**` mark differences with p below 0.05 and 0.01, by paired bootstrap and without correction for the
    number of comparisons.

    Args:
        comparison ([`Comparison`]): What [`compare`] gave.
    """
    baseline, *others = comparison.runs
    rows = [["turn", "score", baseline, *(text for run in others for text in (run, f"{run} minus {baseline}"))]]
    for (turn, name), means in comparison.means.items():
        if name not in TITLES:
            continue
        cells = [_mean(means, baseline)]
        for run in others:
            found = comparison.differences.get((turn, name), {}).get(run)
            stars = "" if found is None else "**" if found.p_value < 0.01 else "*" if found.p_value < 0.05 else ""
            told = "-" if found is None else f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]{stars}"
            cells += [_mean(means, run), told]
        rows.append([turn, TITLES[name], *cells])
    rows.append(["", "n", *(str(comparison.n), *(text for _ in others for text in (str(comparison.n), "")))])
    return markdown_table(rows, texts=2)


def _mean(means: Mapping[str, float], run: str) -> str:
    return f"{means[run]:.3f}" if run in means else "-"


def _count(summary: Mapping[str, Any], name: str) -> str:
    return f"{summary[name]:.0f}" if name in summary else "-"


def _p_value(value: float) -> str:
    # 2,000 resamples tell nothing smaller apart.
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def markdown_table(rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """Rows, the first of them the head, with columns of even width; the first `texts` columns are left-aligned.

    Args:
        rows (`Sequence[Sequence[str]]`): Cells of every row, equally many in each.
        texts (`int`, defaults to `1`): Columns of words, from the left; the others hold numbers and are right-aligned.
    """
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    rule = [("-" * width if i < texts else "-" * (width - 1) + ":") for i, width in enumerate(widths)]
    lines = [rows[0], rule, *rows[1:]]
    padded = (
        (f"{cell:<{width}}" if i < texts else f"{cell:>{width}}" for i, (cell, width) in enumerate(zip(line, widths)))
        for line in lines
    )
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)
