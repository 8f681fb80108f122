"""Relation QA: hand-worked scores, the reading of answers, the judge that compares graphs, the evaluate module."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sc_captioner.data.scene_captions import caption_graph, split_sentences
from sc_captioner.data.scenes import build_scenes
from sc_captioner.judges import Judge, judged, load_judge
from sc_captioner.judges.graph_matching import GraphJudge
from sc_captioner.judges.predicates import Predicate
from sc_captioner.judges.statements import Statement, segments_with_regions
from sc_captioner.metrics.relation_qa import Question, questions_of, relation_qa, yes_or_no
from sc_captioner.scene_graph import SceneGraph, StoredParser, load_lexicon


# --- Score -----------------------------------------------------------------------------------------------------------


def test_scores_worked_by_hand():
    questions = questions_of(
        [
            {"Is a on b?": "Yes", "Is b on a?": "No", "What?": "The sofa"},
            [{"question": "Is c on d?", "answer": "yes"}, {"question": "Is d on c?", "answer": "no"}],
            [{"question": "Is e on f?", "answer": "yes"}],
            None,
        ]
    )
    answers = [["Yes.", "yes", "no"], ["maybe", "**No**"], [None], []]
    result = relation_qa(questions, answers)
    assert result.corpus == {
        "relation_qa": 0.5,  # right: a on b, d on c; wrong: b on a, c on d (no answer can be read)
        "relation_qa_yes": 0.5,
        "relation_qa_no": 0.5,
        "num_questions": 4,
        "questions_skipped": 1,
        "answers_missing": 1,
        "answers_unparsable": 1,
    }
    half = {"relation_qa": 0.5, "num_questions": 2}
    assert result.per_sample == [half, half, None, None]
    assert result.skipped == 2
    assert result.answers == [[True, True, False], [None, False], [None], []]
    assert json.loads(json.dumps(result.to_dict()))["skipped"] == 2


def test_nothing_to_score_is_zero_and_counted():
    result = relation_qa([], [])
    assert result.score == 0.0 and result.corpus["num_questions"] == 0
    assert relation_qa([[]], [[]]).skipped == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("yes", True),
        ("No.", False),
        (" **Yes**, the cat is.", True),
        ("TRUE", True),
        ("false", False),
        ('{"answer": "no"}', False),
        ("The cat is on the mat, so the answer is yes.", True),
        ("Yes, one might think. But it is left of it. Answer: No", False),
        ("<think>yes yes yes</think>\nNo", False),
        ("<think>The caption says yes", None),
        ("yes or no", None),
        ("Yes and no.", None),
        ("Answer: yes or no", None),
        ("There is no dog in the caption.", None),
        ("I don't know", None),
        ("Nothing", None),
        ("Yesterday", None),
        ("not mentioned", None),
        ("", None),
    ],
)
def test_reading_of_free_text(text, expected):
    assert yes_or_no(text) is expected


@given(st.text())
def test_any_text_is_read(text):
    assert yes_or_no(text) in (True, False, None)


def test_all_forms_of_questions_are_equal():
    expected = [[Question("Is a on b?", True), Question("Is b on a?", False)]]
    assert questions_of([{"Is a on b?": "Yes", "Is b on a?": "no."}]) == expected
    assert questions_of([{"question": ["Is a on b?", "Is b on a?"], "answer": ["yes", "No"]}]) == expected
    entries = [{"question": " Is a on b? ", "answer": True}, {"question": "Is b on a?", "answer": "NO"}]
    assert questions_of([entries]) == expected
    assert questions_of([{"Is a on b?": "Yes", "Is b on a?": "No", "Of another row?": None}]) == expected


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ([{}, "Is it?"], "Sample 1 must hold a list"),
        ([[{"question": "Is it?", "answer": "yes"}, {"question": "Is it?"}]], "Sample 0, question 1 must be"),
        ([[{"question": "", "answer": "yes"}]], "Sample 0, question 0 is no text"),
        ([[{"question": "Is it?", "answer": None}]], "Sample 0, question 0 .* no annotated answer but None"),
        ([{"Is it?": 1}], "no annotated answer but 1"),
        ([{"question": ["Is it?"], "answer": []}], "Sample 0 has 1 questions, but 0"),
        ({"id": {"Is it?": "Yes"}}, "one entry per sample"),
        ("Is it?", "one entry per sample"),
    ],
)
def test_malformed_questions_name_the_sample(annotations, message):
    with pytest.raises(ValueError, match=message):
        questions_of(annotations)


def test_answers_that_do_not_fit_name_the_sample():
    questions = questions_of([{"Is it?": "Yes"}, {"Is it?": "Yes"}])
    with pytest.raises(ValueError, match="Sample 1 has 1 questions, but 2 answers"):
        relation_qa(questions, [["yes"], ["yes", "no"]])
    with pytest.raises(ValueError, match="2 samples have questions, but 1"):
        relation_qa(questions, [["yes"]])


def test_published_questions_load_as_they_are(shared):
    counts = {}
    for name in ("docci500", "coco_ln500"):
        text = (shared / "data" / name / "relation_questions.json").read_text(encoding="utf-8")
        questions = [q for sample in questions_of(list(json.loads(text).values())) for q in sample]
        counts[name] = [sum(q.answer is answer for q in questions) for answer in (True, False, None)]
    # Counted over the files by hand: "Yes", "No", and sentences such as "The sofa".
    assert counts == {"docci500": [2269, 211, 1], "coco_ln500": [2357, 102, 3]}


# --- Any judge -------------------------------------------------------------------------------------------------------


class YesJudge:
    """Says yes to everything and remembers what it was asked."""

    name = "yes"

    def __init__(self):
        self.asked = []

    def answers(self, captions, questions):
        self.asked += [(c, q) for c, sample in zip(captions, questions) for q in sample]
        return [["yes"] * len(sample) for sample in questions]


def test_judges_are_asked_only_what_can_be_scored():
    judge = YesJudge()
    questions = questions_of([{"Is a on b?": "No", "Where?": "Foreground", "Is b on a?": "Yes"}])
    result = judged(judge, ["A b is on an a."], questions)
    assert isinstance(judge, Judge)
    assert [question for _, question in judge.asked] == ["Is a on b?", "Is b on a?"]
    assert result.score == 0.5 and result.answers == [[True, None, True]]


def test_captions_that_do_not_fit_name_the_sample():
    questions = questions_of([{"Is it?": "Yes"}] * 2)
    with pytest.raises(ValueError, match="Sample 1: the caption is no string but NoneType"):
        judged(YesJudge(), ["a", None], questions)
    with pytest.raises(ValueError, match="1 captions, but 2 samples"):
        judged(YesJudge(), ["a"], questions)


def test_loading_judges_by_name():
    judge = YesJudge()
    assert load_judge(judge) is judge
    for name, options, error, message in (
        (judge, {"model": "m"}, ValueError, "already built"),
        (3, {}, ValueError, "has a name and a method"),
        ("grpah", {}, ValueError, "Unknown judge 'grpah'"),
        ("openai", {}, ValueError, "needs the option model"),
        ("graph", {"modle": "m"}, TypeError, "has no option 'modle'; it has parser, lexicon"),
    ):
        with pytest.raises(error, match=message):
            load_judge(name, **options)


# --- Graphs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "phrase", "regions"),
    [
        ("Is the star above the heart?", "The star above the heart.", set()),
        ("Is the tire on the left side of the image?", "The tire.", {"left"}),
        ("Are there people sitting near the path in the image?", "People sitting near the path.", set()),
        ("Can boats be seen in the background?", "Boats.", {"background"}),
        ("Is the bush on the left side of the tree?", "The bush on the left side of the tree.", set()),
        ("Is the sky visible at the top right corner of the picture?", "The sky.", {"top", "right"}),
        ("Is the tub to the right of the bench?", "The tub to the right of the bench.", set()),
        ("Is it?", "It.", set()),
        ("?", "", set()),
    ],
)
def test_questions_become_phrases(question, phrase, regions):
    assert Statement.of(question) == Statement(phrase, frozenset(regions))


def test_places_in_the_picture_hold_until_the_next_one():
    sentence = "In the background there is a house, a wall, and on the left side of the image a tree"
    places = [(part.split()[-1], set(regions)) for part, regions in segments_with_regions(sentence)]
    assert places == [("house", {"background"}), ("wall", {"background"}), ("tree", {"left"})]


@pytest.mark.parametrize("name", ["nltk", "bundled"])
def test_predicates_state_turn_and_deny(name, shared):
    lexicon = load_lexicon(name)
    left, right, sit, under, hold, behind = (
        Predicate.read(text, lexicon)
        for text in ("to left of", "to right of", "sit on", "under", "hold", "stand behind")
    )
    assert left.is_turned_in(right, lexicon) and not left.is_stated_by(right, lexicon)
    assert left.is_denied_by(right) and left.is_denied_by(left, turned=True) and not left.is_denied_by(left)
    assert sit.is_stated_by(Predicate.read("on top of", lexicon), lexicon)
    assert not sit.is_stated_by(Predicate.read("stand on", lexicon), lexicon)
    assert under.is_turned_in(sit, lexicon)
    assert behind.is_turned_in(Predicate.read("in front of", lexicon), lexicon)
    assert hold.is_stated_by(Predicate.read("holding", lexicon), lexicon)
    assert not hold.is_stated_by(sit, lexicon)


def scene_parser(captions, questions):
    """Gold graphs of captions in the scenes' language and of the phrases of questions about them."""
    graphs = {s: caption_graph(s) for caption in captions for s in split_sentences(caption)}
    for question in questions:
        phrase = Statement.of(question).phrase
        words = phrase.rstrip(".").split()  # The star to the left of the heart.
        graphs[phrase] = caption_graph(" ".join([*words[:2], "is", *words[2:]]) + ".")
    return StoredParser(graphs)


