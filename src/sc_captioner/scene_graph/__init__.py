"""Text in, scene graph out: graph types, lexicon, phrase encoder and parsers."""

from .encoder import PhraseEncoder, load_encoder
from .graph import Entity, Relation, Revision, SceneGraph
from .lexicon import Lexicon, load_lexicon
from .parser import SceneGraphParser, StoredParser, load_parser, parse_captions


__all__ = [
    "Entity",
    "Lexicon",
    "PhraseEncoder",
    "Relation",
    "Revision",
    "SceneGraph",
    "SceneGraphParser",
    "StoredParser",
    "load_encoder",
    "load_lexicon",
    "load_parser",
    "parse_captions",
]
