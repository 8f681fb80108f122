"""One run of the study: train, keep the weights that are to be compared, score them."""

from __future__ import annotations

import importlib
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from transformers.utils.logging import disable_progress_bar
from trl import TrlParser

from ..trainer import WeightAverage
from .grid import Cell, Stage
from .scoring import Row, scored


# What a training run of the study does not do: it is not kept, reports to nobody and draws no bar.
_QUIET = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True, "logging_steps": 1_000_000}
# A cheap method may go on for so many times the steps, at most, to use up the time.
_LONGEST = 50

Report = Callable[[str], None]


@dataclass
class Snapshot:
    """Weights on the way.

    Args:
        steps (`int`): Optimizer steps so far, all stages together.
        seconds (`float`): Seconds of training so far, see [`seconds_of_training`].
        weights (`dict[str, torch.Tensor]`): A copy of the state dict.
    """

    steps: int
    seconds: float
    weights: dict[str, torch.Tensor]


@dataclass
class Snapshots(TrainerCallback):
    """
    Keeps the weights after given steps and the last ones within the time, and ends training when both are past.

    Args:
        at (`frozenset[int]`): Steps, counted over all stages, after which weights are kept.
        last (`int`): Step that training must reach in this stage.
        budget (`float`, *optional*): Seconds until which this stage goes on, if it is the last one.
        every (`int`): Within the budget the weights of every so many steps are kept; each replaces those before it.
        spent (`Callable[[], float]`): Seconds of training so far.
        report (`Callable[[str], None]`): Is told the step now and then.
        before (`int`): Steps of the stages before.
        goes_on (`bool`, defaults to `True`): Whether the stage is the last one of its method; another ends at `last`,
            whatever time is left.
        average ([`~sc_captioner.trainer.WeightAverage`], *optional*): Keeps what is kept; else the weights are.
        taken (`dict[int, Snapshot]`, *optional*): What was kept of `at`, by step.
        in_time ([`Snapshot`], *optional*): The last weights within the budget.
    """

    at: frozenset[int]
    last: int
    budget: float | None
    every: int
    spent: Callable[[], float]
    report: Report
    before: int = 0
    goes_on: bool = True
    average: WeightAverage | None = None
    taken: dict[int, Snapshot] = field(default_factory=dict)
    in_time: Snapshot | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """As [`~transformers.TrainerCallback.on_step_end`]: keep weights, and end training in time."""
        steps, seconds = self.before + state.global_step, self.spent()
        if steps in self.at:
            self.taken[steps] = _snapshot(steps, seconds, model, self.average)
        if self.budget is not None and steps % self.every == 0 and seconds <= self.budget:
            self.in_time = self.taken.get(steps) or _snapshot(steps, seconds, model, self.average)
        if steps % 5 == 0:
            self.report(f"step {steps}")
        out_of_time = not self.goes_on or self.budget is None or seconds >= self.budget
        if steps >= self.last and out_of_time:
            control.should_training_stop = True


