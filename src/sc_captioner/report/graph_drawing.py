"""Scene graphs as inline SVG: objects in layers below each other, what is said of an object in its box."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import NamedTuple

from ..scene_graph.graph import SceneGraph


# Of one term an object, of two an attribute (head, value), of three a relation.
Fact = tuple[str, ...]
Point = tuple[float, float]
Edge = tuple[str, str]
# What takes room in a layer: an object, or an edge that passes through it (subject, object, layer).
Slot = str | tuple[str, str, int]

_WIDTH = 440.0  # groups are set side by side up to here, so that text keeps its size where drawings stand in a row
_GAP, _LAYER_GAP, _MARGIN = 18.0, 54.0, 8.0
_LINE, _CHARACTER, _PADDING = 17.0, 7.3, 20.0
_BEND = 0.12  # sideways, as a share of an edge's length: edges there and back stay apart
_LABEL_PLACES = (0.5, 0.35, 0.65, 0.25, 0.75)


class Mark(NamedTuple):
    """How a fact is drawn: a sign before its words, and `hit`, `miss` or nothing as the style of its box or line."""

    sign: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of text: its centre and size, in pixels, and its lines with their styles.

    Args:
        x, y (`float`): Centre, in pixels from the left and from the top.
        width, height (`float`): Size in pixels.
        lines (`tuple[tuple[str, str], ...]`, *optional*): Text and style (`hit`, `miss` or nothing) of every line.
    """

    x: float
    y: float
    width: float
    height: float
    lines: tuple[tuple[str, str], ...] = ()

    def edge_towards(self, other: Point) -> Point:
        """Where a line from the centre to `other` leaves the box; `other` where it lies inside.

        Args:
            other (`Point`): Where the line goes, in pixels.
        """
        dx, dy = other[0] - self.x, other[1] - self.y
        reach = max(abs(dx) / (self.width / 2), abs(dy) / (self.height / 2))
        return (self.x + dx / reach, self.y + dy / reach) if reach > 1 else other

    def touches(self, other: Box) -> bool:
        """Whether both share a point.

        Args:
            other ([`Box`]): The second box.
        """
        return abs(self.x - other.x) * 2 < self.width + other.width and (
            abs(self.y - other.y) * 2 < self.height + other.height
        )


@dataclass(frozen=True, slots=True)
class Layout:
    """Boxes by head, and the points that edges over several layers pass through on their way.

    Args:
        boxes (`dict[str, Box]`): By head, without overlap.
        ways (`dict[Edge, list[Point]]`): By subject and object head, in pixels from subject to object; empty where no
            layer lies between.
    """

    boxes: dict[str, Box]
    ways: dict[Edge, list[Point]]


def graph_svg(graph: SceneGraph, title: str, marks: Mapping[Fact, Mark] | None = None) -> str:
    """A drawing of `graph`; entities with the same head are one box.

    Args:
        graph ([`SceneGraph`]): What to draw.
        title (`str`): What it is, for those who do not see it; its facts are added.
        marks (`Mapping[tuple[str, ...], Mark]`, *optional*): By fact (`(head,)`, `(head, attribute)`, triple).
    """
    marks = marks or {}
    plan = layout(graph, marks)
    label = escape(f"{title}: {in_words(graph) or 'nothing'}.")
    taken, drawn = list(plan.boxes.values()), []
    for edge, predicates in _edges(graph).items():
        found = [(predicate, marks.get((edge[0], predicate, edge[1]), Mark(""))) for predicate in predicates]
        path = _path(edge, plan)
        words = _label(path, tuple((_said(predicate, mark), mark.style) for predicate, mark in found), taken)
        taken.append(words)
        styles = {mark.style for _, mark in found}
        drawn.append(_line(path, styles.pop() if len(styles) == 1 else ""))
    width = max((box.x + box.width / 2 for box in taken), default=0) + _MARGIN
    height = max((box.y + box.height / 2 for box in taken), default=0) + _MARGIN
    shapes = [_shape(box, marks.get((head,), Mark(""))) for head, box in plan.boxes.items()]
    labels = [_text(box, "said") for box in taken[len(plan.boxes) :]]
    return (
        f'<svg class="graph" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" role="img" '
        f'aria-label="{label}">{"".join([*drawn, *shapes, *labels])}</svg>'
    )


