"""Parsers side by side: stored graphs against each other, and the recipe on real captions."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from scipy import stats

from sc_captioner.evaluation.parser_agreement import (
    agreement,
    agreement_table,
    parsed_run,
    turns_from_references,
)
from sc_captioner.rewards import CorrectionReward
from sc_captioner.scene_graph import SceneGraph, StoredParser, load_encoder, load_lexicon, load_parser


REPOSITORY = Path(__file__).parent.parent
GRAPHS = {
    "A black cat sleeps on a sofa.": "( cat , is , black ) , ( cat , sleep on , sofa )",
    "A red lamp stands beside it.": "( lamp , is , red )",
    "A dog barks.": "( dog )",
}
ROWS = [
    {"label": "A black cat sleeps on a sofa. A red lamp stands beside it.", "predict": "A dog barks.",
     "predict_turn2": "A black cat sleeps on a sofa."},
    {"label": "A dog barks. A red lamp stands beside it.", "predict": "A dog barks.",
     "predict_turn2": "A dog barks. A black cat sleeps on a sofa."},
]  # fmt: skip


@pytest.fixture(scope="module")
def tools():
    return load_lexicon("bundled"), load_encoder()


def stored(**changes: str) -> StoredParser:
    return StoredParser({s: SceneGraph.from_facts(changes.get(s[2:7], facts)) for s, facts in GRAPHS.items()})


def test_a_parser_agrees_with_itself(tools):
    one, two = (parsed_run(name, stored(), ROWS, *tools) for name in "ab")
    result = agreement(one, two, tools[0])
    assert result["graphs"]["equal"] == 1 and result["graphs"]["facts_f1"] == 1
    assert result["graphs"]["sentences"] == 3
    assert result["reward"]["difference"]["mean"] == 0 and result["reward"]["same_sign"] == 1
    assert result["reward"]["pearson"] == pytest.approx(1)


def test_agreement_of_a_case_worked_by_hand(tools):
    other = StoredParser(
        {
            **{s: SceneGraph.from_facts(facts) for s, facts in GRAPHS.items()},
            "A black cat sleeps on a sofa.": SceneGraph.from_facts("( cat , is , dark ) , ( cat , sleep on , sofa )"),
        }
    )
    one, two = parsed_run("a", stored(), ROWS, *tools), parsed_run("b", other, ROWS, *tools)
    graphs = agreement(one, two, tools[0])["graphs"]
    assert graphs["equal"] == pytest.approx(2 / 3)  # one of three sentences has another attribute
    assert graphs["objects_f1"] == 1 and graphs["relations_f1"] == 1
    assert graphs["attributes_f1"] == pytest.approx(1 / 2)  # red lamp agrees, black and dark do not
    # 8 facts on either side: cat, sofa, lamp, dog, two attributes, one relation -> 7, of which 6 agree.
    assert graphs["facts_f1"] == pytest.approx(6 / 7)


def test_numbers_are_those_of_reward_and_library(tools):
    lexicon, encoder = tools
    rows = ROWS + [{**ROWS[0], "predict_turn2": ROWS[0]["label"]}]
    one = parsed_run("a", stored(), rows, lexicon, encoder)
    two = parsed_run("b", load_parser("compact"), rows, lexicon, encoder)
    reward = CorrectionReward(parser=load_parser("compact"), encoder=encoder, lexicon=lexicon)
    expected = reward(
        first_caption=[row["predict"] for row in rows],
        second_caption=[row["predict_turn2"] for row in rows],
        reference=[row["label"] for row in rows],
    )
    assert two.numbers["reward"] == expected
    result = agreement(one, two, lexicon)
    assert result["reward"]["spearman"] == pytest.approx(
        stats.spearmanr(one.numbers["reward"], two.numbers["reward"])[0]
    )
    assert result["reward"]["means"][0] == pytest.approx(sum(one.numbers["reward"]) / 3)
    assert "reward" in agreement_table(result)


def test_turns_are_made_of_sentences_that_exist_and_repeat_with_the_seed(tools):
    references = [f"There is a {a} dog. A {a} ball lies there. The sky is {a}." for a in ("red", "blue", "green")]
    turns = turns_from_references(references, tools[0], seed=3)
    assert turns == turns_from_references(references, tools[0], seed=3)
    assert turns != turns_from_references(references, tools[0], seed=4)
    known = {sentence for reference in references for sentence in tools[0].sentences(reference)}
    for first, second in turns:
        assert set(tools[0].sentences(first)) | set(tools[0].sentences(second)) <= known


def test_stored_graphs_are_read_from_json(tmp_path):
    graph = SceneGraph.from_facts("( cat , is , black )")
    for content in ({"A cat.": graph.to_dict()}, {"graphs": {"A cat.": graph.to_dict()}}):
        (tmp_path / "graphs.json").write_text(json.dumps(content))
        parser = load_parser(tmp_path / "graphs.json")
        assert parser.parse(["A cat."]) == [graph] and parser.name == "graphs"
    (tmp_path / "graphs.json").write_text("[1]")
    with pytest.raises(ValueError, match="graphs.json does not hold scene graphs"):
        load_parser(tmp_path / "graphs.json")


def test_recipe_compares_stored_graphs_with_compact(tmp_path):
    (tmp_path / "graphs.json").write_text(
        json.dumps({s: SceneGraph.from_facts(facts).to_dict() for s, facts in GRAPHS.items()})
    )
    unknown = {"label": "A bird.", "predict": "A bird.", "predict_turn2": "A bird."}
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, unknown]))
    command = [sys.executable, "recipes/compare_parsers.py", "--parsers", str(tmp_path / "graphs.json"), "compact",
               "--predictions", str(tmp_path / "captions.jsonl"), "--output_dir", str(tmp_path / "out")]  # fmt: skip
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "1 of 3 rows have a sentence without a stored graph" in result.stdout
    written = json.loads((tmp_path / "out/agreement.json").read_text())
    assert written[0]["parsers"] == ["graphs", "compact"] and written[0]["reward"]["n"] == 2
    assert (tmp_path / "out/compact.png").read_bytes().startswith(b"\x89PNG")
