"""Training of the compact parser: the likelihood of gold labels, batches by length, averaged weights."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .compact_alignment import Example
from .compact_batch import Batch, batch_of, padded
from .compact_labels import Vocabulary
from .compact_model import LAYERS, CompactModel
from .compact_pieces import Pieces


@dataclass(frozen=True)
class Schedule:
    """How to train.

    Args:
        epochs (`float`): Passes over the mixed examples.
        batch_size (`int`): Sentences per step.
        max_tokens (`int`): Tokens per step, padding included.
        learning_rate, encoder_learning_rate (`float`): Peaks of what is new and of the transformer.
        warmup (`float`): Share of the steps until the peak; a cosine to zero follows.
        weight_decay (`float`): Of AdamW.
        lower_case (`float`): Share of sentences that are seen without capitals.
        average (`float`): Decay of the moving average of the weights that is kept in the end, 0 for none.
        seed (`int`): Order of batches, dropout.
    """

    epochs: float = 6.0
    batch_size: int = 64
    max_tokens: int = 1200
    learning_rate: float = 2e-3
    encoder_learning_rate: float = 2.5e-4
    warmup: float = 0.03
    weight_decay: float = 0.01
    lower_case: float = 0.15
    average: float = 0.999
    seed: int = 0


@dataclass
class Targets:
    """Gold labels of a batch; -100 marks places without a label.

    Args:
        tags (`Tensor`): `(B, T, 3)`.
        entities, attributes (`tuple[Tensor, Tensor]`): First and last tokens, `(B, E)` and `(B, A)` each.
        rewrites (`tuple[Tensor, Tensor]`): `(B, E)` and `(B, A)`.
        links (`Tensor`): `(B, A, E)` of 0, 1 and -100.
        patterns (`Tensor`): `(B, E, E)`, 0 for no relation.
        verbs, places (`Tensor`): `(N, 4)` rows of sentence, subject, object, token that fills the slot.
    """

    tags: Tensor
    entities: tuple[Tensor, Tensor]
    attributes: tuple[Tensor, Tensor]
    rewrites: tuple[Tensor, Tensor]
    links: Tensor
    patterns: Tensor
    verbs: Tensor
    places: Tensor


class Labeller:
    """Turns examples into targets with the closed label sets of a vocabulary.

    Args:
        vocabulary ([`Vocabulary`]): Closed label sets.
    """

    def __init__(self, vocabulary: Vocabulary):
        self.entity_rewrites = {text: i for i, text in enumerate(vocabulary.entity_rewrites)}
        self.attribute_rewrites = {text: i for i, text in enumerate(vocabulary.attribute_rewrites)}
        self.patterns = {text: i + 1 for i, text in enumerate(vocabulary.patterns)}

    def targets(self, examples: Sequence[Example]) -> Targets:
        """Targets of a batch; a rewrite or pattern outside the vocabulary is left unlabelled.

        Args:
            examples (`Sequence[Example]`): Sentences of one batch.
        """
        labels = [example.labels for example in examples]
        rows, longest = len(examples), max(len(e.tokens) for e in examples)
        tags = torch.full((rows, longest, LAYERS), -100)
        for b, example in enumerate(examples):
            tags[b, : len(example.tokens)] = 0
            for kind, spans in enumerate((example.labels.entities, example.labels.attributes, example.labels.places)):
                for span in spans:
                    tags[b, span.first, kind] = 1
                    tags[b, span.first + 1 : span.last + 1, kind] = 2
        entities = (
            padded([[s.first for s in x.entities] for x in labels]),
            padded([[s.last for s in x.entities] for x in labels]),
        )
        attributes = (
            padded([[s.first for s in x.attributes] for x in labels]),
            padded([[s.last for s in x.attributes] for x in labels]),
        )
        rewrites = (
            padded([[self.entity_rewrites.get(s.rewrite, -100) for s in x.entities] for x in labels], -100),
            padded([[self.attribute_rewrites.get(s.rewrite, -100) for s in x.attributes] for x in labels], -100),
        )
        links = torch.full((rows, attributes[0].shape[1], entities[0].shape[1]), -100.0)
        patterns = torch.full((rows, entities[0].shape[1], entities[0].shape[1]), -100)
        verbs, places = [], []
        for b, x in enumerate(labels):
            n = len(x.entities)
            links[b, : len(x.attributes), :n] = 0
            patterns[b, :n, :n] = 0
            for attribute, entity in x.links:
                links[b, attribute, entity] = 1
            for r in x.relations:
                pattern = self.patterns.get(r.pattern, -100)
                patterns[b, r.subject, r.object] = pattern
                if pattern < 0:
                    continue
                if r.verb >= 0:
                    verbs.append([b, r.subject, r.object, r.verb])
                if r.place >= 0:
                    places.append([b, r.subject, r.object, x.places[r.place].last])
        verb, place = (torch.tensor(found, dtype=torch.long).reshape(-1, 4) for found in (verbs, places))
        return Targets(tags, entities, attributes, rewrites, links, patterns, verb, place)


def loss_of(model: CompactModel, batch: Batch, targets: Targets) -> dict[str, Tensor]:
    """Negative log-likelihood of the labels per sentence, by kind of label.

    Args:
        model ([`CompactModel`]): The network.
        batch ([`Batch`]): `B` sentences.
        targets ([`Targets`]): Their labels.
    """
    size = len(batch.lengths)
    states = model.encode(batch)
    mask = torch.arange(states.shape[1]) < batch.lengths.unsqueeze(-1)
    entity = model.spans(states, targets.entities[0], targets.entities[1], 0)
    attribute = model.spans(states, targets.attributes[0], targets.attributes[1], 1)
    at = targets.entities[1]
    linked = model.link(states, attribute, targets.attributes[1], entity, at, mask)
    known = targets.links >= 0
    scores, pairs = model.relate(states, entity, at, mask, batch.cues)
    losses = {
        "tags": _nll(model.tag(states), targets.tags),
        "entity_rewrites": _nll(model.entity_rewrite(entity), targets.rewrites[0]),
        "attribute_rewrites": _nll(model.attribute_rewrite(attribute), targets.rewrites[1]),
        "links": nn.functional.binary_cross_entropy_with_logits(linked[known], targets.links[known], reduction="sum"),
        "patterns": _nll(scores, targets.patterns),
    }
    for name, pointer, slots in (("verbs", model.verbs, targets.verbs), ("places", model.places, targets.places)):
        row, subject, target, word = slots.T
        if len(row):
            chosen = targets.patterns[row, subject, target]
            at_row = at[row, subject], at[row, target], row
            found = pointer(states, pairs[row, subject, target], chosen, *at_row)
            losses[name] = _nll(found.masked_fill(~mask[row], -1e4), word)
    return {name: value / size for name, value in losses.items()}


def _nll(scores: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(
        scores.flatten(0, -2).float(), labels.flatten(), reduction="sum", ignore_index=-100
    )


def batches_by_length(lengths: Sequence[int], schedule: Schedule, rng: random.Random) -> list[list[int]]:
    """Shuffled batches of indices; sentences of a batch have about the same length.

    Args:
        lengths (`Sequence[int]`): Tokens of every sentence.
        schedule ([`Schedule`]): Sizes of a batch.
        rng (`random.Random`): Shuffles.
    """
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i] + rng.uniform(0, 2.5), rng.random()))
    batches: list[list[int]] = []
    for i in order:
        last = batches[-1] if batches else None
        if (
            last is None
            or len(last) >= schedule.batch_size
            or (len(last) + 1) * (lengths[i] + 2) > schedule.max_tokens
        ):
            batches.append([i])
        else:
            last.append(i)
    rng.shuffle(batches)
    return batches


def train(
    model: CompactModel,
    draw: Callable[[random.Random], Sequence[Example]],
    pieces: Pieces,
    vocabulary: Vocabulary,
    schedule: Schedule,
) -> Iterator[dict[str, float]]:
    """Train in place; yields after every step its losses, learning rate and share of the way done.

    Args:
        draw: Examples of one epoch, drawn anew for each (repeats and augmentation are its business).
        pieces (`Pieces`): Splits words for the transformer.
        model ([`CompactModel`]): Changed in place.
        vocabulary ([`Vocabulary`]): Closed label sets.
        schedule ([`Schedule`]): How long and how fast.
    """
    torch.manual_seed(schedule.seed)
    rng = random.Random(schedule.seed)
    labeller = Labeller(vocabulary)
    trained = list(model.parameters())
    pretrained = {id(p) for p in model.encoder.parameters()}
    peaks = (schedule.learning_rate, schedule.encoder_learning_rate)
    groups = [{"params": [p for p in trained if (id(p) in pretrained) == is_encoder]} for is_encoder in (False, True)]
    optimizer = torch.optim.AdamW(groups, weight_decay=schedule.weight_decay, betas=(0.9, 0.98), fused=True)
    average = [p.detach().clone() for p in trained]
    total, step = 0, 0
    model.train()
    for epoch in range(int(-(-schedule.epochs // 1))):
        examples = draw(rng)
        batches = batches_by_length([len(e.tokens) for e in examples], schedule, rng)
        total = total or max(int(len(batches) * schedule.epochs), 1)
        for chosen in batches:
            if step >= total:
                break
            rate = _rate(step / total, schedule)
            for group, peak in zip(optimizer.param_groups, peaks):
                group["lr"] = rate * peak
            part = [examples[i] for i in chosen]
            batch = batch_of([e.tokens for e in part], pieces, model.config.buckets, vocabulary.cues)
            batch.shapes *= (torch.rand(len(part), 1) >= schedule.lower_case).long()
            # On so short rows the plain kernel takes half the time of the fused ones, backward included.
            with sdpa_kernel(SDPBackend.MATH):
                losses = loss_of(model, batch, labeller.targets(part))
            loss = torch.stack(list(losses.values())).sum()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 5.0)
            optimizer.step()
            step += 1
            decay = min(schedule.average, (1 + step) / (10 + step))
            torch._foreach_lerp_(average, [p.detach() for p in trained], 1 - decay)
            yield {
                "loss": loss.item(),
                **{k: v.item() for k, v in losses.items()},
                "rate": rate,
                "done": step / total,
                "epoch": epoch,
            }
    if schedule.average:
        with torch.no_grad():
            for p, mean in zip(trained, average):
                p.copy_(mean)
    model.eval()


def _rate(done: float, schedule: Schedule) -> float:
    """Share of the peak learning rates when a share `done` of the steps is done."""
    if done < schedule.warmup:
        return done / schedule.warmup
    return max(0.5 * (1 + math.cos((done - schedule.warmup) / (1 - schedule.warmup) * math.pi)), 1e-3)
