"""Relations by question answering: the share of yes/no questions that a caption answers as annotated.

About five questions per image ask how things stand to each other; a judge that sees nothing but the caption answers
them (the paper's third change to CAPTURE). Here are the questions, the reading of answers and the score; the judges
are in [`sc_captioner.judges`].
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .result import MetricResult, mean


# What reasoning models think aloud is no answer; thinking that never ended had none.
_THOUGHT = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)
_WORD = r"(yes|no|true|false)"
_FINAL = re.compile(rf"\banswer\b[\"'*_`\s]*(?:is\b|[:=])\W*{_WORD}\b(?!\s+(?:or|and)\b)", re.IGNORECASE)
_FIRST = re.compile(rf"^\W*{_WORD}\b(?!\s+(?:or|and)\b)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a picture.

    Args:
        text (`str`): What is asked, e.g. `"Is the star above the heart?"`.
        answer (`bool`, *optional*): Whether the annotated answer is yes; `None` where it is neither yes nor no (a few
            of the published annotations), so that the question cannot be scored.
    """

    text: str
    answer: bool | None


@dataclass(frozen=True, slots=True)
class RelationQA(MetricResult):
    """How well captions answer questions.

    `corpus` holds, shares in [0, 1] and 0.0 where nothing could be asked:

    - `relation_qa`: share of all scored questions answered as annotated, whatever sample they belong to;
    - `relation_qa_yes`, `relation_qa_no`: the same over questions annotated yes and no. Nine of ten published
      annotations are yes: a judge that always says yes scores 0.9, but 0.0 in `relation_qa_no`;
    - `num_questions`: questions scored;
    - `questions_skipped`: questions left out as they are annotated neither yes nor no;
    - `answers_missing`: questions left out as the judge gave no answer at all;
    - `answers_unparsable`: questions answered with neither yes nor no; they count as answered wrongly.

    `per_sample` holds `relation_qa` and `num_questions` of each sample, `None` where no question was scored.

    Args:
        answers (`list[list[bool | None]]`): The answers as they were read, question by question.
    """

    answers: list[list[bool | None]] = field(default_factory=list)

    @property
    def score(self) -> float:
        """The corpus value `relation_qa`."""
        return self.corpus["relation_qa"]

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable form."""
        return {**MetricResult.to_dict(self), "answers": [list(sample) for sample in self.answers]}


def relation_qa(questions: Sequence[Sequence[Question]], answers: Sequence[Sequence[str | bool | None]]) -> RelationQA:
    """Score of the answers that a judge gave.

    Args:
        questions (`Sequence[Sequence[Question]]`): Questions per sample, see [`questions_of`].
        answers (`Sequence[Sequence[str | bool | None]]`): An answer per question: free text, or what was read of it;
            `None` where the judge gave none, e.g. because its server failed.

    Raises:
        ValueError: If there are not as many answers as questions; the message names the sample.
    """
    if len(questions) != len(answers):
        raise ValueError(f"{len(questions)} samples have questions, but {len(answers)} have answers.")
    hits: dict[bool, list[bool]] = {True: [], False: []}
    per_sample: list[dict[str, float] | None] = []
    read: list[list[bool | None]] = []
    left_out = dict.fromkeys(("questions_skipped", "answers_missing", "answers_unparsable"), 0)
    for index, (asked, given) in enumerate(zip(questions, answers)):
        if len(asked) != len(given):
            raise ValueError(f"Sample {index} has {len(asked)} questions, but {len(given)} answers.")
        verdicts = [yes_or_no(answer) if isinstance(answer, str) else answer for answer in given]
        sample: list[bool] = []
        for question, answer, verdict in zip(asked, given, verdicts):
            if question.answer is None:
                left_out["questions_skipped"] += 1
            elif answer is None:
                left_out["answers_missing"] += 1
            else:
                left_out["answers_unparsable"] += verdict is None
                sample.append(verdict is question.answer)
                hits[question.answer].append(sample[-1])
        per_sample.append({"relation_qa": mean(sample), "num_questions": len(sample)} if sample else None)
        read.append(verdicts)
    scored = hits[True] + hits[False]
    corpus = {
        "relation_qa": mean(scored),
        "relation_qa_yes": mean(hits[True]),
        "relation_qa_no": mean(hits[False]),
        "num_questions": len(scored),
        **left_out,
    }
    return RelationQA(corpus, per_sample, per_sample.count(None), read)


def yes_or_no(text: str) -> bool | None:
    """Whether a free text answers yes (`True`) or no (`False`), `None` where it does neither clearly.

    A final answer (`... so the answer is no`) goes before the first word (`Yes, because ...`); nothing is guessed from
    the middle of a text, where `no` is mostly a determiner (`there is no dog`).

    Args:
        text (`str`): A reply in free words.
    """
    text = _THOUGHT.sub(" ", text)
    finals = _FINAL.findall(text)
    first = _FIRST.match(text)
    word = finals[-1] if finals else first.group(1) if first else None
    return None if word is None else word.lower() in ("yes", "true")


def questions_of(annotations: Sequence[Any]) -> list[list[Question]]:
    """Questions per sample from the forms in which annotations come.

    Args:
        annotations (`Sequence`): Per sample `{"Is the star above the heart?": "Yes", ...}`, or a list of
            `{"question": str, "answer": "yes" | "no"}`, or the same turned into columns
            `{"question": [str], "answer": [str]}`. `None` stands for a sample without questions, and in the first
            form for a question that is another sample's.

    Raises:
        ValueError: If a sample is in none of these forms; the message names sample and question.
    """
    if isinstance(annotations, (str, bytes, Mapping)) or not isinstance(annotations, Sequence):
        raise ValueError(f"questions must be a list with one entry per sample, not {type(annotations).__name__}.")
    return [sample_questions(annotation, index) for index, annotation in enumerate(annotations)]


def sample_questions(annotation: Any, index: int) -> list[Question]:
    """Questions of one sample, see [`questions_of`]; `index` is its place in error messages.

    Args:
        annotation: In one of the forms of [`questions_of`].
        index (`int`): Place of the sample, for the message.

    Raises:
        ValueError: If the annotation is in none of the forms; the message names sample and question.
    """
    if annotation is None:
        return []
    pairs: list[tuple[Any, Any]]
    if isinstance(annotation, Mapping):
        columns = set(annotation) == {"question", "answer"} and all(isinstance(v, list) for v in annotation.values())
        if columns and len(annotation["question"]) != len(annotation["answer"]):
            raise ValueError(
                f"Sample {index} has {len(annotation['question'])} questions, but {len(annotation['answer'])} "
                "annotated answers."
            )
        pairs = (
            list(zip(annotation["question"], annotation["answer"]))
            if columns
            else [
                # A column of dicts in `datasets` gives every row the keys of all rows, with `None` in them.
                (text, answer)
                for text, answer in annotation.items()
                if answer is not None
            ]
        )
    elif isinstance(annotation, Sequence) and not isinstance(annotation, (str, bytes)):
        pairs = []
        for number, entry in enumerate(annotation):
            if not isinstance(entry, Mapping) or "question" not in entry or "answer" not in entry:
                raise ValueError(
                    f"Sample {index}, question {number} must be {{'question': text, 'answer': 'yes' or 'no'}}, "
                    f"not {entry!r:.80}."
                )
            pairs.append((entry["question"], entry["answer"]))
    else:
        raise ValueError(
            f"Sample {index} must hold a list of questions or a dict from question to answer, not {annotation!r:.80}."
        )
    return [_question(text, answer, index, number) for number, (text, answer) in enumerate(pairs)]


def _question(text: Any, answer: Any, index: int, number: int) -> Question:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"Sample {index}, question {number} is no text: {text!r:.80}.")
    if isinstance(answer, bool):
        return Question(text.strip(), answer)
    if not isinstance(answer, str) or not answer.strip():
        raise ValueError(
            f"Sample {index}, question {number} ({text!r:.80}) has no annotated answer but {answer!r:.40}."
        )
    plain = answer.strip().rstrip(".").lower()
    return Question(text.strip(), {"yes": True, "no": False}.get(plain))
