"""The evaluate modules as a user loads them: from folder and wheel, offline; goldens, forms of input, messages."""

from __future__ import annotations

import json
import math
import os
import runpy
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import datasets
import evaluate
import pytest
import yaml

from sc_captioner.metrics import module_path
from sc_captioner.scene_graph import PhraseEncoder, StoredParser, load_encoder


ROOT = Path(__file__).parents[1]
MODULES = ["capture", "refined_capture", "correction_reward", "relation_qa"]
CAT, SOFA = "A black cat sleeps on a sofa.", "A black cat is sleeping on the red sofa next to a lamp."


@pytest.fixture(scope="module")
def encoder() -> PhraseEncoder:
    return load_encoder()


@pytest.fixture(scope="module")
def modules() -> dict[str, evaluate.EvaluationModule]:
    return {name: evaluate.load(str(ROOT / "metrics" / name)) for name in MODULES}


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict:
    return json.loads((shared / "golden/released_scores.json").read_text(encoding="utf-8"))


# --- Loading ---------------------------------------------------------------------------------------------------------

OFFLINE = """
import runpy, sys
sockets = []
sys.addaudithook(lambda event, args: sockets.append(args) if event == "socket.connect" else None)
import sc_captioner
from sc_captioner.metrics import module_path
print(sc_captioner.__file__)
for name in ("capture", "refined_capture", "correction_reward", "relation_qa"):
    folder = module_path(name)
    runpy.run_path(f"{folder}/tests.py")["run"](folder)
    print(folder)
print(sockets)
"""


