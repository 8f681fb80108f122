"""Inputs of metrics, brought into one form; errors name the sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .refined_capture import attributes_by_object


def text(name: str, index: int, value: Any) -> str:
    """A text; half a surrogate pair, which is none and has no UTF-8 form, becomes a question mark.

    Args:
        name (`str`): Column, for the message.
        index (`int`): Sample, for the message.
        value: What the user gave.

    Raises:
        ValueError: If it is no string.
    """
    if not isinstance(value, str):
        raise ValueError(f"Sample {index}: {name} holds no text but {_told(value)}.")
    return value.encode("utf-8", "replace").decode("utf-8")


def texts(name: str, index: int, value: Any) -> list[str]:
    """One or more texts, as a list.

    Args:
        name (`str`): Column, for the message.
        index (`int`): Sample, for the message.
        value: What the user gave.

    Raises:
        ValueError: If there is none, or it is neither a text nor a list of texts.
    """
    if isinstance(value, str):
        return [text(name, index, value)]
    if not _is_list(value) or not len(value):
        raise ValueError(f"Sample {index}: {name} holds neither a text nor a list of texts but {_told(value)}.")
    return [text(name, index, entry) for entry in value]


def objects(name: str, index: int, value: Any) -> list[str]:
    """Object names; `None` stands for none.

    Args:
        name (`str`): Column, for the message.
        index (`int`): Sample, for the message.
        value: What the user gave.

    Raises:
        ValueError: If it is no list of texts.
    """
    if value is None:
        return []
    if not _is_list(value):
        raise ValueError(f"Sample {index}: {name} holds no list of objects but {_told(value)}.")
    return [text(name, index, entry) for entry in value]


def attributes(name: str, index: int, value: Any) -> list[dict[str, Any]]:
    """Annotated attributes as `[{"object": str, "attributes": [str]}]`, whichever form they come in.

    Args:
        value: `{object: [attribute]}`, that list, or `None`. An object whose attributes are `None` is left out:
            `datasets` gives every row of a column of dicts all keys that any row has.
        name (`str`): Column, for the message.
        index (`int`): Sample, for the message.

    Raises:
        ValueError: If it has neither form.
    """
    if isinstance(value, Mapping):
        value = {key: values for key, values in value.items() if values is not None}
    try:
        merged = attributes_by_object(value or {})
    except ValueError as error:
        raise ValueError(f"Sample {index}: {name}: {error}") from None
    return [
        {"object": text(name, index, key), "attributes": [text(name, index, entry) for entry in values]}
        for key, values in merged.items()
    ]


def aligned(columns: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Columns as lists of one length; dicts by image id are put in the order of the first column's.

    Args:
        columns (`Mapping[str, Any]`): By name, lists or dicts from image id.

    Raises:
        ValueError: If a column is neither a list nor a dict, they do not belong together or are empty.
    """
    first, leader = next(iter(columns.items()))
    by_id = isinstance(leader, Mapping)
    lists: dict[str, list[Any]] = {}
    for name, column in columns.items():
        if isinstance(column, (str, bytes)) or not hasattr(column, "__len__"):
            raise ValueError(f"{name} must be a list with one entry per sample, not {_told(column)}.")
        if isinstance(column, Mapping) != by_id:
            raise ValueError(f"{first} and {name} must both be lists, or both dicts from image id.")
        if isinstance(column, Mapping):
            if missing := [key for key in leader if key not in column]:
                raise ValueError(f"{name} lacks {len(missing)} image ids of {first}; the first is {missing[0]!r}.")
            lists[name] = [column[key] for key in leader]
        else:
            lists[name] = list(column)
        if len(lists[name]) != len(lists[first]):
            raise ValueError(f"There are {len(lists[first])} {first}, but {len(lists[name])} {name}.")
    if not lists[first]:
        raise ValueError(f"There are no samples: {first} is empty.")
    return lists


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _told(value: Any) -> str:
    return f"{type(value).__name__} {value!r:.80}"
