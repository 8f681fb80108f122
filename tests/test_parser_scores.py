"""Fact scores worked by hand, and the evaluation recipe on a file."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sc_captioner.scene_graph.fact_scores import FactScore, error_kinds, fact_scores, facts_of, written_facts
from sc_captioner.scene_graph.graph import Entity, Relation, SceneGraph


REPOSITORY = Path(__file__).parent.parent


def lemma(word: str) -> str:
    return {"dogs": "dog", "sofas": "sofa", "lies": "lie"}.get(word, word)


def test_facts_are_lower_cased_lemmatised_and_count_quantities():
    graph = SceneGraph((Entity("Dogs", frozenset({"Black"}), "2"), Entity("sofas")), (Relation(0, "lies on", 1),))
    assert facts_of(graph, lemma) == {
        "objects": {("dog",), ("sofa",)},
        "attributes": {("dog", "black"), ("dog", "2")},
        "relations": {("dog", "lie on", "sofa")},
    }


def test_scores_of_a_case_worked_by_hand():
    gold = SceneGraph.from_facts("( dogs , is , 2 ) , ( dogs , is , black ) , ( dogs , lie on , sofa ) , ( lamp )")
    found = SceneGraph.from_facts("( dog , is , black ) , ( dog , is , big ) , ( dog , on , sofa )")
    scores = fact_scores([found], [gold], lemma)
    assert scores["objects"] == FactScore(matched=2, found=2, gold=3)
    assert scores["attributes"] == FactScore(matched=1, found=2, gold=2)
    assert scores["relations"] == FactScore(matched=0, found=1, gold=1)
    assert scores["facts"] == FactScore(matched=3, found=5, gold=6)
    assert scores["facts"].precision == pytest.approx(3 / 5)
    assert scores["facts"].recall == pytest.approx(1 / 2)
    assert scores["facts"].f1 == pytest.approx(6 / 11)
    errors = {kind: count for kind, count in error_kinds([found], [gold], lemma).items() if count}
    assert errors == {
        "object missing": 1,
        "attribute missing": 1,
        "attribute extra": 1,
        "relation with another predicate": 1,
        "relation extra": 1,
    }


def test_scores_are_summed_over_sentences_before_they_are_divided():
    one, two = SceneGraph.from_facts("( cat )"), SceneGraph.from_facts("( dog ) , ( sofa ) , ( lamp )")
    assert fact_scores([one, SceneGraph()], [one, two], lemma)["objects"].f1 == pytest.approx(2 * 1 / (1 + 4))


def test_empty_graphs_agree():
    assert fact_scores([SceneGraph()], [SceneGraph()], lemma)["facts"].f1 == 1.0


def test_graphs_must_come_in_pairs():
    with pytest.raises(ValueError, match="1 found graphs .* 0 gold"):
        fact_scores([SceneGraph()], [], lemma)


def test_error_kinds_of_relations():
    gold = SceneGraph.from_facts("( a , on , b ) , ( a , near , c ) , ( a , hold , e ) , ( b , is , red )")
    found = SceneGraph.from_facts("( b , on , a ) , ( c ) , ( a , is , red )")
    errors = error_kinds([found], [gold], lemma)
    assert errors["relation turned round"] == 1
    assert errors["relation missing"] == 1
    assert errors["relation of a missing object"] == 1
    assert errors["attribute on another head"] == 1


def test_written_facts_keep_counts():
    graph = SceneGraph((Entity("ducks", frozenset({"white"}), "3"), Entity("pond")), (Relation(0, "in", 1),))
    assert written_facts(graph) == "( ducks , is , 3 ) , ( ducks , is , white ) , ( ducks , in , pond )"


words = st.sampled_from(["dog", "dogs", "sofa", "lamp", "red", "on", "lie on"])
graphs = st.lists(st.tuples(words, st.sets(words, max_size=2)), max_size=4).map(
    lambda rows: SceneGraph(tuple(Entity(head, frozenset(values)) for head, values in dict(rows).items()))
)


@given(st.lists(graphs, max_size=4), st.data())
def test_scores_are_bounded_symmetric_and_perfect_on_themselves(gold, data):
    found = [data.draw(graphs) for _ in gold]
    ours, theirs = fact_scores(found, gold, lemma), fact_scores(gold, found, lemma)
    for kind in ours:
        assert 0 <= ours[kind].f1 <= 1
        assert ours[kind].precision == theirs[kind].recall
        assert fact_scores(gold, gold, lemma)[kind].f1 == 1


def test_evaluation_recipe_prints_one_json_line_last(tmp_path):
    rows = [
        ("a black dog lying on a sofa", "( dog , is , black ) , ( dog , lay on , sofa )"),
        ("two white plates", "( plates , is , 2 ) , ( plates , is , white )"),
        ("This picture is clicked outside the city.", ""),
    ]
    file = tmp_path / "gold.csv"
    with open(file, "w", newline="") as out:
        csv.writer(out).writerows([("caption", "scene_graph"), *rows])
    command = [sys.executable, "recipes/evaluate_parser.py", "--parser", "compact", "--dataset", str(file)]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    scores = json.loads(result.stdout.strip().splitlines()[-1])
    assert scores["n"] == 3
    for name in ("set_match", "spice", "soft_spice"):
        assert 0 <= scores[name] <= 100
    for name in ("facts_precision", "facts_recall", "facts_f1", "objects_f1", "attributes_f1", "relations_f1"):
        assert 0 <= scores[name] <= 1
    assert scores["sentences_per_cpu_second"] > 0
    assert scores["objects_f1"] > 0.7


def test_evaluation_recipe_names_a_missing_column(tmp_path):
    file = tmp_path / "gold.csv"
    file.write_text("caption,graph\na dog,( dog )\n")
    command = [sys.executable, "recipes/evaluate_parser.py", "--dataset", str(file)]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert result.returncode != 0
    assert "'scene_graph'" in result.stderr
