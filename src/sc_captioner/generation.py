"""Turns of one conversation: caption, instruction, corrected caption; for training and for inference."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, ProcessorMixin
    from transformers.generation.streamers import BaseStreamer

_FIRST_CAPTION = "FIRST-CAPTION-STANDS-HERE"


@dataclass(frozen=True)
class Bridge:
    """Tokens between the two captions.

    Args:
        close (`tuple[int, ...]`): Ends an assistant turn; put in only where the first caption was cut off.
        ask (`tuple[int, ...]`): The instruction as a user turn, then the start of the assistant's turn.
    """

    close: tuple[int, ...]
    ask: tuple[int, ...]

    def after(self, caption_ids: Sequence[int], eos_token_ids: Sequence[int]) -> list[int]:
        """Tokens to put behind a first caption, so that a cut-off one is closed as the chat template closes it.

        Args:
            caption_ids (`Sequence[int]`): Tokens of a first caption.
            eos_token_ids (`Sequence[int]`): Tokens that end a turn.
        """
        closed = bool(caption_ids) and caption_ids[-1] in eos_token_ids
        return [*(() if closed else self.close), *self.ask]


@dataclass(frozen=True)
class Turns:
    """Token ids of one sample's two turns; both captions end with their end-of-turn token unless they were cut off.

    Args:
        first (`list[int]`): The first caption.
        bridge (`list[int]`): What was put between the turns: end of turn, instruction, beginning of the next turn.
        second (`list[int]`): The correction.
    """

    first: list[int]
    bridge: list[int]
    second: list[int]


def correction_bridge(
    processor: ProcessorMixin, instruction: str, eos_token_ids: Sequence[int], **chat_template_kwargs: Any
) -> Bridge:
    """What the model's chat template writes between a first caption and its correction.

    Args:
        processor ([`~transformers.ProcessorMixin`]): Its chat template renders the conversation.
        instruction (`str`): Text of the second user turn.
        eos_token_ids (`Sequence[int]`): Tokens that end a turn; the first one closes a cut-off caption where the
            template itself writes none.

    Raises:
        ValueError: If the template drops or rewrites an assistant's turn, so that nothing can be put behind it.
    """
    conversation: list[Any] = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Caption."}]},
        {"role": "assistant", "content": [{"type": "text", "text": _FIRST_CAPTION}]},
        {"role": "user", "content": [{"type": "text", "text": instruction}]},
    ]
    text = processor.apply_chat_template(
        conversation, tokenize=False, add_generation_prompt=True, **chat_template_kwargs
    )
    if text.count(_FIRST_CAPTION) != 1:
        raise ValueError(
            f"The chat template of {type(processor).__name__} does not repeat the assistant's turn word for word; "
            "self-correction needs the first caption in the context. Set a template that renders it."
        )
    ids = processor.tokenizer(text.split(_FIRST_CAPTION)[1], add_special_tokens=False)["input_ids"]
    end = next((i for i, token in enumerate(ids) if token in eos_token_ids), None)
    # An end-of-turn token further back belongs to the instruction's own turn.
    instruction_start = next((i for i, token in enumerate(ids) if _is_text(processor, token)), len(ids))
    if end is None or end > instruction_start:
        return Bridge(close=(eos_token_ids[0],), ask=tuple(ids))
    return Bridge(close=tuple(ids[: end + 1]), ask=tuple(ids[end + 1 :]))


def _is_text(processor: ProcessorMixin, token: int) -> bool:
    return token not in processor.tokenizer.all_special_ids and bool(processor.tokenizer.decode([token]).strip())


def vision_token_ids(config: Any) -> list[int]:
    """Ids of the tokens that stand for images and videos; a sampled one would not match the image features.

    Args:
        config: Configuration of the model.
    """
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    ids = (getattr(config, name, None) for name in names)
    return sorted({token for token in ids if token is not None})


@torch.no_grad()
def generate_two_turns(
    model: Any,
    inputs: Mapping[str, torch.Tensor],
    bridge: Bridge,
    generation_config: GenerationConfig,
    num_corrections: int = 1,
    reuse_cache: bool = True,
) -> list[Turns]:
    """Sample a first caption for every prompt and `num_corrections` corrections of it.

    Args:
        model ([`~transformers.PreTrainedModel`]): Image-text-to-text model.
        inputs (`Mapping[str, torch.Tensor]`): Left-padded `input_ids` and `attention_mask` of shape `(B, P)` and what
            else the processor returned (pixels, grids, token types).
        bridge ([`Bridge`]): From [`correction_bridge`].
        generation_config ([`~transformers.GenerationConfig`]): Used for both turns.
        num_corrections (`int`, defaults to `1`): Corrections per first caption.
        reuse_cache (`bool`, defaults to `True`): Continue from the first turn's KV cache. Where the model's cache
            cannot be continued (static, sliding window), the context is encoded again, with a warning.

    Returns:
        `list[Turns]` of length `B * num_corrections`, the corrections of one caption side by side.

    Raises:
        ValueError: If several corrections of one caption are asked for without sampling.
    """
    if num_corrections > 1 and not generation_config.do_sample:
        raise ValueError(
            f"num_corrections={num_corrections} greedy corrections would be the same; set do_sample=True."
        )
    eos, pad = _as_list(generation_config.eos_token_id), generation_config.pad_token_id
    first_config, second_config = copy.deepcopy(generation_config), copy.deepcopy(generation_config)
    first_config.return_dict_in_generate = True
    output = model.generate(**inputs, generation_config=first_config)
    first, bridges, context, mask = _asked_to_correct(
        inputs["input_ids"], inputs["attention_mask"], output.sequences, bridge, eos, pad
    )
    cache = output.past_key_values
    if reuse_cache and not _can_continue(cache):
        warnings.warn(
            f"The KV cache of {type(model).__name__} ({type(cache).__name__}) cannot be continued over two turns; the "
            "second turn encodes image and caption again. Set reuse_first_turn_cache=False to silence this.",
            stacklevel=2,
        )
        reuse_cache = False
    if reuse_cache:
        second_inputs = _continued_inputs(model, context, mask, cache, num_corrections)
    else:
        second_inputs = _encoded_again(inputs, context, mask)
        second_config.num_return_sequences = num_corrections
    sequences = model.generate(**second_inputs, generation_config=second_config)
    second = [_up_to_end(row, eos) for row in sequences[:, context.size(1) :].tolist()]
    return [Turns(first[i // num_corrections], bridges[i // num_corrections], ids) for i, ids in enumerate(second)]


@torch.no_grad()
def generate_corrections(
    model: Any,
    inputs: Mapping[str, torch.Tensor],
    bridge: Bridge,
    generation_config: GenerationConfig,
    num_corrections: int = 1,
    streamer: BaseStreamer | None = None,
) -> list[list[list[int]]]:
    """A first caption for every prompt, then corrections in a row, each of the caption before it.

    Every turn goes on from the KV cache of those before it; where that cannot be continued (beams, static or sliding
    caches), image and captions are encoded again.

    Args:
        model ([`~transformers.PreTrainedModel`]), inputs (`Mapping[str, torch.Tensor]`), bridge ([`Bridge`]): As in
            [`generate_two_turns`].
        generation_config ([`~transformers.GenerationConfig`]): Used for every turn.
        num_corrections (`int`, defaults to `1`): Turns after the first.
        streamer ([`~transformers.generation.streamers.BaseStreamer`], *optional*): Gets the tokens of every turn; for
            one prompt only.

    Returns:
        `list[list[list[int]]]`: By prompt and turn the token ids of a caption.

    Raises:
        ValueError: If `generation_config` asks for several captions per prompt.
    """
    config = copy.deepcopy(generation_config)
    if (config.num_return_sequences or 1) > 1:
        raise ValueError("num_return_sequences must be 1: a caption has one correction per turn.")
    config.return_dict_in_generate = True
    eos, pad = _as_list(config.eos_token_id), config.pad_token_id
    context, mask, given = inputs["input_ids"], inputs["attention_mask"], dict(inputs)
    turns = []
    for turn in range(num_corrections + 1):
        output = model.generate(**given, generation_config=config, streamer=streamer)
        captions, _, context, mask = _asked_to_correct(context, mask, output.sequences, bridge, eos, pad)
        turns.append(captions)
        if turn == num_corrections:
            break
        cache = output.past_key_values
        if _can_continue(cache) and (config.num_beams or 1) == 1:
            given = {"input_ids": context, "attention_mask": mask, "past_key_values": cache}
        else:
            given = _encoded_again(inputs, context, mask)
    return [list(captions) for captions in zip(*turns)]


def _asked_to_correct(
    context: torch.Tensor,
    mask: torch.Tensor,
    sequences: torch.Tensor,
    bridge: Bridge,
    eos: Sequence[int],
    pad: int,
) -> tuple[list[list[int]], list[list[int]], torch.Tensor, torch.Tensor]:
    """Captions that `sequences` add to `context`, the bridges behind them, and context and mask with both."""
    ids = sequences[:, context.size(1) :]
    captions = [_up_to_end(row, eos) for row in ids.tolist()]
    bridges = [bridge.after(row, eos) for row in captions]

    # [context | caption, padded right | bridge, padded left]: pads in the middle are masked, and positions count
    # unmasked tokens only, so every row sees what it would see without padding.
    tail = _padded(bridges, pad, left=True, device=context.device)
    caption_mask = _length_mask(captions, ids.size(1), left=False, device=context.device)
    tail_mask = _length_mask(bridges, tail.size(1), left=True, device=context.device)
    masks = [mask, caption_mask.to(mask), tail_mask.to(mask)]
    return captions, bridges, torch.cat([context, ids, tail], dim=1), torch.cat(masks, dim=1)


def _can_continue(cache: Any) -> bool:
    return isinstance(cache, DynamicCache) and all(type(layer) is DynamicLayer for layer in cache.layers)


def _continued_inputs(
    model: PreTrainedModel, context: torch.Tensor, mask: torch.Tensor, cache: DynamicCache, repeats: int
) -> dict[str, Any]:
    if repeats > 1:
        cache.batch_repeat_interleave(repeats)
        context, mask = context.repeat_interleave(repeats, dim=0), mask.repeat_interleave(repeats, dim=0)
        # Qwen-style models keep each row's offset between text and image positions from the prefill.
        for module in model.modules():
            deltas = getattr(module, "rope_deltas", None)
            if isinstance(deltas, torch.Tensor):
                module.rope_deltas = deltas.repeat_interleave(repeats, dim=0)
    return {"input_ids": context, "attention_mask": mask, "past_key_values": cache}


def _encoded_again(
    inputs: Mapping[str, torch.Tensor], context: torch.Tensor, mask: torch.Tensor
) -> dict[str, torch.Tensor]:
    again = {**inputs, "input_ids": context, "attention_mask": mask}
    for key in ("token_type_ids", "mm_token_type_ids"):
        if key in inputs:
            extra = inputs[key].new_zeros(context.size(0), context.size(1) - inputs[key].size(1))
            again[key] = torch.cat([inputs[key], extra], dim=1)
    return again


def _as_list(token_ids: int | list[int]) -> list[int]:
    return [token_ids] if isinstance(token_ids, int) else list(token_ids)


def _up_to_end(ids: list[int], eos_token_ids: Sequence[int]) -> list[int]:
    end = next((i for i, token in enumerate(ids) if token in eos_token_ids), len(ids) - 1)
    return ids[: end + 1]


def _padded(rows: Sequence[Sequence[int]], pad: int, left: bool, device: torch.device) -> torch.Tensor:
    width = max(len(row) for row in rows)
    pads = [[pad] * (width - len(row)) for row in rows]
    filled = [[*fill, *row] if left else [*row, *fill] for row, fill in zip(rows, pads)]
    return torch.tensor(filled, dtype=torch.long, device=device)


def _length_mask(rows: Sequence[Sequence[int]], width: int, left: bool, device: torch.device) -> torch.Tensor:
    lengths = torch.tensor([len(row) for row in rows], device=device).unsqueeze(1)
    columns = torch.arange(width, device=device).unsqueeze(0)
    return columns >= width - lengths if left else columns < lengths
