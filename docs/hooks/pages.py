"""Pages made from the code: the reference of every public name, and what `--help` says of every command.

mkdocs calls `on_files`; nothing is written into docs/.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import pkgutil
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "sc_captioner"
RECIPES = sorted((ROOT / "recipes").glob("*.py"))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages to the site and to its navigation."""
    reference = {f"reference/{package.replace('.', '_')}.md": package for package in packages()}
    pages = {uri: reference_page(package) for uri, package in reference.items()}
    pages["command_line.md"] = command_line_page()
    for uri, text in pages.items():
        files.append(File.generated(config, uri, content=text))
    assert config.nav is not None
    config.nav[-1:-1] = [
        {"Command line": "command_line.md"},
        {"Reference": [{package: uri} for uri, package in reference.items()]},
    ]
    return files


# --- reference -------------------------------------------------------------------------------------------------------


def packages() -> list[str]:
    """The package and its subpackages, by name."""
    below = pkgutil.walk_packages([str(SOURCE)], "sc_captioner.")
    return ["sc_captioner", *(module.name for module in below if module.ispkg)]


def reference_page(package: str) -> str:
    """What `__all__` names, then what its modules hold beside that."""
    folder = SOURCE.joinpath(*package.split(".")[1:])
    tree = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
    exported = exported_names(tree)
    parts = [f"# {package}", docstring_of(tree), "## Exported names" if exported else ""]
    modules = {module.stem for module in folder.glob("*.py")}
    for name in exported:
        # `package.capture` is a function and a module; tools that read sources find the module there.
        parts.append(f"::: {package}.{name}.{name}" if name in modules else f"::: {package}.{name}")
    for module in sorted(folder.glob("[!_]*.py")):
        names = [name for name in public_names(module) if name not in exported]
        if names:
            told = docstring_of(ast.parse(module.read_text(encoding="utf-8")))
            parts += [f"## {package}.{module.stem}", told]
            parts += [f"::: {package}.{module.stem}.{name}" for name in names]
    return "\n\n".join(filter(None, parts)) + "\n"


def docstring_of(tree: ast.Module) -> str:
    """What a module says of itself; names in brackets, which would be links in docstrings, are only names here."""
    return re.sub(r"\[(`)~?([\w.]+`)\]", r"\1\2", ast.get_docstring(tree) or "")


def exported_names(tree: ast.Module) -> list[str]:
    """The names in `__all__`."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return []


def public_names(module: Path) -> list[str]:
    """Classes and functions that a module defines."""
    kinds = (ast.ClassDef, ast.FunctionDef)
    body = ast.parse(module.read_text(encoding="utf-8")).body
    return [node.name for node in body if isinstance(node, kinds) and not node.name.startswith("_")]


# --- command line ----------------------------------------------------------------------------------------------------


def command_line_page() -> str:
    """`sc-captioner` and all recipes, by their own `--help`."""
    parts = ["# Command line", "What `--help` prints; this page is made from it.", "## sc-captioner"]
    parts += [f"### sc-captioner {name}\n\n{text}" for name, text in sc_captioner_helps()]
    parts += [
        "## Recipes",
        "Every setting is a key of the YAML that `--config` names, or an option of the command line, which wins. "
        "`sft.py`, `sc.py` and `predict.py` take all settings of TRL's configurations as well.",
    ]
    for recipe in RECIPES:
        head, _, options = recipe_help(recipe).partition("\noptions:\n")
        told = head.partition("\n\n")[2] or head  # after the usage, which repeats all options
        parts.append(
            f'### recipes/{recipe.name}\n\n{_text(told)}\n\n??? note "All settings of recipes/{recipe.name}"\n\n'
            + _indented(_text(options))
        )
    return "\n\n".join(parts) + "\n"


def sc_captioner_helps() -> Iterator[tuple[str, str]]:
    """Every command of `sc-captioner` with its help."""
    import typer

    from sc_captioner.cli import app

    group = typer.main.get_command(app)
    context = group.make_context("sc-captioner", [], resilient_parsing=True)
    for name in group.list_commands(context):
        with contextlib.redirect_stdout(io.StringIO()) as told, contextlib.suppress(SystemExit), _plain_terminal():
            app([name, "--help"], prog_name="sc-captioner")
        yield name, _text(told.getvalue())


def recipe_help(recipe: Path) -> str:
    """What `python recipes/<name>.py --help` prints."""
    with (
        contextlib.redirect_stdout(io.StringIO()) as told,
        contextlib.suppress(SystemExit),
        mock.patch.object(sys, "argv", [str(recipe), "--help"]),
        _plain_terminal(),
    ):
        runpy.run_path(str(recipe), run_name="__main__")
    return told.getvalue()


def _plain_terminal() -> contextlib.AbstractContextManager[object]:
    return mock.patch.dict(os.environ, {"COLUMNS": "84", "NO_COLOR": "1", "TERM": "dumb"})


def _text(text: str) -> str:
    return f"```text\n{text.strip()}\n```"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())
