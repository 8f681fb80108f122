"""QLoRA by bitsandbytes: weights really are in 4 or 8 bits, adapters really learn."""

from __future__ import annotations

from pathlib import Path

import bitsandbytes
import numpy as np
import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForImageTextToText
from trl import ModelConfig, get_quantization_config

from sc_captioner.data import build_scenes
from sc_captioner.trainer import SCConfig, SCTrainer


SCENES_SFT = Path(__file__).parents[1] / "src" / "sc_captioner" / "assets" / "scenes_sft"
LAYERS = {4: bitsandbytes.nn.Linear4bit, 8: bitsandbytes.nn.Linear8bitLt}


def quantisation(bits: int):
    """As recipes/*/sc_qlora.yaml has it, for 4 bits, or with `--load_in_8bit true` in its place."""
    return get_quantization_config(
        ModelConfig(dtype="bfloat16", load_in_4bit=bits == 4, load_in_8bit=bits == 8, use_bnb_nested_quant=True)
    )


def begins_with_there_is(second_caption, **columns):
    return [float(text.startswith("There is")) for text in second_caption]


def trainer_for(folder: Path, bits: int, **changes) -> SCTrainer:
    values = {
        "per_device_train_batch_size": 32, "num_generations": 8, "max_completion_length": 24, "temperature": 1.0,
        "loss_type": "grpo", "bf16": True, "report_to": [], "logging_steps": 1, "save_strategy": "no",
        "instruction": "Review the caption.", "activation_checkpointing": True, "lr_scheduler_type": "constant",
        "model_init_kwargs": {"dtype": "bfloat16"}, "disable_tqdm": True,
    }  # fmt: skip
    return SCTrainer(
        str(SCENES_SFT),
        begins_with_there_is,
        SCConfig(str(folder), **{**values, **changes}),
        build_scenes(64, seed=7),
        quantization_config=quantisation(bits),
        peft_config=LoraConfig(target_modules=r".*language_model.*_proj", r=16),
    )


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_take_as_many_bits_as_asked(bits):
    def loaded(**options):
        return AutoModelForImageTextToText.from_pretrained(SCENES_SFT, **options)

    whole, half = loaded(dtype=torch.float32), loaded(dtype=torch.bfloat16)
    quantised = loaded(dtype=torch.bfloat16, quantization_config=quantisation(bits))
    layers = {name: module for name, module in half.named_modules() if isinstance(module, torch.nn.Linear)}
    del layers["lm_head"]  # stays as it is, tied to the embeddings
    saved = 0
    for name, layer in layers.items():
        weight = quantised.get_submodule(name).weight
        assert type(quantised.get_submodule(name)) is LAYERS[bits]
        assert weight.nbytes * 8 == bits * layer.weight.numel()
        saved += layer.weight.nbytes - weight.nbytes
    assert len(layers) == 3 * 7 + 2 * 4 + 2
    footprints = [model.get_memory_footprint() for model in (whole, half, quantised)]
    assert footprints[0] > 1.9 * footprints[1]
    assert footprints[1] - footprints[2] == pytest.approx(saved, rel=0.05)  # scales take the rest


@pytest.mark.parametrize("bits", [4, 8])
def test_an_adapter_of_a_quantised_model_learns(tmp_path, bits):
    trainer = trainer_for(tmp_path, bits, learning_rate=1e-2, max_steps=12)
    assert any(isinstance(module, LAYERS[bits]) for module in trainer.model.modules())
    frozen = {name: value.clone() for name, value in trainer.model.named_parameters() if not value.requires_grad}
    trainer.train()
    rewards = [row["reward"] for row in trainer.state.log_history if "reward" in row]
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.2, rewards
    parameters = dict(trainer.model.named_parameters())
    assert all(torch.equal(parameters[name], value) for name, value in frozen.items())


def test_a_small_learning_rate_moves_every_weight(tmp_path):
    """Of an adapter in bfloat16, a step of 5e-6 would leave nearly all weights where they are."""
    trainer = trainer_for(tmp_path, 4, learning_rate=5e-6, max_steps=2)
    before = {name: value.clone() for name, value in trainer.model.named_parameters() if "lora_A" in name}
    trainer.train()
    parameters = dict(trainer.model.named_parameters())
    moved = [(parameters[name] != value).double().mean().item() for name, value in before.items()]
    assert min(moved) > 0.9
