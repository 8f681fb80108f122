"""Train the compact scene-graph parser.

    python recipes/train_parser.py --config recipes/parser/compact_mixed.yaml    # the shipped parser's two steps
    python recipes/train_parser.py --config recipes/parser/compact.yaml
    python recipes/train_parser.py --datasets mine.csv --repeats 1 --rewording 0 --output_dir outputs/parser

Reads captions with scene graphs in FACTUAL's written form and writes a parser that `load_parser(output_dir)` reads.
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
from sc_captioner.scene_graph.compact_pieces import (
    Pieces,
    chosen_pieces,
    encoder_folder,
    start_from_encoder,
    whole_words,
)
from sc_captioner.scene_graph.compact_rewording import Rewording
from sc_captioner.scene_graph.compact_spelling import Spelling
from sc_captioner.scene_graph.compact_training import Schedule, train
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
    misspelt: float = field(default=0.02, metadata={"help": "Share of sentences that are seen with a slip."})
    limit: int | None = field(default=None, metadata={"help": "Rows read of each dataset; all by default."})
    scenes: int = field(default=0, metadata={"help": "Captions of the synthetic scenes whose sentences join the mix."})
    output_dir: str = field(default="outputs/compact_parser", metadata={"help": "Folder of the trained parser."})
    start_from: str | None = field(
        default=None, metadata={"help": "Folder of a trained parser to go on from, with its sizes and label sets."}
    )
    version: str = field(default="1", metadata={"help": "Version of the weights, written into config.json."})
    pieces: int = field(default=12000, metadata={"help": "Word pieces kept of the sentence encoder's."})
    encoder_layers: int = field(default=4, metadata={"help": "Layers kept of the sentence encoder's."})
    buckets: int = field(default=10000, metadata={"help": "Hash buckets of character n-grams."})
    ngram_size: int = field(default=64, metadata={"help": "Width of the n-gram table."})
    hidden: int = field(default=200, metadata={"help": "LSTM width per direction."})
    layers: int = field(default=1, metadata={"help": "LSTM layers."})
    dropout: float = field(default=0.25, metadata={"help": "Dropout of words, states and spans."})
    min_count: int = field(default=2, metadata={"help": "Patterns and rewrites seen less often are not learnt."})
    epochs: float = field(default=6.0, metadata={"help": "Passes over the mixed data."})
    batch_size: int = field(default=64, metadata={"help": "Sentences per step."})
    max_tokens: int = field(default=1200, metadata={"help": "Tokens per step, padding included."})
    learning_rate: float = field(default=2e-3, metadata={"help": "Peak learning rate of what is new."})
    encoder_learning_rate: float = field(default=2.5e-4, metadata={"help": "Peak learning rate of the encoder."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of AdamW."})
    lower_case: float = field(default=0.15, metadata={"help": "Share of sentences seen without capitals."})
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
    aligner = Aligner(min_count=3).fit(pairs, whole_words(encoder_folder()))
    examples = [[aligner.label(*pair) for pair in part] for part in parts]
    flat = [example for part in examples for example in part]
    lost = sum(e.lost > 0 for e in flat)
    print(f"{len(flat)} captions, {lost / len(flat):.1%} of them with a fact that could not be aligned")
    torch.manual_seed(arguments.seed)
    vocabulary = vocabulary_of(pairs, flat, aligner.spelling, arguments.min_count)
    if arguments.start_from:
        model, trained, pieces = trained_model(arguments)
        vocabulary = replace(trained, base_forms=vocabulary.base_forms, verbs=vocabulary.verbs)
    else:
        model, pieces = fresh_model(arguments, vocabulary, [t.text for e in flat for t in e.tokens])
    chosen = {k: getattr(arguments, k) for k in Schedule.__dataclass_fields__ if hasattr(arguments, k)}
    schedule = Schedule(**chosen)
    draw = drawn(examples, repeats, shares, aligner.spelling, arguments.misspelt)
    progress = tqdm(total=100, unit="%", mininterval=5, bar_format="{l_bar}{bar}| {elapsed}<{remaining}{postfix}")
    recent = 0.0
    for step in train(model, draw, Pieces(pieces), vocabulary, schedule):
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
    CompactParser(model, vocabulary, pieces, card).save_pretrained(arguments.output_dir)
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
    """A model whose transformer is the first layers of a sentence encoder, and the word pieces that it keeps."""
    pieces = chosen_pieces(corpus, arguments.pieces, encoder_folder())
    names = ("encoder_layers", "buckets", "ngram_size", "hidden", "layers", "dropout")
    config = CompactConfig(
        **{name: getattr(arguments, name) for name in names},
        pieces=len(pieces),
        entity_rewrites=len(vocabulary.entity_rewrites),
        attribute_rewrites=len(vocabulary.attribute_rewrites),
        patterns=len(vocabulary.patterns),
        cues=len(vocabulary.cues),
    )
    model = CompactModel(config)
    model.cues.patterns.copy_(pattern_cues(vocabulary))
    start_from_encoder(model, pieces, encoder_folder())
    return model, pieces


def trained_model(arguments: ParserArguments) -> tuple[CompactModel, Vocabulary, list[str]]:
    """The model of `start_from` with this run's dropout, its label sets and its word pieces."""
    parser = CompactParser.from_pretrained(arguments.start_from, device="cpu")
    model = CompactModel(replace(parser.model.config, dropout=arguments.dropout))
    model.load_state_dict(parser.model.state_dict())
    return model, parser.vocabulary, parser.pieces.pieces


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
    examples: list[list[Example]], repeats: list[float], shares: list[float], spelling: Spelling, misspelt: float
) -> Callable[[random.Random], list[Example]]:
    """What one epoch sees: every dataset as often as asked, a share of each reworded, a share of all misspelt."""
    rewording = Rewording((example for part in examples for example in part), spelling)

    def draw(rng: random.Random) -> list[Example]:
        mixed: list[Example] = []
        for part, times, share in zip(examples, repeats, shares):
            chosen = part * int(times) + rng.sample(part, round((times % 1) * len(part)))
            mixed += [rewording.reworded(e, rng) if rng.random() < share else e for e in chosen]
        mixed = [rewording.misspelt(e, rng) if rng.random() < misspelt else e for e in mixed]
        return mixed

    return draw


if __name__ == "__main__":
    run_recipe(main, (ParserArguments,), __doc__)
