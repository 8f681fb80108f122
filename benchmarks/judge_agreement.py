"""How far a judge of relation QA carries: answers from an image's own reference caption and from another image's.

    python benchmarks/judge_agreement.py --data ../shared/data/docci500 --data ../shared/data/coco_ln500
    python benchmarks/judge_agreement.py --data FOLDER --judge openai --option model=NAME --option base_url=URL

A folder holds `captions.json` (image id to caption) and `relation_questions.json` (image id to {question: answer}).
Prints a Markdown table and, last, one JSON line. Shares of answers that are yes:

- own, yes / own, no: from the image's own caption, to questions annotated yes / no;
- foreign, yes: from another image's caption, to questions annotated yes; whatever is said here is chance;
- agreement: mean of the shares answered as annotated over yes and no, own captions (0.5: chance, or always yes);
- separation: mean of own, yes and of 1 - foreign, yes (0.5: the caption does not matter).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from sc_captioner.judges import judged, load_judge
from sc_captioner.metrics.relation_qa import questions_of


COLUMNS = ("n", "own, yes", "own, no", "foreign, yes", "agreement", "separation")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", required=True, type=Path, help="Folder; may be given again.")
    parser.add_argument("--judge", default="graph", help="'graph', 'openai', 'local', a folder or a Hub id.")
    parser.add_argument("--option", action="append", default=[], help="NAME=VALUE of the judge; may be given again.")
    parser.add_argument("--shift", type=int, default=7, help="The foreign caption is that of the image this far on.")
    arguments = parser.parse_args()
    judge = load_judge(arguments.judge, **dict(_option(text) for text in arguments.option))
    rows = {folder.name: _agreement(judge, folder, arguments.shift) for folder in arguments.data}
    print("| data | " + " | ".join(COLUMNS) + " |\n|" + "---|" * (len(COLUMNS) + 1))
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(f"{row[c]}" if c == "n" else f"{row[c]:.3f}" for c in COLUMNS) + " |")
    print(json.dumps({"judge": judge.name, **rows}))


def _agreement(judge, folder: Path, shift: int) -> dict[str, float]:
    captions = json.loads((folder / "captions.json").read_text(encoding="utf-8"))
    annotated = json.loads((folder / "relation_questions.json").read_text(encoding="utf-8"))
    ids = sorted(set(captions) & set(annotated))
    questions = questions_of([annotated[key] for key in ids])
    own = judged(judge, [captions[key] for key in ids], questions).corpus
    foreign = judged(judge, [captions[key] for key in ids[shift:] + ids[:shift]], questions).corpus
    return {
        "n": own["num_questions"],
        "own, yes": own["relation_qa_yes"],
        "own, no": 1 - own["relation_qa_no"],
        "foreign, yes": foreign["relation_qa_yes"],
        "agreement": (own["relation_qa_yes"] + own["relation_qa_no"]) / 2,
        "separation": (own["relation_qa_yes"] + 1 - foreign["relation_qa_yes"]) / 2,
        "relation_qa": own["relation_qa"],
    }


def _option(text: str) -> tuple[str, object]:
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


if __name__ == "__main__":
    main()