def told_by(code: str, cwd: Path, path: Path) -> list[str]:
    environment = os.environ | {"PYTHONPATH": str(path), "HF_HOME": str(cwd / "home"), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def test_modules_load_from_their_folders_wherever_one_stands(tmp_path):
    package, *folders, sockets = told_by(OFFLINE, tmp_path, ROOT / "src")
    assert package == str(ROOT / "src/sc_captioner/__init__.py")
    assert folders == [str(ROOT / "metrics" / name) for name in MODULES]
    assert sockets == "[]"


def test_modules_load_after_installation(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    built = subprocess.run(build, capture_output=True, text=True, timeout=600)
    if "hatchling" in built.stderr and built.returncode:
        pytest.skip("building a wheel needs hatchling, which is neither installed nor to be had from a registry")
    assert built.returncode == 0, built.stderr[-3000:]
    with ZipFile(next(tmp_path.glob("sc_captioner-*.whl"))) as wheel:
        assert not [name for name in wheel.namelist() if "__pycache__" in name]
        wheel.extractall(tmp_path / "site")
    package, *folders, sockets = told_by(OFFLINE, tmp_path, tmp_path / "site")
    assert package.startswith(str(tmp_path))
    assert folders == [str(tmp_path / "site/sc_captioner/evaluate_modules" / name) for name in MODULES]
    assert sockets == "[]"


def test_unknown_modules_are_named():
    with pytest.raises(ValueError, match="no evaluate module 'bleu'; there are capture, correction_reward"):
        module_path("bleu")


# --- Goldens through the modules -------------------------------------------------------------------------------------


def check_goldens(per_sample: dict, expected: list[dict]) -> int:
    checked = 0
    for index, bounds in enumerate(expected):
        for name, (low, high) in (bounds or {}).items():
            value = per_sample[name][index]
            assert value is not None and low - 1e-4 <= value <= high + 1e-4, (index, name, value, low, high)
            checked += 1
    return checked


@pytest.mark.parametrize("turn", ["first", "second"])
def test_released_scores(modules, golden, encoder, turn):
    cases = golden["cases"]
    told = {"parser": StoredParser(golden["graphs"]), "encoder": encoder, "lexicon": "nltk"}
    texts = {"predictions": [c[turn] for c in cases], "references": [c["reference"] for c in cases]}
    capture = modules["capture"].compute(**texts, **told)
    assert check_goldens(capture["per_sample"], [c["expected"][f"capture_{turn}"] for c in cases]) == 72 * 10
    assert capture["skipped"] == 0 and (capture["parser"], capture["lexicon"]) == ("stored", "nltk")
    refined = modules["refined_capture"].compute(
        **texts,
        extra_objects=[c["extra_objects"] for c in cases],
        extra_attributes=[c["extra_attributes"] for c in cases],
        **told,
    )
    expected = [c["expected"][f"refined_{turn}"] for c in cases]
    assert check_goldens(refined["per_sample"], expected) == 6 * sum(map(bool, expected))
    assert refined["skipped"] == sum(not bounds for bounds in expected)
    known = [value for value in refined["per_sample"]["object_f1"] if value is not None]
    assert refined["object_f1"] == pytest.approx(math.fsum(known) / len(known))


def test_released_reward(modules, golden, encoder):
    cases = golden["cases"]
    result = modules["correction_reward"].compute(
        predictions=[c["second"] for c in cases],
        references=[c["reference"] for c in cases],
        first_captions=[c["first"] for c in cases],
        preset="released",
        parser=StoredParser(golden["graphs"]),
        encoder=encoder,
        lexicon="nltk",
    )
    assert result["skipped"] == 0 and result["preset"] == "released"
    for value, case in zip(result["per_sample"]["correction_reward"], cases):
        assert value == pytest.approx(case["expected"]["reward"], abs=1e-4)


def test_references_against_themselves_by_image_id(modules, shared, encoder):
    folder = shared / "data/docci500"
    captions = json.loads((folder / "captions.json").read_text(encoding="utf-8"))
    objects: dict[str, list[str]] = {}
    for line in (folder / "objects.jsonl").read_text(encoding="utf-8").split("\n"):
        objects |= json.loads(line or "{}")
    files = {
        "references": captions,
        "extra_objects": objects,
        "extra_attributes": json.loads((folder / "attributes.json").read_text(encoding="utf-8")),
    }
    first = dict(list(captions.items())[:30])
    result = modules["refined_capture"].compute(predictions=first, **files, encoder=encoder)
    assert result["object_recall"] > 1 - 1e-5 and result["attribute_recall"] > 1 - 1e-5
    assert len(result["per_sample"]["object_f1"]) == 30


# --- Forms of input --------------------------------------------------------------------------------------------------


def test_all_forms_of_input_are_equal(modules, encoder):
    refined = modules["refined_capture"]
    lists = refined.compute(
        predictions=[CAT, SOFA],
        references=[SOFA, [CAT]],
        extra_objects=[["lamp"], []],
        extra_attributes=[[{"object": "cat", "attributes": ["black"]}], []],
        encoder=encoder,
    )
    by_id = refined.compute(
        predictions={"a": CAT, "b": SOFA},
        references={"b": CAT, "a": SOFA, "c": CAT},
        extra_objects={"a": ["lamp"], "b": []},
        extra_attributes={"a": {"cat": ["black"], "dog": None}, "b": {}},
        encoder=encoder,
    )
    rows = datasets.Dataset.from_dict(
        {
            "caption": [CAT, SOFA],
            "reference": [SOFA, CAT],
            "extra_objects": [["lamp"], []],
            "extra_attributes": [[{"object": "cat", "attributes": ["black"]}], []],
        }
    )
    columns = refined.compute(
        predictions=rows["caption"],
        references=rows["reference"],
        extra_objects=rows["extra_objects"],
        extra_attributes=rows["extra_attributes"],
        encoder=encoder,
    )
    refined.add_batch(
        predictions=[CAT], references=[SOFA], extra_objects=[["lamp"]], extra_attributes=[{"cat": ["black"]}]
    )
    refined.add(prediction=SOFA, reference=CAT)
    assert lists == by_id == columns == refined.compute(encoder=encoder)


def test_several_references_are_averaged(modules, encoder):
    for name, more in (
        ("capture", {}),
        ("refined_capture", {"without_attributes": "zero"}),
        ("correction_reward", {"first_captions": ["A cat."]}),
    ):
        metric = modules[name]
        one, two, both = (
            metric.compute(predictions=[CAT], references=[references], encoder=encoder, **more)
            for references in (SOFA, "A dog on a lawn.", [SOFA, "A dog on a lawn."])
        )
        for score, values in both["per_sample"].items():
            expected = (one["per_sample"][score][0] + two["per_sample"][score][0]) / 2
            assert values[0] == pytest.approx(expected), (name, score)


def test_samples_without_attributes_enter_as_asked(modules, encoder):
    def scored(option: str) -> dict:
        return modules["refined_capture"].compute(
            predictions=["A cat.", CAT], references=[CAT, CAT], encoder=encoder, without_attributes=option
        )

    skip, zero, half = scored("skip"), scored("zero"), scored("objects")
    assert [result["skipped"] for result in (skip, zero, half)] == [1, 1, 1]
    assert skip["per_sample"]["object_recall"][0] is None and skip["object_recall"] == pytest.approx(1, abs=1e-5)
    assert zero["attribute_recall"] == pytest.approx(0.5, abs=1e-5)
    assert half["attribute_recall"] == pytest.approx(1, abs=1e-5)
    assert half["object_recall"] == zero["object_recall"] < 0.9


def test_odd_captions_are_scored(modules, encoder):
    odd = [
        "",
        "  \n",
        "🐈 on a 🛋",
        "黒い猫がソファで寝ている。",
        "\x00\x07 cat\u202e",
        "cut off \ud83d",
        "cat " * 10_000,
    ]
    for name, more in (
        ("capture", {}),
        ("refined_capture", {"without_attributes": "zero"}),
        ("correction_reward", {"first_captions": [CAT] * len(odd)}),
    ):
        result = modules[name].compute(predictions=odd, references=[SOFA] * len(odd), encoder=encoder, **more)
        values = [value for column in result["per_sample"].values() for value in column]
        assert len(values) and all(value is not None and math.isfinite(value) for value in values), name


def test_settings_and_output(modules, encoder):
    metric = modules["capture"]
    folder = ROOT / "src/sc_captioner/assets/compact_parser"
    named = metric.compute(predictions=[CAT], references=[SOFA], parser=str(folder), encoder=encoder, batch_size=2)
    plain = metric.compute(predictions=[CAT], references=[SOFA], encoder=encoder, per_sample=False, device="cpu")
    assert "per_sample" not in plain and plain["capture"] == named["capture"]
    assert plain["encoder"] == "all-MiniLM-L6-v2" and plain["parser"] == "compact"
    assert json.loads(json.dumps(named)) == named
    with pytest.raises(ValueError, match="already built"):
        metric.compute(predictions=[""], references=[""], parser=StoredParser({}), encoder=encoder, device="cpu")
    with pytest.raises(ValueError, match="batch_size is 1 or more"):
        metric.compute(predictions=[""], references=[""], batch_size=0)


@pytest.mark.parametrize(
    ("name", "inputs", "message"),
    [
        ("capture", {"predictions": [CAT, None], "references": [CAT, CAT]}, "Sample 1: predictions holds no text"),
        ("capture", {"predictions": [CAT], "references": [[CAT, 3]]}, "Sample 0: references holds no text but int 3"),
        ("capture", {"predictions": [CAT], "references": [[]]}, "Sample 0: references holds neither a text nor"),
        ("capture", {"predictions": [CAT], "references": [CAT, CAT]}, "1 predictions, but 2 references"),
        ("capture", {"predictions": CAT, "references": [CAT]}, "predictions must be a list with one entry per sample"),
        ("capture", {"predictions": [], "references": []}, "no samples"),
        ("capture", {"predictions": [CAT]}, "Inputs are missing: references"),
        ("capture", {"predictions": {"a": CAT}, "references": [CAT]}, "both be lists, or both dicts"),
        ("capture", {"predictions": {"a": CAT}, "references": {"b": CAT}}, "references lacks 1 image ids .* 'a'"),
        (
            "refined_capture",
            {"predictions": [CAT], "references": [CAT], "extra_objects": ["sofa"]},
            "Sample 0: extra_objects holds no list of objects",
        ),
        (
            "refined_capture",
            {"predictions": [CAT], "references": [CAT], "extra_attributes": [{"cat": "black"}]},
            "Sample 0: extra_attributes: .*'cat' are one string",
        ),
        (
            "refined_capture",
            {"predictions": [CAT], "references": [CAT], "without_attributes": "half"},
            "'skip', 'zero' or 'objects', not 'half'",
        ),
        ("correction_reward", {"predictions": [CAT], "references": [CAT]}, "Inputs are missing: first_captions"),
        (
            "correction_reward",
            {"predictions": [CAT], "references": [CAT], "first_captions": [CAT], "preset": "best"},
            "choose 'paper' or 'released'",
        ),
    ],
)
def test_mistakes_are_named(modules, encoder, name, inputs, message):
    with pytest.raises(ValueError, match=message):
        modules[name].compute(**inputs, encoder=encoder)
    # A mistake leaves nothing behind.
    more = {"first_captions": [""]} if name == "correction_reward" else {}
    result = modules[name].compute(predictions=[CAT], references=[CAT], encoder=encoder, **more)
    assert all(len(values) == 1 for values in result["per_sample"].values())


# --- Spaces ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODULES)
def test_folders_are_spaces(name):
    folder = ROOT / "metrics" / name
    _, front, card = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    settings = yaml.safe_load(front)
    assert settings["sdk"] == "gradio" and settings["app_file"] == "app.py" and "metric" in settings["tags"]
    assert all(f"## {part}" in card for part in ("Description", "How to use", "Limitations", "Citation"))
    assert "sc-captioner" in (folder / "requirements.txt").read_text()
    app = (folder / "app.py").read_text(encoding="utf-8")
    compile(app, "app.py", "exec")
    # A Space's folder is not called like the metric, so the script must be named.
    assert f'evaluate.load(str(FOLDER / "{name}.py"))' in app


def push(capsys, monkeypatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["recipes/push_metrics.py", *arguments])
    try:
        runpy.run_path(str(ROOT / "recipes/push_metrics.py"), run_name="__main__")
    except SystemExit as exit_:
        assert exit_.code == 2
    told = capsys.readouterr()
    assert "hf_secret" not in told.out + told.err
    return told.out + told.err


def test_dry_run_says_what_would_be_published(capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    told = push(capsys, monkeypatch, "--namespace", "me", "--dry_run", "--private")
    for name in MODULES:
        line = next(line for line in told.splitlines() if line.startswith(f"me/{name} "))
        assert f"README.md, app.py, {name}.py, requirements.txt, tests.py" in line and "private" in line
    assert "no evaluate module 'bleu'" in push(capsys, monkeypatch, "--namespace", "me", "--modules", "bleu")
    assert "HF_HUB_OFFLINE is set" in push(capsys, monkeypatch, "--namespace", "me", "--modules", "capture")
    assert "'a b/capture' is no name" in push(capsys, monkeypatch, "--namespace", "a b", "--modules", "capture")
