"""The compact parser: words, alignment, decoding, the shipped weights, and the recipe that makes them."""

import csv
import json
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sc_captioner.scene_graph import load_parser
from sc_captioner.scene_graph.compact import SHIPPED, CompactParser
from sc_captioner.scene_graph.compact_alignment import Aligner
from sc_captioner.scene_graph.compact_decoding import spans_of
from sc_captioner.scene_graph.compact_labels import Labels, Span, Vocabulary, graph_of, singular
from sc_captioner.scene_graph.compact_rewording import Rewording
from sc_captioner.scene_graph.compact_spelling import Spelling, slip, slips
from sc_captioner.scene_graph.compact_vocabulary import vocabulary_of
from sc_captioner.scene_graph.compact_words import base_form, possible_base_forms, surface, tokens_of
from sc_captioner.scene_graph.fact_scores import fact_scores, written_facts
from sc_captioner.scene_graph.graph import SceneGraph


REPOSITORY = Path(__file__).parent.parent
SENTENCES = [
    "a black dog lying on a wooden bench",
    "two white plates on a table",
    "A medium close-up view of a gray cat that is standing behind a fence.",
    "On the left side there is a man wearing a red t-shirt and holding a racket.",
    "the man's hat is blue",
    "trees",
    "Behind the fence stands a tall tree.",
    "a person riding a wave on a yellow surfboard near the beach",
]


@pytest.fixture(scope="module")
def parser() -> CompactParser:
    return CompactParser.from_pretrained(device="cpu")


def rows_of(file: Path) -> list[tuple[str, str]]:
    with open(file, encoding="utf-8", newline="") as opened:
        rows = csv.DictReader(opened, delimiter="\t" if file.suffix == ".tsv" else ",")
        return [(row["caption"], row["scene_graph"]) for row in rows]


# --- Words -----------------------------------------------------------------------------------------------------------


def test_tokens_keep_their_places_and_split_hyphens_and_possessives():
    text = "The dog's  T-shirt, black-and-white; 1,000 don't!"
    tokens = tokens_of(text)
    assert [t.text for t in tokens] == [
        "the", "dog", "'s", "t", "-", "shirt", ",", "black", "-", "and", "-", "white", ";", "1,000", "don't", "!",
    ]  # fmt: skip
    assert all(text[t.start : t.end].lower() == t.text for t in tokens)
    assert surface(text, tokens, 1, 5) == "dog's t-shirt"
    assert [t.shape for t in tokens_of("The LUXOR sign")] == [1, 2, 0]


@pytest.mark.parametrize(
    ("word", "base"),
    [("running", "run"), ("standing", "stand"), ("riding", "ride"), ("making", "make"), ("flies", "fly"),
     ("watches", "watch"), ("parked", "park"), ("carried", "carry"), ("leaning", "lean"), ("sits", "sit"),
     ("placed", "place"), ("grazing", "graze"), ("filled", "fill"), ("crossing", "cross"), ("eating", "eat"),
     ("shaped", "shape"), ("smiling", "smile"), ("stopped", "stop"), ("streamlined", "streamline"),
     ("opening", "open"), ("tied", "tie")],
)  # fmt: skip
def test_regular_base_forms(word, base):
    assert base_form(word, {}) == base


def test_exceptions_and_known_verbs_come_before_spelling_rules():
    assert base_form("worn", {"worn": "wear"}) == "wear"
    assert base_form("taping", {}, frozenset({"tape"})) == "tape"
    assert base_form("facing", {}, frozenset({"face"})) == "face"


@given(st.text(max_size=30))
def test_every_word_is_among_its_own_base_forms(word):
    assert possible_base_forms(word)[-1] == word or word in possible_base_forms(word)


@pytest.mark.parametrize(
    ("plural", "one"), [("blues", "blue"), ("cities", "city"), ("boxes", "box"), ("glass", "glass")]
)
def test_singular(plural, one):
    assert singular(plural) == one


