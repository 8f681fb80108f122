"""The embedded world: pictures, captions, questions, gold graphs, grammar."""

from __future__ import annotations

import hashlib
import json
import random
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sc_captioner.data import (
    DatasetError,
    build_scenes,
    caption_graph,
    caption_sentences,
    grammar_errors,
    load_caption_dataset,
    scene_graph_of,
)
from sc_captioner.data.scene_captions import (
    COLORS,
    OPENERS,
    PLACES,
    SHAPES,
    SIZES,
    Description,
    Mention,
    caption_of,
    is_grammatical,
)
from sc_captioner.data.scene_errors import build_conversations, erroneous
from sc_captioner.data.scenes import (
    BORDERS,
    HELD_OUT,
    Scene,
    Thing,
    description_of,
    drawn,
    relation_holds,
    relation_questions,
    sampled_scenes,
)
from sc_captioner.scene_graph.graph import SceneGraph


@pytest.fixture(scope="module")
def dataset():
    return build_scenes(64, seed=3)


@st.composite
def descriptions(draw):
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=4, unique=True))
    things = tuple(
        Mention(s, draw(st.sampled_from([None, *SIZES])), draw(st.sampled_from([None, *COLORS]))) for s in shapes
    )
    ends = st.sampled_from(range(len(things)))
    relation = st.tuples(ends, st.sampled_from(sorted(PLACES)), ends).filter(lambda r: r[0] != r[2])
    relations = draw(st.lists(relation, max_size=4, unique=True)) if len(things) > 1 else []
    return Description(things, tuple(relations))


def _content(graph):
    return graph.objects, graph.attributes, graph.triples


# --- Pictures and rows -----------------------------------------------------------------------------------------------


def test_columns_and_types(dataset):
    row = dataset[0]
    assert list(row) == ["image", "prompt", "reference", "extra_objects", "extra_attributes", "questions", "scene"]
    assert row["image"].size == (84, 84) and row["image"].mode == "RGB"
    assert row["prompt"] == "Describe the picture."
    assert set(json.loads(row["scene"])) == {"things", "border", "shade", "shifts"}
    for row in dataset:
        scene = Scene.from_json(row["scene"])
        assert scene.to_json() == row["scene"]
        assert row["extra_objects"] == [thing.shape for thing in scene.things] + ["border"]
        annotated = {a["object"]: a["attributes"] for a in row["extra_attributes"]}
        assert annotated["border"] == ["thin", scene.border]
        for thing in scene.things:
            assert {thing.size, thing.color} < set(annotated[thing.shape])
        assert "border" not in row["reference"]


def test_equal_seeds_equal_datasets(dataset):
    again = build_scenes(64, seed=3)
    other = build_scenes(64, seed=4)
    for name in dataset.column_names:
        if name != "image":
            assert dataset[name] == again[name]
    assert all(np.array_equal(a, b) for a, b in zip(dataset["image"], again["image"]))
    assert dataset["scene"] != other["scene"]
    # A longer dataset of the same seed starts with the same rows.
    assert build_scenes(10, seed=3)["reference"] == dataset["reference"][:10]


def test_splits_never_share_a_scene_whatever_the_seeds():
    def things(split):
        return {scene.things for seed in range(3) for scene in sampled_scenes(600, seed, split)}

    train, test = things("train"), things("test")
    assert len(train) > 1700 and len(test) > 1700
    assert not train & test


def test_a_dataset_has_no_scene_twice_and_about_an_eighth_is_test():
    scenes = list(sampled_scenes(1000, 0))
    assert len({scene.things for scene in scenes}) == 1000
    rng = random.Random(0)
    from sc_captioner.data.scenes import _sampled_scene

    share = np.mean([_sampled_scene(rng).split == "test" for _ in range(8000)])
    assert abs(share - 1 / 8) < 0.015


