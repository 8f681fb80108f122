"""Small synthetic scenes: a captioning dataset that needs no download and whose every fact is known.

A scene is a picture of 84 x 84 pixels with a 3 x 3 grid of cells of 28 x 28. Two to four things of distinct shapes lie
in cells of their own; each has one of six colours and one of two sizes. A thin border runs around the picture; no
reference caption names it, like the many annotated objects of real pictures that captions leave out.

What a reference says is a function of the scene, only its wording is random: every thing with size and colour, and
how each stands to the one before it in reading order. The first thing is said to stand `to left of` or `above` the
second, every later one `to right of` or `below` its predecessor; things of one row stand side by side, all others one
above the other.

Scenes of `split="train"` and `split="test"` never coincide, whatever the seeds: a scene belongs to the test split
where a hash of its things (shape, colour, size, cell) says so, which is true of one scene in eight.

Beside these `plain` scenes there are two other worlds, to test what a captioner makes of what it was not trained on.
`seen` scenes are plain ones without the `HELD_OUT` combinations of shape and colour. `hard` scenes hold five or six
things, so four or five relations, at least one of them of a held-out combination; things reach into neighbouring
cells, and small gray marks lie about that no reference names.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import math
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..scene_graph.graph import SceneGraph
from .scene_captions import COLORS, PLACES, SHAPES, SIZES, Description, Mention, caption_of


if TYPE_CHECKING:
    from datasets import Dataset
    from PIL import Image

CAPTION_PROMPT = "Describe the picture."
CORRECTION_INSTRUCTION = (
    "Review the objects, attributes and relations in the caption. Directly output the final caption."
)

CELL = 28  # pixels; one image token of Qwen2-VL (patch 14, merged 2 x 2)
GRID = 3
BORDERS = {"gray": (128, 128, 128), "blue": (60, 90, 220)}

_RGB = {
    "black": (25, 25, 25),
    "brown": (125, 75, 35),
    "green": (40, 160, 60),
    "orange": (250, 130, 20),
    "purple": (140, 50, 170),
    "yellow": (245, 215, 40),
}
_DIAMETER = {"small": 12, "big": 22}  # pixels
# Adjectives that annotators give beside size and colour; no reference uses them.
_FORMS = {
    "circle": "round",
    "diamond": "pointed",
    "heart": "curved",
    "square": "angular",
    "star": "pointed",
    "triangle": "angular",
}
World = Literal["plain", "seen", "hard"]
# One combination of every shape and of every colour: a captioner sees each of them, but not together. Not the black
# circle, which erring captioners imagine (scene_errors.py).
HELD_OUT = dict(zip(SHAPES, (*COLORS[2:], *COLORS[:2])))
_MARK = (150, 150, 150)
INVERSE = {"to left of": "to right of", "to right of": "to left of", "above": "below", "below": "above"}
_QUESTIONS_PER_SCENE = 5


@dataclass(frozen=True, slots=True)
class Thing:
    """One thing of a scene and its cell; rows and columns count from 0 at the top left.

    Args:
        shape (`str`): Its noun, as in `star`.
        color (`str`): Name of the colour.
        size (`str`): `small` or `big`.
        row (`int`): 0 to 2.
        column (`int`): 0 to 2.
    """

    shape: str
    color: str
    size: str
    row: int
    column: int


@dataclass(frozen=True, slots=True)
class Scene:
    """The ground truth of a picture.

    Args:
        things (`tuple[Thing, ...]`): Two to six things in reading order (rows from the top, each from the left).
        border (`str`): Colour of the border, a key of `BORDERS`.
        shade (`int`): Grey level of the ground, 225 to 250.
        shifts (`tuple[tuple[int, int], ...]`): Per thing, pixels it lies right of and below the middle of its cell.
        marks (`tuple[tuple[int, int], ...]`): Left and upper pixels of the marks that no caption names.
    """

    things: tuple[Thing, ...]
    border: str
    shade: int
    shifts: tuple[tuple[int, int], ...]
    marks: tuple[tuple[int, int], ...] = ()

    @property
    def split(self) -> str:
        """`"train"` or `"test"`, a function of the things alone."""
        key = repr(sorted((t.shape, t.color, t.size, t.row, t.column) for t in self.things))
        return "test" if hashlib.blake2b(key.encode(), digest_size=8).digest()[0] % 8 == 0 else "train"

    def to_json(self) -> str:
        """The scene as JSON; `from_json` reads it back."""
        told = asdict(self)
        if not self.marks:
            del told["marks"]
        return json.dumps(told)

    @classmethod
    def from_json(cls, text: str) -> Scene:
        """The inverse of `to_json`.

        Args:
            text (`str`): What `to_json` gave.
        """
        scene = json.loads(text)
        things = tuple(Thing(**thing) for thing in scene["things"])
        shifts, marks = (tuple((x, y) for x, y in scene.get(name, ())) for name in ("shifts", "marks"))
        return cls(things, scene["border"], scene["shade"], shifts, marks)


def build_scenes(num_samples: int, seed: int = 0, split: str = "train", world: World = "plain") -> Dataset:
    """A dataset of `num_samples` different scenes with reference captions.

    Args:
        num_samples (`int`): Number of rows, at least 1.
        seed (`int`): Equal seeds give equal datasets.
        split (`str`): `"train"` or `"test"`; no scene is ever in both.
        world (`str`): `"plain"`, `"seen"` or `"hard"`, see above.

    Returns:
        `datasets.Dataset` with the columns `image` (PIL, 84 x 84 RGB), `prompt` (`str`, `CAPTION_PROMPT`), `reference`
        (`str`), `extra_objects` (`list[str]`: everything in the picture, named in the reference or not),
        `extra_attributes` (list of `{"object": str, "attributes": list[str]}`), `questions` (list of
        `{"question": str, "answer": "yes" | "no"}`: five about relations, all answered by the reference) and `scene`
        (`str`, see `Scene.to_json`).

    Raises:
        ValueError: If `num_samples` is below 1, `split` or `world` unknown.
    """
    import datasets

    rng = random.Random(f"captions-{split}-{seed}")
    rows = []
    for scene in sampled_scenes(num_samples, seed, split, world):
        rows.append(
            {
                "image": {"bytes": picture_bytes(scene), "path": None},
                "prompt": CAPTION_PROMPT,
                "reference": caption_of(description_of(scene), rng),
                "extra_objects": [*(thing.shape for thing in scene.things), "border"],
                "extra_attributes": _annotated_attributes(scene),
                "questions": relation_questions(scene, rng),
                "scene": scene.to_json(),
            }
        )
    text = datasets.Value("string")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "prompt": text,
            "reference": text,
            "extra_objects": datasets.List(text),
            "extra_attributes": datasets.List({"object": text, "attributes": datasets.List(text)}),
            "questions": datasets.List({"question": text, "answer": text}),
            "scene": text,
        }
    )
    return datasets.Dataset.from_list(rows, features=features)


def sampled_scenes(num_samples: int, seed: int, split: str = "train", world: World = "plain") -> Iterator[Scene]:
    """`num_samples` different scenes of a split.

    Args:
        num_samples (`int`): Number of scenes, 1 or more.
        seed (`int`): Equal seeds give equal scenes.
        split (`str`, defaults to `"train"`): `"train"` or `"test"`, which share no scene.
        world (`str`, defaults to `"plain"`): `"plain"`, `"seen"` or `"hard"`, see above.

    Raises:
        ValueError: If `num_samples` is below 1, `split` is neither `"train"` nor `"test"`, or `world` is unknown.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, not {num_samples}.")
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', not {split!r}.")
    if world not in get_args(World):
        raise ValueError(f"the scenes have no world {world!r}; choose one of {', '.join(get_args(World))}.")
    rng = random.Random(f"scenes-{split}-{seed}" if world == "plain" else f"scenes-{world}-{split}-{seed}")
    seen: set[tuple[Thing, ...]] = set()
    while len(seen) < num_samples:
        scene = _sampled_hard_scene(rng) if world == "hard" else _sampled_scene(rng)
        held_out = any(HELD_OUT[thing.shape] == thing.color for thing in scene.things)
        fits = world == "plain" or held_out == (world == "hard")
        if fits and scene.split == split and scene.things not in seen:
            seen.add(scene.things)
            yield scene