def test_graph_judge_answers_scenes_from_their_references():
    scenes = build_scenes(200, seed=11, split="test")
    captions = scenes["reference"]
    parser = scene_parser(captions, [q["question"] for sample in scenes["questions"] for q in sample])
    judge = GraphJudge(parser, "bundled")
    questions = questions_of(scenes["questions"])
    own = judged(judge, captions, questions)
    assert own.score == 1.0 and own.corpus["num_questions"] == sum(map(len, scenes["questions"]))
    # Captions of other scenes answer hardly any yes; empty ones answer nothing but no.
    foreign = judged(judge, captions[1:] + captions[:1], questions)
    assert foreign.corpus["relation_qa_yes"] < 0.2
    empty = judged(judge, [""] * len(captions), questions)
    assert empty.corpus["relation_qa_yes"] == 0.0 and empty.corpus["relation_qa_no"] == 1.0
    assert judged(judge, captions, questions) == own


def test_graph_judge_reads_scenes_with_the_shipped_parser():
    scenes = build_scenes(200, seed=12, split="test")
    own = judged(load_judge("graph"), scenes["reference"], questions_of(scenes["questions"]))
    assert own.score >= 0.95


def graph_answer(caption_facts, question, question_facts, caption="The caption."):
    parser = StoredParser(
        {
            caption: SceneGraph.from_facts(caption_facts),
            Statement.of(question).phrase: SceneGraph.from_facts(question_facts),
        }
    )
    return GraphJudge(parser, "bundled").answers([caption], [[question]])[0][0]


