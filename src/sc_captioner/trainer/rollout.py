"""The rollout that TRL calls instead of its own single turn: images and prompts in, both turns' tokens out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from trl.models import unwrap_model_for_generation
from trl.trainer.utils import pad

from ..generation import Turns, generate_two_turns, vision_token_ids


if TYPE_CHECKING:
    from trl import GRPOTrainer

    from .sc_trainer import SCTrainer


def suppress_vision_tokens(trainer: GRPOTrainer) -> None:
    """Keep the policy from sampling tokens that stand for images: the forward pass would look for their pixels.

    Args:
        trainer (`GRPOTrainer`): With its model and its generation settings, which are changed.
    """
    tokens = vision_token_ids(trainer.accelerator.unwrap_model(trainer.model).config)
    if trainer.use_vllm:
        bias = {"logit_bias": dict.fromkeys(tokens, -100.0)}
        trainer.vllm_generation.generation_kwargs = {**bias, **trainer.vllm_generation.generation_kwargs}
    else:
        trainer.generation_config.suppress_tokens = tokens


def two_turn_rollout(prompts: list[list[dict[str, Any]]], trainer: SCTrainer) -> dict[str, list | None]:
    """Caption, instruct, caption again.

    Args:
        prompts (`list`): Conversations with their images, each repeated once per sample of its group (TRL's contract
            for `rollout_func`).
        trainer ([`SCTrainer`]): Gives model, processor, generation settings and the vLLM engine.

    Returns:
        `dict` with `prompt_ids`, `completion_ids` (first caption, instruction, second caption), `logprobs` (`None`
        without vLLM), `env_mask` (0 on the instruction), and for the reward functions `first_caption` and
        `second_caption`.
    """
    repeats, references = trainer.corrections_per_caption, trainer.references_per_caption
    prompt_ids, images, fields = trainer._tokenize_prompts(prompts[::repeats])
    logprobs: list[list[float]] | None = None
    if trainer.use_vllm:
        turns, logprobs = _with_vllm(trainer, prompt_ids, images, fields, repeats - references)
    else:
        turns = _with_transformers(trainer, prompt_ids, fields, repeats - references)
    if references:
        turns, logprobs = _with_references(trainer, turns, logprobs, repeats)

    first, second = ([getattr(turn, name) for turn in turns] for name in ("first", "second"))
    decode = trainer.processing_class.batch_decode
    first_text = [text.strip() for text in decode(first, skip_special_tokens=True)]
    second_text = [text.strip() for text in decode(second, skip_special_tokens=True)]
    _log(trainer, first, second, first_text, second_text)
    return {
        "prompt_ids": [ids for ids in prompt_ids for _ in range(repeats)],
        "completion_ids": [turn.first + turn.bridge + turn.second for turn in turns],
        "env_mask": [[1] * len(turn.first) + [0] * len(turn.bridge) + [1] * len(turn.second) for turn in turns],
        "logprobs": logprobs,
        "first_caption": first_text,
        "second_caption": second_text,
    }


def _with_transformers(
    trainer: SCTrainer, prompt_ids: list[list[int]], fields: dict[str, Any], repeats: int
) -> list[Turns]:
    def left_padded(rows: list[list[int]], value: int) -> torch.Tensor:
        return pad([torch.as_tensor(row) for row in rows], padding_value=value, padding_side="left")

    inputs = {
        "input_ids": left_padded(prompt_ids, trainer._tokenizer.pad_token_id),
        "attention_mask": left_padded([[1] * len(ids) for ids in prompt_ids], 0),
    }
    for key, value in fields.items():
        inputs[key] = value if isinstance(value, torch.Tensor) else left_padded(value, 0)
    inputs = {key: value.to(trainer.accelerator.device) for key, value in inputs.items()}
    with (
        unwrap_model_for_generation(
            trainer.model_wrapped,
            trainer.accelerator,
            gather_deepspeed3_params=trainer.args.ds3_gather_for_generation,
            generation_kwargs=trainer.generation_kwargs,
            gradient_checkpointing_kwargs=trainer.args.gradient_checkpointing_kwargs,  # type: ignore[arg-type]
        ) as model,
        torch.no_grad(),
        trainer._dist.summon_full_params(trainer.model_wrapped, recurse=False),
    ):
        return generate_two_turns(
            model, inputs, trainer.bridge, trainer.generation_config, repeats, trainer.args.reuse_first_turn_cache
        )


def _with_vllm(
    trainer: SCTrainer, prompt_ids: list[list[int]], images: list | None, fields: dict[str, Any], repeats: int
) -> tuple[list[Turns], list[list[float]]]:
    # The engine takes token ids and caches prefixes itself, so the second turn is one more prompt that begins with
    # the first turn's tokens. TRL's server mode samples each group from its first prompt: hence the group sizes.
    group = trainer.num_generations if trainer.model.training else trainer.num_generations_eval
    captions = group // trainer.corrections_per_caption
    first, first_logprobs = trainer._generate_single_turn(prompt_ids, images, fields, captions)
    bridges = [trainer.bridge.after(ids, trainer.eos_token_ids) for ids in first]
    contexts = [p + f + b for p, f, b in zip(prompt_ids, first, bridges) for _ in range(repeats)]
    context_images = None if images is None else [row for row in images for _ in range(repeats)]
    second, second_logprobs = trainer._generate_single_turn(contexts, context_images, {}, repeats)
    turns, logprobs = [], []
    for i, (ids, logps) in enumerate(zip(second, second_logprobs)):
        row = i // repeats
        turns.append(Turns(first[row], bridges[row], ids))
        logprobs.append([*first_logprobs[row], *[0.0] * len(bridges[row]), *logps])
    return turns, logprobs


def _with_references(
    trainer: SCTrainer, turns: list[Turns], logprobs: list[list[float]] | None, repeats: int
) -> tuple[list[Turns], list[list[float]] | None]:
    """Behind the sampled corrections of every first caption, what is right as its last ones."""
    sampled = repeats - trainer.references_per_caption
    right = _right_corrections(trainer, turns[::sampled])
    together, known = [], []
    for i in range(0, len(turns), sampled):
        answer = right[i // sampled]
        together += [*turns[i : i + sampled], *[answer] * (repeats - sampled)]
        if logprobs:
            known += logprobs[i : i + sampled]
            # TRL takes a token whose probability in sampling is unknown as it is, without a correction.
            of_first = logprobs[i][: len(answer.first) + len(answer.bridge)]
            known += [[*of_first, *[float("nan")] * len(answer.second)]] * (repeats - sampled)
    return together, known if logprobs else None


def _right_corrections(trainer: SCTrainer, turns: list[Turns]) -> list[Turns]:
    """The right answer to every first caption: the reference or, where it earns no less, the caption as it stands."""
    rows = trainer.rows[:: trainer.corrections_per_caption]
    texts = [row.get("reference") or "" for row in rows]
    references = []
    for turn, text in zip(turns, texts):
        ids = trainer._tokenizer(text, add_special_tokens=False)["input_ids"] + [trainer.eos_token_ids[0]]
        references.append(replace(turn, second=ids[: trainer.max_completion_length]))
    as_they_stand = [replace(turn, second=turn.first) for turn in turns]
    left, said = (trainer.rewards_of(rows, candidates) for candidates in (as_they_stand, references))
    return [as_they_stand[i] if left[i] >= said[i] else references[i] for i in range(len(turns))]


def _log(
    trainer: SCTrainer,
    first: list[list[int]],
    second: list[list[int]],
    first_text: list[str],
    second_text: list[str],
) -> None:
    for name, ids in (("first_turn", first), ("second_turn", second)):
        cut_off = sum(row[-1] not in trainer.eos_token_ids for row in ids)
        trainer._log_metric(f"{name}/mean_length", sum(map(len, ids)) / len(ids))
        trainer._log_metric(f"{name}/clipped_ratio", cut_off / len(ids))
    unchanged = sum(a == b for a, b in zip(first_text, second_text))
    trainer._log_metric("second_turn/unchanged_ratio", unchanged / len(first_text))
    trainer._log_completion_extra("first_caption", first_text)
    trainer._log_completion_extra("second_caption", second_text)
