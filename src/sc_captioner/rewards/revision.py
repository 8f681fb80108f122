"""What changed between two captions, on lemmatised graphs: "dogs" -> "dog" is no change, "red" -> "blue" is one."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..matching import similarities, stop_words
from ..scene_graph.graph import Revision, SceneGraph, Triple
from .contrast import contrary_relations, equivalent_relations


if TYPE_CHECKING:
    from ..scene_graph.encoder import PhraseEncoder
    from ..scene_graph.lexicon import Lexicon

_WORD = re.compile(r"\w+(?:[-'’]\w+)*")


@dataclass(frozen=True, slots=True)
class CaptionTriple:
    """First, second and reference caption of one image, each with its graph.

    Args:
        first (`str`): Caption before correction.
        second (`str`): Caption after it.
        reference (`str`): What is right.
        first_graph ([`SceneGraph`]): Graph of `first`.
        second_graph ([`SceneGraph`]): Graph of `second`.
        reference_graph ([`SceneGraph`]): Graph of `reference`.
    """

    first: str
    second: str
    reference: str
    first_graph: SceneGraph
    second_graph: SceneGraph
    reference_graph: SceneGraph


@dataclass(frozen=True, slots=True)
class Facts:
    """What a caption claims, lemmatised on one side for all captions.

    Args:
        objects (`frozenset[str]`): Heads in lower case, last word singular, without stop words such as `background`.
        attributes (`dict[str, frozenset[str]]`): Adjective lemmas by head; those that contain `" of"` are dropped.
        relations (`frozenset[Triple]`): `(head, predicate, head)`, a leading `be` dropped (`be on` is `on`).
        words (`str`): The caption's words, singular, one blank before and after each.
    """

    objects: frozenset[str]
    attributes: dict[str, frozenset[str]]
    relations: frozenset[Triple]
    words: str

    def mentions(self, head: str) -> bool:
        """Whether the caption's words, lemmatised, contain `head`.

        Args:
            head (`str`): A lemma of one or more words.
        """
        return f" {head} " in self.words

    def same_graph(self, other: Facts) -> bool:
        """Whether both captions claim the same.

        Args:
            other ([`Facts`]): Facts of another caption.
        """
        return (self.objects, self.attributes, self.relations) == (other.objects, other.attributes, other.relations)


def facts_of(graph: SceneGraph, caption: str, lexicon: Lexicon) -> Facts:
    """The [`Facts`] of a caption and its graph.

    Args:
        graph ([`SceneGraph`]): Graph of the caption.
        caption (`str`): Its text.
        lexicon ([`Lexicon`]): Lemmas.
    """
    heads = [lexicon.head_lemma(entity.head) for entity in graph.entities]
    attributes: dict[str, set[str]] = {}
    for head, entity in zip(heads, graph.entities):
        for attribute in entity.attributes:
            lemma = lexicon.adjective_lemma(attribute.lower())
            if " of" not in lemma:
                attributes.setdefault(head, set()).add(lemma)
    return Facts(
        frozenset(head for head in heads if head and head not in stop_words()),
        {head: frozenset(attributes[head]) for head in sorted(attributes)},
        frozenset((heads[r.subject], _predicate(r.relation), heads[r.object]) for r in graph.relations),
        f" {' '.join(lexicon.noun_lemma(word) for word in _WORD.findall(caption.lower()))} ",
    )


def _predicate(written: str) -> str:
    words = written.lower().split()
    return " ".join(words[1:] if len(words) > 1 and words[0] == "be" else words)


def revision_of(first: Facts, second: Facts) -> Revision:
    """What `second` added to and removed from `first`, renamed objects still among both.

    An object is removed if the second graph lacks it and the second caption does not mention it either (a parser may
    miss what is still written), added in the mirrored case. Attributes are compared for heads that both graphs have,
    and those of added objects count as added; what goes with a removed object is not counted again.

    Args:
        first ([`Facts`]): Facts before correction.
        second ([`Facts`]): Facts after it.
    """
    removed = frozenset(head for head in first.objects - second.objects if not second.mentions(head))
    added = frozenset(head for head in second.objects - first.objects if not first.mentions(head))
    both = first.objects & second.objects
    none: frozenset[str] = frozenset()
    removed_attributes = {h: v - second.attributes.get(h, none) for h, v in first.attributes.items() if h in both}
    added_attributes = {
        h: v - first.attributes.get(h, none) for h, v in second.attributes.items() if h in both or h in added
    }
    return Revision(
        added_objects=added,
        removed_objects=removed,
        added_attributes={h: v for h, v in added_attributes.items() if v},
        removed_attributes={h: v for h, v in removed_attributes.items() if v},
        added_relations=second.relations - first.relations,
        removed_relations=first.relations - second.relations,
    )


def without_renamings(
    revision: Revision, reference: Facts, encoder: PhraseEncoder, lexicon: Lexicon, threshold: float
) -> Revision:
    """Drop what only got another name: removed and added objects that are synonyms or have a cosine above `threshold`,
    the attributes that went with them, and removed and added relations that say the same.

    A pair of objects of which the reference names one and not the other is a correction and stays.

    Args:
        revision ([`Revision`]): What was added and removed.
        reference ([`Facts`]): Facts of the reference.
        encoder ([`PhraseEncoder`]): Vectors of phrases.
        lexicon ([`Lexicon`]): Synonyms.
        threshold (`float`): Cosine above which two heads name one object.
    """
    removed, added = sorted(revision.removed_objects), sorted(revision.added_objects)
    close = similarities(encoder, removed, added) > threshold
    known = {word: any(same_object(word, o, lexicon) for o in reference.objects) for word in (*removed, *added)}
    pairs = [
        (old, new)
        for old, row in zip(removed, close)
        for new, near in zip(added, row)
        if known[old] == known[new] and (near or same_object(old, new, lexicon))
    ]
    gone, come = {old for old, _ in pairs}, {new for _, new in pairs}
    names = dict(pairs)
    same = [
        (old, new)
        for old in revision.removed_relations
        for new in revision.added_relations
        if same_relation((names.get(old[0], old[0]), old[1], names.get(old[2], old[2])), new, lexicon)
    ]
    return replace(
        revision,
        removed_objects=revision.removed_objects - gone,
        added_objects=revision.added_objects - come,
        added_attributes={head: v for head, v in revision.added_attributes.items() if head not in come},
        removed_relations=revision.removed_relations - {old for old, _ in same},
        added_relations=revision.added_relations - {new for _, new in same},
    )


def same_relation(first: Triple, second: Triple, lexicon: Lexicon) -> bool:
    """Whether two triples claim one fact: the same heads and predicates up to synonyms, or seen from the other end.

    Args:
        first (`Triple`): Head, predicate, head.
        second (`Triple`): Head, predicate, head.
        lexicon ([`Lexicon`]): Synonyms.
    """
    if first == second or equivalent_relations(first, second):
        return True
    return (
        same_object(first[0], second[0], lexicon)
        and same_object(first[2], second[2], lexicon)
        and (first[1] == second[1] or lexicon.are_synonyms(first[1], second[1]))
        and not contrary_relations(first, second)
    )


def same_object(first: str, second: str, lexicon: Lexicon) -> bool:
    """Whether two heads name one kind of thing: equal, one the other with words before it, or WordNet synonyms.

    Args:
        first (`str`): A head.
        second (`str`): Another head.
        lexicon ([`Lexicon`]): Synonyms.
    """
    if first == second or first.endswith(f" {second}") or second.endswith(f" {first}"):
        return True
    return lexicon.are_synonyms(first, second)
