"""Cases with known results; evaluate's convention for modules that are published by themselves."""

import evaluate

from sc_captioner.scene_graph import SceneGraph, StoredParser


PARSER = StoredParser(
    {
        "A cat sits on a chair.": SceneGraph.from_facts("( cat , sit on , chair )"),
        "The cat sitting on the chair.": SceneGraph.from_facts("( cat , sit on , chair )"),
        "The chair under the cat.": SceneGraph.from_facts("( chair , under , cat )"),
        "The dog on the chair.": SceneGraph.from_facts("( dog , on , chair )"),
    }
)

test_cases = [
    {
        "predictions": ["A cat sits on a chair."],
        "questions": [{"Is the cat sitting on the chair?": "Yes", "Is the dog on the chair?": "No"}],
        "result": {"relation_qa": 1.0, "num_questions": 2},
    },
    {
        "predictions": ["A cat sits on a chair.", ""],
        "questions": [
            [{"question": "Is the chair under the cat?", "answer": "yes"}],
            [{"question": "Is the chair under the cat?", "answer": "yes"}],
        ],
        "result": {"relation_qa": 0.5, "num_questions": 2},
    },
    {
        "predictions": ["A cat sits on a chair."],
        "questions": [{"Is the cat sitting on the chair?": "The sofa"}],
        "result": {"relation_qa": 0.0, "num_questions": 0, "questions_skipped": 1, "skipped": 1},
    },
]


def run(path: str) -> None:
    """Check every case on the module in the folder `path`.

    Raises:
        AssertionError: If a value differs.
    """
    metric = evaluate.load(path)
    for number, case in enumerate(test_cases):
        result = metric.compute(
            predictions=case["predictions"], questions=case["questions"], judge="graph", parser=PARSER
        )
        for name, value in case["result"].items():
            assert result[name] == value, f"case {number}: {name} is {result[name]}, not {value}"


if __name__ == "__main__":
    from pathlib import Path

    run(str(Path(__file__).parent))
