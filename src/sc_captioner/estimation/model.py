"""Sizes of a model that is never loaded: its own code runs on tensors without data.

Parameters are counted on PyTorch's meta device, after PEFT has put in its adapters and bitsandbytes has replaced its
layers; what autograd keeps of a decoder layer is read off a forward pass on fake tensors. So every architecture that
transformers knows is counted by what it does, not by a formula for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


# Layers between the vision tower and the language model: they see as many tokens as the language model does, which
# for most models are fewer than the tower's patches.
_CONNECTORS = ("merger", "deepstack_merger_list", "multi_modal_projector", "connector")
_BLOCK = 64  # weights that share a scale in 4 bits (bitsandbytes)


@dataclass(frozen=True)
class ImageSize:
    """Width and height in pixels.

    Args:
        width (`int`): In pixels.
        height (`int`): In pixels.
    """

    width: int
    height: int


@dataclass(frozen=True)
class ModelCost:
    """What a model takes per token, patch and weight. Bytes are those of one GPU that holds all of it.

    Args:
        total, vision, language, trainable (`int`): Parameters; tied ones count once, adapters only as trainable.
        weight_bytes, language_weight_bytes (`int`): Of the whole model, and of what every generated token reads.
        trainable_bytes (`int`): Of weights that are trained beside frozen ones (adapters).
        gradient_bytes (`int`): Of the gradients.
        layers, hidden_size, vocab_size (`int`): Of the language model.
        kv_bytes_per_token (`int`): Keys and values of one token in all layers.
        layer_input_bytes, layer_saved_bytes (`float`): Per token, what goes into a decoder layer, and what autograd
            keeps of it.
        layer_mask_bytes (`float`): Per pair of tokens, what a layer keeps of the mask of a batch with padding.
        image_tokens, patches (`int`): Of one image, in the language model and in the vision tower.
        vision_bytes (`int`): Intermediate values of the vision tower for one image.
        vision_saved_bytes (`int`): What autograd keeps of it where it is trained.
        layer_weights, head_weights (`int`): Weights a token is multiplied with in the decoder, and in the LM head.
        attention_width (`int`): Heads times their width.
        vision_flops (`float`): Of one image.
        full (`bool`): Whether the weights themselves are trained, not adapters.
    """

    total: int
    vision: int
    language: int
    trainable: int
    weight_bytes: int
    language_weight_bytes: int
    trainable_bytes: int
    gradient_bytes: int
    layers: int
    hidden_size: int
    vocab_size: int
    kv_bytes_per_token: int
    layer_input_bytes: float
    layer_saved_bytes: float
    layer_mask_bytes: float
    image_tokens: int
    patches: int
    vision_bytes: int
    vision_saved_bytes: int
    layer_weights: int
    head_weights: int
    attention_width: int
    vision_flops: float
    full: bool

    def forward_flops(self, tokens: int, cached: int = 0, scored: int = 0) -> float:
        """Floating-point operations of one sequence, as `torch.utils.flop_counter` counts them.

        Args:
            tokens (`int`): Tokens that go through the decoder.
            cached (`int`): Tokens before them whose keys and values are known.
            scored (`int`): Tokens whose next token is predicted.
        """
        attention = 4 * self.layers * self.attention_width * tokens * (tokens + cached)
        return 2 * self.layer_weights * tokens + attention + 2 * self.head_weights * scored


def model_cost(config: Any, settings: Mapping[str, Any], image: ImageSize, *, train: bool) -> ModelCost:
    """Sizes of the model that a recipe loads and trains.

    Args:
        config ([`~transformers.PretrainedConfig`]): Configuration of an image-text-to-text model.
        settings (`Mapping`): A recipe's settings: `dtype`, `load_in_4bit`, `load_in_8bit`, `use_peft`, `lora_*`,
            `freeze_vision_tower`, `processor_kwargs`.
        image ([`ImageSize`]): A typical image, before the model's own resizing.
        train (`bool`): Whether anything is trained.
    """
    dtype = _dtype(settings, config)
    model = _on_meta(config, dtype)
    patches, image_tokens = _patches_and_tokens(config, image, settings.get("processor_kwargs") or {})
    # Read before adapters are put in: they are counted as trained, not as weights.
    sizes = _weights(model, _quantised_layers(config, settings), settings)
    arithmetic = _arithmetic(model, config, patches, image_tokens)

    trained = _trained(model, settings) if train else []
    full = train and not settings["use_peft"]
    # Adapters are in float32, beside weights of any type.
    trained_bytes = sum(p.numel() * (p.element_size() if full else 4) for p in trained)
    saved, mask = _saved_bytes(model.get_decoder(), dtype)
    text = config.get_text_config()
    width, inner, depth = _vision_sizes(config)
    # Scaled from the decoder's layers: both are pre-norm transformers, and what is kept grows with what they compute.
    vision_saved = saved * (4 * width + 2 * inner) / (4 * text.hidden_size + 3 * text.intermediate_size)
    of_language = _language_ids(model)
    vision_trained = any(id(p) not in of_language for p in trained)
    return ModelCost(
        **sizes,
        **arithmetic,
        trainable=sum(p.numel() for p in trained),
        trainable_bytes=0 if full else trained_bytes,
        gradient_bytes=trained_bytes,
        layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        vocab_size=text.vocab_size,
        kv_bytes_per_token=2 * text.num_hidden_layers * text.num_key_value_heads * _head_dim(text) * dtype.itemsize,
        layer_input_bytes=text.hidden_size * dtype.itemsize,
        layer_saved_bytes=saved,
        layer_mask_bytes=mask,
        image_tokens=image_tokens,
        patches=patches,
        vision_bytes=patches * (4 * width + 2 * inner) * dtype.itemsize,
        vision_saved_bytes=round(patches * depth * vision_saved) if vision_trained else 0,
        full=full,
    )


def _language_ids(model: Any) -> set[int]:
    """Identities of the language model's parameters, LM head and adapters included."""
    return {id(p) for part in (model.get_decoder(), model.get_output_embeddings()) for p in part.parameters()}


