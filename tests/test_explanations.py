"""Reports of corrections: what captions share, who decided, pages that a browser can filter, sort and open."""

from __future__ import annotations

import json
import re

import pytest
from chromium import browser  # noqa: F401
from html_page import Page
from PIL import Image

from sc_captioner import CorrectionReward
from sc_captioner.data import build_scenes
from sc_captioner.evaluation import scores_of_turns
from sc_captioner.report import Example, explanation_html, report_html, run_report, write_run_report
from sc_captioner.report.elements import compared, marked_graphs
from sc_captioner.report.explanations import explained
from sc_captioner.rewards.revision import Facts


FIRST = "A small green star is above a big black circle. A red heart."
SECOND = "A big green star is above a big black circle. A dog."
REFERENCE = "A big green star is above a big black circle. A small heart is below the circle."
HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'> a \"dog\" & a cat"


@pytest.fixture(scope="module")
def reward() -> CorrectionReward:
    return CorrectionReward()


def row(first: str = FIRST, second: str = SECOND, reference: str = REFERENCE, **more) -> dict:
    return {"predict": first, "predict_turn2": second, "label": reference, **more}


def rows_of_json(path, name: str) -> list:
    found = re.findall(rf'<script type="application/json" class="{name}">(.*?)</script>', path.read_text())
    return [entry for text in found for entry in json.loads(text)]


# --- Elements --------------------------------------------------------------------------------------------------------


def facts(objects: str, attributes: dict[str, str], relations: list[tuple[str, str, str]]) -> Facts:
    split = {head: frozenset(values.split()) for head, values in attributes.items()}
    return Facts(frozenset(objects.split()), split, frozenset(relations), "")


def test_captions_share_what_the_reward_takes_for_the_same(reward):
    caption = facts("couch dog ball", {"couch": "red", "dog": "big"}, [("dog", "left of", "ball")])
    reference = facts("sofa dog tree", {"sofa": "red", "dog": "small"}, [("ball", "right of", "dog")])
    found = compared(caption, reference, reward.lexicon)
    assert found["objects"].matched == ((("couch",), ("sofa",)), (("dog",), ("dog",)))
    assert found["objects"].extra == (("ball",),) and found["objects"].missing == (("tree",),)
    assert found["attributes"].matched == ((("couch", "red"), ("sofa", "red")),)
    assert found["attributes"].extra == (("dog", "big"),) and found["attributes"].missing == (("dog", "small"),)
    assert found["relations"].matched == ((("dog", "left of", "ball"), ("ball", "right of", "dog")),)


def test_every_fact_of_the_reference_is_matched_once(reward):
    two, one = facts("couch sofa", {}, []), facts("sofa", {}, [])
    found = compared(two, one, reward.lexicon)["objects"]
    assert found.matched == ((("sofa",), ("sofa",)),) and found.extra == (("couch",),) and found.missing == ()


def test_graphs_are_marked_with_what_changed_and_what_is_right(reward):
    elements, graphs = marked_graphs(reward.explain(FIRST, SECOND, REFERENCE).triple, reward.lexicon)
    first, second, reference = (graphs[name].marks for name in ("first", "second", "reference"))
    assert first["star", "small"] == ("−✗", "miss") and first["heart",] == ("−✓", "hit")
    assert second["star", "big"] == ("+✓", "hit") and second["dog",] == ("+✗", "miss")
    assert second["star", "above", "circle"] == ("✓", "hit")
    assert reference["heart",] == ("○", "miss") and reference["circle",] == ("✓", "hit")
    assert [entity.head for entity in graphs["second"].graph.entities] == ["star", "circle", "dog"]
    assert elements["objects"].extra == (("dog",),) and elements["objects"].missing == (("heart",),)


def test_every_change_is_judged(reward):
    judged = reward.explain(FIRST, SECOND, REFERENCE).judged
    right = {("added", ("star", "big")): True, ("removed", ("star", "small")): True}
    right |= {("added", ("dog",)): False, ("removed", ("heart",)): False}
    assert {change: judgement.right for change, judgement in judged.items()} == right
    assert judged["added", ("star", "big")].similarity == judged["removed", ("heart",)].similarity == 1.0
    assert CorrectionReward("released").explain(FIRST, SECOND, REFERENCE).judged == {}


