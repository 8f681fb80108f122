"""The one type every part of the package speaks: a scene graph, and what changed between two of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


_FACT = re.compile(r"\(\s*(.*?)\s*\)(?=\s*(?:,\s*\(|$))")

Triple = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Entity:
    """A thing in the picture: its head noun, an optional count and what is said of it.

    Args:
        head (`str`): Name of the thing, e.g. `"tree trunk"`.
        attributes (`frozenset[str]`): Properties of the thing, e.g. `{"wooden", "lying down"}`.
        quantity (`str`): Count as written, `""` where none is given.
    """

    head: str
    attributes: frozenset[str] = frozenset()
    quantity: str = ""


@dataclass(frozen=True, slots=True)
class Relation:
    """A directed edge between two entities of one graph, by their index in `SceneGraph.entities`.

    Args:
        subject (`int`): Index of an entity.
        relation (`str`): The predicate, as in `on top of`.
        object (`int`): Index of an entity.
    """

    subject: int
    relation: str
    object: int


@dataclass(frozen=True, slots=True)
class SceneGraph:
    """Objects, attributes and relations of a caption.

    Args:
        entities (`tuple[Entity, ...]`): Nodes in order of mention; two entities may share a head.
        relations (`tuple[Relation, ...]`): Edges by entity index.

    Raises:
        ValueError: If a relation points at an entity that does not exist.
    """

    entities: tuple[Entity, ...] = ()
    relations: tuple[Relation, ...] = ()

    def __post_init__(self) -> None:
        for relation in self.relations:
            if not (0 <= relation.subject < len(self.entities) and 0 <= relation.object < len(self.entities)):
                raise ValueError(f"{relation} points outside the graph's {len(self.entities)} entities.")

    @property
    def objects(self) -> frozenset[str]:
        """Heads of all entities, as parsed."""
        return frozenset(entity.head for entity in self.entities)

    @property
    def attributes(self) -> dict[str, frozenset[str]]:
        """Attributes by head, as parsed; heads without attributes are absent."""
        pooled: dict[str, frozenset[str]] = {}
        for entity in self.entities:
            if entity.attributes:
                pooled[entity.head] = pooled.get(entity.head, frozenset()) | entity.attributes
        return pooled

    @property
    def triples(self) -> frozenset[Triple]:
        """Relations as `(subject head, predicate, object head)`."""
        heads = [entity.head for entity in self.entities]
        return frozenset((heads[r.subject], r.relation, heads[r.object]) for r in self.relations)

    @classmethod
    def union(cls, graphs: Iterable[SceneGraph]) -> SceneGraph:
        """One graph of all sentences of a caption; entities are kept apart, the set views above pool them by head.

        Args:
            graphs (`Iterable[SceneGraph]`): Graphs of single sentences.
        """
        entities: list[Entity] = []
        relations: list[Relation] = []
        for graph in graphs:
            offset = len(entities)
            entities.extend(graph.entities)
            relations.extend(Relation(r.subject + offset, r.relation, r.object + offset) for r in graph.relations)
        return cls(tuple(entities), tuple(relations))

    @classmethod
    def from_dict(cls, graph: Mapping[str, Any]) -> SceneGraph:
        """Read FactualSceneGraph's JSON form `{"entities": [{"head", "quantity", "attributes"}], "relations": [...]}`.

        Args:
            graph (`Mapping[str, Any]`): That form.

        Raises:
            ValueError: If a key is missing or a value has another form; the message names it.
        """
        try:
            entities = tuple(
                Entity(e["head"], frozenset(e.get("attributes") or ()), e.get("quantity") or "")
                for e in graph["entities"]
            )
            relations = tuple(Relation(r["subject"], r["relation"], r["object"]) for r in graph["relations"])
        except KeyError as error:
            raise ValueError(f"Not a scene graph: key {error} is missing in {graph!r:.200}.") from None
        except (TypeError, AttributeError) as error:
            raise ValueError(f"Not a scene graph with entities and relations ({error}): {graph!r:.200}.") from None
        return cls(entities, relations)

    def to_dict(self) -> dict[str, Any]:
        """The inverse of `from_dict`, JSON-serialisable and in a stable order."""
        return {
            "entities": [
                {"head": e.head, "quantity": e.quantity, "attributes": sorted(e.attributes)} for e in self.entities
            ],
            "relations": [{"subject": r.subject, "relation": r.relation, "object": r.object} for r in self.relations],
        }

    @classmethod
    def from_facts(cls, text: str) -> SceneGraph:
        """Read FACTUAL's written form: `( dog , is , black ) , ( dog , lie on , sofa ) , ( lamp )`.

        A middle word `is` makes an attribute, any other a relation, a lone head a bare entity; equal heads are one
        entity. Facts that are not of these forms are ignored.

        Args:
            text (`str`): That form.
        """
        attributes: dict[str, set[str]] = {}
        triples: list[Triple] = []
        for fact in _FACT.findall(text.strip()):
            terms = [term.strip() for term in fact.split(" , ")]
            if len(terms) == 1 and terms[0]:
                attributes.setdefault(terms[0], set())
            if len(terms) != 3 or not all(terms):
                continue
            subject, predicate, value = terms
            attributes.setdefault(subject, set())
            if predicate == "is":
                attributes[subject].add(value)
                continue
            attributes.setdefault(value, set())
            if (subject, predicate, value) not in triples:
                triples.append((subject, predicate, value))
        index = {head: i for i, head in enumerate(attributes)}
        return cls(
            tuple(Entity(head, frozenset(values)) for head, values in attributes.items()),
            tuple(Relation(index[s], p, index[o]) for s, p, o in triples),
        )

    def to_facts(self) -> str:
        """FACTUAL's written form, entities first; `from_facts` reads it back."""
        facts = [(e.head, "is", a) for e in self.entities for a in sorted(e.attributes)]
        facts += [(self.entities[r.subject].head, r.relation, self.entities[r.object].head) for r in self.relations]
        mentioned = {
            term for subject, predicate, value in facts for term in (subject, "" if predicate == "is" else value)
        }
        written = [f"( {s} , {p} , {o} )" for s, p, o in dict.fromkeys(facts)]
        written += [f"( {head} )" for head in dict.fromkeys(e.head for e in self.entities) if head not in mentioned]
        return " , ".join(written)


@dataclass(frozen=True, slots=True)
class Revision:
    """What the second caption added to and removed from the first.

    Args:
        added_objects, removed_objects (`frozenset[str]`): Heads.
        added_attributes, removed_attributes (`dict[str, frozenset[str]]`): Attributes by head.
        added_relations, removed_relations (`frozenset[Triple]`): `(subject, predicate, object)`.
    """

    added_objects: frozenset[str] = frozenset()
    removed_objects: frozenset[str] = frozenset()
    added_attributes: dict[str, frozenset[str]] = field(default_factory=dict)
    removed_attributes: dict[str, frozenset[str]] = field(default_factory=dict)
    added_relations: frozenset[Triple] = frozenset()
    removed_relations: frozenset[Triple] = frozenset()

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable form in a stable order."""
        return {
            "added_objects": sorted(self.added_objects),
            "removed_objects": sorted(self.removed_objects),
            "added_attributes": {h: sorted(v) for h, v in sorted(self.added_attributes.items())},
            "removed_attributes": {h: sorted(v) for h, v in sorted(self.removed_attributes.items())},
            "added_relations": sorted(list(t) for t in self.added_relations),
            "removed_relations": sorted(list(t) for t in self.removed_relations),
        }
