"""The command sc-captioner: files in, captions out, stops and mistakes on the way; scores, explanations, graphs."""

from __future__ import annotations

import base64
import gzip
import importlib.metadata
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import tomllib

import nltk
import pytest
from hub_server import HubServer
from huggingface_hub import constants
from PIL import Image
from typer.testing import CliRunner

from sc_captioner import CorrectionReward, SelfCorrectingCaptioner
from sc_captioner.cli import app
from sc_captioner.data import build_scenes
from sc_captioner.data.predictions import load_predictions
from sc_captioner.evaluation import scores_of_turns
from sc_captioner.report.examples import data_uri
from sc_captioner.scene_graph import load_lexicon, load_parser, parse_captions


COMMANDS = ("caption", "score", "explain", "parse", "doctor")
REFERENCE = "A big green star is above a big black circle."


def run(*arguments: object, code: int = 0, **options):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="sc-captioner", **options)
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


@pytest.fixture(scope="module")
def scenes():
    return build_scenes(6, split="test", seed=777)


@pytest.fixture(scope="module")
def expected(scenes):
    return SelfCorrectingCaptioner.from_pretrained()(scenes["image"])


@pytest.fixture
def photos(tmp_path, scenes):
    """Six scenes, two of them in a folder below; names in the order of the scenes."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for index, image in enumerate(scenes["image"]):
        image.save(folder / f"{'more/' if index > 3 else ''}{index}.png")
    return folder


@pytest.fixture
def spoilt(photos):
    """The same with a file that holds no picture, one that is cut off, one the model refuses, and one of text."""
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    (photos / "cut.png").write_bytes((photos / "0.png").read_bytes()[:150])
    Image.new("RGB", (1, 500)).save(photos / "narrow.png")
    (photos / "notes.txt").write_text("no image at all")
    return photos


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def captions(rows) -> list[tuple[str, str]]:
    return [(row["first_caption"], row["second_caption"]) for row in rows]


# --- caption ---------------------------------------------------------------------------------------------------------


def test_captions_of_a_folder_go_into_a_file(photos, expected, tmp_path):
    output = tmp_path / "new" / "captions.jsonl"
    run("caption", photos, "--output", output, "--batch-size", 4, "--revisions")
    rows = lines(output)
    names = [*(f"{index}.png" for index in range(4)), "more/4.png", "more/5.png"]
    assert [row["id"] for row in rows] == [str(photos / name) for name in names]
    assert captions(rows) == [(result.first, result.caption) for result in expected]
    assert [row["revisions"] for row in rows] == [result.to_dict()["revisions"] for result in expected]
    read = load_predictions(str(output))
    assert [(row["predict"], row["predict_turn2"]) for row in read] == captions(rows)


def test_files_that_cannot_be_captioned_are_skipped_and_listed(spoilt, expected):
    result = run("caption", spoilt, spoilt / "notes.txt", "--format", "jsonl", code=1)
    assert captions(map(json.loads, result.stdout.splitlines())) == [(r.first, r.caption) for r in expected]
    assert "4 of 10 images were skipped" in result.stderr
    told = result.stderr[result.stderr.index("were skipped") :]
    assert [name for name in ("broken.jpg", "cut.png", "narrow.png", "notes.txt") if name in told] == [
        "broken.jpg", "cut.png", "narrow.png", "notes.txt",
    ]  # fmt: skip
    assert "aspect ratio" in told


def test_a_table_shows_both_captions_and_the_changes(photos, expected):
    told = run("caption", photos / "0.png", env={"COLUMNS": "600"}).stdout
    assert expected[0].first in told and expected[0].caption in told
    triple = sorted(expected[0].revisions[0].added_relations)[0]
    assert f"+ {' '.join(triple)}" in told


def test_captions_stand_beside_the_images_and_are_not_written_twice(photos, expected):
    (photos / "1.png.txt").write_text("written by hand\n")
    run("caption", photos, "--beside")
    texts = [path.read_text() for path in sorted(photos.glob("*.txt")) + sorted((photos / "more").glob("*.txt"))]
    assert texts == [r.caption + "\n" if i != 1 else "written by hand\n" for i, r in enumerate(expected)]
    times = {path: path.stat().st_mtime_ns for path in photos.rglob("*.txt")}
    assert "no image to caption" in run("caption", photos, "--beside").stderr
    assert {path: path.stat().st_mtime_ns for path in photos.rglob("*") if path in times} == times


def test_a_killed_run_goes_on_and_does_nothing_twice(spoilt, expected, tmp_path):
    output = tmp_path / "captions.jsonl"
    arguments = ["caption", str(spoilt), "--output", str(output), "--batch-size", "1"]
    with subprocess.Popen(
        [sys.executable, "-m", "sc_captioner.cli", *arguments], stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 120
        while not (output.is_file() and output.read_bytes().count(b"\n") >= 2):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    kept = output.read_bytes()
    done = kept.count(b"\n")
    assert process.returncode == -signal.SIGKILL and 2 <= done < 6
    whole = kept[: kept.rindex(b"\n") + 1]
    output.write_bytes(whole + b'{"id": "' + str(spoilt).encode()[:9])  # as if killed while it wrote
    result = run(*arguments, code=1)
    assert f"{done} images have their captions, {9 - done} are left" in result.stderr
    assert output.read_bytes().startswith(whole)
    rows = lines(output)
    assert len({row["id"] for row in rows}) == len(rows) == 6
    assert captions(rows) == [(r.first, r.caption) for r in expected]
    assert "3 of 3 images were skipped" in run(*arguments, code=1).stderr


def test_a_file_of_other_settings_or_of_something_else_stays_as_it_is(photos, tmp_path):
    output, notes = tmp_path / "captions.jsonl", tmp_path / "notes.txt"
    run("caption", photos / "0.png", "--output", output, "--max-new-tokens", 4)
    before = output.read_bytes()
    result = run("caption", photos, "--output", output, code=2)
    assert "max_new_tokens 4" in result.stderr and output.read_bytes() == before
    notes.write_text("no captions at all")
    assert "line 1" in run("caption", photos, "--output", notes, code=2).stderr
    assert notes.read_text() == "no captions at all"


def test_several_corrections_and_none(photos):
    row = json.loads(
        run("caption", photos / "0.png", "--format", "jsonl", "--num-corrections", 2, "--revisions").stdout
    )
    assert len(row["corrections"]) == len(row["revisions"]) == 2 and row["second_caption"] == row["corrections"][1]
    row = json.loads(run("caption", photos / "0.png", "--format", "jsonl", "--num-corrections", 0).stdout)
    assert set(row) == {"id", "first_caption"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["caption", "/nowhere/photo.jpg"], "no file or folder"),
        (["caption", "https://example.org/a.png", "--beside"], "--beside"),
        (["caption", __file__, "--model", "/nowhere/model"], "--model"),
        (["score", "/nowhere/predictions.jsonl"], "/nowhere/predictions.jsonl"),
        (["parse", "A dog.", "--lexicon", "none"], "lexicon"),
        (["explain", "--first", "a", "--second", "b", "--reference", "c", "--preset", "none"], "preset"),
    ],
)
def test_a_mistake_ends_in_one_line_and_status_2(arguments, told):
    result = run(*arguments, code=2)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and told in errors[0] and "Traceback" not in result.output


# --- score, explain, parse -------------------------------------------------------------------------------------------


def test_scores_are_those_of_the_library(photos, scenes, tmp_path):
    output = tmp_path / "captions.jsonl"
    run("caption", photos, "--output", output)
    references = {str(index): text for index, text in enumerate(scenes["reference"])}
    (tmp_path / "known").mkdir()
    (tmp_path / "known" / "captions.json").write_text(json.dumps(references))
    options = ["--annotations", tmp_path / "known", "--metric", "facts", "--metric", "correction"]
    told = json.loads(run("score", output, *options, "--format", "json").stdout)
    rows = [{**row, "label": text} for row, text in zip(load_predictions(str(output)), scenes["reference"])]
    for name, turn in scores_of_turns(rows, metrics=("facts", "correction")).items():
        assert told[name] == json.loads(json.dumps(turn.summary()))
    table = run("score", output, *options).stdout
    assert f"{told['first']['mean_f1']:.3f}" in table and "correction reward" in table
    assert "no references" in run("score", output, code=2).stderr


def test_an_explanation_is_that_of_the_reward():
    texts = ["--first", "A small green star.", "--second", "A big green star.", "--reference", REFERENCE]
    why = CorrectionReward().explain("A small green star.", "A big green star.", REFERENCE)
    assert json.loads(run("explain", *texts, "--format", "json").stdout) == json.loads(json.dumps(why.to_dict()))
    table = run("explain", *texts).stdout
    assert "+ big star" in table and "- small star" in table and f"{why.total:+.3f}" in table
    assert all(f"{name} " in table for name in why.parts)


def test_an_explanation_is_written_as_a_page(photos, tmp_path):
    texts = ["--first", "A small green star.", "--second", "A big green star.", "--reference", REFERENCE]
    report = tmp_path / "new" / "why.html"
    result = run("explain", *texts, "--image", photos / "0.png", "--html", report)
    why = CorrectionReward().explain("A small green star.", "A big green star.", REFERENCE)
    page = report.read_text(encoding="utf-8")
    assert f"{why.total:+.3f}" in page and page.count("data:image/") == 1 and f"{why.total:+.3f}" in result.stdout
    assert "<del>small</del>" in page and "<ins>big</ins>" in page and str(report) in result.stderr
    assert "--image" in run("explain", *texts, "--image", __file__, "--html", report, code=2).stderr


def pages_pictures(report) -> list[str | None]:
    """By sample the address of the picture in its card."""
    packed = re.findall(r"<script type='application/gzip' class='cards'>(.*?)</script>", report.read_text())
    cards = [card for batch in packed for card in json.loads(gzip.decompress(base64.b64decode(batch)))]
    return [(re.findall(r'<img src="([^"]*)"', card) or [None])[0] for card in cards]


def test_a_run_is_explained_with_its_pictures(photos, scenes, expected, tmp_path):
    predictions, report = tmp_path / "captions.jsonl", tmp_path / "run.html"
    rows = [
        {"id": str(path), "first_caption": result.first, "second_caption": result.caption, "reference": reference}
        for path, result, reference in zip(sorted(photos.rglob("*.png")), expected, scenes["reference"])
    ]
    predictions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["explain", "--predictions", predictions, "--html", report]
    told = json.loads(run(*arguments, "--images", photos, "--format", "json").stdout)
    totals = CorrectionReward()(
        **{name: [row[name] for row in rows] for name in ("first_caption", "second_caption", "reference")}
    )
    assert told["reward"] == pytest.approx(sum(totals) / 6) and told["pictures"] == 6
    assert sum(told["outcomes"].values()) == 6
    assert pages_pictures(report) == [data_uri(image, longest_side=256) for image in scenes["image"]]

    (photos / "0.png").write_bytes(b"no picture any more")
    (photos / "more" / "1.png").write_bytes((photos / "2.png").read_bytes())  # now two are called 1.png
    names = [{**row, "id": name} for row, name in zip(rows, ["0.png", "1", "2", "3.png", "more/4.png", "7"])]
    predictions.write_text("".join(json.dumps(row) + "\n" for row in names))
    result = run(*arguments, "--images", photos)
    assert "3 pictures were not found" in result.stderr and f"{told['reward']:+.3f}" in result.stdout
    found = pages_pictures(report)
    assert [index for index, picture in enumerate(found) if picture] == [2, 3, 4]
    assert found[4] == data_uri(scenes[4]["image"], longest_side=256)

    run(*arguments, "--dataset", "scenes", "--dataset-seed", 777)
    assert pages_pictures(report) == [data_uri(image, longest_side=256) for image in scenes["image"]]


def test_a_run_that_cannot_be_explained_says_why(tmp_path):
    predictions = tmp_path / "captions.jsonl"
    predictions.write_text('{"predict": "A dog.", "label": "A cat."}\n')
    arguments = ["explain", "--predictions", predictions]
    assert "--html" in run(*arguments, code=2).stderr
    report = ["--html", tmp_path / "run.html"]
    assert "predict_turn2" in run(*arguments, *report, code=2).stderr
    assert "--predictions" in run("explain", "--first", "A dog.", code=2).stderr
    assert "--predictions" in run(*arguments, "--first", "A dog.", *report, code=2).stderr
    predictions.write_text('{"predict": "A dog.", "predict_turn2": "A dog."}\n')
    assert "--annotations" in run(*arguments, *report, code=2).stderr
    predictions.write_text('{"predict": "A dog.", "predict_turn2": "A dog.", "label": "A cat."}\n')
    assert "not in both" in run(*arguments, *report, "--images", tmp_path, "--dataset", "scenes", code=2).stderr
    assert "cannot be written" in run(*arguments, "--html", predictions / "run.html", code=2).stderr


def test_graphs_are_those_of_the_parser():
    texts = ["Two black cats sleep on a red sofa.", "A dog [brown] runs."]
    told = [json.loads(line) for line in run("parse", *texts, "--format", "json").stdout.splitlines()]
    graphs = parse_captions(load_parser(), load_lexicon(), texts)
    assert told == [{"text": text, **graph.to_dict()} for text, graph in zip(texts, graphs)]
    table = run("parse", *texts).stdout
    assert re.search(r"cats\W+2\W+black\W+sleep on sofa", table) and "[brown]" in table


# --- doctor ----------------------------------------------------------------------------------------------------------


def diagnosis(code: int = 0) -> dict[str, dict]:
    return {finding["what"]: finding for finding in json.loads(run("doctor", "--format", "json", code=code).stdout)}


def test_doctor_tells_versions_and_what_the_hub_says(monkeypatch):
    found = diagnosis()
    assert found["torch"]["found"] == importlib.metadata.version("torch")
    assert "HF_HUB_OFFLINE" in found["Hub"]["found"] and found["parser compact"]["remedy"] == ""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "is_offline_mode", lambda: False)
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        assert diagnosis()["Hub"] == {"what": "Hub", "found": f"{server.url} answers", "remedy": "", "needed": False}
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        assert "check network" in diagnosis()["Hub"]["remedy"]


def test_doctor_says_what_to_do_about_what_is_missing(monkeypatch):
    monkeypatch.setattr(nltk.data, "path", [])
    needs = ["torch>=999", "no-such-package", 'vllm; extra == "vllm"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: needs)
    found = diagnosis(code=1)
    assert found["NLTK data"]["remedy"].startswith("python -m nltk.downloader punkt_tab wordnet")
    assert found["torch"]["remedy"] == "pip install 'torch>=999'" and ">=999 is needed" in found["torch"]["found"]
    assert found["no-such-package"] == {
        "what": "no-such-package", "found": "not installed", "remedy": "pip install 'no-such-package'", "needed": True,
    }  # fmt: skip
    assert not found["vllm"]["needed"]
    table = run("doctor", code=1, env={"COLUMNS": "200"}).stdout
    assert "pip install 'sc-captioner[vllm]'" in table


# --- Help ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_whose_options_exist(command, monkeypatch):
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 200)  # so that no example is broken into lines
    told = run(command, "--help").stdout
    examples = re.findall(rf"^\s*(sc-captioner {command}.*?)\s*$", told, re.MULTILINE)
    assert examples
    for example in examples:
        # Unknown options and missing arguments are refused before help is printed.
        assert "Usage" in run(*shlex.split(example)[1:], "--help").stdout


def test_commands_are_completed_by_the_shell(repository):
    words = {"_SC_CAPTIONER_COMPLETE": "complete_bash", "COMP_WORDS": "sc-captioner do", "COMP_CWORD": "1"}
    assert run(env=words).stdout.split() == ["doctor"]
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"sc-captioner": "sc_captioner.cli:app"}


def test_help_is_quick(repository):
    """Torch takes seconds to import; help and completion must not wait for it."""
    code = "import sys, sc_captioner.cli; print(sorted({'torch', 'transformers', 'trl', 'PIL'} & set(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": str(repository / "src")}
    assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True).strip() == "[]"
