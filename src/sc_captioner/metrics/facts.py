"""Exact agreement of graphs: F1 of objects, attributes and relations, for captions that have one right reading."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from .result import MetricResult, averaged, check_lengths


if TYPE_CHECKING:
    from ..scene_graph.graph import SceneGraph
    from ..scene_graph.lexicon import Lexicon

KINDS = ("objects", "attributes", "relations")


def set_f1(candidate: Collection[object], reference: Collection[object]) -> float:
    """F1 of two sets, `2 |C and R| / (|C| + |R|)`; 1.0 where both are empty.

    Args:
        candidate (`Collection[object]`): What a caption says.
        reference (`Collection[object]`): What is true.
    """
    size = len(candidate) + len(reference)
    return 2 * len(set(candidate) & set(reference)) / size if size else 1.0


def fact_sets(graph: SceneGraph, lexicon: Lexicon) -> dict[str, set[tuple[str, ...]]]:
    """Facts of a graph by kind, lower case and every word lemmatised: `(head,)`, `(head, attribute)`, triples.

    Args:
        graph ([`SceneGraph`]): Any graph.
        lexicon ([`Lexicon`]): Lemmas of words.
    """

    def lemma(phrase: str) -> str:
        return " ".join(lexicon.lemma(word) for word in phrase.lower().split())

    heads = [lemma(entity.head) for entity in graph.entities]
    return {
        "objects": {(head,) for head in heads},
        "attributes": {(head, lemma(a)) for head, entity in zip(heads, graph.entities) for a in entity.attributes},
        "relations": {(heads[r.subject], lemma(r.relation), heads[r.object]) for r in graph.relations},
    }


def fact_scores(candidates: Sequence[SceneGraph], references: Sequence[SceneGraph], lexicon: Lexicon) -> MetricResult:
    """`objects_f1`, `attributes_f1`, `relations_f1` and their mean, `mean_f1`, each averaged over samples, in [0, 1].

    Args:
        candidates, references (`Sequence[SceneGraph]`): Graphs of the captions and of what is true.
        lexicon ([`Lexicon`]): Lemmas.

    Raises:
        ValueError: If the lists differ in length.
    """
    check_lengths(candidates=candidates, references=references)
    per_sample: list[dict[str, float] | None] = []
    for candidate, reference in zip(candidates, references):
        ours, theirs = fact_sets(candidate, lexicon), fact_sets(reference, lexicon)
        scores = {f"{kind}_f1": set_f1(ours[kind], theirs[kind]) for kind in KINDS}
        per_sample.append({**scores, "mean_f1": sum(scores.values()) / len(KINDS)})
    return averaged(per_sample, [*(f"{kind}_f1" for kind in KINDS), "mean_f1"])
