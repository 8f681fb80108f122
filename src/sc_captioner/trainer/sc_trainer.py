"""GRPO over two turns: the policy captions an image, is told to correct itself, and learns from the correction."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather
from datasets import Dataset, IterableDataset
from transformers import PreTrainedModel, ProcessorMixin, TrainerCallback
from trl import GRPOTrainer

from ..adapters import adapter_to_train
from ..data.columns import DatasetError, conversational
from ..data.model_checks import check_captioner, load_config, load_processor
from ..generation import Turns, correction_bridge
from .hub_trainer import HubTrainer
from .objective import (
    correction_advantages,
    first_turn_advantages,
    token_advantages,
    token_kl,
    turn_masks,
    with_progress,
)
from .rollout import suppress_vision_tokens, two_turn_rollout
from .sc_config import SCConfig
from .trainable_weights import freeze_vision_tower, keep_adapters_in_float32
from .weight_average import WeightAverage


if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import BitsAndBytesConfig

RewardFunction = Callable[..., list[float | None]]

# Private methods of TRL that this module calls or overrides, with the parameters they had in TRL 1.16.0. A test
# compares them with the installed TRL, so that a release that changes one is noticed before it trains anything wrong.
TRL_PRIVATE_API = {
    "_tokenize_prompts": ("self", "prompts"),
    "_generate_single_turn": (
        "self",
        "prompt_ids",
        "images",
        "multimodal_fields",
        "num_generations",
        "has_tool_images",
    ),  # fmt: skip
    "_calculate_rewards": ("self", "inputs", "prompts", "completions", "completion_ids_list"),
    "_generate_and_score_completions": ("self", "inputs"),
    "_get_per_token_logps_and_entropies": (
        "self",
        "model",
        "input_ids",
        "attention_mask",
        "logits_to_keep",
        "batch_size",
        "compute_entropy",
        "compute_aux_loss",
        "pixel_values",
        "image_grid_thw",
        "num_images",
        "pixel_attention_mask",
        "spatial_shapes",
        "num_tiles",
        "image_sizes",
        "token_type_ids",
        "mm_token_type_ids",
        "image_position_ids",
    ),  # fmt: skip
    "_compute_loss": ("self", "model", "inputs"),
    "_log_metric": ("self", "name", "value"),
    "_log_completion_extra": ("self", "column", "values"),
    # of transformers' Trainer, by HubTrainer
    "_save": ("self", "output_dir", "state_dict"),
    "_push_from_checkpoint": ("self", "checkpoint_folder"),
    "_finish_current_push": ("self",),
}


class SCTrainer(HubTrainer, GRPOTrainer):
    """
    Trainer for SC-Captioner ([paper](https://huggingface.co/papers/2508.06125)): reinforcement learning of
    self-correction. Every sample is a conversation of two turns, image and prompt -> first caption -> instruction ->
    second caption; the reward judges what the second caption changed.

    Example:

    ```python
    from sc_captioner import CorrectionReward, SCConfig, SCTrainer
    from sc_captioner.data import load_caption_dataset

    trainer = SCTrainer(
        model="Qwen/Qwen2-VL-2B-Instruct",
        reward_funcs=CorrectionReward(parser="compact"),
        args=SCConfig("qwen2-vl-sc"),
        train_dataset=load_caption_dataset("scenes", num_samples=1000),
    )
    trainer.train()
    ```

    Args:
        model (`str` or [`~transformers.PreTrainedModel`]):
            The captioner after supervised fine-tuning; also the reference model of the KL terms. A path or Hub id, or
            a model loaded from one (TRL reloads the reference model from there). Training of an adapter goes on where
            it was, and the adapter as it was is the reference.
        reward_funcs (`Callable` or `list[Callable]`):
            TRL reward functions of the second turn. Beside the dataset's columns they receive `first_caption` and
            `second_caption`; a `None` in their result leaves that sample out of the update.
        args ([`SCConfig`], *optional*): Settings.
        train_dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            Columns `prompt` (a text, or a conversation of one user message) and `image` (or `images`), and what the
            reward functions ask for ([`CorrectionReward`] asks for `reference`).
        eval_dataset (*optional*): Like `train_dataset`.
        processing_class ([`~transformers.ProcessorMixin`], *optional*): Defaults to the model's own processor.
        callbacks, optimizers, quantization_config, peft_config (*optional*): As in [`~trl.GRPOTrainer`].
        first_turn_reward_funcs (`Callable` or `list[Callable]`, *optional*):
            Reward functions of the first caption by itself ([`CaptionReward`]), which `first_turn_weight` and
            `progress_weight` need. `reward_weights`, if set, holds their weights behind those of `reward_funcs`.

    Raises:
        ModelError, DatasetError, ValueError: If model, processor, dataset or settings do not fit together; the message
            names the remedy.
    """

    args: SCConfig
    model: PreTrainedModel
    processing_class: ProcessorMixin
    num_generations: int
    num_generations_eval: int
    max_completion_length: int
    chat_template_kwargs: dict[str, Any]
    _logs: dict[str, Any]

    _tag_names = ["trl", "sc-captioner", "image-to-text"]
    _name = "SC-Captioner"
    _paper = {
        "title": "SC-Captioner: Improving Image Captioning with Self-Correction by Reinforcement Learning",
        "id": "2508.06125",
    }

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        reward_funcs: RewardFunction | list[RewardFunction],
        args: SCConfig | None = None,
        train_dataset: Dataset | IterableDataset | None = None,
        eval_dataset: Dataset | IterableDataset | dict[str, Dataset | IterableDataset] | None = None,
        processing_class: ProcessorMixin | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
        quantization_config: BitsAndBytesConfig | None = None,
        peft_config: PeftConfig | None = None,
        first_turn_reward_funcs: RewardFunction | list[RewardFunction] | None = None,
    ):
        name = model if isinstance(model, str) else model.config._name_or_path
        if args is None:
            args = SCConfig(f"{Path(name).name}-SC")
        if args.average_last is not None:
            callbacks = [*(callbacks or ()), WeightAverage(args.average_last)]
        is_quantised = quantization_config is not None
        if isinstance(model, str) and (adapter := adapter_to_train(model, args, peft_config, quantization_config)):
            model, quantization_config = adapter, None
        config, processing_class = _config_and_processor(model, processing_class, args)
        check_captioner(config, processing_class, name=name)
        rewards, first_rewards = _as_list(reward_funcs), _as_list(first_turn_reward_funcs)
        _check_first_turn(args, first_rewards)
        needed = ("reference",) if args.reference_corrections else ()
        train_dataset = _conversations(train_dataset, "train_dataset", needed)
        if isinstance(eval_dataset, dict):
            eval_dataset = {key: _conversations(rows, f"eval_dataset {key!r}") for key, rows in eval_dataset.items()}
        else:
            eval_dataset = _conversations(eval_dataset, "eval_dataset")
        with warnings.catch_warnings():
            # `rollout_func` is the documented hook for this; its API is pinned and tested here.
            warnings.filterwarnings("ignore", message="You are using 'rollout_func'")
            super().__init__(
                model=model,
                reward_funcs=[*rewards, *first_rewards],
                args=args,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=processing_class,
                callbacks=callbacks,
                optimizers=optimizers,
                quantization_config=quantization_config,
                peft_config=peft_config,
                rollout_func=two_turn_rollout,  # type: ignore[arg-type]
            )
        if args.freeze_vision_tower:
            freeze_vision_tower(self.accelerator.unwrap_model(self.model))
        # Sharded weights are all of one type.
        if is_quantised and not (self.is_deepspeed_enabled or self.is_fsdp_enabled):
            keep_adapters_in_float32(self.model)
        self.bridge = correction_bridge(
            self.processing_class, args.instruction, self.eos_token_ids, **self.chat_template_kwargs
        )
        suppress_vision_tokens(self)
        self.num_corrections = args.num_corrections or self.num_generations
        # TRL calls, gathers and logs the functions of both turns alike; what it adds up is the second turn's.
        self.first_reward_weights = self.reward_weights[len(rewards) :].clone()
        self.reward_weights[len(rewards) :] = 0
        self.rows: list[dict[str, Any]] = []
        self._sample_rewards = self._first_rewards = torch.empty(0)
        self._policy_logps: torch.Tensor | None = None

    @property
    def corrections_per_caption(self) -> int:
        """Corrections that share one first caption in the current mode (training or evaluation)."""
        if self.model.training:
            return self.num_corrections
        return min(self.num_corrections, self.num_generations_eval)

    @property
    def references_per_caption(self) -> int:
        """Of these corrections, the last ones that are not sampled but say what is right; none in evaluation."""
        return self.args.reference_corrections if self.model.training else 0

    def rewards_of(self, rows: list[dict[str, Any]], turns: list[Turns]) -> torch.Tensor:
        """Rewards of corrections that are being considered, shape `(N,)`; NaN where unknown. Nothing of it is logged.

        Args:
            rows (`list[dict]`): Rows of the dataset.
            turns (`list[Turns]`): Two turns for every row.
        """
        ids = [turn.first + turn.bridge + turn.second for turn in turns]
        first, second, whole = (
            [text.strip() for text in self.processing_class.batch_decode(tokens, skip_special_tokens=True)]
            for tokens in ([turn.first for turn in turns], [turn.second for turn in turns], ids)
        )
        texts = [{"first_caption": a, "second_caption": b} for a, b in zip(first, second)]
        inputs = [{**row, **captions} for row, captions in zip(rows, texts)]
        completions = [[{"role": "assistant", "content": text}] for text in whole]
        logged = self._pending_metrics, self._pending_extra_logs
        self._pending_metrics, self._pending_extra_logs = defaultdict(list), defaultdict(list)
        try:
            rewards = super()._calculate_rewards(inputs, [row["prompt"] for row in rows], completions, ids)
        finally:
            self._pending_metrics, self._pending_extra_logs = logged
        start, second_turn = self.accelerator.process_index * len(rows), self.reward_weights != 0
        mine = rewards[start : start + len(rows), second_turn.to(rewards.device)]
        return _weighted(mine, self.reward_weights[second_turn])

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        rewards_per_func = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        num_second = rewards_per_func.size(1) - len(self.first_reward_weights)
        self._sample_rewards = _weighted(rewards_per_func[:, :num_second], self.reward_weights[:num_second])
        metrics = self._metrics["train" if self.model.training else "eval"]
        metrics["skipped_samples"].append(self._sample_rewards.isnan().sum().item())
        if self.references_per_caption:
            sampled = self._sample_rewards.view(-1, self.num_corrections)[:, : -self.references_per_caption]
            metrics["second_turn/sampled_reward"].append(sampled.nanmean().item())
        if len(self.first_reward_weights):
            self._first_rewards = _weighted(rewards_per_func[:, num_second:], self.first_reward_weights)
            metrics["first_turn/reward"].append(self._first_rewards.nanmean().item())
            self._sample_rewards = with_progress(self._sample_rewards, self._first_rewards, self.args.progress_weight)
        return rewards_per_func

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self.rows = inputs
        output = super()._generate_and_score_completions(inputs)
        # TRL takes the baseline over a prompt's whole group; ours is over the corrections of one first caption.
        num_corrections = self.corrections_per_caption
        group = self.num_generations if self.model.training else self.num_generations_eval
        kind, scale = self.args.advantage, self.scale_rewards
        advantages = correction_advantages(
            self._sample_rewards, num_corrections if num_corrections > 1 else group, kind, scale
        )
        logged = self._logs["advantages"]
        for _ in range(min(len(advantages), len(logged))):
            logged.pop()
        logged.extend(advantages.tolist())
        start = self.accelerator.process_index * len(inputs)
        rows = slice(start, start + len(inputs))
        output["advantages"] = advantages[rows]
        if self.args.first_turn_weight:
            first = first_turn_advantages(self._first_rewards, group, num_corrections, kind, scale)
            first_mask, _ = turn_masks(output["completion_mask"], output["tool_mask"])
            output["advantages"] = token_advantages(
                self.args.first_turn_weight * first[rows], advantages[rows], first_mask, self.args.policy_turns
            )
        # Of the corrections of a caption the last ones are not samples, so no KL is estimated on them.
        place = torch.arange(len(inputs), device=self.accelerator.device) % num_corrections
        output["is_sampled"] = (place < num_corrections - self.references_per_caption).int()
        output["num_items_in_batch"] = gather(self._policy_mask(output).sum()).sum()
        return output

    def _policy_mask(self, inputs: dict[str, Any]) -> torch.Tensor:
        if self.args.policy_turns == "both" or self.args.first_turn_weight:
            return inputs["completion_mask"] * inputs["tool_mask"]
        return turn_masks(inputs["completion_mask"], inputs["tool_mask"])[1]

    def _get_per_token_logps_and_entropies(self, *args, **kwargs):
        result = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        self._policy_logps = result[0]  # one forward pass serves TRL's policy loss and the KL of both turns
        return result

    def _compute_loss(self, model, inputs):
        # TRL's loss, restricted to the turns that carry the policy gradient and without its KL over everything.
        beta, self.beta = self.beta, 0.0
        try:
            loss = super()._compute_loss(model, {**inputs, "tool_mask": self._policy_mask(inputs)})
        finally:
            self.beta = beta
            logps, self._policy_logps = self._policy_logps, None
        if beta == 0.0 or logps is None:
            return loss

        kl = token_kl(logps, inputs["ref_per_token_logps"], self.args.kl_estimator)
        first_mask, second_mask = turn_masks(inputs["completion_mask"], inputs["tool_mask"])
        masks = first_mask, second_mask * inputs["is_sampled"].unsqueeze(1)
        mode = "train" if self.model.training else "eval"
        accumulation = self.current_gradient_accumulation_steps if mode == "train" else 1
        for name, weight, mask in zip(("first_turn", "second_turn"), (beta, self.args.second_turn_beta), masks):
            loss = loss + weight * self._mean_over_turn(kl, mask) / accumulation
            mean_kl = (kl.detach() * mask).sum() / mask.sum().clamp(min=1)
            self._metrics[mode][f"{name}/kl"].append(self.accelerator.gather(mean_kl).mean().item())
        return loss

    def _mean_over_turn(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        # Normalised as the policy loss is, so that the KL weights mean the same under every `loss_type`.
        if self.loss_type == "dr_grpo":
            return (values * mask).sum() / (values.size(0) * self.max_completion_length)
        if self.loss_type in ("grpo", "sapo"):
            return ((values * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)).mean()
        return (values * mask).sum() / mask.sum().clamp(min=1)


def _as_list(functions: RewardFunction | list[RewardFunction] | None) -> list[RewardFunction]:
    if functions is None:
        return []
    return list(functions) if isinstance(functions, list) else [functions]


def _check_first_turn(args: SCConfig, functions: list[RewardFunction]) -> None:
    if functions:
        return
    for name in ("first_turn_weight", "progress_weight"):
        if getattr(args, name):
            raise ValueError(
                f"{name}={getattr(args, name)} needs a reward of the first caption: pass first_turn_reward_funcs, as "
                'in first_turn_reward_funcs=CaptionReward("first").'
            )


def _weighted(rewards_per_func: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Reward of every sample, shape `(N,)`; NaN where no function knows one."""
    rewards = (rewards_per_func * weights.to(rewards_per_func.device)).nansum(dim=1)
    return rewards.masked_fill(rewards_per_func.isnan().all(dim=1), torch.nan)


def _config_and_processor(
    model: str | PreTrainedModel | PeftModel, processor: ProcessorMixin | None, args: SCConfig
) -> tuple[Any, ProcessorMixin]:
    # Both are small and checked before the weights are loaded.
    options: dict[str, Any] = {"trust_remote_code": args.trust_remote_code}
    if not isinstance(model, str):
        return model.config, processor or load_processor(model.config._name_or_path, **options)
    if isinstance(args.model_init_kwargs, dict):
        options["revision"] = args.model_init_kwargs.get("revision")
    return load_config(model, **options), processor or load_processor(model, **options)


def _conversations(
    dataset: Dataset | IterableDataset | None, setting: str, needed: tuple[str, ...] = ()
) -> Dataset | IterableDataset | None:
    names = getattr(dataset, "column_names", None)
    if names is None:
        return dataset
    for column in ("prompt", "image", *needed):
        if column not in names and not (column == "image" and "images" in names):
            raise DatasetError(
                f"{setting} has no column {column!r} (it has {', '.join(map(repr, names))}); rename the right one."
            )
    return conversational(dataset)
