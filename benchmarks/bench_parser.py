"""Speed of the compact parser against FACTUAL's Flan-T5-base with beam 5: the same long sentences, one core, one run.

    python benchmarks/bench_parser.py --dataset ../shared/data/long_captions/dev.tsv --output benchmarks/parser.json

T5 is read from `--t5` where it can be had. Where not, a T5 of the real size with random weights stands in:
it generates with beam 5 exactly as many tokens per sentence as the gold graph has, so that it does the real one's work
without its words. Lengths are those of MiniLM's word pieces, which are about T5's. Sentences of like length share a
batch, as in this package's `factual` parser; the released parser moves one caption at a time.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import random
import statistics
import time
from pathlib import Path
from typing import Any


# One core means one core; read when numpy and torch are loaded, which happens inside the functions below.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Of google/flan-t5-base's config.json.
FLAN_T5_BASE = {
    "d_model": 768, "d_kv": 64, "d_ff": 2048, "num_layers": 12, "num_decoder_layers": 12, "num_heads": 12,
    "vocab_size": 32128, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "pad_token_id": 0,
    "eos_token_id": 1, "decoder_start_token_id": 0,
}  # fmt: skip
PROMPT_TOKENS = 5  # of "Generate Scene Graph: "


def compact_rates(sentences: list[str], repeats: int) -> dict[str, list[float]]:
    """Sentences per CPU-second of a fresh parser, by batch size."""
    from sc_captioner.scene_graph.compact import CompactParser

    rates: dict[str, list[float]] = {}
    for batch_size in (1, 64):
        for _ in range(repeats):
            parser = CompactParser.from_pretrained(device="cpu", batch_size=batch_size)
            parser.parse(["a first call"])
            start = time.process_time()
            parser.parse(sentences)
            rates.setdefault(str(batch_size), []).append(len(sentences) / (time.process_time() - start))
    return rates


def t5_of_real_size(config: dict[str, Any]) -> Any:
    """A T5 with random weights and its configuration's size."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    return T5ForConditionalGeneration(T5Config(**config)).eval()


def forced_rate(model: Any, rows: list[tuple[str, str]], batch_size: int, beams: int) -> float:
    """Sentences per CPU-second of `model` when every batch generates as many tokens as its longest gold graph has."""
    import torch
    from transformers import AutoTokenizer

    from sc_captioner.scene_graph.compact_pieces import encoder_folder

    tokenizer = AutoTokenizer.from_pretrained(encoder_folder())
    sizes = [(len(tokenizer(text)["input_ids"]), len(tokenizer(graph)["input_ids"])) for text, graph in rows]
    sizes.sort(reverse=True)
    start = time.process_time()
    for first in range(0, len(sizes), batch_size):
        batch = sizes[first : first + batch_size]
        ids = torch.randint(2, model.config.vocab_size, (len(batch), PROMPT_TOKENS + batch[0][0]))
        length = max(target for _, target in batch)
        with torch.inference_mode():
            model.generate(input_ids=ids, num_beams=beams, do_sample=False, min_new_tokens=length,
                           max_new_tokens=length, early_stopping=True)  # fmt: skip
    return len(sizes) / (time.process_time() - start)


def real_rate(folder: str, rows: list[tuple[str, str]], batch_size: int, beams: int) -> float:
    """Sentences per CPU-second of a T5 with its own weights."""
    from sc_captioner.scene_graph import load_parser

    parser = load_parser(folder, device="cpu", batch_size=batch_size, beam_size=beams)
    parser.parse(["a first call"])
    start = time.process_time()
    parser.parse([text for text, _ in rows])
    return len(rows) / (time.process_time() - start)


def main() -> None:
    """Measure, print the table, write the JSON."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(__file__).resolve().parents[2] / "shared"
    arguments.add_argument("--dataset", type=Path, default=shared / "data/long_captions/dev.tsv")
    arguments.add_argument("--t5", help="folder or Hub id of FACTUAL's T5; default: random weights of its size")
    arguments.add_argument("--t5_config", type=json.loads, default={}, help="changes of the random T5's configuration")
    arguments.add_argument("--sample", type=int, default=16, help="sentences T5 is measured on")
    arguments.add_argument("--batch_size", type=int, default=8, help="sentences per batch of T5")
    arguments.add_argument("--beams", type=int, default=5)
    arguments.add_argument("--repeats", type=int, default=3, help="runs of the compact parser")
    arguments.add_argument("--output", type=Path, default=Path(__file__).resolve().parent / "parser.json")
    options = arguments.parse_args()
    if not options.dataset.is_file():
        arguments.error(f"{options.dataset} is not there: --dataset names a TSV with caption and scene_graph.")
    with options.dataset.open(encoding="utf-8", newline="") as file:
        rows = [(row["caption"], row["scene_graph"]) for row in csv.DictReader(file, delimiter="\t")]

    import torch

    torch.set_num_threads(1)
    compact = compact_rates([text for text, _ in rows], options.repeats)
    sample = random.Random(0).sample(rows, min(options.sample, len(rows)))
    settings = sample, options.batch_size, options.beams
    if options.t5:
        t5 = real_rate(options.t5, *settings)
    else:
        t5 = forced_rate(t5_of_real_size(FLAN_T5_BASE | options.t5_config), *settings)
    result = {
        "machine": {"processor": platform.processor() or platform.machine(), "python": platform.python_version()},
        "threads": 1,
        "sentences": len(rows),
        "compact_sentences_per_cpu_second": {
            size: {"median": statistics.median(rates), "min": min(rates), "max": max(rates)}
            for size, rates in compact.items()
        },
        "t5": options.t5 or "random weights of flan-t5-base's size, outputs forced to the gold length",
        "t5_sentences_per_cpu_second": t5,
        "t5_sentences": len(sample),
        "beams": options.beams,
        "ratio": statistics.median(compact["64"]) / t5,
    }
    print(f"{'parser':44}{'batch':>6}{'sentences per CPU-second':>30}")
    for size, rates in compact.items():
        print(f"{'compact':44}{size:>6}{statistics.median(rates):>18.1f} [{min(rates):.0f}, {max(rates):.0f}]")
    print(f"{'T5, beam ' + str(options.beams):44}{options.batch_size:>6}{t5:>18.2f}")
    print(f"ratio at batch 64: {result['ratio']:.0f}")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
