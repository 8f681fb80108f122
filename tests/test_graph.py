"""Scene graphs: forms they are read from and written to, union, views."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sc_captioner.scene_graph import Entity, Relation, Revision, SceneGraph


# A term of FACTUAL's written form: no commas, no brackets, no blanks at its ends.
words = st.text(
    st.characters(exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp"), exclude_characters=",()"), min_size=1, max_size=6
)
phrases = st.lists(words, min_size=1, max_size=3).map(" ".join)
predicates = phrases.filter(lambda text: text != "is")


@st.composite
def graphs(draw: st.DrawFn) -> SceneGraph:
    """Graphs with distinct heads, as a written form can hold them."""
    heads = draw(st.lists(phrases, max_size=5, unique=True))
    entities = tuple(Entity(head, draw(st.frozensets(phrases, max_size=3))) for head in heads)
    ends = st.integers(0, len(heads) - 1)
    relations = draw(st.lists(st.builds(Relation, ends, predicates, ends), max_size=4, unique=True)) if heads else []
    return SceneGraph(entities, tuple(relations))


@given(graphs())
def test_dict_round_trip(graph: SceneGraph) -> None:
    assert SceneGraph.from_dict(json.loads(json.dumps(graph.to_dict()))) == graph


@given(graphs())
def test_written_round_trip(graph: SceneGraph) -> None:
    again = SceneGraph.from_facts(graph.to_facts())
    assert (again.objects, again.attributes, again.triples) == (graph.objects, graph.attributes, graph.triples)


@given(st.lists(graphs(), max_size=4))
def test_union_pools_the_views(parts: list[SceneGraph]) -> None:
    union = SceneGraph.union(parts)
    assert union.objects == frozenset().union(*(part.objects for part in parts))
    assert union.triples == frozenset().union(*(part.triples for part in parts))
    for part in parts:
        for head, values in part.attributes.items():
            assert values <= union.attributes[head]


@given(st.text(max_size=60))
def test_any_text_reads_as_some_graph(text: str) -> None:
    graph = SceneGraph.from_facts(text)
    assert all(relation.subject < len(graph.entities) for relation in graph.relations)


def test_factual_form_by_hand() -> None:
    graph = SceneGraph.from_facts("( dog , is , black ) , ( dog , lie on , sofa ) , ( lamp )")
    assert graph.objects == {"dog", "sofa", "lamp"}
    assert graph.attributes == {"dog": frozenset({"black"})}
    assert graph.triples == {("dog", "lie on", "sofa")}


def test_every_factual_training_graph_reads_as_its_authors_read_it(shared) -> None:
    import csv

    from factual_scene_graph.parser.scene_graph_parser import SceneGraphParser

    reader = SceneGraphParser.__new__(SceneGraphParser)  # reading needs no model
    with (shared / "data/factual/dev.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            theirs = SceneGraph.from_dict(reader.graph_string_to_object(row["scene_graph"]))
            ours = SceneGraph.from_facts(row["scene_graph"])
            assert ours.triples == theirs.triples
            assert ours.objects == theirs.objects


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ({"relations": []}, "entities"),
        ({"entities": [{"quantity": ""}], "relations": []}, "head"),
        ({"entities": [{"head": "dog"}], "relations": [{"subject": 0, "object": 0}]}, "relation"),
        ({"entities": [{"head": "dog"}], "relations": [{"subject": 0, "relation": "on", "object": 1}]}, "outside"),
        ({"entities": None, "relations": []}, "entities"),
        ([], "scene graph"),
    ],
)
def test_malformed_graphs_are_named(graph, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SceneGraph.from_dict(graph)


def test_revision_is_json() -> None:
    revision = Revision(
        added_objects=frozenset({"b", "a"}),
        removed_attributes={"dog": frozenset({"old", "big"})},
        added_relations=frozenset({("a", "on", "b")}),
    )
    assert json.loads(json.dumps(revision.to_dict())) == {
        "added_objects": ["a", "b"],
        "removed_objects": [],
        "added_attributes": {},
        "removed_attributes": {"dog": ["big", "old"]},
        "added_relations": [["a", "on", "b"]],
        "removed_relations": [],
    }