@pytest.mark.parametrize(
    ("caption_facts", "question_facts", "expected"),
    [
        ("( cats , sit on , sofa )", "( cat , sit on , couch )", "yes"),  # lemma and synonym
        ("( cats , sit on , sofa )", "( sofa , under , cat )", "yes"),
        ("( cat , to left of , dog )", "( cat , to right of , dog )", "no"),
        ("( cat , to left of , dog )", "( dog , to right of , cat )", "yes"),
        ("( cat , to left of , dog )", "( cat , near , dog )", "yes"),
        ("( man , wear , hat )", "( person , wear , hat )", "yes"),
        ("( person , wear , hat )", "( man , wear , hat )", "no"),
        ("( cat , sit on , sofa )", "( cat , stand on , sofa )", "no"),
        ("( cat , sit on , sofa ) , ( dog )", "( dog , sit on , sofa )", "no"),
        ("( table cloth , is , green )", "( tablecloth , is , green )", "yes"),
        ("( cat , have , collar )", "( collar , of , cat )", "yes"),
        # Half of what is stated is enough, unless the caption says the opposite of the rest.
        ("( cat , on , sofa )", "( cat , on , sofa ) , ( sofa , behind , lamp )", "yes"),
        (
            "( cat , on , sofa ) , ( sofa , in front of , lamp )",
            "( cat , on , sofa ) , ( sofa , behind , lamp )",
            "no",
        ),
        ("( cat )", "", "no"),
    ],
)
def test_graph_judge_worked_by_hand(caption_facts, question_facts, expected):
    assert graph_answer(caption_facts, "Is the thing as asked?", question_facts) == expected


def test_graph_judge_finds_places_in_the_text():
    caption = "On the left there is a car, and on the right a red tree."
    for question, thing, expected in (
        ("Is the car on the left side of the image?", "car", "yes"),
        ("Is the tree on the left side of the image?", "tree", "no"),
        ("Are the trees on the right?", "trees", "yes"),
        ("Is the tree on the bottom right of the image?", "tree", "no"),
    ):
        assert graph_answer("( car ) , ( tree )", question, f"( {thing} )", caption) == expected


