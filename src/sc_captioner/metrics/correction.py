"""What the second turn did to the first: additions and removals, right and wrong, per image and in sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..rewards.paper import PaperJudge, PaperWeights, Verdict
from ..rewards.revision import CaptionTriple
from .capture import CHUNK, chunks
from .result import MetricResult, check_lengths, mean


if TYPE_CHECKING:
    from ..scene_graph.encoder import PhraseEncoder
    from ..scene_graph.graph import SceneGraph
    from ..scene_graph.lexicon import Lexicon

KINDS = ("objects", "attributes", "relations")
COUNTS = tuple(
    f"{kind}_{change}_{verdict}"
    for kind in KINDS
    for change in ("added", "removed")
    for verdict in ("right", "wrong", "unclear")
)


def correction_statistics(
    first: Sequence[SceneGraph],
    second: Sequence[SceneGraph],
    references: Sequence[SceneGraph],
    first_captions: Sequence[str],
    second_captions: Sequence[str],
    reference_captions: Sequence[str],
    lexicon: Lexicon,
    encoder: PhraseEncoder,
    weights: PaperWeights | None = None,
) -> MetricResult:
    """Counts of what second captions added and removed, judged against references as the `paper` reward judges.

    An addition is right if the reference holds it (similarity above `weights.hit`) and wrong if it does not (below
    `weights.miss`), a removal the other way round; all else is unclear, among it what the reference says nothing of.

    Args:
        first, second, references (`Sequence[SceneGraph]`): Graphs of both turns and of the references.
        first_captions, second_captions, reference_captions (`Sequence[str]`): The texts.
        lexicon ([`Lexicon`]), encoder ([`PhraseEncoder`]): Words and phrases.
        weights ([`PaperWeights`], *optional*): Thresholds.

    Returns:
        [`MetricResult`]: Per sample the counts `{objects,attributes,relations}_{added,removed}_{right,wrong,unclear}`
        and `unchanged` (0 or 1); in the corpus their sums, `unchanged_share`, and of every kind and change the
        `..._right_share` (right over right and wrong, 0.0 where there are none).

    Raises:
        ValueError: If the lists differ in length.
    """
    check_lengths(
        first=first,
        second=second,
        references=references,
        first_captions=first_captions,
        second_captions=second_captions,
        reference_captions=reference_captions,
    )
    weights = weights or PaperWeights()
    rows = zip(first_captions, second_captions, reference_captions, first, second, references)
    per_sample: list[dict[str, float]] = []
    for chunk in chunks(rows, CHUNK):
        judges = [PaperJudge(CaptionTriple(*row), lexicon, weights) for row in chunk]
        encoder.encode({phrase for judge in judges for phrase in judge.phrases()})
        per_sample += [_counts(judge, encoder, weights) for judge in judges]
    sums = {name: sum(scores[name] for scores in per_sample) for name in COUNTS}
    unchanged = mean(scores["unchanged"] for scores in per_sample)
    return MetricResult({**sums, **right_share(sums), "unchanged_share": unchanged}, list(per_sample))


def right_share(counts: Mapping[str, float]) -> dict[str, float]:
    """`..._right_share` of every kind and change: right over right and wrong, 0.0 where there are none.

    Args:
        counts (`Mapping[str, float]`): By the names in `COUNTS`.
    """
    return {
        f"{stem}_right_share": _share(counts[f"{stem}_right"], counts[f"{stem}_wrong"])
        for stem in dict.fromkeys(name.rsplit("_", 1)[0] for name in COUNTS)
    }


def _share(right: float, wrong: float) -> float:
    return right / (right + wrong) if right + wrong else 0.0


def _counts(judge: PaperJudge, encoder: PhraseEncoder, weights: PaperWeights) -> dict[str, float]:
    revision, parts = judge.score(encoder)
    verdict: Verdict = judge.verdict(encoder)
    sizes = {
        "added": (revision.added_objects, revision.added_attributes, revision.added_relations),
        "removed": (revision.removed_objects, revision.removed_attributes, revision.removed_relations),
    }
    counts = dict.fromkeys(COUNTS, 0.0)
    for change, side in (("added", verdict.added), ("removed", verdict.removed)):
        for kind, changed in zip(KINDS, sizes[change]):
            total = sum(map(len, changed.values())) if isinstance(changed, dict) else len(changed)
            hits = sum(s > weights.hit for s in side[kind].values())
            misses = sum(s < weights.miss for s in side[kind].values())
            right, wrong = (hits, misses) if change == "added" else (misses, hits)
            counts[f"{kind}_{change}_right"], counts[f"{kind}_{change}_wrong"] = float(right), float(wrong)
            counts[f"{kind}_{change}_unclear"] = float(total - right - wrong)
    return {**counts, "unchanged": parts["unchanged"]}
