"""Parses sentences under `accelerate launch`; every rank writes down how many it generated and what it got.

accelerate launch --config_file recipes/accelerate/two_cpu_processes.yaml tests/parse_in_two_processes.py MODEL OUTPUT
"""

import json
import sys
from pathlib import Path

from accelerate import PartialState

from sc_captioner.scene_graph.factual import FactualParser


SENTENCES = [
    "A dog sits on a bench.",
    "Two women hold umbrellas.",
    "A cat.",
    "The red car is near the old house.",
    "A cat.",
]


def main(model: str, output: Path) -> None:
    options = {
        "device": "cpu",
        "beam_size": 1,
        "batch_size": 1,
        "cache_file": output / "graphs.sqlite",
        "across_processes": True,
    }
    parser, generated = FactualParser(model, **options), []
    state = PartialState()
    decode = parser._decode
    parser._decode = lambda batch: generated.append(batch["input_ids"].tolist()) or decode(batch)
    graphs = parser.parse(SENTENCES[:1]) + parser.parse(SENTENCES) + parser.parse([])
    state.wait_for_everyone()
    later = FactualParser(model, **options)
    later._decode = None  # what is on disk needs no model
    result = {
        "world_size": state.num_processes,
        "generated": generated,
        "graphs": [graph.to_facts() for graph in graphs],
        "later": [graph.to_facts() for graph in later.parse(SENTENCES)],
    }
    (output / f"rank{state.process_index}.json").write_text(json.dumps(result))
    state.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
