"""From docstrings as transformers writes them to docstrings as mkdocstrings reads them.

Types come from signatures, which have them all; parameters that share a line get a line each; a name in brackets,
``[`SceneGraph`]``, becomes a link to its place in the reference.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import griffe


_LINK = re.compile(r"\[`~?([\w.]+)`\]")
# "name (`type`, *optional*), other (`type`): what follows", types without a colon and without a bracket inside
_ITEM = re.compile(r"    (\*{0,2}\w+(?: \([^:]*\))?(?:, \*{0,2}\w+(?: \([^:]*\))?)*):(.*)", re.DOTALL)
_TYPED = re.compile(r"    (\[?`[^:]*?):( .*)", re.DOTALL)


class Docstrings(griffe.Extension):
    """Rewrites the docstrings of a package once all of it is read."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **kwargs: Any) -> None:
        objects = list(_objects(pkg))
        places: dict[str, str] = {}
        for found in sorted(objects, key=lambda found: found.path.count(".")):
            if found.is_attribute or found.is_module or re.search(r"\._", found.path):
                continue
            for name in (found.path, found.name, ".".join(found.path.split(".")[-2:])):
                places.setdefault(name, found.path)
        for found in objects:
            if found.docstring:
                text = "\n".join(_rewritten(found.docstring.value, found))
                found.docstring.value = _LINK.sub(lambda match: _link(match[1], places), text)


def _objects(parent: griffe.Object) -> Iterator[griffe.Object]:
    yield parent
    for member in parent.members.values():
        if not member.is_alias:
            yield from _objects(member)  # type: ignore[arg-type]


def _rewritten(text: str, found: griffe.Object) -> Iterator[str]:
    section = ""
    for item in re.split(r"\n(?=    \S|\S|\n)", text):
        if not item.startswith((" ", "\n")):
            section = item
        if section == "Args:" and (parameter := _ITEM.fullmatch(item)):
            names = re.sub(r" \([^:]*?\)(?=,|$)", "", parameter[1]).split(", ")
            yield from (f"    {_starred(name, found)}:{parameter[2]}" for name in names)
        elif section in ("Returns:", "Yields:") and (typed := _TYPED.fullmatch(item)):
            yield f"    {typed[1].strip('[]').strip('`')}:{typed[2]}"
        else:
            yield item


def _starred(name: str, found: griffe.Object) -> str:
    """`name` with the stars that it has in the signature."""
    known = getattr(found, "parameters", None) or []
    return next((p.name for p in known if p.name.lstrip("*") == name.lstrip("*")), name)


def _link(name: str, places: dict[str, str]) -> str:
    short = name.removeprefix("sc_captioner.") if name in places else name.rpartition(".")[2]
    return f"[`{short.rpartition('.')[2]}`][{places[name]}]" if name in places else f"`{short}`"
