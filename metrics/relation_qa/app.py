"""Space: one caption, some questions, and how the caption answers them."""

from pathlib import Path

import evaluate
import gradio as gr


FOLDER = Path(__file__).parent
EXAMPLE_CAPTION = "A black cat sits on a red chair. To the left of the chair there is a small table."
EXAMPLE_QUESTIONS = [
    ["Is the cat sitting on the chair?", "yes"],
    ["Is the table to the right of the chair?", "no"],
    ["Is the chair to the right of the table?", "yes"],
]

# Named by its script: a Space keeps its files in a folder that is not called like the metric.
metric = evaluate.load(str(FOLDER / "relation_qa.py"))


def scored(caption, rows):
    """Score in percent, and every question with its annotated answer and the one that the caption gives."""
    rows = [row for row in rows if row and row[0]]
    questions = [{"question": question, "answer": answer} for question, answer in rows]
    try:
        result = metric.compute(predictions=[caption], questions=[questions], judge="graph")
    except ValueError as error:
        raise gr.Error(str(error)) from error
    read = {True: "yes", False: "no", None: "neither"}
    table = [[*row, read[answer]] for row, answer in zip(rows, result["per_sample"]["answers"][0])]
    return f"{100 * result['relation_qa']:.1f} % of {result['num_questions']} questions, {result['judge']}", table


with gr.Blocks(title="Relation QA") as demo:
    gr.Markdown((FOLDER / "README.md").read_text(encoding="utf-8").split("---", 2)[2].split("## How to use")[0])
    caption_box = gr.Textbox(EXAMPLE_CAPTION, label="Caption", lines=4)
    question_table = gr.Dataframe(
        EXAMPLE_QUESTIONS, headers=["Question", "Annotated answer"], type="array", label="Questions"
    )
    button = gr.Button("Score", variant="primary")
    score_box = gr.Textbox(label="Answered as annotated")
    answer_table = gr.Dataframe(headers=["Question", "Annotated answer", "Answer from the caption"], label="Answers")
    button.click(scored, [caption_box, question_table], [score_box, answer_table])


if __name__ == "__main__":
    demo.launch()
