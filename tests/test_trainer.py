"""SCTrainer on real architectures at toy size: what it optimises, what it keeps, what it refuses."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from tiny_models import TINY, tiny_qwen2_vl
from trl import GRPOTrainer

from sc_captioner.data import build_scenes
from sc_captioner.inference import corrected_captions
from sc_captioner.trainer import SCConfig, SCTrainer
from sc_captioner.trainer.sc_trainer import TRL_PRIVATE_API


SHORT = {"max_new_tokens": 48, "instruction": "Review the caption."}
TRAINER_OPTIONS = ("peft_config", "eval_dataset", "first_turn_reward_funcs")
TURNS = ("first", "second")
SCENES_SFT = Path(__file__).parents[1] / "src" / "sc_captioner" / "assets" / "scenes_sft"


def longer_second_caption(first_caption, second_caption, **columns):
    """A reward that needs no parser: reaches for length, and knows nothing of the third sample."""
    rewards = [len(second) / 50 - len(first) / 50 for first, second in zip(first_caption, second_caption)]
    return [None if i == 2 else reward for i, reward in enumerate(rewards)]


@pytest.fixture
def captions():
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (56 + 28 * (i % 2), 56, 3), dtype=np.uint8)) for i in range(8)]
    prompts = [f"Describe this image{' in detail' * (i % 3)}." for i in range(8)]
    return Dataset.from_dict({"image": images, "prompt": prompts, "reference": ["A small red circle."] * 8})


def saved(build, folder):
    model, processor = build()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def trainer_for(tmp_path, captions, build=tiny_qwen2_vl, reward=longer_second_caption, **changes):
    trainer_options = {key: changes.pop(key) for key in TRAINER_OPTIONS if key in changes}
    values = {
        "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "num_generations": 4,
        "num_corrections": 2, "max_completion_length": 12, "temperature": 1.0, "instruction": "Please review.",
        "learning_rate": 1e-2, "max_steps": 2, "logging_steps": 1, "loss_type": "grpo", "bf16": False,
        "use_cpu": True, "report_to": [], "save_strategy": "no", "activation_checkpointing": False,
        "model_init_kwargs": {"dtype": "float32"}, "disable_tqdm": True,
    }  # fmt: skip
    args = SCConfig(str(tmp_path / "run"), **{**values, **changes})
    return SCTrainer(saved(build, tmp_path / "model"), reward, args, captions, **trainer_options)


def test_overridden_methods_of_trl_have_not_changed():
    for name, parameters in TRL_PRIVATE_API.items():
        assert tuple(inspect.signature(getattr(GRPOTrainer, name)).parameters) == parameters, (
            f"TRL's {name} has changed; read it again before the pin of TRL is moved."
        )


@pytest.mark.parametrize("family", sorted(TINY))
def test_every_family_takes_steps(tmp_path, captions, family):
    trainer = trainer_for(tmp_path, captions, TINY[family])
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    changed = {name for name, value in trainer.model.named_parameters() if not torch.equal(value, before[name])}
    language = {name for name in before if "language_model" in name or "text_model" in name or "lm_head" in name}
    assert len(language) < len(before) and changed <= language  # encoder and projector are frozen, as released
    assert changed >= {name for name in language if name.endswith("_proj.weight")}
    logs = [row for row in trainer.state.log_history if "reward" in row]
    assert len(logs) == 2
    for key in ("first_turn/kl", "second_turn/kl", "first_turn/mean_length", "second_turn/clipped_ratio"):
        assert all(np.isfinite(row[key]) for row in logs)
    assert logs[0]["first_turn/kl"] == pytest.approx(0.0, abs=1e-6)
    assert logs[0]["skipped_samples"] == 1


def assert_gradients_are_those_of(policy, trainer):
    expected = {name: parameter.grad for name, parameter in policy.named_parameters()}
    compared = 0
    for name, parameter in trainer.model.named_parameters():
        if expected[name] is not None and expected[name].abs().max() > 1e-5:
            assert torch.allclose(parameter.grad, expected[name], rtol=1e-3, atol=1e-6), name
            compared += 1
    assert compared > 20


@pytest.mark.parametrize("policy_turns", ["second", "both"])
@pytest.mark.parametrize("advantage", ["group", "reinforce"])
def test_gradient_is_that_of_the_objective(tmp_path, captions, policy_turns, advantage):
    weights = {"beta": 0.3, "second_turn_beta": 0.07, "policy_turns": policy_turns, "advantage": advantage}
    trainer = trainer_for(tmp_path, captions, gradient_accumulation_steps=1, freeze_vision_tower=False, **weights)
    with torch.no_grad():  # away from the reference model, so that the KL terms count
        for parameter in trainer.model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    inputs = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    trainer.compute_loss(trainer.model, inputs).backward()

    policy, _ = tiny_qwen2_vl()
    reference, _ = tiny_qwen2_vl()
    policy.load_state_dict(trainer.model.state_dict())
    rows = []
    for i in range(4):
        row = {key: value[i] for key, value in inputs.items() if key.endswith(("_ids", "_mask", "advantages"))}
        with torch.no_grad():
            ref_logps, _, _ = token_logps(reference, row, inputs, i)
        logps, first, second = token_logps(policy, row, inputs, i)
        acted = second if policy_turns == "second" else [*first, *second]
        kl = (logps - ref_logps).square() / 2
        rows.append(-row["advantages"] * logps[acted].mean() + 0.3 * kl[first].mean() + 0.07 * kl[second].mean())
    torch.stack(rows).mean().backward()
    assert_gradients_are_those_of(policy, trainer)


def length_of_first(first_caption, **columns):
    return [len(first) / 40 for first in first_caption]


def length_of_second(second_caption, **columns):
    return [len(second) / 40 for second in second_caption]


@pytest.mark.parametrize("policy_turns", ["second", "both"])
def test_gradient_with_rewards_of_both_turns(tmp_path, captions, policy_turns):
    """SCoRe's stage II where both turns act; expected values from the captions' lengths, worked out here."""
    trainer = trainer_for(
        tmp_path, captions, gradient_accumulation_steps=1, freeze_vision_tower=False, policy_turns=policy_turns,
        reward=length_of_second, first_turn_reward_funcs=length_of_first, first_turn_weight=0.5, progress_weight=2.0,
        num_corrections=2, scale_rewards="none", log_completions=True,
    )  # fmt: skip
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    inputs = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    trainer.compute_loss(trainer.model, inputs).backward()

    firsts, seconds = ([len(text) / 40 for text in trainer._logs["extra"][f"{turn}_caption"]] for turn in TURNS)
    order = matched_rows(trainer, inputs)
    of_second = np.array([second + 2.0 * (second - first) for first, second in zip(firsts, seconds)])
    baselines = of_second.reshape(2, 2).mean(axis=1).repeat(2)
    second_advantages = (of_second - baselines)[order]
    first_advantages = 0.5 * (np.array(firsts) - np.mean(firsts))[order]
    policy, _ = tiny_qwen2_vl()
    policy.load_state_dict(trainer.model.state_dict())
    losses = []
    for i in range(4):
        row = {key: value[i] for key, value in inputs.items() if key.endswith(("_ids", "_mask"))}
        logps, first, second = token_logps(policy, row, inputs, i)
        on_first = first_advantages[i] + (second_advantages[i] if policy_turns == "both" else 0.0)
        total = on_first * logps[first].sum() + second_advantages[i] * logps[second].sum()
        losses.append(-total / (len(first) + len(second)))
    torch.stack(losses).mean().backward()
    assert_gradients_are_those_of(policy, trainer)
    assert trainer._metrics["train"]["first_turn/reward"] == pytest.approx([np.mean(firsts)])
    assert trainer._metrics["train"]["reward"] == pytest.approx([np.mean(seconds)])


def matched_rows(trainer, inputs):
    """TRL shuffles a generation batch; where each of its rows stands in the log, by its second caption's tokens."""
    decode, log = trainer.processing_class.tokenizer.decode, trainer._logs["extra"]
    said = list(zip(log["first_caption"], log["second_caption"]))
    order = []
    for ids, mask, policy in zip(inputs["completion_ids"], inputs["completion_mask"], inputs["tool_mask"]):
        ids, policy = ids[mask.bool()], policy[mask.bool()].tolist()
        split = policy.index(0)
        rest = [token for token, acted in zip(ids[split:], policy[split:]) if acted]
        pair = tuple(decode(part, skip_special_tokens=True).strip() for part in (ids[:split], rest))
        order.append(next(i for i, other in enumerate(said) if other == pair and i not in order))
    return order


