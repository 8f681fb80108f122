"""Estimates against what is known or measured: published parameter counts, real caches, tensors, weights."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import TINY
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForImageTextToText, BitsAndBytesConfig

from sc_captioner.estimation import GPUS, ImageSize, estimate, model_cost, stage_of


ROOT = Path(__file__).parents[1]
PLAIN = {
    "dtype": "float32", "load_in_4bit": False, "load_in_8bit": False, "use_bnb_nested_quant": False, "use_peft": True,
    "lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "lora_target_modules": ["q_proj", "v_proj"],
    "lora_task_type": "CAUSAL_LM", "freeze_vision_tower": True,
}  # fmt: skip
PHOTO = ImageSize(640, 480)
# "total" of model.safetensors.index.json / the parameter count that the Hub shows of each repository.
PUBLISHED = {
    "qwen2_vl_2b": 2_208_985_600,
    "qwen2_vl_7b": 8_291_375_616,
    "qwen2_5_vl_7b": 8_292_166_656,
    "qwen3_vl_8b": 8_767_123_696,
    "llava_1_5_7b": 7_063_427_072,
    "smolvlm2_2b": 2_246_784_880,
}


def config_of(model: str):
    return AutoConfig.from_pretrained(str(ROOT / "recipes" / model))


@pytest.mark.parametrize("model", PUBLISHED)
def test_parameters_are_those_of_the_published_model(model):
    cost = model_cost(config_of(model), PLAIN | {"dtype": "bfloat16"}, PHOTO, train=False)
    assert cost.total == PUBLISHED[model]
    assert cost.vision + cost.language == cost.total and cost.trainable == 0
    assert cost.weight_bytes == 2 * cost.total


def test_adapters_have_the_parameters_that_low_rank_matrices_have():
    layer = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    settings = PLAIN | {"dtype": "bfloat16", "lora_target_modules": layer}
    cost = model_cost(config_of("qwen2_vl_2b"), settings, PHOTO, train=True)
    hidden, keys, inner = 1536, 256, 8960
    assert cost.trainable == 28 * 16 * (2 * 2 * hidden + 2 * (hidden + keys) + 3 * (hidden + inner))
    assert (cost.trainable_bytes, cost.gradient_bytes) == (4 * cost.trainable, 4 * cost.trainable)
    assert cost.vision_saved_bytes == 0  # no adapter is in the vision tower, so nothing is kept of it
    everything = model_cost(config_of("qwen2_vl_2b"), settings | {"use_peft": False}, PHOTO, train=True)
    assert everything.trainable == everything.language and everything.trainable_bytes == 0
    everything = model_cost(
        config_of("qwen2_vl_2b"), settings | {"use_peft": False, "freeze_vision_tower": False}, PHOTO, train=True
    )
    assert everything.trainable == everything.total


@pytest.fixture(scope="module", params=list(TINY))
def tiny(request):
    model, processor = TINY[request.param]()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (56, 56, 3), dtype=np.uint8))
    content = [{"type": "image", "image": image}, {"type": "text", "text": "Describe this image in detail."}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True,
        return_tensors="pt",
    )  # fmt: skip
    return model, dict(inputs)


def test_a_cache_takes_the_bytes_that_are_estimated(tiny):
    model, inputs = tiny
    cost = model_cost(model.config, PLAIN, ImageSize(56, 56), train=False)
    output = model.generate(
        **inputs, max_new_tokens=9, min_new_tokens=9, do_sample=True, num_return_sequences=3,
        return_dict_in_generate=True,
    )  # fmt: skip
    tensors = [t for layer in output.past_key_values.layers for t in (layer.keys, layer.values)]
    tokens = output.sequences.size(1) - 1  # the last token has not been through the model
    assert sum(t.nbytes for t in tensors) == 3 * tokens * cost.kv_bytes_per_token


def test_arithmetic_is_what_pytorch_counts(tiny):
    model, inputs = tiny
    # As its processor, which only SmolVLM's tiles depend on, is set up.
    settings = PLAIN | {"processor_kwargs": {"size": {"longest_edge": 112}}}
    cost = model_cost(model.config, settings, ImageSize(56, 56), train=False)
    model.set_attn_implementation("eager")
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(**inputs, use_cache=False)
    finally:
        model.set_attn_implementation("sdpa")
    tokens = inputs["input_ids"].size(1)
    assert cost.forward_flops(tokens, scored=tokens) + cost.vision_flops == pytest.approx(
        counter.get_total_flops(), rel=0.03
    )


def kept_bytes(model, inputs) -> int:
    """Bytes that autograd keeps of a real forward pass, weights aside."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(**inputs, use_cache=False)
        size = sum(storage.nbytes() for storage in kept.values())
    del output
    return size


