"""Datasets: the columns every recipe reads, their checks, and the embedded world of small synthetic scenes."""

from __future__ import annotations

from .columns import DatasetError, check_caption_dataset, conversational
from .loading import load_caption_dataset
from .model_checks import ModelError, check_captioner
from .scene_captions import caption_graph, caption_sentences, grammar_errors, is_grammatical
from .scenes import CAPTION_PROMPT, CORRECTION_INSTRUCTION, build_scenes, scene_graph_of


__all__ = [
    "CAPTION_PROMPT",
    "CORRECTION_INSTRUCTION",
    "DatasetError",
    "ModelError",
    "build_scenes",
    "caption_graph",
    "caption_sentences",
    "check_caption_dataset",
    "check_captioner",
    "conversational",
    "grammar_errors",
    "is_grammatical",
    "load_caption_dataset",
    "scene_graph_of",
]
