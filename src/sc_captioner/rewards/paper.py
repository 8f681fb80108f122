"""The correction reward as the paper means it, part by part (docs/concepts.md)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from ..matching import similarities, written
from ..scene_graph.graph import Revision, Triple
from .contrast import contrary_attributes, contrary_relations
from .released import sigmoid
from .revision import CaptionTriple, facts_of, revision_of, same_object, same_relation, without_renamings


if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..scene_graph.encoder import PhraseEncoder
    from ..scene_graph.lexicon import Lexicon

T = TypeVar("T", str, tuple[str, str, str])

PARTS = ("objects", "attributes", "relations", "mistakes", "length", "unchanged")


@dataclass(frozen=True, slots=True)
class PaperWeights:
    """Weights and thresholds of the `paper` preset; the defaults are the released ones where there are any.

    Values add up to a logit z; the reward is sigmoid(z) - 0.5, between -0.5 and 0.5.

    Args:
        hit (`float`): Similarity to the reference above which an element counts as being in it.
        miss (`float`): Similarity below which it counts as not being in it; in between neither bonus nor mistake.
        renaming (`float`): Cosine above which a removed and an added object are one object under two names.
        removal_level, addition_level (`float`): Where the soft terms change sign: a removal scores
            `removal_level - s`, an addition `s - addition_level`, with s the similarity to the reference.
        object_soft, relation_soft (`float`): Weight of the mean soft score.
        object_bonus, attribute_bonus, relation_bonus (`float`): Bonus for every right addition or removal.
        relation_punishment (`float`): Taken off for every wrong addition or removal of a relation; 0 as in the paper.
        object_mistake, attribute_mistake (`float`): Taken off for every wrong addition or removal.
        most (`int`): Number of additions, and of removals, that count at most; attributes are counted per head.
        length_ratio, length (`float`): A second caption more than `length_ratio` times as long as the first, in
            characters, adds `length`.
        length_reference (`float`): A second caption of up to this many times the reference's length is never
            over-long; 0 as in the paper, 1.5 where first captions may leave out most of what there is to say.
        unchanged (`float`): z of a correction that changed nothing although something was to be changed.
        unchanged_right (`float`): z of one that left alone a caption whose facts are the reference's.
    """

    hit: float = 0.7
    miss: float = 0.6
    renaming: float = 0.75
    removal_level: float = 0.6
    addition_level: float = 0.55
    object_soft: float = 2.0
    object_bonus: float = 0.25
    object_mistake: float = 0.25
    attribute_bonus: float = 0.15
    attribute_mistake: float = 0.15
    relation_soft: float = 1.0
    relation_bonus: float = 0.25
    relation_punishment: float = 0.0
    most: int = 3
    length_ratio: float = 2.0
    length: float = -3.0
    length_reference: float = 0.0
    unchanged: float = -1.0
    unchanged_right: float = 0.0


@dataclass(slots=True)
class Verdict:
    """Similarity to the reference of every element of a revision, by kind: `objects`, `attributes`, `relations`.

    Attributes are keyed by `(head, attribute)`. What cannot be judged is absent: attributes of heads of which the
    reference says nothing, and elements that say again what the reference and both captions already share.

    Args:
        added (`dict[str, dict[str | tuple[str, ...], float]]`, *optional*): By kind, every added element with its
            similarity in [0, 1].
        removed (`dict[str, dict[str | tuple[str, ...], float]]`, *optional*): The same of removed elements.
    """

    added: dict[str, dict[str | tuple[str, ...], float]] = field(default_factory=dict)
    removed: dict[str, dict[str | tuple[str, ...], float]] = field(default_factory=dict)


class Judgement(NamedTuple):
    """What became of one change: its similarity to the reference, in [0, 1], and whether it was right (or unclear)."""

    similarity: float
    right: bool | None


class PaperJudge:
    """Revision and score of one caption triple; phrases are named first, so that a batch is encoded in one call.

    Similarity of an element to the reference is 1 if the reference holds it (equal, synonym), else its best cosine
    to what the reference holds beyond the facts that both captions already share with it: a dog that is added beside
    the dog that stays is no hit. Every fact of the reference is hit once. Contrary words and directions have
    similarity 0 whatever their cosine.

    Args:
        triple ([`CaptionTriple`]): The three captions and their graphs.
        lexicon ([`Lexicon`]): Lemmas and synonyms.
        weights ([`PaperWeights`]): Weights and thresholds.
        parts (`Collection[str]`, *optional*): Parts that count, of `PARTS`.
    """

    def __init__(
        self, triple: CaptionTriple, lexicon: Lexicon, weights: PaperWeights, parts: Collection[str] = PARTS
    ) -> None:
        self.triple, self.lexicon, self.weights, self.parts = triple, lexicon, weights, frozenset(parts)
        self.first = facts_of(triple.first_graph, triple.first, lexicon)
        self.second = facts_of(triple.second_graph, triple.second, lexicon)
        self.reference = facts_of(triple.reference_graph, triple.reference, lexicon)
        self.revision = revision_of(self.first, self.second)

    def phrases(self) -> Iterator[str]:
        """Every phrase that `score` may compare: of what is not settled by equality, synonyms or contraries."""
        revision = self.revision
        if revision.added_objects and revision.removed_objects:
            yield from (*revision.added_objects, *revision.removed_objects)
        for objects in (revision.added_objects, revision.removed_objects):
            open_heads, free, taken, _ = self._open_objects(objects)
            if open_heads:
                yield from (*open_heads, *free, *taken)
        for attributes in (revision.added_attributes, revision.removed_attributes):
            for _, open_values, free, _ in self._open_attributes(attributes):
                if open_values:
                    yield from (*open_values, *free)
        for relations in (revision.added_relations, revision.removed_relations):
            open_triples, open_free, _ = self._open_relations(relations)
            if open_triples:
                yield from (written(triple) for triple in (*open_triples, *open_free))

    def score(self, encoder: PhraseEncoder) -> tuple[Revision, dict[str, float]]:
        """The revision, and its parts with `unchanged` (0 or 1) and `total` = sigmoid(sum of parts) - 0.5.

        Args:
            encoder ([`PhraseEncoder`]): Vectors of phrases.
        """
        weights = self.weights
        self.revision = without_renamings(self.revision, self.reference, encoder, self.lexicon, weights.renaming)
        verdict = self.verdict(encoder)
        values = {
            "objects": self._soft(verdict, "objects", weights.object_soft) + self._bonus(verdict, "objects"),
            "attributes": self._bonus(verdict, "attributes"),
            "relations": self._soft(verdict, "relations", weights.relation_soft)
            + self._bonus(verdict, "relations")
            - weights.relation_punishment * self._mistakes(verdict, "relations"),
            "mistakes": -weights.object_mistake * self._mistakes(verdict, "objects")
            - weights.attribute_mistake * self._mistakes(verdict, "attributes"),
            "length": weights.length if self._too_long() else 0.0,
        }
        parts = {name: value + 0.0 for name, value in values.items() if name in self.parts}
        unchanged = self.triple.first == self.triple.second or self.first.same_graph(self.second)
        logit = sum(parts.values())
        if unchanged and "unchanged" in self.parts:
            right = self.first.same_graph(self.reference)
            logit += weights.unchanged_right if right else weights.unchanged
        return self.revision, {**parts, "unchanged": float(unchanged), "total": sigmoid(logit) - 0.5}

    def verdict(self, encoder: PhraseEncoder) -> Verdict:
        """How near every added and removed element is to the reference.

        Args:
            encoder ([`PhraseEncoder`]): Vectors of phrases.
        """
        revision, verdict = self.revision, Verdict()
        sides = (
            (verdict.added, revision.added_objects, revision.added_attributes, revision.added_relations),
            (verdict.removed, revision.removed_objects, revision.removed_attributes, revision.removed_relations),
        )
        for side, objects, attributes, relations in sides:
            side["objects"] = dict(self._object_similarity(objects, encoder))
            side["attributes"] = dict(self._attribute_similarity(attributes, encoder))
            side["relations"] = dict(self._relation_similarity(relations, encoder))
        return verdict

    def judgements(self, encoder: PhraseEncoder) -> dict[tuple[str, tuple[str, ...]], Judgement]:
        """The verdict by change and fact: an addition is right if it is a hit, a removal if it is a miss.

        Args:
            encoder ([`PhraseEncoder`]): Compares phrases.
        """
        verdict, judged = self.verdict(encoder), {}
        for change, side in (("added", verdict.added), ("removed", verdict.removed)):
            for element, similarity in ((e, s) for kind in side.values() for e, s in kind.items()):
                hit, miss = similarity > self.weights.hit, similarity < self.weights.miss
                right = hit == (change == "added") if hit or miss else None
                judged[change, (element,) if isinstance(element, str) else element] = Judgement(similarity, right)
        return judged

    def _open_objects(self, heads: frozenset[str]) -> tuple[list[str], list[str], list[str], set[str]]:
        """Heads that need cosines, free and taken reference objects, and heads that the reference holds."""
        taken = sorted(self.reference.objects & self.first.objects & self.second.objects)
        free = sorted(self.reference.objects.difference(taken))
        known, again = _claims(sorted(heads), free, taken, lambda a, b: same_object(a, b, self.lexicon))
        left = sorted(heads - known - again) if self.reference.objects else []
        return left, free, taken, known

    def _object_similarity(self, heads: frozenset[str], encoder: PhraseEncoder) -> Iterator[tuple[str, float]]:
        left, free, taken, known = self._open_objects(heads)
        yield from ((head, 1.0) for head in sorted(known))
        rows = zip(left, similarities(encoder, left, taken), similarities(encoder, left, free))
        for head, to_taken, to_free in rows:
            if not (to_taken > self.weights.hit).any():
                yield head, _best(to_free)

    def _open_attributes(
        self, changed: dict[str, frozenset[str]]
    ) -> Iterator[tuple[str, list[str], list[str], set[str]]]:
        """Head, attributes that need cosines, free reference attributes, and attributes that the reference holds."""
        nothing: frozenset[str] = frozenset()
        for head, attributes in sorted(changed.items()):
            reference = self._reference_head(head)
            if reference is None:
                continue
            kept = self.first.attributes.get(head, nothing) & self.second.attributes.get(head, nothing)
            taken = sorted(self.reference.attributes[reference] & kept)
            free = sorted(self.reference.attributes[reference].difference(taken))
            known, again = _claims(sorted(attributes), free, taken, self.lexicon.are_synonyms)
            yield head, sorted(attributes - known - again), free, known

    def _attribute_similarity(
        self, changed: dict[str, frozenset[str]], encoder: PhraseEncoder
    ) -> Iterator[tuple[tuple[str, str], float]]:
        for head, left, free, known in self._open_attributes(changed):
            yield from (((head, attribute), 1.0) for attribute in sorted(known))
            for attribute, cosines in zip(left, similarities(encoder, left, free)):
                apart = [contrary_attributes(attribute, other) for other in free]
                yield (head, attribute), _best(np.where(apart, 0, cosines))

    def _open_relations(self, triples: frozenset[Triple]) -> tuple[list[Triple], list[Triple], set[Triple]]:
        """Triples that need cosines, free reference triples, and triples that the reference holds."""
        taken = sorted(self.reference.relations & self.first.relations & self.second.relations)
        free = sorted(self.reference.relations.difference(taken))
        known, again = _claims(sorted(triples), free, taken, lambda a, b: same_relation(a, b, self.lexicon))
        return sorted(triples - known - again) if self.reference.relations else [], free, known

    def _relation_similarity(
        self, triples: frozenset[Triple], encoder: PhraseEncoder
    ) -> Iterator[tuple[Triple, float]]:
        left, free, known = self._open_relations(triples)
        yield from ((triple, 1.0) for triple in sorted(known))
        rows = similarities(encoder, [written(t) for t in left], [written(t) for t in free] if left else [])
        for triple, cosines in zip(left, rows):
            apart = [contrary_relations(triple, other) for other in free]
            yield triple, _best(np.where(apart, 0, cosines))

    def _reference_head(self, head: str) -> str | None:
        """The reference's name of `head` among its objects with attributes: the same, else the first alike."""
        if head in self.reference.attributes:
            return head
        if head in self.reference.objects:
            return None
        return next((h for h in self.reference.attributes if same_object(head, h, self.lexicon)), None)

    def _soft(self, verdict: Verdict, kind: str, weight: float) -> float:
        added, removed = verdict.added[kind].values(), verdict.removed[kind].values()
        soft = sum(s - self.weights.addition_level for s in added) / max(len(added), 1)
        soft += sum(self.weights.removal_level - s for s in removed) / max(len(removed), 1)
        return weight * soft

    def _bonus(self, verdict: Verdict, kind: str) -> float:
        each = {
            "objects": self.weights.object_bonus,
            "attributes": self.weights.attribute_bonus,
            "relations": self.weights.relation_bonus,
        }[kind]
        right = self._count(verdict.added[kind], kind, hits=True) + self._count(
            verdict.removed[kind], kind, hits=False
        )
        return each * right

    def _mistakes(self, verdict: Verdict, kind: str) -> int:
        return self._count(verdict.added[kind], kind, hits=False) + self._count(verdict.removed[kind], kind, hits=True)

    def _count(self, similarity: dict[str | tuple[str, ...], float], kind: str, hits: bool) -> int:
        """Elements that are hits (or misses), at most `most`; of attributes at most `most` per head."""
        counted = [x for x, s in similarity.items() if (s > self.weights.hit if hits else s < self.weights.miss)]
        if kind != "attributes":
            return min(len(counted), self.weights.most)
        heads = [element[0] for element in counted]
        return sum(min(heads.count(head), self.weights.most) for head in set(heads))

    def _too_long(self) -> bool:
        length = len(self.triple.second)
        return length > self.weights.length_ratio * len(
            self.triple.first
        ) and length > self.weights.length_reference * len(self.triple.reference)


def _claims(elements: list[T], free: list[T], taken: list[T], same: Callable[[T, T], bool]) -> tuple[set[T], set[T]]:
    """Elements that are one of `free` each (equal ones first), and those that only repeat a claimed or taken one."""
    left = [element for element in free if element not in elements]
    known = {element for element in elements if element in free}
    again: set[T] = set()
    for element in elements:
        if element in known:
            continue
        partner = next((other for other in left if same(element, other)), None)
        if partner is not None:
            left.remove(partner)
            known.add(element)
        elif any(same(element, other) for others in (free, taken) for other in others):
            again.add(element)
    return known, again


def _best(cosines: NDArray[np.floating]) -> float:
    return max(float(cosines.max()), 0.0) if cosines.size else 0.0