def test_spans_of_tags():
    assert spans_of([0, 1, 2, 1, 0, 2]) == [(1, 2), (3, 3), (5, 5)]
    assert spans_of([2, 2, 0, 1]) == [(0, 1), (3, 3)]
    assert spans_of([]) == []


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("buidling", "building"), ("moniter", "monitor"), ("girafee", "giraffe"), ("red buidling", "red building"),
     ("bus", "bus"), ("buildings", "buildings"), ("xyzzyx", "xyzzyx"), ("ten", "ten")],
)  # fmt: skip
def test_words_one_slip_away_from_a_common_word_are_put_right(wrong, right):
    spelling = Spelling({"building": 9, "monitor": 5, "giraffe": 7, "tent": 3}, ["building", "red", "bus"])
    assert spelling.corrected(wrong) == right


def test_the_commoner_of_two_near_words_is_meant():
    assert Spelling({"plate": 3, "plane": 8}, []).corrected("plake") == "plane"


def test_all_strings_one_slip_away():
    assert slips("ab") >= {"a", "b", "ba", "xb", "ax", "xab", "axb", "abx"} and "abxx" not in slips("ab")
    # Deletions, transposition, replacements and insertions of n letters, Norvig's count: 54 n + 25, repeats included.
    assert len(slips("abcd")) <= 54 * 4 + 25


@given(st.text("abcdefgh", min_size=4, max_size=12), st.randoms(use_true_random=False))
def test_a_slip_is_one_of_all_slips(word, rng):
    assert slip(word, rng) in slips(word) | {word}


# --- Alignment -------------------------------------------------------------------------------------------------------

CORPUS = [
    ("two dogs on a sofa", "( dogs , is , 2 ) , ( dogs , on , sofa )"),
    ("two wood chairs", "( chairs , is , 2 ) , ( chairs , is , wooden )"),
    ("two cats", "( cats , is , 2 )"),
    ("wood table", "( table , is , wooden )"),
    ("a wood door and two windows", "( door , is , wooden ) , ( windows , is , 2 )"),
    ("shirt worn by man", "( shirt , wear by , man )"),
    ("cap worn by boy", "( cap , wear by , boy )"),
    ("the leg of the table", "( table , have , leg )"),
    ("wheel of the car", "( car , have , wheel )"),
    ("man sitting on a bench", "( man , sit on , bench )"),
    ("a boy is sitting on the grass", "( boy , sit on , grass )"),
    ("Behind the fence stands a tall tree.", "( tree , stand behind , fence ) , ( tree , is , tall )"),
    ("A side walk", "( sidewalk )"),
    (
        "On the left there is a boy he is smiling, he wears a t-shirt.",
        "( boy , is , smiling ) , ( boy , wear , t-shirt )",
    ),
    (
        "a cat and a dog on a black-and-white rug",
        "( cat , on , rug ) , ( dog , on , rug ) , ( rug , is , black ) , ( rug , is , white )",
    ),
    ("A person, beside him another person on a chair", "( person , beside , person ) , ( person , on , chair )"),
    ("a tree on the upper left side of the house", "( tree , on upper left side of , house )"),
    ("two cows next to each other", "( cows , next to , cows ) , ( cows , is , 2 )"),
    ("a hotdog on a plate", "( hot dog , on , plate )"),
    ("a boy in a white t shirt", "( t-shirt , is , white ) , ( boy , in , t-shirt )"),
]


@pytest.fixture(scope="module")
def aligned():
    pairs = [(caption, SceneGraph.from_facts(facts)) for caption, facts in CORPUS]
    aligner = Aligner(min_count=2).fit(pairs)
    examples = [aligner.label(*pair) for pair in pairs]
    return pairs, examples, vocabulary_of(pairs, examples, aligner.spelling, least=1)


@pytest.mark.parametrize("row", range(len(CORPUS)), ids=[caption for caption, _ in CORPUS])
def test_labels_lead_back_to_the_gold_graph(aligned, row):
    pairs, examples, vocabulary = aligned
    example, gold = examples[row], pairs[row][1]
    found = graph_of(example.sentence, example.tokens, example.labels, vocabulary)
    assert example.lost == 0
    scores = fact_scores([found], [gold], str)
    assert scores["facts"].f1 == 1, (found.to_facts(), gold.to_facts())


