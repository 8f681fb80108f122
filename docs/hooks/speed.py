"""The page of measured speed, made from the figures in benchmarks/*.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the page to the site and, before its last entry, to the navigation."""
    files.append(File.generated(config, "speed.md", content=speed_page()))
    assert config.nav is not None
    config.nav.insert(-1, {"Speed": "speed.md"})
    return files


def speed_page() -> str:
    """What `make bench` and `benchmarks/bench_captioning.py` measured, as Markdown."""
    return "\n\n".join([_head(), _reward(), _parser(), _step(), _captioning()]) + "\n"


def _figures(name: str) -> dict[str, Any]:
    return json.loads((BENCHMARKS / f"{name}.json").read_text(encoding="utf-8"))


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _head() -> str:
    return (
        "# Speed\n\nMeasured on one CPU core by the commands named below, which write their figures into "
        "`benchmarks/`; this page is made from there. *Released* is the procedure of the released code, run on the "
        "same captions."
    )


def _reward() -> str:
    rows = [
        (
            row["name"],
            f"{1000 * row['cpu_seconds_per_caption']:.1f} ms",
            f"{1000 * row['released_cpu_seconds_per_caption']:.0f} ms",
            f"{row['ratio']:.0f}",
        )
        for row in _figures("results")["rows"]
        if "ratio" in row
    ]
    told = "`make bench`. CPU time per caption with graphs given; the second pass finds its phrases in the cache."
    return f"## Rewards and metrics\n\n{told}\n\n{_table(('', 'here', 'released', 'times'), rows)}"


def _parser() -> str:
    found = _figures("parser")
    rows = [
        (f"`compact`, batches of {size}", f"{speed['median']:.0f}")
        for size, speed in found["compact_sentences_per_cpu_second"].items()
    ]
    rows.append((f"a T5 with {found['t5']}", f"{found['t5_sentences_per_cpu_second']:.1f}"))
    return f"## Parsers\n\n`make bench`.\n\n{_table(('', 'sentences per CPU second'), rows)}"


def _step() -> str:
    found = _figures("step_cpu")
    ours, released = (found[side]["seconds_per_correction"] for side in ("ours", "released"))
    rows = [
        (part, f"{1000 * seconds:.1f} ms", f"{1000 * released[part]:.1f} ms", f"{found['ratios'][part]:.1f}")
        for part, seconds in ours.items()
        if part in found["ratios"] and seconds >= 0.001
    ]
    told = (
        f"`make bench`. Per correction, the embedded model, captions of {found['setting']['caption_tokens']} tokens, "
        f"{found['setting']['num_corrections']} corrections of one first caption. Larger models need a GPU: "
        "`benchmarks/bench_step.py --help`."
    )
    return f"## A training step\n\n{told}\n\n{_table(('', 'here', 'released', 'times'), rows)}"


def _captioning() -> str:
    found = _figures("captioning")
    resident = [size for run in found["resident_mib"] for size in run]
    beside = found["beside_generation"]
    rows = [
        ("captioned", f"{found['captioned']:,} of {found['images']:,}"),
        ("of these twice", found["twice"]),
        ("corrupt files listed", f"{found['corrupt_listed']} of {found['corrupt']}"),
        ("resident memory over the run", f"{min(resident)} to {max(resident)} MiB"),
        ("time beside the model's own generation", f"{beside['over_generation']:.1%}"),
    ]
    told = (
        "`python benchmarks/bench_captioning.py --output benchmarks/captioning.json`: `sc-captioner caption` on a "
        f"folder, killed after {found['killed_at']:,} captions and started again."
    )
    return f"## Captioning a large folder\n\n{told}\n\n{_table(('', 'measured'), rows)}"
