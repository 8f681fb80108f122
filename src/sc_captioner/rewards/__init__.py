"""Rewards for corrected captions: from scene graphs to numbers."""

from .correction import CorrectionReward, Explanation
from .paper import PaperWeights


__all__ = ["CorrectionReward", "Explanation", "PaperWeights"]