def test_misspelt_sentences_lead_to_the_graph_of_the_right_ones(aligned):
    pairs, examples, vocabulary = aligned
    spelling = Spelling({"sofa": 5, "bench": 5, "grass": 5, "wooden": 4}, ["dogs", "bench", "sofa", "grass"])
    rewording = Rewording(examples, spelling)
    rng, changed = random.Random(0), 0
    for example, (_, gold) in list(zip(examples, pairs)) * 40:
        wrong = rewording.misspelt(example, rng)
        changed += wrong != example
        known = replace(vocabulary, common=spelling.common, known=sorted(spelling.known))
        sentence = " ".join(token.text for token in wrong.tokens)
        found = graph_of(sentence, tokens_of(sentence), wrong.labels, known) if wrong != example else gold
        assert found.objects == gold.objects
    assert changed > 20


def test_rewrites_are_learnt_from_what_goes_together(aligned):
    _, examples, vocabulary = aligned
    assert {"2", "wooden"} <= set(vocabulary.attribute_rewrites)
    assert vocabulary.base_forms["worn"] == "wear"
    assert "V on" in vocabulary.patterns and "have" in vocabulary.patterns
    dogs = examples[0].labels
    assert (dogs.attributes[0].first, dogs.attributes[0].rewrite) == (0, "2")


def test_the_verb_of_a_thing_is_none_of_its_attributes():
    vocabulary = Vocabulary(verbs=["sleep"])
    for sentence, attribute, attributes in (
        ("a black cat sleeps", 3, {"black"}),
        ("a black cat is sleeping", 4, {"black", "sleeping"}),
        ("a black cat curled", 3, {"black", "curled"}),
    ):
        labels = Labels((Span(2, 2),), (Span(1, 1), Span(attribute, attribute)), ((0, 0), (1, 0)))
        graph = graph_of(sentence, tokens_of(sentence), labels, vocabulary)
        assert graph.attributes == {"cat": attributes}


def test_a_fact_that_is_not_in_the_sentence_is_counted_as_lost():
    example = Aligner().fit([]).label("a dog", SceneGraph.from_facts("( dog , on , xylophone )"))
    assert example.lost > 0
    assert len(example.labels.entities) == 1


@pytest.mark.parametrize(
    ("file", "rows", "least"), [("factual/train.csv", 3000, 0.94), ("long_captions/train.tsv", 3000, 0.85)]
)
def test_nearly_all_gold_graphs_can_be_expressed(shared, file, rows, least):
    pairs = [
        (caption, SceneGraph.from_facts(facts.lower())) for caption, facts in rows_of(shared / "data" / file)[:rows]
    ]
    aligner = Aligner().fit(pairs)
    examples = [aligner.label(*pair) for pair in pairs]
    vocabulary = vocabulary_of(pairs, examples, aligner.spelling, least=1)
    found = [graph_of(e.sentence, e.tokens, e.labels, vocabulary) for e in examples]
    same = sum(fact_scores([f], [gold], str)["facts"].f1 == 1 for f, (_, gold) in zip(found, pairs))
    assert same / len(pairs) >= least


def test_written_sentences_are_distinct_and_their_graphs_can_be_traced_to_them():
    rows = rows_of(REPOSITORY / "recipes/parser/sentences.tsv")
    assert len({caption.lower() for caption, _ in rows}) == len(rows) > 14000
    pairs = [(caption, SceneGraph.from_facts(facts)) for caption, facts in rows]
    aligner = Aligner().fit(pairs)
    lost = [example.lost for example in (aligner.label(*pair) for pair in pairs)]
    # Those lost are mostly second relations of one pair of things, for which there is no label.
    assert sum(n > 0 for n in lost) / len(lost) < 0.03


def test_written_sentences_are_none_of_the_annotated_ones(shared):
    written = {caption.lower() for caption, _ in rows_of(REPOSITORY / "recipes/parser/sentences.tsv")}
    for file in ("long_captions/train.tsv", "long_captions/dev.tsv", "factual/train.csv", "factual/dev.csv"):
        assert written.isdisjoint(caption.lower() for caption, _ in rows_of(shared / "data" / file))


