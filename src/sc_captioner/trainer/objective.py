"""The pure parts of the two-turn objective: turn masks, KL estimators, advantages."""

from __future__ import annotations

import torch

from .sc_config import Advantage, KLEstimator


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


def _nanstd(centred: torch.Tensor, dim: int) -> torch.Tensor:
    known = (~centred.isnan()).sum(dim=dim, keepdim=True)
    return (centred.square().nansum(dim=dim, keepdim=True) / (known - 1).clamp(min=1)).sqrt()
