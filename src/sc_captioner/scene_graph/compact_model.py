"""The network of the compact parser: a small transformer, a bidirectional LSTM, heads for spans and pairs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .compact_batch import Batch


TAGS = 3  # outside, begin, inside
LAYERS = 3  # of tags: entities, attributes, places
MAX_PIECES = 512
REGIONS = 6  # a word left of both mentions of a pair, between them, right of both; twice, by the order of the mentions
MAX_GAP = 12


@dataclass(frozen=True)
class CompactConfig:
    """Sizes of the network.

    Args:
        pieces (`int`): Rows of the table of word pieces.
        piece_size (`int`): Width of the transformer.
        encoder_layers, encoder_heads, encoder_inner (`int`): Its layers, attention heads and inner width.
        buckets (`int`): Hash buckets of character n-grams.
        ngram_size (`int`): Width of their embeddings.
        hidden (`int`): LSTM width per direction.
        layers (`int`): LSTM layers.
        span_size, pair_size (`int`): Width of span and pair representations.
        heads, head_size (`int`): Number and width of the attention heads from pairs to words.
        entity_rewrites, attribute_rewrites, patterns, cues (`int`): Sizes of the closed label sets.
        dropout (`float`): Between 0 and 1, in training only.
    """

    pieces: int = 4
    piece_size: int = 384
    encoder_layers: int = 4
    encoder_heads: int = 12
    encoder_inner: int = 1536
    buckets: int = 10000
    ngram_size: int = 64
    hidden: int = 200
    layers: int = 1
    span_size: int = 160
    pair_size: int = 160
    heads: int = 4
    head_size: int = 32
    entity_rewrites: int = 3
    attribute_rewrites: int = 3
    patterns: int = 1
    cues: int = 1
    dropout: float = 0.25

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `config.json`."""
        return asdict(self)


class _BiLSTM(nn.Module):
    """One bidirectional layer that runs on padded rows: the backward half reads each row reversed within its length.

    Unlike a packed sequence this keeps the fast fused kernels on CPU, and padding cannot reach the results.
    """

    def __init__(self, inputs: int, hidden: int):
        super().__init__()
        self.ahead = nn.LSTM(inputs, hidden, batch_first=True)
        self.back = nn.LSTM(inputs, hidden, batch_first=True)

    def forward(self, x: Tensor, reverse: Tensor) -> Tensor:
        index = reverse.unsqueeze(-1)
        back, _ = self.back(x.gather(1, index.expand(-1, -1, x.shape[-1])))
        return torch.cat([self.ahead(x)[0], back.gather(1, index.expand(-1, -1, back.shape[-1]))], -1)


class _LockedDropout(nn.Module):
    """Drops the same features at all places of a sentence (Gal and Ghahramani, arXiv 1512.05287)."""

    def __init__(self, share: float):
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        mask = x.new_ones(x.shape[0], *[1] * (x.dim() - 2), x.shape[-1])
        return x * nn.functional.dropout(mask, self.share)


class _Encoder(nn.Module):
    """Words in context: BERT's layers (after the norm, GELU) over word pieces, a word's first and last averaged."""

    def __init__(self, c: CompactConfig):
        super().__init__()
        size = c.piece_size
        self.table = nn.Embedding(c.pieces, size)
        self.position = nn.Embedding(MAX_PIECES, size)
        self.norm = nn.LayerNorm(size, eps=1e-12)
        # Dropout inside the layers would take a seventh of the time; between them it costs nothing.
        self.dropout = _LockedDropout(0.1)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(size, c.encoder_heads, c.encoder_inner, 0.0, "gelu", 1e-12, batch_first=True)
            for _ in range(c.encoder_layers)
        )

    def forward(self, batch: Batch) -> Tensor:
        """Words `(B, T, piece_size)`."""
        steps = torch.arange(batch.pieces.shape[1], device=batch.pieces.device)
        x = self.dropout(self.norm(self.table(batch.pieces) + self.position(steps)))
        padding = batch.pieces == 0
        for layer in self.layers:
            x = self.dropout(layer(x, src_key_padding_mask=padding))
        rows = torch.arange(x.shape[0], device=x.device).unsqueeze(-1)
        return (x[rows, batch.first].float() + x[rows, batch.last].float()) / 2


