"""recipes/evaluate.py and compare.py: forms of predictions, annotation files, scores of both turns, comparisons."""

from __future__ import annotations

import json
import random
import runpy
import sys
from pathlib import Path

import evaluate
import pyarrow.parquet
import pytest
from datasets import Dataset
from PIL import Image

from sc_captioner.data import DatasetError
from sc_captioner.data.annotations import Annotations
from sc_captioner.data.predictions import load_predictions
from sc_captioner.evaluation import TurnScores, compare, load_run, score_table
from sc_captioner.evaluation.comparison import Run


ROOT = Path(__file__).parents[1]

ROWS = [
    ("A black cat.", "A black cat sleeps on a sofa.", "A black cat is sleeping on a red sofa."),
    ("A dog runs on a lawn.", "A brown dog runs on a green lawn.", "A brown dog runs on a lawn under a tree."),
    ("Two cups on a table.", "Two cups on a table.", "Two white cups stand on a wooden table next to a spoon."),
    ("A red car and a bicycle.", "A red car on a street.", "A red car is parked on a street near a tall building."),
]


@pytest.fixture
def released(tmp_path: Path) -> Path:
    path = tmp_path / "generated_predictions.jsonl"
    lines = [
        {"prompt": "<image>Describe this image.", "label": label, "predict": first, "predict_turn2": second}
        for first, second, label in ROWS
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def annotation_folder(folder: Path) -> Path:
    folder.mkdir()
    labels = [label for *_, label in ROWS]
    (folder / "captions.json").write_text(json.dumps({f"image{i}": label for i, label in enumerate(labels)}))
    # In another order, as the published files are.
    lines = [{f"image{i}": objects} for i, objects in [(2, ["saucer"]), (0, ["window"]), (1, []), (3, ["bicycle"])]]
    (folder / "objects.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "attributes.json").write_text(json.dumps({"image0": {"cat": ["black"], "sofa": ["red", "soft"]}}))
    questions = {
        "image0": {"Is the cat sleeping on the sofa?": "Yes", "Is the sofa on the cat?": "No"},
        "image3": {"Is the car on the street?": "Yes"},
    }
    (folder / "relation_questions.json").write_text(json.dumps(questions))
    return folder


def run(recipe: str, monkeypatch, capsys, *arguments: object, code: int = 0) -> str:
    monkeypatch.setattr(sys, "argv", [f"recipes/{recipe}.py", *map(str, arguments)])
    found = 0
    try:
        runpy.run_path(str(ROOT / f"recipes/{recipe}.py"), run_name="__main__")
    except SystemExit as exit_:
        found = exit_.code
    told = capsys.readouterr()
    assert found == code, told.err[-3000:]
    return told.out + told.err


# --- Predictions -----------------------------------------------------------------------------------------------------


def test_forms_of_predictions_are_equal(released, tmp_path):
    expected = load_predictions(str(released))
    assert [(row["predict"], row["predict_turn2"], row["label"]) for row in expected] == ROWS
    ours = [{"first_caption": a, "second_caption": b, "reference": c} for a, b, c in ROWS]
    image = Image.new("RGB", (8, 8))
    forms = {
        "ours.jsonl": ours,
        "list.json": ours,
        "named.jsonl": [{"a": a, "b": b, "reference": c} for a, b, c in ROWS],
    }
    columns = {"named.jsonl": {"predict": "a", "predict_turn2": "b"}}
    for name, rows in forms.items():
        lines = json.dumps(rows) if name == "list.json" else "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / name).write_text(lines)
    # As on the Hub: Parquet with images, which nothing here needs.
    (tmp_path / "hub").mkdir()
    Dataset.from_list([{**row, "image": image} for row in ours]).to_parquet(tmp_path / "hub/test.parquet")
    for name in (*forms, "hub"):
        rows = load_predictions(str(tmp_path / name), split="test", columns=columns.get(name))
        found = [{key: row[key] for key in ("label", "predict", "predict_turn2")} for row in rows]
        assert found == [{key: row[key] for key in found[0]} for row in expected], name
    assert len(load_predictions(str(released), num_samples=2)) == 2


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"predict": "A cat.", "label": "A cat."}', '{"label": "A cat."}'], "row 1: no column 'predict'"),
        (['{"predict": "A cat.", "label": 3}'], "row 0: column 'label' holds no text but int"),
        (['{"predict": "A cat."', ""], "line 1, is no JSON"),
        (['["A cat."'], "is no JSON"),
        (['"A cat."'], "line 1: a JSON object is needed"),
        ([], "hold no row"),
        (['{"answer": "A cat."}'], "no column 'predict' or 'first_caption'"),
    ],
)
def test_bad_predictions_are_named(tmp_path, lines, message):
    path = tmp_path / "predictions.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(DatasetError, match=message):
        load_predictions(str(path))


