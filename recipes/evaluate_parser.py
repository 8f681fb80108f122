"""Score a scene-graph parser against gold graphs.

    python recipes/evaluate_parser.py --parser compact --dataset ../shared/data/factual/dev.csv

Set Match, SPICE and Soft-SPICE are computed by FactualSceneGraph's own evaluator, facts by `fact_scores`. Tables of
the errors come first, one JSON line with all scores last.
"""

from __future__ import annotations

import csv
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sc_captioner.arguments import run_recipe
from sc_captioner.scene_graph.compact_words import tokens_of
from sc_captioner.scene_graph.encoder import load_encoder
from sc_captioner.scene_graph.fact_scores import FactScore, error_kinds, fact_scores, written_facts
from sc_captioner.scene_graph.graph import SceneGraph
from sc_captioner.scene_graph.lexicon import load_lexicon
from sc_captioner.scene_graph.parser import load_parser


LENGTHS = ((1, 5), (6, 10), (11, 15), (16, 20), (21, 30), (31, 10**6))


@dataclass
class EvaluationArguments:
    """Settings of the evaluation."""

    parser: str = field(default="compact", metadata={"help": "`compact`, `factual`, a folder or a Hub id."})
    dataset: str = field(
        default="../shared/data/factual/dev.csv",
        metadata={"help": "CSV, TSV or Hub id with columns `caption` and `scene_graph`."},
    )
    split: str = field(default="test", metadata={"help": "Split of a Hub dataset."})
    limit: int | None = field(default=None, metadata={"help": "Rows that are read; all by default."})
    batch_size: int = field(default=64, metadata={"help": "Sentences per forward pass."})
    device: str | None = field(default=None, metadata={"help": "Device of the parser; its own choice by default."})
    threads: int | None = field(default=None, metadata={"help": "CPU threads; torch's choice by default."})
    encoder: str | None = field(
        default=None, metadata={"help": "SentenceTransformer of Soft-SPICE; MiniLM by default."}
    )
    lexicon: str = field(default="auto", metadata={"help": "Lemmas of the fact scores: `auto`, `nltk`, `bundled`."})
    lemmatize: bool = field(default=False, metadata={"help": "Let FactualSceneGraph's evaluator lemmatise first."})


def main(arguments: EvaluationArguments) -> None:
    rows = captions_with_facts(arguments.dataset, arguments.split)[: arguments.limit]
    captions, references = [caption for caption, _ in rows], [facts for _, facts in rows]
    if arguments.threads:
        import torch

        torch.set_num_threads(arguments.threads)
    options: dict[str, Any] = {"batch_size": arguments.batch_size}
    if arguments.device:
        options["device"] = arguments.device
    parser = load_parser(arguments.parser, **options)
    parser.parse(["A warm-up of the lazy parts of the libraries."])
    start = time.process_time()
    graphs = parser.parse(captions)
    seconds = time.process_time() - start

    lemma = load_lexicon(arguments.lexicon).lemma
    gold = [SceneGraph.from_facts(facts.lower()) for facts in references]
    scores = fact_scores(graphs, gold, lemma)
    print_tables(captions, graphs, gold, scores, lemma)
    official = factual_scores([written_facts(graph) for graph in graphs], references, arguments)
    line = {
        **{name: round(value, 2) for name, value in official.items()},
        "facts_precision": round(scores["facts"].precision, 4),
        "facts_recall": round(scores["facts"].recall, 4),
        **{f"{kind}_f1": round(score.f1, 4) for kind, score in scores.items()},
        "sentences_per_cpu_second": round(len(captions) / max(seconds, 1e-9), 1),
        "n": len(captions),
        "parser": parser.name,
        "dataset": arguments.dataset,
    }
    print(json.dumps(line))


def captions_with_facts(name: str, split: str) -> list[tuple[str, str]]:
    """Captions and graphs in FACTUAL's written form of a CSV or TSV file or of a Hub dataset.

    Raises:
        ValueError: If a column is missing or there is no row; the message names it.
    """
    if Path(name).suffix in (".csv", ".tsv"):
        with open(name, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t" if name.endswith(".tsv") else ","))
    else:
        import datasets

        rows = list(datasets.load_dataset(name, split=split))
    missing = [column for column in ("caption", "scene_graph") if not rows or column not in rows[0]]
    if missing:
        raise ValueError(f"{name} has no rows or no column {missing[0]!r}.")
    return [(row["caption"], row["scene_graph"] or "") for row in rows]


def factual_scores(found: list[str], gold: list[str], arguments: EvaluationArguments) -> dict[str, float]:
    """Set Match, SPICE and Soft-SPICE in percent by FactualSceneGraph's evaluator."""
    # The evaluator takes a graph without any bracket for a caption to be parsed.
    found, gold = ([text if "(" in text else "( )" for text in texts] for texts in (found, gold))
    logging.getLogger().setLevel(logging.WARNING)
    from factual_scene_graph.evaluation.evaluator import Evaluator

    evaluator = Evaluator(lemmatize=arguments.lemmatize)
    evaluator.text_encoder = load_encoder(arguments.encoder).model
    means = {}
    for method in ("set_match", "spice", "soft_spice"):
        values = evaluator.evaluate(found, [[text] for text in gold], method=method, batch_size=64)
        means[method] = sum(float(value) for value in values) / len(values)
    return means


def print_tables(
    captions: Sequence[str],
    found: Sequence[SceneGraph],
    gold: Sequence[SceneGraph],
    scores: dict[str, FactScore],
    lemma: Any,
) -> None:
    """Facts by kind, by length of the sentence, and the kinds of errors."""
    print(f"{'kind':>12} | precision | recall |    F1 | gold | missing | extra")
    for kind, s in scores.items():
        missing, extra = s.gold - s.matched, s.found - s.matched
        shares = f"{s.precision:9.3f} | {s.recall:6.3f} | {s.f1:5.3f}"
        print(f"{kind:>12} | {shares} | {s.gold:4d} | {missing:7d} | {extra:5d}")
    print(f"\n{'words':>12} |    n | facts F1 | objects | attributes | relations")
    lengths = [len(tokens_of(caption)) for caption in captions]
    for low, high in LENGTHS:
        chosen = [i for i, length in enumerate(lengths) if low <= length <= high]
        if not chosen:
            continue
        part = fact_scores([found[i] for i in chosen], [gold[i] for i in chosen], lemma)
        name = f"{low}-{high}" if high < 10**6 else f"{low}+"
        f1 = [part[kind].f1 for kind in ("facts", "objects", "attributes", "relations")]
        print(f"{name:>12} | {len(chosen):4d} | {f1[0]:8.3f} | {f1[1]:7.3f} | {f1[2]:10.3f} | {f1[3]:9.3f}")
    print("\nerrors")
    for kind, count in error_kinds(found, gold, lemma).items():
        print(f"{count:12d} | {kind}")
    print()


if __name__ == "__main__":
    run_recipe(main, (EvaluationArguments,), __doc__)
