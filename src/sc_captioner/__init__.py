"""Self-correcting captioners: a vision-language model learns by reinforcement learning to correct its own captions."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .captioner import SelfCorrectingCaptioner
    from .rewards import CaptionReward, CorrectionReward
    from .scene_graph import SceneGraph
    from .trainer import SCConfig, SCTrainer

__version__ = "0.1.0"

_EXPORTS = {
    "CaptionReward": ".rewards",
    "CorrectionReward": ".rewards",
    "SCConfig": ".trainer",
    "SCTrainer": ".trainer",
    "SceneGraph": ".scene_graph",
    "SelfCorrectingCaptioner": ".captioner",
}

__all__ = ["CaptionReward", "CorrectionReward", "SCConfig", "SCTrainer", "SceneGraph", "SelfCorrectingCaptioner"]


def __getattr__(name: str) -> Any:
    # Imported on first use: `import sc_captioner` loads neither torch nor TRL.
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name], __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
