"""What is wrong with a study file, in one line with its place."""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from dart.errors import did_you_mean
from dart.studies.factors import Range
from dart.studies.yaml_file import Place, YamlFile


def describe(
    error: ValidationError,
    file: YamlFile,
    *,
    root: type[BaseModel],
    blocks: Mapping[str, type[BaseModel]],
) -> str:
    """Return one line for the first mistake that pydantic found, an unknown key before others.

    A misspelt key is also a missing one, and it is the spelling that must be mended.

    Args:
        root: Model of the whole study.
        blocks: Key of the study -> model of what stands under it.
    """
    mistakes = error.errors(include_url=False)
    unknown = [mistake for mistake in mistakes if mistake["type"] == "extra_forbidden"]
    first = (unknown or mistakes)[0]
    place = _place(first["loc"], file.content)
    if not place:
        return f"{file.where()}: {reason(first)}"
    *above, key = place
    if first["type"] == "missing":
        return f"{file.where(tuple(above))}: '{key}' is missing"
    if first["type"] != "extra_forbidden":
        shown = "" if first["type"] == "value_error" else f", not {_short(first['input'])}"
        nearest = _nearest(first)
        return f"{file.where(place)}: {reason(first)}{shown}{nearest}"
    inside = blocks.get(str(place[0]), Range) if above else root
    allowed = list(inside.model_fields)
    return (
        f"{file.where(place)}: unknown key '{key}'; allowed: {', '.join(allowed)}"
        f"{did_you_mean(str(key), allowed)}"
    )


def _place(location: tuple[int | str, ...], content: Any) -> Place:
    """Return pydantic's location without the marks that it adds for unions and keys."""
    place: list[int | str] = []
    for part in location:
        if part in ("[key]", "<values>", "<range>", "values"):
            continue
        if isinstance(content, list) and isinstance(part, int) and part < len(content):
            content = content[part]
        elif isinstance(content, Mapping):
            content = content.get(part)
        elif isinstance(part, int):
            continue  # a single value, which counts as a list of one
        place.append(part)
    return tuple(place)


def reason(error: Any) -> str:
    """Return pydantic's reason in one line."""
    text = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    # As YAML calls them.
    text = text.replace("a valid tuple", "a list").replace("a valid dictionary", "a mapping")
    return " ".join(text.split())


def _nearest(error: Any) -> str:
    expected = re.findall(r"'([^']*)'", str(error.get("ctx", {}).get("expected", "")))
    return did_you_mean(str(error["input"]), expected)


def _short(value: object) -> str:
    text = " ".join(ascii(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