def test_half_a_surrogate_pair_is_read(tmp_path):
    path = tmp_path / "predictions.jsonl"
    path.write_text('{"predict": "A cat \\ud83d", "label": "A cat."}\n')
    assert load_predictions(str(path))[0]["predict"] == "A cat ?"


# --- Annotations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["docci500", "coco_ln500"])
def test_published_annotations_load_as_they_are(shared, name):
    annotations = Annotations.load(shared / "data" / name)
    images = set(annotations.captions)
    assert len(images) == 500
    assert images == set(annotations.objects) == set(annotations.attributes) == set(annotations.questions)
    order = list(annotations.captions.items())
    random.Random(0).shuffle(order)
    # As in the released predictions, labels alone say which image it is; blanks may differ.
    rows = annotations.added_to([{"label": f" {caption}\n", "predict": ""} for _, caption in order])
    assert [row["id"] for row in rows] == [image for image, _ in order]
    assert all(row["extra_objects"] == annotations.objects[row["id"]] for row in rows)
    assert all(row["questions"] == annotations.questions[row["id"]] for row in rows)


def test_predictions_find_their_image_by_id(tmp_path):
    annotations = Annotations.load(annotation_folder(tmp_path / "annotations"))
    rows = annotations.added_to([{"id": "image3", "predict": "A car."}, {"id": "image0", "predict": "A cat."}])
    assert [row["label"] for row in rows] == [ROWS[3][2], ROWS[0][2]]
    assert rows[0]["extra_objects"] == ["bicycle"] and "extra_attributes" not in rows[0]
    assert [row["id"] for row in annotations.rows()] == ["image0", "image1", "image2", "image3"]
    with pytest.raises(DatasetError, match="row 1: its label is not in captions.json"):
        annotations.added_to([{"label": ROWS[0][2]}, {"label": "Something else."}])
    with pytest.raises(DatasetError, match="row 0: the id 'x' is not in captions.json"):
        annotations.added_to([{"id": "x"}])


def test_bad_annotations_are_named(tmp_path):
    with pytest.raises(DatasetError, match="no captions.json"):
        Annotations.load(tmp_path)
    folder = annotation_folder(tmp_path / "annotations")
    (folder / "objects.jsonl").write_text('{"image0": ["cat"]}\n{"image1": "dog"}\n')
    with pytest.raises(DatasetError, match="objects.jsonl: image 'image1' has str where list is needed"):
        Annotations.load(folder)
    (folder / "objects.jsonl").write_text('{"image0": ["cat"]}\n{"image1"\n')
    with pytest.raises(DatasetError, match="objects.jsonl, line 2, is no JSON"):
        Annotations.load(folder)


# --- The recipes -----------------------------------------------------------------------------------------------------


def test_released_predictions_are_scored_with_annotations(released, tmp_path, monkeypatch, capsys):
    annotations = annotation_folder(tmp_path / "annotations")
    output = tmp_path / "scores"
    told = run(
        "evaluate", monkeypatch, capsys,
        "--predictions", released, "--annotations", annotations, "--output_dir", output, "--lexicon", "bundled",
    )  # fmt: skip
    results = json.loads((output / "results.json").read_text())
    names = {"objects_f1", "attributes_f1", "relations_f1", "mean_f1", "n", "standard_errors", "intervals"}
    assert names <= results["first"].keys() and results["second"]["n"] == 4
    assert results["second"]["num_questions"] == 3
    assert results["first"]["made_with"]["judge"] == "graph/compact"
    assert results["second_minus_first"]["refined_object_recall"]["mean"] > 0
    assert results["correction"]["unchanged_share"] == 0.25 and results["correction"]["objects_added_right"] >= 2
    low, high = results["second"]["intervals"]["capture"]
    assert low <= results["second"]["capture"] <= high

    # The evaluate module says the same of the same captions.
    module = evaluate.load(str(ROOT / "metrics/refined_capture"))
    files = Annotations.load(annotations)
    images = list(files.captions)
    expected = module.compute(
        predictions=[second for _, second, _ in ROWS],
        references=[label for *_, label in ROWS],
        extra_objects=[files.objects.get(image) for image in images],
        extra_attributes=[files.attributes.get(image) for image in images],
        lexicon="bundled",
    )
    assert results["second"]["refined_skipped"] == expected["skipped"]
    columns = pyarrow.parquet.read_table(output / "per_sample.parquet").to_pydict()
    assert columns["sample"] == images
    for name in ("object_precision", "object_recall", "object_f1", "attribute_precision", "attribute_f1"):
        assert results["second"][f"refined_{name}"] == pytest.approx(expected[name], abs=1e-6)
        assert columns[f"second_refined_{name}"] == pytest.approx(expected["per_sample"][name], abs=1e-6)
    for row in ("CAPTURE", "refined: objects F1", "relations by questions"):
        assert f"| {row} " in told and f"| {row} " in (output / "scores.md").read_text()
    for plot in ("scores.png", "changes.png"):
        with Image.open(output / plot) as image:
            assert image.width > 300


