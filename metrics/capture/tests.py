"""Cases with known results; evaluate's convention for modules that are published by themselves."""

import evaluate

from sc_captioner.scene_graph import SceneGraph, StoredParser


PARSER = StoredParser(
    {
        "A black cat sits on a red chair.": SceneGraph.from_facts(
            "( cat , is , black ) , ( chair , is , red ) , ( cat , sit on , chair )"
        ),
        "A black cat.": SceneGraph.from_facts("( cat , is , black )"),
        "A red chair.": SceneGraph.from_facts("( chair , is , red )"),
    }
)

test_cases = [
    {  # equal captions
        "predictions": ["A black cat sits on a red chair."],
        "references": ["A black cat sits on a red chair."],
        "result": {"capture": 1.0, "object_f1": 1.0, "attribute_f1": 1.0, "relation_f1": 1.0},
    },
    {  # half of the objects and attributes, no relation: (0.5 * 2/3 + 0.5 * 2/3) / 1.2
        "predictions": ["A black cat."],
        "references": ["A black cat sits on a red chair."],
        "result": {"capture": 5 / 9, "object_precision": 1.0, "object_recall": 0.5, "relation_f1": 0.0},
    },
    {  # means over references
        "predictions": ["A black cat."],
        "references": [["A black cat.", "A black cat sits on a red chair."]],
        "result": {"object_precision": 1.0, "object_recall": 0.75, "attribute_recall": 0.75},
    },
    {
        "predictions": ["", "A black cat."],
        "references": ["A red chair.", "A black cat."],
        "result": {"object_f1": 0.5, "attribute_f1": 0.5, "skipped": 0},
    },
]


def run(path: str) -> None:
    """Check every case on the module in the folder `path`.

    Raises:
        AssertionError: If a value differs.
    """
    metric = evaluate.load(path)
    for number, case in enumerate(test_cases):
        result = metric.compute(predictions=case["predictions"], references=case["references"], parser=PARSER)
        for name, value in case["result"].items():
            # The denominators of the released formula carry an epsilon of 1e-6.
            assert abs(result[name] - value) < 1e-5, f"case {number}: {name} is {result[name]}, not {value}"


if __name__ == "__main__":
    from pathlib import Path

    run(str(Path(__file__).parent))
