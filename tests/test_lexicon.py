"""Words: both lexicons against hand-worked answers, each other, and what NLTK says."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sc_captioner.scene_graph import Lexicon, load_lexicon
from sc_captioner.scene_graph.lexicon import missing_nltk_data


@pytest.fixture(scope="module", params=["bundled", "nltk"])
def lexicon(request: pytest.FixtureRequest) -> Lexicon:
    """Both lexicons, the second where its data is."""
    if request.param == "nltk":
        request.getfixturevalue("shared")
    return load_lexicon(request.param)


@pytest.fixture(scope="module")
def nltk_lexicon(shared) -> Lexicon:
    return load_lexicon("nltk")


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", []),
        ("   \n ", []),
        ("A dog sits.", ["A dog sits."]),
        ("A dog sits. A cat sleeps!", ["A dog sits.", "A cat sleeps!"]),
        ("Mr. Smith holds a sign. It is red.", ["Mr. Smith holds a sign.", "It is red."]),
        ("No full stop at the end", ["No full stop at the end"]),
        ("Is it a dog? Yes.", ["Is it a dog?", "Yes."]),
        ("The sign is 3.5 feet tall. It leans.", ["The sign is 3.5 feet tall.", "It leans."]),
    ],
)
def test_sentences(lexicon: Lexicon, text: str, sentences: list[str]) -> None:
    assert lexicon.sentences(text) == sentences


@pytest.mark.parametrize(
    ("word", "lemma"),
    [
        ("dogs", "dog"), ("boxes", "box"), ("women", "woman"), ("leaves", "leaf"), ("berries", "berry"),
        ("glass", "glass"), ("bus", "bus"), ("buses", "bus"), ("skies", "sky"), ("feet", "foot"), ("mice", "mouse"),
        ("scissors", "scissors"), ("stove", "stove"), ("zzzqs", "zzzqs"), ("", ""),
    ],
)  # fmt: skip
def test_noun_lemmas(lexicon: Lexicon, word: str, lemma: str) -> None:
    assert lexicon.noun_lemma(word) == lemma


@pytest.mark.parametrize(
    ("word", "lemma"), [("bigger", "big"), ("silver", "silver"), ("wooden", "wooden"), ("paper", "paper"), ("", "")]
)
def test_adjective_lemmas(lexicon: Lexicon, word: str, lemma: str) -> None:
    assert lexicon.adjective_lemma(word) == lemma


def test_heads_of_several_words(lexicon: Lexicon) -> None:
    assert lexicon.head_lemma("Guide  Dogs") == "guide dog"
    assert lexicon.head_lemma("dogs") == "dog"


def test_synonyms(lexicon: Lexicon) -> None:
    assert {"car", "auto", "automobile"} <= lexicon.synonyms("car")
    assert "car" in lexicon.synonyms("cars")
    assert lexicon.synonyms("zzzqx") == frozenset()
    assert lexicon.are_synonyms("sofa", "couch")
    assert lexicon.are_synonyms("cable car", "car")  # several words are looked up as one entry
    assert not lexicon.are_synonyms("dog", "bench")


def test_nouns_hold_the_heads(lexicon: Lexicon) -> None:
    nouns = lexicon.nouns("Two brown dogs are sitting on a wooden bench.")
    assert {"dog", "bench"} <= nouns
    assert not {"are", "on", "a"} & nouns


def test_lexicons_agree_on_real_captions(shared, nltk_lexicon: Lexicon) -> None:
    bundled = load_lexicon("bundled")
    captions = []
    for name in ("docci500", "coco_ln500"):
        captions += json.loads((shared / "data" / name / "captions.json").read_text(encoding="utf-8")).values()
    same = sum(bundled.sentences(caption) == nltk_lexicon.sentences(caption) for caption in captions)
    assert same >= 0.99 * len(captions)
    nouns = {noun for caption in captions for noun in nltk_lexicon.nouns(caption.lower())}
    lemmas = sum(bundled.noun_lemma(noun) == nltk_lexicon.noun_lemma(noun) for noun in nouns)
    assert lemmas >= 0.98 * len(nouns)


def test_words_and_tags_are_nltks(shared, nltk_lexicon: Lexicon) -> None:
    from nltk import pos_tag, word_tokenize
    from nltk.stem import WordNetLemmatizer

    captions = json.loads((shared / "data/docci500/captions.json").read_text(encoding="utf-8")).values()
    lemma = WordNetLemmatizer().lemmatize
    for caption in [*captions][:60]:
        words = word_tokenize(caption)
        tagged = pos_tag(words)
        assert list(nltk_lexicon.tokens(caption)) == words
        assert nltk_lexicon._tagger.tags(words) == [tag for _, tag in tagged]
        assert nltk_lexicon.nouns(caption) == {lemma(word, "n") for word, tag in tagged if tag.startswith("NN")}


@settings(max_examples=max(300, settings.default.max_examples), deadline=None)
@given(text=st.text(max_size=80))
def test_any_text_is_answered(text: str) -> None:
    for name in ("bundled",) if missing_nltk_data() else ("bundled", "nltk"):
        lexicon = load_lexicon(name)
        assert all(sentence and sentence == sentence.strip() for sentence in lexicon.sentences(text))
        for answer in (lexicon.noun_lemma, lexicon.adjective_lemma, lexicon.lemma, lexicon.phrase_lemma):
            assert answer(text) == answer(text)
        lexicon.nouns(text), lexicon.synonyms(text), lexicon.head_lemma(text)


def test_ten_thousand_words_take_no_time(lexicon: Lexicon) -> None:
    import time

    start = time.process_time()
    assert len(lexicon.sentences("A dog sits on a bench. " * 2000)) == 2000
    assert lexicon.nouns("A dog sits on a bench. " * 2000) >= {"dog", "bench"}
    lexicon.sentences(". " * 10_000), lexicon.sentences("Mr. " * 10_000), lexicon.sentences('."' * 10_000)
    assert time.process_time() - start < 10


def test_absent_data_is_named_with_its_remedy(tmp_path) -> None:
    code = (
        "from sc_captioner.scene_graph import load_lexicon\n"
        "assert load_lexicon('auto').name == 'bundled'\n"
        "try:\n    load_lexicon('nltk')\n"
        "except LookupError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "NLTK_DATA": str(tmp_path), "HOME": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "wordnet" in result.stdout
    assert "nltk.downloader" in result.stdout
    assert "bundled" in result.stdout


def test_unknown_names_and_instances() -> None:
    with pytest.raises(ValueError, match="'bundled'"):
        load_lexicon("wordnet")  # type: ignore[arg-type]
    bundled = load_lexicon("bundled")
    assert load_lexicon(bundled) is bundled
    assert load_lexicon("bundled") is bundled