def test_references_stand_among_the_corrections(tmp_path, captions):
    seen = []

    def reward(first_caption, second_caption, reference, **columns):
        seen.extend(zip(first_caption, second_caption, reference))
        return [float(second == said) for second, said in zip(second_caption, reference)]

    references = [f"A small red circle {i}." for i in range(8)]
    captions = captions.remove_columns("reference").add_column("reference", references)
    trainer = trainer_for(
        tmp_path, captions, reward=reward, num_corrections=4, reference_corrections=1, max_completion_length=48,
        max_steps=1, eval_dataset=captions.select(range(4)), per_device_eval_batch_size=4,
    )  # fmt: skip
    trainer.train()
    assert all(first == second for first, second, _ in seen[:2])  # asked before: would it do to leave them alone?
    assert all(second == said for _, second, said in seen[2:4])
    for start in range(4, 12, 4):
        group = seen[start : start + 4]
        assert len({first for first, _, _ in group}) == len({said for _, _, said in group}) == 1
        assert [second == said for _, second, said in group] == [False, False, False, True]
    log = next(row for row in trainer.state.log_history if "reward" in row)
    assert (log["reward"], log["second_turn/sampled_reward"]) == (0.25, 0.0)
    assert log["second_turn/kl"] == pytest.approx(0.0, abs=1e-6)
    seen.clear()
    trainer.evaluate()
    assert seen and all(second != said for _, second, said in seen)  # where it is tested it speaks for itself