# --- Samples ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("second", "outcome", "part"),
    [
        (SECOND, "worsened", "objects"),
        (FIRST, "unchanged", "unchanged"),
        (REFERENCE, "improved", "relations"),
        ("A small green star is above a big black circle, and there is a red heart.", "unchanged", "unchanged"),
        (
            FIRST + " There is a dog, as it were, and altogether really, truly and so very nicely." * 2,
            "worsened",
            "length",
        ),
    ],
)
def test_outcome_and_the_part_that_decided(reward, second, outcome, part):
    [sample] = explained(reward, [row(second=second)])
    parts = sample.why.parts
    assert (sample.outcome, sample.decided_by) == (outcome, part), parts
    if outcome != "unchanged":
        assert max(map(abs, parts.values())) == abs(parts[part]) and (sample.why.total > 0) == (outcome == "improved")


def test_numbers_of_a_run_are_those_of_reward_and_metrics(reward, tmp_path):
    rows = [row(), row(second=REFERENCE), row(second=FIRST), row(first="A cat sleeps.", second="A black cat sleeps.")]
    summary = write_run_report(tmp_path / "new" / "run.html", rows, reward)
    table = rows_of_json(tmp_path / "new" / "run.html", "rows")
    parts = reward.parts_of(*[[r[name] for r in rows] for name in ("predict", "predict_turn2", "label")])
    scores = scores_of_turns(rows, parser=reward.parser, encoder=reward.encoder, metrics=("facts", "capture"))
    columns = [column["label"] for column in rows_of_json(tmp_path / "new" / "run.html", "columns")]
    assert columns[:6] == ["reward", "objects", "attributes", "relations", "mistakes", "length"]
    for index, (shown, expected) in enumerate(zip(table, parts)):
        values = dict(zip(columns, shown["values"]))
        assert values["reward"] == pytest.approx(expected["total"], abs=1e-4)
        assert values["mistakes"] == pytest.approx(expected["mistakes"], abs=1e-4)
        for name, label in (("mean_f1", "Mean F1"), ("relations_f1", "Relations F1"), ("capture", "CAPTURE")):
            first, second = (scores[turn].per_sample[name][index] for turn in ("first", "second"))
            told = [values[f"{label}, {turn}"] for turn in ("first", "corrected", "change")]
            assert told == pytest.approx([first, second, second - first], abs=1e-4)
    assert summary.outcomes == {"worsened": 1, "improved": 1, "unchanged": 1, "neither": 1}
    assert summary.mean_reward == pytest.approx(sum(p["total"] for p in parts) / 4)
    assert summary.means()["capture"][1] == pytest.approx(scores["second"].summary()["capture"])
    json.dumps(summary.to_dict())


def test_one_correction_has_a_page_without_scripts(reward):
    html = explanation_html(reward, FIRST, SECOND, REFERENCE, image=Image.new("RGB", (700, 90), "red"))
    page = Page(html)
    assert "script" not in [tag for tag, _ in page.tags]
    assert [attributes["src"][:11] for tag, attributes in page.tags if tag == "img"] == ["data:image/"]
    drawings = [attributes for tag, attributes in page.tags if tag == "svg" and attributes.get("role") == "img"]
    assert [drawing["aria-label"].split(":")[0] for drawing in drawings] == [
        "First caption", "Corrected caption", "Reference",
    ]  # fmt: skip
    why = reward.explain(FIRST, SECOND, REFERENCE)
    assert page.cells[page.cells.index("Reward") + 1] == f"{why.total:+.3f}"
    assert "<del>small</del>" in html and "<ins>big</ins>" in html
    assert Page(explanation_html(CorrectionReward("released"), FIRST, SECOND, REFERENCE)).cells


# --- Files -----------------------------------------------------------------------------------------------------------


def test_samples_that_cannot_be_scored_are_listed(reward, tmp_path):
    summary = write_run_report(tmp_path / "run.html", [row(second=None, id="a"), row(id="b")], reward)  # type: ignore
    assert summary.outcomes == {"failed": 1, "worsened": 1}
    assert summary.errors == [("a", "TypeError: second_caption is no string: None")]
    assert [shown["outcome"] for shown in rows_of_json(tmp_path / "run.html", "rows")] == ["failed", "worsened"]


