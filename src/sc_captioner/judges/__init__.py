"""Judges answer yes/no questions about a picture from its caption alone: by an endpoint, a local model or graphs."""

from .judge import Judge, JudgeError, judged, load_judge


__all__ = ["Judge", "JudgeError", "judged", "load_judge"]