def test_graph_judge_tells_own_from_foreign_captions(shared):
    """On real captions and questions: far more yes from an image's own caption than from another image's."""
    judge = load_judge("graph")
    for name, least in (("docci500", 0.3), ("coco_ln500", 0.5)):
        captions = json.loads((shared / "data" / name / "captions.json").read_text(encoding="utf-8"))
        annotated = json.loads((shared / "data" / name / "relation_questions.json").read_text(encoding="utf-8"))
        ids = sorted(captions)[:150]
        questions = questions_of([annotated[key] for key in ids])
        own = judged(judge, [captions[key] for key in ids], questions)
        foreign = judged(judge, [captions[key] for key in ids[1:] + ids[:1]], questions)
        assert own.corpus["relation_qa_yes"] > least
        assert foreign.corpus["relation_qa_yes"] < 0.12
        # Yes where it should be, less often where the annotation is no.
        assert own.corpus["relation_qa_yes"] > 1 - own.corpus["relation_qa_no"]


@pytest.mark.parametrize(
    "caption", ["", " ", "\x00\x07", "🐈 on a 🛋️", "猫在沙发上。", "a " * 10_000, "(((", "In the background", "\ud800"]
)
def test_graph_judge_takes_any_text(caption):
    answers = load_judge("graph").answers([caption], [["Is the cat on the sofa?", "?", "猫?", "Is it on the left?"]])
    assert all(answer in ("yes", "no") for answer in answers[0])


# --- The evaluate module ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def metric(repository):
    import evaluate

    return evaluate.load(str(repository / "metrics" / "relation_qa"))


def test_module_passes_its_own_cases(repository):
    folder = repository / "metrics" / "relation_qa"
    spec = importlib.util.spec_from_file_location("relation_qa_cases", folder / "tests.py")
    cases = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cases)
    cases.run(str(folder))


def test_module_takes_annotations_by_image_id(metric, shared):
    captions = json.loads((shared / "data" / "docci500" / "captions.json").read_text(encoding="utf-8"))
    questions = json.loads((shared / "data" / "docci500" / "relation_questions.json").read_text(encoding="utf-8"))
    some = {key: captions[key] for key in sorted(captions)[:20]}
    by_id = metric.compute(predictions=some, questions=questions, judge=YesJudge())
    as_lists = metric.compute(
        predictions=list(some.values()), questions=[questions[key] for key in some], judge=YesJudge(), per_sample=False
    )
    yes = sum(answer == "Yes" for key in some for answer in questions[key].values())
    assert by_id["relation_qa"] == as_lists["relation_qa"] == yes / by_id["num_questions"]
    assert by_id["judge"] == "yes" and "per_sample" not in as_lists
    assert [len(values) for values in by_id["per_sample"].values()] == [20, 20, 20]


def test_module_takes_the_column_of_scenes_in_batches(metric):
    scenes = build_scenes(4, seed=1)
    for start in (0, 2):
        metric.add_batch(
            predictions=scenes["reference"][start : start + 2], questions=scenes["questions"][start : start + 2]
        )
    result = metric.compute(judge=YesJudge())
    answers = [q["answer"] for sample in scenes["questions"] for q in sample]
    assert result["relation_qa"] == answers.count("yes") / len(answers)


def test_module_names_the_sample(metric):
    question = {"Is it?": "Yes"}
    for options, message in (
        ({"predictions": ["a", 3], "questions": [question] * 2}, "Sample 1: predictions holds no text but int"),
        ({"predictions": ["a"], "questions": [question] * 2}, "1 predictions, but 2"),
        ({"predictions": ["a", "b"], "questions": [question, {"Is it?": 1}]}, "Sample 1, question 0"),
        ({"predictions": {"x": "a"}, "questions": {"y": question}}, "the first is 'x'"),
        ({"predictions": {"x": "a"}, "questions": [question]}, "both be lists, or both dicts"),
        ({"predictions": ["a"]}, "Inputs are missing: questions"),
        ({"predictions": ["a"], "questions": [question], "juge": "graph"}, "no option 'juge'"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            metric.compute(**options)
    assert metric.compute(predictions=["a"], questions=[question], judge=YesJudge())["relation_qa"] == 1.0


def test_module_loads_offline_from_another_directory(repository, tmp_path):
    code = (
        "import evaluate\n"
        f"metric = evaluate.load({str(repository / 'metrics' / 'relation_qa')!r})\n"
        "print(metric.compute(predictions=[''], questions=[{'Is the cat on the sofa?': 'No'}])['relation_qa'])\n"
    )
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "home"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(repository / "src"), os.environ.get("PYTHONPATH")])),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "1.0"


def test_card_is_a_spaces_card(repository):
    import yaml

    folder = repository / "metrics" / "relation_qa"
    front = yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert front["sdk"] == "gradio" and front["app_file"] == "app.py" and {"evaluate", "metric"} <= set(front["tags"])
    assert all((folder / name).is_file() for name in (front["app_file"], "requirements.txt", Path("relation_qa.py")))
