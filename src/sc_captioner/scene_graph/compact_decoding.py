"""From the network's scores to labels: the greedy choice of spans, links, patterns and verbs for a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .compact_batch import batch_of, padded
from .compact_labels import VERB, Labels, Predicate, Span, Vocabulary
from .compact_model import CompactModel
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
    places = [[spans_of([tag[kind] for tag in row[:n]]) for row, n in zip(tags, lengths)] for kind in range(2)]
    ends = [[padded([[p[k] for p in row] for row in places[kind]]).to(device) for k in range(2)] for kind in range(2)]
    entity = model.spans(states, *ends[0], kind=0)
    attribute = model.spans(states, *ends[1], kind=1)
    entity_rewrites = model.entity_rewrite(entity).argmax(-1).tolist()
    attribute_rewrites = model.attribute_rewrite(attribute).argmax(-1).tolist()
    links = _links(model.link(states, attribute, ends[1][1], entity, ends[0][1], mask).cpu(), places)
    relations = _relations(model, states, entity, ends[0][1], mask, places[0], vocabulary)
    return [
        Labels(
            tuple(Span(a, b, vocabulary.entity_rewrites[r]) for (a, b), r in zip(places[0][i], entity_rewrites[i])),
            tuple(
                Span(a, b, vocabulary.attribute_rewrites[r]) for (a, b), r in zip(places[1][i], attribute_rewrites[i])
            ),
            links[i],
            relations[i],
        )
        for i in range(len(sentences))
    ]


def _links(scores: Tensor, places: Sequence[Sequence[Sequence[Position]]]) -> list[tuple[Position, ...]]:
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
    entity: Tensor,
    last: Tensor,
    mask: Tensor,
    places: Sequence[Sequence[Position]],
    vocabulary: Vocabulary,
) -> list[tuple[Predicate, ...]]:
    """The best pattern of every ordered pair of entities, with the best verb where the pattern has one."""
    scores, pairs = model.relate(states, entity, last, mask)
    count = torch.tensor([len(row) for row in places], device=states.device)
    steps = torch.arange(entity.shape[1], device=states.device)
    real = steps < count.unsqueeze(-1)
    allowed = real.unsqueeze(1) & real.unsqueeze(2) & (steps[:, None] != steps)
    chosen = scores.argmax(-1) * allowed
    row, subject, target = chosen.nonzero(as_tuple=True)
    found: list[list[Predicate]] = [[] for _ in places]
    if len(row):
        pattern = chosen[row, subject, target]
        at = last[row, subject], last[row, target]
        verbs = model.verbs(states, pairs[row, subject, target], pattern, *at, row)
        verb = verbs.masked_fill(~mask[row], float("-inf")).argmax(-1)
        for r, s, o, p, v in zip(*(t.tolist() for t in (row, subject, target, pattern, verb))):
            text = vocabulary.patterns[p - 1]
            found[r].append(Predicate(s, o, text, v if text.split()[0] == VERB else -1))
    return [tuple(row) for row in found]
