"""Two processes really train as two."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tiny_models import tiny_qwen2_vl


ROOT = Path(__file__).parents[1]


def test_two_processes_see_different_rows_and_end_with_equal_weights(tmp_path):
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
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first["world_size"] == second["world_size"] == first["environment_world_size"] == 2
    assert len(first["rows"]) == len(second["rows"]) == 8
    assert not set(first["rows"]) & set(second["rows"])
    assert first["before"] == second["before"]
    assert first["after"] == second["after"] != first["before"]