def test_pictures_show_their_scene():
    """The colour in the middle of every cell, the count of painted pixels and the border, against the scene."""
    rgb = {"black": (25, 25, 25), "brown": (125, 75, 35), "green": (40, 160, 60)}
    rgb |= {"orange": (250, 130, 20), "purple": (140, 50, 170), "yellow": (245, 215, 40)}
    for scene in sampled_scenes(60, 9):
        pixels = np.asarray(drawn(scene)).astype(int)
        assert (pixels[0] == BORDERS[scene.border]).all() and (pixels[:, 83] == BORDERS[scene.border]).all()
        painted = {}
        for thing, (right, down) in zip(scene.things, scene.shifts):
            y, x = thing.row * 28 + 14 + down, thing.column * 28 + 14 + right
            assert np.abs(pixels[y, x] - rgb[thing.color]).max() < 16  # smoothing reaches the middle of small shapes
            cell = pixels[thing.row * 28 + 2 : thing.row * 28 + 26, thing.column * 28 + 2 : thing.column * 28 + 26]
            painted[thing.row, thing.column] = (np.abs(cell - scene.shade).sum(-1) > 60).sum()
            assert painted[thing.row, thing.column] > (120 if thing.size == "big" else 40)
            assert thing.size == "big" or painted[thing.row, thing.column] < 180
        for row in range(3):
            for column in range(3):
                if (row, column) not in painted:
                    assert (
                        pixels[row * 28 + 2 : row * 28 + 26, column * 28 + 2 : column * 28 + 26] == scene.shade
                    ).all()


@pytest.mark.parametrize("arguments", [(0, 0, "train"), (-3, 0, "test"), (5, 0, "validation")])
def test_bad_settings_are_named(arguments):
    with pytest.raises(ValueError, match=r"num_samples|split"):
        build_scenes(*arguments)


# --- Other worlds ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seed", "split", "digest"),
    [(0, "train", "01386443b3784b87"), (100, "train", "d071b493e07b7fd2"), (90_000, "test", "f15f4696cf7e1c62")],
)
def test_plain_scenes_are_what_they_were_before_there_were_other_worlds(seed, split, digest):
    found = hashlib.sha256()
    for row in build_scenes(40, seed, split):
        found.update(json.dumps([row["reference"], row["scene"], row["questions"]]).encode())
        found.update(row["image"].tobytes())
    assert found.hexdigest()[:16] == digest


def test_six_combinations_are_held_out_each_shape_and_colour_once():
    assert HELD_OUT["heart"] == "purple" and HELD_OUT["star"] == "black"
    assert set(HELD_OUT) == set(SHAPES) and set(HELD_OUT.values()) == set(COLORS)
    combinations = {
        (thing.shape, thing.color) for scene in sampled_scenes(600, 1, world="seen") for thing in scene.things
    }
    # All 36 but the held-out ones.
    assert combinations == {(s, c) for s in SHAPES for c in COLORS if HELD_OUT[s] != c}


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from(["train", "test"]))
def test_hard_scenes(seed, split):
    for scene in sampled_scenes(4, seed, split, "hard"):
        assert len(scene.things) in (5, 6) and scene.split == split
        assert len({thing.shape for thing in scene.things}) == len(scene.things)
        assert any(HELD_OUT[thing.shape] == thing.color for thing in scene.things)
        assert len(scene_graph_of(scene).relations) == len(scene.things) - 1
        assert Scene.from_json(scene.to_json()) == scene and 3 <= len(scene.marks) <= 6
        caption = caption_of(description_of(scene), random.Random(seed))
        assert is_grammatical(caption) and _content(caption_graph(caption)) == _content(scene_graph_of(scene))
        pixels = np.asarray(drawn(scene))
        for edge in (pixels[0], pixels[83], pixels[:, 0], pixels[:, 83]):
            assert (edge == BORDERS[scene.border]).all()  # nothing is drawn over it


def test_things_of_hard_scenes_reach_into_neighbouring_cells_and_marks_show():
    reaching = 0
    for scene in sampled_scenes(80, 5, world="hard"):
        pixels = np.asarray(drawn(scene)).astype(int)
        reaching += any(
            abs(shift) + {"small": 6, "big": 11}[thing.size] > 14
            for thing, shifts in zip(scene.things, scene.shifts)
            for shift in shifts
        )
        bare = np.asarray(drawn(replace(scene, marks=()))).astype(int)
        changed = np.abs(pixels - bare).sum(-1) > 0
        assert changed.any() and changed.sum() <= 8 * len(scene.marks)
    assert reaching > 40


def test_worlds_are_asked_for_by_name():
    hard = load_caption_dataset("scenes", split="test", config="hard", num_samples=6, seed=2)
    assert hard["scene"] == build_scenes(6, 2, "test", "hard")["scene"]
    assert hard.column_names == build_scenes(1).column_names
    assert hard["scene"] != load_caption_dataset("scenes", split="test", config="seen", num_samples=6, seed=2)["scene"]
    with pytest.raises(DatasetError, match="no world 'soft'; choose one of plain, seen, hard"):
        load_caption_dataset("scenes", config="soft", num_samples=6)
    firsts = build_conversations(40, 2, world="seen", two_turn=1.0)
    assert firsts["reference"] != build_conversations(40, 2, two_turn=1.0)["reference"]


