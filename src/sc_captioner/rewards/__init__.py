"""Rewards for captions and their corrections: from scene graphs to numbers."""

from .caption import CaptionReward
from .correction import CorrectionReward, Explanation
from .paper import PaperWeights


__all__ = ["CaptionReward", "CorrectionReward", "Explanation", "PaperWeights"]
