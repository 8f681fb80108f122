"""The correction reward: released goldens, the paper preset's parts by hand, batches, odd inputs."""

from __future__ import annotations

import json
import math
import time
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sc_captioner import CorrectionReward
from sc_captioner.rewards import PaperWeights
from sc_captioner.scene_graph import PhraseEncoder, SceneGraph, StoredParser, load_encoder


FACTS = {
    "A dog sits on a bench.": "( dog , sit on , bench )",
    "A dog sits on a green bench.": "( dog , sit on , bench ) , ( bench , is , green )",
    "A dog sits on a red bench.": "( dog , sit on , bench ) , ( bench , is , red )",
    "A hound sits on a bench.": "( hound , sit on , bench )",
    "Dogs sit on a bench.": "( dogs , sit on , bench )",
    "A dog and a kite are on a bench.": "( dog , on , bench ) , ( kite , on , bench )",
    "There is a ball.": "( ball )",
    "There is a kite.": "( kite )",
    "There is a dog.": "( dog )",
    "There is a hound.": "( hound )",
    "The ball is to the left of the bench.": "( ball , to left of , bench )",
    "The ball is to the right of the bench.": "( ball , to right of , bench )",
    "The bench is to the right of the ball.": "( bench , to right of , ball )",
    "The ball is above the bench.": "( ball , above , bench )",
}


class FactsParser:
    """Graphs of the sentences above, of anything else an error; counts its calls."""

    name = "facts"

    def __init__(self) -> None:
        self.calls = 0

    def parse(self, sentences: list[str]) -> list[SceneGraph]:
        self.calls += 1
        return [SceneGraph.from_facts(FACTS[sentence]) for sentence in sentences]


class WordsParser:
    """Every word an object and every pair of neighbours a relation: a graph for any text."""

    name = "words"

    def parse(self, sentences: list[str]) -> list[SceneGraph]:
        graphs = []
        for sentence in sentences:
            words = [word.strip("(),.") or "thing" for word in sentence.split()]
            facts = [f"( {a} , by , {b} )" for a, b in zip(words, words[1:])] + [f"( {w} , is , {w} )" for w in words]
            graphs.append(SceneGraph.from_facts(" , ".join(facts)))
        return graphs


@pytest.fixture(scope="module")
def encoder() -> PhraseEncoder:
    return load_encoder()


@pytest.fixture(scope="module")
def reward(encoder: PhraseEncoder) -> CorrectionReward:
    return CorrectionReward(parser=FactsParser(), encoder=encoder, lexicon="bundled")


@pytest.fixture(scope="module")
def golden(shared) -> dict:
    return json.loads((shared / "golden/released_scores.json").read_text(encoding="utf-8"))


def columns(cases: list[dict]) -> dict[str, list[str]]:
    names = {"first_caption": "first", "second_caption": "second", "reference": "reference"}
    return {column: [case[name] for case in cases] for column, name in names.items()}


# --- Released preset -------------------------------------------------------------------------------------------------


def test_released_preset_reproduces_every_golden(golden: dict, encoder: PhraseEncoder) -> None:
    reward = CorrectionReward("released", parser=StoredParser(golden["graphs"]), encoder=encoder, lexicon="nltk")
    cases = golden["cases"]
    assert len(cases) == 72
    totals = reward(**columns(cases))
    for case, total in zip(cases, totals):
        assert total == pytest.approx(case["expected"]["reward"], abs=1e-5), case["id"]
        explanation = reward.explain(case["first"], case["second"], case["reference"])
        assert explanation.revision.to_dict() == case["expected"]["revision"], case["id"]
        assert explanation.total == pytest.approx(total, abs=1e-6)


def test_released_parts_add_up(golden: dict, encoder: PhraseEncoder) -> None:
    reward = CorrectionReward("released", parser=StoredParser(golden["graphs"]), encoder=encoder, lexicon="nltk")
    for parts in reward.parts_of(*columns(golden["cases"]).values()):
        assert parts is not None
        logit = parts["objects"] + parts["attributes"] - parts["unchanged"]
        assert parts["total"] == pytest.approx(1 / (1 + math.exp(-logit)) - 0.5, abs=1e-9)


