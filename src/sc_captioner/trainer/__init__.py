"""Reinforcement learning of two-turn self-correction on top of TRL's GRPO trainer."""

from .sc_config import SCConfig
from .sc_trainer import SCTrainer
from .weight_average import WeightAverage


__all__ = ["SCConfig", "SCTrainer", "WeightAverage"]
