"""Space: a caption, its correction, a reference, and what the correction earns for what."""

from pathlib import Path

import evaluate
import gradio as gr


FOLDER = Path(__file__).parent
FIRST = "A black cat sleeps on a chair next to a bicycle."
SECOND = "A black cat sleeps on a red chair next to a small table."
REFERENCE = "A black cat is sleeping on a red chair. To the left of the chair there is a small round table."

# Named by its script: a Space keeps its files in a folder that is not called like the metric.
metric = evaluate.load(str(FOLDER / "correction_reward.py"))


def scored(first, second, reference, preset):
    """The reward, its parts, and the numbers of right and wrong changes."""
    result = metric.compute(predictions=[second], references=[reference], first_captions=[first], preset=preset)
    parts = [[name.removeprefix("part_"), round(v, 3)] for name, v in result.items() if name.startswith("part_")]
    changes = [
        [f"{kind} {change}", *(int(result[f"{kind}_{change}_{verdict}"]) for verdict in ("right", "wrong", "unclear"))]
        for kind in ("objects", "attributes", "relations")
        for change in ("added", "removed")
    ]
    said = f"{result['correction_reward']:+.3f} (parser {result['parser']}, encoder {result['encoder']})"
    return said, parts, changes


with gr.Blocks(title="Correction reward") as demo:
    gr.Markdown((FOLDER / "README.md").read_text(encoding="utf-8").split("---", 2)[2].split("## How to use")[0])
    first_box = gr.Textbox(FIRST, label="First caption", lines=4)
    second_box = gr.Textbox(SECOND, label="Corrected caption", lines=4)
    reference_box = gr.Textbox(REFERENCE, label="Reference", lines=4)
    preset_box = gr.Radio(["paper", "released"], value="paper", label="Preset")
    button = gr.Button("Score", variant="primary")
    reward_box = gr.Textbox(label="Reward, between -0.5 and 0.5")
    part_table = gr.Dataframe(headers=["Part", "Value"], label="Parts")
    change_table = gr.Dataframe(headers=["Changes", "Right", "Wrong", "Unclear"], label="What was changed")
    button.click(scored, [first_box, second_box, reference_box, preset_box], [reward_box, part_table, change_table])


if __name__ == "__main__":
    demo.launch()
