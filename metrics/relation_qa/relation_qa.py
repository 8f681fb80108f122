"""Relation QA: the share of yes/no questions about a picture that its caption answers as annotated."""

import datasets
import evaluate

from sc_captioner.judges import judged, load_judge
from sc_captioner.metric_modules import SceneGraphModule, module_output
from sc_captioner.metrics.inputs import text
from sc_captioner.metrics.relation_qa import questions_of, sample_questions


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
        and `answers(captions, questions)`, which stays loaded from call to call.
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
    per_sample: lists of relation_qa and num_questions, None for captions without a scored question, and of answers as
        they were read, question by question, True for yes.
Examples:
    >>> relation_qa = evaluate.load("metrics/relation_qa")
    >>> result = relation_qa.compute(
    ...     predictions=["A cat sits on a red chair."],
    ...     questions=[{"Is the cat sitting on the chair?": "Yes", "Is the dog on the chair?": "No"}],
    ... )
    >>> result["relation_qa"]
    1.0
"""


def questions(name, index, value):
    """Questions of one sample in the form that Arrow columns can carry.

    Raises:
        ValueError: If they have no known form.
    """
    # A word stands for the few annotated answers that are neither yes nor no; they are counted later.
    written = {True: "yes", False: "no", None: "other"}
    return [{"question": q.text, "answer": written[q.answer]} for q in sample_questions(value, index)]


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class RelationQA(SceneGraphModule, evaluate.Metric):
    checks = {"predictions": text, "questions": questions}

    def _info(self):
        value = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": value, "questions": datasets.List({"question": value, "answer": value})}
            ),
            reference_urls=["https://arxiv.org/abs/2508.06125"],
        )

    def _compute(self, predictions, questions, judge="graph", per_sample=True, **options):
        judge = load_judge(judge, **options)
        result = judged(judge, predictions, questions_of(questions))
        output = module_output(result, per_sample, {"judge": judge.name})
        if per_sample:
            output["per_sample"]["answers"] = result.answers
        usage = getattr(judge, "usage", None)
        return {**output, "usage": usage} if usage else output
