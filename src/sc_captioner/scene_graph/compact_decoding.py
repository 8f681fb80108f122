"""From the network's scores to labels: the greedy choice of spans, links, patterns and verbs for a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .compact_batch import batch_of, padded
from .compact_labels import PLACE, VERB, Labels, Predicate, Span, Vocabulary
from .compact_model import LAYERS, CompactModel
from .compact_words import Token


Position = tuple[int, int]


def spans_of(tags: Sequence[int]) -> list[Position]:
    """Spans of one row of tags (0 outside, 1 begin, 2 inside); an inside that follows nothing begins a span.

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
    model: CompactModel, sentences: Sequence[Sequence[Token]], rows: dict[str, int], vocabulary: Vocabulary
) -> list[Labels]:
    """Labels of sentences that have at least one token each, by the model's best choices."""
    device = model.tags.weight.device
    batch = batch_of(sentences, rows, model.config.buckets).to(device)
    states = model.encode(batch)
    mask = torch.arange(states.shape[1], device=device) < batch.lengths.unsqueeze(-1)
    tags = model.tag(states).argmax(-1).cpu().tolist()
    lengths = batch.lengths.tolist()
    places = [[spans_of([tag[kind] for tag in row[:n]]) for row, n in zip(tags, lengths)] for kind in range(LAYERS)]
    ends = [[padded([[p[k] for p in row] for row in places[kind]]).to(device) for k in range(2)] for kind in range(2)]
    entity = model.spans(states, ends[0][0], ends[0][1], 0)
    attribute = model.spans(states, ends[1][0], ends[1][1], 1)
    entity_rewrites = model.entity_rewrite(entity).argmax(-1).tolist()
    attribute_rewrites = model.attribute_rewrite(attribute).argmax(-1).tolist()
    links = _links(model.link(states, attribute, ends[1][1], entity, ends[0][1], mask).cpu(), places[0], places[1])
    scores, pairs = model.relate(states, entity, ends[0][1], mask)
    known = known_patterns(sentences, vocabulary, [bool(row) for row in places[2]]).to(device)
    scores = scores.masked_fill(~known[:, None, None], float("-inf"))
    relations = _relations(model, states, scores, pairs, ends[0][1], mask, places, vocabulary)
    return [
        Labels(
            tuple(Span(a, b, vocabulary.entity_rewrites[r]) for (a, b), r in zip(places[0][i], entity_rewrites[i])),
            tuple(
                Span(a, b, vocabulary.attribute_rewrites[r]) for (a, b), r in zip(places[1][i], attribute_rewrites[i])
            ),
            links[i],
            relations[i],
            tuple(Span(a, b) for a, b in places[2][i]),
        )
        for i in range(len(sentences))
    ]


def known_patterns(
    sentences: Sequence[Sequence[Token]], vocabulary: Vocabulary, with_places: Sequence[bool]
) -> Tensor:
    """Which patterns a sentence can have, `(sentences, patterns + 1)`: those whose needed words and slots it has."""
    place = torch.tensor([PLACE in pattern.split() for pattern in vocabulary.patterns])
    number = {word: i for i, word in enumerate(vocabulary.needed)}
    need = torch.zeros(len(vocabulary.patterns), len(number))
    for i, pattern in enumerate(vocabulary.patterns):
        for word in pattern.split():
            if word in number:
                need[i, number[word]] = 1
    lacking = torch.ones(len(sentences), len(number))
    for row, tokens in zip(lacking, sentences):
        for token in tokens:
            if token.text in number:
                row[number[token.text]] = 0
    known = (lacking @ need.T == 0) & (torch.tensor(with_places)[:, None] | ~place)
    return torch.nn.functional.pad(known, (1, 0), value=True)


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
    """The best pattern of every ordered pair of entities, with the best verb and place where it has such slots."""
    count = torch.tensor([len(row) for row in spans[0]], device=states.device)
    steps = torch.arange(last.shape[1], device=states.device)
    real = steps < count.unsqueeze(-1)
    allowed = real.unsqueeze(1) & real.unsqueeze(2) & (steps[:, None] != steps)
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
