"""How well a parser's graphs agree with gold graphs: precision, recall and F1 of facts, by kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .graph import SceneGraph


KINDS = ("objects", "attributes", "relations")


@dataclass(frozen=True, slots=True)
class FactScore:
    """Agreement of found facts with gold facts.

    Args:
        matched, found, gold (`int`): Numbers of facts.
    """

    matched: int
    found: int
    gold: int

    @property
    def precision(self) -> float:
        """Share of found facts that are gold, in [0, 1]; 1 where nothing was found."""
        return self.matched / self.found if self.found else 1.0

    @property
    def recall(self) -> float:
        """Share of gold facts that were found, in [0, 1]; 1 where there was nothing to find."""
        return self.matched / self.gold if self.gold else 1.0

    @property
    def f1(self) -> float:
        """Harmonic mean of the two, in [0, 1]; 1 where both sides are empty."""
        return 2 * self.matched / (self.found + self.gold) if self.found + self.gold else 1.0

    def __add__(self, other: FactScore) -> FactScore:
        return FactScore(self.matched + other.matched, self.found + other.found, self.gold + other.gold)


def facts_of(graph: SceneGraph, lemma: Callable[[str], str]) -> dict[str, frozenset[tuple[str, ...]]]:
    """Facts of a graph by kind: heads, (head, attribute), (head, predicate, head); counts are attributes.

    Args:
        lemma: Lemma of one lower-case word; it is applied to every word.
        graph ([`SceneGraph`]): Any graph.
    """

    def plain(text: str) -> str:
        return " ".join(lemma(word) for word in text.lower().split())

    values = ((e.head, v) for e in graph.entities for v in (*e.attributes, e.quantity) if v)
    return {
        "objects": frozenset((plain(e.head),) for e in graph.entities),
        "attributes": frozenset((plain(head), plain(value)) for head, value in values),
        "relations": frozenset((plain(s), plain(p), plain(o)) for s, p, o in graph.triples),
    }


def fact_scores(
    found: Sequence[SceneGraph], gold: Sequence[SceneGraph], lemma: Callable[[str], str]
) -> dict[str, FactScore]:
    """Micro-averaged scores over sentences for `facts` (all), `objects`, `attributes` and `relations`.

    Args:
        found (`Sequence[SceneGraph]`): Graphs to score.
        gold (`Sequence[SceneGraph]`): Graphs that are right, in the same order.
        lemma (`Callable[[str], str]`): Lemma of one lower-case word.

    Raises:
        ValueError: If the two do not have the same number of graphs.
    """
    if len(found) != len(gold):
        raise ValueError(f"{len(found)} found graphs cannot be scored against {len(gold)} gold graphs.")
    scores = dict.fromkeys(KINDS, FactScore(0, 0, 0))
    for one, two in zip(found, gold):
        ours, theirs = facts_of(one, lemma), facts_of(two, lemma)
        for kind in KINDS:
            scores[kind] += FactScore(len(ours[kind] & theirs[kind]), len(ours[kind]), len(theirs[kind]))
    return {"facts": _total(scores.values()), **scores}


def _total(scores: Iterable[FactScore]) -> FactScore:
    return sum(scores, FactScore(0, 0, 0))


def error_kinds(
    found: Sequence[SceneGraph], gold: Sequence[SceneGraph], lemma: Callable[[str], str]
) -> dict[str, int]:
    """What kinds of errors separate found graphs from gold ones, with their numbers.

    Each missing or extra fact is counted once; a relation between the right heads with the wrong predicate, one in the
    wrong direction and an attribute given to another head are told apart from plain misses.

    Args:
        found (`Sequence[SceneGraph]`): Graphs to look at.
        gold (`Sequence[SceneGraph]`): Graphs that are right, in the same order.
        lemma (`Callable[[str], str]`): Lemma of one lower-case word.
    """
    counts = dict.fromkeys(
        (
            "object missing",
            "object extra",
            "attribute on another head",
            "attribute missing",
            "attribute extra",
            "relation with another predicate",
            "relation turned round",
            "relation of a missing object",
            "relation missing",
            "relation extra",
        ),
        0,
    )
    for one, two in zip(found, gold):
        ours, theirs = facts_of(one, lemma), facts_of(two, lemma)
        values = {value for _, value in ours["attributes"]}
        ends = {(s, o) for s, _, o in ours["relations"]}
        counts["object missing"] += len(theirs["objects"] - ours["objects"])
        counts["object extra"] += len(ours["objects"] - theirs["objects"])
        counts["attribute extra"] += len(ours["attributes"] - theirs["attributes"])
        counts["relation extra"] += len(ours["relations"] - theirs["relations"])
        for _, value in theirs["attributes"] - ours["attributes"]:
            counts["attribute on another head" if value in values else "attribute missing"] += 1
        for subject, _, target in theirs["relations"] - ours["relations"]:
            if (subject, target) in ends:
                kind = "relation with another predicate"
            elif (target, subject) in ends:
                kind = "relation turned round"
            elif (subject,) in ours["objects"] and (target,) in ours["objects"]:
                kind = "relation missing"
            else:
                kind = "relation of a missing object"
            counts[kind] += 1
    return counts


def written_facts(graph: SceneGraph) -> str:
    """FACTUAL's written form with counts as facts, `( ducks , is , 3 )`, as its evaluator and its data have them.

    Args:
        graph ([`SceneGraph`]): Any graph.
    """
    entities = tuple(
        type(e)(e.head, e.attributes | ({e.quantity} if e.quantity else set()), "") for e in graph.entities
    )
    return SceneGraph(entities, graph.relations).to_facts()
