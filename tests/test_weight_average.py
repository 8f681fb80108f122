"""The average of the weights: its values, what is kept and saved of it, and that a resumed run has the same one."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image
from safetensors.torch import load_file
from tiny_models import tiny_qwen2_vl
from torch import distributed
from torch.distributed.tensor import distribute_tensor
from torch.optim.swa_utils import AveragedModel
from transformers import Trainer, TrainerCallback, TrainingArguments

from sc_captioner.trainer import SCConfig, SCTrainer, WeightAverage
from sc_captioner.trainer.weight_average import AVERAGE_FILE


class Line(torch.nn.Module):
    """y = ax + b, of which b is not trained."""

    def __init__(self):
        super().__init__()
        self.a = torch.nn.Parameter(torch.zeros(1))
        self.b = torch.nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, x, y):
        return {"loss": ((self.a * x + self.b - y) ** 2).mean()}


class Recorder(TrainerCallback):
    """Weights after every step."""

    def __init__(self):
        self.weights = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.weights.append({name: w.detach().clone() for name, w in model.named_parameters() if w.requires_grad})


def line_trainer(folder, average, **changes):
    values = {
        "max_steps": 6, "per_device_train_batch_size": 2, "learning_rate": 0.1, "lr_scheduler_type": "constant",
        "use_cpu": True, "report_to": [], "disable_tqdm": True, "save_steps": 3, "optim": "sgd", "seed": 1,
    }  # fmt: skip
    rows = Dataset.from_dict({"x": [1.0, 2.0, -1.0, 0.5], "y": [3.0, 1.0, 0.0, 4.0]}).with_format("torch")
    arguments = TrainingArguments(str(folder), **{**values, **changes})
    return Trainer(Line(), arguments, train_dataset=rows, callbacks=[average, Recorder()])


def recorded(trainer):
    return next(c for c in trainer.callback_handler.callbacks if isinstance(c, Recorder)).weights


def test_average_by_hand():
    # eta = 1: the average moves by 2/2, 2/3, 2/4, 2/5; of the weights 1, 4, 9, 16 it holds 1, 3, 6, 10
    average, model, state = WeightAverage(0.5), Line(), type("State", (), {"global_step": 0})
    average.on_train_begin(TrainingArguments(output_dir="unused", use_cpu=True), state, None, model)
    for step, held in ((1, 1.0), (2, 3.0), (3, 6.0), (4, 10.0)):
        state.global_step = step
        model.a.data.fill_(float(step**2))
        average.on_step_end(None, state, None, model)
        assert average.average["a"].item() == pytest.approx(held, rel=1e-6)
    assert set(average.average) == {"a"}  # what is not trained has no average
    with average.applied(model):
        assert model.a.item() == pytest.approx(10.0)
    assert model.a.item() == 16.0


def test_the_last_half_counts(tmp_path):
    # weights of (1 + eta) / (t + eta) add up to t / (1 + ... + n) for eta = 1
    trainer = line_trainer(tmp_path, WeightAverage(0.5))
    trainer.train()
    steps = [weights["a"].item() for weights in recorded(trainer)]
    assert trainer.model.a.item() == pytest.approx(np.average(steps, weights=[1, 2, 3, 4, 5, 6]), rel=1e-5)


def test_all_steps_count_the_same_as_in_torch(tmp_path):
    trainer = line_trainer(tmp_path, WeightAverage(1.0))
    trainer.train()
    theirs = AveragedModel(torch.nn.Linear(1, 1, bias=False))  # stochastic weight averaging: the mean
    for weights in recorded(trainer):
        line = torch.nn.Linear(1, 1, bias=False)
        line.weight.data.copy_(weights["a"])
        theirs.update_parameters(line)
    assert trainer.model.a.item() == pytest.approx(theirs.module.weight.item(), rel=1e-5)


def test_resumed_run_has_the_same_average(tmp_path):
    whole = line_trainer(tmp_path / "run", WeightAverage(0.4))
    whole.train()
    resumed = line_trainer(tmp_path / "run", WeightAverage(0.4))
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert len(recorded(resumed)) == 3
    assert resumed.model.a.item() == pytest.approx(whole.model.a.item(), rel=1e-6)


def test_checkpoint_holds_weights_and_average(tmp_path):
    trainer = line_trainer(tmp_path, WeightAverage(0.4))
    trainer.train()
    saved = tmp_path / "checkpoint-6"
    assert load_file(saved / AVERAGE_FILE)["a"].item() == pytest.approx(trainer.model.a.item())
    assert load_file(saved / "model.safetensors")["a"].item() == pytest.approx(recorded(trainer)[-1]["a"].item())


def test_a_missing_average_is_told(tmp_path, caplog):
    line_trainer(tmp_path, WeightAverage(0.4)).train()
    (tmp_path / "checkpoint-3" / AVERAGE_FILE).unlink()
    line_trainer(tmp_path, WeightAverage(0.4)).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert "the average of the weights starts at step 3" in caplog.text


@pytest.mark.parametrize("use_peft", [False, True])
def test_trainer_saves_the_average(tmp_path, use_peft):
    model, processor = tiny_qwen2_vl()
    for part in (model, processor):
        part.save_pretrained(tmp_path / "model")
    images = [Image.fromarray(np.full((56, 56, 3), 40 * i, dtype=np.uint8)) for i in range(4)]
    rows = Dataset.from_dict({"image": images, "prompt": ["Describe."] * 4, "reference": ["A red circle."] * 4})
    args = SCConfig(
        str(tmp_path / "run"), average_last=0.5, max_steps=3, per_device_train_batch_size=4, num_generations=4,
        gradient_accumulation_steps=1, max_completion_length=8, learning_rate=1e-2, bf16=False, use_cpu=True,
        report_to=[], save_strategy="no", disable_tqdm=True, activation_checkpointing=False, temperature=1.0,
        model_init_kwargs={"dtype": "float32"},
    )  # fmt: skip
    recorder = Recorder()
    trainer = SCTrainer(
        str(tmp_path / "model"),
        lambda second_caption, **columns: [len(set(text)) / 10 for text in second_caption],
        args,
        rows,
        callbacks=[recorder],
        peft_config=LoraConfig(r=2, target_modules=["q_proj", "v_proj"]) if use_peft else None,
    )
    start = {name: w.detach().clone() for name, w in trainer.model.named_parameters() if w.requires_grad}
    trainer.train()
    expected = start
    for step, weights in enumerate(recorder.weights, start=1):
        share = 2 / (step + 1)
        expected = {name: (1 - share) * expected[name] + share * weights[name] for name in expected}
    assert any(not torch.equal(expected[name], recorder.weights[-1][name]) for name in expected)
    trainer.save_model()
    for name, weight in trainer.model.named_parameters():
        if weight.requires_grad:
            torch.testing.assert_close(weight.detach(), expected[name])
    if use_peft:
        saved = load_file(tmp_path / "run" / "adapter_model.safetensors")
        kept = get_peft_model_state_dict(trainer.model)
    else:
        saved = type(trainer.model).from_pretrained(tmp_path / "run").state_dict()
        kept = trainer.model.state_dict()
    assert saved.keys() == kept.keys()
    for name, weight in saved.items():
        torch.testing.assert_close(weight, kept[name])


@pytest.mark.parametrize("last", [0.0, 1.01, -0.1, 50])
def test_shares_out_of_range_are_refused(last):
    with pytest.raises(ValueError, match=f"average_last={last} must lie in"):
        WeightAverage(last)


def test_a_second_choice_of_weights_is_refused(tmp_path):
    trainer = line_trainer(tmp_path, WeightAverage(0.4))
    trainer.args.load_best_model_at_end = True
    with pytest.raises(ValueError, match="load_best_model_at_end"):
        trainer.train()


def test_sharded_weights_are_refused(tmp_path):
    distributed.init_process_group("gloo", rank=0, world_size=1, store=distributed.HashStore())
    try:
        model = Line()
        model.a = torch.nn.Parameter(distribute_tensor(model.a.data, distributed.init_device_mesh("cpu", (1,))))
        with pytest.raises(ValueError, match="leave it out with ZeRO-3 or FSDP"):
            WeightAverage(0.5).on_train_begin(None, None, None, model)
    finally:
        distributed.destroy_process_group()