def in_words(graph: SceneGraph) -> str:
    """The facts of a graph in a row: `star (big, green), circle; star above circle`.

    Args:
        graph ([`SceneGraph`]): Any graph, also an empty one.
    """
    attributes = graph.attributes
    heads = dict.fromkeys(entity.head for entity in graph.entities)
    things = [f"{head} ({', '.join(sorted(attributes[head]))})" if head in attributes else head for head in heads]
    return "; ".join([", ".join(things), *(" ".join(triple) for triple in sorted(graph.triples))])


def layout(graph: SceneGraph, marks: Mapping[Fact, Mark] | None = None) -> Layout:
    """Where everything goes; no two boxes touch.

    What hangs together by relations is laid out in layers, subjects above objects; such groups, and objects without a
    relation, are set side by side as long as there is room.

    Args:
        graph ([`SceneGraph`]): What to draw.
        marks (`Mapping[Fact, Mark]`, *optional*): As in [`graph_svg`]; signs widen boxes.
    """
    marks = marks or {}
    sizes: dict[Slot, Box] = {e.head: _box(e.head, graph, marks) for e in graph.entities}
    heads = [slot for slot in sizes if isinstance(slot, str)]
    edges = {edge: names for edge, names in _edges(graph).items() if edge[0] != edge[1]}
    placed: dict[Slot, Box] = {}
    left, top, bottom = _MARGIN, _MARGIN, _MARGIN
    for group in _groups(heads, list(edges)):
        own = {edge: names for edge, names in edges.items() if edge[0] in group}
        labels = {edge: _widest(names, edge, marks) for edge, names in own.items()}
        rows = _ordered_layers(group, list(own))
        sizes |= {
            slot: Box(0, 0, labels[slot[:2]], _LINE) for row in rows for slot in row if not isinstance(slot, str)
        }
        rows = [part for row in rows for part in _broken(row, sizes)]
        widths = [sum(sizes[slot].width + _GAP for slot in row) - _GAP for row in rows]
        whole = max(*widths, *labels.values(), 0.0)
        if left > _MARGIN and left + whole > _WIDTH:
            left, top = _MARGIN, bottom + _GAP
        y = top
        for row, width in zip(rows, widths):
            x, height = left + (whole - width) / 2, max(sizes[slot].height for slot in row)
            for slot in row:
                placed[slot] = replace(sizes[slot], x=x + sizes[slot].width / 2, y=y + height / 2)
                x += sizes[slot].width + _GAP
            y += height + _LAYER_GAP
        left, bottom = left + whole + _GAP, max(bottom, y - _LAYER_GAP)
    ways = {edge: _way(edge, placed) for edge in edges}
    return Layout({head: placed[head] for head in heads}, ways)


def _way(edge: Edge, placed: Mapping[Slot, Box]) -> list[Point]:
    passed = [box for slot, box in placed.items() if not isinstance(slot, str) and slot[:2] == edge]
    upwards = placed[edge[0]].y > placed[edge[1]].y
    return sorted(((box.x, box.y) for box in passed), key=lambda point: point[1], reverse=upwards)


def layers(heads: Sequence[str], edges: Iterable[Edge]) -> dict[str, int]:
    """Layer of every head, 0 at the top: subjects above objects, except where a circle of relations forbids it.

    Args:
        heads (`Sequence[str]`): All heads.
        edges (`Iterable[Edge]`): Subject and object head of every relation.
    """
    below: dict[str, list[str]] = {head: [] for head in heads}
    for subject, target in edges:
        if not _reaches(below, target, subject):
            below[subject].append(target)
    depth = dict.fromkeys(heads, 0)
    for _ in heads:
        for subject, targets in below.items():
            for target in targets:
                depth[target] = max(depth[target], depth[subject] + 1)
    targets_of_others = {target for targets in below.values() for target in targets}
    for head in heads:  # a subject stands right above what it points at, not at the top of all
        if head not in targets_of_others and below[head]:
            depth[head] = min(depth[target] for target in below[head]) - 1
    return depth


