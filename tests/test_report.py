"""The report page says what its data says, marks what changed, and needs nothing but itself."""

from __future__ import annotations

import base64
import io
import math
import re
from html import unescape

import hypothesis
import numpy as np
import pytest
from html_page import Page
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from sc_captioner.report import Example, PairedDifference, Panel, report_html
from sc_captioner.report.charts import curves, line_chart
from sc_captioner.report.examples import data_uri, marked_changes
from sc_captioner.scene_graph.graph import Revision, SceneGraph


def scores(objects: float, broken: float) -> dict:
    values = {"objects_f1": objects, "attributes_f1": 0.7, "relations_f1": 0.3, "mean_f1": (objects + 1.0) / 3}
    return values | {"broken_grammar": broken, "n": 512, "standard_errors": {"objects_f1": 0.0123}}


RESULTS = {
    "before": {"first": scores(0.86, 0.0), "second": scores(0.85, 0.01)},
    "after": {"first": scores(0.87, 0.002), "second": scores(0.956, 0.02)},
}
REVISION = Revision(
    added_objects=frozenset({"star"}),
    removed_objects=frozenset({"dog"}),
    added_attributes={"star": frozenset({"red"})},
    added_relations=frozenset({("star", "above", "circle")}),
)
LOG = [{"step": s, "reward": s / 10, "first_turn/kl": 0.1, "loss": math.nan} for s in range(1, 31)] + [
    {"step": 30, "train_runtime": 12.0}
]


def example(**changes) -> Example:
    values = {
        "image": Image.new("RGB", (84, 84), "red"),
        "first_caption": "A dog and a circle.",
        "second_caption": "A red star above a circle.",
        "reference": "A red star.",
        "revision": REVISION,
        "parts": {"objects": 0.25, "mistakes": -0.5, "unchanged": 0.0, "total": -0.125},
        "reference_graph": SceneGraph.from_facts("( star , is , red )"),
    }
    return Example(**(values | changes))


def test_the_page_loads_nothing_and_is_well_formed():
    page = Page(report_html(RESULTS, LOG, [example()], facts={"Seed": 0}))
    names = [tag for tag, _ in page.tags]
    assert not {"script", "link", "iframe"} & set(names)
    addresses = [value for _, attrs in page.tags for key, value in attrs.items() if key in ("src", "href", "srcset")]
    assert addresses and all(address.startswith("data:image/") for address in addresses)
    style = re.search(r"<style>(.*?)</style>", report_html(RESULTS), re.S).group(1)
    assert "url(" not in style and "@import" not in style and "prefers-color-scheme: dark" in style
    assert ("html", {"lang": "en"}) in page.tags


def test_pictures_and_charts_say_what_they_show():
    page = Page(report_html(RESULTS, LOG, [example()]))
    assert all(attrs.get("alt") for tag, attrs in page.tags if tag == "img")
    drawings = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert all(attrs.get("aria-label") or attrs.get("aria-hidden") == "true" for attrs in drawings)
    assert "Reward: reward from 0.1 at step 1 to 3 at step 30." in [attrs.get("aria-label") for attrs in drawings]


def test_the_table_holds_the_results_and_marks_the_best():
    html = report_html(RESULTS, differences=[PairedDifference("after against before", 0.1, 0.02, 512)])
    cells = Page(html).cells
    row = cells.index("After training, corrected caption")
    assert cells[row + 1 : row + 7] == ["0.956 ± 0.012", "0.700", "0.300", "0.652", "2.0%", "512"]
    best = re.findall(r'<td class="best">([\d.%]+)', html)
    assert best == ["0.0%", "0.956", "0.652"]  # equal columns have no best one; grammar is best where least is broken
    row = cells.index("after against before")
    assert cells[row + 1] == "+0.100 ± 0.020" and cells[row + 3] == "clear"


def test_a_run_without_a_stage_or_a_log_or_examples_has_a_page():
    page = report_html({"after": {"second": {"objects_f1": 0.5, "n": 3}}})
    assert "0.500" in page and "Learning curves" not in page and "Examples" not in page
    Page(page)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=40))
def test_paired_differences_are_those_of_scipy(pairs):
    scored, baseline = (np.array(side) for side in zip(*pairs))
    difference = PairedDifference.of("x", scored.tolist(), baseline.tolist())
    assert difference.mean == pytest.approx(np.mean(scored - baseline), abs=1e-12)
    assert difference.standard_error == pytest.approx(stats.sem(scored - baseline), abs=1e-12)


def test_scores_that_cannot_be_paired_are_refused():
    for scored, baseline in (([1.0], [1.0]), ([1.0, 2.0], [1.0])):
        with pytest.raises(ValueError, match="after: .* cannot be paired"):
            PairedDifference.of("after", scored, baseline)


def test_changed_words_are_marked():
    assert marked_changes("A large red star.", "A small red star and a dog.") == (
        "A <del>large</del> <ins>small</ins> red star <ins>and a dog</ins>."
    )
    first, second = "A large  red star.", "A small red star and a dog."
    assert marked_changes(first, second, added=False) == "A <del>large</del>  red star."
    assert marked_changes(first, second, removed=False) == "A <ins>small</ins> red star <ins>and a dog</ins>."
    assert marked_changes("", "A dog.") == "<ins>A dog.</ins>"
    assert marked_changes("A dog.", "") == "<del>A dog.</del>"
    assert marked_changes("A dog.", "A dog.") == "A dog."


