"""Build the untrained captioner of the scenes: a tiny Qwen2-VL with its own tokenizer and a vision tower that sees.

    python recipes/build_scenes_model.py --config recipes/scenes/build.yaml

From a plain initialisation a model of this size learns the captions' language and never looks at the picture. So the
vision tower is taught alone first: from each of its nine tokens a linear probe reads what lies in that cell, which
cell it is and what its neighbours in reading order are. The probe is thrown away; `recipes/sft.py` then trains the
language model.
"""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    set_seed,
)

from sc_captioner.arguments import run_recipe
from sc_captioner.data import CAPTION_PROMPT, CORRECTION_INSTRUCTION, build_scenes, caption_sentences
from sc_captioner.data.scene_captions import COLORS, SHAPES, SIZES
from sc_captioner.data.scenes import CELL, GRID, Scene
from sc_captioner.prompts import CAPTION_PROMPT as LONG_PROMPT
from sc_captioner.prompts import CORRECTION_INSTRUCTION as LONG_INSTRUCTION


SPECIAL_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]

# What a linear probe is to read from the token of a cell, with the number of answers: where the cell is, what lies in
# it, which thing of the reading order that is, what the one before and the one after are, and whether they lie in the
# same row. The last four are what a caption's relations are made of; the language model alone is slow to find them.
QUESTIONS = {
    "row": GRID,
    "column": GRID,
    "shape": 1 + len(SHAPES),
    "color": 1 + len(COLORS),
    "size": 1 + len(SIZES),
    "order": 5,
    "shape_before": 1 + len(SHAPES),
    "row_before": 3,
    "shape_after": 1 + len(SHAPES),
    "row_after": 3,
}

# ChatML as Qwen2-VL writes it, without its default system message; the generation marks let TRL train on exactly what
# the assistant says, end-of-turn token included.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\n' -}}"
    "{%- set said -%}"
    "{%- if message['content'] is string -%}{{- message['content'] -}}{%- else -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}"
    "{%- elif part['type'] == 'text' -%}{{- part['text'] -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{%- endset -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- said + '<|im_end|>' -}}{%- endgeneration -%}{{- '\n' -}}"
    "{%- else -%}{{- said + '<|im_end|>\n' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)


@dataclass
class BuildArguments:
    """What to build and how long to teach the vision tower."""

    output_dir: str = field(default="outputs/scenes_base", metadata={"help": "Where model and processor go."})
    seed: int = field(default=0, metadata={"help": "Seed of weights and scenes."})
    vocab_size: int = field(default=512, metadata={"help": "Tokens in all, special ones included."})
    num_scenes: int = field(default=8192, metadata={"help": "Scenes the vision tower is taught on."})
    batch_size: int = field(default=64, metadata={"help": "Scenes per step."})
    max_steps: int = field(default=600, metadata={"help": "Steps of the vision warm-up."})
    learning_rate: float = field(default=3e-3, metadata={"help": "Peak learning rate, one cycle."})


def main(args: BuildArguments) -> None:
    set_seed(args.seed)
    processor = scenes_processor(args.vocab_size)
    model = Qwen2VLForConditionalGeneration(scenes_config(processor.tokenizer))
    model.generation_config = GenerationConfig(
        eos_token_id=processor.tokenizer.eos_token_id,
        pad_token_id=processor.tokenizer.pad_token_id,
        max_new_tokens=96,
    )
    started = time.perf_counter()
    scores = taught_vision(model, processor, args)
    model.save_pretrained(args.output_dir)
    processor.save_pretrained(args.output_dir)
    summary = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocabulary": len(processor.tokenizer),
        "seconds": round(time.perf_counter() - started, 1),
        "probe_accuracy": scores,
    }
    Path(args.output_dir, "build.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(json.dumps(summary))


def scenes_config(tokenizer: PreTrainedTokenizerFast) -> Qwen2VLConfig:
    """About 1.2 million parameters.

    Qwen2-VL's rotary base of 1e6 and 16 frequencies per head would turn neighbouring columns by less than 2e-4
    radians: no left, no right. A base of 10 keeps all three axes of the 3 x 3 grid apart and is wide enough for texts
    of this length.
    """
    token = tokenizer.convert_tokens_to_ids
    return Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 1024,
            "initializer_range": 0.06,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10.0, "mrope_section": [4, 6, 6]},
            "bos_token_id": token("<|endoftext|>"),
            "eos_token_id": token("<|im_end|>"),
            "pad_token_id": token("<|endoftext|>"),
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 2,
            "embed_dim": 96,
            "hidden_size": 128,
            "num_heads": 4,
            "mlp_ratio": 4,
            "patch_size": CELL // 2,
            "spatial_merge_size": 2,
            "initializer_range": 0.06,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
        initializer_range=0.06,
    )