@pytest.mark.parametrize("adapters", [False, True])
def test_a_forward_pass_keeps_what_is_estimated(tiny, adapters):
    """What six more layers keep in a real pass, of real tensors, with the image encoded and the LM head computed."""
    from peft import LoraConfig, get_peft_model

    model, inputs = tiny
    settings = PLAIN | {"use_peft": adapters}
    cost = model_cost(model.config, settings, ImageSize(56, 56), train=True)
    # Two rows of 500 more tokens, of which one has padding, as rows of different lengths have.
    rows = {name: torch.cat([value, value]) for name, value in inputs.items()}
    extra = torch.full((2, 500), 60)
    rows["input_ids"] = torch.cat([rows["input_ids"], extra], dim=1)
    rows["attention_mask"] = torch.ones_like(rows["input_ids"])
    rows["attention_mask"][1, -7:] = 0
    for name in ("mm_token_type_ids", "token_type_ids"):
        if name in rows:
            rows[name] = torch.cat([rows[name], torch.zeros_like(extra)], dim=1)
    sizes = []
    for layers in (8, 2):
        config = type(model.config).from_dict(model.config.to_dict())
        config.text_config.num_hidden_layers = layers
        if hasattr(config.text_config, "layer_types"):
            config.text_config.layer_types = [config.text_config.layer_types[0]] * layers
        deep = AutoModelForImageTextToText.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
        if adapters:
            deep = get_peft_model(deep, LoraConfig(r=16, target_modules=r".*(text|language)_model\..*(q|v)_proj"))
            deep.enable_input_require_grads()
        sizes.append(kept_bytes(deep, rows))
    tokens = rows["input_ids"].size(1)
    expected = 6 * 2 * tokens * (cost.layer_saved_bytes + tokens * cost.layer_mask_bytes)
    assert sizes[0] - sizes[1] == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_peak_of_activations_is_what_is_estimated(tiny, checkpointing):
    """A real forward and backward pass through twelve layers, every tensor followed by PyTorch's own tracker."""
    model, _ = tiny
    cost = model_cost(model.config, PLAIN | {"use_peft": False}, ImageSize(56, 56), train=True)
    layers, rows, tokens = 12, 2, 256
    config = type(model.config).from_dict(model.config.to_dict())
    config.text_config.num_hidden_layers = layers
    if hasattr(config.text_config, "layer_types"):
        config.text_config.layer_types = [config.text_config.layer_types[0]] * layers
    decoder = AutoModelForImageTextToText.from_config(config, dtype=torch.float32).get_decoder().train()
    if checkpointing:
        decoder.gradient_checkpointing_enable({"use_reentrant": False})
    mask = torch.ones(rows, tokens, dtype=torch.long)
    mask[1, -7:] = 0
    inputs = torch.randn(rows, tokens, decoder.config.hidden_size, requires_grad=True)
    tracker = MemTracker()
    tracker.track_external(decoder, inputs)
    with tracker:
        decoder(inputs_embeds=inputs, attention_mask=mask, use_cache=False).last_hidden_state.sum().backward()
    (peak,) = tracker.get_tracker_snapshot("peak").values()
    measured = next(size for kind, size in peak.items() if getattr(kind, "value", "") == "Activation")
    layer = rows * tokens * (cost.layer_saved_bytes + tokens * cost.layer_mask_bytes)
    expected = layer + rows * tokens * layers * cost.layer_input_bytes if checkpointing else layers * layer
    assert measured == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("bits", ["4", "4 nested", "8"])