words = st.lists(st.sampled_from(["a ", "dog ", "red", "<b>", "&amp;", ". ", "\n", "é", "🐕", " "]), max_size=30).map(
    "".join
)


@given(words, words)
def test_marked_text_holds_both_captions(first, second):
    html = marked_changes(first, second)
    Page(html)

    def text(dropped: str) -> str:
        without = re.sub(rf"<{dropped}>.*?</{dropped}>", " ", html, flags=re.S)
        return "".join(unescape(re.sub(r"</?(?:ins|del)>", "", without)).split())

    assert text("del") == "".join(second.split())
    assert text("ins") == "".join(first.split())
    for shown, sides in ((first, {"added": False}), (second, {"removed": False})):
        one = marked_changes(first, second, **sides)
        assert "".join(unescape(re.sub(r"</?(?:ins|del)>", "", one)).split()) == "".join(shown.split())


def test_texts_of_a_model_cannot_become_markup():
    hostile = "<script>alert(1)</script> \"quoted\" & 'single'"
    revision = Revision(added_objects=frozenset({hostile}))
    card = example(
        first_caption=hostile, second_caption="x " + hostile, reference=hostile, revision=revision, title=hostile
    )
    differences = [PairedDifference(hostile, 0.0, 0.0, 2)]
    page = report_html(RESULTS, [{"step": 1, hostile: 1.0}], [card], differences=differences, facts={hostile: hostile},
                       title=hostile, panels=[Panel(hostile, ("*",))])  # fmt: skip
    assert "script" not in [tag for tag, _ in Page(page).tags] and "<script" not in page


def test_changes_are_judged_by_the_reference():
    html = report_html(RESULTS, examples=[example()])
    chips = re.findall(r'<span class="chip (\w+)".*?</span> (.*?)</span>', html)
    assert chips == [("right", "star"), ("right", "red star"), ("wrong", "star above circle"), ("right", "dog")]
    cells = Page(html).cells
    assert cells[cells.index("mistakes") + 1] == "-0.500" and cells[cells.index("Reward") + 1] == "-0.125"
    assert "unchanged" not in cells
    plain = report_html(RESULTS, examples=[example(reference_graph=None, second_caption="A dog and a circle.")])
    assert "✓" not in plain and "The first caption, unchanged." in plain


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK", "1"])
def test_pictures_travel_inside_the_page(mode):
    head, data = data_uri(Image.linear_gradient("L").resize((900, 300)).convert(mode)).split(",")
    decoded = Image.open(io.BytesIO(base64.b64decode(data)))
    assert decoded.size == (512, 171) and decoded.format.lower() in head
    flat = Image.new("RGB", (84, 84), (12, 200, 7))
    decoded = Image.open(io.BytesIO(base64.b64decode(data_uri(flat).split(",")[1])))
    assert decoded.convert("RGB").getpixel((40, 40)) == (12, 200, 7)


def test_curves_are_picked_by_name_and_hold_finite_numbers_only():
    found = curves([*LOG, {"step": 31, "first_turn/kl": math.inf, "second_turn/kl": True}], ("*_turn/kl", "loss"))
    assert (
        list(found) == ["first_turn/kl"]
        and found["first_turn/kl"][0] == (1.0, 0.1)
        and len(found["first_turn/kl"]) == 30
    )
    assert curves([{"step": 1, "a/b": 1, "a/c": 2}], ("a/*", "!*/c")) == {"a/b": [(1.0, 1.0)]}


def test_what_all_names_of_a_chart_share_is_left_out_of_its_legend():
    def legend(*names: str) -> list[str]:
        html = line_chart("x", {name: [(1.0, 0.0), (2.0, 1.0)] for name in names})
        return re.findall(r"</span>([^<]*)</li>", html)

    assert legend("first_turn/kl", "second_turn/kl") == ["first turn", "second turn"]
    assert legend("reward_parts/objects", "reward_parts/mistakes") == ["objects", "mistakes"]
    assert legend("second_turn/unchanged_ratio") == ["second turn: unchanged ratio"]


@given(
    st.lists(st.floats(-1e12, 1e12) | st.floats(-1e-9, 1e-9), min_size=1, max_size=80),
    st.integers(1, 10**6),
)
@hypothesis.example([5e-324], 1)
@hypothesis.example([0.0, -5e-324], 1)
def test_every_line_stays_inside_its_chart(values, stride):
    html = line_chart("Reward", {"reward": [(float(i * stride), v) for i, v in enumerate(values)]})
    Page(html)
    numbers = [float(n) for path in re.findall(r' d="M([^"]*)"', html) for n in re.findall(r"-?[\d.]+", path)]
    assert "nan" not in html and numbers
    assert all(0 <= x <= 460 for x in numbers[::2]) and all(0 <= y <= 240 for y in numbers[1::2])
