"""The parser benchmark at the tiniest size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


REPOSITORY = Path(__file__).parent.parent
TINY = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2}


def run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/bench_parser.py", *options]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)


def test_both_parsers_are_measured_on_the_same_sentences(tmp_path):
    file = tmp_path / "gold.tsv"
    rows = [
        ("a black dog on a sofa", "( dog , is , black ) , ( dog , on , sofa )"),
        ("two plates", "( plates , is , 2 )"),
    ]
    file.write_text("".join(f"{a}\t{b}\n" for a, b in [("caption", "scene_graph"), *rows]))
    output = tmp_path / "parser.json"
    options = ("--t5_config", json.dumps(TINY), "--sample", "2", "--batch_size", "2", "--beams", "2", "--repeats", "1")
    result = run("--dataset", str(file), "--output", str(output), *options)
    assert result.returncode == 0, result.stderr
    measured = json.loads(output.read_text())
    assert measured["sentences"] == measured["t5_sentences"] == 2 and measured["threads"] == 1
    compact = measured["compact_sentences_per_cpu_second"]["64"]["median"]
    assert measured["ratio"] == pytest.approx(compact / measured["t5_sentences_per_cpu_second"])
    assert "random weights" in measured["t5"] and "ratio at batch 64" in result.stdout


def test_a_missing_dataset_is_named(tmp_path):
    result = run("--dataset", str(tmp_path / "none.tsv"))
    assert result.returncode == 2 and "none.tsv is not there" in result.stderr
