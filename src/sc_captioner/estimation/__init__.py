"""What a stage of training costs on one GPU, derived from a model's configuration and a recipe's settings alone."""

from __future__ import annotations

from .model import ImageSize, ModelCost, model_cost
from .stages import GPU, GPUS, Stage, StageEstimate, estimate, stage_of


__all__ = ["GPU", "GPUS", "ImageSize", "ModelCost", "Stage", "StageEstimate", "estimate", "model_cost", "stage_of"]