def test_runs_are_compared_image_by_image(released, tmp_path, monkeypatch, capsys):
    lines = released.read_text().splitlines()
    better = [json.loads(line) for line in lines]
    for row in better:
        row["predict_turn2"] = row["label"]
    other = tmp_path / "better.jsonl"
    other.write_text("".join(json.dumps(row) + "\n" for row in reversed(better)))  # and in another order
    common = ["--metrics", "facts", "--lexicon", "bundled", "--output_dir"]
    for name, source in (("base", released), ("better", other)):
        run("evaluate", monkeypatch, capsys, "--predictions", source, *common, tmp_path / name)
    told = run(
        "compare", monkeypatch, capsys,
        "--runs", tmp_path / "base", tmp_path / "better", "--output_dir", tmp_path / "comparison",
    )  # fmt: skip
    assert "better minus base" in told and "**" in told
    found = json.loads((tmp_path / "comparison/comparison.json").read_text())
    assert found["baseline"] == "base" and found["n"] == 4
    assert found["second"]["mean_f1"]["means"]["better"] == 1.0
    # First turns are the same ones: every paired difference is 0, whatever the order of the files.
    nothing = found["first"]["mean_f1"]["differences"]["better"]
    assert (nothing["mean"], nothing["low"], nothing["high"], nothing["p_value"]) == (0, 0, 0, 1)
    assert (tmp_path / "comparison/second.png").is_file()

    # One image less, and another lexicon.
    (tmp_path / "less.jsonl").write_text("\n".join(lines[1:]))
    run("evaluate", monkeypatch, capsys, "--predictions", tmp_path / "less.jsonl", *common, tmp_path / "less")
    told = run("compare", monkeypatch, capsys, "--runs", tmp_path / "base", tmp_path / "less", code=2)
    assert "error: runs: less (3 images) and base (4) are not of the same images" in told
    told = run("compare", monkeypatch, capsys, "--runs", tmp_path / "base", tmp_path / "nowhere", code=2)
    assert "holds no results.json" in told
    apart = Run("apart", ["a"], {"first": TurnScores({"mean_f1": [0.5]}, made_with={"parser": "factual"})})
    base = Run("base", ["a"], {"first": TurnScores({"mean_f1": [0.4]}, made_with={"parser": "compact"})})
    with pytest.raises(DatasetError, match="apart was scored with parser 'factual', base with 'compact'"):
        compare([base, apart])
    assert load_run(tmp_path / "base", "mine").name == "mine"


def test_a_single_turn_is_enough(tmp_path, monkeypatch, capsys):
    path = tmp_path / "one.jsonl"
    path.write_text("".join(json.dumps({"label": label, "predict": first}) + "\n" for first, _, label in ROWS))
    run(
        "evaluate", monkeypatch, capsys, "--predictions", path, "--metrics", "facts", "correction",
        "--output_dir", tmp_path / "scores",
    )  # fmt: skip
    results = json.loads((tmp_path / "scores/results.json").read_text())
    assert set(results) == {"first", "settings"} and results["first"]["n"] == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name either a model to caption with or predictions to score"),
        (["--model", "x", "--predictions", "y"], "name either a model"),
        (["--predictions", "nowhere.jsonl"], "does not exist"),
        (["--predictions", "{released}", "--metrics", "bleu"], "Unknown metrics ['bleu']: choose among facts"),
        (["--predictions", "{released}", "--parser_options", '{{"beams": 1}}'], "unexpected keyword argument 'beams'"),
        (["--predictions", "{released}", "--annotations", "nowhere"], "hold no captions.json"),
        (["--predictions", "{bare}"], "no references (column 'label'); name annotations"),
    ],
)
def test_mistakes_end_in_one_sentence(released, tmp_path, monkeypatch, capsys, arguments, said):
    bare = tmp_path / "bare.jsonl"
    bare.write_text('{"predict": "A cat."}\n')
    arguments = [argument.format(released=released, bare=bare) for argument in arguments]
    told = run("evaluate", monkeypatch, capsys, *arguments, "--output_dir", tmp_path / "scores", code=2)
    assert said in next(line for line in told.splitlines() if line.startswith("error: "))


# --- Numbers ---------------------------------------------------------------------------------------------------------


def test_summaries_worked_by_hand():
    scores = TurnScores(
        {"capture": [0.2, 0.4, None], "relation_qa": [1.0, None, 0.5], "num_questions": [1, None, 4]},
        {"refined_skipped": 1},
    )
    summary = scores.summary()
    assert summary["capture"] == pytest.approx(0.3) and summary["standard_errors"]["capture"] == pytest.approx(0.1)
    # Three of five questions, not the mean of two shares.
    assert summary["relation_qa"] == pytest.approx(3 / 5)
    assert summary["n"] == 3 and summary["refined_skipped"] == 1 and "num_questions" not in summary
    table = score_table({"a|b": summary})
    assert table.splitlines()[0].split(" | ")[1].strip("| ") == "a\\|b"
    assert "0.300 ± 0.100" in table
