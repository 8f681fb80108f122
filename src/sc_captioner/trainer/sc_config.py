"""Settings of `SCTrainer`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from trl import GRPOConfig

from ..prompts import CORRECTION_INSTRUCTION


KLEstimator = Literal["k1", "k2", "k3"]
Advantage = Literal["group", "reinforce"]
PolicyTurns = Literal["second", "both"]


@dataclass
class SCConfig(GRPOConfig):
    r"""
    Settings of [`SCTrainer`]: everything of [`~trl.GRPOConfig`], plus the two-turn objective.

    The objective is `-A(y2) log pi(y2 | image, prompt, y1, instruction)
    + beta * KL_1 + second_turn_beta * KL_2` (SC-Captioner, section 3; docs/concepts.md). `max_completion_length`
    and the sampling settings hold for each of the two turns.

    With `first_turn_weight` the first caption learns from a reward of its own, beside the second one's. SCoRe (arXiv
    2409.12917): `policy_turns="both"`, `num_corrections=1`, rewards of single captions; stage I with a large `beta`,
    stage II with `first_turn_weight=1` and `progress_weight=10`.

    Args:
        instruction (`str`): User message that asks for the correction, inserted after the first caption.
        num_corrections (`int`, *optional*):
            Corrections sampled per first caption. `None` means `num_generations`: the whole group corrects one and
            the same caption, so that only the correction explains differences of reward. `1` gives every sample its
            own first caption. Must divide `num_generations`.
        reference_corrections (`int`, defaults to `0`):
            Corrections of every first caption, of `num_corrections`, that are not sampled but say what is right: the
            reference (column `reference`) or, where that earns no more than leaving the caption alone, the first
            caption. The group learns from what it would not find by sampling, in proportion to how much better that is
            than what it found, and from whole sentences, which hold the grammar; and it learns to leave right alone.
        policy_turns (`str`, defaults to `"second"`):
            Tokens that carry the policy gradient of the second caption's reward: those of the `"second"` turn, or of
            `"both"`.
        first_turn_weight (`float`, defaults to `0.0`):
            Weight of the policy gradient of the first caption's own reward (`first_turn_reward_funcs`), on first-turn
            tokens. Its baseline is the mean over the first captions of one prompt, so there must be several:
            `num_corrections` below `num_generations`.
        progress_weight (`float`, defaults to `0.0`):
            SCoRe's alpha: `progress_weight * (r(y2) - r(y1))` is added to the second turn's reward. Both should be
            rewards of one caption, as [`CaptionReward`] is; a reward of the correction counts progress already.
        beta (`float`, defaults to `0.05`): Weight of the KL to the reference model on first-turn tokens.
        second_turn_beta (`float`, defaults to `0.01`):
            Weight of the KL on second-turn tokens. Holds the grammar, which no scene-graph reward sees.
        kl_estimator (`str`, defaults to `"k2"`):
            Per-token estimator with `d = log pi - log pi_ref`: `"k1"` is `d` (the released code; its expected
            gradient is zero), `"k2"` is `d**2 / 2`, `"k3"` is `exp(-d) - 1 + d`.
        advantage (`str`, defaults to `"group"`):
            `"group"` subtracts the mean reward of the corrections of one first caption (of one prompt where
            `num_corrections` is 1) and scales by `scale_rewards`; `"reinforce"` takes the reward as it is.
        reuse_first_turn_cache (`bool`, defaults to `True`):
            Generate the second turn from the first turn's KV cache instead of encoding image and caption again.
        freeze_vision_tower (`bool`, defaults to `True`):
            Train the language model only, as released; vision encoder and projector stay as they are.
        average_last (`float`, *optional*):
            Keep the average of the weights over about this share of the steps, the last ones; see [`WeightAverage`].
        use_bias_correction_kl (`bool`, *optional*): TRL's; not available here.
        temperature (`float`, *optional*): Sampling temperature of both turns, above 0.

    Raises:
        ValueError: If a setting contradicts another one; the message names both and the remedy.
    """

    instruction: str = field(
        default=CORRECTION_INSTRUCTION,
        metadata={"help": "User message that asks for the correction, inserted after the first caption."},
    )
    num_corrections: int | None = field(
        default=None,
        metadata={
            "help": "Corrections sampled per first caption; must divide num_generations. Default: num_generations, "
            "the whole group corrects one caption. 1: every sample has a first caption of its own."
        },
    )
    reference_corrections: int = field(
        default=0,
        metadata={
            "help": "Corrections of every first caption that are not sampled but say the reference, or a right "
            "first caption once more."
        },
    )
    policy_turns: PolicyTurns = field(
        default="second", metadata={"help": "Turns that carry the policy gradient of the second caption's reward."}
    )
    first_turn_weight: float = field(
        default=0.0, metadata={"help": "Weight of the policy gradient of the first caption's own reward."}
    )
    progress_weight: float = field(
        default=0.0, metadata={"help": "Weight of the second caption's reward minus the first's, added to the second."}
    )
    beta: float = field(
        default=0.05, metadata={"help": "Weight of the KL to the reference model on first-turn tokens."}
    )
    second_turn_beta: float = field(
        default=0.01, metadata={"help": "Weight of the KL to the reference model on second-turn tokens."}
    )
    kl_estimator: KLEstimator = field(default="k2", metadata={"help": "Per-token KL estimator."})
    advantage: Advantage = field(
        default="group",
        metadata={
            "help": "group: reward minus the mean of the corrections of one first caption; reinforce: the reward."
        },
    )
    reuse_first_turn_cache: bool = field(
        default=True, metadata={"help": "Generate the second turn from the first turn's KV cache."}
    )
    freeze_vision_tower: bool = field(
        default=True, metadata={"help": "Train the language model (or its adapter) only, as released."}
    )
    average_last: float | None = field(
        default=None,
        metadata={"help": "Keep the average of the weights over about this share of the steps, the last ones."},
    )
    use_bias_correction_kl: bool = field(
        default=False, metadata={"help": "Not available here: the per-turn KL estimators are chosen by kl_estimator."}
    )
    temperature: float = field(default=0.9, metadata={"help": "Sampling temperature of both turns."})

    def __post_init__(self) -> None:
        # Without this, accelerate lets several CPU processes train each for itself.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        super().__post_init__()
        for name, kinds in (("policy_turns", PolicyTurns), ("kl_estimator", KLEstimator), ("advantage", Advantage)):
            value, known = getattr(self, name), get_args(kinds)
            if value not in known:
                raise ValueError(f"{name}={value!r} is unknown; choose one of {', '.join(known)}.")
        if not self.instruction.strip():
            raise ValueError("instruction is empty; the second turn needs a user message that asks for a correction.")
        if self.beta == 0.0 and self.second_turn_beta != 0.0:
            raise ValueError(
                f"second_turn_beta={self.second_turn_beta} needs the reference model, which is loaded only if beta is "
                "above 0; set beta to a small value such as 1e-8, or second_turn_beta to 0."
            )
        if self.multi_objective_aggregation != "sum_then_normalize":
            raise ValueError(
                "SCTrainer adds rewards up before it takes advantages; set multi_objective_aggregation to "
                "sum_then_normalize."
            )
        if self.use_bias_correction_kl:
            raise ValueError("use_bias_correction_kl is not available with per-turn KL terms; set it to False.")
        if self.use_transformers_continuous_batching:
            raise ValueError(
                "use_transformers_continuous_batching does not carry images; set use_vllm for fast generation instead."
            )
        self._check_num_corrections()
        self._check_first_turn()

    def _check_num_corrections(self) -> None:
        group = self.num_generations or 1
        corrections = self.num_corrections = group if self.num_corrections is None else self.num_corrections
        if corrections < 1 or group % corrections:
            raise ValueError(f"num_corrections={corrections} must be a divisor of num_generations={group}.")
        rows = self.per_device_train_batch_size * (self.steps_per_generation or 1)
        if rows % corrections:
            raise ValueError(
                f"num_corrections={corrections} must divide what one process generates at a time, "
                f"per_device_train_batch_size * steps_per_generation = {rows}; raise either of them."
            )
        if not 0 <= self.reference_corrections < corrections:
            raise ValueError(
                f"reference_corrections={self.reference_corrections} must leave a correction to sample: at least 0, "
                f"less than num_corrections={corrections}."
            )
        in_eval = self.num_generations_eval or group
        if in_eval % min(corrections, in_eval):
            raise ValueError(
                f"num_generations_eval={in_eval} must be a multiple of "
                f"num_corrections={corrections}, or smaller than it."
            )

    def _check_first_turn(self) -> None:
        for name in ("first_turn_weight", "progress_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative; 0 switches it off.")
        if self.first_turn_weight and self.advantage == "group" and self.num_corrections == self.num_generations:
            raise ValueError(
                f"first_turn_weight={self.first_turn_weight} compares the first captions of one prompt, but "
                f"num_corrections={self.num_corrections} leaves only one; set num_corrections to a smaller divisor of "
                f"num_generations={self.num_generations}."
            )
