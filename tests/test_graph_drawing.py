"""Scene graphs as drawings: subjects above objects, nothing on top of anything else, every fact in words too."""

from __future__ import annotations

import re

import pytest
from html_page import Page
from hypothesis import given
from hypothesis import strategies as st

from sc_captioner.report.graph_drawing import Box, Mark, graph_svg, in_words, layers, layout
from sc_captioner.scene_graph.graph import Entity, Relation, SceneGraph


SCENE = SceneGraph.from_facts(
    "( star , is , big ) , ( star , above , circle ) , ( heart , left of , circle ) , ( dog )"
)


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ([], [0, 0, 0, 0]),
        (["ab", "bc", "cd"], [0, 1, 2, 3]),
        (["ab", "ac", "bd", "cd"], [0, 1, 1, 2]),
        (["ab", "bc", "ac"], [0, 1, 2, 0]),
        (["ab", "bc", "ca"], [0, 1, 2, 0]),  # the edge that closes the circle goes up
        (["ab", "bc", "dc"], [0, 1, 2, 1]),  # d stands right above what it points at
        (["aa", "ab"], [0, 1, 0, 0]),
    ],
)
def test_subjects_stand_above_objects(edges, expected):
    assert list(layers("abcd", [tuple(edge) for edge in edges]).values()) == expected


def test_lines_end_at_the_border_of_boxes():
    box = Box(100, 50, 40, 20)
    assert box.edge_towards((100, 100)) == (100, 60) and box.edge_towards((0, 50)) == (80, 50)
    assert box.edge_towards((140, 70)) == (120, 60)  # the corner
    assert box.touches(Box(139, 50, 40, 20)) and not box.touches(Box(141, 50, 40, 20))
    assert not box.touches(Box(100, 71, 40, 20))


def test_a_small_scene_is_laid_out_in_two_layers_with_what_is_alone_beside_it():
    boxes = layout(SCENE).boxes
    assert list(boxes) == ["star", "circle", "heart", "dog"]
    assert boxes["star"].y < boxes["circle"].y > boxes["heart"].y
    assert boxes["star"].x < boxes["heart"].x < boxes["dog"].x
    assert [text for text, _ in boxes["star"].lines] == ["star", "big"]
    assert in_words(SCENE) == "star (big), circle, heart, dog; heart left of circle; star above circle"


names = st.sampled_from(["cat", "a very long name of a thing", "dog", "tree", "sofa", "<b>", "&", "car", "sky", "hat"])


@st.composite
def graphs(draw) -> SceneGraph:
    entities = draw(st.lists(st.builds(Entity, names, st.frozensets(names, max_size=3)), min_size=1, max_size=12))
    place = st.integers(0, len(entities) - 1)
    return SceneGraph(tuple(entities), tuple(draw(st.lists(st.builds(Relation, place, names, place), max_size=15))))


@given(graphs())
def test_boxes_do_not_touch_and_nothing_leaves_the_drawing(graph):
    boxes = layout(graph).boxes
    assert set(boxes) == graph.objects
    placed = list(boxes.values())
    assert not any(a.touches(b) for i, a in enumerate(placed) for b in placed[:i])
    svg = graph_svg(graph, "Graph")
    page = Page(svg)
    width, height = map(float, re.search(r'viewBox="0 0 (\d+) (\d+)"', svg).groups())
    for box in placed:
        assert box.x - box.width / 2 >= 0 and box.x + box.width / 2 <= width
        assert box.y - box.height / 2 >= 0 and box.y + box.height / 2 <= height
    ends = {
        (heads[r.subject], heads[r.object]) for heads in [[e.head for e in graph.entities]] for r in graph.relations
    }
    assert sum(tag == "path" for tag, _ in page.tags) == len(ends)
    assert sum(tag == "text" for tag, _ in page.tags) == sum(
        [len(graph.objects), sum(map(len, graph.attributes.values())), len(graph.triples)]
    )


def test_marks_are_signs_as_well_as_colours():
    marks = {("star",): Mark("✓", "hit"), ("star", "big"): Mark("+✗", "miss"), ("star", "above", "circle"): Mark("○")}
    svg = graph_svg(SCENE, "Corrected caption", marks)
    texts = re.findall(r'<text class="([^"]*)"[^>]*>([^<]*)</text>', svg)
    assert ("head hit", "✓ star") in texts and ("miss", "+✗ big") in texts and ("said", "○ above") in texts
    assert ("head", "dog") in texts and svg.count('class="node hit"') == 1
    [label] = [attributes["aria-label"] for tag, attributes in Page(svg).tags if tag == "svg"]
    assert label == f"Corrected caption: {in_words(SCENE)}."


def test_a_graph_of_nothing_is_an_empty_drawing():
    assert 'aria-label="First caption: nothing."' in graph_svg(SceneGraph(), "First caption")


def test_an_edge_over_several_layers_goes_round_what_lies_between():
    chain = SceneGraph.from_facts("( a , on , b ) , ( b , on , c ) , ( c , on , d ) , ( a , over , d )")
    plan = layout(chain)
    assert len(plan.ways["a", "d"]) == 2 and plan.ways["a", "b"] == []
    for x, y in plan.ways["a", "d"]:
        assert not any(box.touches(Box(x, y, 2, 2)) for box in plan.boxes.values())
