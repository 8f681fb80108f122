"""What the tests of the Hub have done by the real clients, in one process of its own that starts with HF_ENDPOINT."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import runpy
import sys
from pathlib import Path
from typing import Any


ROOT = Path(__file__).resolve().parents[1]


def start(log: str) -> None:
    """All that is written or logged, at any level, goes into one file."""
    # A spawned process inherits the path of its parent, whose own modules of `evaluate` would hide those loaded here.
    sys.path[:] = [path for path in sys.path if not (Path(path) / "evaluate_modules").is_dir()]
    file = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)


def recipe(name: str, *arguments: Any) -> int:
    """A recipe as the command line starts it; its exit code."""
    argv, sys.argv = sys.argv, [f"recipes/{name}.py", *map(str, arguments)]
    try:
        runpy.run_path(str(ROOT / "recipes" / f"{name}.py"), run_name="__main__")
    except SystemExit as exit_:
        return int(exit_.code or 0)
    finally:
        sys.argv = argv
        sys.stdout.flush()
    return 0


def snippet(card: str) -> bool:
    """Whether the Python block of a model card prints the captions of both turns."""
    [code] = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        scope: dict[str, Any] = {"__name__": "card"}
        exec(compile(code, "README.md", "exec"), scope)
    caption = scope["caption"]
    return printed.getvalue() == f"{caption.first}\n{caption.second}\n" != "\n\n"


def push_dataset(repo_id: str, rows: list[dict[str, str]]) -> None:
    from datasets import Dataset, Image

    Dataset.from_list(rows).cast_column("image", Image()).push_to_hub(repo_id, private=True)


def read_dataset(repo_id: str, streaming: bool) -> list[tuple[tuple[int, int], str]]:
    from datasets import load_dataset

    dataset = load_dataset(repo_id, split="train", streaming=streaming)
    return [(row["image"].size, row["reference"]) for row in dataset]


def checked_references(repo_id: str) -> list[str]:
    from sc_captioner.data import load_caption_dataset

    return [row["reference"] for row in load_caption_dataset(repo_id, streaming=True)]


def score(module: str, inputs: dict[str, Any]) -> dict[str, Any]:
    import evaluate

    return evaluate.load(module).compute(**inputs)


def run_cases(module: str, space: str) -> None:
    runpy.run_path(str(ROOT / "metrics" / module / "tests.py"))["run"](space)


def downloaded(repo_id: str, pattern: str) -> str:
    from huggingface_hub import snapshot_download

    return snapshot_download(repo_id, allow_patterns=pattern)


def push_by_hand(base: str, dataset: str, folder: str, evaluation: str) -> list[str]:
    """What three pushes in a row by a user's own script come to."""
    from sc_captioner import CorrectionReward, SCConfig, SCTrainer
    from sc_captioner.data import load_caption_dataset

    args = SCConfig(folder, num_generations=2, per_device_train_batch_size=2, bf16=False, report_to="none")
    trainer = SCTrainer(base, CorrectionReward(), args, load_caption_dataset(dataset))
    told = []
    for _ in range(3):
        try:
            trainer.push_to_hub(dataset_name=dataset, evaluation=evaluation)
            told.append("pushed")
        except Exception as error:
            told.append(f"{type(error).__name__}: {error}")
    return told


def raised(repo_id: str, folder: str) -> str:
    """The whole chain of an upload that fails, as a traceback would print it."""
    import traceback

    from sc_captioner.hub import hub_error

    try:
        from huggingface_hub import upload_folder

        try:
            upload_folder(repo_id=repo_id, folder_path=folder)
        except Exception as error:
            raise hub_error(error, repo_id) from None
    except Exception:
        return traceback.format_exc()
    return ""