# --- Shipped weights -------------------------------------------------------------------------------------------------


def test_shipped_weights_are_small_bytes_and_described():
    from safetensors import safe_open

    files = sorted(file.name for file in SHIPPED.iterdir())
    assert files == ["README.md", "config.json", "model.safetensors"]
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 25e6
    with safe_open(SHIPPED / "model.safetensors", "pt") as stored:
        types = {name: stored.get_slice(name).get_dtype() for name in stored.keys()}  # noqa: SIM118
    matrices = [name for name in types if f"{name}.scale" in types]
    assert len(matrices) > 30 and {types[name] for name in matrices} == {"I8"}
    card = (SHIPPED / "README.md").read_text()
    for word in ("FACTUAL", "licen", "recipes/train_parser.py", "Set Match", "imits"):
        assert word in card


def test_simple_sentences(parser):
    graph = parser.parse(["two black dogs lying on a wooden bench"])[0]
    assert graph.objects == {"dogs", "bench"}
    assert graph.attributes == {"dogs": {"black"}, "bench": {"wooden"}}
    assert {entity.head: entity.quantity for entity in graph.entities} == {"dogs": "2", "bench": ""}
    assert graph.triples == {("dogs", "lay on", "bench")}


@pytest.mark.parametrize(
    "least",
    [0.76, pytest.param(0.77, marks=pytest.mark.xfail(reason="Version 4 has 0.766, below the bar it is to reach."))],
)
def test_factual_dev(parser, shared, least):
    rows = rows_of(shared / "data/factual/dev.csv")
    from factual_scene_graph.evaluation.set_match_evaluation import eval_set_match

    found = parser.parse([caption for caption, _ in rows])
    matches = [eval_set_match(written_facts(graph), [gold]) for graph, (_, gold) in zip(found, rows)]
    assert sum(matches) / len(matches) >= least


def test_long_captions_dev(parser, shared):
    from sc_captioner.scene_graph.lexicon import load_lexicon

    rows = rows_of(shared / "data/long_captions/dev.tsv")
    gold = [SceneGraph.from_facts(facts.lower()) for _, facts in rows]
    scores = fact_scores(parser.parse([caption for caption, _ in rows]), gold, load_lexicon("auto").lemma)
    least = {"facts": 0.86, "objects": 0.94, "attributes": 0.86, "relations": 0.75}
    assert {kind: score.f1 for kind, score in scores.items() if score.f1 < least[kind]} == {}


def test_captions_of_the_scenes_on_an_unseen_seed(parser):
    from sc_captioner.data.scene_captions import caption_sentences

    rows = caption_sentences(300, seed=987)
    scores = fact_scores(parser.parse([s for s, _ in rows]), [g for _, g in rows], str)
    assert scores["facts"].f1 >= 0.98


def test_speed_on_long_sentences(parser, shared):
    sentences = [caption for caption, _ in rows_of(shared / "data/long_captions/dev.tsv")]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds = []
    try:
        for _ in range(4):  # the fastest: neighbours on the machine slow a core down, nothing makes it faster
            fresh = CompactParser.from_pretrained(device="cpu", batch_size=64)
            fresh.parse(["a first call"])
            start = time.process_time()
            fresh.parse(sentences)
            seconds.append(time.process_time() - start)
    finally:
        torch.set_num_threads(threads)
    assert len(sentences) / min(seconds) >= 300


def test_graphs_do_not_depend_on_batch_order_cache_or_company(parser):
    alone = [CompactParser.from_pretrained(device="cpu").parse([s])[0] for s in SENTENCES[:3]]
    assert parser.parse(SENTENCES)[:3] == alone
    assert parser.parse(SENTENCES[::-1])[::-1] == parser.parse(SENTENCES)
    small = CompactParser.from_pretrained(device="cpu", batch_size=3, cache_size=2)
    assert small.parse(SENTENCES + SENTENCES[:4]) == parser.parse(SENTENCES + SENTENCES[:4])


