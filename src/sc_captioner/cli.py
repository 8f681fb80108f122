"""The command `sc-captioner`: caption images, score and explain captions, parse texts, look after the installation."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from typer.core import TyperGroup

from .arguments import SamplingArguments, ScoringArguments, SettingError, quiet_logs
from .captioning import CaptionFile, CaptionsBeside, caption_images, caption_row, image_sources
from .cli_options import (
    AnnotationFolder,
    EncoderName,
    Engine,
    Format,
    LexiconName,
    ParserName,
    Shards,
    TextFormat,
    WorkerGpus,
    Workers,
    caption_table,
    plain_console,
    rows_with_references,
)
from .explaining import explain


if TYPE_CHECKING:
    from .captioner import SelfCorrectingCaptioner
    from .scene_graph import SceneGraph, SceneGraphParser


@contextlib.contextmanager
def _mistakes_in_one_line() -> Iterator[None]:
    """A user's mistake ends in one sentence and status 2; anything else is ours and keeps its traceback."""
    from .data import DatasetError, ModelError
    from .judges import JudgeError

    try:
        yield
    except (DatasetError, ModelError, SettingError, JudgeError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    except ImportError as error:
        typer.echo(f"error: a package is missing: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(2) from None


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        with _mistakes_in_one_line():
            return super().invoke(ctx)


app = typer.Typer(
    name="sc-captioner",
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Caption images and correct the captions, score and explain corrections, parse texts into scene graphs.",
)


class CaptionFormat(StrEnum):
    """How captions are printed."""

    TABLE = "table"
    JSONL = "jsonl"


@app.command()
def caption(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE...",
            help="Image files, folders, addresses; by the engine ray also parquet files and WebDataset archives.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(help="Folder or Hub id of a model or adapter; default: the embedded one, for drawn scenes only."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            help="JSON lines file, one line per image (engine ray: folder of shards); goes on where a run stopped."
        ),
    ] = None,
    beside: Annotated[bool, typer.Option("--beside", help="Write every caption beside its image, IMAGE.txt.")] = False,
    format: Annotated[
        CaptionFormat, typer.Option(help="What to print where nothing is written.")
    ] = CaptionFormat.TABLE,
    revisions: Annotated[
        bool,
        typer.Option("--revisions", help="Put into JSON lines what each correction changed, as the table has it."),
    ] = False,
    num_corrections: Annotated[int, typer.Option(min=0, help="Corrections in a row.")] = 1,
    prompt: Annotated[str | None, typer.Option(help="Asks for a caption; default: as trained.")] = None,
    instruction: Annotated[str | None, typer.Option(help="Asks for a correction; default: as trained.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per batch.")] = 8,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest caption, in tokens.")] = 512,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="Nucleus of sampling.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of sampling.")] = 0,
    dtype: Annotated[str, typer.Option(help="Type of the weights, as in bfloat16; auto: as stored.")] = "auto",
    device: Annotated[str | None, typer.Option(help="Device; default: the accelerator where there is one.")] = None,
    device_map: Annotated[str | None, typer.Option(help="Spread the model over devices: auto.")] = None,
    load_in_4bit: Annotated[bool, typer.Option("--load-in-4bit", help="Quantise to 4 bits (bitsandbytes).")] = False,
    engine: Annotated[Engine, typer.Option(help="This process, or a Ray cluster (extra ray).")] = Engine.LOCAL,
    shards: Annotated[Shards, typer.Option(help="What the engine ray writes.")] = Shards.PARQUET,
    shard_size: Annotated[int, typer.Option(min=1, help="Images per shard of the engine ray.")] = 256,
    workers: Workers = None,
    worker_gpus: WorkerGpus = None,
) -> None:
    """Caption images and correct the captions.

    Files that hold no readable image are skipped and listed at the end. A run that was stopped, however roughly, goes
    on when given again. Status: 0, or 1 if images were skipped, or 2 if a setting cannot be used.

    Examples:

        sc-captioner caption photo.jpg

        sc-captioner caption photo.jpg --model my-name/qwen2-vl-2b-sc --format jsonl

        sc-captioner caption photos/ --output captions.jsonl --batch-size 32

        sc-captioner caption photos/ --beside

        sc-captioner caption shards/ --engine ray --output captions/ --workers 8
    """
    sampling = SamplingArguments(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
    asked = {"model": model, "prompt": prompt, "instruction": instruction, "num_corrections": num_corrections}
    asked |= {**sampling.generation(), "dtype": dtype, "load_in_4bit": load_in_4bit}
    options = {"batch_size": batch_size, "num_corrections": num_corrections, **sampling.generation()}
    if engine == Engine.RAY:
        if beside or output is None:
            raise SettingError("the engine ray writes shards into a folder: name it by --output, leave out --beside.")
        loading = _loading(model, prompt, instruction, dtype, device, device_map, load_in_4bit)
        job: dict[str, Any] = {"model": loading, "options": {**options, "revisions": revisions}, "settings": asked}
        job |= {"shards": shards.value, "shard_size": shard_size, "workers": workers, "worker_gpus": worker_gpus}
        _caption_corpus(images, output, **job, seed=seed)
        return
    if beside and (output or any(name.startswith(("http://", "https://")) for name in images)):
        raise SettingError("--beside writes next to image files: leave out --output and addresses.")
    # The one walk that counts also finds missing files before a model is loaded.
    sources = dict.fromkeys(image_sources(images))
    kept: CaptionFile | CaptionsBeside | None = CaptionsBeside() if beside else None
    if output is not None:
        kept = CaptionFile(Path(output), asked)
    left = [source for source in sources if kept is None or source not in kept.done]
    if kept is not None and len(left) < len(sources):
        typer.echo(f"{len(sources) - len(left)} images have their captions, {len(left)} are left.", err=True)
    if not left:
        typer.echo("There is no image to caption.", err=True)
        return
    captioner = _captioner(_loading(model, prompt, instruction, dtype, device, device_map, load_in_4bit))
    import torch
    from tqdm.auto import tqdm

    from .captioner import ImageError, SelfCorrection

    torch.manual_seed(seed + len(sources) - len(left))
    skipped: list[ImageError] = []
    table_head = True
    options["revisions"] = not beside and (revisions or (kept is None and format == CaptionFormat.TABLE))
    with tqdm(total=len(left), desc="Captioning", unit="image", file=sys.stderr) as bar:
        for batch in caption_images(captioner, left, **options):
            good = [(source, result) for source, result in batch if isinstance(result, SelfCorrection)]
            skipped += [result for _, result in batch if isinstance(result, ImageError)]
            if kept is not None:
                kept.write(good)
            elif format == CaptionFormat.JSONL:
                for source, result in good:
                    typer.echo(json.dumps(caption_row(source, result), ensure_ascii=False))
            else:
                with tqdm.external_write_mode():
                    plain_console().print(caption_table(good, table_head))
                table_head = False
            bar.update(len(batch))
    _list_skipped([str(error) for error in skipped], len(left))


def _list_skipped(errors: list[str], number: int) -> None:
    if errors:
        typer.echo(f"{len(errors)} of {number} images were skipped:", err=True)
        for error in errors:
            typer.echo(f"  {error}", err=True)
        raise typer.Exit(1)


def _caption_corpus(images: list[str], output: str, **job: Any) -> None:
    from .ray_captioning import caption_corpus

    with _model_is_an_option():
        captions = caption_corpus(images, output, **job)
    table = Table(show_header=False)
    table.add_row("captioned", str(len(captions.ids) - len(captions.errors)))
    table.add_row("skipped", str(len(captions.errors)))
    table.add_row("shards", f"{captions.shards} in {output}")
    plain_console().print(table)
    _list_skipped(list(captions.errors.values()), len(captions.ids))


def _loading(
    model: str | None,
    prompt: str | None,
    instruction: str | None,
    dtype: str,
    device: str | None,
    device_map: str | None,
    load_in_4bit: bool,
) -> dict[str, Any]:
    """Arguments of [`SelfCorrectingCaptioner.from_pretrained`]."""
    loading: dict[str, Any] = {"dtype": dtype, "device": device, "prompt": prompt, "instruction": instruction}
    if model is None:
        typer.echo("The embedded model knows only small drawn scenes; name another one by --model.", err=True)
    else:
        loading["name_or_path"] = model
    if device_map is not None:
        loading["device_map"] = device_map
    if load_in_4bit:
        from transformers import BitsAndBytesConfig

        loading["quantization_config"] = BitsAndBytesConfig(load_in_4bit=True)
    return loading


def _captioner(loading: dict[str, Any]) -> SelfCorrectingCaptioner:
    quiet_logs()
    from .captioner import SelfCorrectingCaptioner

    with _model_is_an_option():
        return SelfCorrectingCaptioner.from_pretrained(**loading)


@contextlib.contextmanager
def _model_is_an_option() -> Iterator[None]:
    from .data import ModelError

    try:
        yield
    except (ModelError, SettingError) as error:
        raise SettingError(str(error).replace("model_name_or_path", "--model")) from error


@app.command()
def score(
    predictions: Annotated[
        str, typer.Argument(help="JSON lines, a folder with predictions.jsonl, or a dataset on the Hub.")
    ],
    annotations: AnnotationFolder = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="facts, capture, refined_capture, relation_qa, correction; may be given again."),
    ] = None,
    parser: ParserName = "compact",
    encoder: EncoderName = None,
    lexicon: LexiconName = "auto",
    format: Format = TextFormat.TABLE,
    engine: Annotated[Engine, typer.Option(help="Who parses: this process, or a Ray cluster.")] = Engine.LOCAL,
    workers: Workers = None,
    worker_gpus: WorkerGpus = None,
) -> None:
    """Score captions of both turns against their references.

    A row has `predict` and `predict_turn2` (or `first_caption`, `second_caption`), and a `label` (or `reference`)
    unless annotations give it by the row's `id` or the name of its image file. Plots, per-sample scores and judges by
    a model: `recipes/evaluate.py`.

    Examples:

        sc-captioner score generated_predictions.jsonl

        sc-captioner score captions.jsonl --annotations docci500 --metric capture --metric correction

        sc-captioner score captions/ --annotations docci500 --parser factual --engine ray
    """
    from .evaluation import METRICS, result_tables, results_of, scores_of_turns

    quiet_logs()
    rows = rows_with_references(predictions, annotations)
    try:
        read = _parser(parser, engine, workers, worker_gpus)
        scores = scores_of_turns(rows, parser=read, encoder=encoder, lexicon=lexicon, metrics=metric or METRICS)  # type: ignore[arg-type]
    except (ValueError, OSError, LookupError) as error:
        raise SettingError(f"the predictions cannot be scored: {error}") from error
    results = results_of(scores)
    typer.echo(json.dumps(results, indent=2) if format == TextFormat.JSON else result_tables(results))


