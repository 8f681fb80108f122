"""Space: the caption of an image, how the captioner corrects it, and, by a reference, what the correction is worth."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any


os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr
import torch
from huggingface_hub import HfApi, metadata_load
from huggingface_hub.errors import HfHubHTTPError

from sc_captioner import CorrectionReward, SelfCorrectingCaptioner
from sc_captioner.arguments import SamplingArguments
from sc_captioner.captioner import EMBEDDED, ImageError
from sc_captioner.data import ModelError, build_scenes
from sc_captioner.hub import HubError, cached_commit, hub_error
from sc_captioner.metrics.facts import fact_scores
from sc_captioner.report.examples import marked_changes
from sc_captioner.report.graph_drawing import graph_svg
from sc_captioner.scene_graph.reader import CaptionReader


CARD = Path(__file__).parent / "README.md"
INTRODUCTION = CARD.read_text(encoding="utf-8").split("---", 2)[2].split("## ")[0]
MODELS = [*(metadata_load(CARD) or {}).get("models", []), "embedded"]
SCENES = build_scenes(6, seed=777, split="test")
STYLE = """<style>
.changes ins {background: #22c55e40; text-decoration: none; border-bottom: 2px solid #16a34a; border-radius: 3px}
.changes del {background: #ef444433; border-radius: 3px}
.graphs {display: flex; flex-wrap: wrap; gap: 1rem 2rem} .graphs figure {margin: 0; max-width: 100%}
.graphs svg {max-width: 100%; height: auto; font-size: 13px}
.graphs text {fill: var(--body-text-color); text-anchor: middle} .graphs .head {font-weight: 600}
.graphs .said {paint-order: stroke; stroke: var(--body-background-fill); stroke-width: 4px}
.graphs .node {fill: var(--background-fill-secondary); stroke: var(--border-color-primary)}
.graphs .edge {fill: none; stroke: var(--body-text-color-subdued)}
</style>"""

reader = CaptionReader()
held: dict[str, SelfCorrectingCaptioner] = {}


@cache
def reward() -> CorrectionReward:
    """The reward, made when the first reference comes."""
    return CorrectionReward(parser=reader.parser, encoder=reader.encoder, lexicon=reader.lexicon)


def captioner_of(model: str) -> SelfCorrectingCaptioner:
    """The captioner of that name; only one at a time is in memory."""
    if model not in held:
        held.clear()
        gc.collect()
        if model != "embedded":
            check_reachable(model)
        name = EMBEDDED if model == "embedded" else model
        held[model] = SelfCorrectingCaptioner.from_pretrained(name, dtype="auto", use_safetensors=True)
    return held[model]


def check_reachable(model: str) -> None:
    """Ask the Hub once; loading a model from a Hub that does not answer takes most of a minute to fail."""
    if Path(model).exists() or cached_commit(model):
        return
    try:
        HfApi().model_info(model, timeout=10)
    except HfHubHTTPError:
        return  # it answers; what loads the model says what is wrong
    except Exception as error:
        raise hub_error(error, model) from error


@contextmanager
def said_to_the_visitor(model: str) -> Iterator[None]:
    """Errors as a sentence on the page."""
    try:
        yield
    except (ModelError, HubError) as error:
        raise gr.Error(str(error).replace("model_name_or_path", "the field Model"), print_exception=False) from error
    except ImageError as error:
        raise gr.Error(f"{error}. Upload another picture, such as a PNG or JPEG.", print_exception=False) from error
    except Exception as error:  # whatever somebody's model raises while it generates
        reason = f"{type(error).__name__}: {error}"[:300]
        raise gr.Error(f"{model} failed on this image ({reason}); try fewer tokens or another model.") from error


def correct(image, reference, model, num_corrections, max_new_tokens, temperature, top_p, seed):
    """Caption an image and correct the caption; what the model says is shown while it says it.

    Args:
        image: A picture.
        reference: A right caption of it, or nothing.
        model: `embedded`, the Hub id of a model or adapter, or a folder.
        num_corrections: Corrections in a row.
        max_new_tokens: Longest caption, in tokens.
        temperature: 0 is greedy.
        top_p: Nucleus of sampling.
        seed: Seed of sampling.
    """
    if image is None:
        raise gr.Error("There is no image yet: upload one, or pick one of the scenes.", print_exception=False)
    model, reference = (model or "").strip() or "embedded", (reference or "").strip()
    captions = [""] * (int(num_corrections) + 1)
    empty = {first_box: "", corrections_box: "", graph_box: "", scores_table: hidden(), reward_table: hidden()}
    yield {status: f"Loading **{model}** …", **empty}
    with said_to_the_visitor(model):
        captioner = captioner_of(model)
        torch.manual_seed(int(seed))
        sampling = SamplingArguments(max_new_tokens=int(max_new_tokens), temperature=temperature, top_p=top_p)
        for turn, piece in captioner.stream(image, len(captions) - 1, **sampling.generation()):
            captions[turn] += piece
            said = {first_box: captions[0], corrections_box: corrections(captions[: turn + 1])}
            yield {status: f"**{model}** is writing …", **said}
        captions = [caption.strip() for caption in captions]
        yield {status: f"Captions by **{model}**, read by the {reader.parser.name} parser.", **judged(captions, reference)}


def judged(captions: list[str], reference: str) -> dict[gr.Component, Any]:
    """All that is shown of captions that are complete."""
    shown = {first_box: captions[0], corrections_box: corrections(captions)}
    graphs, known = reader.graphs(captions, [reference] if reference else [])
    drawn = [(turn, graphs[number]) for number, turn in enumerate(turns(captions))]
    drawn += [("Reference", graph) for graph in known]
    svg = "".join(
        f"<figure><figcaption>{title}</figcaption>{graph_svg(graph, title)}</figure>" for title, graph in drawn
    )
    shown[graph_box] = f'{STYLE}<div class="graphs">{svg}</div>'
    if not reference:
        return {**shown, scores_table: hidden(), reward_table: hidden()}
    scores = fact_scores(graphs, known * len(graphs), reader.lexicon).per_sample
    shown[scores_table] = table("F1", turns(captions), scores)
    parts = reward().parts_of(captions[:-1], captions[1:], [reference] * (len(captions) - 1))
    shown[reward_table] = table("Reward", turns(captions)[1:], parts)
    return shown


def turns(captions: list[str]) -> list[str]:
    return ["First caption", *(f"Correction {number}" for number in range(1, len(captions)))]


def corrections(captions: list[str]) -> str:
    """Corrections as HTML, what each added to and removed from the caption before it marked."""
    shown = [
        f"<h4>{turn}</h4><p>{'<em>Nothing was changed.</em>' if before == after else marked_changes(before, after)}</p>"
        for turn, before, after in zip(turns(captions)[1:], captions, captions[1:])
    ]
    return f'{STYLE}<div class="changes">{"".join(shown)}</div>'


def table(corner: str, columns: list[str], values: list[dict[str, float]]) -> dict[str, Any]:
    """A table of one column per turn and one row per number."""
    rows = [
        [name.removesuffix("_f1").replace("total", "reward"), *(f"{column[name]:.3f}" for column in values)]
        for name in values[0]
        if name != "unchanged"
    ]
    return gr.update(value={"headers": [corner, *columns], "data": rows}, visible=True)


def hidden() -> dict[str, Any]:
    return gr.update(visible=False)


with gr.Blocks(title="Self-correcting captions") as demo:
    gr.Markdown(INTRODUCTION)
    with gr.Row():
        with gr.Column(scale=2):
            image_box = gr.Image(type="filepath", image_mode=None, format="png", label="Image", height=260)
            reference_box = gr.Textbox(label="Reference (optional)", info="A right caption, to judge by.", lines=3)
            model_box = gr.Dropdown(
                MODELS,
                value=MODELS[0],
                allow_custom_value=True,
                label="Model",
                info="embedded: tiny, knows only drawn scenes. Else the Hub id of a captioner or adapter, or a folder.",
            )
            number_box = gr.Slider(1, 3, value=1, step=1, label="Corrections")
            with gr.Accordion("Sampling", open=False):
                tokens_box = gr.Slider(16, 1024, value=256, step=16, label="Longest caption, in tokens")
                temperature_box = gr.Slider(0, 2, value=0, step=0.05, label="Temperature", info="0 is greedy.")
                top_p_box = gr.Slider(0.05, 1, value=1, step=0.05, label="Nucleus (top p)")
                seed_box = gr.Number(0, precision=0, label="Seed")
            button = gr.Button("Caption and correct", variant="primary")
            gr.Examples(
                [[scene["image"], scene["reference"]] for scene in SCENES],
                [image_box, reference_box],
                label="Scenes",
                visible_columns=[0],
            )
        with gr.Column(scale=3):
            status = gr.Markdown()
            first_box = gr.Textbox(label="First caption", lines=3)
            corrections_box = gr.HTML(label="Corrections")
            graph_box = gr.HTML(label="Scene graphs")
            scores_table = gr.Dataframe(label="Facts of the captions against those of the reference", interactive=False, visible=False)
            reward_table = gr.Dataframe(label="Reward of each correction", interactive=False, visible=False)
    inputs = [image_box, reference_box, model_box, number_box, tokens_box, temperature_box, top_p_box, seed_box]
    outputs = [status, first_box, corrections_box, graph_box, scores_table, reward_table]
    button.click(correct, inputs, outputs, api_name="correct")
demo.queue(max_size=20)  # one at a time, as one model is in memory


if __name__ == "__main__":
    demo.launch(show_error=True)
