"""YAML with the line of every place, so that a mistake in a study can be pointed at.

PyYAML alone keeps the last of two equal keys, reads ``1e-3`` as text and forgets the lines.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dart.errors import UserError

Place = tuple[str | int, ...]
MAX_NODES = 10_000
"""More than any study needs; stops aliases that multiply without end."""


class _Loader(yaml.SafeLoader):
    """The safe loader, which also reads ``1e-3`` as a number, as YAML 1.2 does."""


# A subclass shares its parent's resolvers until it has its own.
_Loader.yaml_implicit_resolvers = {
    first: list(resolvers) for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


@dataclass
class YamlFile:
    """The content of one YAML file and where each part of it stands."""

    path: Path
    text: str
    content: dict[str, Any] = field(default_factory=dict)
    lines: dict[Place, int] = field(default_factory=dict)
    """Place -> line of its key, counted from 1."""

    def where(self, place: Place = ()) -> str:
        """Return ``file:line: dotted.place`` for the nearest known line."""
        known = place
        while known and known not in self.lines:
            known = known[:-1]
        line = f":{self.lines[known]}" if known in self.lines else ""
        dotted = _dotted(place)
        return f"{self.path}{line}" + (f": {dotted}" if dotted else "")


def _dotted(place: Place) -> str:
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def read_yaml(path: Path) -> YamlFile:
    """Return the mapping that a YAML file holds, with its lines.

    Raises:
        UserError: If the file is missing, empty, not YAML, not a mapping or repeats a key.
    """
    file = YamlFile(path, _read_text(path))
    loader = _Loader(file.text)
    try:
        root = loader.get_single_node()
        if root is None:
            raise UserError(f"{path}: the file is empty; a study needs at least 'variants'")
        if not isinstance(root, yaml.MappingNode):
            raise UserError(f"{path}:1: a study is a mapping of keys to values")
        content = _Reader(file, loader).read(root, ())
        assert isinstance(content, dict)
        file.content = content
    except yaml.YAMLError as error:
        raise UserError(_syntax_error(path, error)) from None
    except RecursionError:
        raise UserError(f"{path}:{loader.line + 1}: nested too deeply") from None
    except (ValueError, OverflowError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}:{loader.line + 1}: {_first_line(error)}") from None
    finally:
        loader.dispose()
    return file


def _read_text(path: Path) -> str:
    if path.is_dir():
        raise UserError(f"{path}: is a folder; a study is one YAML file")
    if not path.exists():
        raise UserError(f"{path}: no such study file{_neighbours(path)}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not text in UTF-8; a study is one YAML file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    bad = next((character for character in text if not _is_printable(character)), None)
    if bad is not None:
        line = text[: text.index(bad)].count("\n") + 1
        raise UserError(f"{path}:{line}: holds the unprintable character {bad!r}")
    return text


def _is_printable(character: str) -> bool:
    return character in "\n\r\t" or (character >= " " and character != "\x7f")


def _neighbours(path: Path) -> str:
    folder = path.parent
    names = sorted(other.name for other in folder.glob("*.y*ml")) if folder.is_dir() else []
    return f"; {folder} holds: {', '.join(names[:8])}" if names else ""


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _syntax_error(path: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    line = f":{mark.line + 1}" if mark is not None else ""
    problem = getattr(error, "problem", None) or _first_line(error)
    return f"{path}{line}: not valid YAML: {' '.join(str(problem).split())}"


class _Reader:
    """Turns YAML nodes into plain Python, noting every line."""

    def __init__(self, file: YamlFile, loader: _Loader) -> None:
        self.file = file
        self.loader = loader
        self.open: list[int] = []
        self.seen = 0

    def read(self, node: yaml.Node, place: Place) -> object:
        self.seen += 1
        if self.seen > MAX_NODES:
            raise UserError(f"{self.file.path}: holds more than {MAX_NODES} values")
        if id(node) in self.open:
            raise UserError(f"{self._at(node)}: {_dotted(place)}: an alias that contains itself")
        self.open.append(id(node))
        try:
            return self._value(node, place)
        finally:
            self.open.pop()

    def _at(self, node: yaml.Node) -> str:
        return f"{self.file.path}:{node.start_mark.line + 1}"

    def _value(self, node: yaml.Node, place: Place) -> object:
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self.file.lines[(*place, index)] = item.start_mark.line + 1
            return [self.read(item, (*place, index)) for index, item in enumerate(node.value)]
        try:
            value = self.loader.construct_object(node, deep=True)
        except (ValueError, OverflowError) as error:  # as of a 31st of February
            raise UserError(f"{self._at(node)}: {_dotted(place)}: {_first_line(error)}") from None
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{self._at(node)}: {_dotted(place)}: {value} is not a finite number")
        return value

    def _mapping(self, node: yaml.MappingNode, place: Place) -> Mapping[str, object]:
        content: dict[str, object] = {}
        for key_node, value_node in node.value:
            at = self._at(key_node)
            key = self.read(key_node, place)
            if not isinstance(key, str):
                raise UserError(f"{at}: the key {key!r} is not text{_in(place)}")
            if key in content:
                first = self.file.lines[(*place, key)]
                raise UserError(
                    f"{at}: the key '{key}' stands twice{_in(place)} (first: line {first})"
                )
            self.file.lines[(*place, key)] = key_node.start_mark.line + 1
            content[key] = self.read(value_node, (*place, key))
        return content


def _in(place: Place) -> str:
    return f" in '{_dotted(place)}'" if place else ""