def _reaches(below: Mapping[str, Sequence[str]], start: str, goal: str) -> bool:
    seen, rest = {start}, [start]
    while rest:
        head = rest.pop()
        if head == goal:
            return True
        new = [other for other in below[head] if other not in seen]
        seen.update(new)
        rest += new
    return False


def _edges(graph: SceneGraph) -> dict[Edge, list[str]]:
    """Predicates by subject and object head, in order of mention."""
    heads = [entity.head for entity in graph.entities]
    edges: dict[Edge, list[str]] = {}
    for relation in graph.relations:
        predicates = edges.setdefault((heads[relation.subject], heads[relation.object]), [])
        if relation.relation not in predicates:
            predicates.append(relation.relation)
    return edges


def _groups(heads: Sequence[str], edges: Sequence[Edge]) -> list[list[str]]:
    """Heads that hang together by relations; the larger groups first."""
    neighbours: dict[str, list[str]] = {head: [] for head in heads}
    for subject, target in edges:
        neighbours[subject].append(target)
        neighbours[target].append(subject)
    groups: list[list[str]] = []
    for head in heads:
        if not any(head in group for group in groups):
            groups.append([other for other in heads if _reaches(neighbours, head, other)])
    return sorted(groups, key=len, reverse=True)


def _ordered_layers(group: Sequence[str], edges: Sequence[Edge]) -> list[list[Slot]]:
    """Layers from top to bottom, each in the order of what it is connected with in the layer above."""
    depth = layers(group, edges)
    slots: dict[Slot, int] = {head: depth[head] for head in group}
    links: list[tuple[Slot, Slot]] = []
    for edge in edges:
        upper, lower = sorted(edge, key=depth.__getitem__)
        chain: list[Slot] = [upper, *((*edge, level) for level in range(depth[upper] + 1, depth[lower])), lower]
        slots |= {slot: depth[upper] + place for place, slot in enumerate(chain) if not isinstance(slot, str)}
        links += zip(chain, chain[1:])
    ordered: list[list[Slot]] = []
    places: dict[Slot, float] = {}
    for level in sorted(set(slots.values())):
        above = {slot: [places[a] for a, b in links if b == slot] for slot, at in slots.items() if at == level}
        ordered.append(sorted(above, key=lambda slot: sum(above[slot]) / len(above[slot]) if above[slot] else 0.0))
        places |= {slot: (place + 0.5) / len(above) for place, slot in enumerate(ordered[-1])}
    return ordered


def _broken(layer: Sequence[Slot], sizes: Mapping[Slot, Box]) -> list[list[Slot]]:
    """A layer as rows of at most the width of the drawing."""
    rows: list[list[Slot]] = [[]]
    used = 0.0
    for slot in layer:
        if rows[-1] and used + sizes[slot].width > _WIDTH - _MARGIN:
            rows.append([])
            used = 0.0
        rows[-1].append(slot)
        used += sizes[slot].width + _GAP
    return rows


def _widest(predicates: Iterable[str], edge: Edge, marks: Mapping[Fact, Mark]) -> float:
    said = (_said(predicate, marks.get((edge[0], predicate, edge[1]))) for predicate in predicates)
    return max(map(len, said)) * _CHARACTER + _PADDING / 2


def _box(head: str, graph: SceneGraph, marks: Mapping[Fact, Mark]) -> Box:
    facts: list[Fact] = [(head,), *((head, value) for value in sorted(graph.attributes.get(head, ())))]
    lines = tuple((_said(fact[-1], marks.get(fact)), marks[fact].style if fact in marks else "") for fact in facts)
    width = max(len(text) for text, _ in lines) * _CHARACTER + _PADDING
    return Box(0, 0, width, len(lines) * _LINE + 10, lines)