def test_a_right_first_caption_is_its_own_correction(tmp_path, captions):
    """The reward decides which caption is right; that it was asked before is not logged."""
    calls = []

    def reward(first_caption, second_caption, reference, log_metric, **columns):
        calls.append(list(zip(first_caption, second_caption, reference)))
        log_metric("samples", len(first_caption))
        return [float(b == (a if "right" in said else said)) for a, b, said in calls[-1]]

    references = [f"A small {('wrong', 'right')[i % 2]} circle {i}." for i in range(8)]
    captions = captions.remove_columns("reference").add_column("reference", references)
    trainer = trainer_for(
        tmp_path, captions, reward=reward, num_corrections=4, reference_corrections=1, max_completion_length=48,
        max_steps=4,
    )  # fmt: skip
    trainer.train()
    answers = [group[3] for call in calls if len(call) == 8 for group in (call[:4], call[4:])]
    assert {"right" in said for _, _, said in answers} == {True, False}
    assert all(second == (first if "right" in said else said) for first, second, said in answers)
    assert {log["samples"] for log in trainer.state.log_history if "samples" in log} == {8.0}


def test_the_gradient_goes_towards_the_reference(tmp_path, captions):
    """With no other difference of reward the reference alone becomes more likely, without being sampled ever."""

    def is_reference(second_caption, reference, **columns):
        return [float(second == said) for second, said in zip(second_caption, reference)]

    trainer = trainer_for(
        tmp_path, captions, reward=is_reference, num_corrections=4, reference_corrections=1, max_completion_length=48,
        max_steps=8, learning_rate=3e-3, beta=0.0, second_turn_beta=0.0, gradient_accumulation_steps=1,
    )  # fmt: skip
    before = loss_of_reference(trainer)
    trainer.train()
    assert loss_of_reference(trainer) < before - 0.5


def loss_of_reference(trainer):
    """Of a reference as a plain text: what a language model learns first of it."""
    ids = torch.tensor([trainer.processing_class.tokenizer("A small red circle.")["input_ids"]])
    with torch.no_grad():
        return trainer.model(input_ids=ids, labels=ids).loss.item()


def test_rewards_of_the_first_turn_are_asked_for(tmp_path, captions):
    with pytest.raises(ValueError, match="progress_weight=1.0 needs a reward of the first caption: pass first_turn"):
        trainer_for(tmp_path, captions, progress_weight=1.0)


def token_logps(model, row, inputs, i):
    """Log-probability of every completion token, one unpadded sample at a time, and the positions of both turns."""
    prompt = row["prompt_ids"][row["prompt_mask"].bool()]
    kept = row["completion_mask"].bool()
    completion, policy = row["completion_ids"][kept], row["tool_mask"][kept].tolist()
    ids = torch.cat([prompt, completion]).unsqueeze(0)
    grids = inputs["image_grid_thw"]
    patches = grids.prod(dim=1).tolist()
    pixels = inputs["pixel_values"][sum(patches[:i]) : sum(patches[: i + 1])]
    logits = model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=pixels,
        image_grid_thw=grids[i : i + 1],
        mm_token_type_ids=(ids == model.config.image_token_id).int(),
    ).logits[0, len(prompt) - 1 : -1]
    logps = logits.log_softmax(dim=-1).gather(1, completion.unsqueeze(1)).squeeze(1)
    split = policy.index(0)
    first = list(range(split))
    second = [t for t in range(split, len(policy)) if policy[t]]
    return logps, first, second


