"""From the network's scores to labels: the greedy choice of spans, links, patterns and verbs for a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .compact_batch import batch_of, padded
from .compact_labels import COPY, JOIN, PLACE, SINGULAR, SPELL, VERB, Labels, Predicate, Span, Vocabulary
from .compact_model import LAYERS, CompactModel
from .compact_pieces import Pieces
from .compact_words import Token


Position = tuple[int, int]


def spans_of(tags: Sequence[int]) -> list[Position]:
    """Spans of one row of tags (0 outside, 1 begin, 2 inside); an inside that follows nothing begins a span.

    Args:
        tags (`Sequence[int]`): One tag per token.

    Examples:
        `spans_of([0, 1, 2, 1, 0, 2])` -> `[(1, 2), (3, 3), (5, 5)]`
    """
    found: list[Position] = []
    for i, tag in enumerate(tags):
        if tag == 1 or (tag == 2 and (i == 0 or tags[i - 1] == 0)):
            found.append((i, i))
        elif tag == 2:
            found[-1] = (found[-1][0], i)
    return found


@torch.inference_mode()
def labels_of(
    model: CompactModel, sentences: Sequence[Sequence[Token]], pieces: Pieces, vocabulary: Vocabulary
) -> list[Labels]:
    """Labels of sentences that have at least one token each, by the model's best choices.

    Args:
        model ([`CompactModel`]): In evaluation mode.
        sentences (`Sequence[Sequence[Token]]`): Tokens of each sentence.
        pieces ([`Pieces`]): Splits words for the transformer.
        vocabulary ([`Vocabulary`]): Closed label sets.
    """
    device = model.tags.weight.device
    batch = batch_of(sentences, pieces, model.config.buckets, vocabulary.cues).to(device)
    states = model.encode(batch)
    mask = torch.arange(states.shape[1], device=device) < batch.lengths.unsqueeze(-1)
    tags = model.tag(states).argmax(-1).cpu().tolist()
    lengths = batch.lengths.tolist()
    places = [[spans_of([tag[kind] for tag in row[:n]]) for row, n in zip(tags, lengths)] for kind in range(LAYERS)]
    ends = [[padded([[p[k] for p in row] for row in places[kind]]).to(device) for k in range(2)] for kind in range(2)]
    entity = model.spans(states, ends[0][0], ends[0][1], 0)
    attribute = model.spans(states, ends[1][0], ends[1][1], 1)
    links = _links(model.link(states, attribute, ends[1][1], entity, ends[0][1], mask).cpu(), places[0], places[1])
    scores, pairs = model.relate(states, entity, ends[0][1], mask, batch.cues)
    with_place = torch.tensor([False] + [PLACE in pattern.split() for pattern in vocabulary.patterns], device=device)
    named = torch.tensor([bool(row) for row in places[2]], device=device)
    scores = scores.masked_fill(with_place & ~named[:, None, None, None], float("-inf"))
    relations = _relations(model, states, scores, pairs, ends[0][1], mask, places, vocabulary)
    entity_scores, attribute_scores = model.entity_rewrite(entity), model.attribute_rewrite(attribute)
    entities = _spans(entity_scores, sentences, places[0], vocabulary.entity_rewrites, vocabulary)
    attributes = _spans(attribute_scores, sentences, places[1], vocabulary.attribute_rewrites, vocabulary)
    return [
        Labels(entities[i], attributes[i], links[i], relations[i], tuple(Span(a, b) for a, b in places[2][i]))
        for i in range(len(sentences))
    ]


def _spans(
    scores: Tensor,
    sentences: Sequence[Sequence[Token]],
    places: Sequence[Sequence[Position]],
    rewrites: Sequence[str],
    vocabulary: Vocabulary,
) -> list[tuple[Span, ...]]:
    """Spans with the best rewrites that fit them."""
    found = []
    for rows, tokens, named in zip(scores.cpu(), sentences, places):
        texts = [" ".join(token.text for token in tokens[a : b + 1]) for a, b in named]
        chosen = rewritten(rows[: len(named)], texts, rewrites, vocabulary)
        found.append(tuple(Span(a, b, rewrite) for (a, b), rewrite in zip(named, chosen)))
    return found


def pattern_cues(vocabulary: Vocabulary) -> Tensor:
    """Which cues the patterns have: `(patterns + 1, cues)` of 0 and 1; row 0, no relation, has none.

    Args:
        vocabulary ([`Vocabulary`]): Closed label sets.
    """
    number = {word: i for i, word in enumerate(vocabulary.cues)}
    has = torch.zeros(len(vocabulary.patterns) + 1, len(number))
    for i, pattern in enumerate(vocabulary.patterns, start=1):
        for word in pattern.split():
            if word in number:
                has[i, number[word]] = 1
    return has


def rewritten(scores: Tensor, texts: Sequence[str], rewrites: Sequence[str], vocabulary: Vocabulary) -> list[str]:
    """The best rewrite of each text among those that its like had in training, `(len(texts), rewrites)` scores.

    Args:
        scores (`Tensor`): Shape `(len(texts), len(rewrites))`.
        texts (`Sequence[str]`): What stands in the sentences.
        rewrites (`Sequence[str]`): What may stand in the graph instead.
        vocabulary ([`Vocabulary`]): Closed label sets.
    """
    found = []
    for text, row in zip(texts, scores.tolist()):
        best, choice = float("-inf"), COPY
        for rewrite, score in zip(rewrites, row):
            if score > best and _fits(text, rewrite, vocabulary):
                best, choice = score, rewrite
        found.append(choice)
    return found


def _fits(text: str, rewrite: str, vocabulary: Vocabulary) -> bool:
    if rewrite == COPY:
        return True
    if rewrite == JOIN:
        return " " in text
    if rewrite == SPELL:
        return vocabulary.spelling.corrected(text) != text
    return text.endswith("s") if rewrite == SINGULAR else text in vocabulary.sources.get(rewrite, ())


def _links(scores: Tensor, *places: Sequence[Sequence[Position]]) -> list[tuple[Position, ...]]:
    """Every attribute belongs to the entities it scores above zero with, or else to the best one."""
    links = []
    for rows, entities, attributes in zip(scores, *places):
        found: list[Position] = []
        for a in range(len(attributes) if entities else 0):
            row = rows[a, : len(entities)]
            owners = (row > 0).nonzero().flatten().tolist() or [int(row.argmax())]
            found += [(a, owner) for owner in owners]
        links.append(tuple(found))
    return links


def _relations(
    model: CompactModel,
    states: Tensor,
    scores: Tensor,
    pairs: Tensor,
    last: Tensor,
    mask: Tensor,
    spans: Sequence[Sequence[Sequence[Position]]],
    vocabulary: Vocabulary,
) -> list[tuple[Predicate, ...]]:
    """The best pattern of every ordered pair of entities, with the best verb and place where it has such slots.

    An entity may stand in a relation to itself: two dogs next to each other.
    """
    count = torch.tensor([len(row) for row in spans[0]], device=states.device)
    steps = torch.arange(last.shape[1], device=states.device)
    real = steps < count.unsqueeze(-1)
    allowed = real.unsqueeze(1) & real.unsqueeze(2)
    chosen = scores.argmax(-1) * allowed
    row, subject, target = chosen.nonzero(as_tuple=True)
    found: list[list[Predicate]] = [[] for _ in spans[0]]
    if not len(row):
        return [()] * len(found)
    pattern = chosen[row, subject, target]
    inputs = states, pairs[row, subject, target], pattern, last[row, subject], last[row, target], row
    verb = model.verbs(*inputs).masked_fill(~mask[row], float("-inf")).argmax(-1).tolist()
    ends = torch.zeros_like(mask)
    for k, named in enumerate(spans[2]):
        ends[k, [end for _, end in named]] = True
    place = model.places(*inputs).masked_fill(~ends[row], float("-inf")).argmax(-1).tolist()
    for r, s, o, p, v, q in zip(row.tolist(), subject.tolist(), target.tolist(), pattern.tolist(), verb, place):
        words = vocabulary.patterns[p - 1].split()
        index = [end for _, end in spans[2][r]].index(q) if PLACE in words else -1
        found[r].append(Predicate(s, o, vocabulary.patterns[p - 1], v if words[0] == VERB else -1, index))
    return [tuple(relations) for relations in found]
