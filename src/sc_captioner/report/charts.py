"""Learning curves as inline SVG, so that they follow the page's colours and need no file beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from html import escape


Point = tuple[float, float]

_WIDTH, _HEIGHT = 460, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 30
_COLORS = 6
# More points than this under one curve cannot be told apart with a pointer.
_HOVERED_POINTS = 60


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart: a title and the logged values it shows.

    Args:
        title (`str`): Heading of the chart.
        keys (`tuple[str, ...]`):
            Names in the log, in the form of shell patterns, e.g. `"*_turn/kl"`; one that begins with `"!"` takes out
            again what it matches.
        note (`str`): What a reader should know, one sentence.
    """

    title: str
    keys: tuple[str, ...]
    note: str = ""


PANELS = (
    Panel("Reward", ("reward",), "Mean over the captions of a step; higher is better."),
    Panel(
        "Parts of the reward",
        ("reward_parts/*", "!reward_parts/total", "!reward_parts/unchanged"),
        "What the reward is made of, mean over the captions of a step.",
    ),
    Panel(
        "KL to the model before training",
        ("kl", "first_turn/kl", "second_turn/kl"),
        "How far the policy has moved, per token.",
    ),
    Panel("Unchanged captions", ("*_turn/unchanged_ratio",), "Share of corrections that repeat the first caption."),
    Panel("Length", ("*_turn/mean_length",), "Tokens per caption."),
    Panel("Cut off", ("*_turn/clipped_ratio",), "Share of captions that reached the longest length allowed."),
)


def curves(log_history: Iterable[Mapping[str, object]], keys: Sequence[str]) -> dict[str, list[Point]]:
    """The logged values that match `keys`, as `{name: [(step, value), ...]}`; what is no finite number is left out.

    Args:
        log_history (`Iterable[Mapping]`): Entries with `step`, as in `trainer.state.log_history`.
        keys (`Sequence[str]`): Shell patterns, see [`Panel`].
    """
    wanted, unwanted = [key for key in keys if key[0] != "!"], [key[1:] for key in keys if key[0] == "!"]
    found: dict[str, list[Point]] = {}
    for entry in log_history:
        step = entry.get("step")
        if not _is_number(step):
            continue
        for name, value in entry.items():
            if _is_number(value) and _matches(name, wanted) and not _matches(name, unwanted):
                found.setdefault(name, []).append((float(step), float(value)))  # type: ignore[arg-type]
    return found


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def line_chart(title: str, series: Mapping[str, Sequence[Point]], note: str = "") -> str:
    """A figure with one line per series, the moving mean drawn over the values where there are many.

    Args:
        title (`str`): Heading.
        series (`Mapping[str, Sequence[tuple[float, float]]]`): Step and value, finite, in order of steps.
        note (`str`): Sentence under the heading.
    """
    points = [point for line in series.values() for point in line]
    if not points:
        return ""
    x_ticks, y_ticks = _ticks([x for x, _ in points], whole=True), _ticks([y for _, y in points])
    x_range, y_range = (min(x for x, _ in points), max(x for x, _ in points)), (y_ticks[0], y_ticks[-1])

    def at(point: Point) -> Point:
        return (
            _LEFT + _share(point[0], x_range) * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - _share(point[1], y_range) * (_HEIGHT - _TOP - _BOTTOM),
        )

    body = [_y_tick(at((x_range[0], tick))[1], tick) for tick in y_ticks]
    body += [_x_tick(at((tick, y_range[0]))[0], tick) for tick in x_ticks if x_range[0] <= tick <= x_range[1]]
    labelled = dict(zip(_labels(list(series)), series.values()))
    body += [_line(label, line, index % _COLORS, at) for index, (label, line) in enumerate(labelled.items())]
    legend = "".join(
        f'<li><span class="key c{i % _COLORS}"></span>{escape(label)}</li>' for i, label in enumerate(labelled)
    )
    return (
        f'<figure class="chart"><figcaption><h3>{escape(title)}</h3><p>{escape(note)}</p></figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(_in_words(title, labelled))}">'
        f"{''.join(body)}"
        f'<text class="tick" x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 2}" text-anchor="end">step</text></svg>'
        f'<ul class="legend">{legend}</ul></figure>'
    )


