"""The average of the weights: its values, what is kept and saved of it, and that a resumed run has the same one."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image
from safetensors.torch import load_file
from tiny_models import tiny_qwen2_vl
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
    # decay 0.5, so after steps 1, 2, 3 the average keeps 2/11, 3/12, 4/13 of itself; after step 9 (10/19) a half
    average, model, state = WeightAverage(0.5), Line(), type("State", (), {"global_step": 0})
    average.on_train_begin(TrainingArguments(output_dir="unused", use_cpu=True), state, None, model)
    expected = 0.0
    for step, keep in ((1, 2 / 11), (2, 3 / 12), (3, 4 / 13), (9, 0.5)):
        state.global_step = step
        model.a.data.fill_(10.0 * step)
        average.on_step_end(None, state, None, model)
        expected = keep * expected + (1 - keep) * 10.0 * step
        assert average.average["a"].item() == pytest.approx(expected, rel=1e-6)
    assert set(average.average) == {"a"}  # what is not trained has no average
    with average.applied(model):
        assert model.a.item() == pytest.approx(expected)
    assert model.a.item() == 90.0


def test_average_is_that_of_torch_and_is_kept_in_the_end(tmp_path):
    trainer = line_trainer(tmp_path, WeightAverage(0.7))
    trainer.train()
    step = iter(range(1, 7))

    def average(kept, new, _):
        t = next(step)
        keep = min(0.7, (1 + t) / (10 + t))
        return keep * kept + (1 - keep) * new

    theirs, line = AveragedModel(torch.nn.ParameterList([torch.zeros(1)]), avg_fn=average), torch.nn.ParameterList()
    theirs.n_averaged += 1  # torch takes the first weights as they are; ours starts with those before the first step
    for weights in recorded(trainer):
        line = torch.nn.ParameterList([weights["a"]])
        theirs.update_parameters(line)
    kept = trainer.model.a.item()
    assert kept == pytest.approx(theirs.module[0].item(), rel=1e-5)
    assert kept != pytest.approx(recorded(trainer)[-1]["a"].item(), rel=1e-3)


def test_resumed_run_has_the_same_average(tmp_path):
    whole = line_trainer(tmp_path / "run", WeightAverage(0.7))
    whole.train()
    resumed = line_trainer(tmp_path / "run", WeightAverage(0.7))
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert len(recorded(resumed)) == 3
    assert resumed.model.a.item() == pytest.approx(whole.model.a.item(), rel=1e-6)


def test_checkpoint_holds_weights_and_average(tmp_path):
    trainer = line_trainer(tmp_path, WeightAverage(0.7))
    trainer.train()
    saved = tmp_path / "checkpoint-6"
    assert load_file(saved / AVERAGE_FILE)["a"].item() == pytest.approx(trainer.model.a.item())
    assert load_file(saved / "model.safetensors")["a"].item() == pytest.approx(recorded(trainer)[-1]["a"].item())


def test_a_missing_average_is_told(tmp_path, caplog):
    line_trainer(tmp_path, WeightAverage(0.7)).train()
    (tmp_path / "checkpoint-3" / AVERAGE_FILE).unlink()
    line_trainer(tmp_path, WeightAverage(0.7)).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert "the average of the weights starts at step 3" in caplog.text


@pytest.mark.parametrize("use_peft", [False, True])
def test_trainer_saves_the_average(tmp_path, use_peft):
    model, processor = tiny_qwen2_vl()
    for part in (model, processor):
        part.save_pretrained(tmp_path / "model")
    images = [Image.fromarray(np.full((56, 56, 3), 40 * i, dtype=np.uint8)) for i in range(4)]
    rows = Dataset.from_dict({"image": images, "prompt": ["Describe."] * 4, "reference": ["A red circle."] * 4})
    args = SCConfig(
        str(tmp_path / "run"), ema_decay=0.9, max_steps=3, per_device_train_batch_size=4, num_generations=4,
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
        keep = min(0.9, (1 + step) / (10 + step))
        expected = {name: keep * expected[name] + (1 - keep) * weights[name] for name in expected}
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


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1, 95])
def test_decays_out_of_range_are_refused(decay):
    with pytest.raises(ValueError, match=f"ema_decay={decay} must lie between 0 and 1"):
        WeightAverage(decay)


def test_a_second_choice_of_weights_is_refused(tmp_path):
    trainer = line_trainer(tmp_path, WeightAverage(0.7))
    trainer.args.load_best_model_at_end = True
    with pytest.raises(ValueError, match="load_best_model_at_end"):
        trainer.train()
