"""Does it work? Training methods side by side over seeds, what each part of ours is worth, and a page about it.

    python recipes/study.py            # two hours on 2 cores: docs/study.md, outputs/study/study.parquet
    python recipes/study.py --quick    # the same with less of everything, 15 minutes: outputs/study_quick/
    python recipes/study.py --only_page true

What runs stands in recipes/study/full.yaml, or in a grid of your own: methods (recipes of this folder with their YAML
files), seeds, variants. Every finished run is a file below `output_dir/runs`: a study that was stopped goes on with
what is missing, the most telling runs come first, and the page can be written at any time. A run whose settings have
changed since is run again; to have one again, delete its file.
"""

import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

from sc_captioner.arguments import run_recipe
from sc_captioner.study import Runs, load_grid, load_table, run_study, write_page


@dataclass
class StudyArguments:
    """
    The study.

    Args:
        grid (`str`): YAML file of methods, seeds and variants.
        quick (`bool`): The small grid, recipes/study/quick.yaml, in place of `grid`.
        workers (`int`, *optional*): Runs at a time, one thread each; default: as many as there are cores, one where
            there is an accelerator. 0 runs them in this process.
        only_page (`bool`): Write the page of what is done, run nothing.
    """

    grid: str = field(default="recipes/study/full.yaml", metadata={"help": "YAML of methods, seeds and variants."})
    quick: bool = field(default=False, metadata={"help": "The small grid, in place of `grid`: about 15 minutes."})
    workers: int | None = field(
        default=None, metadata={"help": "Runs at a time, one thread each; default: the cores, 1 with an accelerator."}
    )
    only_page: bool = field(default=False, metadata={"help": "Write the page of what is done, run nothing."})


def main(args: StudyArguments) -> None:
    grid = load_grid("recipes/study/quick.yaml" if args.quick else args.grid)
    runs = Runs(Path(grid.output_dir) / "runs")
    failed = {}
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: runs are ended, the page is written
    try:
        if not args.only_page:
            failed = run_study(grid.cells(), runs, Path(__file__).parent, workers=default_workers(args.workers))
    except KeyboardInterrupt:
        print("\nStopped; the same command goes on.", file=sys.stderr)
        failed = {"study": "stopped"}
    table = load_table(grid, runs)
    if table.rows.empty:
        sys.exit("error: no run is done, so there is nothing to write about.")
    table.write(Path(grid.output_dir) / "study.parquet")
    print(write_page(table, Path(grid.page)))
    print(f"\nPage with plots: {grid.page}; all numbers: {grid.output_dir}/study.parquet")
    for name, error in failed.items():
        print(f"{name}: {error}", file=sys.stderr)
    if failed:
        sys.exit(1)


def default_workers(workers: int | None) -> int:
    """Runs at a time."""
    if workers is not None:
        return workers
    import torch

    return 1 if torch.accelerator.is_available() else len(os.sched_getaffinity(0))


if __name__ == "__main__":
    run_recipe(main, (StudyArguments,), __doc__)
