"""Cases with known results; evaluate's convention for modules that are published by themselves."""

import evaluate

from sc_captioner.scene_graph import SceneGraph, StoredParser


PARSER = StoredParser(
    {
        "A cat next to a bicycle.": SceneGraph.from_facts("( cat , next to , bicycle )"),
        "A cat next to a sofa.": SceneGraph.from_facts("( cat , next to , sofa )"),
        "A cat.": SceneGraph.from_facts("( cat )"),
    }
)

test_cases = [
    {  # a wrong object is replaced by the right one
        "first": ["A cat next to a bicycle."],
        "second": ["A cat next to a sofa."],
        "reference": ["A cat next to a sofa."],
        "result": {"objects_added_right": 1, "objects_removed_right": 1, "objects_added_wrong": 0},
        "sign": 1,
    },
    {  # the right object is replaced by a wrong one
        "first": ["A cat next to a sofa."],
        "second": ["A cat next to a bicycle."],
        "reference": ["A cat next to a sofa."],
        "result": {"objects_added_wrong": 1, "objects_removed_wrong": 1, "objects_added_right_share": 0.0},
        "sign": -1,
    },
    {  # nothing is changed, although something is missing: sigmoid(-1) - 0.5
        "first": ["A cat."],
        "second": ["A cat."],
        "reference": ["A cat next to a sofa."],
        "result": {"correction_reward": -0.2310586, "unchanged_share": 1.0},
        "sign": -1,
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
            predictions=case["second"], references=case["reference"], first_captions=case["first"], parser=PARSER
        )
        assert result["correction_reward"] * case["sign"] > 0, f"case {number}: {result['correction_reward']}"
        for name, value in case["result"].items():
            assert abs(result[name] - value) < 1e-5, f"case {number}: {name} is {result[name]}, not {value}"


if __name__ == "__main__":
    from pathlib import Path

    run(str(Path(__file__).parent))