# --- Captions and graphs ---------------------------------------------------------------------------------------------

SCENE = Scene(
    things=(
        Thing("star", "black", "big", 0, 1),
        Thing("heart", "green", "small", 0, 2),
        Thing("circle", "orange", "big", 2, 0),
    ),
    border="gray",
    shade=240,
    shifts=((0, 0), (0, 0), (0, 0)),
)


def test_what_the_reference_says_of_a_scene():
    graph = scene_graph_of(SCENE)
    assert graph.to_facts() == (
        "( star , is , big ) , ( star , is , black ) , ( heart , is , green ) , ( heart , is , small ) , "
        "( circle , is , big ) , ( circle , is , orange ) , ( star , to left of , heart ) , ( circle , below , heart )"
    )


@pytest.mark.parametrize(
    ("caption", "facts"),
    [
        (
            "A small red circle is above the star.".replace("red", "green"),
            "( circle , is , green ) , ( circle , is , small ) , ( circle , above , star )",
        ),
        (
            "To the right of the heart there is a big orange square.",
            "( square , is , big ) , ( square , is , orange ) , ( square , to right of , heart )",
        ),
        (
            "The picture shows a star, a small heart and an orange diamond.",
            "( heart , is , small ) , ( diamond , is , orange ) , ( star )",
        ),
        (
            "The heart is small and green, and the star is to the left of the heart.",
            "( heart , is , green ) , ( heart , is , small ) , ( star , to left of , heart )",
        ),
        (
            "In the picture there is a big star below a heart.",
            "( star , is , big ) , ( star , below , heart )",
        ),
        (
            "Below the star is a circle and a heart.",
            "( circle , below , star ) , ( heart , below , star )",
        ),
    ],
)
def test_gold_graphs_by_hand(caption, facts):
    assert not grammar_errors(caption)
    assert _content(caption_graph(caption)) == _content(SceneGraph.from_facts(facts))


@settings(max_examples=400, deadline=None)
@given(descriptions(), st.integers(0, 2**32))
def test_every_caption_is_grammatical_and_says_its_description(description, seed):
    caption = caption_of(description, random.Random(seed))
    assert grammar_errors(caption) == []
    assert _content(caption_graph(caption)) == _content(description.graph())


def test_wording_varies():
    captions = {caption_of(description_of(SCENE), random.Random(seed)) for seed in range(200)}
    assert len(captions) > 40
    assert len({_content(caption_graph(c))[2] for c in captions}) == 1
    assert {opener for opener in OPENERS if any(opener in c for c in captions)} == set(OPENERS)


def test_sentences_for_parsers_are_seeded_and_written_as_facts():
    pairs = caption_sentences(500, seed=1)
    assert pairs == caption_sentences(500, seed=1) != caption_sentences(500, seed=2)
    assert len({sentence for sentence, _ in pairs}) > 700
    for sentence, graph in pairs:
        assert is_grammatical(sentence)
        assert _content(SceneGraph.from_facts(graph.to_facts())) == _content(graph)
    assert {p for _, graph in pairs for _, p, _ in graph.triples} == set(PLACES)


# --- Grammar ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "   ",
        "A small green circle.",  # fragment
        "Small green circle is above the star.",  # article
        "There is small circle.",
        "The circle is above star.",
        "Is above the star.",  # subject
        "There is a circle and is below the star.",
        "The circle above the star.",  # verb
        "The circle is above.",  # object
        "The circle is to left of the star.",
        "The circle is the star.",
        "The the circle is above the star.",  # repeated
        "The circle is green green.",
        "A orange star is above a circle.",  # a / an
        "An big star is above a circle.",
        "The circle is above the star",  # no full stop
        "the circle is above the star.",  # no capital
        "The Circle is above the star.",
        "The circle is above the dog.",  # unknown word
        "There is a green small star.",  # order of adjectives
        "There is a circle, and.",
        "The circle is small and.",
        "There is a circle a star.",
        "The circle is above the star. There is",
        "circle star heart",
        "🙂",
    ],
)
def test_broken_grammar_is_caught(broken):
    assert grammar_errors(broken)
    assert not is_grammatical(broken)


@settings(max_examples=300, deadline=None)
@given(descriptions(), st.integers(0, 2**32), st.data())
def test_dropping_a_needed_word_is_caught(description, seed, data):
    """Without an article, a shape, an `is` or the last full stop no caption of the language is left."""
    caption = caption_of(description, random.Random(seed))
    spots = [m.span() for m in re.finditer(rf"\b(?:[Aa]n?|[Tt]he|is|{'|'.join(SHAPES)})\b|\.$", caption)]
    start, end = data.draw(st.sampled_from(spots))
    assert grammar_errors((caption[:start] + caption[end:]).replace("  ", " ").strip())


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80))
def test_any_text_is_judged(text):
    assert isinstance(grammar_errors(text), list)


