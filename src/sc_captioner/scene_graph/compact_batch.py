"""Sentences as tensors for the compact parser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .compact_pieces import Pieces
from .compact_words import Token, ngram_ids


@dataclass
class Batch:
    """Inputs of `B` sentences of up to `T` tokens made of `U` distinct words.

    Args:
        ngrams (`Tensor`): Bucket ids of all distinct words, flat.
        offsets (`Tensor`): `(U,)` where each word begins among them.
        words (`Tensor`): `(B, T)` which distinct word stands where.
        shapes (`Tensor`): `(B, T)` capital letters (0, 1, 2).
        cues (`Tensor`): `(B, T)` which cue of a predicate a token is (1..), 0 for none.
        lengths (`Tensor`): `(B,)` numbers of tokens.
        pieces (`Tensor`): `(B, P)` pieces of the words between start and end, 0 for padding.
        first, last (`Tensor`): `(B, T)` where the pieces of a token begin and end.
    """

    ngrams: Tensor
    offsets: Tensor
    words: Tensor
    shapes: Tensor
    cues: Tensor
    lengths: Tensor
    pieces: Tensor
    first: Tensor
    last: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """The same on another device.

        Args:
            device (`torch.device` or `str`): Where to.
        """
        return Batch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


@lru_cache(maxsize=65536)
def _ngrams(word: str, buckets: int) -> tuple[int, ...]:
    return tuple(ngram_ids(word, buckets))


def batch_of(sentences: Sequence[Sequence[Token]], pieces: Pieces, buckets: int, cues: Sequence[str] = ()) -> Batch:
    """Tensors of sentences that have at least one token each.

    Args:
        sentences: Tokens of each sentence.
        pieces (`Pieces`): Splits words for the transformer.
        buckets (`int`): Number of hash buckets of character n-grams.
        cues (`Sequence[str]`): Words that patterns of predicates have as they stand.
    """
    cue = {word: i + 1 for i, word in enumerate(cues)}
    distinct = list(dict.fromkeys(token.text for tokens in sentences for token in tokens))
    index = {word: i for i, word in enumerate(distinct)}
    grams = [_ngrams(word, buckets) for word in distinct]
    longest = max(len(tokens) for tokens in sentences)
    words = [[index[t.text] for t in tokens] + [0] * (longest - len(tokens)) for tokens in sentences]
    signs = [[cue.get(t.text, 0) for t in tokens] + [0] * (longest - len(tokens)) for tokens in sentences]
    shapes = [[t.shape for t in tokens] + [0] * (longest - len(tokens)) for tokens in sentences]
    split = [pieces.of(word) for word in distinct]
    row: list[list[int]] = []
    first: list[list[int]] = []
    last: list[list[int]] = []
    for tokens in sentences:
        ids = [pieces.start]
        first.append([])
        last.append([])
        for token in tokens:
            first[-1].append(len(ids))
            ids.extend(split[index[token.text]])
            last[-1].append(len(ids) - 1)
        row.append([*ids, pieces.end])
    starts = [0]
    for found in grams[:-1]:
        starts.append(starts[-1] + len(found))
    return Batch(
        torch.tensor([i for found in grams for i in found]),
        torch.tensor(starts),
        torch.tensor(words),
        torch.tensor(shapes),
        torch.tensor(signs),
        torch.tensor([len(tokens) for tokens in sentences]),
        padded(row),
        padded(first),
        padded(last),
    )


def padded(rows: Sequence[Sequence[int]], fill: int = 0) -> Tensor:
    """Integer rows of unequal length as one tensor `(rows, longest or 1)`.

    Args:
        rows (`Sequence[Sequence[int]]`): Integers, row by row.
        fill (`int`, defaults to `0`): What the shorter rows end with.
    """
    longest = max((len(row) for row in rows), default=0) or 1
    return torch.tensor([list(row) + [fill] * (longest - len(row)) for row in rows], dtype=torch.long)