def run_cell(cell: Cell, budget: float | None, recipes: Path, report: Report = lambda text: None) -> list[Row]:
    """Train a cell and score it at its points.

    Args:
        cell ([`Cell`]): What to run.
        budget (`float`, *optional*): Seconds that the leader of its seed took; `None` for a cell that leads itself
            or is not compared at equal time.
        recipes (`Path`): Folder of the recipes.
        report (`Callable`, *optional*): Is told what the run is at.

    Returns:
        `list[Row]`: Scores by point (`curve`, `steps`, `time`), world, turn and metric. Of a cell that leads, the
        points `steps` and `time` are one.
    """
    if not torch.accelerator.is_available():
        torch.set_num_threads(1)  # so that processor seconds are seconds of one core
    logging.getLogger("transformers").setLevel(logging.ERROR)
    disable_progress_bar()
    if not cell.stages:
        from ..inference import load_captioner

        model, processor = load_captioner(cell.test["start_model"])
        return scored(model, processor, cell.worlds, cell.test, point="steps", steps=0, seconds=0.0)
    model, processor, kept, in_time = _trained(cell, budget, recipes, report)
    model.config.use_cache = True
    rows: list[Row] = []
    for steps, snapshot in sorted(kept.items()):
        report(f"scores after step {steps}")
        last = steps == cell.steps
        worlds = cell.worlds if last else {"plain": cell.worlds["plain"]}
        model.load_state_dict(snapshot.weights)
        point = "steps" if last else "curve"
        found = scored(model, processor, worlds, cell.test, point=point, steps=steps, seconds=snapshot.seconds)
        rows += found
        if cell.timed and last and (cell.leader is None or (in_time is not None and in_time.steps == steps)):
            rows += [row.at("time") for row in found]
            in_time = None
    if cell.timed and in_time is not None:
        report(f"scores after step {in_time.steps}, at equal time")
        model.load_state_dict(in_time.weights)
        rows += scored(
            model, processor, cell.worlds, cell.test, point="time", steps=in_time.steps, seconds=in_time.seconds
        )
    return rows


def clock() -> float:
    """Processor seconds of this process, which do not run while others have the core; where there is an accelerator,
    seconds of the wall."""
    return time.perf_counter() if torch.accelerator.is_available() else time.process_time()


def _trained(
    cell: Cell, budget: float | None, recipes: Path, report: Report
) -> tuple[Any, Any, dict[int, Snapshot], Snapshot | None]:
    kept: dict[int, Snapshot] = {}
    in_time: Snapshot | None = None
    start, steps, model_path = clock(), 0, None
    with tempfile.TemporaryDirectory(prefix="study-") as folder:
        for number, stage in enumerate(cell.stages):
            is_last = number == len(cell.stages) - 1
            until = cell.steps if is_last else steps + round(stage.share * cell.steps)
            report("loading")
            trainer = _trainer(cell, stage, model_path, recipes, f"{folder}/{number}", until - steps)
            snapshots = Snapshots(
                at=frozenset((*cell.curve, cell.steps)), last=until, budget=budget, every=cell.test["check_every"],
                spent=lambda: clock() - start, report=report, before=steps, goes_on=is_last,
                average=next((c for c in trainer.callback_handler.callbacks if isinstance(c, WeightAverage)), None),
            )  # fmt: skip
            if budget is not None and in_time is None:
                in_time = _snapshot(0, clock() - start, trainer.model)  # one that never gets through a first check
            trainer.add_callback(snapshots)
            trainer.train()
            kept |= snapshots.taken
            in_time = snapshots.in_time or in_time
            model, processor = trainer.accelerator.unwrap_model(trainer.model), trainer.processing_class
            steps = until
            if not is_last:
                model_path = f"{folder}/{number}/model"
                model.save_pretrained(model_path)
                processor.save_pretrained(model_path)
    return model, processor, kept, in_time


def _trainer(cell: Cell, stage: Stage, model_path: str | None, recipes: Path, folder: str, steps: int) -> Any:
    settings = {**stage.settings, **_QUIET, "seed": cell.seed, "output_dir": folder}
    settings["max_steps"] = steps * _LONGEST if cell.leader else steps
    if model_path is not None:
        settings["model_name_or_path"] = model_path
    Path(folder).mkdir(parents=True)
    config = Path(folder) / "settings.yaml"
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    recipe = _module(recipes / stage.recipe)
    parsed = TrlParser(recipe.ARGUMENTS).parse_args_and_config(["--config", str(config)])
    trainer = recipe.trainer_of(*parsed)
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)  # subclasses too
    return trainer


def _module(path: Path) -> Any:
    # As scripts, recipes import each other by name.
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    return importlib.import_module(path.stem)


def _snapshot(steps: int, seconds: float, model: Any, average: WeightAverage | None = None) -> Snapshot:
    if average is not None:
        with average.applied(model):
            return _snapshot(steps, seconds, model)
    return Snapshot(steps, seconds, {name: value.detach().clone() for name, value in model.state_dict().items()})
