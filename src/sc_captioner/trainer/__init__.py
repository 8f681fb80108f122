"""Reinforcement learning of two-turn self-correction on top of TRL's GRPO trainer."""

from .sc_config import SCConfig
from .sc_trainer import SCTrainer


__all__ = ["SCConfig", "SCTrainer"]
