"""The correction reward of a corpus, with its parts and with the counts of what was changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..scene_graph.parser import parse_captions
from .correction import COUNTS, correction_statistics, right_share
from .references import mean_over_references, per_reference
from .result import MetricResult, averaged


if TYPE_CHECKING:
    from ..rewards import CorrectionReward


def correction_scores(
    reward: CorrectionReward,
    first_captions: Sequence[str],
    second_captions: Sequence[str],
    references: Sequence[Sequence[str]],
) -> MetricResult:
    """Reward and revision of every correction.

    Args:
        reward ([`CorrectionReward`]): Scores, with its parser, encoder and lexicon.
        first_captions, second_captions (`Sequence[str]`): Captions of both turns.
        references (`Sequence[Sequence[str]]`): One or more references per caption; a caption's scores are means over
            its references.

    Returns:
        [`MetricResult`]: Per sample `correction_reward` (-0.5 to 0.5), `part_<name>` for every part of the reward,
        `unchanged` (0 or 1) and the counts of [`correction_statistics`]; `None` for samples that the reward cannot
        score. In the corpus means, of counts sums and `..._right_share`, and `unchanged_share`.
    """
    sizes = [len(sample) for sample in references]
    columns = (
        per_reference(first_captions, sizes),
        per_reference(second_captions, sizes),
        [reference for sample in references for reference in sample],
    )
    parts = reward.parts_of(*columns)
    scored = [index for index, values in enumerate(parts) if values is not None]
    first, second, reference = ([column[index] for index in scored] for column in columns)
    graphs = parse_captions(reward.parser, reward.lexicon, [*first, *second, *reference])
    n = len(scored)
    counts = correction_statistics(
        graphs[:n],
        graphs[n : 2 * n],
        graphs[2 * n :],
        first,
        second,
        reference,
        reward.lexicon,
        reward.encoder,
        reward.weights,
    )
    pairs: list[dict[str, float] | None] = [None] * len(parts)
    for index, changes in zip(scored, counts.per_sample):
        values = dict(parts[index] or {})
        total, unchanged = values.pop("total"), values.pop("unchanged")
        named = {f"part_{name}": value for name, value in values.items()}
        pairs[index] = {"correction_reward": total, **named, **(changes or {}), "unchanged": unchanged}
    samples = mean_over_references(pairs, sizes)
    return _corpus(samples)


def _corpus(samples: list[dict[str, float] | None]) -> MetricResult:
    scored = [scores for scores in samples if scores is not None]
    names = [name for name in (scored[0] if scored else ("correction_reward", "unchanged")) if name not in COUNTS]
    means = averaged(samples, names)
    sums = {name: sum(scores[name] for scores in scored) for name in COUNTS}
    unchanged = means.corpus.pop("unchanged")
    corpus = {**means.corpus, **sums, **right_share(sums), "unchanged_share": unchanged}
    return MetricResult(corpus, samples, means.skipped)