def scenes_processor(vocab_size: int) -> Qwen2VLProcessor:
    """Qwen2-VL's processor with a byte-level BPE vocabulary learnt from captions, prompts and instructions.

    Pictures are scaled to at most 84 x 84 pixels, nine tokens; any picture goes through.
    """
    prompts = [CAPTION_PROMPT, CORRECTION_INSTRUCTION, LONG_PROMPT, LONG_INSTRUCTION, "system\nuser\nassistant\n"]
    corpus = [f"{first} {second}" for (first, _), (second, _) in itertools.pairwise(caption_sentences(3000))]
    corpus += prompts * 200
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(corpus, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[t for t in SPECIAL_TOKENS if t not in ("<|im_end|>", "<|endoftext|>")],
        model_max_length=1024,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    size = {
        "shortest_edge": CELL * CELL * 4,
        "longest_edge": (CELL * GRID) ** 2,
    }  # pixels in all, smallest and largest
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=CELL // 2, merge_size=2, size=size),
        video_processor=Qwen2VLVideoProcessor(patch_size=CELL // 2, merge_size=2, size=size),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
    )


def taught_vision(
    model: Qwen2VLForConditionalGeneration, processor: Qwen2VLProcessor, args: BuildArguments
) -> dict[str, float]:
    """Teach the vision tower in place; accuracy per question on scenes it has not seen."""
    probe = torch.nn.Linear(model.config.text_config.hidden_size, sum(QUESTIONS.values()))
    train = build_scenes(args.num_scenes, seed=args.seed).with_format(None)
    parameters = [*model.model.visual.parameters(), *probe.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=args.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.learning_rate, total_steps=args.max_steps)
    progress = tqdm(range(args.max_steps), desc="vision warm-up")
    for step in progress:
        first = step * args.batch_size % (args.num_scenes - args.batch_size + 1)
        logits, targets = probed(model, processor, probe, train[first : first + args.batch_size])
        answers = logits.split(list(QUESTIONS.values()), dim=-1)
        loss = sum(torch.nn.functional.cross_entropy(a, targets[:, i]) for i, a in enumerate(answers))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}")
    with torch.no_grad():
        test = build_scenes(256, seed=args.seed, split="test")
        logits, targets = probed(model, processor, probe, test[:])
    answers = logits.split(list(QUESTIONS.values()), dim=-1)
    right = [(answer.argmax(-1) == targets[:, i]).double().mean().item() for i, answer in enumerate(answers)]
    return dict(zip(QUESTIONS, right))


def probed(
    model: Qwen2VLForConditionalGeneration, processor: Qwen2VLProcessor, probe: torch.nn.Linear, batch: dict
) -> tuple[torch.Tensor, torch.Tensor]:
    """Probe's logits per cell, shape `(scenes * 9, answers)`, and the right answers, `(scenes * 9, 10)`."""
    pixels = processor.image_processor(images=batch["image"], return_tensors="pt")
    features = model.get_image_features(pixels["pixel_values"], pixels["image_grid_thw"]).pooler_output
    targets = [cell for scene in batch["scene"] for cell in cell_targets(Scene.from_json(scene))]
    return probe(torch.cat(list(features))), torch.tensor(targets)


def cell_targets(scene: Scene) -> list[list[int]]:
    """Answers to `QUESTIONS` per cell in reading order; 0 where the cell is empty or there is no such neighbour."""
    cells = [[*divmod(cell, GRID), 0, 0, 0, 0, 0, 0, 0, 0] for cell in range(GRID * GRID)]
    for i, thing in enumerate(scene.things):
        answers = [SHAPES.index(thing.shape), COLORS.index(thing.color), SIZES.index(thing.size), i]
        answers += [-1, -1, -1, -1]
        for place, other in ((4, i - 1), (6, i + 1)):
            if 0 <= other < len(scene.things):
                neighbour = scene.things[other]
                answers[place : place + 2] = [SHAPES.index(neighbour.shape), int(thing.row == neighbour.row)]
        cells[thing.row * GRID + thing.column][2:] = [1 + answer for answer in answers]
    return cells


if __name__ == "__main__":
    run_recipe(main, (BuildArguments,), __doc__)
