"""Relation QA: the share of yes/no questions about a picture that its caption answers as annotated."""

from collections.abc import Mapping

import datasets
import evaluate

from sc_captioner.judges import judged, load_judge
from sc_captioner.metrics.relation_qa import questions_of


_CITATION = """\
@inproceedings{zhang2025sccaptioner,
    author = {Zhang, Lin and Zeng, Xianfang and Li, Kangcong and Yu, Gang and Chen, Tao},
    title = {SC-Captioner: Improving Image Captioning with Self-Correction by Reinforcement Learning},
    booktitle = {Proceedings of the IEEE/CVF International Conference on Computer Vision},
    year = {2025},
    eprint = {2508.06125},
    archivePrefix = {arXiv},
}
"""

_DESCRIPTION = """\
Relation QA measures whether a caption says how things stand to each other. About five yes/no questions per image are
answered by a judge that sees nothing but the caption; the score is the share answered as annotated. It is the third of
the three changes that refined CAPTURE makes to CAPTURE.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: list of captions, or a dict from image id to caption.
    questions: per caption a list of {"question": str, "answer": "yes" | "no"}, or a dict {question: answer}; or, with
        predictions by image id, a dict from image id to either.
    judge: "graph" (default; compares scene graphs, needs nothing), "openai" (any endpoint that speaks OpenAI's
        protocol), "local" (a transformers text model), the folder or Hub id of such a model, or an object with `name`
        and `answers(captions, questions)`.
    options: of the judge. graph: parser, lexicon, batch_size, device. openai: model, base_url, api_key, cache,
        concurrency, questions_per_request, max_retries, timeout, input_price, output_price, request_options, progress.
        local: model, tokenizer, batch_size, device, dtype, max_length, progress.
    per_sample: whether to return values per sample (default) beside those of the corpus.
Returns:
    relation_qa: share of questions answered as annotated, 0 to 1.
    relation_qa_yes, relation_qa_no: the same over questions annotated yes and no.
    num_questions: questions scored.
    questions_skipped: questions annotated neither yes nor no, left out.
    answers_missing: questions left out because the judge gave no answer.
    answers_unparsable: answers that are neither yes nor no, counted as wrong.
    skipped: samples without any scored question.
    judge: who answered.
    usage: requests, tokens and cost, for judges that have them.
    per_sample: per caption relation_qa and num_questions, None where nothing was scored.
    answers: per caption the answers as read, True for yes.
Examples:
    >>> relation_qa = evaluate.load("metrics/relation_qa")
    >>> result = relation_qa.compute(
    ...     predictions=["A cat sits on a red chair."],
    ...     questions=[{"Is the cat sitting on the chair?": "Yes", "Is the dog on the chair?": "No"}],
    ... )
    >>> result["relation_qa"]
    1.0
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class RelationQA(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": text, "questions": datasets.List({"question": text, "answer": text})}
            ),
            reference_urls=["https://arxiv.org/abs/2508.06125"],
        )

    def compute(self, *, predictions=None, questions=None, **options):
        """Score captions; both dicts from image id and lists are taken."""
        if predictions is not None or questions is not None:
            predictions, questions = _aligned(predictions, questions)
        return super().compute(predictions=predictions, questions=questions, **options)

    def add_batch(self, *, predictions=None, questions=None, **kwargs):
        """Add captions and their questions; `compute()` scores all that were added."""
        # Arrow columns have no room for dicts with a key per question, nor for mistakes: checked and turned here.
        if predictions is not None:
            predictions, questions = _aligned(predictions, questions)
        super().add_batch(predictions=predictions, questions=questions, **kwargs)

    def _compute(self, predictions, questions, judge="graph", per_sample=True, **options):
        judge = load_judge(judge, **options)
        result = judged(judge, predictions, questions_of(questions)).to_dict()
        if not per_sample:
            del result["per_sample"], result["answers"]
        usage = getattr(judge, "usage", None)
        return {**result, "judge": judge.name, **({"usage": usage} if usage else {})}


def _aligned(predictions, questions):
    """Captions and questions as two lists of equal length, questions in the list form."""
    if predictions is None or questions is None:
        raise ValueError("relation_qa needs both predictions and questions.")
    if isinstance(predictions, Mapping) != isinstance(questions, Mapping):
        raise ValueError("predictions and questions must both be lists, or both dicts from image id.")
    if isinstance(predictions, Mapping):
        missing = [key for key in predictions if key not in questions]
        if missing:
            raise ValueError(f"{len(missing)} predictions have no questions, the first is {missing[0]!r}.")
        questions = [questions[key] for key in predictions]
        predictions = list(predictions.values())
    predictions = list(predictions)
    if len(predictions) != len(questions):
        raise ValueError(f"There are {len(predictions)} predictions, but {len(questions)} samples with questions.")
    for index, caption in enumerate(predictions):
        if not isinstance(caption, str):
            raise ValueError(f"Sample {index}: the prediction is no string but {type(caption).__name__}.")
    written = {True: "yes", False: "no"}
    return predictions, [
        # A text stands for the few annotated answers that are neither yes nor no; they are counted later.
        [{"question": q.text, "answer": written.get(q.answer, "other")} for q in sample]
        for sample in questions_of(list(questions))
    ]
