"""What every metric returns: corpus values, per-sample values, and how many samples are behind them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class MetricResult:
    """Scores of a corpus.

    Args:
        corpus (`dict[str, float]`): Means over the samples that were scored; 0.0 where there are none.
        per_sample (`list[dict[str, float] | None]`): Scores of every sample in the order given, `None` for those left
            out of the means.
        skipped (`int`): Number of samples left out.
    """

    corpus: dict[str, float]
    per_sample: list[dict[str, float] | None]
    skipped: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable form."""
        return {**self.corpus, "skipped": self.skipped, "per_sample": self.per_sample}


def mean(values: Iterable[float]) -> float:
    """Arithmetic mean whatever the order of `values` (exactly rounded sum), 0.0 of none.

    Args:
        values (`Iterable[float]`): Any number of finite values.
    """
    values = list(values)
    return math.fsum(values) / len(values) if values else 0.0


def averaged(per_sample: Sequence[dict[str, float] | None], names: Sequence[str]) -> MetricResult:
    """The [`MetricResult`] of per-sample scores: means of `names` over the samples that have scores.

    Args:
        per_sample (`Sequence[dict[str, float] | None]`): Scores by name; `None` for a sample that has none.
        names (`Sequence[str]`): Scores to average.
    """
    scored = [scores for scores in per_sample if scores is not None]
    corpus = {name: mean(scores[name] for scores in scored) for name in names}
    return MetricResult(corpus, list(per_sample), len(per_sample) - len(scored))


def check_lengths(**columns: Sequence[Any]) -> None:
    """Checks that columns belong together.

    Args:
        columns (`Sequence`): By name, one entry per sample in each.

    Raises:
        ValueError: If they differ in length; the message names the lengths.
    """
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"Columns differ in length: {', '.join(f'{k}: {v}' for k, v in sizes.items())}.")
