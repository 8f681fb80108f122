"""What changes when the parser is exchanged: agreement of graphs, rewards and refined CAPTURE on the same captions.

    python recipes/compare_parsers.py --parsers factual compact --annotations ../shared/data/docci500
    python recipes/compare_parsers.py --parsers graphs.json compact --predictions generated_predictions.jsonl

The first parser is what the others are measured against. A parser is `compact`, `factual`, a folder, a Hub id, or a
JSON file of stored graphs by sentence; rows with a sentence that has no stored graph are left out and counted.
Captions are predictions of two turns, or, where there are only annotations, two captions made from every reference by
dropping sentences and borrowing one of another image.

Writes `agreement.json`, `agreement.md` and a scatter plot per parser into `output_dir`, and prints the tables.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sc_captioner.arguments import SettingError, run_recipe
from sc_captioner.data.annotations import Annotations
from sc_captioner.data.predictions import load_predictions
from sc_captioner.evaluation.parser_agreement import (
    agreement,
    agreement_table,
    parsed_run,
    plot_agreement,
    turns_from_references,
)
from sc_captioner.scene_graph import Lexicon, StoredParser, load_encoder, load_lexicon, load_parser


@dataclass
class AgreementArguments:
    """
    Which parsers, on which captions.

    Args:
        parsers (`list[str]`): Two or more; the first is what the others are compared with.
        parser_options (`dict`, *optional*): Options by parser, e.g. `{"factual": {"cache_file": "graphs.sqlite"}}`.
        predictions (`str`, *optional*): Captions of two turns, as `recipes/evaluate.py` reads them.
        annotations (`str`, *optional*): Folder with captions.json and what else is annotated of the images.
        num_samples (`int`, *optional*): Images to take.
        encoder (`str`, *optional*): SentenceTransformer; default: the embedded MiniLM.
        lexicon (`str`): `auto`, `nltk` or `bundled`.
        preset (`str`): Of the reward.
        seed (`int`): Of captions made from references.
        output_dir (`str`): Where table, JSON and plots go.
    """

    parsers: list[str] = field(
        default_factory=lambda: ["factual", "compact"], metadata={"help": "Two or more; the first is the yardstick."}
    )
    parser_options: dict[str, Any] | str | None = field(
        default=None, metadata={"help": 'Options by parser, as in \'{"factual": {"cache_file": "graphs.sqlite"}}\'.'}
    )
    predictions: str | None = field(default=None, metadata={"help": "Captions of two turns: a file or a Hub dataset."})
    annotations: str | None = field(default=None, metadata={"help": "Folder with captions.json and annotations."})
    num_samples: int | None = field(default=500, metadata={"help": "Images to take."})
    encoder: str | None = field(default=None, metadata={"help": "SentenceTransformer; default: the embedded MiniLM."})
    lexicon: Literal["auto", "nltk", "bundled"] = field(default="auto", metadata={"help": "Lemmas and synonyms."})
    preset: Literal["paper", "released"] = field(default="paper", metadata={"help": "Form of the reward."})
    seed: int = field(default=0, metadata={"help": "Seed of captions made from references."})
    output_dir: str = field(default="outputs/parsers", metadata={"help": "Where table, JSON and plots go."})


def main(args: AgreementArguments) -> None:
    if len(args.parsers) < 2:
        raise SettingError("parsers needs at least two names, as in '--parsers factual compact'.")
    lexicon, encoder = load_lexicon(args.lexicon), load_encoder(args.encoder)
    options = json.loads(args.parser_options) if isinstance(args.parser_options, str) else args.parser_options or {}
    try:
        parsers = {name: load_parser(name, **options.get(name, {})) for name in args.parsers}
    except (TypeError, ValueError, OSError) as error:
        raise SettingError(f"a parser cannot be built: {error}") from error
    rows = captions(args, lexicon)
    kept = with_graphs(rows, [parser for parser in parsers.values() if isinstance(parser, StoredParser)], lexicon)
    if not kept:
        raise SettingError("no row has stored graphs of all its sentences; name the captions the graphs belong to.")
    if len(kept) < len(rows):
        print(f"{len(rows) - len(kept)} of {len(rows)} rows have a sentence without a stored graph and are left out.")

    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    runs = [
        parsed_run(Path(name).stem, parser, kept, lexicon, encoder, args.preset) for name, parser in parsers.items()
    ]
    results = [agreement(runs[0], run, lexicon) for run in runs[1:]]
    tables = "\n\n".join(agreement_table(result) for result in results)
    for run in runs[1:]:
        plot_agreement(runs[0], run, output / f"{run.name}.png")
    (output / "agreement.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    (output / "agreement.md").write_text(tables + "\n", encoding="utf-8")
    print(f"\n{tables}\n\nTables, JSON and plots are in {output}.")


def captions(args: AgreementArguments, lexicon: Lexicon) -> list[dict[str, Any]]:
    """Rows with both turns, the reference and what is annotated of the image."""
    if args.predictions is None and args.annotations is None:
        raise SettingError("name predictions of two turns or a folder of annotations.")
    annotations = Annotations.load(args.annotations) if args.annotations else None
    if args.predictions is None and annotations is not None:
        rows = annotations.rows()[: args.num_samples]
        turns = turns_from_references([row["label"] for row in rows], lexicon, args.seed)
        return [{**row, "predict": first, "predict_turn2": second} for row, (first, second) in zip(rows, turns)]
    rows = load_predictions(str(args.predictions), num_samples=args.num_samples)
    rows = rows if annotations is None else annotations.added_to(rows)
    if absent := [name for name in ("label", "predict_turn2") if name not in rows[0]]:
        raise SettingError(f"the predictions have no column {absent[0]!r}; both turns and a reference are needed.")
    return rows


def with_graphs(rows: list[dict[str, Any]], stored: Sequence[StoredParser], lexicon: Lexicon) -> list[dict[str, Any]]:
    """The rows of whose every sentence all stored parsers have a graph."""

    def is_known(row: dict[str, Any]) -> bool:
        texts = [row[name] for name in ("label", "predict", "predict_turn2")]
        return all(s in parser for text in texts for s in lexicon.sentences(text) for parser in stored)

    return [row for row in rows if is_known(row)]


if __name__ == "__main__":
    run_recipe(main, (AgreementArguments,), __doc__)
