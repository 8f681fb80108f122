"""Train the compact scene-graph parser.

    python recipes/train_parser.py --config recipes/parser/compact.yaml [--seed 1 --output_dir outputs/parser]

reads captions with scene graphs in FACTUAL's written form and writes a parser that `load_parser(output_dir)` reads.
"""

from __future__ import annotations

import csv
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from tqdm import tqdm

from sc_captioner.arguments import run_recipe
from sc_captioner.data.scene_captions import caption_sentences
from sc_captioner.scene_graph.compact import CompactParser
from sc_captioner.scene_graph.compact_alignment import Aligner, Example
from sc_captioner.scene_graph.compact_decoding import pattern_cues
from sc_captioner.scene_graph.compact_labels import Vocabulary
from sc_captioner.scene_graph.compact_model import CompactConfig, CompactModel
from sc_captioner.scene_graph.compact_rewording import Rewording
from sc_captioner.scene_graph.compact_training import Schedule, train
from sc_captioner.scene_graph.compact_vectors import encoder_folder, known_words, word_vectors
from sc_captioner.scene_graph.compact_vocabulary import vocabulary_of
from sc_captioner.scene_graph.graph import SceneGraph


@dataclass
class ParserArguments:
    """Settings of the training; every field is a key of the YAML file and an option of the command line."""

    datasets: list[str] = field(
        default_factory=lambda: ["../shared/data/factual/train.csv", "../shared/data/long_captions/train.tsv"],
        metadata={"help": "CSV or TSV files or Hub ids with columns `caption` and `scene_graph`."},
    )
    repeats: list[float] = field(
        default_factory=lambda: [1.0, 4.0], metadata={"help": "How often each dataset is seen per epoch."}
    )
    rewording: list[float] = field(
        default_factory=lambda: [0.0, 0.5],
        metadata={"help": "Share of each dataset's sentences that are seen with other heads and attributes."},
    )
    limit: int | None = field(default=None, metadata={"help": "Rows read of each dataset; all by default."})
    scenes: int = field(default=0, metadata={"help": "Captions of the synthetic scenes whose sentences join the mix."})
    output_dir: str = field(default="outputs/compact_parser", metadata={"help": "Folder of the trained parser."})
    start_from: str | None = field(
        default=None, metadata={"help": "Folder of a trained parser to go on from, with its sizes and label sets."}
    )
    version: str = field(default="1", metadata={"help": "Version of the weights, written into config.json."})
    words: int = field(default=8000, metadata={"help": "Rows of the word table; 0 trains without one."})
    word_size: int = field(default=96, metadata={"help": "Width of the word table."})
    freeze_words: bool = field(default=True, metadata={"help": "Keep the word table as the encoder has it."})
    buckets: int = field(default=10000, metadata={"help": "Hash buckets of character n-grams."})
    ngram_size: int = field(default=96, metadata={"help": "Width of the n-gram table."})
    hidden: int = field(default=200, metadata={"help": "LSTM width per direction."})
    layers: int = field(default=2, metadata={"help": "LSTM layers."})
    dropout: float = field(default=0.33, metadata={"help": "Dropout of words, states and spans."})
    min_count: int = field(default=2, metadata={"help": "Patterns and rewrites seen less often are not learnt."})
    epochs: float = field(default=10.0, metadata={"help": "Passes over the mixed data."})
    batch_size: int = field(default=64, metadata={"help": "Sentences per step."})
    max_tokens: int = field(default=1200, metadata={"help": "Tokens per step, padding included."})
    learning_rate: float = field(default=2e-3, metadata={"help": "Peak learning rate."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of AdamW."})
    word_dropout: float = field(default=0.15, metadata={"help": "Share of words seen by their n-grams alone."})
    average: float = field(default=0.999, metadata={"help": "Decay of the weights' moving average."})
    seed: int = field(default=0, metadata={"help": "Seed of initial weights, order and dropout."})
    threads: int | None = field(default=None, metadata={"help": "CPU threads; torch's choice by default."})


def main(arguments: ParserArguments) -> None:
    for name in ("repeats", "rewording"):
        if len(getattr(arguments, name)) != len(arguments.datasets):
            raise ValueError(
                f"{name} has {len(getattr(arguments, name))} numbers for {len(arguments.datasets)} datasets."
            )
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    start = time.perf_counter()
    parts = [captions_with_graphs(name, arguments.limit) for name in arguments.datasets]
    repeats, shares = list(arguments.repeats), list(arguments.rewording)
    if arguments.scenes:
        parts.append(scene_captions(arguments.scenes, arguments.seed))
        repeats.append(1.0)
        shares.append(0.0)
    pairs = [pair for part in parts for pair in part]
    aligner = Aligner(min_count=3).fit(pairs)
    examples = [[aligner.label(*pair) for pair in part] for part in parts]
    flat = [example for part in examples for example in part]
    lost = sum(e.lost > 0 for e in flat)
    print(f"{len(flat)} captions, {lost / len(flat):.1%} of them with a fact that could not be aligned")
    torch.manual_seed(arguments.seed)
    vocabulary = vocabulary_of(pairs, flat, arguments.min_count)
    if arguments.start_from:
        model, trained, words = trained_model(arguments)
        vocabulary = replace(trained, base_forms=vocabulary.base_forms, verbs=vocabulary.verbs)
    else:
        model, words = fresh_model(arguments, vocabulary, [t.text for e in flat for t in e.tokens])
    if words:
        model.table.weight.requires_grad_(not arguments.freeze_words)
    chosen = {k: getattr(arguments, k) for k in Schedule.__dataclass_fields__ if hasattr(arguments, k)}
    schedule = Schedule(**chosen)
    rows = {word: i + 1 for i, word in enumerate(words)}
    progress = tqdm(total=100, unit="%", mininterval=5, bar_format="{l_bar}{bar}| {elapsed}<{remaining}{postfix}")
    recent = 0.0
    for step in train(model, drawn(examples, repeats, shares), rows, vocabulary, schedule):
        recent = 0.98 * recent + 0.02 * step["loss"] if recent else step["loss"]
        progress.n = round(100 * step["done"], 1)
        progress.set_postfix(loss=f"{recent:.3f}", refresh=False)
        progress.update(0)
    progress.close()

    card = {
        "version": arguments.version,
        "seed": arguments.seed,
        "start_from": arguments.start_from,
        "datasets": {name: len(part) for name, part in zip([*arguments.datasets, "scenes"], parts)},
    }
    CompactParser(model, vocabulary, words, card).save_pretrained(arguments.output_dir)
    size = sum(file.stat().st_size for file in Path(arguments.output_dir).iterdir()) / 1e6
    rows_of_table = {
        "captions": len(flat),
        "parameters": sum(p.numel() for p in model.parameters()),
        "patterns": len(vocabulary.patterns),
        "final loss": round(recent, 3),
        "megabytes": round(size, 2),
        "seconds": round(time.perf_counter() - start),
    }
    for name, value in rows_of_table.items():
        print(f"{name:>12} | {value}")
    print(json.dumps({**rows_of_table, "output_dir": arguments.output_dir}))


def fresh_model(
    arguments: ParserArguments, vocabulary: Vocabulary, corpus: list[str]
) -> tuple[CompactModel, list[str]]:
    """A model with random weights and the words of its table, which starts from a sentence encoder's vectors."""
    words = known_words(corpus, arguments.words, encoder_folder()) if arguments.words else []
    sizes = {k: getattr(arguments, k) for k in ("buckets", "word_size", "ngram_size", "hidden", "layers", "dropout")}
    config = CompactConfig(
        **sizes,
        words=len(words) + 1 if words else 0,
        entity_rewrites=len(vocabulary.entity_rewrites),
        attribute_rewrites=len(vocabulary.attribute_rewrites),
        patterns=len(vocabulary.patterns),
        cues=len(vocabulary.cues),
    )
    model = CompactModel(config)
    model.cues.patterns.copy_(pattern_cues(vocabulary))
    if words:
        with torch.no_grad():
            model.table.weight[1:] = word_vectors(words, arguments.word_size, encoder_folder())
    return model, words


def trained_model(arguments: ParserArguments) -> tuple[CompactModel, Vocabulary, list[str]]:
    """The model of `start_from` with this run's dropout, its label sets and the words of its table."""
    parser = CompactParser.from_pretrained(arguments.start_from, device="cpu")
    model = CompactModel(replace(parser.model.config, dropout=arguments.dropout))
    model.load_state_dict(parser.model.state_dict())
    return model, parser.vocabulary, parser.words


def captions_with_graphs(name: str, limit: int | None = None) -> list[tuple[str, SceneGraph]]:
    """Captions and graphs of a CSV or TSV file or of a Hub dataset's training split.

    Raises:
        ValueError: If a column is missing or there is no row; the message names it.
    """
    if Path(name).suffix in (".csv", ".tsv"):
        with open(name, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t" if name.endswith(".tsv") else ","))
    else:
        import datasets

        rows = list(datasets.load_dataset(name, split="train"))
    missing = [column for column in ("caption", "scene_graph") if not rows or column not in rows[0]]
    if missing:
        raise ValueError(f"{name} has no rows or no column {missing[0]!r}.")
    return [(row["caption"], SceneGraph.from_facts((row["scene_graph"] or "").lower())) for row in rows[:limit]]


def scene_captions(count: int, seed: int) -> list[tuple[str, SceneGraph]]:
    """Sentences of about `count` captions of the synthetic scenes with their graphs, each sentence once."""
    return list(dict(caption_sentences(count, seed=10_000 + seed)).items())


def drawn(
    examples: list[list[Example]], repeats: list[float], shares: list[float]
) -> Callable[[random.Random], list[Example]]:
    """What one epoch sees: every dataset as often as asked, and of each a share of sentences reworded."""
    rewording = Rewording(example for part in examples for example in part)

    def draw(rng: random.Random) -> list[Example]:
        mixed: list[Example] = []
        for part, times, share in zip(examples, repeats, shares):
            chosen = part * int(times) + rng.sample(part, round((times % 1) * len(part)))
            mixed += [rewording.reworded(e, rng) if rng.random() < share else e for e in chosen]
        return mixed

    return draw


if __name__ == "__main__":
    run_recipe(main, (ParserArguments,), __doc__)
