"""The methods that are compared on the scenes: each YAML really trains, on equal data, model and budget."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from trl import TrlParser

from sc_captioner.data import CORRECTION_INSTRUCTION, build_scenes
from sc_captioner.inference import corrected_captions, load_captioner


ROOT = Path(__file__).resolve().parents[1]
SCENES_SFT = ROOT / "src" / "sc_captioner" / "assets" / "scenes_sft"
sys.path.append(str(ROOT / "recipes"))  # last: recipes/evaluate.py must not stand before the library evaluate

RECIPES = {
    "sft_more": "sft",
    "dpo": "dpo",
    "grpo": "grpo",
    "score_stage1": "sc",
    "score_stage2": "sc",
    "released": "sc",
    "sc": "sc",
}
SAMPLED = {"num_generations": 4, "max_completion_length": 24, "per_device_train_batch_size": 8}
OWN = {"max_new_tokens": 24, "per_device_train_batch_size": 4}


def parsed(method, output_dir, **changes):
    """Settings of a method's YAML with some of them changed, and its recipe."""
    recipe = importlib.import_module(RECIPES[method])
    arguments = ["--config", str(ROOT / "recipes" / "scenes" / f"{method}.yaml"), "--output_dir", str(output_dir)]
    for name, value in changes.items():
        arguments += [f"--{name}", str(value)]
    return recipe, TrlParser(recipe.ARGUMENTS).parse_args_and_config(arguments)


def small(method):
    sizes = SAMPLED if RECIPES[method] in ("sc", "grpo") else OWN
    if method == "sc":
        sizes = {**sizes, "num_corrections": 4}
    if method == "released":
        sizes = {**sizes, "num_generations": 2}
    start = str(SCENES_SFT)  # also of SCoRe's second stage, whose own start is what the first one saved
    return {"model_name_or_path": start, "num_samples": 8, "max_steps": 2, "save_strategy": "no", **sizes}


@pytest.mark.parametrize("method", RECIPES)
def test_every_method_trains_and_saves_a_model_that_loads(tmp_path, monkeypatch, method):
    monkeypatch.chdir(ROOT)
    recipe, settings = parsed(method, tmp_path / "run", **small(method), disable_tqdm=True)
    recipe.main(*settings)
    before, after = (load_file(folder / "model.safetensors") for folder in (SCENES_SFT, tmp_path / "run"))
    moved = {name for name, value in after.items() if not torch.equal(value, before[name].to(value.dtype))}
    assert moved and not any("visual" in name for name in moved)
    scenes = build_scenes(2, seed=3, split="test")
    said = corrected_captions(
        *load_captioner(str(tmp_path / "run")), scenes["image"], scenes["prompt"], max_new_tokens=8
    )
    assert all(caption.first and caption.second for caption in said)


def test_all_methods_have_the_same_start_data_and_budget():
    steps, others = dict.fromkeys(RECIPES, 0), set()
    for method in RECIPES:
        recipe, settings = parsed(method, "unused")
        fields = {key: value for group in settings for key, value in vars(group).items()}
        steps[method] = fields["max_steps"]
        sequences = fields["per_device_train_batch_size"] * fields["gradient_accumulation_steps"]
        others.add(
            (
                fields["dataset"], fields["dataset_split"], fields["dataset_seed"], fields["num_samples"],
                str(fields["lr_scheduler_type"]), fields["dtype"], fields["freeze_vision_tower"], fields["use_peft"],
                sequences * (2 if method == "dpo" else 1),
                fields.get("instruction", CORRECTION_INSTRUCTION),
            )
        )  # fmt: skip
        if method != "score_stage2":
            assert fields["model_name_or_path"] == str(SCENES_SFT.relative_to(ROOT))
    assert len(others) == 1, others
    steps["score"] = steps.pop("score_stage1") + steps.pop("score_stage2")
    assert set(steps.values()) == {120}


def test_second_stage_of_score_goes_on_from_the_first():
    first, second = (parsed(f"score_stage{n}", "unused")[1] for n in (1, 2))
    assert second[-1].model_name_or_path == "outputs/scenes_score_stage1"
    yaml = (ROOT / "recipes" / "scenes" / "score_stage1.yaml").read_text()
    assert f"output_dir: {second[-1].model_name_or_path}\n" in yaml
    assert first[3].beta > second[3].beta  # the first stage holds the first turn


