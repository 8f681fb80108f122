"""Two processes really train as two."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tiny_models import tiny_qwen2_vl

from sc_captioner.data import load_caption_dataset
from sc_captioner.inference import corrected_captions, load_captioner


ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes left behind."""
    tmp_path = tmp_path_factory.mktemp("processes")
    model, processor = tiny_qwen2_vl()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    config = ROOT / "recipes" / "accelerate" / "two_cpu_processes.yaml"
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(config),
        "--main_process_port=0",
    ]
    script = [str(ROOT / "tests" / "run_two_processes.py"), str(tmp_path / "model"), str(tmp_path)]
    done = subprocess.run(
        [*command, *script], cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True,
        timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return tmp_path


def test_two_processes_see_different_rows_and_end_with_equal_weights(folder):
    first, second = (json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first["world_size"] == second["world_size"] == first["environment_world_size"] == 2
    assert len(first["rows"]) == len(second["rows"]) == 8
    assert not set(first["rows"]) & set(second["rows"])
    assert first["before"] == second["before"]
    assert first["after"] == second["after"] != first["before"]


def test_two_processes_train_an_adapter_that_loads(folder):
    adapter = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert all(value.any() for key, value in adapter.items() if "lora_B" in key)  # which begin as zeros
    log = json.loads((folder / "adapter" / "trainer_state.json").read_text())["log_history"]
    assert [row["step"] for row in log if "reward" in row] == [1, 2]
    model, _ = load_captioner(str(folder / "adapter"))
    loaded = {name: value for name, value in model.state_dict().items() if "lora_" in name}
    assert len(loaded) == len(adapter)
    for name, value in adapter.items():
        here = name.removeprefix("base_model.model.").replace(".weight", ".default.weight")
        assert loaded[here].equal(value)


def test_two_processes_caption_each_a_part_in_order(folder):
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().split("\n")[:-1]]
    assert [row["label"] for row in rows] == [f"Picture {i} of a small red circle." for i in range(7)]
    parts = [len((folder / f"predictions.{rank}-of-2.jsonl").read_text().split("\n")[:-1]) for rank in (0, 1)]
    assert parts == [4, 3]
    model, processor = load_captioner(str(folder / "model"))
    data = load_caption_dataset(str(folder / "data0.parquet"), num_samples=2)
    alone = corrected_captions(model, processor, data["image"], data["prompt"], batch_size=2, max_new_tokens=8)
    assert [(row["predict"], row["predict_turn2"]) for row in rows[:2]] == [(c.first, c.second) for c in alone]
