"""Refined CAPTURE (arXiv 2508.06125; docs/concepts.md): extra annotations, and attributes compared per object."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..matching import EPSILON, Pairing, f1_score, pair_off, similarities
from .capture import CHUNK, CaptionParts, caption_parts, chunks
from .result import MetricResult, averaged, check_lengths


if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..scene_graph.encoder import PhraseEncoder
    from ..scene_graph.graph import SceneGraph
    from ..scene_graph.lexicon import Lexicon

SCORES = tuple(f"{kind}_{score}" for kind in ("object", "attribute") for score in ("precision", "recall", "f1"))

WithoutAttributes = Literal["skip", "zero", "objects"]
Attributes = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Sample:
    """One caption and what is known of its image.

    Args:
        candidate ([`CaptionParts`]): What is compared of the caption.
        reference ([`CaptionParts`]): What is compared of the reference.
        recall ([`Pairing`]): Objects of both, paired.
        precision ([`Pairing`]): The caption's objects, paired with the reference's and the annotated ones.
        extra_attributes (`dict[str, list[str]]`): Annotated attributes by object.
    """

    candidate: CaptionParts
    reference: CaptionParts
    recall: Pairing  # of objects, against the reference
    precision: Pairing  # of objects, against reference and annotation
    extra_attributes: dict[str, list[str]]

    @property
    def has_attributes(self) -> bool:
        """Whether both captions have attributes; the released code leaves other samples out."""
        return bool(self.candidate.attributes and self.reference.attributes)


def refined_capture(
    candidates: Sequence[SceneGraph],
    references: Sequence[SceneGraph],
    candidate_captions: Sequence[str],
    reference_captions: Sequence[str],
    extra_objects: Sequence[Sequence[str]],
    extra_attributes: Sequence[Attributes | Sequence[Mapping[str, Any]]],
    lexicon: Lexicon,
    encoder: PhraseEncoder,
    without_attributes: WithoutAttributes = "skip",
) -> MetricResult:
    """Precision, recall and F1 of objects and of attributes, in [0, 1], averaged over samples.

    Object recall is measured against the reference, object precision against the reference and the annotated objects
    together. Attribute recall compares each reference object with the candidate's most similar one, attribute
    precision each candidate object with the most similar annotated one, weighted by that similarity. Attribute
    precision of an image without annotated attributes is measured against the reference's attributes.

    Args:
        candidates, references (`Sequence[SceneGraph]`): Graphs of the captions to score and of their references.
        candidate_captions, reference_captions (`Sequence[str]`): The texts, which decide what counts as a noun.
        extra_objects (`Sequence[Sequence[str]]`): Objects annotated beyond the reference, per image.
        extra_attributes (`Sequence`): Annotated attributes per image, `{object: [attribute]}` or the list
            `[{"object": ..., "attributes": [...]}]`.
        lexicon ([`Lexicon`]), encoder ([`PhraseEncoder`]): Words and phrases.
        without_attributes (`str`, *optional*, defaults to `"skip"`): What becomes of samples whose candidate or
            reference has no attributes. `"skip"` leaves them out of all six means, as released; `"zero"` counts their
            attribute scores as 0 (as 1 if neither side has any) and their object scores as they are; `"objects"`
            counts the object scores and leaves the attribute scores out. `skipped` counts such samples.

    Raises:
        ValueError: If the lists differ in length, `without_attributes` is unknown, or annotations have no known form.
    """
    if without_attributes not in ("skip", "zero", "objects"):
        raise ValueError(f"without_attributes is 'skip', 'zero' or 'objects', not {without_attributes!r}.")
    check_lengths(
        candidates=candidates,
        references=references,
        candidate_captions=candidate_captions,
        reference_captions=reference_captions,
        extra_objects=extra_objects,
        extra_attributes=extra_attributes,
    )
    rows = zip(candidates, references, candidate_captions, reference_captions, extra_objects, extra_attributes)
    per_sample: list[dict[str, float] | None] = []
    lacking = 0
    for chunk in chunks(enumerate(rows), CHUNK):
        samples = [_sample(index, row, lexicon) for index, row in chunk]
        encoder.encode({phrase for sample in samples for phrase in _objects(sample)})
        # Which annotated attributes matter is known only once the objects are: one in five, at about 100 an image.
        encoder.encode({phrase for sample in samples for phrase in _attributes(sample, encoder)})
        for sample in samples:
            lacking += not sample.has_attributes
            per_sample.append(_scores(sample, encoder, without_attributes))
    result = averaged([s if s is None or "attribute_f1" in s else None for s in per_sample], SCORES)
    objects = averaged(per_sample, SCORES[:3])
    return MetricResult({**result.corpus, **objects.corpus}, per_sample, lacking)


def attributes_by_object(annotation: Attributes | Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Annotated attributes as a dict, whichever of the two forms they come in; objects without attributes drop out.

    Args:
        annotation (`Attributes | Sequence[Mapping[str, Any]]`): `{object: [attribute]}` or `[{"object": ...,
            "attributes": [...]}]`.

    Raises:
        ValueError: If the form is neither.
    """
    try:
        pairs = (
            annotation.items()
            if isinstance(annotation, Mapping)
            else [(entry["object"], entry["attributes"]) for entry in annotation]
        )
        merged: dict[str, set[str]] = {}
        for name, values in pairs:
            if isinstance(values, str):
                raise TypeError(f"the attributes of {name!r} are one string")
            merged.setdefault(name, set()).update(values)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"Attributes are neither {{object: [attribute]}} nor [{{'object', 'attributes'}}] ({error}): "
            f"{annotation!r:.120}"
        ) from None
    return {name: sorted(merged[name]) for name in sorted(merged) if merged[name]}


