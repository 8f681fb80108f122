"""Several evaluated runs side by side: which differences are more than chance.

    python recipes/compare.py --runs outputs/sft outputs/dpo outputs/sc --output_dir outputs/comparison

A run is the `output_dir` of `recipes/evaluate.py`. The first one is the baseline: every other run is compared with it
image by image (paired bootstrap). Writes `comparison.json`, `comparison.md` and one plot per turn, and prints the
table.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from sc_captioner.arguments import SettingError, run_recipe
from sc_captioner.evaluation import compare, comparison_table, load_run, plot_comparison


@dataclass
class ComparisonArguments:
    """
    What to compare.

    Args:
        runs (`list[str]`): Folders that `recipes/evaluate.py` wrote, the baseline first.
        names (`list[str]`, *optional*): What tables call them; default: the names of the folders.
        output_dir (`str`): Where table, JSON and plots go.
    """

    runs: list[str] = field(metadata={"help": "Folders that recipes/evaluate.py wrote, the baseline first."})
    names: list[str] | None = field(default=None, metadata={"help": "What tables call them; default: the folders."})
    output_dir: str = field(default="outputs/comparison", metadata={"help": "Where table, JSON and plots go."})


def main(args: ComparisonArguments) -> None:
    names = args.names or [None] * len(args.runs)
    if len(names) != len(args.runs):
        raise SettingError(f"there are {len(args.runs)} runs, but {len(names)} names.")
    comparison = compare([load_run(folder, name) for folder, name in zip(args.runs, names)])
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    (output / "comparison.json").write_text(json.dumps(comparison.to_dict(), indent=2) + "\n")
    table = comparison_table(comparison)
    (output / "comparison.md").write_text(table + "\n", encoding="utf-8")
    for turn in dict.fromkeys(turn for turn, _ in comparison.differences):
        plot_comparison(comparison, output / f"{turn}.png", turn)
    print(table)
    print("\n* p < 0.05, ** p < 0.01 (paired bootstrap, not corrected for the number of comparisons)")


if __name__ == "__main__":
    run_recipe(main, (ComparisonArguments,), __doc__)