def test_graphs_on_many_sentences_do_not_depend_on_the_batch(parser, shared):
    sentences = [caption for caption, _ in rows_of(shared / "data/long_captions/dev.tsv")]
    other = CompactParser.from_pretrained(device="cpu", batch_size=7)
    assert other.parse(sentences[::-1])[::-1] == parser.parse(sentences)


def test_threads_share_one_parser(parser):
    fresh = CompactParser.from_pretrained(device="cpu", cache_size=4)
    expected = parser.parse(SENTENCES)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda k: fresh.parse(SENTENCES[k % 8 :] + SENTENCES[: k % 8]), range(16)))
    for k, result in enumerate(results):
        assert result == expected[k % 8 :] + expected[: k % 8]


# --- Inputs of any kind ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "   ", "\n\t", "\x00\x1b[31m", "\u200b", "\ud800", "...", "( ) , ( is )"])
def test_texts_without_words_have_a_graph(parser, text):
    assert isinstance(parser.parse([text])[0], SceneGraph)


def test_empty_text_and_empty_list(parser):
    assert parser.parse([]) == []
    assert parser.parse(["", " "]) == [SceneGraph(), SceneGraph()]


@pytest.mark.parametrize(
    "text",
    [
        "a red ball next to a blue box and " * 625,
        "x" * 100_000,
        "猫がソファの上に座っている。" * 300,
        "🐶 " * 5000,
        "tree " * 5000,
    ],
    ids=["5,000 words", "one word", "Japanese", "emoji", "one noun"],
)
def test_very_long_inputs_take_bounded_time(parser, text):
    start = time.process_time()
    graph = parser.parse([text])[0]
    assert time.process_time() - start < 30
    assert isinstance(graph, SceneGraph)


def test_long_texts_are_read_to_their_end(parser):
    filler = "There is a white wall. " * 60
    assert "giraffe" in parser.parse([filler + "There is a tall giraffe."])[0].objects


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(max_size=60), max_size=5))
def test_any_text_gives_a_graph_in_written_form(parser, texts):
    for graph in parser.parse(texts):
        again = SceneGraph.from_facts(graph.to_facts())
        assert again.objects == graph.objects
        assert again.triples == graph.triples


def test_what_is_not_a_string_is_named(parser):
    with pytest.raises(TypeError, match="Sentence 1 .*NoneType"):
        parser.parse(["a dog", None])


# --- Files -----------------------------------------------------------------------------------------------------------


def test_saved_parser_parses_alike(parser, tmp_path):
    parser.save_pretrained(tmp_path)
    again = load_parser(tmp_path)
    assert again.name == "compact" and again.version == parser.version
    assert again.parse(SENTENCES) == parser.parse(SENTENCES)


def test_missing_and_foreign_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json"):
        CompactParser.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="compact parser"):
        CompactParser.from_pretrained(tmp_path)


def test_recipe_trains_a_parser_that_loads(tmp_path):
    file = tmp_path / "tiny.csv"
    with open(file, "w", newline="") as out:
        csv.writer(out).writerows([("caption", "scene_graph"), *CORPUS])
    config = tmp_path / "tiny.yaml"
    config.write_text(
        f"datasets: ['{file}']\nrepeats: [1.0]\nrewording: [0.0]\nscenes: 0\npieces: 500\nencoder_layers: 1\n"
        "buckets: 500\nngram_size: 16\n"
        "hidden: 24\nlayers: 1\ndropout: 0.0\nlower_case: 0.0\nmin_count: 1\nepochs: 60\naverage: 0.9\nthreads: 1\n"
        "learning_rate: 0.01\n"
    )
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        command = [sys.executable, "recipes/train_parser.py", "--config", str(config), "--output_dir", str(folder)]
        result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout.strip().splitlines()[-1])
    assert summary["captions"] == len(CORPUS)
    # The same seed gives the same weights.
    assert (folders[0] / "model.safetensors").read_bytes() == (folders[1] / "model.safetensors").read_bytes()
    trained = load_parser(folders[0])
    gold = [SceneGraph.from_facts(facts) for _, facts in CORPUS]
    scores = fact_scores(trained.parse([caption for caption, _ in CORPUS]), gold, str)
    assert scores["facts"].f1 > 0.9
