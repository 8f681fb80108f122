"""Docstrings of everything public: they exist, name every parameter and no other, give types, and tell of errors."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import typer
from doc_blocks import ROOT

from sc_captioner.cli import app


SOURCE = ROOT / "src" / "sc_captioner"
# `name (type), other (type): text`, as transformers writes it; mkdocs reads the same (docs/hooks/docstrings.py)
ITEM = re.compile(r"    (\*{0,2}\w+(?: \([^:]*\))?(?:, \*{0,2}\w+(?: \([^:]*\))?)*):")
# What a library of others asks for is told there.
ELSEWHERE = re.compile(r"As (in )?\[`~")
COMMANDS = {(command.callback.__module__, command.callback.__name__) for command in app.registered_commands}


class Definition(NamedTuple):
    """A public class, function or method."""

    place: str
    node: ast.ClassDef | ast.FunctionDef

    @property
    def doc(self) -> str:
        return ast.get_docstring(self.node) or ""

    @property
    def is_command(self) -> bool:
        """Whether its parameters are options of `sc-captioner`, whose help says what they are."""
        module, _, name = self.place.partition(".py: ")
        return (f"sc_captioner.{module.replace('/', '.')}", name) in COMMANDS

    @property
    def function(self) -> ast.FunctionDef | None:
        """Whose parameters are documented: the function itself, or a class's `__init__`."""
        if isinstance(self.node, ast.FunctionDef):
            return self.node
        return next((n for n in self.node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)

    @property
    def parameters(self) -> list[str]:
        if self.function:
            given = self.function.args
            names = [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
            return [name for name in names if name not in ("self", "cls")]
        fields = isinstance(self.node, ast.ClassDef) and "dataclass" in " ".join(
            map(ast.unparse, self.node.decorator_list)
        )
        return [n.target.id for n in self.node.body if fields and isinstance(n, ast.AnnAssign) and _is_public(n)]

    @property
    def starred(self) -> set[str]:
        given = self.function and self.function.args
        return {a.arg for a in (given.vararg, given.kwarg) if a} if given else set()

    @property
    def told(self) -> list[str]:
        """The items of the section Args, each without its text."""
        section = re.search(r"^Args:\n((?:    .*\n|\n)+)", self.doc + "\n", re.MULTILINE)
        return [m[1] for line in (section[1].splitlines() if section else ()) if (m := ITEM.match(line))]

    @property
    def named(self) -> set[str]:
        return {n.strip("* ") for item in self.told for n in re.sub(r" \([^:]*?\)(?=,|$)", "", item).split(",")}


def _is_public(field: ast.AnnAssign) -> bool:
    return isinstance(field.target, ast.Name) and not field.target.id.startswith("_")


def _definitions() -> Iterator[Definition]:
    for path in sorted(SOURCE.rglob("*.py")):
        place = str(path.relative_to(SOURCE))
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(node, (ast.ClassDef, ast.FunctionDef)) or node.name.startswith("_"):
                continue
            yield Definition(f"{place}: {node.name}", node)
            for method in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                    yield Definition(f"{place}: {node.name}.{method.name}", method)


DEFINITIONS = list(_definitions())


def told(problems: list[str]) -> str:
    return "\n".join(["", *problems])


def test_everything_public_has_a_docstring():
    assert len(DEFINITIONS) > 400
    bare = [d.place for d in DEFINITIONS if not d.doc]
    assert not bare, told(bare)


def test_every_parameter_is_documented_and_no_other():
    problems = []
    for found in DEFINITIONS:
        if found.is_command or ELSEWHERE.search(found.doc):
            continue
        missing = [name for name in found.parameters if name not in found.named]
        problems += [f"{found.place}: Args lacks {', '.join(missing)}"] if missing else []
        others = found.named - set(found.parameters) - found.starred
        problems += [f"{found.place}: Args names {', '.join(others)}, which it does not take"] if others else []
    assert not problems, told(problems)


def test_types_stand_in_backticks():
    told_types = [(d.place, kind) for d in DEFINITIONS for item in d.told for kind in re.findall(r" \((.*?)\)", item)]
    assert len(told_types) > 500
    # "*optional*" alone: what the parameter may be is said in words.
    plain = [f"{place}: ({kind})" for place, kind in told_types if "`" not in kind and kind != "*optional*"]
    assert not plain, told(plain)


def test_errors_that_are_raised_are_told():
    problems = []
    for found in DEFINITIONS:
        if found.is_command or found.function is None:
            continue
        for kind in _raised(found.function):
            if not re.search(rf"^Raises:\n(?:    .*\n)*?    .*\b({kind}|{_wider(kind)})\b", found.doc, re.MULTILINE):
                problems.append(f"{found.place} raises {kind} and does not say so")
    assert not problems, told(problems)


def _raised(node: ast.AST) -> Iterator[str]:
    """Names of the errors that a function's own body makes and lets out."""
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
        yield from [node.exc.func.id] if node.exc.func.id[:1].isupper() else []
    caught = node.body if isinstance(node, ast.Try) and node.handlers else []
    for child in ast.iter_child_nodes(node):
        if child not in caught:
            yield from _raised(child)


def _wider(kind: str) -> str:
    known = getattr(builtins, kind, Exception)
    return "|".join(base.__name__ for base in known.__mro__ if issubclass(base, Exception))


@pytest.mark.parametrize("name", typer.main.get_command(app).commands)
def test_options_of_a_command_have_help(name):
    command = typer.main.get_command(app).commands[name]
    bare = [option.name for option in command.params if not option.help]
    assert not bare, f"sc-captioner {name}: no help for {', '.join(bare)}"
    assert "Example" in command.help or not any(option.required for option in command.params)
