"""What a judge is, how one is named, and the score of captions under it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ..metrics.relation_qa import Question, RelationQA, relation_qa


class JudgeError(RuntimeError):
    """A judge cannot go on; the message says what to mend. Answers got so far are in its cache."""


@runtime_checkable
class Judge(Protocol):
    """Answers questions from captions alone. `name` says in every result which judge it was."""

    name: str

    def answers(self, captions: Sequence[str], questions: Sequence[Sequence[str]]) -> list[list[str | None]]:
        """An answer per question of each caption, as free text; `None` where there is none to be had.

        Args:
            captions (`Sequence[str]`): One caption per sample.
            questions (`Sequence[Sequence[str]]`): Questions per sample.
        """
        ...


def load_judge(judge: Judge | str | Path = "graph", **options: Any) -> Judge:
    """The judge of that name.

    Args:
        judge (`str`, `Path` or [`Judge`]): `"graph"` (parses caption and question, needs nothing), `"openai"` (any
            endpoint that speaks OpenAI's protocol; needs the option `model`), `"local"` (a transformers text model;
            needs the option `model`), the folder or Hub id of such a text model, or a judge, which is handed back.
        options: Passed to [`GraphJudge`], [`OpenAIJudge`] or [`LocalJudge`].

    Raises:
        ValueError: If the name is unknown, a needed option is missing, or options are given beside a judge that is
            already built.
        TypeError: If a judge has no such option; the message names both.
    """
    if not isinstance(judge, (str, Path)):
        if options:
            raise ValueError(f"Options {sorted(options)} have no effect on a judge that is already built.")
        if not isinstance(judge, Judge):
            raise ValueError(f"A judge has a name and a method answers(captions, questions); {judge!r:.80} has not.")
        return judge
    name = str(judge)
    if name == "graph":
        from .graph_matching import GraphJudge

        return _built(GraphJudge, name, options)
    if name in ("openai", "local") and not options.get("model"):
        raise ValueError(f"judge={name!r} needs the option model, the name of the model that answers.")
    if name == "openai":
        from .openai_endpoint import OpenAIJudge

        return _built(OpenAIJudge, name, options)
    if name != "local":
        # A Hub id has exactly one slash; a bare word would otherwise surface as a puzzling download error.
        if not Path(name).expanduser().is_dir() and name.count("/") != 1:
            raise ValueError(f"Unknown judge {name!r}: choose 'graph', 'openai', 'local', a folder or a Hub id.")
        options = {"model": str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name, **options}
    from .local_model import LocalJudge

    return _built(LocalJudge, name, options)


def judged(judge: Judge, captions: Sequence[str], questions: Sequence[Sequence[Question]]) -> RelationQA:
    """Score of captions under a judge.

    Args:
        judge ([`Judge`]): Who answers; it sees captions and questions, never the annotated answers.
        captions (`Sequence[str]`): One caption per sample.
        questions (`Sequence[Sequence[Question]]`): Questions per sample, see
            [`~sc_captioner.metrics.relation_qa.questions_of`].

    Raises:
        ValueError: If the numbers of captions and samples differ or a caption is no string; the message names it.
    """
    if len(captions) != len(questions):
        raise ValueError(f"There are {len(captions)} captions, but {len(questions)} samples with questions.")
    for index, caption in enumerate(captions):
        if not isinstance(caption, str):
            raise ValueError(f"Sample {index}: the caption is no string but {type(caption).__name__}.")
    # Questions that cannot be scored are not asked: some judges are paid by the question.
    asked = [[question for question in sample if question.answer is not None] for sample in questions]
    given = judge.answers(captions, [[question.text for question in sample] for sample in asked])
    replies = [iter(sample) for sample in given]
    answers = [
        [None if question.answer is None else next(reply) for question in sample]
        for sample, reply in zip(questions, replies)
    ]
    return relation_qa(questions, answers)


def _built(kind: type, name: str, options: dict[str, Any]) -> Any:
    import inspect

    known = list(inspect.signature(kind).parameters)
    for option in options:
        if option not in known:
            raise TypeError(f"judge={name!r} has no option {option!r}; it has {', '.join(known)}.")
    return kind(**options)
