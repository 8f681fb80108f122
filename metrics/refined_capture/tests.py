"""Cases with known results; evaluate's convention for modules that are published by themselves."""

import evaluate

from sc_captioner.scene_graph import SceneGraph, StoredParser


PARSER = StoredParser(
    {
        "A black cat on a red chair.": SceneGraph.from_facts(
            "( cat , is , black ) , ( chair , is , red ) , ( cat , on , chair )"
        ),
        "A black cat.": SceneGraph.from_facts("( cat , is , black )"),
        "A cat.": SceneGraph.from_facts("( cat )"),
    }
)

test_cases = [
    {  # equal captions
        "inputs": {"predictions": ["A black cat."], "references": ["A black cat."]},
        "result": {"object_f1": 1.0, "attribute_f1": 1.0, "skipped": 0},
    },
    {  # the chair is annotated, though the reference does not name it
        "inputs": {
            "predictions": ["A black cat on a red chair."],
            "references": ["A black cat."],
            "extra_objects": [["chair"]],
            "extra_attributes": [{"cat": ["black"], "chair": ["red"]}],
        },
        "result": {"object_precision": 1.0, "object_recall": 1.0, "attribute_precision": 1.0, "attribute_recall": 1.0},
    },
    {  # half of the objects
        "inputs": {"predictions": ["A black cat."], "references": ["A black cat on a red chair."]},
        "result": {"object_precision": 1.0, "object_recall": 0.5},
    },
    {  # a sample without attributes is left out of all means ...
        "inputs": {"predictions": ["A cat.", "A black cat."], "references": ["A black cat.", "A black cat."]},
        "result": {"object_f1": 1.0, "attribute_f1": 1.0, "skipped": 1},
    },
    {  # ... or enters with 0
        "inputs": {
            "predictions": ["A cat.", "A black cat."],
            "references": ["A black cat.", "A black cat."],
            "without_attributes": "zero",
        },
        "result": {"object_f1": 1.0, "attribute_f1": 0.5, "skipped": 1},
    },
]


def run(path: str) -> None:
    """Check every case on the module in the folder `path`.

    Raises:
        AssertionError: If a value differs.
    """
    metric = evaluate.load(path)
    for number, case in enumerate(test_cases):
        result = metric.compute(**case["inputs"], parser=PARSER)
        for name, value in case["result"].items():
            # The denominators of the released formula carry an epsilon of 1e-6.
            assert abs(result[name] - value) < 1e-5, f"case {number}: {name} is {result[name]}, not {value}"


if __name__ == "__main__":
    from pathlib import Path

    run(str(Path(__file__).parent))
