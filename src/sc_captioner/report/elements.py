"""What captions claim, element by element: what a caption shares with its reference, and graphs marked by it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..rewards.revision import Facts, facts_of, same_object, same_relation
from ..scene_graph.graph import Entity, Relation, SceneGraph
from .graph_drawing import Fact, Mark


if TYPE_CHECKING:
    from ..rewards.revision import CaptionTriple
    from ..scene_graph.lexicon import Lexicon

KINDS = ("objects", "attributes", "relations")


@dataclass(frozen=True, slots=True)
class Elements:
    """Elements of one kind, of a caption and of its reference, each sorted.

    Args:
        matched (`tuple[tuple[Fact, Fact], ...]`): Pairs of what both claim, in the caption's and in the reference's
            words.
        extra (`tuple[Fact, ...]`): What only the caption claims.
        missing (`tuple[Fact, ...]`): What only the reference claims.
    """

    matched: tuple[tuple[Fact, Fact], ...]
    extra: tuple[Fact, ...]
    missing: tuple[Fact, ...]


def _claims(facts: Facts) -> dict[str, list[Fact]]:
    """All facts by kind, sorted: `(head,)`, `(head, attribute)`, `(head, predicate, head)`."""
    return {
        "objects": [(head,) for head in sorted(facts.objects)],
        "attributes": [(head, value) for head, values in sorted(facts.attributes.items()) for value in sorted(values)],
        "relations": sorted(facts.relations),
    }


def compared(caption: Facts, reference: Facts, lexicon: Lexicon) -> dict[str, Elements]:
    """By kind, what a caption and its reference share: equal facts first, then those the reward takes for the same.

    These are synonyms, a head with words before it, and relations seen from the other end; every fact of the
    reference is matched once.

    Args:
        caption ([`Facts`]): What the caption claims.
        reference ([`Facts`]): What is right.
        lexicon ([`Lexicon`]): Synonyms.
    """

    def same_attribute(a: Fact, b: Fact) -> bool:
        return same_object(a[0], b[0], lexicon) and (a[1] == b[1] or lexicon.are_synonyms(a[1], b[1]))

    same: dict[str, Callable[..., bool]] = {
        "objects": lambda a, b: same_object(a[0], b[0], lexicon),
        "attributes": same_attribute,
        "relations": lambda a, b: same_relation(a, b, lexicon),
    }
    ours, theirs = _claims(caption), _claims(reference)
    return {kind: _paired(ours[kind], theirs[kind], same[kind]) for kind in KINDS}


def _paired(ours: list[Fact], theirs: list[Fact], same: Callable[..., bool]) -> Elements:
    free = [fact for fact in theirs if fact not in ours]
    matched, extra = [], []
    for fact in ours:
        partner = fact if fact in theirs else next((other for other in free if same(fact, other)), None)
        if partner is None:
            extra.append(fact)
            continue
        matched.append((fact, partner))
        if partner in free:
            free.remove(partner)
    return Elements(tuple(matched), tuple(extra), tuple(free))


@dataclass(frozen=True, slots=True)
class MarkedGraph:
    """A graph as the reward reads it (heads and attributes lemmatised), with marks by fact.

    Args:
        graph ([`SceneGraph`]): One entity per head.
        marks (`dict[Fact, Mark]`): By fact (`(head,)`, `(head, attribute)`, triple).
    """

    graph: SceneGraph
    marks: dict[Fact, Mark]


def marked_graphs(triple: CaptionTriple, lexicon: Lexicon) -> tuple[dict[str, Elements], dict[str, MarkedGraph]]:
    """What the corrected caption and the reference share, and the graphs `first`, `second` and `reference`.

    ✓ and ✗ say whether the reference holds a fact, − whether the correction took it out and + whether it put it in;
    in the reference's graph ✓ is what the corrected caption says and ○ what it leaves out.

    Args:
        triple ([`CaptionTriple`]): The three captions with their graphs.
        lexicon ([`Lexicon`]): Lemmas and synonyms.
    """
    graphs = {"first": triple.first_graph, "second": triple.second_graph, "reference": triple.reference_graph}
    texts = {"first": triple.first, "second": triple.second, "reference": triple.reference}
    facts = {name: facts_of(graphs[name], texts[name], lexicon) for name in graphs}
    flat = {name: [fact for kind in _claims(facts[name]).values() for fact in kind] for name in facts}
    signs = {
        "first": dict.fromkeys(set(flat["first"]) - set(flat["second"]), "−"),
        "second": dict.fromkeys(set(flat["second"]) - set(flat["first"]), "+"),
    }
    found = {name: compared(facts[name], facts["reference"], lexicon) for name in ("first", "second")}
    marks: dict[str, dict[Fact, Mark]] = {}
    for name, elements in found.items():
        hits = {fact for kind in elements.values() for fact, _ in kind.matched}
        styles = {fact: ("✓", "hit") if fact in hits else ("✗", "miss") for fact in flat[name]}
        marks[name] = {fact: Mark(signs[name].get(fact, "") + sign, style) for fact, (sign, style) in styles.items()}
    left_out = {fact for kind in found["second"].values() for fact in kind.missing}
    marks["reference"] = {
        fact: Mark("○", "miss") if fact in left_out else Mark("✓", "hit") for fact in flat["reference"]
    }
    drawn = {name: MarkedGraph(_graph_of(facts[name], graphs[name], lexicon), marks[name]) for name in graphs}
    return found["second"], drawn


def _graph_of(facts: Facts, graph: SceneGraph, lexicon: Lexicon) -> SceneGraph:
    """Facts as a graph, one entity per head, in the order of mention."""
    named: Iterable[str] = (
        *facts.objects,
        *facts.attributes,
        *(t[0] for t in facts.relations),
        *(t[2] for t in facts.relations),
    )
    known = {head for head in named if head}
    heads = [head for head in dict.fromkeys(lexicon.head_lemma(e.head) for e in graph.entities) if head in known]
    places = {head: place for place, head in enumerate(heads)}
    return SceneGraph(
        tuple(Entity(head, facts.attributes.get(head, frozenset())) for head in heads),
        tuple(
            Relation(places[s], predicate, places[o])
            for s, predicate, o in sorted(facts.relations)
            if s in places and o in places
        ),
    )