def _parser(name: str, engine: Engine, workers: int | None, worker_gpus: float | None) -> SceneGraphParser:
    if engine == Engine.LOCAL:
        return ScoringArguments(parser=name).loaded_parser()
    from .ray_parsing import RayParser

    return RayParser(name, workers=workers, worker_gpus=worker_gpus)


app.command()(explain)


@app.command()
def parse(
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="Captions; each gets a graph of its own.")],
    parser: ParserName = "compact",
    lexicon: LexiconName = "auto",
    format: Format = TextFormat.TABLE,
) -> None:
    """The scene graphs of texts: objects, their attributes, relations.

    Examples:

        sc-captioner parse "Two black cats sleep on a red sofa."

        sc-captioner parse "A dog." "A cat." --format json
    """
    from .scene_graph import load_lexicon, parse_captions

    quiet_logs()
    try:
        words = load_lexicon(lexicon)  # type: ignore[arg-type]
    except (ValueError, LookupError) as error:
        raise SettingError(str(error)) from error
    graphs = parse_captions(ScoringArguments(parser=parser).loaded_parser(), words, texts)
    for text, graph in zip(texts, graphs):
        if format == TextFormat.JSON:
            typer.echo(json.dumps({"text": text, **graph.to_dict()}, ensure_ascii=False))
        else:
            plain_console().print(_graph_table(text, graph))


def _graph_table(text: str, graph: SceneGraph) -> Table:
    table = Table("object", "count", "attributes", "relations", title=text, title_justify="left")
    for index, entity in enumerate(graph.entities):
        relations = [f"{r.relation} {graph.entities[r.object].head}" for r in graph.relations if r.subject == index]
        table.add_row(entity.head, entity.quantity, ", ".join(sorted(entity.attributes)), ", ".join(relations))
    return table


@app.command()
def doctor(format: Format = TextFormat.TABLE) -> None:
    """What is installed and reachable, and what to do about what is missing.

    Status: 0, or 1 if something is missing that the package cannot do without.

    Example:

        sc-captioner doctor
    """
    from .doctor import findings

    quiet_logs()
    found = findings()
    if format == TextFormat.JSON:
        typer.echo(json.dumps([finding.to_dict() for finding in found], indent=2))
    else:
        table = Table("", "what", "found")
        table.add_column("what to do", overflow="fold")
        for finding in found:
            mark = "ok" if not finding.remedy else "missing" if finding.needed else "optional"
            table.add_row(mark, finding.what, finding.found, finding.remedy)
        plain_console().print(table)
    raise typer.Exit(any(finding.needed and finding.remedy for finding in found))


if __name__ == "__main__":
    app()