def description_of(scene: Scene) -> Description:
    """What the reference caption of a scene says (module docstring): all things, and a chain of relations.

    Args:
        scene ([`Scene`]): A scene.
    """
    mentions = tuple(Mention(thing.shape, thing.size, thing.color) for thing in scene.things)
    relations = []
    for i, (thing, following) in enumerate(zip(scene.things, scene.things[1:])):
        predicate = "to left of" if thing.row == following.row else "above"
        relations.append((i, predicate, i + 1) if i == 0 else (i + 1, INVERSE[predicate], i))
    return Description(mentions, tuple(relations))


def scene_graph_of(scene: Scene) -> SceneGraph:
    """Gold graph of a scene's reference caption, whatever its wording.

    Args:
        scene ([`Scene`]): A scene.
    """
    return description_of(scene).graph()


def relation_holds(subject: Thing, predicate: str, other: Thing) -> bool:
    """Whether a relation is true of two things by their cells, e.g. `above`: any row above, in whatever column.

    Args:
        subject ([`Thing`]): The thing that the relation is said of.
        predicate (`str`): A predicate of the scenes' language.
        other ([`Thing`]): The thing that it stands to.
    """
    return {
        "to left of": subject.column < other.column,
        "to right of": subject.column > other.column,
        "above": subject.row < other.row,
        "below": subject.row > other.row,
    }[predicate]


