"""Matching: the three stages by hand, against capture_metric, whatever the order; mentions of heads in captions."""

from __future__ import annotations

import random
import runpy
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sc_captioner.matching import Mentions, alike, f1_score, match, pair_off, similarities, stop_words
from sc_captioner.scene_graph import Lexicon, PhraseEncoder, load_encoder, load_lexicon


WORDS = [
    "dog",
    "puppy",
    "sofa",
    "couch",
    "car",
    "automobile",
    "cable car",
    "red",
    "tree",
    "tree trunk",
    "bench",
    "🐕",
    "",
]
triples = st.tuples(st.sampled_from(WORDS), st.sampled_from(["on", "sit on", "left of"]), st.sampled_from(WORDS))


@pytest.fixture(scope="module")
def encoder() -> PhraseEncoder:
    return load_encoder()


@pytest.fixture(scope="module")
def lexicon() -> Lexicon:
    return load_lexicon("bundled")


def test_stages_by_hand(lexicon: Lexicon, encoder: PhraseEncoder) -> None:
    found = match(["dog", "couch", "tree trunk", "kite"], ["dog", "sofa", "tree", "bird", "lamp"], lexicon, encoder)
    kite, bird, lamp = encoder.encode(["kite", "bird", "lamp"])
    assert (found.exact, found.synonym) == (1, 2)  # dog; couch and sofa, tree inside tree trunk
    assert found.candidate_sum == pytest.approx(3 + max(kite @ bird, kite @ lamp), abs=1e-6)
    assert found.reference_sum == pytest.approx(3 + kite @ bird + kite @ lamp, abs=1e-6)
    assert found.precision == pytest.approx(found.candidate_sum / 4, abs=1e-5)
    assert found.recall == pytest.approx(found.reference_sum / 5, abs=1e-5)


def test_repeats_pair_off_one_to_one(lexicon: Lexicon, encoder: PhraseEncoder) -> None:
    pairing = pair_off(["red", "red", "dog"], ["red"], lexicon)
    assert (pairing.exact, pairing.synonym, pairing.left, pairing.free) == (1, 0, ["dog", "red"], [])
    found = match(["red"] * 3, ["red"] * 2, lexicon, encoder)
    assert (found.candidate_sum, found.reference_sum) == (2, 2)


@settings(max_examples=max(200, settings.default.max_examples), deadline=None)
@given(
    ours=st.lists(st.sampled_from(WORDS), max_size=8),
    theirs=st.lists(st.sampled_from(WORDS), max_size=8),
    seed=st.integers(),
)
def test_order_does_not_matter_and_sums_are_bounded(
    lexicon: Lexicon, encoder: PhraseEncoder, ours: list[str], theirs: list[str], seed: int
) -> None:
    found = match(ours, theirs, lexicon, encoder)
    generator = random.Random(seed)
    shuffled = match(generator.sample(ours, len(ours)), generator.sample(theirs, len(theirs)), lexicon, encoder)
    assert found == shuffled
    assert 0 <= found.candidate_sum <= len(ours) + 1e-5
    assert 0 <= found.reference_sum <= len(theirs) + 1e-5
    assert 0 <= found.f1 <= 1 + 1e-5


@settings(max_examples=max(100, settings.default.max_examples), deadline=None)
@given(phrases=st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=8)), max_size=8))
def test_a_side_matches_itself_fully(lexicon: Lexicon, encoder: PhraseEncoder, phrases: list[str]) -> None:
    found = match(phrases, phrases[::-1], lexicon, encoder)
    assert found.exact == found.candidate_sum == found.reference_sum == len(phrases)


@settings(max_examples=max(60, settings.default.max_examples), deadline=None)
@given(ours=st.lists(triples, max_size=5), theirs=st.lists(triples, max_size=5))
def test_triples_match_term_by_term(lexicon: Lexicon, encoder: PhraseEncoder, ours: list, theirs: list) -> None:
    pairing = pair_off(ours, theirs, lexicon)
    assert pairing.exact + pairing.synonym + len(pairing.left) == len(ours)
    assert pairing.exact + pairing.synonym + len(pairing.free) == len(theirs)
    assert match(ours, theirs, lexicon, encoder).candidate_sum <= len(ours) + 1e-5


def test_synonyms_are_those_of_capture(shared, monkeypatch) -> None:
    # Importing the package asks for NLTK data that nothing here reads, and goes on without.
    monkeypatch.setattr("nltk.download", lambda name: False)
    from capture_metric.capture import CAPTURE

    theirs = CAPTURE.__new__(CAPTURE)  # its constructor wants a GPU
    theirs.eps = 1e-6
    lexicon = load_lexicon("nltk")
    words = [
        "dog",
        "hound",
        "sofa",
        "couch",
        "red",
        "crimson",
        "on top of",
        "tree trunk",
        "trunk",
        "left",
        "woman",
        "man",
    ]
    for a in words:
        for b in words:
            assert alike(a, b, lexicon) == (theirs.compute_synonyms_score(a, b) > 0), (a, b)


def test_stop_words_are_those_of_capture() -> None:
    # The file alone: importing the package looks for NLTK's data and, where there is none, for the network.
    package = Path(find_spec("capture_metric").origin).parent
    assert stop_words() == frozenset(runpy.run_path(str(package / "stop_words.py"))["stop_words_list"])


@pytest.mark.parametrize(
    ("head", "occurs"),
    [
        ("umbrella", True),  # plural in the text
        ("couch", True),  # a synonym of sofa
        ("teacup", True),  # written as two words
        ("book shelf", True),  # written as one
        ("striped umbrella", True),
        ("kite", False),
        ("giraffe", True),  # "a" is part of it: substrings count, as in the released code
        ("", False),
    ],
)
def test_mentions(shared, head: str, occurs: bool) -> None:
    text = "Two women hold Striped Umbrellas near a sofa, a tea cup and the bookshelf."
    assert (head in Mentions(text, load_lexicon("nltk"))) == occurs


@settings(max_examples=max(100, settings.default.max_examples), deadline=None)
@given(text=st.text(max_size=60), head=st.text(max_size=12))
def test_mentions_of_anything(lexicon: Lexicon, text: str, head: str) -> None:
    assert (head in Mentions(text, lexicon)) in (True, False)


def test_similarities(encoder: PhraseEncoder) -> None:
    block = similarities(encoder, ["dog", "cat"], ["dog", "bench", "cat"])
    assert block.shape == (2, 3)
    np.testing.assert_allclose([block[0, 0], block[1, 2]], 1, atol=1e-6)
    assert similarities(encoder, [], ["dog"]).shape == (0, 1)
    assert similarities(encoder, ["dog"], []).shape == (1, 0)


def test_f1_of_nothing_is_zero() -> None:
    assert f1_score(0, 0) == 0
