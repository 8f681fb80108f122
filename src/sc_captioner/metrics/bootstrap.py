"""How sure a mean is: bootstrap confidence intervals of scores and of paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np


SAME = 1e-5  # largest difference of two scores that is none


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and what resampling says of it.

    Args:
        mean (`float`): Mean of the values.
        low, high (`float`): Bounds of the percentile interval.
        standard_error (`float`): Standard deviation of the resampled means.
        p_value (`float`): Two-sided probability, by sign of the resampled means, of a mean of 0: for differences.
        n (`int`): Number of values.
    """

    mean: float
    low: float
    high: float
    standard_error: float
    p_value: float
    n: int

    def to_dict(self) -> dict[str, float]:
        """JSON-serialisable form."""
        return asdict(self)


def bootstrap(
    values: Sequence[float | None], confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Percentile bootstrap of the mean (Efron 1979), the same for equal arguments whatever their order.

    Args:
        values (`Sequence[float | None]`): One value per sample; `None` is left out.
        confidence (`float`, *optional*, defaults to `0.95`): Coverage of the interval, between 0 and 1.
        resamples (`int`, *optional*, defaults to `2000`): Number of samples drawn with replacement.
        seed (`int`, *optional*, defaults to `0`): Seed of the draws.

    Raises:
        ValueError: If no value is left or `confidence` is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence lies between 0 and 1, not {confidence}.")
    data = np.sort(np.array([value for value in values if value is not None], dtype=np.float64))
    if not data.size:
        raise ValueError("There are no values to resample.")
    generator = np.random.default_rng(seed)
    # One resample at a time: 10,000 values x 2,000 resamples at once would be 160 MB.
    means = np.array([data[generator.integers(0, data.size, data.size)].mean() for _ in range(resamples)])
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    below, above = float((means <= 0).mean()), float((means >= 0).mean())
    return Interval(
        float(data.mean()), float(low), float(high), float(means.std()), min(1.0, 2 * min(below, above)), data.size
    )


def paired_bootstrap(
    first: Sequence[float | None],
    second: Sequence[float | None],
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Bootstrap of `second - first`, sample by sample; samples that lack either are left out.

    Differences below 1e-5 count as 0: the denominators of the released formulas carry an epsilon of 1e-6, so that a
    perfect score depends on the length of the caption a little, in one direction.

    Args:
        first (`Sequence[float | None]`): Score of every sample, `None` where there is none.
        second (`Sequence[float | None]`): Scores of the same samples in the same order.
        confidence (`float`, defaults to `0.95`): Share of the resampled means inside the interval, between 0 and 1.
        resamples (`int`, defaults to `2000`): How often to resample.
        seed (`int`, defaults to `0`): Of the resampling.

    Raises:
        ValueError: If the lists differ in length or have no sample in common.
    """
    if len(first) != len(second):
        raise ValueError(f"Paired scores differ in length: {len(first)} and {len(second)}.")
    pairs = [(a, b) for a, b in zip(first, second) if a is not None and b is not None]
    differences = [b - a if abs(b - a) >= SAME else 0.0 for a, b in pairs]
    return bootstrap(differences, confidence, resamples, seed)
