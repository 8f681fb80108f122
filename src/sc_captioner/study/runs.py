"""The runs of the study: one file each, several at a time, gone on with where they were stopped."""

from __future__ import annotations

import json
import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from tqdm.auto import tqdm

from .grid import MAIN, Cell


_SCHEMA = pyarrow.schema(
    [
        ("method", pyarrow.string()),
        ("variant", pyarrow.string()),
        ("seed", pyarrow.int64()),
        ("point", pyarrow.string()),
        ("steps", pyarrow.int64()),
        ("seconds", pyarrow.float64()),
        ("world", pyarrow.string()),
        ("turn", pyarrow.string()),
        ("metric", pyarrow.string()),
        ("value", pyarrow.float64()),
        ("n", pyarrow.int64()),
        ("per_scene", pyarrow.list_(pyarrow.float32())),
    ]
)
# Imported once in the process that all runs are forked from.
_IMPORTS = [
    "sc_captioner.study.training",
    "sc_captioner.trainer",
    "sentence_transformers",
    "trl.trainer.grpo_trainer",
    "trl.trainer.sft_trainer",
    "trl.trainer.dpo_trainer",
]
# Leaders of one study took 151 to 175 s of one core for the same work: what was run against such a time still stands.
TIME_TOLERANCE = 0.1
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class Runs:
    """Finished and failed runs below a folder: `<cell>.parquet`, `<cell>.error.json` and `<cell>.log`.

    Args:
        folder (`Path`): Made when the study starts.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        """The file of a finished run.

        Args:
            name (`str`): Name of the cell.
        """
        return self.folder / f"{name}.parquet"

    def write(self, cell: Cell, budget: float | None, rows: Sequence[Any]) -> None:
        """Keep a finished run; its file is there as a whole or not at all.

        Args:
            cell ([`Cell`]): What was run.
            budget (`float`, *optional*): Seconds it was given for equal time.
            rows (`Sequence[Row]`): Its scores.
        """
        columns = {"method": cell.method, "variant": cell.variant, "seed": cell.seed}
        table = pyarrow.Table.from_pylist([{**columns, **asdict(row)} for row in rows], schema=_SCHEMA)
        told = {"settings": json.dumps(cell.settings()), "budget": json.dumps(budget)}
        whole = self.path(cell.name).with_suffix(".part")
        pyarrow.parquet.write_table(table.replace_schema_metadata(told), whole)
        os.replace(whole, self.path(cell.name))
        self._error(cell.name).unlink(missing_ok=True)

    def fail(self, cell: Cell, error: str, details: str = "") -> None:
        """Note why a run failed.

        Args:
            cell ([`Cell`]): What was run.
            error (`str`): The reason, in a line.
            details (`str`, defaults to `""`): Traceback.
        """
        told = {"error": error, "details": details, "cell": cell.name}
        self._error(cell.name).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")

    def errors(self) -> dict[str, str]:
        """Why runs failed, by cell."""
        found = {}
        for path in sorted(self.folder.glob("*.error.json")):
            told = json.loads(path.read_text(encoding="utf-8"))
            found[told["cell"]] = told["error"]
        return found

    def changes(self, cell: Cell) -> list[str] | None:
        """What of a cell's settings differs from those it was run with; `None` if it was not run.

        Args:
            cell ([`Cell`]): With its settings of now.
        """
        if not self.path(cell.name).is_file():
            return None
        then, now = json.loads(self._metadata(cell.name)["settings"]), cell.settings()
        return sorted(_differences(then, now))

    def budget_of(self, cell: Cell) -> float | None:
        """Seconds that the leader of a cell took; `None` if the cell has none or it is not done.

        Args:
            cell ([`Cell`]): Its `leader` names the other run.
        """
        return self.seconds(cell.leader) if cell.leader else None

    def is_current(self, cell: Cell) -> bool:
        """Whether the cell is done, with these settings and about as much time as this run of its leader took.

        Args:
            cell ([`Cell`]): With its settings of now.
        """
        if self.changes(cell) != []:
            return False
        given, now = json.loads(self._metadata(cell.name)["budget"]), self.budget_of(cell)
        if given is None or now is None:
            return given == now
        return abs(given - now) <= TIME_TOLERANCE * now

    def seconds(self, name: str) -> float | None:
        """Seconds of training of a finished run.

        Args:
            name (`str`): Name of the cell.
        """
        if not self.path(name).is_file():
            return None
        table = pyarrow.parquet.read_table(self.path(name), columns=["point", "seconds"])
        return next(row["seconds"] for row in table.to_pylist() if row["point"] == "steps")

    def _metadata(self, name: str) -> dict[str, str]:
        found = pyarrow.parquet.read_schema(self.path(name)).metadata or {}
        return {key.decode(): value.decode() for key, value in found.items()}

    def _error(self, name: str) -> Path:
        return self.folder / f"{name}.error.json"


def run_study(
    cells: Sequence[Cell], runs: Runs, recipes: Path, *, workers: int, say: Callable[[str], None] = print
) -> dict[str, str]:
    """Run all cells that are not done.

    Args:
        cells (`Sequence[Cell]`): In the order to run them.
        runs ([`Runs`]): What is done, and where the rest goes.
        recipes (`Path`): Folder of the recipes.
        workers (`int`): Runs at a time, each in a process of its own; 0: one after another in this one.
        say (`Callable[[str], None]`): Gets a line for every cell that is run again and for every failure.

    Returns:
        `dict[str, str]`: Why cells failed, by name; empty if all are done.
    """
    runs.folder.mkdir(parents=True, exist_ok=True)
    waiting = list(_to_run(cells, runs, say))
    failed: dict[str, str] = {}
    crew: _Here | _Workers = _Workers(runs, recipes, workers) if workers else _Here(runs, recipes)
    with tqdm(total=len(cells), initial=len(cells) - len(waiting), desc="Study", unit="run", smoothing=0) as bar:
        while waiting or crew.names:
            names = {cell.name for cell in waiting} | set(crew.names)
            for cell in [cell for cell in waiting if cell.leader not in names][: crew.free]:
                waiting.remove(cell)
                if cell.leader in failed:
                    failed[cell.name] = f"its time is that of {cell.leader}, which failed"
                    runs.fail(cell, failed[cell.name])
                    bar.update()
                    continue
                crew.start(cell, runs.budget_of(cell))
            for cell, error in crew.finished():
                bar.update()
                if error is not None:
                    failed[cell.name] = error
                    with bar.external_write_mode():
                        say(f"{cell.name} failed: {error}")
            bar.set_postfix_str(crew.doing)
    return failed


def _to_run(cells: Sequence[Cell], runs: Runs, say: Callable[[str], None]) -> Iterator[Cell]:
    again: set[str] = set()
    for cell in cells:
        if cell.leader not in again and runs.is_current(cell):
            continue
        again.add(cell.name)
        changed = runs.changes(cell)
        if changed is not None:
            reason = f"changed: {', '.join(changed[:3])}" if changed else f"{cell.leader} took another time"
            say(f"{cell.name} runs again ({reason}).")
        yield cell


def _differences(then: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name in sorted({*then, *now}):
        a, b = then.get(name), now.get(name)
        if a == b:
            continue
        if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
            a, b = (dict(zip(map(str, range(len(x))), x)) for x in (a, b))
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _differences(a, b, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name} {a!r} -> {b!r}"


class _Here:
    """Runs cells in this process."""

    names: tuple[str, ...] = ()
    free = 1
    doing = ""

    def __init__(self, runs: Runs, recipes: Path) -> None:
        self.runs, self.recipes = runs, recipes
        self._done: list[tuple[Cell, str | None]] = []

    def start(self, cell: Cell, budget: float | None) -> None:
        self._done.append((cell, _attempt(cell, budget, self.recipes, self.runs, lambda text: None)))

    def finished(self) -> list[tuple[Cell, str | None]]:
        done, self._done = self._done, []
        return done


@dataclass
class _Worker:
    cell: Cell
    process: Any
    reports: Connection
    said: str = "starting"


class _Workers:
    """Runs cells in processes of their own, forked from one that has imported everything."""

    def __init__(self, runs: Runs, recipes: Path, count: int) -> None:
        import torch

        os.environ.update(_ONE_THREAD)
        # A fork cannot use an accelerator that its parent has looked at.
        self.context: Any = multiprocessing.get_context("spawn" if torch.accelerator.is_available() else "forkserver")
        if self.context.get_start_method() == "forkserver":
            self.context.set_forkserver_preload(_IMPORTS)
        self.runs, self.recipes, self.count = runs, recipes, count
        self.workers: list[_Worker] = []

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(worker.cell.name for worker in self.workers)

    @property
    def free(self) -> int:
        return self.count - len(self.workers)

    @property
    def doing(self) -> str:
        return ", ".join(f"{worker.cell.name.replace(f'-{MAIN}', '')} {worker.said}" for worker in self.workers)

    def start(self, cell: Cell, budget: float | None) -> None:
        receiver, sender = self.context.Pipe(duplex=False)
        arguments = (cell, budget, self.recipes, self.runs, sender)
        process = self.context.Process(target=_in_process, args=arguments, name=cell.name, daemon=True)
        process.start()
        sender.close()
        self.workers.append(_Worker(cell, process, receiver))

    def finished(self) -> list[tuple[Cell, str | None]]:
        """Wait for news; cells that ended, with the error of those that failed."""
        open_ends = {worker.reports: worker for worker in self.workers}
        for reports in wait(list(open_ends), timeout=10):
            worker = open_ends[reports]  # type: ignore[index]
            try:
                worker.said = worker.reports.recv()
            except EOFError:
                worker.process.join()
        ended = [worker for worker in self.workers if not worker.process.is_alive()]
        self.workers = [worker for worker in self.workers if worker not in ended]
        return [(worker.cell, self._outcome(worker)) for worker in ended]

    def _outcome(self, worker: _Worker) -> str | None:
        code = worker.process.exitcode
        if code == 0:
            return None
        name = worker.cell.name
        if code == 1:
            return self.runs.errors().get(name, "unknown")
        error = f"its process ended with code {code} (killed? out of memory?); see {self.runs.folder / name}.log"
        self.runs.fail(worker.cell, error)
        return error


def _in_process(cell: Cell, budget: float | None, recipes: Path, runs: Runs, sender: Connection) -> None:
    # What trainers print would tear the progress bar apart.
    with open(runs.folder / f"{cell.name}.log", "w", encoding="utf-8") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
        error = _attempt(cell, budget, recipes, runs, lambda text: _sent(sender, text))
    raise SystemExit(error is not None)


def _sent(sender: Connection, text: str) -> None:
    try:
        sender.send(text)
    except OSError:
        os._exit(1)  # the study was killed: nobody waits for this run, and it did not fail


def _attempt(cell: Cell, budget: float | None, recipes: Path, runs: Runs, report: Callable[[str], None]) -> str | None:
    from .training import run_cell

    try:
        rows = run_cell(cell, budget, recipes, report)
    except (Exception, SystemExit) as error:  # the latter from a setting that the recipe's parser refuses
        told = f"{type(error).__name__}: {' '.join(str(error).split())}"
        runs.fail(cell, told, traceback.format_exc())
        return told
    runs.write(cell, budget, rows)
    return None
