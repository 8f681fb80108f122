"""Text in, scene graph out: graph types, lexicon, phrase encoder and parsers."""

from .graph import Entity, Relation, Revision, SceneGraph


__all__ = ["Entity", "Relation", "Revision", "SceneGraph"]
