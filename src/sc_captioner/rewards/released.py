"""The correction reward exactly as the released code computes it (docs/concepts.md)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..matching import Mentions, lemmatised, similarities, stop_words
from ..scene_graph.graph import Revision
from .revision import CaptionTriple


if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..scene_graph.encoder import PhraseEncoder
    from ..scene_graph.graph import SceneGraph
    from ..scene_graph.lexicon import Lexicon

RENAMING = 0.75  # cosine above which a removed and an added object are one object under two names


def sigmoid(value: float) -> float:
    """Logistic function, safe at both ends.

    Args:
        value (`float`): Any number.
    """
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))


class ReleasedJudge:
    """Revision and score of one caption triple; phrases are named first, so that a batch is encoded in one call.

    Args:
        triple ([`CaptionTriple`]): The three captions and their graphs.
        lexicon ([`Lexicon`]): Lemmas and synonyms.
    """

    parts = ("objects", "attributes")

    def __init__(self, triple: CaptionTriple, lexicon: Lexicon) -> None:
        self.triple, self.lexicon = triple, lexicon
        first, second = triple.first_graph, triple.second_graph
        self._removed = _written_only_in(first.objects - second.objects, triple.first, triple.second)
        self._added = _written_only_in(second.objects - first.objects, triple.second, triple.first)
        self._removed_attributes = _changed_attributes(first, second, self._removed, triple.first, triple.second)
        self._added_attributes = _changed_attributes(second, first, self._added, triple.second, triple.first)
        self._reference_attributes = self._attributes_to_compare()

    def _attributes_to_compare(self) -> dict[str, list[str]]:
        attributes = lemmatised(self.triple.reference_graph, self.lexicon).attributes
        mentions = Mentions(self.triple.reference, self.lexicon)
        # Only heads that were revised are looked for in the text: the test is the dearest step.
        heads = attributes.keys() & (self._removed_attributes.keys() | self._added_attributes.keys())
        return {head: sorted(attributes[head]) for head in heads if head in mentions}

    def phrases(self) -> Iterator[str]:
        """Every phrase that `score` will compare."""
        if self._removed or self._added:
            yield from self._removed
            yield from self._added
            yield from self.triple.reference_graph.objects
        for head, attributes in self._reference_attributes.items():
            yield from attributes
            yield from self._removed_attributes.get(head, ())
            yield from self._added_attributes.get(head, ())

    def score(self, encoder: PhraseEncoder) -> tuple[Revision, dict[str, float]]:
        """The revision, and its parts with `unchanged` (0 or 1) and `total` = sigmoid(2 soft + bonus) - 0.5.

        Args:
            encoder ([`PhraseEncoder`]): Vectors of phrases.
        """
        removed, added = self._without_renamings(encoder)
        if self.triple.first == self.triple.second:
            parts = {"objects": 0.0, "attributes": 0.0, "unchanged": 1.0, "total": sigmoid(-1.0) - 0.5}
        else:
            objects = self._objects(removed, added, encoder)
            attributes = self._attributes(encoder)
            total = sigmoid(objects + attributes) - 0.5
            parts = {"objects": objects, "attributes": attributes, "unchanged": 0.0, "total": total}
        triples, later = self.triple.first_graph.triples, self.triple.second_graph.triples
        revision = Revision(
            added_objects=frozenset(added),
            removed_objects=frozenset(removed),
            added_attributes=self._added_attributes,
            removed_attributes=self._removed_attributes,
            added_relations=later - triples,
            removed_relations=triples - later,
        )
        return revision, parts

    def _without_renamings(self, encoder: PhraseEncoder) -> tuple[list[str], list[str]]:
        removed, added = sorted(self._removed), sorted(self._added)
        renamed = similarities(encoder, removed, added) > RENAMING
        removed = [word for word, row in zip(removed, renamed) if not row.any()]
        added = [word for word, column in zip(added, renamed.T) if not column.any()] if renamed.size else added

        def names_object(word: str) -> bool:
            return self.lexicon.noun_lemma(word) not in stop_words()

        return list(filter(names_object, removed)), list(filter(names_object, added))

    def _objects(self, removed: list[str], added: list[str], encoder: PhraseEncoder) -> float:
        reference = sorted(self.triple.reference_graph.objects)
        value = 0.0
        if removed and reference:
            best = similarities(encoder, removed, reference).max(axis=1)
            value += 2 * float(np.mean(0.6 - best)) + _capped(best < 0.6, 0.25, 3) - _capped(best > 0.7, 0.25, 3)
        if added and reference:
            best = similarities(encoder, added, reference).max(axis=1)
            value += 2 * float(np.mean(best - 0.55)) - _capped(best < 0.6, 0.25, 3) + _capped(best > 0.7, 0.25, 3)
        return value

    def _attributes(self, encoder: PhraseEncoder) -> float:
        value = 0.0
        for head, reference in sorted(self._reference_attributes.items()):
            for changed, sign in ((self._removed_attributes, -1), (self._added_attributes, 1)):
                if head in changed:
                    best = similarities(encoder, sorted(changed[head]), reference).max(axis=1)
                    value += sign * _capped(best > 0.7, 0.15, 3)
        return value


def _capped(hits: NDArray[np.bool_], each: float, most: int) -> float:
    return each * min(int(hits.sum()), most)


def _written_only_in(phrases: frozenset[str], here: str, there: str) -> frozenset[str]:
    return frozenset(phrase for phrase in phrases if phrase in here and phrase not in there)


def _changed_attributes(
    graph: SceneGraph, other: SceneGraph, changed_heads: frozenset[str], here: str, there: str
) -> dict[str, frozenset[str]]:
    others = other.attributes
    changed = {
        head: _written_only_in(values - others.get(head, frozenset()), here, there)
        for head, values in sorted(graph.attributes.items())
        if head not in changed_heads
    }
    return {head: values for head, values in changed.items() if values}
