"""CAPTURE (Dong et al. 2024, capture_metric 0.1.13; method, section 6): F1 of objects, attributes and relations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from ..matching import Phrase, lemmatised, match, pair_off, stop_words, written
from ..scene_graph.graph import SceneGraph, Triple
from .result import MetricResult, averaged, check_lengths, mean


if TYPE_CHECKING:
    from ..scene_graph.encoder import PhraseEncoder
    from ..scene_graph.lexicon import Lexicon

T = TypeVar("T")

KINDS = ("object", "attribute", "relation")
SCORES = tuple(f"{kind}_{score}" for kind in KINDS for score in ("precision", "recall", "f1"))
WEIGHTS = {"object": 0.5, "attribute": 0.5, "relation": 0.2}

# Captions per encoder call: large enough for full batches, small enough that memory does not grow with the corpus.
CHUNK = 256


@dataclass(frozen=True, slots=True)
class CaptionParts:
    """What CAPTURE compares of a caption: its lemmatised graph, cut down to heads that the caption has as nouns.

    Args:
        objects (`list[str]`): Heads without stop words, sorted.
        attributes (`dict[str, frozenset[str]]`): Attributes by head.
        relations (`list[Triple]`): Triples, sorted.
    """

    objects: list[str]
    attributes: dict[str, frozenset[str]]
    relations: list[Triple]

    @property
    def pooled_attributes(self) -> list[str]:
        """Attributes of all heads; one that two heads share is there twice."""
        return sorted(attribute for values in self.attributes.values() for attribute in values)


def caption_parts(graph: SceneGraph, caption: str, lexicon: Lexicon) -> CaptionParts:
    """The [`CaptionParts`] of a caption and its graph."""
    nouns = lexicon.nouns(caption)
    view = lemmatised(graph, lexicon)

    def named(head: str) -> bool:
        return head in nouns or all(word in nouns for word in head.split(" "))

    return CaptionParts(
        sorted(head for head in view.objects if head not in stop_words() and named(head)),
        {head: values for head, values in view.attributes.items() if named(head)},
        sorted(triple for triple in view.triples if named(triple[0]) and named(triple[2])),
    )


def capture(
    candidates: Sequence[SceneGraph],
    references: Sequence[Sequence[SceneGraph]],
    candidate_captions: Sequence[str],
    reference_captions: Sequence[Sequence[str]],
    lexicon: Lexicon,
    encoder: PhraseEncoder,
) -> MetricResult:
    """CAPTURE of a corpus: `capture` and precision, recall and F1 of objects, attributes and relations, in [0, 1].

    Deterministic: where the released code pairs synonyms off in the order of Python sets, so that its score depends on
    the hash seed, the pairs are taken in alphabetical order here.

    Args:
        candidates (`Sequence[SceneGraph]`): Graphs of the captions to score.
        references (`Sequence[Sequence[SceneGraph]]`): Graphs of one or more references per caption; a caption's scores
            are means over its references.
        candidate_captions, reference_captions: The texts, which decide what counts as a noun.
        lexicon ([`Lexicon`]), encoder ([`PhraseEncoder`]): Words and phrases.

    Raises:
        ValueError: If the lists differ in length or a caption has no reference.
    """
    check_lengths(
        candidates=candidates,
        references=references,
        candidate_captions=candidate_captions,
        reference_captions=reference_captions,
    )
    per_sample: list[dict[str, float] | None] = []
    rows = zip(candidates, references, candidate_captions, reference_captions)
    for chunk in chunks(enumerate(rows), CHUNK):
        pairs = [_parts(index, row, lexicon) for index, row in chunk]
        encoder.encode(
            {phrase for ours, theirs in pairs for other in theirs for phrase in _soft(ours, other, lexicon)}
        )
        per_sample += [_sample_scores(ours, theirs, lexicon, encoder) for ours, theirs in pairs]
    return averaged(per_sample, ("capture", *SCORES))


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """`items` in lists of `size`, the last one shorter."""
    chunk: list[T] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _parts(
    index: int, row: tuple[SceneGraph, Sequence[SceneGraph], str, Sequence[str]], lexicon: Lexicon
) -> tuple[CaptionParts, list[CaptionParts]]:
    graph, references, caption, captions = row
    if not references or len(references) != len(captions):
        raise ValueError(f"Sample {index} has {len(references)} reference graphs and {len(captions)} captions.")
    ours = caption_parts(graph, caption, lexicon)
    return ours, [caption_parts(other, text, lexicon) for other, text in zip(references, captions)]


def _sides(parts: CaptionParts) -> tuple[Sequence[Phrase], ...]:
    return parts.objects, parts.pooled_attributes, parts.relations


def _soft(ours: CaptionParts, theirs: CaptionParts, lexicon: Lexicon) -> Iterator[str]:
    """Phrases that the third stage will compare: only they need encoding."""
    for candidate, reference in zip(_sides(ours), _sides(theirs)):
        _, _, left, free = pair_off(candidate, reference, lexicon)
        if left and free:
            yield from (written(phrase) for phrase in (*left, *free))


def _sample_scores(
    ours: CaptionParts, references: list[CaptionParts], lexicon: Lexicon, encoder: PhraseEncoder
) -> dict[str, float]:
    all_scores = [_pair_scores(ours, theirs, lexicon, encoder) for theirs in references]
    return {name: mean(scores[name] for scores in all_scores) for name in all_scores[0]}


def _pair_scores(
    ours: CaptionParts, theirs: CaptionParts, lexicon: Lexicon, encoder: PhraseEncoder
) -> dict[str, float]:
    scores: dict[str, float] = {}
    for kind, candidate, reference in zip(KINDS, _sides(ours), _sides(theirs)):
        found = match(candidate, reference, lexicon, encoder)
        scores.update({f"{kind}_precision": found.precision, f"{kind}_recall": found.recall, f"{kind}_f1": found.f1})
    total = sum(weight * scores[f"{kind}_f1"] for kind, weight in WEIGHTS.items()) / sum(WEIGHTS.values())
    return {"capture": total, **scores}
