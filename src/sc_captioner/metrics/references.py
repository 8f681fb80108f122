"""Captions with several references each: every pair is scored, a sample's scores are means over its references."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from .capture import caption_parts
from .refined_capture import SCORES, WithoutAttributes, refined_capture
from .result import MetricResult, averaged, mean


if TYPE_CHECKING:
    from ..scene_graph.encoder import PhraseEncoder
    from ..scene_graph.graph import SceneGraph
    from ..scene_graph.lexicon import Lexicon

T = TypeVar("T")


def per_reference(values: Iterable[T], counts: Sequence[int]) -> list[T]:
    """Every value as often as its sample has references.

    Args:
        values (`Iterable[T]`): One per sample.
        counts (`Sequence[int]`): References of each sample.
    """
    return [value for value, count in zip(values, counts) for _ in range(count)]


def grouped(values: Sequence[T], counts: Sequence[int]) -> list[list[T]]:
    """The inverse of flattening: `values` in lists of `counts` entries.

    Args:
        values (`Sequence[T]`): One per reference, sample by sample.
        counts (`Sequence[int]`): References of each sample.
    """
    groups, start = [], 0
    for count in counts:
        groups.append(list(values[start : start + count]))
        start += count
    return groups


def mean_over_references(
    pairs: Sequence[dict[str, float] | None], counts: Sequence[int]
) -> list[dict[str, float] | None]:
    """Per sample the mean of every score over those of its references that have it; `None` where none was scored.

    Args:
        pairs (`Sequence[dict | None]`): Scores of every caption with every one of its references, sample by sample.
        counts (`Sequence[int]`): Number of references per sample.
    """
    return [_means([scores for scores in group if scores is not None]) for group in grouped(pairs, counts)]


def _means(group: list[dict[str, float]]) -> dict[str, float] | None:
    names = dict.fromkeys(name for scores in group for name in scores)
    return {name: mean(scores[name] for scores in group if name in scores) for name in names} or None


def refined_capture_over_references(
    candidates: Sequence[SceneGraph],
    references: Sequence[Sequence[SceneGraph]],
    candidate_captions: Sequence[str],
    reference_captions: Sequence[Sequence[str]],
    extra_objects: Sequence[Sequence[str]],
    extra_attributes: Sequence[Any],
    lexicon: Lexicon,
    encoder: PhraseEncoder,
    without_attributes: WithoutAttributes = "skip",
) -> MetricResult:
    """[`refined_capture`] with one or more references per caption; a caption's scores are means over them.

    A sample counts as one without attributes if it is so with every one of its references.

    Args:
        candidates (`Sequence[SceneGraph]`): Graphs of the captions to score.
        references (`Sequence[Sequence[SceneGraph]]`): Graphs of one or more references per caption.
        candidate_captions (`Sequence[str]`): Texts of the captions.
        reference_captions (`Sequence[Sequence[str]]`): Texts of the references.
        extra_objects (`Sequence[Sequence[str]]`): Objects annotated beyond the references, per image.
        extra_attributes (`Sequence[Any]`): Annotated attributes per image.
        lexicon ([`Lexicon`]): Lemmas and synonyms.
        encoder ([`PhraseEncoder`]): Vectors of phrases.
        without_attributes (`WithoutAttributes`, defaults to `"skip"`): As in [`refined_capture`].
    """
    counts = [len(sample) for sample in references]
    graphs = [graph for sample in references for graph in sample]
    captions = [caption for sample in reference_captions for caption in sample]
    pairs = refined_capture(
        per_reference(candidates, counts),
        graphs,
        per_reference(candidate_captions, counts),
        captions,
        per_reference(extra_objects, counts),
        per_reference(extra_attributes, counts),
        lexicon,
        encoder,
        without_attributes,
    )
    if len(pairs.per_sample) == len(references):
        return pairs
    samples = mean_over_references(pairs.per_sample, counts)
    attributes = averaged([s if s is None or "attribute_f1" in s else None for s in samples], SCORES).corpus
    objects = averaged(samples, SCORES[:3]).corpus
    described = [bool(caption_parts(g, c, lexicon).attributes) for g, c in zip(graphs, captions)]
    own = [bool(caption_parts(g, c, lexicon).attributes) for g, c in zip(candidates, candidate_captions)]
    lacking = sum(not (has and any(others)) for has, others in zip(own, grouped(described, counts)))
    return MetricResult({**attributes, **objects}, samples, lacking)
