"""The pure parts of the two-turn objective: turn masks, KL estimators, advantages."""

from __future__ import annotations

import torch

from .sc_config import Advantage, KLEstimator, PolicyTurns


def turn_masks(completion_mask: torch.Tensor, policy_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of the first and of the second turn.

    Args:
        completion_mask (`torch.Tensor`): Shape `(B, T)`, 1 on tokens, 0 on padding.
        policy_mask (`torch.Tensor`): Shape `(B, T)`, 1 on sampled tokens, 0 on the inserted instruction.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: Two masks of shape `(B, T)`. The instruction separates the turns: sampled
        tokens before it are the first caption, after it the second.
    """
    sampled = completion_mask * policy_mask
    before_instruction = (1 - policy_mask).cumsum(dim=1) == 0
    return sampled * before_instruction, sampled * ~before_instruction


def token_kl(logps: torch.Tensor, ref_logps: torch.Tensor, estimator: KLEstimator) -> torch.Tensor:
    """Per-token estimate of `KL(pi || pi_ref)` on tokens sampled from `pi`, same shape as the inputs.

    With `d = logps - ref_logps`: k1 is `d` (unbiased, but its gradient has expectation zero, so it regularises
    nothing), k2 is `d**2 / 2`, k3 is `exp(-d) - 1 + d` (Schulman, "Approximating KL divergence", 2020).

    Args:
        logps (`torch.Tensor`): Log-probabilities under the policy, any shape.
        ref_logps (`torch.Tensor`): Those under the reference model, the same shape.
        estimator (`KLEstimator`): `k1`, `k2` or `k3`.
    """
    log_ratio = logps - ref_logps
    if estimator == "k1":
        return log_ratio
    if estimator == "k2":
        return log_ratio.square() / 2
    return torch.exp(-log_ratio) - 1 + log_ratio


def with_progress(second: torch.Tensor, first: torch.Tensor, weight: float) -> torch.Tensor:
    """Reward of the second turn with SCoRe's bonus: `r(y2) + weight * (r(y2) - r(y1))`.

    Args:
        second, first (`torch.Tensor`): Shape `(N,)`, rewards of both captions; NaN where one is not known.
        weight (`float`): SCoRe's alpha (arXiv 2409.12917, section 4.2).
    """
    return second + weight * (second - first) if weight else second


def correction_advantages(
    rewards: torch.Tensor, group_size: int, kind: Advantage, scale: str = "group"
) -> torch.Tensor:
    """Advantage of every correction.

    Args:
        rewards (`torch.Tensor`): Shape `(N,)`, samples of one group side by side; NaN where no reward is known.
        group_size (`int`): Samples that share a baseline; divides `N`.
        kind (`str`): `"group"` subtracts the group's mean; `"reinforce"` keeps the reward (SC-Captioner, section 3).
        scale (`str`): What divides a `"group"` advantage: standard deviation of the `"group"` or `"batch"`, `"none"`.

    Returns:
        `torch.Tensor`: Shape `(N,)`; 0 where the reward is NaN, so that such a sample moves nothing.
    """
    if kind == "reinforce":
        return rewards.nan_to_num(nan=0.0)
    groups = rewards.view(-1, group_size)
    centred = groups - groups.nanmean(dim=1, keepdim=True)
    if scale == "group":
        centred = centred / (_nanstd(centred, dim=1) + 1e-4)
    elif scale == "batch":
        centred = centred / (_nanstd(rewards - rewards.nanmean(), dim=0) + 1e-4)
    return centred.flatten().nan_to_num(nan=0.0)


def first_turn_advantages(
    rewards: torch.Tensor, group_size: int, num_corrections: int, kind: Advantage, scale: str = "group"
) -> torch.Tensor:
    """Advantage of every sample's first caption: against the other first captions of its prompt.

    Args:
        rewards (`torch.Tensor`): Shape `(N,)`, of the first captions; those that share one stand side by side.
        group_size (`int`): Samples per prompt; divides `N`.
        num_corrections (`int`): Samples that share a first caption, which counts once; divides `group_size`.
        kind, scale (`str`): As in [`correction_advantages`].

    Returns:
        `torch.Tensor`: Shape `(N,)`.
    """
    captions = rewards[::num_corrections]
    advantages = correction_advantages(captions, group_size // num_corrections, kind, scale)
    return advantages.repeat_interleave(num_corrections)


def token_advantages(
    first: torch.Tensor, second: torch.Tensor, first_mask: torch.Tensor, policy_turns: PolicyTurns
) -> torch.Tensor:
    """Advantage of every token: the second caption's, and on first-turn tokens the first caption's.

    Args:
        first, second (`torch.Tensor`): Shape `(B,)`, advantages of the captions of each turn.
        first_mask (`torch.Tensor`): Shape `(B, T)`, 1 on tokens of the first turn.
        policy_turns (`str`): With `"both"` what the first caption made possible is put down to it as well: its tokens
            get both advantages.

    Returns:
        `torch.Tensor`: Shape `(B, T)`.
    """
    first, second, first_mask = first.unsqueeze(1), second.unsqueeze(1), first_mask.bool()
    return torch.where(first_mask, first + second if policy_turns == "both" else first, second)


def _nanstd(centred: torch.Tensor, dim: int) -> torch.Tensor:
    known = (~centred.isnan()).sum(dim=dim, keepdim=True)
    return (centred.square().nansum(dim=dim, keepdim=True) / (known - 1).clamp(min=1)).sqrt()
