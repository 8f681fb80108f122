"""Datasets: the embedded world of small synthetic scenes."""

from __future__ import annotations

from .scene_captions import caption_graph, caption_sentences, grammar_errors, is_grammatical
from .scenes import CAPTION_PROMPT, CORRECTION_INSTRUCTION, build_scenes, scene_graph_of


__all__ = [
    "CAPTION_PROMPT",
    "CORRECTION_INSTRUCTION",
    "build_scenes",
    "caption_graph",
    "caption_sentences",
    "grammar_errors",
    "is_grammatical",
    "scene_graph_of",
]
