"""The benchmark of a training step runs, measures every part on both sides, and its kept figures are of its form."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import yaml
from tiny_models import TINY


ROOT = Path(__file__).parents[1]
PARTS = {
    "turn 1", "turn 2", "parsing", "embedding", "matching", "reference pass", "forward and backward", "optimizer",
    "other", "total",
}  # fmt: skip


def test_every_part_of_a_step_is_measured_on_both_sides(tmp_path, shared, monkeypatch):
    """A model of a recipe's form, with a vocabulary larger than the tokenizer's, as the real ones have."""
    model, _ = TINY["qwen2_vl"]()
    config = model.config.to_dict()
    config["text_config"]["vocab_size"] = 2000
    (tmp_path / "config.json").write_text(json.dumps(config))
    recipe = yaml.safe_load((ROOT / "recipes" / "qwen2_vl_2b" / "sc.yaml").read_text())
    recipe["processor_kwargs"] = {"max_pixels": 56 * 56}
    (tmp_path / "sc.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT / "benchmarks")])
    monkeypatch.setattr(
        sys, "argv",
        ["bench_step.py", "--config", str(tmp_path / "sc.yaml"), "--steps", "1", "--released", "2", "--tokens", "6",
         "--rows", "2", "--shared", str(shared), "--scratch", str(tmp_path), "--output", str(tmp_path / "step.json")],
    )  # fmt: skip
    runpy.run_path(str(ROOT / "benchmarks" / "bench_step.py"), run_name="__main__")
    result = json.loads((tmp_path / "step.json").read_text())
    check(result)
    assert result["setting"]["caption_tokens"] == 6 and (result["ours"]["n"], result["released"]["n"]) == (4, 2)


def test_the_figures_in_the_repository_are_of_this_benchmark():
    result = json.loads((ROOT / "benchmarks" / "step_cpu.json").read_text())
    check(result)
    # Without a cache every token of both turns costs the whole sequence.
    assert result["ratios"]["turn 1"] > 3 and result["ratios"]["turn 2"] > 3 and result["ratios"]["total"] > 3


def check(result):
    for side in ("ours", "released"):
        seconds = result[side]["seconds_per_correction"]
        assert seconds.keys() == PARTS
        assert all(value > 0 for name, value in seconds.items() if name != "other")
        assert sum(value for name, value in seconds.items() if name != "total") == pytest.approx(seconds["total"])
        assert seconds["other"] < seconds["total"] / 2 and result[side]["peak_mib"] > 100
    for name, ratio in result["ratios"].items():
        if name != "peak memory":
            ours, released = (result[side]["seconds_per_correction"][name] for side in ("ours", "released"))
            assert ratio == pytest.approx(released / ours)
