"""Image-text-to-text models of real architectures at toy size, with processors, built without any download."""

from __future__ import annotations

from importlib import resources

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)
from transformers.models.clip import CLIPImageProcessor


TEXT = [
    "A small red circle is to the left of a large blue square.",
    "There is a green star above the yellow triangle. A photo of a cat, a rocket and a cup of coffee on a table.",
    "Describe this image in detail. Please review the caption and directly output the final caption: USER ASSISTANT",
]


def published_template(name: str) -> str:
    """A chat template as the models on the Hub carry it; TRL keeps copies."""
    return resources.files("trl").joinpath("chat_templates", f"{name}.jinja").read_text(encoding="utf-8")


QWEN_TEMPLATE = published_template("qwen2_5_vl")  # Qwen2-VL's is the same, letter by letter
# LLaVA-1.5's: its generation marks leave out the end-of-turn token, which it writes nowhere.
LLAVA_TEMPLATE = (
    "{% for m in messages %}{{ m['role'].upper() + ': ' }}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ c['text'] + ' ' }}{% endgeneration %}"
    "{% else %}{{ c['text'] + ' ' }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
VISION_TOKENS = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
TEXT_SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 2048,
}  # fmt: skip


def tokenizer_with(special: list[str], eos: str, pad: str, **named: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=eos, pad_token=pad, padding_side="left",
        additional_special_tokens=[t for t in special if t not in (eos, pad)], **named,
    )  # fmt: skip


def qwen(model_class, config_class, processor_class, video_class, vision: dict, template: str, mrope_section: list):
    """What the Qwen-VL generations have in common: tokens, ChatML, three axes of rotary positions."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *VISION_TOKENS]
    tokenizer = tokenizer_with(special, eos="<|im_end|>", pad="<|endoftext|>")
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in special}
    patch = vision["patch_size"]
    size = {"shortest_edge": 4 * (2 * patch) ** 2, "longest_edge": 9 * (2 * patch) ** 2}
    processor = processor_class(
        image_processor=Qwen2VLImageProcessor(patch_size=patch, size=size),
        video_processor=video_class(patch_size=patch, size=size),
        tokenizer=tokenizer,
        chat_template=template,
    )
    config = config_class(
        text_config={
            **TEXT_SIZES, "vocab_size": len(tokenizer),
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": mrope_section},
            "bos_token_id": 0, "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"],
            **({"head_dim": 8} if config_class is Qwen3VLConfig else {}),
        },
        vision_config={"depth": 2, "num_heads": 2, **vision},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
    )  # fmt: skip
    model = seeded(model_class, config)
    model.generation_config.eos_token_id = ids["<|im_end|>"]
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    return model, processor


def tiny_qwen2_vl():
    vision = {"depth": 1, "embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2, "patch_size": 14}
    classes = (Qwen2VLForConditionalGeneration, Qwen2VLConfig, Qwen2VLProcessor, Qwen2VLVideoProcessor)
    return qwen(*classes, vision, QWEN_TEMPLATE, [2, 1, 1])


def tiny_qwen2_5_vl():
    vision = {
        "hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 32, "patch_size": 14, "window_size": 56,
        "fullatt_block_indexes": [1],
    }  # fmt: skip
    classes = (Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig, Qwen2_5_VLProcessor, Qwen2VLVideoProcessor)
    return qwen(*classes, vision, QWEN_TEMPLATE, [2, 1, 1])


def tiny_qwen3_vl():
    vision = {
        "hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 32, "patch_size": 16,
        "num_position_embeddings": 36, "deepstack_visual_indexes": [0],
    }  # fmt: skip
    classes = (Qwen3VLForConditionalGeneration, Qwen3VLConfig, Qwen3VLProcessor, Qwen3VLVideoProcessor)
    return qwen(*classes, vision, published_template("qwen3_vl"), [2, 1, 1])


def tiny_llava():
    special = ["<pad>", "<s>", "</s>", "<image>"]
    tokenizer = tokenizer_with(special, eos="</s>", pad="<pad>", bos_token="<s>")
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )
    config = LlavaConfig(
        vision_config={
            "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": 56, "patch_size": 14, "projection_dim": 32,
        },
        text_config={
            "model_type": "llama", "vocab_size": len(tokenizer), **TEXT_SIZES,
            "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        },
        image_token_index=image_id,
        image_token_id=image_id,
        image_seq_length=16,
    )  # fmt: skip
    model = seeded(LlavaForConditionalGeneration, config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, processor


def tiny_smolvlm():
    special = [
        "<|im_end|>", "<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>",
        *(f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)),
    ]  # fmt: skip
    tokenizer = tokenizer_with(special, eos="<end_of_utterance>", pad="<|im_end|>", bos_token="<|im_start|>")
    # A picture is four tiles and a small copy of the whole, as SmolVLM2 sees it.
    size = {"size": {"longest_edge": 112}, "max_image_size": {"longest_edge": 56}}
    processor = SmolVLMProcessor(
        image_processor=SmolVLMImageProcessor(**size),
        video_processor=SmolVLMVideoProcessor(**size),
        tokenizer=tokenizer,
        image_seq_len=4,
        chat_template=published_template("smolvlm"),
    )
    config = SmolVLMConfig(
        vision_config={
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 56, "patch_size": 14,
        },
        text_config={
            "model_type": "llama", "vocab_size": len(tokenizer), **TEXT_SIZES,
            "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        },
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    model = seeded(SmolVLMForConditionalGeneration, config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, processor


def seeded(model_class, config):
    state = torch.get_rng_state()
    torch.manual_seed(0)
    model = model_class._from_config(config, dtype=torch.float32)
    torch.set_rng_state(state)
    return model.eval()


TINY = {
    "qwen2_vl": tiny_qwen2_vl,
    "qwen2_5_vl": tiny_qwen2_5_vl,
    "qwen3_vl": tiny_qwen3_vl,
    "llava": tiny_llava,
    "smolvlm": tiny_smolvlm,
}