def test_long_texts_are_judged_in_bounded_time():
    assert grammar_errors("There is a circle, " * 2000)
    assert grammar_errors("the circle and " * 3000)
    assert not grammar_errors("There is a circle. " * 2000)


def test_reading_what_is_not_of_the_language_fails_by_name():
    with pytest.raises(ValueError, match="expected"):
        caption_graph("The circle is above.")


# --- Questions -------------------------------------------------------------------------------------------------------


def test_questions_agree_with_the_scene(dataset):
    pattern = re.compile(r"Is the (\w+) (above|below|to the left of|to the right of) the (\w+)\?")
    predicates = {phrase: predicate for predicate, phrase in PLACES.items()}
    answers = []
    for row in dataset:
        things = {thing.shape: thing for thing in Scene.from_json(row["scene"]).things}
        assert len(row["questions"]) == 5 == len({q["question"] for q in row["questions"]})
        for question in row["questions"]:
            subject, phrase, other = pattern.fullmatch(question["question"]).groups()
            present = subject in things and other in things
            true = present and relation_holds(things[subject], predicates[phrase], things[other])
            assert question["answer"] == ("yes" if true else "no")
            answers.append(question["answer"])
    assert 0.35 < answers.count("yes") / len(answers) < 0.65


def test_relation_holds_by_hand():
    star, heart, circle = SCENE.things
    assert relation_holds(star, "to left of", heart) and not relation_holds(star, "to right of", heart)
    assert relation_holds(circle, "below", star) and relation_holds(star, "above", circle)
    assert not relation_holds(star, "above", heart) and not relation_holds(star, "below", heart)


def test_reference_answers_its_questions():
    """Every question about two named things is about a pair that the reference relates."""
    for scene in sampled_scenes(200, 1):
        related = {frozenset((s, o)) for s, _, o in scene_graph_of(scene).triples}
        shapes = {thing.shape for thing in scene.things}
        for question in relation_questions(scene, random.Random(0)):
            pair = frozenset(re.findall("|".join(SHAPES), question["question"]))
            assert pair in related or not pair <= shapes


# --- Errors of a captioner -------------------------------------------------------------------------------------------


def test_habits_by_hand():
    always = erroneous(description_of(SCENE), random.Random(0), strength=1.0)
    assert always.things == (
        Mention("star", "big", "black"),
        Mention("heart", None, "green"),
        Mention("circle", None, "yellow"),
    )
    # The circle is below the heart; `to left of` is not turned.
    assert always.relations == ((0, "to left of", 1), (2, "above", 1))
    assert erroneous(description_of(SCENE), random.Random(0), strength=0.0) == description_of(SCENE)

    four = Description(
        (Mention("square", "big", "brown"), *(Mention(s, "small", "green") for s in ("star", "heart", "diamond"))),
        ((0, "above", 1), (2, "to right of", 1), (3, "below", 2)),
    )
    assert erroneous(four, random.Random(0), strength=1.0) == Description(
        (
            Mention("square", "big", "black"),
            Mention("star", None, "green"),
            Mention("heart", None, "green"),
            Mention("circle", "big", "black"),
        ),
        ((0, "below", 1), (2, "to left of", 1)),
    )


def test_a_right_caption_is_rarely_twice_as_long_as_an_erroneous_one():
    rng = random.Random(0)
    truths = [description_of(scene) for scene in sampled_scenes(500, 2)]
    ratios = [len(caption_of(truth, rng)) / len(caption_of(erroneous(truth, rng), rng)) for truth in truths]
    assert np.mean(np.array(ratios) > 2) < 0.1  # nearly all of them a matter of wording


def test_conversations():
    rows = build_conversations(300, seed=2, two_turn=0.6, errors=True)
    assert rows["reference"] == build_conversations(300, seed=2, two_turn=0.6, errors=True)["reference"]
    firsts = [first for first in rows["first_caption"] if first]
    assert 150 < len(firsts) < 210
    assert all(is_grammatical(caption) for caption in [*firsts, *rows["reference"]])
    clean = build_conversations(100, seed=2, two_turn=1.0)
    assert all(
        _content(caption_graph(a)) == _content(caption_graph(b))
        for a, b in zip(clean["first_caption"], clean["reference"])
    )
    with pytest.raises(ValueError, match="two_turn"):
        build_conversations(5, two_turn=1.5)