def relation_questions(scene: Scene, rng: random.Random) -> list[dict[str, str]]:
    """Five different yes/no questions about relations, e.g. `Is the star above the heart?`.

    They ask about neighbours of the reading order in the direction that the reference states, or turned around, so
    that a complete caption answers all of them; both answers occur.

    Args:
        scene ([`Scene`]): A scene.
        rng (`random.Random`): Chooses among the questions.
    """
    pools: dict[str, list[str]] = {"yes": [], "no": []}
    for thing, following in zip(scene.things, scene.things[1:]):
        side_by_side = thing.row == following.row
        for predicate in PLACES if side_by_side else ("above", "below"):
            for subject, other in ((thing, following), (following, thing)):
                answer = "yes" if relation_holds(subject, predicate, other) else "no"
                pools[answer].append(f"Is the {subject.shape} {PLACES[predicate]} the {other.shape}?")
    if len(scene.things) == 2 and len(pools["yes"]) + len(pools["no"]) < _QUESTIONS_PER_SCENE:
        # One pair, one above the other: nothing more follows from the caption but that neither is absent.
        shape = next(shape for shape in SHAPES if shape not in {thing.shape for thing in scene.things})
        pools["no"].append(f"Is the {scene.things[0].shape} above the {shape}?")
    yes = rng.sample(pools["yes"], min(len(pools["yes"]), rng.choice((2, 3))))
    no = rng.sample(pools["no"], min(len(pools["no"]), _QUESTIONS_PER_SCENE - len(yes)))
    questions = [{"question": q, "answer": "yes"} for q in yes] + [{"question": q, "answer": "no"} for q in no]
    rng.shuffle(questions)
    return questions


def drawn(scene: Scene) -> Image.Image:
    """The picture of a scene, RGB, 84 x 84.

    Args:
        scene ([`Scene`]): A scene.
    """
    from PIL import Image

    side = CELL * GRID
    picture = Image.new("RGB", (side, side), BORDERS[scene.border])
    picture.paste((scene.shade,) * 3, (2, 2, side - 2, side - 2))
    for left, top in scene.marks:
        picture.paste(_MARK, (left, top, left + 4, top + 2))
    for thing, (right, down) in zip(scene.things, scene.shifts):
        corner = (thing.column * CELL + right, thing.row * CELL + down)
        picture.paste(_RGB[thing.color], corner, _mask(thing.shape, thing.size))
    return picture


