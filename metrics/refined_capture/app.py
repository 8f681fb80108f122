"""Space: a caption, a reference, what else is annotated of the image, and refined CAPTURE."""

from pathlib import Path

import evaluate
import gradio as gr


FOLDER = Path(__file__).parent
CAPTION = "A black cat sleeps on a wooden chair next to a small table with a vase."
REFERENCE = "A black cat is sleeping on a red chair. To the left of the chair there is a small round table."
ANNOTATIONS = [["cat", "black, fluffy"], ["chair", "red, wooden"], ["table", "small, round"], ["vase", ""]]

# Named by its script: a Space keeps its files in a folder that is not called like the metric.
metric = evaluate.load(str(FOLDER / "refined_capture.py"))


def scored(caption, reference, rows):
    """Precision, recall and F1 of objects and attributes, in percent."""
    annotated = {row[0].strip(): row[1] or "" for row in rows if row and row[0] and row[0].strip()}
    attributes = {name: [word.strip() for word in text.split(",") if word.strip()] for name, text in annotated.items()}
    result = metric.compute(
        predictions=[caption],
        references=[reference],
        extra_objects=[list(annotated)],
        extra_attributes=[attributes],
        without_attributes="objects",
    )
    values = {name: scores[0] for name, scores in result["per_sample"].items()}
    table = [
        [f"{kind}s", *(_percent(values.get(f"{kind}_{score}")) for score in ("precision", "recall", "f1"))]
        for kind in ("object", "attribute")
    ]
    note = " Caption or reference has no attributes." if result["skipped"] else ""
    return f"Parser {result['parser']}, encoder {result['encoder']}.{note}", table


def _percent(value):
    return "-" if value is None else round(100 * value, 1)


with gr.Blocks(title="Refined CAPTURE") as demo:
    gr.Markdown((FOLDER / "README.md").read_text(encoding="utf-8").split("---", 2)[2].split("## How to use")[0])
    caption_box = gr.Textbox(CAPTION, label="Caption", lines=4)
    reference_box = gr.Textbox(REFERENCE, label="Reference", lines=4)
    annotation_table = gr.Dataframe(
        ANNOTATIONS, headers=["Object", "Attributes, separated by commas"], type="array", label="Annotated objects"
    )
    button = gr.Button("Score", variant="primary")
    table = gr.Dataframe(headers=["", "Precision", "Recall", "F1"], label="Refined CAPTURE, in percent")
    note_box = gr.Textbox(label="Made with")
    button.click(scored, [caption_box, reference_box, annotation_table], [note_box, table])


if __name__ == "__main__":
    demo.launch()
