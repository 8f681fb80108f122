"""Code blocks of Markdown pages, run, or checked against the real parsers and signatures.

A block with a comment `# needs ...` (the Hub, a trained model, an endpoint) is checked and not run, and so is a
command that names a repository of `my-name`, who is nobody. `print(...)  # prints x` has to print a line `x`.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import io
import os
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock


ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
# Over in seconds on what a page itself has made; the others have tests of their own.
CHEAP_RECIPES = ("prepare_data.py", "estimate.py", "evaluate.py", "compare.py")
# Programs that are not ours. Nothing of them is checked but that they are meant.
OTHERS = ("export", "hf", "rm", "vllm")


class Block(NamedTuple):
    """A fenced block: its language, its first line in the page, its text."""

    language: str
    line: int
    code: str

    @property
    def runs(self) -> bool:
        return "# needs " not in self.code


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    fences = re.finditer(r"^```(python|bash)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(fence[1], text[: fence.start()].count("\n") + 2, fence[2]) for fence in fences]


def run_page(page: Path, folder: Path) -> None:
    """Run the blocks of a page, top to bottom, in `folder`, which sees the checkout and keeps what is written."""
    for name in ("benchmarks", "metrics", "recipes", "src"):
        (folder / name).symlink_to(ROOT / name)
    os.chdir(folder)
    if page == README:
        _photos(folder)
    namespace: dict[str, Any] = {"__name__": "page"}
    for block in blocks_of(page):
        try:
            if block.language == "bash":
                for command in commands_of(block.code):
                    check_command(command)
                    if block.runs and (page != README or command[0] == "sc-captioner"):
                        run_command(command)
                continue
            # As many lines in front as there are in the page: tracebacks then name its lines.
            code = compile("\n" * (block.line - 1) + block.code, str(page), "exec")
            if block.runs:
                with contextlib.redirect_stdout(io.StringIO()) as told:
                    exec(code, namespace)
                for promised in re.findall(r"  # prints (.+)$", block.code, re.MULTILINE):
                    assert promised in told.getvalue().splitlines(), f"{promised!r} is not in:\n{told.getvalue()}"
            else:
                check_names(block.code, namespace)
        except BaseException as error:
            # An exception that cannot be pickled would hide what happened.
            raise AssertionError(
                f"{page.relative_to(ROOT)}, block at line {block.line}: {type(error).__name__}: {error}"
            ) from error


def _photos(folder: Path) -> None:
    """What README's commands take for granted: a photo and a folder of photos."""
    from sc_captioner.data import build_scenes

    (folder / "photos").mkdir()
    for name, image in zip(("photo.jpg", "photos/1.jpg", "photos/2.jpg"), build_scenes(3, seed=5)["image"]):
        image.save(folder / name)


# --- commands --------------------------------------------------------------------------------------------------------


def commands_of(code: str) -> Iterator[list[str]]:
    """The commands of a bash block as lists of words, without comments and variables set in front."""
    for line in re.sub(r"\\\n", " ", code).splitlines():
        for part in line.split(" && "):
            words = shlex.split(part, comments=True)
            while words and re.fullmatch(r"[A-Z_0-9]+=.*", words[0]):
                words.pop(0)
            if words:
                yield words


def check_command(words: list[str]) -> None:
    """Fails on a command that its own program would refuse."""
    program, arguments = Path(words[0]).name, words[1:]
    if program == "sc-captioner":
        _parse_sc_captioner(arguments)
    elif program == "accelerate":
        _parse_accelerate(arguments)
    elif program.startswith("python") and arguments[0] != "-m":
        assert (ROOT / arguments[0]).is_file(), f"there is no {arguments[0]}"
        if arguments[0].startswith("recipes/"):
            parse_recipe(arguments)
    elif program == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert arguments[0] in targets, f"make has no target {arguments[0]}"
    elif program == "pip":
        _check_extra(arguments)
    elif program == "sbatch":
        assert (ROOT / arguments[0]).is_file() and (ROOT / arguments[1]).is_file()
    else:
        assert program in OTHERS or program.startswith("python"), f"{program} is a program nobody knows"


def run_command(words: list[str]) -> None:
    """Run `sc-captioner` and cheap recipes here; leave the others."""
    if any(word.startswith("my-name/") for word in words):
        return
    if words[0] == "sc-captioner":
        from sc_captioner.cli import app

        status = app(words[1:], prog_name="sc-captioner", standalone_mode=False)
        assert not status, f"{' '.join(words)} ended with status {status}"
    elif words[0] == "python" and Path(words[1]).name in CHEAP_RECIPES:
        with mock.patch.object(sys, "argv", words[1:]):
            runpy.run_path(words[1], run_name="__main__")


def _parse_sc_captioner(arguments: list[str]) -> None:
    import typer

    from sc_captioner.cli import app

    group: Any = typer.main.get_command(app)
    try:
        context = group.make_context("sc-captioner", list(arguments))
        name, command, rest = group.resolve_command(context, list(arguments))
        command.make_context(name, rest, parent=context)
    except typer.BadParameter.__base__ as error:  # UsageError, of which every mistake on a command line is one
        raise AssertionError(error.format_message()) from error


def _parse_accelerate(arguments: list[str]) -> None:
    from accelerate.commands.launch import launch_command_parser

    assert arguments[0] == "launch"
    launched = launch_command_parser().parse_args(arguments[1:])
    if launched.config_file:
        assert (ROOT / launched.config_file).is_file(), f"there is no {launched.config_file}"
    parse_recipe([launched.training_script, *launched.training_script_args])


def parse_recipe(words: list[str]) -> None:
    """Everything that a recipe does with its arguments up to the point where its work would begin."""
    from sc_captioner import arguments

    def parsed(main: Any, kinds: tuple[Any, ...], *given: Any, **defaults: Any) -> None:
        # The YAMLs ask for a GPU, which is not here.
        if any("use_cpu" in kind.__dataclass_fields__ for kind in kinds):
            sys.argv += ["--use_cpu", "true"]
        real(lambda *values: None, kinds, *given, **defaults)

    real = arguments.run_recipe
    path = ROOT / words[0]
    if "run_recipe(" not in path.read_text():
        return  # estimate.py: it is run
    with mock.patch.object(arguments, "run_recipe", parsed), mock.patch.object(sys, "argv", list(words)):
        runpy.run_path(str(path), run_name="__main__")


def _check_extra(arguments: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name in re.findall(r"\[([a-z,]+)\]", " ".join(arguments)):
        assert set(name.split(",")) <= set(extras), f"there is no extra {name}"


# --- Python that is not run ------------------------------------------------------------------------------------------


def check_names(code: str, namespace: dict[str, Any]) -> None:
    """Fails where code imports, reads or passes by keyword what does not exist; nothing but the imports is run."""
    tree = ast.parse(code)
    known = dict(namespace)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            exec(compile(ast.Module([node], []), "imports", "exec"), known)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (called := _object_of(node.func, known)) is not None:
            parameters = inspect.signature(called).parameters.values()
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
                unknown = {word.arg for word in node.keywords} - {parameter.name for parameter in parameters}
                assert not unknown, f"{ast.unparse(node.func)} takes no {unknown}"


def _object_of(node: ast.expr, known: dict[str, Any]) -> Any:
    """What a dotted name stands for, `None` where that is known only when the code runs."""
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if not isinstance(node, ast.Attribute):
        return None
    owner = _object_of(node.value, known)
    if inspect.ismodule(owner):
        with contextlib.suppress(ImportError):
            importlib.import_module(f"{owner.__name__}.{node.attr}")
    return None if owner is None else getattr(owner, node.attr)