class CompactModel(nn.Module):
    """Scores of tags, rewrites, attribute links, patterns of predicates and the words that fill them.

    Args:
        config (`CompactConfig`): Sizes.
    """

    def __init__(self, config: CompactConfig):
        super().__init__()
        self.config = c = config
        self.encoder = _Encoder(c)
        self.ngrams = nn.EmbeddingBag(c.buckets, c.ngram_size, mode="mean")
        self.shape = nn.Embedding(3, 8)
        inputs = c.piece_size + c.ngram_size + 8
        wide = 2 * c.hidden
        self.lstm = nn.ModuleList(_BiLSTM(inputs if i == 0 else wide, c.hidden) for i in range(c.layers))
        self.tags = nn.Linear(wide, LAYERS * TAGS)
        self.span = nn.ModuleList(nn.Linear(2 * wide, c.span_size) for _ in range(2))
        self.entity_rewrite = nn.Linear(c.span_size, c.entity_rewrites)
        self.attribute_rewrite = nn.Linear(c.span_size, c.attribute_rewrites)
        self.pairs = nn.ModuleList(_Pairs(c, wide, c.patterns + 1 if k == 0 else 1) for k in range(2))
        self.cues = _Cues(c, wide)
        self.verbs = _Pointer(c, wide)
        self.places = _Pointer(c, wide)
        self.dropout = _LockedDropout(c.dropout)
        # Elsewhere a CPU would emulate it.
        self.half_on_cpu = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
        nn.init.normal_(self.ngrams.weight, std=0.3)

    def encode(self, batch: Batch) -> Tensor:
        """Contextual words `(B, T, 2 * hidden)`; the transformer's products are in bfloat16 where that is fast.

        Args:
            batch ([`Batch`]): `B` sentences of up to `T` tokens.
        """
        device = batch.words.device.type
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda" or self.half_on_cpu):
            words = self.encoder(batch)
        spelt = self.ngrams(batch.ngrams, batch.offsets)[batch.words]
        x = torch.cat([spelt, self.shape(batch.shapes), words], -1)
        steps = torch.arange(x.shape[1], device=x.device)
        lengths = batch.lengths.unsqueeze(-1)
        reverse = torch.where(steps < lengths, lengths - 1 - steps, steps)
        x = self.dropout(x)
        for layer in self.lstm:
            x = self.dropout(layer(x, reverse))
        return x

    def tag(self, states: Tensor) -> Tensor:
        """Tag scores `(B, T, 3, 3)`: of entities, attributes and places, each outside, begin, inside.

        Args:
            states (`Tensor`): `(B, T, 2 * hidden)`.
        """
        return self.tags(states).unflatten(-1, (LAYERS, TAGS))

    def spans(self, states: Tensor, first: Tensor, last: Tensor, kind: int) -> Tensor:
        """Representations `(B, N, span_size)` of spans `(B, N)` of entities (`kind` 0) or attributes (1).

        Args:
            states (`Tensor`): `(B, T, 2 * hidden)`.
            first (`Tensor`): `(B, N)`, first tokens.
            last (`Tensor`): `(B, N)`, last tokens.
            kind (`int`): 0 or 1.
        """
        rows = torch.arange(states.shape[0], device=states.device).unsqueeze(-1)
        ends = torch.cat([states[rows, first], states[rows, last]], -1)
        return self.dropout(torch.nn.functional.gelu(self.span[kind](ends)))

    def relate(
        self, states: Tensor, entities: Tensor, last: Tensor, mask: Tensor, cues: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Pattern scores `(B, E, E, patterns + 1)` (0: no relation) and pair states for the pointers.

        Args:
            states (`Tensor`): `(B, T, 2 * hidden)`.
            entities (`Tensor`): `(B, E, span_size)`.
            last (`Tensor`): `(B, E)`, last tokens of the entities.
            mask, cues (`Tensor`): `(B, T)`, true at real tokens; which cue a token is.
        """
        scores, pairs = self.pairs[0](states, entities, last, entities, last, mask)
        return scores + self.cues(states, pairs, last, mask, cues), pairs

    def link(self, states: Tensor, attributes: Tensor, at: Tensor, entities: Tensor, last: Tensor, mask: Tensor):
        """Scores `(B, A, E)` that an attribute belongs to an entity.

        Args:
            states (`Tensor`): `(B, T, 2 * hidden)`.
            attributes (`Tensor`): `(B, A, span_size)`.
            at (`Tensor`): `(B, A)`, last tokens of the attributes.
            entities (`Tensor`): `(B, E, span_size)`.
            last (`Tensor`): `(B, E)`, last tokens of the entities.
            mask (`Tensor`): `(B, T)`, true at real tokens.
        """
        return self.pairs[1](states, attributes, at, entities, last, mask)[0].squeeze(-1)


class _Cues(nn.Module):
    """What the words of a sentence say for patterns that have them: `behind` speaks for `behind` and `V behind`.

    A pair attends to the words that its predicate is made of; the cues among them raise the patterns they are part of,
    and patterns whose cues the sentence lacks are lowered. So rare patterns need not be learnt one by one.
    """

    def __init__(self, c: CompactConfig, wide: int):
        super().__init__()
        self.query, self.key = nn.Linear(c.pair_size, 64), nn.Linear(wide, 64)
        self.region = nn.Parameter(torch.zeros(REGIONS))
        self.given = nn.Parameter(torch.full((c.cues,), 2.0))
        self.lacking = nn.Parameter(torch.full((c.cues,), 1.0))
        self.patterns: Tensor  # which cues the patterns have
        self.register_buffer("patterns", torch.zeros(c.patterns + 1, c.cues))

    def forward(self, states: Tensor, pairs: Tensor, last: Tensor, mask: Tensor, cues: Tensor) -> Tensor:
        """Additions to the pattern scores, `(B, E, E, patterns + 1)`."""
        scores = torch.einsum("bnmd,btd->bnmt", self.query(pairs), self.key(states)) / 8
        places = last.unsqueeze(2), last.unsqueeze(1)
        shape = pairs.shape[:3]
        scores = scores + self.region[_regions(places[0].expand(shape), places[1].expand(shape), states.shape[1])]
        weights = scores.masked_fill(~mask[:, None, None], float("-inf")).softmax(-1)
        words = nn.functional.one_hot(cues, self.given.shape[0] + 1)[..., 1:].to(weights.dtype)
        seen = torch.einsum("bnmt,btw->bnmw", weights, words) * self.given
        lacks = (1 - words.amax(1)) * self.lacking
        return seen @ self.patterns.T - (lacks @ self.patterns.T)[:, None, None]


class _Pointer(nn.Module):
    """Points from pairs of entities whose pattern is known to the word that fills a slot of the pattern."""

    def __init__(self, c: CompactConfig, wide: int):
        super().__init__()
        self.pattern = nn.Embedding(c.patterns + 1, c.pair_size)
        self.query, self.key = nn.Linear(c.pair_size, c.pair_size), nn.Linear(wide, c.pair_size)
        self.region = nn.Parameter(torch.zeros(REGIONS))

    def forward(
        self, states: Tensor, pairs: Tensor, pattern: Tensor, first: Tensor, second: Tensor, row: Tensor
    ) -> Tensor:
        """Scores `(N, T)` of the words of the sentences of `N` pairs.

        Args:
            pairs (`Tensor`): `(N, pair_size)` pair states. pattern, row (`Tensor`): `(N,)` patterns and sentences.
            first, second (`Tensor`): `(N,)` places of subject and object.
        """
        query = self.query(pairs + self.pattern(pattern))
        scores = torch.einsum("nd,ntd->nt", query, self.key(states)[row]) / query.shape[-1] ** 0.5
        return scores + self.region[_regions(first, second, states.shape[1])]


def _regions(first: Tensor, second: Tensor, length: int) -> Tensor:
    """Where each of `length` words stands relative to two places of shape `(...)`: `(..., length)` in 0..5."""
    low, high = torch.minimum(first, second).unsqueeze(-1), torch.maximum(first, second).unsqueeze(-1)
    steps = torch.arange(length, device=first.device)
    side = (steps > low).long() + (steps > high).long()
    return side + 3 * (first > second).long().unsqueeze(-1)


class _Pairs(nn.Module):
    """Scores of ordered pairs of spans; every pair looks at the sentence by attention of its own."""

    def __init__(self, c: CompactConfig, wide: int, outputs: int):
        super().__init__()
        self.heads, self.head_size = c.heads, c.head_size
        inner = c.heads * c.head_size
        self.one, self.two = nn.Linear(c.span_size, c.pair_size), nn.Linear(c.span_size, c.pair_size)
        self.gap = nn.Embedding(4 * MAX_GAP + 2, c.pair_size)
        self.query, self.key, self.value = (
            nn.Linear(c.pair_size, inner),
            nn.Linear(wide, inner),
            nn.Linear(wide, inner),
        )
        self.region = nn.Parameter(torch.zeros(REGIONS, c.heads))
        self.mix = nn.Linear(c.pair_size + inner, c.pair_size)
        self.out = nn.Linear(c.pair_size, outputs)
        self.dropout = _LockedDropout(c.dropout)

    def forward(
        self, states: Tensor, one: Tensor, one_at: Tensor, two: Tensor, two_at: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Scores `(B, N, M, outputs)` and states `(B, N, M, pair_size)`; `mask` `(B, T)` is true at real tokens."""
        words = (two_at.unsqueeze(1) - one_at.unsqueeze(2)).clamp(-MAX_GAP, MAX_GAP) + MAX_GAP
        ranks = torch.arange(two.shape[1], device=two.device) - torch.arange(one.shape[1], device=two.device)[:, None]
        ranks = ranks.clamp(-MAX_GAP, MAX_GAP) + 3 * MAX_GAP + 1
        gap = self.gap(words) + self.gap(ranks)
        pair = torch.nn.functional.gelu(self.one(one).unsqueeze(2) + self.two(two).unsqueeze(1) + gap)
        query = self.query(pair).unflatten(-1, (self.heads, self.head_size))
        key = self.key(states).unflatten(-1, (self.heads, self.head_size))
        value = self.value(states).unflatten(-1, (self.heads, self.head_size))
        scores = torch.einsum("bnmhd,bthd->bnmht", query, key) / self.head_size**0.5
        places = one_at.unsqueeze(2).expand_as(words), two_at.unsqueeze(1).expand_as(words)
        scores = scores + self.region[_regions(*places, states.shape[1])].movedim(-1, -2)
        scores = scores.masked_fill(~mask[:, None, None, None], float("-inf"))
        context = torch.einsum("bnmht,bthd->bnmhd", scores.softmax(-1), value).flatten(-2)
        pair = torch.nn.functional.gelu(self.mix(self.dropout(torch.cat([pair, context], -1))))
        return self.out(self.dropout(pair)), pair
