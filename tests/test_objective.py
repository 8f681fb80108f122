"""The pure parts of the two-turn objective against enumeration, torch and hand-worked cases."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sc_captioner.trainer.objective import (
    correction_advantages,
    first_turn_advantages,
    token_advantages,
    token_kl,
    turn_masks,
    with_progress,
)


def test_turn_masks_split_at_the_instruction():
    completion = torch.tensor([[1, 1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1, 1]])
    policy = torch.tensor([[1, 1, 0, 0, 1, 1, 1], [1, 0, 0, 0, 0, 1, 1]])  # TRL pads the policy mask with ones
    first, second = turn_masks(completion, policy)
    assert first.tolist() == [[1, 1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]]
    assert second.tolist() == [[0, 0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 1, 1]]


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 6), st.integers(0, 4))
def test_turn_masks_cover_all_sampled_tokens_once(n_first, n_bridge, n_second, n_pad):
    policy = torch.tensor([[1] * n_first + [0] * n_bridge + [1] * (n_second + n_pad)])
    completion = torch.tensor([[1] * (n_first + n_bridge + n_second) + [0] * n_pad])
    first, second = turn_masks(completion, policy)
    assert (first.sum(), second.sum()) == (n_first, n_second)
    assert torch.equal(first + second, completion * policy)


@pytest.fixture
def distributions():
    generator = torch.Generator().manual_seed(0)
    logits, ref_logits = torch.randn(2, 7, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), ref_logits


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_k1_and_k3_are_unbiased(distributions, estimator):
    logits, ref_logits = distributions
    p = torch.distributions.Categorical(logits=logits)
    q = torch.distributions.Categorical(logits=ref_logits)
    estimate = (p.probs * token_kl(p.logits, q.logits, estimator)).sum()
    assert estimate.item() == pytest.approx(torch.distributions.kl_divergence(p, q).item(), abs=1e-12)


def test_k1_regularises_nothing_and_k2_has_the_gradient_of_the_kl(distributions):
    logits, ref_logits = distributions
    p = torch.distributions.Categorical(logits=logits)
    q = torch.distributions.Categorical(logits=ref_logits)

    def expected_gradient(estimator):  # of a loss over tokens sampled from p: p itself is not differentiated
        loss = (p.probs.detach() * token_kl(p.logits, q.logits, estimator)).sum()
        return torch.autograd.grad(loss, logits, retain_graph=True)[0]

    true_gradient = torch.autograd.grad(torch.distributions.kl_divergence(p, q), logits, retain_graph=True)[0]
    assert torch.allclose(expected_gradient("k1"), torch.zeros_like(logits), atol=1e-12)
    assert torch.allclose(expected_gradient("k2"), true_gradient, atol=1e-12)
    assert true_gradient.abs().max() > 0.01


def test_group_advantages_worked_by_hand():
    rewards = torch.tensor([1.0, 3.0, 5.0, 5.0])
    assert correction_advantages(rewards, 2, "group", "none").tolist() == [-1.0, 1.0, 0.0, 0.0]
    scaled = correction_advantages(rewards, 2, "group", "group")
    assert scaled.tolist() == pytest.approx([-1 / (2**0.5 + 1e-4), 1 / (2**0.5 + 1e-4), 0.0, 0.0])
    std = rewards.std().item()
    by_batch = correction_advantages(rewards, 2, "group", "batch")
    assert by_batch.tolist() == pytest.approx([-1 / (std + 1e-4), 1 / (std + 1e-4), 0.0, 0.0])


def test_reinforce_takes_the_reward_as_it_is():
    assert correction_advantages(torch.tensor([0.25, float("nan")]), 2, "reinforce").tolist() == [0.25, 0.0]


@given(st.lists(st.floats(-0.5, 0.5), min_size=3, max_size=3), st.integers(0, 2))
def test_a_skipped_sample_moves_nothing_and_leaves_the_others_baseline(rewards, skipped):
    kept = [r for i, r in enumerate(rewards) if i != skipped]
    rewards[skipped] = float("nan")
    advantages = correction_advantages(torch.tensor(rewards), 3, "group", "none").tolist()
    mean = sum(kept) / 2
    assert advantages.pop(skipped) == 0.0
    assert advantages == pytest.approx([r - mean for r in kept], abs=1e-6)


def test_progress_is_paid_for_as_in_score():
    second, first = torch.tensor([0.5, 0.25, 0.5]), torch.tensor([0.25, 0.5, float("nan")])
    paid = with_progress(second, first, 10.0)
    assert paid[:2].tolist() == [3.0, -2.25]  # 0.5 + 10 * 0.25 and 0.25 - 10 * 0.25
    assert paid[2].isnan()  # no progress is known from a first caption that could not be scored
    assert with_progress(second, first, 0.0).tolist() == [0.5, 0.25, 0.5]


def test_first_captions_are_compared_within_their_prompt():
    # Two prompts of four samples; every first caption has two corrections and counts once.
    rewards = torch.tensor([0.25, 0.25, 0.75, 0.75, 0.5, 0.5, 0.5, 0.5])
    advantages = first_turn_advantages(rewards, 4, 2, "group", "none")
    assert advantages.tolist() == [-0.25, -0.25, 0.25, 0.25, 0.0, 0.0, 0.0, 0.0]
    scaled = first_turn_advantages(rewards, 4, 2, "group", "group")
    std = 0.25 * 2**0.5  # of 0.25 and 0.75, not of the four samples
    assert scaled[:4].tolist() == pytest.approx([-0.25 / (std + 1e-4)] * 2 + [0.25 / (std + 1e-4)] * 2)
    assert first_turn_advantages(rewards, 4, 2, "reinforce").tolist() == rewards.tolist()
    unknown = torch.tensor([float("nan"), float("nan"), 0.75, 0.75])
    assert first_turn_advantages(unknown, 4, 2, "group", "none").tolist() == [0.0] * 4


def test_every_token_gets_the_advantage_of_its_turn():
    first, second = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 4.0])
    first_mask = torch.tensor([[1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
    own = token_advantages(first, second, first_mask, "second")
    assert own.tolist() == [[1.0, 1.0, 0.5, 0.5, 0.5], [-2.0, 4.0, 4.0, 4.0, 4.0]]
    both = token_advantages(first, second, first_mask, "both")  # the first turn's return includes the second's
    assert both.tolist() == [[1.5, 1.5, 0.5, 0.5, 0.5], [2.0, 4.0, 4.0, 4.0, 4.0]]
