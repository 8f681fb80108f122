"""The recipes as a user starts them: mistakes end in one sentence, runs go on where they were killed."""

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_models import tiny_qwen2_vl

from sc_captioner import SelfCorrectingCaptioner
from sc_captioner.data import build_scenes


ROOT = Path(__file__).parents[1]
SFT = ROOT / "src" / "sc_captioner" / "assets" / "scenes_sft"
SMALL_RUN = [
    "--model_name_or_path", str(SFT), "--num_samples", "16", "--per_device_train_batch_size", "4", "--num_generations",
    "4", "--num_corrections", "2", "--max_completion_length", "24", "--max_steps", "3", "--dataset_seed", "5",
]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    for part in tiny_qwen2_vl():
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def rows(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(rng.integers(0, 255, (56, 56, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    return [{"image": f"{i}.png", "reference": "A small red circle."} for i in range(4)]


def run_sc(*arguments):
    """recipes/sc.py in this process: fast, and its exit is an exception."""
    argv, sys.argv = (
        sys.argv,
        ["recipes/sc.py", "--config", str(ROOT / "recipes/scenes/sc.yaml"), *map(str, arguments)],
    )
    try:
        runpy.run_path(str(ROOT / "recipes" / "sc.py"), run_name="__main__")
    finally:
        sys.argv = argv


def dataset_of(rows, folder):
    path = folder / "captions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def broken(rows, folder, kind):
    if kind == "missing image":
        rows[2]["image"] = "nowhere.png"
    if kind == "corrupt image":
        (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:90])
    if kind == "empty reference":
        rows[1]["reference"] = "  "
    if kind == "missing column":
        rows[:] = [{"image": row["image"], "caption": row["reference"]} for row in rows]
    return dataset_of(rows, folder)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing image", ["row 2", "'image'", "nowhere.png", "remove the row"]),
        ("corrupt image", ["row 2", "'image'", "2.png", "does not decode", "replace the image"]),
        ("empty reference", ["row 1", "'reference'", "empty", "write a reference"]),
        ("missing column", ["no column 'reference'", "setting columns", "reference: caption"]),
    ],
)
def test_bad_rows_stop_before_training(model, rows, tmp_path, capsys, kind, said):
    data = broken(rows, tmp_path, kind)
    one_sentence(capsys, said, "--model_name_or_path", model, "--dataset", data, "--num_samples", "4")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--lerning_rate", "1"], ["unknown setting 'lerning_rate'", "'learning_rate'"]),
        (["--num_corrections", "3"], ["num_corrections=3", "num_generations=8"]),
        (["--parts", "objects", "colours"], ["colours", "objects, attributes, relations"]),
        (["--weights", '{"bonus": 1}'], ["bonus", "PaperWeights"]),
        (["--parser", "no/such-parser"], ["no/such-parser"]),
        (["--model_name_or_path", "no/such-model"], ["no/such-model", "model_name_or_path"]),
        (["--resume_from_checkpoint", "no/such-folder"], ["no/such-folder", "'auto'"]),
        (["--dataset", "no/such.jsonl"], ["no/such.jsonl", "check the path"]),
        (["--dataset_split", "validation"], ["split"]),
    ],
)
def test_bad_settings_stop_before_training(capsys, arguments, said):
    one_sentence(capsys, said, *arguments)


def test_an_empty_dataset_stops_before_training(model, tmp_path, capsys):
    one_sentence(capsys, ["empty"], "--model_name_or_path", model, "--dataset", dataset_of([], tmp_path))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("chat_template", ["no chat template", "instruction-tuned"]),
        ("image_token", ["image_token_id=99999", "tokenizer", "same folder"]),
    ],
)
def test_a_model_that_cannot_take_two_turns_is_refused(model, tmp_path, capsys, change, said):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    if change == "chat_template":
        (folder / "chat_template.jinja").unlink()
    else:
        config = json.loads((folder / "config.json").read_text())
        config["image_token_id"] = 99999
        (folder / "config.json").write_text(json.dumps(config))
    one_sentence(capsys, said, "--model_name_or_path", folder)


def one_sentence(capsys, said, *arguments):
    with pytest.raises(SystemExit) as exit_info:
        run_sc(*arguments)
    error = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert exit_info.value.code == 2
    for words in said:
        assert words in error


def run_recipe(*command, env=None, **options):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **(env or {})}
    return subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True, **options
    )


def test_a_killed_run_that_is_resumed_ends_like_one_that_was_not(tmp_path):
    command = ["recipes/sc.py", "--config", "recipes/scenes/sc.yaml", *SMALL_RUN, "--save_steps", "1"]
    whole = run_recipe(*command, "--output_dir", tmp_path / "whole", timeout=600)
    assert whole.returncode == 0, whole.stderr[-2000:]

    killed = [sys.executable, *command, "--output_dir", str(tmp_path / "killed")]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(killed, cwd=ROOT, stdout=log, stderr=log)
        checkpoint = tmp_path / "killed" / "checkpoint-1" / "trainer_state.json"
        deadline = time.monotonic() + 300
        while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()[-2000:]
    assert not (tmp_path / "killed" / "model.safetensors").exists()

    resumed = run_recipe(
        *command, "--output_dir", tmp_path / "killed", "--resume_from_checkpoint", "auto", timeout=600
    )
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    expected, found = (load_file(tmp_path / run / "model.safetensors") for run in ("whole", "killed"))
    start = load_file(SFT / "model.safetensors")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert any(not torch.equal(expected[name], start[name].to(expected[name].dtype)) for name in expected)


def test_an_adapter_says_the_same_in_a_new_process(tmp_path):
    lora = [
        "--use_peft",
        "true",
        "--lora_r",
        "8",
        "--lora_target_modules",
        "q_proj",
        "v_proj",
        "--learning_rate",
        "3e-3",
    ]
    trained = run_recipe(
        "recipes/sc.py", "--config", "recipes/scenes/sc.yaml", *SMALL_RUN, *lora, "--output_dir", tmp_path / "adapter",
        "--save_strategy", "no", timeout=600,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr[-2000:]
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    assert not list((tmp_path / "adapter").glob("*.bin"))  # no pickle among what would be pushed

    captions = []
    for name, folder in (("one", tmp_path / "adapter"), ("two", tmp_path / "adapter"), ("base", SFT)):
        done = run_recipe(
            "recipes/evaluate.py", "--model", folder, "--dataset", "scenes", "--dataset_seed", 9, "--num_samples", 16,
            "--max_new_tokens", 64, "--output_dir", tmp_path / name, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        captions.append((tmp_path / name / "predictions.jsonl").read_text())
    assert captions[0] == captions[1]
    # Prompt and instruction come with the adapter.
    told = SelfCorrectingCaptioner.from_pretrained(tmp_path / "adapter")(
        build_scenes(16, 9, split="test")["image"], batch_size=64, max_new_tokens=64, revisions=False
    )
    rows = [json.loads(line) for line in captions[0].splitlines()]
    assert [(caption.first, caption.caption) for caption in told] == [(r["predict"], r["predict_turn2"]) for r in rows]
    results = json.loads((tmp_path / "one" / "results.json").read_text())
    for turn in ("first", "second"):
        keys = {"objects_f1", "attributes_f1", "relations_f1", "mean_f1", "broken_grammar", "n"}
        assert keys <= results[turn].keys()
        assert results[turn]["n"] == 16