def test_a_run_that_breaks_off_leaves_an_earlier_report_as_it_was(reward, tmp_path):
    (tmp_path / "run.html").write_text("earlier")

    def broken():
        yield from [row()] * 40
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="disk"):
        write_run_report(tmp_path / "run.html", broken(), reward)
    assert [path.name for path in tmp_path.iterdir()] == ["run.html"] and (
        tmp_path / "run.html"
    ).read_text() == "earlier"


def test_pictures_go_in_until_there_are_enough(reward, tmp_path, monkeypatch):
    noise = Image.effect_noise((400, 300), 100)
    asked: list[int] = []

    def image_of(place, row):
        asked.append(place)
        return None if place == 0 else noise

    monkeypatch.setattr(run_report, "_MOST_PICTURES", 40_000)
    summary = write_run_report(tmp_path / "run.html", [row()] * 8, reward, image_of=image_of)
    size = len(run_report.data_uri(noise, longest_side=256))
    assert summary.pictures == -(-40_000 // size) < 7 and asked == list(range(summary.pictures + 1))


# --- In a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_rows() -> list[dict]:
    """Drawn scenes with corrections that are right, wrong, or none, and one whose texts would run as scripts."""
    references = [entry["reference"] for entry in build_scenes(120, seed=5, split="test")]
    rows = [row(id=f"scene-{i}", first=text, second=text, reference=text) for i, text in enumerate(references)]
    for i in range(0, 120, 3):
        rows[i]["predict"] = "A dog."
    for i in range(1, 120, 3):
        rows[i]["predict_turn2"] = "A dog."
    rows[7] = row(id="hostile " + HOSTILE, first=HOSTILE, second=HOSTILE + " and a star", reference=HOSTILE)
    rows[8] = row(id="words", first=FIRST, second=SECOND, reference=REFERENCE)
    return rows


@pytest.fixture(scope="module")
def report(reward, run_rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "run.html"
    picture = Image.new("RGB", (60, 40), "blue")
    write_run_report(
        path, run_rows, reward, image_of=lambda place, row: picture if place == 8 else None, title=HOSTILE
    )
    return path


@pytest.fixture
def opened(browser):  # noqa: F811
    """Opens a file; at the end nothing was asked of a network, nothing complained and no text ran as a script."""
    context = browser.new_context(offline=True, viewport={"width": 1400, "height": 1000})
    page = context.new_page()
    asked, complaints, files = [], [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))

    def open_file(path):
        files.append(path.as_uri())
        page.goto(path.as_uri())
        return page

    yield open_file
    assert page.evaluate("window.hacked") is None
    context.close()
    assert complaints == []
    assert [url for url in asked if not url.startswith("data:image/")] == files


@pytest.fixture
def page(opened, report):
    return opened(report)


def names(page) -> list[str]:
    return page.locator("#body .open").all_text_contents()


def cells(page, column: int) -> list[str]:
    return page.locator(f"#body tr > :nth-child({column})").all_text_contents()


def test_a_browser_filters_and_pages(page, run_rows):
    assert names(page) == [row["id"] for row in run_rows[:50]]
    assert page.locator("#count").text_content() == "120 of 120 corrections"
    page.click("#next")
    page.click("#next")
    assert names(page) == [row["id"] for row in run_rows[100:]] and page.locator("#next").is_disabled()
    page.select_option("#outcome", "unchanged")
    unchanged = [row["id"] for row in run_rows if row["predict"] == row["predict_turn2"]]
    assert names(page) == unchanged and set(cells(page, 3)) == {"= unchanged"}
    page.select_option("#outcome", "worsened")
    page.select_option("#part", "objects")
    assert names(page) and set(cells(page, 3)) == {"▼ worsened"} and set(cells(page, 5)) == {"objects"}
    page.get_by_role("button", name="Reset").click()
    page.get_by_label("Text").fill("GREEN  words")
    assert names(page) == ["words"] and page.locator("#count").text_content() == "1 of 120 corrections"
    page.get_by_label("Text").fill("green words giraffe")
    assert names(page) == []


def test_a_browser_sorts_by_reward_part_and_score(page, reward, run_rows):
    parts = reward.parts_of(*[[r[name] for r in run_rows] for name in ("predict", "predict_turn2", "label")])
    page.get_by_role("columnheader", name="reward").get_by_role("button").click()
    shown = [float(text.replace("−", "-")) for text in cells(page, 4)]
    assert shown == pytest.approx(sorted((p["total"] for p in parts), reverse=True)[:50], abs=6e-4)
    page.get_by_role("columnheader", name="reward").get_by_role("button").click()
    assert page.locator("th[aria-sort=ascending]").text_content() == "reward"
    shown = [float(text.replace("−", "-")) for text in cells(page, 4)]
    assert shown == pytest.approx(sorted(p["total"] for p in parts)[:50], abs=6e-4)
    page.select_option("#sort", label="mistakes")
    shown = [float(text.replace("−", "-")) for text in cells(page, 9)]
    assert shown == pytest.approx(sorted((p["mistakes"] for p in parts), reverse=True)[:50], abs=6e-4)
    page.select_option("#sort", label="Objects F1, first")
    page.click("#direction")
    scores = scores_of_turns(run_rows, parser=reward.parser)["first"].per_sample["objects_f1"]
    lowest = sorted(range(120), key=lambda i: scores[i])[:50]  # equal ones in the order of the run
    assert names(page) == [run_rows[i]["id"] for i in lowest]


def test_a_browser_opens_a_sample_by_keyboard_and_shows_what_changed(page):
    page.get_by_label("Text").fill("words")
    page.locator(".open").focus()
    page.keyboard.press("Enter")
    card = page.locator("article.example")
    card.wait_for()
    assert page.locator(".open").get_attribute("aria-expanded") == "true"
    assert card.locator("del").all_text_contents() == ["small", "red heart"]
    assert card.locator("ins").all_text_contents() == ["big", "dog"]
    assert card.locator(".changes .right").all_text_contents() == ["✓ big star", "✓ small star"]
    assert card.locator(".changes .wrong").all_text_contents() == ["✗ dog", "✗ heart"]
    assert card.locator("svg.graph").nth(1).locator("text").all_text_contents() == [
        "✓ star", "+✓ big", "✓ green", "✓ circle", "✓ big", "✓ black", "+✗ dog", "✓ above",
    ]  # fmt: skip
    assert card.locator("img").evaluate("image => image.naturalWidth") == 60
    page.keyboard.press("Enter")
    assert card.count() == 0


def test_texts_of_a_model_do_not_run(page):
    assert HOSTILE in page.locator("h1").text_content()
    page.get_by_label("Text").fill("hostile")
    assert names(page) == ["hostile " + HOSTILE]
    page.locator(".open").click()
    page.locator("article.example").wait_for()
    assert HOSTILE in page.locator("article.example p").first.text_content()
    assert page.locator("article script, article img").count() == 0


def test_the_page_follows_the_readers_colours_and_width(page):
    def background() -> str:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    page.emulate_media(color_scheme="light")
    light = background()
    page.emulate_media(color_scheme="dark")
    assert background() != light
    page.set_viewport_size({"width": 400, "height": 800})
    page.locator(".open").first.click()
    card = page.locator("article.example")
    card.wait_for()
    assert card.evaluate("card => card.getBoundingClientRect().width") <= 400
    assert page.evaluate("document.documentElement.scrollWidth") <= 400  # only the table scrolls sideways


def test_pages_without_scripts_show_everything(opened, reward, tmp_path):
    picture = Image.new("RGB", (60, 40), "blue")
    path = tmp_path / "why.html"
    path.write_text(explanation_html(reward, HOSTILE, SECOND, REFERENCE, image=picture, title=HOSTILE))
    page = opened(path)
    assert page.locator("svg.graph").count() == 3 and page.locator("h1").text_content() == HOSTILE
    assert page.locator("img").evaluate("image => image.naturalWidth") == 60
    example = Example(picture, HOSTILE, SECOND, REFERENCE, reward.explain(HOSTILE, SECOND, REFERENCE).revision, {})
    path.write_text(report_html({"after": {"second": {"mean_f1": 0.5, "n": 3}}}, examples=[example], title=HOSTILE))
    assert opened(path).locator("ins").last.text_content()
