"""Trains a toy captioner for two steps under `accelerate launch`; every rank writes down what it saw and ended with.

accelerate launch --config_file recipes/accelerate/two_cpu_processes.yaml tests/run_two_processes.py MODEL OUTPUT
"""

import hashlib
import json
import os
import sys
from pathlib import Path

import numpy as np
from datasets import Dataset
from PIL import Image

from sc_captioner.trainer import SCConfig, SCTrainer


def main(model: str, output: Path) -> None:
    seen = []

    def reward(first_caption, second_caption, number, **columns):
        seen.extend(number)
        return [len(second) / 50 - len(first) / 50 for first, second in zip(first_caption, second_caption)]

    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (56, 56, 3), dtype=np.uint8)) for _ in range(16)]
    prompts = [[{"role": "user", "content": "Describe this image."}]] * 16
    args = SCConfig(
        str(output / "run"), per_device_train_batch_size=4, num_generations=4, max_completion_length=8, max_steps=2,
        learning_rate=1e-2, loss_type="grpo", bf16=False, report_to=[], save_strategy="no",
        activation_checkpointing=False, model_init_kwargs={"dtype": "float32"}, disable_tqdm=True,
    )  # fmt: skip
    dataset = Dataset.from_dict({"image": images, "prompt": prompts, "number": list(range(16))})
    trainer = SCTrainer(model, reward, args, dataset)
    before = _digest(trainer)
    trainer.train()
    result = {
        "rank": trainer.accelerator.process_index,
        "world_size": trainer.accelerator.num_processes,
        "environment_world_size": int(os.environ.get("WORLD_SIZE", "1")),
        "rows": seen,
        "before": before,
        "after": _digest(trainer),
    }
    (output / f"rank{result['rank']}.json").write_text(json.dumps(result))
    trainer.end()


def _digest(trainer: SCTrainer) -> str:
    state = trainer.accelerator.unwrap_model(trainer.model).state_dict()
    return hashlib.sha256(b"".join(value.numpy().tobytes() for value in state.values())).hexdigest()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