@pytest.mark.parametrize("use_peft", [False, True])
def test_full_and_adapter_training_both_learn(tmp_path, use_peft):
    """The embedded captioner has several ways to begin a caption; one of them is paid for."""
    from peft import LoraConfig

    def begins_with_there_is(second_caption, **columns):
        return [float(text.startswith("There is")) for text in second_caption]

    lora = LoraConfig(target_modules=["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"], r=16)
    trainer = SCTrainer(
        str(SCENES_SFT),
        begins_with_there_is,
        SCConfig(
            str(tmp_path), learning_rate=3e-3 if use_peft else 1e-3, max_steps=20, per_device_train_batch_size=32,
            num_generations=8, max_completion_length=24, temperature=1.0, loss_type="grpo", bf16=False, report_to=[],
            logging_steps=1, save_strategy="no", instruction="Review the caption.", activation_checkpointing=False,
            lr_scheduler_type="constant", model_init_kwargs={"dtype": "float32"}, disable_tqdm=True,
        ),
        build_scenes(64, seed=7),
        peft_config=lora if use_peft else None,
    )  # fmt: skip
    trainer.train()
    rewards = [row["reward"] for row in trainer.state.log_history if "reward" in row]
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.2, rewards
    trained = {name for name, value in trainer.model.named_parameters() if value.requires_grad}
    assert all("lora" in name for name in trained) == use_peft

    trainer.save_model()
    scenes = build_scenes(8, seed=8, split="test")
    said = corrected_captions(
        trainer.model.eval(), trainer.processing_class, scenes["image"], scenes["prompt"], **SHORT
    )
    assert said_by_new_process(tmp_path) == [[captions.first, captions.second] for captions in said]


def said_by_new_process(folder):
    code = (
        "import json, sys; from sc_captioner.data import build_scenes; from sc_captioner.inference import *;"
        "scenes = build_scenes(8, seed=8, split='test'); model, processor = load_captioner(sys.argv[1]);"
        f"said = corrected_captions(model, processor, scenes['image'], scenes['prompt'], **{SHORT!r});"
        "print(json.dumps([[captions.first, captions.second] for captions in said]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_samples_of_a_group_share_first_captions_as_asked(tmp_path, captions):
    for corrections, distinct in ((4, 1), (2, 2)):
        seen = []

        def reward(first_caption, prompts, seen=seen, **columns):
            seen.extend(first_caption)
            return [0.0] * len(first_caption)

        folder = tmp_path / str(corrections)
        trainer = trainer_for(folder, captions, reward=reward, num_corrections=corrections, max_steps=1)
        trainer.train()
        groups = [seen[i : i + 4] for i in range(0, len(seen), 4)]
        assert all(len(set(group)) <= distinct for group in groups)
        for group in groups:
            for start in range(0, 4, corrections):
                assert len(set(group[start : start + corrections])) == 1


def test_evaluation_logs_rewards_of_the_second_turn(tmp_path, captions):
    trainer = trainer_for(
        tmp_path,
        captions,
        eval_dataset=captions.select(range(4)),
        num_generations_eval=1,
        per_device_eval_batch_size=2,
    )
    metrics = trainer.evaluate()
    assert {"eval_reward", "eval_first_turn/mean_length", "eval_second_turn/unchanged_ratio"} <= set(metrics)


def test_completions_table_shows_both_captions(tmp_path, captions):
    import pandas

    trainer = trainer_for(tmp_path, captions, log_completions=True, max_steps=1)
    trainer.train()
    table = pandas.read_parquet(next((tmp_path / "run" / "completions").glob("*.parquet")))
    assert {"first_caption", "second_caption", "longer_second_caption", "advantage"} <= set(table.columns)
    assert len(table) == 8
    # The table shows the advantages that were used: zero on average in every group that shares a first caption.
    for start in range(0, 8, 2):
        group = table["advantage"][start : start + 2]
        assert abs(group.sum()) < 1e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_corrections": 3}, "num_corrections=3 must be a divisor of num_generations=4"),
        ({"kl_estimator": "k4"}, "kl_estimator='k4' is unknown; choose one of k1, k2, k3"),
        ({"advantage": "none"}, "choose one of group, reinforce"),
        ({"beta": 0.0}, "second_turn_beta=0.01 needs the reference model"),
        ({"instruction": " "}, "instruction is empty"),
        ({"reference_corrections": 2}, "reference_corrections=2 must leave a correction to sample"),
        ({"first_turn_weight": -1.0}, "first_turn_weight=-1.0 must not be negative"),
        (
            {"first_turn_weight": 0.5, "num_corrections": 4},
            "num_corrections=4 leaves only one; set num_corrections to a smaller divisor of num_generations=4",
        ),
        ({"use_bias_correction_kl": True}, "set it to False"),
        (
            {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "num_generations": 8,
             "steps_per_generation": 4, "num_corrections": 8, "num_generations_eval": 12},
            "num_generations_eval=12 must be a multiple",
        ),
    ],
)  # fmt: skip
def test_contradictory_settings_are_refused(tmp_path, captions, changes, message):
    with pytest.raises(ValueError, match=message):
        trainer_for(tmp_path, captions, **changes)