@pytest.mark.parametrize("preset", ["released", "paper"])
def test_order_of_the_batch_does_not_matter(golden: dict, encoder: PhraseEncoder, preset: str) -> None:
    parser = StoredParser(golden["graphs"])
    cases = golden["cases"][::3]
    there = CorrectionReward(preset, parser=parser, encoder=PhraseEncoder(encoder.model), lexicon="nltk")
    back = CorrectionReward(preset, parser=parser, encoder=PhraseEncoder(encoder.model), lexicon="nltk")
    assert there(**columns(cases)) == back(**columns(cases[::-1]))[::-1]


def test_hash_seed_does_not_matter(golden: dict, shared) -> None:
    import os
    import subprocess
    import sys

    code = (
        "import json, sys\n"
        "from sc_captioner import CorrectionReward\n"
        "from sc_captioner.scene_graph import StoredParser\n"
        "golden = json.load(open(sys.argv[1]))\n"
        "cases = golden['cases'][::6]\n"
        "reward = CorrectionReward(parser=StoredParser(golden['graphs']), lexicon='bundled')\n"
        "parts = reward.parts_of(*[[case[k] for case in cases] for k in ('first', 'second', 'reference')])\n"
        "print(json.dumps(parts))\n"
    )
    path = str(shared / "golden/released_scores.json")
    run = subprocess.run(
        [sys.executable, "-c", code, path], env={**os.environ, "PYTHONHASHSEED": "1"}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    cases = golden["cases"][::6]
    here = CorrectionReward(parser=StoredParser(golden["graphs"]), lexicon="bundled")
    assert json.loads(run.stdout) == here.parts_of(*columns(cases).values())


# --- Paper preset ----------------------------------------------------------------------------------------------------


def parts(reward: CorrectionReward, first: str, second: str, reference: str) -> dict[str, float]:
    scored = reward.parts_of([first], [second], [reference])[0]
    assert scored is not None
    return scored


def test_right_addition_by_hand(reward: CorrectionReward) -> None:
    scored = parts(reward, "There is a ball.", "There is a ball. There is a dog.", "There is a dog. There is a ball.")
    # One added object that the reference holds: soft 2 * (1 - 0.55), bonus 0.25; twice the length is not over-long.
    assert scored["objects"] == pytest.approx(0.9 + 0.25)
    assert scored["mistakes"] == scored["attributes"] == scored["relations"] == 0
    assert scored["length"] == 0
    assert scored["total"] == pytest.approx(1 / (1 + math.exp(-1.15)) - 0.5)


def test_wrong_addition_is_a_mistake(reward: CorrectionReward) -> None:
    scored = parts(reward, "There is a dog.", "There is a dog. There is a kite.", "There is a dog.")
    assert scored["mistakes"] == -0.25
    # The reference holds nothing beyond what both captions say already: the kite is like nothing that is missing.
    assert scored["objects"] == pytest.approx(2 * -0.55)


def test_removals(reward: CorrectionReward) -> None:
    right = parts(reward, "There is a dog. There is a kite.", "There is a dog.", "There is a dog.")
    assert right["objects"] == pytest.approx(2 * 0.6 + 0.25)
    assert right["mistakes"] == 0
    wrong = parts(reward, "There is a dog. There is a kite.", "There is a kite.", "There is a dog. There is a kite.")
    assert wrong["objects"] == pytest.approx(2 * (0.6 - 1))
    assert wrong["mistakes"] == -0.25
    assert right["total"] > 0 > wrong["total"]


def test_colours_are_not_alike(reward: CorrectionReward) -> None:
    red, green = "A dog sits on a red bench.", "A dog sits on a green bench."
    right = parts(reward, red, green, green)
    assert right["attributes"] == pytest.approx(0.3)  # red removed, green added
    assert right["mistakes"] == 0
    wrong = parts(reward, green, red, green)
    assert wrong["attributes"] == 0
    assert wrong["mistakes"] == pytest.approx(-0.3)


def test_relations_by_hand(reward: CorrectionReward) -> None:
    left, right = "The ball is to the left of the bench.", "The ball is to the right of the bench."
    turned = parts(reward, right, left, left)
    assert turned["relations"] == pytest.approx((1 - 0.55) + 0.6 + 0.25 + 0.25)
    back = parts(reward, left, right, left)
    assert back["relations"] == pytest.approx(-0.55 + 0.6 - 1)
    assert back["mistakes"] == 0  # the paper does not punish relations
    above = parts(reward, "The ball is above the bench.", left, left)
    assert above["relations"] == pytest.approx(turned["relations"])
    other_end = reward.explain(left, "The bench is to the right of the ball.", left)
    assert not other_end.revision.added_relations and not other_end.revision.removed_relations


def test_plural_and_other_name_are_no_revision(reward: CorrectionReward) -> None:
    for second in ("Dogs sit on a bench.", "A hound sits on a bench."):
        revision = reward.explain("A dog sits on a bench.", second, "A dog sits on a bench.").revision
        assert not any(revision.to_dict().values()), second


def test_saying_it_again_is_not_rewarded(reward: CorrectionReward) -> None:
    reference = "There is a dog. There is a ball. There is a kite."
    scored = parts(
        reward, "There is a dog. There is a kite.", "There is a dog. There is a kite. There is a hound.", reference
    )
    assert scored["objects"] == scored["mistakes"] == 0


def test_unchanged_is_judged_on_text_and_on_graphs(reward: CorrectionReward) -> None:
    reference = "There is a dog. There is a ball."
    floor = 1 / (1 + math.exp(1)) - 0.5
    for first, second in (
        ("There is a dog.", "There is a dog."),
        ("A dog sits on a bench.", "Dogs sit on a bench."),
        ("There is a dog. There is a kite.", "There is a kite. There is a dog."),
    ):
        scored = parts(reward, first, second, reference)
        assert scored["unchanged"] == 1
        assert scored["total"] == pytest.approx(floor)
    # Leaving a caption alone that claims just what the reference does is no fault.
    assert parts(reward, reference, reference, reference)["total"] == 0
    assert parts(reward, "There is a dog.", reference, reference)["unchanged"] == 0


def test_over_long_corrections(reward: CorrectionReward, encoder: PhraseEncoder) -> None:
    first, long = "There is a dog.", "There is a dog. " * 3
    assert parts(reward, first, long.strip(), first)["length"] == -3
    lenient = CorrectionReward(
        parser=FactsParser(), encoder=encoder, lexicon="bundled", weights={"length_reference": 1.5}
    )
    reference = "There is a dog. There is a ball. There is a kite."
    assert parts(lenient, first, reference, reference)["length"] == 0
    assert parts(lenient, first, f"{reference} {reference}", reference)["length"] == -3


def test_parts_switch(encoder: PhraseEncoder) -> None:
    first, second, reference = (
        "A dog sits on a red bench.",
        "A dog and a kite are on a bench.",
        "A dog sits on a bench.",
    )
    everything = CorrectionReward(parser=FactsParser(), encoder=encoder, lexicon="bundled")
    all_parts = parts(everything, first, second, reference)
    for name in ("objects", "attributes", "relations", "mistakes"):
        only = CorrectionReward(parser=FactsParser(), encoder=encoder, lexicon="bundled", parts=[name])
        scored = parts(only, first, second, reference)
        assert set(scored) == {name, "unchanged", "total"}
        assert scored[name] == all_parts[name]
        assert scored["total"] == pytest.approx(1 / (1 + math.exp(-scored[name])) - 0.5)


def test_explanation(reward: CorrectionReward) -> None:
    explanation = reward.explain(
        "A dog sits on a red bench.", "A dog and a kite are on a bench.", "A dog sits on a bench."
    )
    assert explanation.revision.added_objects == {"kite"}
    assert explanation.revision.removed_attributes == {"bench": frozenset({"red"})}
    assert (explanation.preset, explanation.parser, explanation.encoder, explanation.lexicon) == (
        "paper", "facts", "all-MiniLM-L6-v2", "bundled"
    )  # fmt: skip
    logit = sum(explanation.parts.values())
    assert explanation.total == pytest.approx(1 / (1 + math.exp(-logit)) - 0.5)
    json.dumps(explanation.to_dict())


# --- Batches and bad samples -----------------------------------------------------------------------------------------


def test_one_parse_and_one_encode_per_batch(encoder: PhraseEncoder) -> None:
    parser = FactsParser()

    class Counting:
        calls = 0

        def encode(self, phrases, **options):
            self.calls += 1
            return encoder.model.encode(phrases, **options)

    model = Counting()
    reward = CorrectionReward(parser=parser, encoder=PhraseEncoder(model), lexicon="bundled")  # type: ignore[arg-type]
    sentences = list(FACTS)
    reward(first_caption=sentences, second_caption=sentences[::-1], reference=[sentences[1]] * len(sentences))
    assert (parser.calls, model.calls) == (1, 1)
    reward(first_caption=sentences, second_caption=sentences[::-1], reference=[sentences[1]] * len(sentences))
    assert model.calls == 1  # everything was known


def test_a_bad_sample_fails_alone(encoder: PhraseEncoder) -> None:
    reward = CorrectionReward(parser=FactsParser(), encoder=encoder, lexicon="bundled")
    batch = {
        "first_caption": ["There is a dog.", "There is a unicorn.", "There is a dog.", "There is a dog."],
        "second_caption": ["There is a dog. There is a ball.", "There is a dog.", None, "There is a ball."],
        "reference": ["There is a ball."] * 4,
    }
    with pytest.warns(UserWarning, match="sample 1.*unicorn") as caught:
        first = reward(**batch)
    assert [score is None for score in first] == [False, True, True, False]
    assert reward.num_failed == 2
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reward(**batch) == first
    assert reward.num_failed == 4
    with pytest.raises(KeyError, match="unicorn"):
        reward.explain("There is a unicorn.", "There is a dog.", "There is a dog.")
    with pytest.raises(TypeError, match="second_caption"):
        reward.explain("There is a dog.", None, "There is a dog.")  # type: ignore[arg-type]


def test_trl_calls_it_with_other_columns(reward: CorrectionReward) -> None:
    scores = reward(
        prompts=["p"], completions=["c"], completion_ids=[[1]], trainer_state=None, extra_objects=[["dog"]],
        first_caption=["There is a dog."], second_caption=["There is a ball."], reference=["There is a ball."],
    )  # fmt: skip
    assert scores[0] is not None and -0.5 <= scores[0] <= 0.5
    assert reward.__name__ == "correction_reward"
    assert reward(first_caption=[], second_caption=[], reference=[]) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "best"}, "'released'"),
        ({"parts": ["objects", "colours"]}, "colours"),
        ({"parts": "objects"}, "list"),
        ({"weights": {"object_bonbon": 1}}, "object_bonbon"),
        ({"preset": "released", "parts": ["objects"]}, "preset='paper'"),
        ({"lexicon": "wordnet"}, "'bundled'"),
    ],
)
def test_unknown_settings_are_named(encoder: PhraseEncoder, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CorrectionReward(parser=FactsParser(), encoder=encoder, **options)


def test_columns_of_unequal_length_are_named(reward: CorrectionReward) -> None:
    with pytest.raises(ValueError, match="differ in length"):
        reward(first_caption=["a"], second_caption=[], reference=["b"])


captions = st.one_of(
    st.text(max_size=40),
    st.lists(
        st.sampled_from(["dog", "red", "🐕", "\x00", "ß", "(", "on", "bench.", "the", ",", "犬"]), max_size=8
    ).map(" ".join),
)


@settings(max_examples=max(200, settings.default.max_examples), deadline=None)
@given(first=captions, second=captions, reference=captions)
def test_any_captions_get_a_bounded_score(encoder: PhraseEncoder, first: str, second: str, reference: str) -> None:
    for preset in ("paper", "released"):
        reward = CorrectionReward(preset, parser=WordsParser(), encoder=encoder, lexicon="bundled")
        scored = reward.parts_of([first], [second], [reference])[0]
        assert scored is not None and reward.num_failed == 0
        assert all(math.isfinite(value) for value in scored.values())
        assert -0.5 <= scored["total"] <= 0.5
        if first == second:
            assert scored["unchanged"] == 1


def test_ten_thousand_words_take_bounded_time(encoder: PhraseEncoder) -> None:
    reward = CorrectionReward(
        parser=StoredParser({sentence: SceneGraph.from_facts(facts) for sentence, facts in FACTS.items()}),
        encoder=encoder,
        lexicon="bundled",
        weights=PaperWeights(),
    )
    long = " ".join(list(FACTS) * 150)
    assert len(long.split()) > 10_000
    start = time.process_time()
    scores = reward(
        first_caption=["There is a dog.", long], second_caption=[long, ""], reference=[long, "There is a dog."]
    )
    assert None not in scores
    assert time.process_time() - start < 20