def picture_bytes(scene: Scene) -> bytes:
    """The picture of a scene as a PNG file.

    Args:
        scene ([`Scene`]): A scene.
    """
    buffer = io.BytesIO()
    drawn(scene).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _sampled_scene(rng: random.Random) -> Scene:
    things = _sampled_things(rng, rng.choices((2, 3, 4), (0.25, 0.45, 0.3))[0])
    reach = {"small": 3, "big": 1}  # keeps a thing inside its cell and off the border
    shifts = tuple((rng.randint(-r, r), rng.randint(-r, r)) for r in (reach[thing.size] for thing in things))
    return Scene(things, rng.choice(sorted(BORDERS)), rng.randint(225, 250), shifts)


def _sampled_hard_scene(rng: random.Random) -> Scene:
    things = _sampled_things(rng, rng.choice((5, 6)))
    reach = {"small": 9, "big": 5}  # up to one and two pixels of a thing lie in the next cell

    def shift(place: int, reach: int, size: str) -> int:
        # At the sides of the picture it stays off the border.
        inside = (CELL - _DIAMETER[size]) // 2 - 2
        return rng.randint(
            -min(reach, inside) if place == 0 else -reach, min(reach, inside) if place == GRID - 1 else reach
        )

    shifts = tuple((shift(t.column, reach[t.size], t.size), shift(t.row, reach[t.size], t.size)) for t in things)
    side = CELL * GRID
    marks = tuple((rng.randint(3, side - 7), rng.randint(3, side - 7)) for _ in range(rng.randint(3, 6)))
    return Scene(things, rng.choice(sorted(BORDERS)), rng.randint(225, 250), shifts, marks)


def _sampled_things(rng: random.Random, count: int) -> tuple[Thing, ...]:
    cells = sorted(rng.sample(range(GRID * GRID), count))
    shapes = rng.sample(SHAPES, count)
    return tuple(
        Thing(shape, rng.choice(COLORS), rng.choice(SIZES), *divmod(cell, GRID)) for shape, cell in zip(shapes, cells)
    )


def _annotated_attributes(scene: Scene) -> list[dict[str, Any]]:
    things = [{"object": t.shape, "attributes": [t.size, t.color, _FORMS[t.shape]]} for t in scene.things]
    return [*things, {"object": "border", "attributes": ["thin", scene.border]}]


@functools.cache
def _mask(shape: str, size: str) -> Image.Image:
    """Coverage of a cell by a shape, smooth-edged: `L` mode, 28 x 28."""
    from PIL import Image, ImageDraw

    scale = 8
    mask = Image.new("L", (CELL * scale, CELL * scale))
    pen = ImageDraw.Draw(mask)
    middle, radius = CELL * scale / 2, _DIAMETER[size] * scale / 2
    outline = [(middle + x * radius, middle + y * radius) for x, y in _outline(shape)]
    pen.polygon(outline, fill=255)
    return mask.resize((CELL, CELL), Image.Resampling.BOX)


def _outline(shape: str) -> list[tuple[float, float]]:
    """Corners of a shape in the square from -1 to 1, y pointing down."""
    if shape == "circle":
        return [(math.cos(a), math.sin(a)) for a in (2 * math.pi * i / 48 for i in range(48))]
    if shape == "square":
        return [(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)]
    if shape == "diamond":
        return [(0, -1), (0.75, 0), (0, 1), (-0.75, 0)]
    if shape == "triangle":
        return [(0, -0.9), (1, 0.85), (-1, 0.85)]
    if shape == "star":
        corners = [(math.pi * i / 5 - math.pi / 2, 1.0 if i % 2 == 0 else 0.4) for i in range(10)]
        return [(r * math.cos(a), r * math.sin(a)) for a, r in corners]
    # A heart: x = 16 sin^3 t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t, scaled into the square.
    points = []
    for t in (2 * math.pi * i / 48 for i in range(48)):
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((math.sin(t) ** 3, -(y + 2.5) / 15))
    return points