def interval(mean: float, error: float, span: float) -> str:
    """A small drawing of `mean` with two standard errors to each side, on an axis from `-span` to `span`.

    Args:
        mean (`float`): What to draw.
        error (`float`): Its standard error.
        span (`float`): Half the width of the axis, above 0.
    """
    width, height = 180, 18

    def at(value: float) -> float:
        return width * _share(max(-span, min(span, value)), (-span, span))

    low, high = at(mean - 2 * error), at(mean + 2 * error)
    return (
        f'<svg class="interval" viewBox="0 0 {width} {height}" aria-hidden="true">'
        f'<line class="zero" x1="{at(0):.1f}" x2="{at(0):.1f}" y1="0" y2="{height}"/>'
        f'<line class="bar" x1="{low:.1f}" x2="{high:.1f}" y1="{height / 2}" y2="{height / 2}"/>'
        f'<circle cx="{at(mean):.1f}" cy="{height / 2}" r="4"/></svg>'
    )


def _line(label: str, line: Sequence[Point], color: int, at) -> str:
    smooth = _moving_mean(line)
    parts = []
    if smooth != list(line):
        parts.append(f'<path class="raw c{color}" d="{_path(line, at)}"/>')
    parts.append(f'<path class="mean c{color}" d="{_path(smooth, at)}"/>')
    stride = max(1, math.ceil(len(line) / _HOVERED_POINTS))
    for step, value in line[::stride]:
        x, y = at((step, value))
        # A single value has no line; it is shown as a dot.
        seen = "dot" if len(line) == 1 else "hover"
        hint = f"{label}, step {step:g}: {value:.4g}"
        parts.append(
            f'<circle class="{seen} c{color}" cx="{x:.1f}" cy="{y:.1f}" r="5"><title>{escape(hint)}</title></circle>'
        )
    return "".join(parts)


def _path(line: Sequence[Point], at) -> str:
    return "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in map(at, line))


def _moving_mean(line: Sequence[Point]) -> list[Point]:
    """Centred mean over about a tenth of the line, less at its ends; short lines stay as they are."""
    half = len(line) // 20
    smooth = []
    for index, (step, _) in enumerate(line):
        window = line[max(0, index - half) : index + half + 1]
        smooth.append((step, sum(value for _, value in window) / len(window)))
    return smooth


def _ticks(values: Sequence[float], whole: bool = False) -> list[float]:
    """About five round numbers that enclose `values`."""
    low, high = min(values), max(values)
    largest, nothing = max(abs(low), abs(high)), 1e-300  # below it, quarters of a float are no numbers any more
    if high - low <= max(1e-9 * largest, nothing):
        low, high = (low - abs(low) * 0.1, high + abs(high) * 0.1) if largest > nothing else (0.0, 1.0)
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    size = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    if whole:
        size = max(1.0, round(size))
    first, last = math.floor(low / size), math.ceil(high / size)
    return [index * size for index in range(first, last + 1)]


def _y_tick(y: float, value: float) -> str:
    return (
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>'
    )


def _x_tick(x: float, value: float) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 15}" text-anchor="middle">{value:g}</text>'


def _share(value: float, limits: tuple[float, float]) -> float:
    low, high = limits
    return 0.5 if high == low else (value - low) / (high - low)


def _labels(names: Sequence[str]) -> list[str]:
    """Names for people; what all of several names share, as in `first_turn/kl` and `second_turn/kl`, is left out."""
    parts = [name.split("/") for name in names]
    shared = set.intersection(*map(set, parts)) if len(names) > 1 else set()
    kept = [[part for part in split if part not in shared] or split for split in parts]
    return [": ".join(split).replace("_", " ") for split in kept]


def _in_words(title: str, series: Mapping[str, Sequence[Point]]) -> str:
    said = [
        f"{label} from {line[0][1]:.3g} at step {line[0][0]:g} to {line[-1][1]:.3g} at step {line[-1][0]:g}"
        for label, line in series.items()
        if line
    ]
    return f"{title}: {'; '.join(said)}."


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
