"""CAPTURE (Dong et al. 2024, capture_metric 0.1.13; docs/concepts.md): F1 of objects, attributes and relations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from ..matching import Pairing, Phrase, lemmatised, pair_off, stop_words
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
CHUNK = 512


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
    """The [`CaptionParts`] of a caption and its graph.

    Args:
        graph ([`SceneGraph`]): Graph of the caption.
        caption (`str`): Its text, which decides what counts as a noun.
        lexicon ([`Lexicon`]): Lemmas and parts of speech.
    """
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
        pairings = [_pairings(index, row, lexicon) for index, row in chunk]
        encoder.encode({p for sample in pairings for kinds in sample for pairing in kinds for p in pairing.phrases()})
        per_sample += [_sample_scores(sample, encoder) for sample in pairings]
    return averaged(per_sample, ("capture", *SCORES))


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """`items` in lists of `size`, the last one shorter.

    Args:
        items (`Iterable[T]`): Anything.
        size (`int`): 1 or more.
    """
    chunk: list[T] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _pairings(
    index: int, row: tuple[SceneGraph, Sequence[SceneGraph], str, Sequence[str]], lexicon: Lexicon
) -> list[list[Pairing]]:
    """For every reference, the pairs of objects, of attributes and of relations."""
    graph, references, caption, captions = row
    if not references or len(references) != len(captions):
        raise ValueError(f"Sample {index} has {len(references)} reference graphs and {len(captions)} captions.")
    ours = _sides(caption_parts(graph, caption, lexicon))
    others = [_sides(caption_parts(other, text, lexicon)) for other, text in zip(references, captions)]
    return [[pair_off(a, b, lexicon) for a, b in zip(ours, theirs)] for theirs in others]


def _sides(parts: CaptionParts) -> tuple[Sequence[Phrase], ...]:
    return parts.objects, parts.pooled_attributes, parts.relations


def _sample_scores(references: list[list[Pairing]], encoder: PhraseEncoder) -> dict[str, float]:
    all_scores = [_reference_scores(pairings, encoder) for pairings in references]
    return {name: mean(scores[name] for scores in all_scores) for name in all_scores[0]}


def _reference_scores(pairings: list[Pairing], encoder: PhraseEncoder) -> dict[str, float]:
    scores: dict[str, float] = {}
    for kind, pairing in zip(KINDS, pairings):
        found = pairing.settled(encoder)
        scores |= {f"{kind}_precision": found.precision, f"{kind}_recall": found.recall, f"{kind}_f1": found.f1}
    total = sum(weight * scores[f"{kind}_f1"] for kind, weight in WEIGHTS.items()) / sum(WEIGHTS.values())
    return {"capture": total, **scores}