def test_quantised_weights_take_what_bitsandbytes_gives_them(tmp_path, bits):
    model, _ = TINY["qwen2_vl"]()
    model.save_pretrained(tmp_path)
    settings = PLAIN | {
        "dtype": "bfloat16", "load_in_4bit": bits != "8", "load_in_8bit": bits == "8",
        "use_bnb_nested_quant": bits == "4 nested",
    }  # fmt: skip
    quantised = AutoModelForImageTextToText.from_pretrained(
        tmp_path, dtype=torch.bfloat16,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=settings["load_in_4bit"], load_in_8bit=settings["load_in_8bit"],
            bnb_4bit_use_double_quant=settings["use_bnb_nested_quant"], bnb_4bit_quant_type="nf4",
        ),
    )  # fmt: skip
    taken, layers = 0, 0
    for parameter in quantised.parameters():
        taken += parameter.nbytes
        state = getattr(parameter, "quant_state", None)
        scales = getattr(parameter, "SCB", None)
        layers += state is not None or scales is not None
        if state is not None:
            taken += state.absmax.nbytes + (state.state2.absmax.nbytes if state.nested else 0)
        if scales is not None:
            taken += scales.nbytes
    assert layers > 10  # it has really been quantised
    cost = model_cost(quantised.config, settings, ImageSize(56, 56), train=True)
    assert cost.weight_bytes == taken
    assert cost.trainable_bytes == 4 * cost.trainable  # the trainer keeps adapters in float32


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("qwen2_vl_7b", {}), ("qwen2_vl_7b", {"max_pixels": 262144}), ("qwen3_vl_8b", {}), ("llava_1_5_7b", {}),
        ("smolvlm2_2b", {}), ("smolvlm2_2b", {"size": {"longest_edge": 768}}),
    ],
)  # fmt: skip
def test_an_image_has_the_tokens_that_the_models_processor_makes_of_it(model, changes):
    from transformers import Qwen2VLImageProcessor, SmolVLMImageProcessor

    cost = model_cost(config_of(model), PLAIN | {"processor_kwargs": changes}, PHOTO, train=False)
    picture = Image.new("RGB", (640, 480))
    if model == "llava_1_5_7b":
        assert cost.image_tokens == 576
    elif model == "smolvlm2_2b":
        tiles = SmolVLMImageProcessor(
            **{"size": {"longest_edge": 1536}, "max_image_size": {"longest_edge": 384}, **changes}
        )(picture, return_tensors="pt")["pixel_values"]
        assert (cost.image_tokens, cost.patches) == (tiles.size(1) * 81, tiles.size(1) * 729)
    else:
        side = 16 if model == "qwen3_vl_8b" else 14
        grid = Qwen2VLImageProcessor(patch_size=side, **{"max_pixels": 16384 * (2 * side) ** 2, **changes})(
            picture, return_tensors="pt"
        )["image_grid_thw"]
        assert (cost.patches, cost.image_tokens) == (int(grid.prod()), int(grid.prod()) // 4)


def run_estimate(capsys, *arguments):
    argv, sys.argv = sys.argv, ["recipes/estimate.py", *map(str, arguments)]
    try:
        runpy.run_path(str(ROOT / "recipes" / "estimate.py"), run_name="__main__")
    finally:
        sys.argv = argv
    output = capsys.readouterr().out.strip().splitlines()
    return json.loads(output[-1]), output[:-1]


def test_settings_of_a_recipe_move_the_estimate_the_way_they_move_the_run(capsys):
    recipe = ["--config", ROOT / "recipes" / "qwen2_vl_2b" / "sc.yaml"]
    plain, table = run_estimate(capsys, *recipe)
    assert any("at most at a time" in line for line in table)
    kept, _ = run_estimate(capsys, *recipe, "--activation_checkpointing", "false")
    quantised, _ = run_estimate(capsys, *recipe, "--load_in_4bit", "true", "--gpu", "A100-40GB")
    alone, _ = run_estimate(capsys, *recipe, "--num_corrections", "1")
    longer, _ = run_estimate(capsys, *recipe, "--max_completion_length", "1024")
    assert kept["peak"] > 3 * plain["peak"] and kept["flops"] < plain["flops"]
    assert (
        quantised["peak"] < plain["peak"] - 2e9
        and quantised["seconds"]["reference"] > 2 * plain["seconds"]["reference"]
    )
    assert alone["memory"]["kv cache, turn 1"] == 8 * plain["memory"]["kv cache, turn 1"]
    assert longer["memory"]["kv cache, turn 2"] - plain["memory"]["kv cache, turn 2"] == 16 * 1024 * 28672
    assert plain["steps"] == 6500 * 8 * 2 / 16


def test_a_mistake_ends_in_one_sentence(capsys, tmp_path):
    (tmp_path / "sc.yaml").write_text("model_name_or_path: no/such-model\n")
    sc = ROOT / "recipes" / "qwen2_vl_2b" / "sc.yaml"
    for arguments, words in (
        (["--config", tmp_path / "none.yaml", "--stage", "sc"], "none.yaml"),
        (["--config", tmp_path / "sc.yaml"], "put the model's config.json beside"),
        (["--config", sc, "--lora_rank", "8"], "unknown setting 'lora_rank'"),
        (["--config", sc, "--load_in_4bit"], "--load_in_4bit needs a value"),
    ):
        with pytest.raises(SystemExit) as exit_info:
            run_estimate(capsys, *arguments)
        assert exit_info.value.code == 2 and words in capsys.readouterr().err


def test_the_table_in_the_documentation_is_what_the_command_prints(capsys):
    pages = (ROOT / "docs" / "training_costs.md").read_text(encoding="utf-8")
    for name in ("sc", "predict"):
        result, _ = run_estimate(capsys, "--config", ROOT / "recipes" / "qwen2_vl_2b" / f"{name}.yaml")
        row = next(line for line in pages.splitlines() if line.startswith(f"| qwen2_vl_2b/{name} "))
        cells = [cell.strip() for cell in row.split("|")]
        assert cells[8] == f"{result['peak'] / 1e9:.1f} GB" and cells[10] == f"{result['hours']:.1f}", (
            "run `python recipes/estimate.py --all --output docs/training_costs.md`"
        )


def test_full_fine_tuning_keeps_a_reference_and_two_moments():
    settings = PLAIN | {
        "use_peft": False, "dtype": "bfloat16", "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2,
        "gradient_checkpointing": True, "num_generations": 8, "num_corrections": None, "num_train_epochs": 1,
        "steps_per_generation": None, "max_completion_length": 64, "beta": 0.05, "optim": "adamw_torch",
    }  # fmt: skip
    cost = model_cost(config_of("qwen2_vl_2b"), settings, PHOTO, train=True)
    shares = {"caption_tokens": 64, "utilization": 0.4, "bandwidth_utilization": 0.6}
    result = estimate(cost, stage_of("sc", settings, 100), GPUS["H100"], **shares)
    assert result.memory["reference"] == 2 * cost.total
    assert result.memory["optimizer"] == 2 * 2 * cost.language
    small = estimate(cost, stage_of("sc", settings | {"optim": "adamw_bnb_8bit"}, 100), GPUS["H100"], **shares)
    assert small.memory["optimizer"] == 2 * cost.language
    assert result.peak > sum(result.memory[name] for name in ("weights", "reference", "optimizer", "gradients"))
