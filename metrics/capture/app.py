"""Space: a caption, a reference, and CAPTURE with its parts."""

from pathlib import Path

import evaluate
import gradio as gr


FOLDER = Path(__file__).parent
CAPTION = "A black cat sleeps on a wooden chair next to a small table."
REFERENCE = "A black cat is sleeping on a red chair. To the left of the chair there is a small round table."

# Named by its script: a Space keeps its files in a folder that is not called like the metric.
metric = evaluate.load(str(FOLDER / "capture.py"))


def scored(caption, reference):
    """CAPTURE in percent, and precision, recall and F1 by kind."""
    result = metric.compute(predictions=[caption], references=[reference])
    table = [
        [f"{kind}s", *(round(100 * result[f"{kind}_{score}"], 1) for score in ("precision", "recall", "f1"))]
        for kind in ("object", "attribute", "relation")
    ]
    return f"{100 * result['capture']:.1f} (parser {result['parser']}, encoder {result['encoder']})", table


with gr.Blocks(title="CAPTURE") as demo:
    gr.Markdown((FOLDER / "README.md").read_text(encoding="utf-8").split("---", 2)[2].split("## How to use")[0])
    caption_box = gr.Textbox(CAPTION, label="Caption", lines=4)
    reference_box = gr.Textbox(REFERENCE, label="Reference", lines=4)
    button = gr.Button("Score", variant="primary")
    score_box = gr.Textbox(label="CAPTURE")
    table = gr.Dataframe(headers=["", "Precision", "Recall", "F1"], label="Parts, in percent")
    button.click(scored, [caption_box, reference_box], [score_box, table])


if __name__ == "__main__":
    demo.launch()
