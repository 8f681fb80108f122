"""Space: the caption of an image, how the captioner corrects it, and, by a reference, what the correction is worth."""

import gc
import logging
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any


os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "true")  # which asks a service to make them from a pickle

import gradio as gr
import torch
from huggingface_hub import HfApi, metadata_load
from huggingface_hub.errors import HfHubHTTPError

from sc_captioner import CorrectionReward, SelfCorrectingCaptioner
from sc_captioner.arguments import SamplingArguments
from sc_captioner.captioner import EMBEDDED, ImageError
from sc_captioner.data import ModelError, build_scenes
from sc_captioner.hub import HubError, cached_commit, hub_error, without_tokens
from sc_captioner.metrics.facts import fact_scores
from sc_captioner.report import graph_svg
from sc_captioner.report.elements import marked_graphs
from sc_captioner.report.examples import marked_changes
from sc_captioner.scene_graph.reader import CaptionReader


CARD = Path(__file__).parent / "README.md"
INTRODUCTION = CARD.read_text(encoding="utf-8").split("---", 2)[2].split("## ")[0]
MODELS = [*(metadata_load(CARD) or {}).get("models", []), "embedded"]
# Scenes that the embedded captioner corrects well, for the worse, and not at all.
SCENES = build_scenes(24, seed=777, split="test").select([20, 1, 9, 0, 3, 5])
STYLE = """<style>
.changes ins {background: #22c55e40; text-decoration: none; border-bottom: 2px solid #16a34a; border-radius: 3px}
.changes del {background: #ef444433; border-radius: 3px}
.graphs {display: flex; flex-wrap: wrap; gap: 1rem 2rem} .graphs figure {margin: 0; max-width: 100%}
.graphs svg {max-width: 100%; height: auto; font-size: 13px}
.graphs text {fill: var(--body-text-color); text-anchor: middle} .graphs .head {font-weight: 600}
.graphs text.said {paint-order: stroke; stroke: var(--body-background-fill); stroke-width: 4px}
.graphs .node {fill: var(--background-fill-secondary); stroke: var(--body-text-color-subdued)}
.graphs .edge {fill: none; stroke: var(--body-text-color-subdued)}
.graphs text.hit {fill: #16a34a} .graphs text.miss {fill: #dc2626}
.graphs .node.hit, .graphs .edge.hit {stroke: #16a34a}
.graphs .node.miss, .graphs .edge.miss {stroke: #dc2626; stroke-dasharray: 4 3}
</style>"""
LEGEND = (
    "<p>✓ the reference says it, ✗ it does not, ○ it does and the last caption does not; + put in, − taken out.</p>"
)

logger = logging.getLogger(__name__)
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
    model, reference = (model or "").strip() or "embedded", (reference or "").strip()
    sampling = SamplingArguments(max_new_tokens=int(max_new_tokens), temperature=temperature, top_p=top_p)
    try:
        torch.manual_seed(int(seed))
        yield from spoken(image, reference, model, int(num_corrections), **sampling.generation())
    except Exception as error:
        told = sentence(error, image, model)
        yield {status: told}  # which stays when the message is gone
        raise gr.Error(told, print_exception=False) from error


def spoken(image: str | None, reference: str, model: str, num_corrections: int, **generation: Any) -> Iterator[dict]:
    """What the page shows, from one moment to the next."""
    if image is None:
        raise ImageError("there is no image yet: upload one, or pick one of the scenes")
    cleared = {first_box: "", corrections_box: "", graph_box: "", scores_table: hidden(), reward_table: hidden()}
    yield {status: f"Loading **{model}** …", **cleared}
    captions = [""] * (num_corrections + 1)
    for turn, piece in captioner_of(model).stream(image, num_corrections, **generation):
        captions[turn] += piece
        said = {first_box: captions[0], corrections_box: corrections(captions[: turn + 1])}
        yield {status: f"**{model}** is writing …", **said}
    captions = [caption.strip() for caption in captions]
    yield {status: f"Captions by **{model}**, read by the {reader.parser.name} parser.", **judged(captions, reference)}


def sentence(error: Exception, image: str | None, model: str) -> str:
    """What went wrong and what to do about it."""
    told = str(error).rstrip(".").replace("model_name_or_path", "the field Model")
    if isinstance(error, ImageError) and image is not None:
        told = f"{told.replace(f'{Path(image).parent}{os.sep}', '')}; upload another picture, such as a PNG or JPEG"
    elif not isinstance(error, (HubError, ImageError, ModelError)):  # whatever a model raises while it generates
        logger.error("%s failed.", model, exc_info=error)
        told = f"{model} failed on this image ({type(error).__name__}: {told:.300}); try another model"
    return without_tokens(f"{told[:1].upper()}{told[1:]}.")