def _weights(model: Any, quantised: set[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    of_language = _language_ids(model)
    numbers, sizes = [0, 0], [0, 0]
    for name, parameter in model.named_parameters():
        part = id(parameter) in of_language
        numbers[part] += parameter.numel()
        sizes[part] += _bytes_of(parameter, name, quantised, settings)
    return {
        "total": sum(numbers),
        "vision": numbers[False],
        "language": numbers[True],
        "weight_bytes": sum(sizes),
        "language_weight_bytes": sizes[True],
    }


def _arithmetic(model: Any, config: Any, patches: int, image_tokens: int) -> dict[str, Any]:
    text, layers = config.get_text_config(), model.get_decoder().layers
    return {
        "layer_weights": sum(m.weight.numel() for m in layers.modules() if isinstance(m, nn.Linear)),
        "head_weights": model.get_output_embeddings().weight.numel(),
        "attention_width": text.num_attention_heads * _head_dim(text),
        "vision_flops": _vision_flops(model, config, patches, image_tokens),
    }


def _trained(model: Any, settings: Mapping[str, Any]) -> list[torch.Tensor]:
    """Parameters that the recipe trains; with adapters, these are put into the model."""
    if settings["use_peft"]:
        _add_adapters(model, settings)
    trained = [p for p in model.parameters() if p.requires_grad]
    if not settings.get("freeze_vision_tower"):
        return trained
    of_language = _language_ids(model)
    return [p for p in trained if id(p) in of_language]


def _dtype(settings: Mapping[str, Any], config: Any) -> torch.dtype:
    name = settings.get("dtype") or "auto"
    if name == "auto":
        return config.dtype or torch.bfloat16  # the type that the models of the recipes are published in
    return getattr(torch, str(name))


def _on_meta(config: Any, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation="sdpa")


def _add_adapters(model: Any, settings: Mapping[str, Any]) -> None:
    from peft import get_peft_model
    from trl import ModelConfig, get_peft_config

    names = [name for name in settings if name.startswith("lora_")]
    adapters = get_peft_config(ModelConfig(use_peft=True, **{name: settings[name] for name in names}))
    assert adapters is not None  # what use_peft decides
    get_peft_model(model, adapters)


def _quantised_layers(config: Any, settings: Mapping[str, Any]) -> set[str]:
    """Names of the weights that bitsandbytes keeps in 4 or 8 bits: those of the layers that transformers replaces."""
    if not settings["load_in_4bit"] and not settings["load_in_8bit"]:
        return set()
    from transformers import BitsAndBytesConfig
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear
    from transformers.quantizers.base import get_keys_to_not_convert

    model = _on_meta(config, torch.bfloat16)
    kinds = {name: type(module) for name, module in model.named_modules()}
    quantisation = BitsAndBytesConfig(load_in_4bit=settings["load_in_4bit"], load_in_8bit=settings["load_in_8bit"])
    model = replace_with_bnb_linear(model, get_keys_to_not_convert(model), quantisation)
    return {f"{name}.weight" for name, module in model.named_modules() if type(module) is not kinds[name]}


def _bytes_of(parameter: torch.Tensor, name: str, quantised: set[str], settings: Mapping[str, Any]) -> int:
    number = parameter.numel()
    if name not in quantised:
        return number * parameter.element_size()
    if settings["load_in_8bit"]:
        return number + 4 * parameter.size(0)  # one scale per row
    blocks = -(-number // _BLOCK)
    scales = blocks + 4 * -(-blocks // 256) if settings["use_bnb_nested_quant"] else 4 * blocks
    return -(-number // 2) + scales


def _saved_bytes(decoder: Any, dtype: torch.dtype, tokens: int = 1021) -> tuple[float, float]:
    """Bytes that autograd keeps of one decoder layer, adapters included: per token, and per pair of tokens.

    The difference between passes through two layers and one, under autocast as the trainers run it, of a batch with
    padding. Attention is PyTorch's fused one: of what grows with the square of the length only the mask is kept.
    """
    passes, layers = [], decoder.layers
    for number in (2, 1):
        decoder.layers = layers[:number]
        kept = _kept_in_pass(decoder, dtype, tokens)
        masks = sum(size for shape, size in kept if shape[-2:] == (tokens, tokens))
        passes.append((sum(size for _, size in kept) - masks, masks))
    decoder.layers = layers
    (two, masks_of_two), (one, masks_of_one) = passes
    return (two - one) / tokens, (masks_of_two - masks_of_one) / tokens**2


def _kept_in_pass(decoder: Any, dtype: torch.dtype, tokens: int) -> list[tuple[tuple[int, ...], int]]:
    """Shape and bytes of every tensor that autograd keeps of a forward pass; views count once, weights never."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    kept: dict[int, tuple[torch.UntypedStorage, tuple[int, ...]]] = {}
    with FakeTensorMode():
        state = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype, requires_grad=tensor.requires_grad)
            for name, tensor in (*decoder.named_parameters(), *decoder.named_buffers())
        }
        weights = {tensor.untyped_storage()._cdata for tensor in state.values()}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in weights:
                kept[storage._cdata] = (storage, tuple(tensor.shape))
            return tensor

        positions = torch.empty(1, tokens, dtype=torch.long)
        if "mrope_section" in (getattr(decoder.config, "rope_parameters", None) or {}):
            positions = positions.expand(3, 1, tokens)  # one each for time, height and width
        half = dtype in (torch.bfloat16, torch.float16)
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=half),
        ):
            torch.func.functional_call(
                decoder,
                state,
                kwargs={
                    "inputs_embeds": torch.empty(
                        1, tokens, decoder.config.hidden_size, dtype=dtype, requires_grad=True
                    ),
                    "attention_mask": torch.ones(1, tokens, dtype=torch.long),
                    "position_ids": positions,
                    "use_cache": False,
                },
            )
        return [(shape, storage.nbytes()) for storage, shape in kept.values()]


def _patches_and_tokens(config: Any, image: ImageSize, processor: Mapping[str, Any]) -> tuple[int, int]:
    """Patches that the vision tower sees of an image, and tokens that the language model sees of it.

    `processor` has what the recipe changes of the processor that belongs to the model.
    """
    vision = config.vision_config
    side = vision.patch_size
    if hasattr(vision, "spatial_merge_size"):  # Qwen: the image's own size
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

        merge = vision.spatial_merge_size
        limits = {"max_pixels": processor.get("max_pixels", 16384 * (side * merge) ** 2)}
        height, width = smart_resize(image.height, image.width, side * merge, **limits)
        patches = height * width // side**2
        return patches, patches // merge**2
    patches = (vision.image_size // side) ** 2
    if hasattr(config, "scale_factor"):  # SmolVLM: tiles, and the whole image as one more
        from transformers import SmolVLMImageProcessor

        size = processor.get("size", {"longest_edge": 4 * vision.image_size})
        tiler = SmolVLMImageProcessor(size=size, max_image_size={"longest_edge": vision.image_size})
        tiles = tiler.get_number_of_image_patches(image.height, image.width)[0]
        return tiles * patches, tiles * patches // config.scale_factor**2
    return patches, patches  # LLaVA


def _vision_sizes(config: Any) -> tuple[int, int, int]:
    """Width, inner width and depth of the vision tower."""
    vision = config.vision_config
    width = getattr(vision, "embed_dim", None) or vision.hidden_size
    inner = getattr(vision, "intermediate_size", None) or int(width * vision.mlp_ratio)
    return width, inner, getattr(vision, "depth", None) or vision.num_hidden_layers


def _vision_flops(model: Any, config: Any, patches: int, image_tokens: int) -> float:
    decoder = model.get_decoder()
    language = {id(m) for part in (decoder, model.get_output_embeddings()) for m in part.modules()}
    flops = 0.0
    for name, module in model.named_modules():
        if id(module) in language or not isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d)):
            continue
        connects = any(part in _CONNECTORS for part in name.split("."))
        flops += 2 * module.weight.numel() * (image_tokens if connects else patches)
    width, _, depth = _vision_sizes(config)
    return flops + 4 * depth * width * patches * _attended(config, patches)


def _attended(config: Any, patches: int) -> int:
    """Patches that a patch attends to: its image's, of LLaVA and SmolVLM its tile's."""
    vision = config.vision_config
    return (
        patches
        if hasattr(vision, "spatial_merge_size")
        else min(patches, (vision.image_size // vision.patch_size) ** 2)
    )


def _head_dim(text: Any) -> int:
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
