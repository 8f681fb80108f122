"""Metrics core: released goldens, orderings on real captions, bounds, what is skipped, intervals."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sc_captioner.metrics import (
    attributes_by_object,
    bootstrap,
    capture,
    correction_statistics,
    fact_scores,
    paired_bootstrap,
    refined_capture,
)
from sc_captioner.metrics.capture import KINDS, caption_parts
from sc_captioner.metrics.facts import set_f1
from sc_captioner.scene_graph import (
    Lexicon,
    PhraseEncoder,
    SceneGraph,
    StoredParser,
    load_encoder,
    load_lexicon,
    load_parser,
    parse_captions,
)


REFINED = ["object_precision", "object_recall", "object_f1", "attribute_precision", "attribute_recall", "attribute_f1"]


@pytest.fixture(scope="module")
def encoder() -> PhraseEncoder:
    return load_encoder()


@pytest.fixture(scope="module")
def bundled() -> Lexicon:
    return load_lexicon("bundled")


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict:
    return json.loads((shared / "golden/released_scores.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def golden_graphs(golden: dict) -> dict[str, list[SceneGraph]]:
    parser, lexicon = StoredParser(golden["graphs"]), load_lexicon("nltk")
    return {
        name: parse_captions(parser, lexicon, [case[name] for case in golden["cases"]])
        for name in ("first", "second", "reference")
    }


def within(value: float, bounds: list[float]) -> bool:
    return bounds[0] - 1e-4 <= value <= bounds[1] + 1e-4


# --- Goldens ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", ["first", "second"])
def test_capture_lies_in_the_released_range(golden, golden_graphs, encoder, turn: str) -> None:
    cases = golden["cases"]
    result = capture(
        golden_graphs[turn], [[graph] for graph in golden_graphs["reference"]],
        [case[turn] for case in cases], [[case["reference"]] for case in cases], load_lexicon("nltk"), encoder,
    )  # fmt: skip
    for case, scores in zip(cases, result.per_sample):
        assert scores is not None
        for name, bounds in case["expected"][f"capture_{turn}"].items():
            assert within(scores[name], bounds), (case["id"], name, scores[name], bounds)
    assert result.corpus["capture"] == pytest.approx(np.mean([s["capture"] for s in result.per_sample if s]))


@pytest.mark.parametrize("turn", ["first", "second"])
def test_refined_capture_lies_in_the_released_range(golden, golden_graphs, encoder, turn: str) -> None:
    result = refined_golden(golden, golden_graphs, encoder, turn)
    expected = [case["expected"][f"refined_{turn}"] for case in golden["cases"]]
    for case, scores, bounds in zip(golden["cases"], result.per_sample, expected):
        assert (scores is None) == (bounds is None), case["id"]
        for name in bounds or ():
            assert within(scores[name], bounds[name]), (case["id"], name, scores[name], bounds[name])
    assert result.skipped == expected.count(None)


def refined_golden(golden, graphs, encoder, turn: str, order: list[int] | None = None, **options):
    cases = golden["cases"]
    order = order or list(range(len(cases)))
    return refined_capture(
        [graphs[turn][i] for i in order],
        [graphs["reference"][i] for i in order],
        [cases[i][turn] for i in order],
        [cases[i]["reference"] for i in order],
        [cases[i]["extra_objects"] for i in order],
        [cases[i]["extra_attributes"] for i in order],
        load_lexicon("nltk"),
        encoder,
        **options,
    )


def test_order_of_samples_and_facts_does_not_matter(golden, golden_graphs, encoder) -> None:
    plain = refined_golden(golden, golden_graphs, PhraseEncoder(encoder.model), "second")
    order = random.Random(3).sample(range(72), 72)

    def turned(graph: SceneGraph) -> SceneGraph:
        facts = graph.to_dict()
        last = len(facts["entities"]) - 1
        facts["entities"].reverse()
        for relation in facts["relations"]:
            relation["subject"], relation["object"] = last - relation["subject"], last - relation["object"]
        facts["relations"].reverse()
        return SceneGraph.from_dict(facts)

    shuffled = {name: [turned(graph) for graph in graphs] for name, graphs in golden_graphs.items()}
    other = refined_golden(golden, shuffled, PhraseEncoder(encoder.model), "second", order)
    assert other.corpus == plain.corpus
    assert other.per_sample == [plain.per_sample[i] for i in order]


def scores_of_goldens(golden: dict) -> list:
    """Per-sample CAPTURE and refined CAPTURE of every sixth case, as JSON has them."""
    cases, parser, lexicon = golden["cases"][::6], StoredParser(golden["graphs"]), load_lexicon("nltk")
    texts = {name: [case[name] for case in cases] for name in ("first", "second", "reference")}
    graphs = {name: parse_captions(parser, lexicon, captions) for name, captions in texts.items()}
    references = [[graph] for graph in graphs["reference"]], texts["second"], [[text] for text in texts["reference"]]
    plain = capture(graphs["second"], *references, lexicon, load_encoder())
    refined = refined_golden({"cases": cases}, graphs, load_encoder(), "second")
    return json.loads(json.dumps([plain.per_sample, refined.per_sample]))


def test_hash_seed_does_not_matter(golden, shared) -> None:
    code = (
        "import json, sys\n"
        "sys.path.insert(0, 'tests')\n"
        "from test_metrics_core import scores_of_goldens\n"
        "print(json.dumps(scores_of_goldens(json.load(open(sys.argv[1], encoding='utf-8')))))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(shared / "golden/released_scores.json")], cwd=Path(__file__).parents[1],
        env={**os.environ, "PYTHONHASHSEED": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    assert json.loads(run.stdout) == scores_of_goldens(golden)


def test_how_samples_without_attributes_enter(golden, golden_graphs, encoder) -> None:
    skip, zero, objects = (
        refined_golden(golden, golden_graphs, encoder, "first", without_attributes=option)
        for option in ("skip", "zero", "objects")
    )
    assert skip.skipped == zero.skipped == objects.skipped == 7
    lacking = [i for i, scores in enumerate(skip.per_sample) if scores is None]
    assert all(zero.per_sample[i]["attribute_f1"] in (0.0, 1.0) for i in lacking)
    assert all("attribute_f1" not in objects.per_sample[i] for i in lacking)
    assert zero.corpus["attribute_f1"] < skip.corpus["attribute_f1"] == objects.corpus["attribute_f1"]
    assert zero.corpus["object_f1"] == objects.corpus["object_f1"] != skip.corpus["object_f1"]
    with pytest.raises(ValueError, match="'skip'"):
        refined_golden(golden, golden_graphs, encoder, "first", without_attributes="drop")


# --- Real captions: orderings over all images ---------------------------------------------------------------------


@pytest.fixture(scope="module", params=["docci500", "coco_ln500"])
def corpus(request: pytest.FixtureRequest, shared: Path, bundled: Lexicon) -> dict:
    """All 500 references of a test set, parsed by the shipped parser, with their annotations as they come."""
    folder = shared / "data" / request.param
    captions = json.loads((folder / "captions.json").read_text(encoding="utf-8"))
    attributes = json.loads((folder / "attributes.json").read_text(encoding="utf-8"))
    objects: dict[str, list[str]] = {}
    for line in (folder / "objects.jsonl").read_text(encoding="utf-8").splitlines():
        objects.update(json.loads(line))
    texts = list(captions.values())
    return {
        "texts": texts,
        "parser": load_parser("compact"),
        "objects": [objects.get(image, []) for image in captions],
        "attributes": [attributes.get(image, {}) for image in captions],
    }


def refined(corpus: dict, texts: list[str], lexicon: Lexicon, encoder: PhraseEncoder):
    parser, references = corpus["parser"], corpus["texts"]
    return refined_capture(
        parse_captions(parser, lexicon, texts), parse_captions(parser, lexicon, references), texts, references,
        corpus["objects"], corpus["attributes"], lexicon, encoder, without_attributes="objects",
    )  # fmt: skip


@pytest.mark.timeout(600)
def test_orderings_on_real_captions(corpus: dict, bundled: Lexicon, encoder: PhraseEncoder) -> None:
    references = corpus["texts"]
    assert len(references) == 500
    generator = random.Random(0)
    foreign = references[1:] + references[:1]
    sentences = [bundled.sentences(text) for text in references]
    dropped = [" ".join(s[: max(1, len(s) // 2)]) for s in sentences]
    longer = [f"{text} {generator.choice(bundled.sentences(other))}" for text, other in zip(references, foreign)]

    itself, other, less, more = (
        refined(corpus, texts, bundled, encoder) for texts in (references, foreign, dropped, longer)
    )
    full = itself.corpus
    assert full["object_recall"] > 1 - 1e-5
    assert full["attribute_recall"] > 1 - 1e-5
    # Another image's caption: low by any measure.
    assert other.corpus["object_f1"] < full["object_f1"] - 0.25
    assert other.corpus["object_recall"] < 0.7
    assert other.corpus["attribute_recall"] < full["attribute_recall"] - 0.25
    # Sentences left out: recall falls, precision stays.
    assert less.corpus["object_recall"] < full["object_recall"] - 0.1
    assert less.corpus["object_precision"] == pytest.approx(full["object_precision"], abs=0.02)
    # Foreign sentences put in: precision falls, recall stays.
    assert more.corpus["object_precision"] < full["object_precision"] - 0.01
    assert more.corpus["object_recall"] == pytest.approx(full["object_recall"], abs=0.005)
    # Image by image as well.
    for name, run, sign in (
        ("object_recall", less, -1), ("object_precision", less, 0), ("object_precision", more, -1),
        ("object_recall", more, 0),
    ):  # fmt: skip
        changes = [after[name] - before[name] for before, after in zip(itself.per_sample, run.per_sample)]
        assert all(change < 1e-6 for change in changes)
        assert sign or all(change > -1e-5 for change in changes)
    drops = paired_bootstrap(*([s["object_recall"] for s in r.per_sample] for r in (itself, less)))
    assert drops.high < 0


@pytest.mark.timeout(600)
def test_capture_orders_real_captions(corpus: dict, bundled: Lexicon, encoder: PhraseEncoder) -> None:
    references = corpus["texts"]
    graphs = parse_captions(corpus["parser"], bundled, references)
    against = [[graph] for graph in graphs], references, [[text] for text in references]
    itself = capture(graphs, *against, bundled, encoder)
    for scores in itself.per_sample:
        # The released formula gives 0 where neither side has any attribute or relation.
        assert all(scores[f"{kind}_recall"] > 1 - 1e-5 or scores[f"{kind}_recall"] == 0 for kind in KINDS), scores
        assert scores["object_recall"] > 0
    parts = [caption_parts(graph, text, bundled) for graph, text in zip(graphs, references)]
    for kind, lists in (
        ("attribute", [p.pooled_attributes for p in parts]),
        ("relation", [p.relations for p in parts]),
    ):
        assert [s[f"{kind}_recall"] > 0 for s in itself.per_sample] == [bool(found) for found in lists]
    foreign = references[1:] + references[:1]
    other = capture(graphs[1:] + graphs[:1], against[0], foreign, against[2], bundled, encoder)
    assert other.corpus["capture"] < itself.corpus["capture"] - 0.4


# --- Single samples -----------------------------------------------------------------------------------------------


def graph(facts: str) -> SceneGraph:
    return SceneGraph.from_facts(facts)


def test_extra_objects_count_for_precision_only(bundled: Lexicon, encoder: PhraseEncoder) -> None:
    candidate, reference = graph("( dog , is , old ) , ( kite )"), graph("( dog , is , old )")
    text, ours = "An old dog.", "An old dog and a kite."

    def scores(extra: list[str]) -> dict[str, float]:
        attributes = {"dog": ["old"]}
        result = refined_capture([candidate], [reference], [ours], [text], [extra], [attributes], bundled, encoder)
        return result.per_sample[0] or {}

    without, with_kite = scores([]), scores(["kite"])
    assert with_kite["object_precision"] == pytest.approx(1, abs=1e-5)
    assert without["object_precision"] < 0.9
    assert with_kite["object_recall"] == without["object_recall"] == pytest.approx(1, abs=1e-5)
    assert with_kite["attribute_f1"] == pytest.approx(1, abs=1e-5)


def test_attributes_are_compared_object_by_object(bundled: Lexicon, encoder: PhraseEncoder) -> None:
    reference = graph("( dog , is , brown ) , ( bench , is , green )")
    swapped = graph("( dog , is , green ) , ( bench , is , brown )")
    texts = ["A brown dog, a green bench."], ["A green dog, a brown bench."]
    pooled = capture([swapped], [[reference]], texts[1], [texts[0]], bundled, encoder)
    assert pooled.corpus["attribute_f1"] == pytest.approx(1, abs=1e-4)
    each = refined_capture([swapped], [reference], texts[1], texts[0], [[]], [{}], bundled, encoder)
    brown, green = encoder.encode(["brown", "green"])
    assert each.corpus["attribute_recall"] == pytest.approx(float(brown @ green), abs=1e-4)
    assert each.corpus["attribute_precision"] == pytest.approx(float(brown @ green), abs=1e-4)  # no annotation


def test_several_references_are_averaged(bundled: Lexicon, encoder: PhraseEncoder) -> None:
    dog, cat = graph("( dog )"), graph("( cat )")
    both = capture([dog], [[dog, cat]], ["A dog."], [["A dog.", "A cat."]], bundled, encoder).corpus
    alone = [
        capture([dog], [[g]], ["A dog."], [[t]], bundled, encoder).corpus
        for g, t in ((dog, "A dog."), (cat, "A cat."))
    ]
    assert both["object_f1"] == pytest.approx((alone[0]["object_f1"] + alone[1]["object_f1"]) / 2)


def test_both_forms_of_annotated_attributes() -> None:
    expected = {"bench": ["green"], "dog": ["big", "old"]}
    assert attributes_by_object({"dog": ["old", "big"], "bench": ["green"], "cat": []}) == expected
    listed = [{"object": "dog", "attributes": ["old"]}, {"object": "bench", "attributes": ["green"]}]
    assert attributes_by_object([*listed, {"object": "dog", "attributes": ["big"]}]) == expected
    for wrong in ({"dog": "old"}, [{"name": "dog"}], 3):
        with pytest.raises(ValueError, match="attributes|Attributes"):
            attributes_by_object(wrong)  # type: ignore[arg-type]


def test_bad_columns_are_named(bundled: Lexicon, encoder: PhraseEncoder) -> None:
    dog = graph("( dog )")
    with pytest.raises(ValueError, match="reference_captions: 0"):
        refined_capture([dog], [dog], ["A dog."], [], [[]], [{}], bundled, encoder)
    with pytest.raises(ValueError, match="extra_objects of sample 1"):
        texts = ["A dog."] * 2
        refined_capture([dog] * 2, [dog] * 2, texts, texts, [["a"], "dog"], [{}, {}], bundled, encoder)
    with pytest.raises(ValueError, match="extra_attributes of sample 0"):
        refined_capture([dog], [dog], ["A dog."], ["A dog."], [[]], [{"dog": "old"}], bundled, encoder)
    with pytest.raises(ValueError, match="Sample 0"):
        capture([dog], [[]], ["A dog."], [[]], bundled, encoder)


def test_correction_statistics_by_hand(bundled: Lexicon, encoder: PhraseEncoder) -> None:
    first = graph("( dog , is , old ) , ( kite )"), "An old dog, a kite."
    second = graph("( dog , is , young ) , ( ball ) , ( boat )"), "A young dog, a ball and a boat."
    reference = graph("( dog , is , young ) , ( ball )"), "A young dog and a ball."
    columns = [[first[0]] * 2, [second[0], first[0]], [reference[0]] * 2]
    texts = [[first[1]] * 2, [second[1], first[1]], [reference[1]] * 2]
    result = correction_statistics(*columns, *texts, bundled, encoder)
    changed, same = result.per_sample
    assert changed is not None and same is not None
    assert (changed["objects_added_right"], changed["objects_added_wrong"]) == (1, 1)  # ball; boat
    assert (changed["objects_removed_right"], changed["objects_removed_wrong"]) == (1, 0)  # kite
    assert (changed["attributes_added_right"], changed["attributes_removed_right"]) == (1, 1)  # young for old
    assert (changed["unchanged"], same["unchanged"]) == (0, 1)
    assert sum(same.values()) == 1
    assert result.corpus["objects_added_right"] == 1
    assert result.corpus["objects_added_right_share"] == 0.5
    assert result.corpus["unchanged_share"] == 0.5


def test_fact_scores_by_hand(bundled: Lexicon) -> None:
    reference = graph("( dogs , is , old ) , ( dogs , sit on , bench ) , ( ball )")
    candidate = graph("( dog , is , old ) , ( dog , is , red ) , ( dog , sits on , bench )")
    scores = fact_scores([candidate], [reference], bundled).corpus
    assert scores["objects_f1"] == pytest.approx(2 * 2 / 5)
    assert scores["attributes_f1"] == pytest.approx(2 * 1 / 3)
    assert scores["relations_f1"] == 1
    assert scores["mean_f1"] == pytest.approx((0.8 + 2 / 3 + 1) / 3)
    empty = SceneGraph()
    assert fact_scores([empty], [reference], bundled).corpus["mean_f1"] == 0
    assert fact_scores([empty], [empty], bundled).corpus["mean_f1"] == 1
    assert set_f1("ab", "bc") == 0.5


# --- Anything ------------------------------------------------------------------------------------------------------


terms = st.one_of(
    st.sampled_from(["dog", "red", "on", "street lamp", "🐕", "ß", "\x07", "犬", ""]), st.text(max_size=5)
)
facts = st.lists(st.lists(terms, min_size=1, max_size=3).map(lambda t: f"( {' , '.join(t)} )"), max_size=5)


@settings(max_examples=max(250, settings.default.max_examples), deadline=None)
@given(
    ours=facts, theirs=facts, extra=st.lists(terms, max_size=3), option=st.sampled_from(["skip", "zero", "objects"])
)
def test_scores_are_bounded_whatever_comes(bundled, encoder, ours, theirs, extra, option) -> None:
    candidate, reference = graph(" , ".join(ours)), graph(" , ".join(theirs))
    texts = [" ".join(ours)], [" ".join(theirs)]
    results = [
        capture([candidate], [[reference]], texts[0], [texts[1]], bundled, encoder),
        refined_capture(
            [candidate], [reference], *texts, [extra], [dict.fromkeys(extra, extra)], bundled, encoder, option
        ),
        fact_scores([candidate], [reference], bundled),
    ]
    for result in results:
        for scores in (result.corpus, *(s for s in result.per_sample if s is not None)):
            assert all(math.isfinite(value) and -1e-6 <= value <= 1 + 1e-5 for value in scores.values()), scores
    corrected = correction_statistics(
        [candidate], [reference], [reference], texts[0], texts[1], texts[1], bundled, encoder
    )
    assert all(value >= 0 for value in corrected.corpus.values())


def test_ten_thousand_words_take_bounded_time(bundled: Lexicon, encoder: PhraseEncoder) -> None:
    generator = random.Random(0)
    words = ["".join(generator.choices("abcdefgh", k=4)) for _ in range(300)]
    pairs = [(generator.choice(words), generator.choice(words)) for _ in range(600)]
    big = graph(" , ".join(f"( {a} , by , {b} ) , ( {a} , is , {b} )" for a, b in pairs))
    text = " ".join(generator.choice(words) for _ in range(10_000))
    start = time.process_time()
    capture([big], [[big]], [text], [[text]], bundled, encoder)
    refined_capture([big], [big], [text], [text], [words[:50]], [{}], bundled, encoder)
    assert time.process_time() - start < 60


# --- Intervals -----------------------------------------------------------------------------------------------------


def test_bootstrap_agrees_with_theory() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.2, 400).tolist()
    interval = bootstrap(values)
    error = np.std(values) / math.sqrt(400)
    assert interval.mean == pytest.approx(np.mean(values))
    assert interval.standard_error == pytest.approx(error, rel=0.1)
    assert interval.low == pytest.approx(interval.mean - 1.96 * error, abs=0.2 * error)
    assert interval.high == pytest.approx(interval.mean + 1.96 * error, abs=0.2 * error)
    assert bootstrap(values[::-1]) == interval
    assert bootstrap([*values, None]).n == 400


def test_paired_differences() -> None:
    generator = np.random.default_rng(1)
    first = generator.normal(0.5, 0.3, 300)
    better = paired_bootstrap(first.tolist(), (first + generator.normal(0.03, 0.05, 300)).tolist())
    assert better.low > 0 and better.p_value < 0.01
    noise = generator.normal(0, 0.05, 300)
    none = paired_bootstrap(first.tolist(), (first + noise - noise.mean()).tolist())
    assert none.low < 0 < none.high and none.p_value > 0.05
    assert paired_bootstrap([1.0, None], [0.5, 0.5]).n == 1
    # What the released formulas' epsilon leaves of two perfect scores is no difference.
    perfect = paired_bootstrap([1 - 1e-6 / n for n in range(1, 50)], [1 - 1e-6 / (2 * n) for n in range(1, 50)])
    assert (perfect.mean, perfect.p_value) == (0, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap([]), "no values"),
        (lambda: bootstrap([1.0], confidence=1.5), "confidence"),
        (lambda: paired_bootstrap([1.0], [1.0, 2.0]), "length"),
    ],
)
def test_bad_intervals_are_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
