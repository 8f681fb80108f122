"""How sure a difference of two methods is: over seeds, and over scenes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ..metrics.bootstrap import Interval, bootstrap


@dataclass(frozen=True)
class Difference:
    """A paired difference over seeds.

    Args:
        mean (`float`): Mean of the differences, ours minus theirs.
        low, high (`float`): 95 % interval by Student's t; infinite with fewer than two seeds.
        n (`int`): Seeds.
    """

    mean: float
    low: float
    high: float
    n: int

    @property
    def verdict(self) -> str:
        """`better`, `worse` or `open`: where the interval lies; `unknown` where one seed has none."""
        if self.n < 2:
            return "unknown"
        return "better" if self.low > 0 else "worse" if self.high < 0 else "open"

    def __str__(self) -> str:
        if self.n < 2:
            return f"{self.mean:+.3f} (one seed)"
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def paired_difference(ours: Sequence[float], theirs: Sequence[float], confidence: float = 0.95) -> Difference:
    """Mean of `ours - theirs` with an interval by Student's t, degrees of freedom one less than there are pairs.

    Args:
        ours, theirs (`Sequence[float]`): One value per seed, in the same order.
        confidence (`float`): Coverage, between 0 and 1.

    Raises:
        ValueError: If the lists differ in length or are empty.
    """
    from scipy import stats

    if len(ours) != len(theirs) or not ours:
        raise ValueError(f"paired values must be as many on both sides, and some: {len(ours)} and {len(theirs)}.")
    gaps = [a - b for a, b in zip(ours, theirs)]
    mean, n = math.fsum(gaps) / len(gaps), len(gaps)
    if n < 2:
        return Difference(mean, -math.inf, math.inf, n)
    reach = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * statistics.stdev(gaps) / math.sqrt(n)
    return Difference(mean, mean - reach, mean + reach, n)


def over_scenes(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> Interval:
    """Bootstrap over scenes of the difference, averaged over seeds first: what other scenes would make of these runs.

    Args:
        ours, theirs (`Sequence[Sequence[float]]`): By seed one value per scene, the same scenes in the same order.

    Raises:
        ValueError: If seeds or scenes differ in number.
    """
    if len(ours) != len(theirs) or len({len(values) for values in (*ours, *theirs)}) != 1:
        raise ValueError("paired values must have the same seeds and scenes on both sides.")
    gaps = [math.fsum(a - b for a, b in zip(mine, other)) / len(ours) for mine, other in zip(zip(*ours), zip(*theirs))]
    return bootstrap(gaps)