def _said(words: str, mark: Mark | None) -> str:
    return f"{mark.sign} {words}" if mark is not None and mark.sign else words


def _shape(box: Box, mark: Mark) -> str:
    left, top = box.x - box.width / 2, box.y - box.height / 2
    return (
        f'<rect class="{_classes("node", mark.style)}" x="{left:.0f}" y="{top:.0f}" width="{box.width:.0f}" '
        f'height="{box.height:.0f}" rx="6"/>{_text(box, "head")}'
    )


def _text(box: Box, first: str) -> str:
    """The lines of a box, the first one in a style of its own."""
    top = box.y - (len(box.lines) - 1) * _LINE / 2 + 4
    return "".join(
        f'<text class="{_classes(first if number == 0 or first == "said" else "", style)}" x="{box.x:.0f}" '
        f'y="{top + number * _LINE:.0f}">{escape(words)}</text>'
        for number, (words, style) in enumerate(box.lines)
    )


def _path(edge: Edge, plan: Layout) -> list[Point]:
    """The points of an edge from border to border: through the layers between, else bent a little."""
    subject, target = (plan.boxes[end] for end in edge)
    if subject is target:  # out at the right side and back
        right = subject.x + subject.width / 2
        return [(right, subject.y - 6), (right + _MARGIN, subject.y), (right, subject.y + 6)]
    dx, dy = target.x - subject.x, target.y - subject.y
    bend = (subject.x + target.x) / 2 - _BEND * dy, (subject.y + target.y) / 2 + _BEND * dx
    way = plan.ways[edge] or [bend]
    return [subject.edge_towards(way[0]), *way, target.edge_towards(way[-1])]


def _along(path: Sequence[Point]) -> Iterator[Point]:
    """Places for words: the middle of the way first."""
    if len(path) > 3:
        yield from sorted(path[1:-1], key=lambda point: abs(point[1] - (path[0][1] + path[-1][1]) / 2))
    for share in _LABEL_PLACES:
        weights = ((1 - share) ** 2, 2 * share * (1 - share), share**2)
        ends = (path[0], path[len(path) // 2], path[-1])
        x, y = (sum(weight * point[axis] for weight, point in zip(weights, ends)) for axis in (0, 1))
        yield x, y


def _label(path: Sequence[Point], lines: tuple[tuple[str, str], ...], taken: Sequence[Box]) -> Box:
    """The words of an edge at the first place along it that nothing else has taken."""
    width = max(len(text) for text, _ in lines) * _CHARACTER * 0.9
    places = [Box(x, y, width, len(lines) * _LINE - 3, lines) for x, y in _along(path)]
    return next((box for box in places if not any(box.touches(other) for other in taken)), places[0])


def _line(path: Sequence[Point], style: str) -> str:
    # Quadratic curves through the middles between the points: smooth, and near enough to them.
    turns = [*zip(path[1:-1], path[2:-1])]
    middles = [((a[0] + b[0]) / 2, (a[1] + b[1]) / 2) for a, b in turns]
    curve = "".join(
        "Q{:.0f},{:.0f} {:.0f},{:.0f}".format(*via, *to) for via, to in zip(path[1:-1], [*middles, path[-1]])
    )
    angle = math.atan2(path[-1][1] - path[-2][1], path[-1][0] - path[-2][0])
    wings = [
        (path[-1][0] - 7 * math.cos(angle + turn), path[-1][1] - 7 * math.sin(angle + turn)) for turn in (0.45, -0.45)
    ]
    arrow = "M{:.0f},{:.0f}L{:.0f},{:.0f}L{:.0f},{:.0f}".format(*wings[0], *path[-1], *wings[1])
    return f'<path class="{_classes("edge", style)}" d="M{path[0][0]:.0f},{path[0][1]:.0f}{curve}{arrow}"/>'


def _classes(*names: str) -> str:
    return " ".join(name for name in names if name)
