"""Several evaluated runs side by side, image by image: which differences are more than chance."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data import DatasetError
from ..metrics import Interval, paired_bootstrap
from .scores import TURNS, TurnScores


@dataclass(frozen=True)
class Run:
    """One evaluated run.

    Args:
        name (`str`): What tables call it.
        samples (`list[str]`): What its images are known by, in order.
        turns (`dict[str, TurnScores]`): `first`, `second` and `correction`, as far as it has them.
    """

    name: str
    samples: list[str]
    turns: dict[str, TurnScores]


@dataclass(frozen=True)
class Comparison:
    """Runs against the first of them, the baseline.

    Args:
        runs (`list[str]`): Names, the baseline first.
        n (`int`): Number of images.
        means (`dict[tuple[str, str], dict[str, float]]`): By turn and score the mean of every run.
        differences (`dict[tuple[str, str], dict[str, Interval]]`): By turn and score, for every run but the first, its
            difference to the baseline, image by image.
    """

    runs: list[str]
    n: int
    means: dict[tuple[str, str], dict[str, float]]
    differences: dict[tuple[str, str], dict[str, Interval]]

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable form: turn to score to `means` and `differences`."""
        turns: dict[str, dict[str, Any]] = {}
        for (turn, name), means in self.means.items():
            found = self.differences.get((turn, name), {})
            told = {"means": means, "differences": {run: interval.to_dict() for run, interval in found.items()}}
            turns.setdefault(turn, {})[name] = told
        return {"runs": self.runs, "baseline": self.runs[0], "n": self.n, **turns}


def load_run(folder: str | Path, name: str | None = None) -> Run:
    """A run from the folder that `recipes/evaluate.py` wrote.

    Args:
        folder (`str` or `Path`): Holds `results.json` and `per_sample.parquet`.
        name (`str`, *optional*): Default: the name of the folder.

    Raises:
        DatasetError: If a file is missing.
    """
    import pyarrow.parquet

    folder = Path(folder).expanduser()
    for file in ("results.json", "per_sample.parquet"):
        if not (folder / file).is_file():
            raise DatasetError(f"runs: {str(folder)!r} holds no {file}; name the output_dir of recipes/evaluate.py.")
    columns = pyarrow.parquet.read_table(folder / "per_sample.parquet").to_pydict()
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    turns = {}
    for turn in (*TURNS, "correction"):
        own = {key.removeprefix(f"{turn}_"): values for key, values in columns.items() if key.startswith(f"{turn}_")}
        if own:
            turns[turn] = TurnScores(own, made_with=results[turn].get("made_with", {}))
    samples = columns.get("sample") or [str(index) for index in range(results["first"]["n"])]
    return Run(name or folder.resolve().name, samples, turns)


def compare(runs: Sequence[Run]) -> Comparison:
    """Compare runs with the first one by paired bootstrap; images that differ in order are brought into one.

    Args:
        runs (`Sequence[Run]`): Two or more of the same images, scored alike.

    Raises:
        DatasetError: If there are fewer than two, names repeat, or images, parser, encoder, lexicon or judge differ.
    """
    if len(runs) < 2:
        raise DatasetError("runs: name two or more folders to compare.")
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise DatasetError(f"runs: the names {names} repeat; rename the folders, or set names.")
    baseline = runs[0]
    aligned = [run if run is baseline else _aligned(run, baseline) for run in runs]
    means: dict[tuple[str, str], dict[str, float]] = {}
    differences: dict[tuple[str, str], dict[str, Interval]] = {}
    for run in aligned:
        for turn, scores in run.turns.items():
            summary = scores.summary(intervals=False)
            for name in scores.names:
                means.setdefault((turn, name), {})[run.name] = summary[name]
                against = baseline.turns.get(turn)
                if run is baseline or against is None or name not in against.names:
                    continue
                first, second = against.values(name), scores.values(name)
                if any(a is not None and b is not None for a, b in zip(first, second)):
                    differences.setdefault((turn, name), {})[run.name] = paired_bootstrap(first, second)
    return Comparison(names, len(baseline.samples), means, differences)


def _aligned(run: Run, baseline: Run) -> Run:
    """The run with its images in the baseline's order."""
    for turn, scores in run.turns.items():
        against = baseline.turns[turn].made_with if turn in baseline.turns else {}
        for kind, name in scores.made_with.items():
            if against.get(kind, name) != name:
                raise DatasetError(
                    f"runs: {run.name} was scored with {kind} {name!r}, {baseline.name} with {against[kind]!r}; "
                    "evaluate both alike."
                )
    if run.samples == baseline.samples:
        return run
    places = {sample: index for index, sample in enumerate(run.samples)}
    missing = [sample for sample in baseline.samples if sample not in places]
    if missing or len(run.samples) != len(baseline.samples) or len(places) != len(run.samples):
        told = f"; {missing[0]!r:.80} is missing in {run.name}" if missing else ""
        raise DatasetError(
            f"runs: {run.name} ({len(run.samples)} images) and {baseline.name} ({len(baseline.samples)}) are not of "
            f"the same images{told}."
        )
    order = [places[sample] for sample in baseline.samples]
    turns = {
        turn: TurnScores({name: [values[i] for i in order] for name, values in scores.per_sample.items()})
        for turn, scores in run.turns.items()
    }
    return Run(run.name, list(baseline.samples), turns)
