"""The documentation: it builds without a warning, its links lead somewhere, its code runs, its quotations are true."""

from __future__ import annotations

import ast
import multiprocessing
import re
import urllib.parse
from concurrent.futures import ProcessPoolExecutor
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer
from doc_blocks import ROOT, blocks_of, check_command, check_names, commands_of, run_page

from sc_captioner.cli import app


DOCS = ROOT / "docs"
SOURCE = ROOT / "src" / "sc_captioner"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md")), *sorted((ROOT / "metrics").glob("*/README.md"))]
PAGES_WITH_PYTHON = [page for page in PAGES if any(block.language == "python" for block in blocks_of(page))]
OTHER_TEXTS = [ROOT / "CONTRIBUTING.md", *(page for page in PAGES if page not in PAGES_WITH_PYTHON)]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


# --- code blocks -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fresh_processes():
    """A process per page, each forked from one that has imported what takes long and done nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["datasets", "sentence_transformers", "trl.trainer.grpo_trainer"])
    with ProcessPoolExecutor(max_workers=1, mp_context=context, max_tasks_per_child=1) as pool:
        yield pool


@pytest.mark.parametrize("page", PAGES_WITH_PYTHON, ids=name_of)
def test_blocks_of_a_page_run(page, fresh_processes, tmp_path):
    fresh_processes.submit(run_page, page, tmp_path).result()


@pytest.mark.parametrize("page", OTHER_TEXTS, ids=name_of)
def test_commands_of_a_page_are_understood(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for block in blocks_of(page):
        for command in commands_of(block.code):
            check_command(command)


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.py")), ids=name_of)
def test_commands_in_the_help_of_a_recipe_are_understood(recipe, monkeypatch):
    monkeypatch.chdir(ROOT)
    told = ast.get_docstring(ast.parse(recipe.read_text(encoding="utf-8"))) or ""
    shown = "\n".join(line for line in told.splitlines() if line.startswith("    "))
    commands = list(commands_of(shown))
    assert commands
    for command in commands:
        check_command(command)


@pytest.mark.parametrize(
    "command",
    [
        "sc-captioner caption photo.jpg --modle x",
        "sc-captioner captoin photo.jpg",
        "python recipes/sc.py --config recipes/scenes/sc.yaml --learning_rota 1",
        "python recipes/nowhere.py",
        "accelerate launch --config_file nowhere.yaml recipes/sc.py --config recipes/scenes/sc.yaml",
        "make coffee",
        "pip install -e '.[coffee]'",
        "curl https://example.org",
    ],
)
def test_a_wrong_command_is_found(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    (words,) = commands_of(command)
    with pytest.raises((AssertionError, SystemExit)):
        check_command(words)


def test_a_wrong_name_is_found_in_code_that_is_not_run():
    check_names("from sc_captioner import CorrectionReward\nCorrectionReward(parser='compact')", {})
    for wrong in ("from sc_captioner import Nothing", "import sc_captioner.data as data\ndata.load_nothing()"):
        with pytest.raises((ImportError, AttributeError)):
            check_names(wrong, {})
    with pytest.raises(AssertionError, match="parsr"):
        check_names("from sc_captioner import CorrectionReward\nCorrectionReward(parsr='compact')", {})


# --- error messages --------------------------------------------------------------------------------------------------


def test_quoted_messages_are_in_the_source():
    quoted = re.findall(r'^```text title="(\w+)"\n(.+?)\n```$', (DOCS / "troubleshooting.md").read_text(), re.M)
    assert len(quoted) > 40
    known = set(_texts())
    for kind, message in quoted:
        parts = [part for part in re.split(r"\s*…\s*", message) if len(part) > 3]
        assert any(_is_quoted(message, text) for text in known), f"{kind}: no message reads {message!r}"
        assert parts, f"{message!r} quotes nothing"


def _texts() -> list[str]:
    """String literals of the package and the recipes; what is filled in is `…`."""
    texts = []
    for path in [*SOURCE.rglob("*.py"), *(ROOT / "recipes").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(v.value if isinstance(v, ast.Constant) else "…" for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


def _is_quoted(message: str, text: str) -> bool:
    return re.sub(r"…+\.?", "…", message) in re.sub(r"…+\.?", "…", text)


# --- links -----------------------------------------------------------------------------------------------------------


def _anchors(page: Path) -> set[str]:
    """Anchors of headings as GitHub and mkdocs both write them."""
    heads = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=name_of)
def test_links_between_files_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$|`[^`\n]+`", "", page.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if re.match(r"https?:", path) or path == "command_line.md":  # that one is made when the site is
            continue
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in _anchors(file), f"{page.name}: {file.name} has no heading {anchor}"


# --- the site --------------------------------------------------------------------------------------------------------


class _Page(HTMLParser):
    """Links, anchors and what a browser loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload"):
            self.loads.append(given["href"])
        if tag in ("script", "img", "iframe") and given.get("src"):
            self.loads.append(given["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    config = pytest.importorskip("mkdocs.config", reason="mkdocs is not installed: pip install -e '.[docs]'")
    pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed: pip install -e '.[docs]'")
    from mkdocs.commands.build import build

    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        settings = config.load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True)
        settings.plugins.on_startup(command="build", dirty=False)
        build(settings)  # strict: a single warning ends it
    return folder


@pytest.fixture(scope="module")
def pages(site):
    return {path: _Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def test_links_of_the_site_lead_somewhere(site, pages):
    assert len(pages) > 20
    for path, page in pages.items():
        if path.name == "404.html":  # its links are those of the server's root
            continue
        for link in page.links:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme or link == ".":
                continue
            target = (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{path.relative_to(site)} links to {link}"
            if parts.fragment and target in pages:
                anchor = urllib.parse.unquote(parts.fragment)
                assert anchor in pages[target].anchors, f"{path.relative_to(site)} links to {link}"


def test_a_page_loads_nothing_from_elsewhere(pages):
    loads = [address for page in pages.values() for address in page.loads]
    assert loads and not [address for address in loads if address.startswith(("http", "//"))]


def test_every_public_name_has_its_place_in_the_reference(site):
    from mkdocstrings import Inventory

    with (site / "objects.inv").open("rb") as file:
        told = set(Inventory.parse_sphinx(file))
    exported, defined = _public_names()
    assert len(exported) > 80 and "sc_captioner.data.load_caption_dataset" in exported
    assert len(defined) > 300 and "sc_captioner.captioner.SelfCorrection.to_dict" in defined
    assert exported <= told and defined <= told


def _public_names() -> tuple[set[str], set[str]]:
    """What `__all__` of any package names, and every class, function and method by its place in the source."""
    exported, defined = set(), set()
    for path in SOURCE.rglob("*.py"):
        module = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                names = ast.literal_eval(node.value)
                # A function that is named like its module stands there.
                own = {name for name in names if (path.parent / f"{name}.py").is_file()}
                exported |= {f"{module}.{name}.{name}" if name in own else f"{module}.{name}" for name in names}
            for owner, item in _definitions(node):
                if path.name != "__init__.py":
                    defined.add(".".join([module, *owner, item]))
    return exported, defined


def _definitions(node: ast.stmt) -> list[tuple[list[str], str]]:
    if not isinstance(node, (ast.ClassDef, ast.FunctionDef)) or node.name.startswith("_"):
        return []
    inner = node.body if isinstance(node, ast.ClassDef) else []
    methods = [item for item in inner if isinstance(item, ast.FunctionDef) and not item.name.startswith("_")]
    return [([], node.name), *(([node.name], method.name) for method in methods)]


def test_every_command_has_its_help_on_the_site(site):
    text = re.sub(r"<[^>]+>", "", (site / "command_line" / "index.html").read_text(encoding="utf-8"))
    commands = typer.main.get_command(app).commands
    assert len(commands) >= 5
    for command in commands:
        assert f"Usage: sc-captioner {command}" in text
    for recipe in (ROOT / "recipes").glob("*.py"):
        assert f"All settings of recipes/{recipe.name}" in text
    assert "--num_corrections" in text and "--push_to_hub" in text and "[default: 512]" in text