def _sample(index: int, row: tuple[Any, ...], lexicon: Lexicon) -> Sample:
    candidate, reference, candidate_caption, reference_caption, objects, attributes = row
    if isinstance(objects, str):
        raise ValueError(f"extra_objects of sample {index} is one string, not a list of objects: {objects!r:.80}")
    ours, theirs = (
        caption_parts(candidate, candidate_caption, lexicon),
        caption_parts(reference, reference_caption, lexicon),
    )
    try:
        annotated = attributes_by_object(attributes or {})
    except ValueError as error:
        raise ValueError(f"extra_attributes of sample {index}: {error}") from None
    if not annotated:
        annotated = {head: sorted(values) for head, values in theirs.attributes.items()}
    every_object = {*theirs.objects, *objects}
    return Sample(
        ours,
        theirs,
        pair_off(ours.objects, theirs.objects, lexicon),
        pair_off(ours.objects, every_object, lexicon),
        annotated,
    )


def _objects(sample: Sample) -> Iterator[str]:
    """Objects that scoring will compare."""
    yield from sample.recall.phrases()
    yield from sample.precision.phrases()
    if sample.has_attributes:
        yield from (*sample.candidate.attributes, *sample.reference.attributes, *sample.extra_attributes)


def _attributes(sample: Sample, encoder: PhraseEncoder) -> Iterator[str]:
    """Attributes that scoring will compare, once the objects are encoded."""
    if sample.has_attributes:
        for ours, theirs in (
            (sample.candidate.attributes, sample.reference.attributes),
            (sample.extra_attributes, sample.candidate.attributes),
        ):
            for head, partner, _ in nearest_objects(ours, theirs, encoder):
                yield from (*theirs[head], *ours[partner])


def nearest_objects(
    candidate: Collection[str], reference: Collection[str], encoder: PhraseEncoder
) -> list[tuple[str, str, float]]:
    """Each reference object, the most similar candidate object (alphabetically first of equals), their similarity.

    Args:
        candidate (`Collection[str]`): Objects of the caption, at least one.
        reference (`Collection[str]`): Objects to find partners for, at least one.
        encoder ([`PhraseEncoder`]): Vectors of phrases.
    """
    ours, theirs = sorted(candidate), sorted(reference)
    cosines = similarities(encoder, ours, theirs)
    weights = cosines.max(axis=0).astype(np.float64).clip(0, 1)
    return [(head, ours[i], weight) for head, i, weight in zip(theirs, cosines.argmax(axis=0), weights.tolist())]


def _scores(sample: Sample, encoder: PhraseEncoder, without_attributes: WithoutAttributes) -> dict[str, float] | None:
    if not sample.has_attributes and without_attributes == "skip":
        return None
    recall, precision = sample.recall.settled(encoder).recall, sample.precision.settled(encoder).precision
    scores = {"object_precision": precision, "object_recall": recall, "object_f1": f1_score(precision, recall)}
    if sample.has_attributes:
        found = attribute_recall(sample.candidate.attributes, sample.reference.attributes, encoder)
        held = attribute_recall(sample.extra_attributes, sample.candidate.attributes, encoder)
        scores |= {"attribute_precision": held, "attribute_recall": found, "attribute_f1": f1_score(held, found)}
    elif without_attributes == "zero":
        neither = not sample.candidate.attributes and not sample.reference.attributes
        scores |= dict.fromkeys(SCORES[3:], 1.0 if neither else 0.0)
    return scores


def attribute_recall(
    candidate: Mapping[str, Collection[str]], reference: Mapping[str, Collection[str]], encoder: PhraseEncoder
) -> float:
    """Share of `reference`'s attributes that `candidate` gives, object by object.

    Each reference object is compared with the most similar candidate object; its attributes score their best cosine
    there, weighted by that similarity. Swap the arguments for precision.

    Args:
        candidate, reference (`Mapping[str, Collection[str]]`): Attributes by object, neither side empty, no object
            without attributes.
        encoder ([`PhraseEncoder`]): Vectors of phrases.
    """
    pairs = nearest_objects(candidate, reference, encoder)
    vectors = _Vectors([candidate[partner] for _, partner, _ in pairs] + list(reference.values()), encoder)
    score = size = 0.0
    for head, partner, weight in pairs:
        attributes = sorted(reference[head])
        best = (vectors.of(sorted(candidate[partner])) @ vectors.of(attributes).T).max(axis=0).clip(0, 1)
        score += weight * float(best.sum(dtype=np.float64))
        size += weight * len(attributes)
    return float(score / (size + EPSILON))


class _Vectors:
    """Vectors of all attributes of a sample, looked up once: a sample has dozens of small products."""

    def __init__(self, groups: Iterable[Collection[str]], encoder: PhraseEncoder) -> None:
        phrases = sorted({phrase for group in groups for phrase in group})
        self._index = {phrase: i for i, phrase in enumerate(phrases)}
        self._vectors = encoder.encode(phrases)

    def of(self, phrases: list[str]) -> NDArray[np.float32]:
        return self._vectors[[self._index[phrase] for phrase in phrases]]