def test_vllm_serves_both_turns(tmp_path, captions):
    """vLLM does not run here: its engine is stood in for by one that answers from a list, at TRL's own entry point."""
    trainer = trainer_for(tmp_path, captions, max_steps=1)
    eos, calls = trainer.eos_token_ids[0], []

    def generate_single_turn(prompt_ids, images, fields, num_generations):
        calls.append((prompt_ids, images, num_generations))
        # The last answer of every call is cut off: it has no end-of-turn token.
        answers = [[70 + i, eos] if i < len(prompt_ids) - 1 else [70 + i, 71] for i in range(len(prompt_ids))]
        return answers, [[-0.5, -0.25] for _ in answers]

    trainer._generate_single_turn, trainer.use_vllm = generate_single_turn, True
    trainer._last_loaded_step = trainer.state.global_step
    trainer.model.train()
    row = {
        "role": "user",
        "content": [{"type": "image", "image": captions[0]["image"]}, {"type": "text", "text": "?"}],
    }
    output = trainer.rollout_func([[row]] * 4, trainer)

    (first_prompts, first_images, first_group), (second_prompts, second_images, second_group) = calls
    assert len(first_prompts) == len(first_images) == 2 and first_group == 2  # 4 samples, 2 corrections per caption
    assert len(second_prompts) == len(second_images) == 4 and second_group == 2
    ask, close = list(trainer.bridge.ask), list(trainer.bridge.close)
    bridges = [ask, ask, close + ask, close + ask]
    firsts = [[70, eos], [70, eos], [71, 71], [71, 71]]
    assert second_prompts == [list(first_prompts[i // 2]) + firsts[i] + bridges[i] for i in range(4)]
    for i in range(4):
        second = [70 + i, eos] if i < 3 else [73, 71]
        assert output["completion_ids"][i] == firsts[i] + bridges[i] + second
        assert output["env_mask"][i] == [1, 1] + [0] * len(bridges[i]) + [1, 1]
        assert output["logprobs"][i] == [-0.5, -0.25] + [0.0] * len(bridges[i]) + [-0.5, -0.25]


def test_photographs_go_through_processor_rollout_and_reward(tmp_path):
    data = pytest.importorskip("skimage.data")
    from sc_captioner import CorrectionReward

    photographs = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    dataset = Dataset.from_dict(
        {
            "image": [Image.fromarray(photograph) for photograph in photographs],
            "prompt": ["Describe this image in detail."] * 4,
            "reference": [
                "A smiling astronaut in an orange suit stands in front of a flag.",
                "A brown cat with green eyes looks at the camera.",
                "A cup of coffee stands on a wooden table beside a spoon.",
                "A white rocket stands on the launch pad at night.",
            ],
        }
    )
    trainer = trainer_for(tmp_path, dataset, reward=CorrectionReward(), num_generations=4, max_steps=1)
    trainer.train()
    log = next(row for row in trainer.state.log_history if "reward" in row)
    assert log["skipped_samples"] == 0
    assert -0.5 <= log["reward"] <= 0.5
    assert {f"reward_parts/{part}" for part in ("objects", "attributes", "relations", "mistakes", "unchanged")} <= set(
        log
    )