def judged(captions: list[str], reference: str) -> dict[gr.Component, Any]:
    """All that is shown of captions that are complete."""
    shown = {first_box: captions[0], corrections_box: corrections(captions)}
    if not reference:
        drawings = [graph_svg(graph, turn) for graph, turn in zip(reader.graphs(captions)[0], turns(captions))]
        return {**shown, graph_box: graphs(turns(captions), drawings), scores_table: hidden(), reward_table: hidden()}
    whys = [reward().explain(before, after, reference) for before, after in zip(captions, captions[1:])]
    marked = [marked_graphs(why.triple, reader.lexicon)[1] for why in whys]
    views = [marked[0]["first"], *(view["second"] for view in marked), marked[-1]["reference"]]
    titles = [*turns(captions), "Reference"]
    drawings = [graph_svg(view.graph, title, view.marks) for view, title in zip(views, titles)]
    said = [whys[0].triple.first_graph, *(why.triple.second_graph for why in whys)]
    scores = fact_scores(said, [whys[0].triple.reference_graph] * len(said), reader.lexicon).per_sample
    rewards = [{**why.parts, "reward": why.total} for why in whys]
    shown[graph_box] = graphs(titles, drawings) + LEGEND
    shown[scores_table] = table("F1", turns(captions), scores, "{:.3f}")
    shown[reward_table] = table("Part", turns(captions)[1:], rewards, "{:+.3f}")
    return shown


def turns(captions: list[str]) -> list[str]:
    return ["First caption", *(f"Correction {number}" for number in range(1, len(captions)))]


def corrections(captions: list[str]) -> str:
    """Corrections as HTML, what each added to and removed from the caption before it marked."""
    marked = [
        "<em>Nothing was changed.</em>" if before == after else marked_changes(before, after)
        for before, after in zip(captions, captions[1:])
    ]
    shown = [f"<h4>{turn}</h4><p>{text}</p>" for turn, text in zip(turns(captions)[1:], marked)]
    return f'{STYLE}<div class="changes">{"".join(shown)}</div>'


def graphs(titles: list[str], drawings: list[str]) -> str:
    figures = [f"<figure><figcaption>{title}</figcaption>{svg}</figure>" for title, svg in zip(titles, drawings)]
    return f'{STYLE}<div class="graphs">{"".join(figures)}</div>'


def table(corner: str, columns: list[str], values: list[dict[str, float]], form: str) -> dict[str, Any]:
    """A table of one column per turn and one row per number."""
    rows = [[name.removesuffix("_f1"), *(form.format(column[name]) for column in values)] for name in values[0]]
    return gr.update(value={"headers": [corner, *columns], "data": rows}, visible=True)


def hidden() -> dict[str, Any]:
    return gr.update(visible=False)


with gr.Blocks(title="Self-correcting captions", delete_cache=(3600, 3600)) as demo:
    gr.Markdown(INTRODUCTION)
    with gr.Row():
        with gr.Column(scale=2):
            image_box = gr.Image(type="filepath", image_mode=None, format="png", label="Image", height=260)
            # Handed on as it is: what is no picture is said in a sentence by the captioner that reads it.
            image_box.preprocess = lambda uploaded: uploaded and uploaded.path
            reference_box = gr.Textbox(label="Reference (optional)", info="A right caption, to judge by.", lines=3)
            model_box = gr.Dropdown(
                MODELS,
                value=MODELS[0],
                allow_custom_value=True,
                label="Model",
                info="embedded (knows only drawn scenes), the Hub id of a captioner or adapter, or a folder.",
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
            first_box = gr.Textbox(label="First caption", lines=2)
            corrections_box = gr.HTML(label="Corrections")
            graph_box = gr.HTML(label="Scene graphs")
            scores_table = gr.Dataframe(
                label="Facts of the captions against those of the reference", interactive=False, visible=False
            )
            reward_table = gr.Dataframe(label="Reward of each correction", interactive=False, visible=False)
    inputs = [image_box, reference_box, model_box, number_box, tokens_box, temperature_box, top_p_box, seed_box]
    outputs = [status, first_box, corrections_box, graph_box, scores_table, reward_table]
    button.click(correct, inputs, outputs, api_name="correct")
demo.queue(max_size=20)  # one at a time, as one model is in memory


if __name__ == "__main__":
    demo.launch(show_error=True)