def pairs_of(folder, **changes):
    dpo, settings = parsed("dpo", folder, num_samples=6, max_new_tokens=48, **changes)
    processor = settings[2].load_processor(settings[4])
    return dpo.preference_pairs(settings[0], processor, settings[3], settings[4])


def test_preference_pairs_are_references_against_own_second_captions(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    pairs = pairs_of(tmp_path / "one")
    rows = [json.loads(line) for line in (tmp_path / "one" / "own_captions.jsonl").open()]
    scenes = build_scenes(6, seed=100)
    assert [row["label"] for row in rows] == scenes["reference"]
    assert len({row["predict_turn2"] for row in rows}) > 1
    for pair, row, prompt in zip(pairs, rows, scenes["prompt"], strict=True):
        turns = [(turn["role"], turn["content"]) for turn in pair["prompt"]]
        assert turns == [("user", prompt), ("assistant", row["predict"]), ("user", CORRECTION_INSTRUCTION)]
        assert pair["chosen"] == [{"role": "assistant", "content": row["label"]}]
        assert pair["rejected"] == [{"role": "assistant", "content": row["predict_turn2"]}]
    again, other = pairs_of(tmp_path / "two"), pairs_of(tmp_path / "three", seed=1)
    assert again["rejected"] == pairs["rejected"] != other["rejected"]


def test_pairs_of_a_dataset_are_taken_as_they_are(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    rows = build_scenes(3, seed=100).add_column("first_caption", ["A star."] * 3)
    rows = rows.add_column("rejected", ["A big star.", rows[1]["reference"], "A heart."])
    rows.save_to_disk(tmp_path / "rows")
    pairs = pairs_of(tmp_path / "run", dataset=tmp_path / "rows")
    assert [row[0]["content"] for row in pairs["rejected"]] == ["A big star.", "A heart."]  # nothing to prefer in one
    assert {row[1]["content"] for row in pairs["prompt"]} == {"A star."}
    assert not (tmp_path / "run").exists()


def test_fine_tuning_on_own_captions_teaches_the_reference_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    sft, settings = parsed("sft_more", tmp_path, num_samples=12, max_new_tokens=24)
    trainer = sft.trainer_of(*settings)
    rows = [json.loads(line) for line in (tmp_path / "own_captions.jsonl").open()]
    contexts = {len(row["prompt"]) for row in trainer.train_dataset}
    assert contexts == {1, 3}
    batch = trainer.data_collator([dict(row) for row in trainer.train_dataset])
    decode = trainer.processing_class.tokenizer.decode
    for ids, labels, row, own in zip(batch["input_ids"], batch["labels"], trainer.train_dataset, rows):
        taught = decode(ids[labels != -100], skip_special_tokens=True).strip()
        assert taught == own["label"] == row["completion"][0]["content"]
        if len(row["prompt"]) == 3:
            assert row["prompt"][1]["content"] == own["predict"] and own["predict"] in decode(ids)


@pytest.mark.parametrize(
    ("method", "changes", "said"),
    [
        ("dpo", {"temperature": 0}, "temperature=0.0 must be above 0"),
        ("dpo", {"streaming": True}, "streaming is not available here"),
        ("sft_more", {"two_turn": 2}, "two_turn=2.0 is a share"),
        ("sft_more", {"assistant_only_loss": True}, "set assistant_only_loss to false"),
        ("score_stage1", {"parts": "objects"}, "parts and weights belong to preset 'paper'"),
        ("grpo", {"parser": "no/such-parser"}, "no/such-parser"),
        ("grpo", {"dataset_split": "validation"}, "split"),
    ],
)
def test_wrong_settings_end_in_a_sentence(tmp_path, monkeypatch, method, changes, said):
    monkeypatch.chdir(ROOT)
    recipe, settings = parsed(method, tmp_path, num_samples=4, **changes)
    with pytest.raises(ValueError, match=said):
        recipe.main(*settings)
