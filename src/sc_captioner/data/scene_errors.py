"""A captioner's bad habits, for the scenes: captions that a model can learn to err with, and later to correct.

Reinforcement learning from a model that merely knows too little degenerates; one that knows the pictures but speaks of
them with systematic errors can find the right words by sampling. Each habit here has a trigger in the scene and is
followed most of the time, so greedy captions have it nearly always and sampled ones now and then do not.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

from .scene_captions import Description, Mention, caption_of
from .scenes import CAPTION_PROMPT, INVERSE, World, description_of, picture_bytes, sampled_scenes


if TYPE_CHECKING:
    from datasets import Dataset

_CONFUSED = {"orange": "yellow", "brown": "black"}


def erroneous(description: Description, rng: random.Random, strength: float = 0.8) -> Description:
    """What a captioner of bad habits says where `description` is the truth.

    Args:
        description (`Description`): Content of a reference caption.
        rng (`random.Random`): Decides whether a habit whose trigger is there is followed.
        strength (`float`, defaults to `0.8`): Probability of that, 0 to 1.

    Habits: of three or four things a small last one is not noticed; orange is called yellow and brown black; sizes
    are given for the first thing only; where there is no circle, a big black one is imagined beside up to three
    things; a big first thing that is above the second is said to be below it; the second relation is turned around;
    the third is left out. They shorten a caption by little, so that a correction need not be twice as long.
    """

    def follows() -> bool:
        return rng.random() < strength

    things = [
        replace(
            thing,
            color=_CONFUSED.get(thing.color or "", thing.color) if follows() else thing.color,
            size=None if i > 0 and follows() else thing.size,
        )
        for i, thing in enumerate(description.things)
    ]
    relations = []
    for i, (subject, predicate, other) in enumerate(description.relations):
        if i == 2 and follows():
            continue
        turned = i == 1 or (i == 0 and predicate == "above" and description.things[0].size == "big")
        relations.append((subject, INVERSE[predicate] if turned and follows() else predicate, other))
    last = len(things) - 1
    if last >= 2 and description.things[last].size == "small" and follows():
        things.pop()
        relations = [(s, p, o) for s, p, o in relations if last not in (s, o)]
    if "circle" not in {thing.shape for thing in description.things} and len(things) <= 3 and follows():
        things.append(Mention("circle", "big", "black"))
    return Description(tuple(things), tuple(relations))


def build_conversations(
    num_samples: int,
    seed: int = 0,
    split: str = "train",
    *,
    two_turn: float = 0.35,
    errors: bool = False,
    corrected: float = 0.2,
    world: World = "plain",
) -> Dataset:
    """Scenes with what a captioner is to say of them, for supervised fine-tuning.

    Args:
        num_samples (`int`): Number of rows, at least 1.
        seed (`int`): Equal seeds give equal datasets.
        split (`str`): `"train"` or `"test"`, as in [`build_scenes`].
        two_turn (`float`, defaults to `0.35`): Share of rows with a first caption.
        errors (`bool`, defaults to `False`): Whether captions have a captioner's bad habits.
        corrected (`float`, defaults to `0.2`):
            Share of second captions that are free of errors; of the others half repeat what the first one says.
        world (`str`, defaults to `"plain"`): As in [`build_scenes`].

    Returns:
        `datasets.Dataset` with the columns `image`, `prompt`, `first_caption` (`str`, empty in rows of one turn) and
        `reference` (`str`, the last thing said).

    Raises:
        ValueError: If a share is not within 0 and 1, or as in [`build_scenes`].
    """
    import datasets

    for name, share in (("two_turn", two_turn), ("corrected", corrected)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name} is a share between 0 and 1, not {share}.")
    rng = random.Random(f"conversations-{split}-{seed}")
    rows = []
    for scene in sampled_scenes(num_samples, seed, split, world):
        truth = description_of(scene)
        first = erroneous(truth, rng) if errors else truth
        second = first
        if errors and rng.random() < corrected:
            second = truth
        elif errors and rng.random() < 0.5:
            second = erroneous(truth, rng)
        said = (
            [caption_of(first, rng), caption_of(second, rng)]
            if rng.random() < two_turn
            else ["", caption_of(first, rng)]
        )
        rows.append(
            {
                "image": {"bytes": picture_bytes(scene), "path": None},
                "prompt": CAPTION_PROMPT,
                "first_caption": said[0],
                "reference": said[1],
            }
        )
    text = datasets.Value("string")
    features = {"image": datasets.Image(), "prompt": text, "first_caption": text, "reference": text}
    return datasets.Dataset.from_list(rows, features=datasets.Features(features))
