"""What every calibration reader needs: the parsed file, and checked numbers out of it."""

import json
import math
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml

from dart.errors import UserError

_MOST_BYTES = 64 * 2**20
_MOST_YAML_CHARACTERS = 256 * 2**10
_SKEW = 1e-6

_shortener = reprlib.Repr()
_shortener.maxlevel, _shortener.maxstring = 2, 40


@dataclass(frozen=True)
class Description:
    """A camera in the words of a file."""

    model: str
    """Name of a lens in ``dart.cameras.LENSES``."""
    params: tuple[float, ...]
    """In the lens's order; the principal point as the file has it."""
    size: tuple[int, int] | None
    """Height and width in pixels; None where the file does not say."""
    first_centre: float
    """The file's coordinate of the first pixel's centre: 0 or 0.5."""
    max_polar: float | None = None
    """Half the field of view in radians, where the file says."""


@dataclass(frozen=True)
class Format:
    """A kind of calibration file."""

    name: str
    title: str
    detect: Callable[[Any], bool]
    """Whether parsed content is of this format; never raises."""
    list_cameras: Callable[[Any, str], Mapping[Any, Any]]
    """Each camera's part of the content, by its name."""
    describe: Callable[[Any, str], Description]
    """Read one part; the text says where it lies, for errors."""
    default: tuple[str, ...] = ()
    """Names to take, the first there is, where none is asked for."""
    describe_named: Callable[[Any, str], Description] | None = None
    """Read one part where the user named the format, if that says more than the file."""


class _Loader(yaml.SafeLoader):
    """YAML as OpenCV writes it: its matrices are mappings with a tag."""


def _construct_plain(loader: yaml.SafeLoader, _: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    assert isinstance(node, yaml.ScalarNode)
    return loader.construct_scalar(node)


_Loader.add_multi_constructor("tag:yaml.org,2002:opencv-", _construct_plain)


def read_text(path: Path) -> str:
    """Return the text of a calibration file.

    Raises:
        UserError: If it does not exist, cannot be read, is not text, or is far too large.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise UserError(f"camera file '{path}' does not exist") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"camera file '{path}' cannot be read: {reason}") from None
    if len(raw) > _MOST_BYTES:
        raise UserError(f"camera file '{path}' is larger than 64 MiB: no calibration is")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise UserError(
            f"camera file '{path}' is not text; a calibration is JSON, YAML, XML or text"
        )
    if not text.strip():
        raise UserError(f"camera file '{path}' is empty")
    return text


def parse(text: str, where: str) -> Any:
    """Return JSON, XML or YAML as mappings, lists and scalars; other text as it is.

    Raises:
        UserError: If the text begins as one of the three and breaks off or is malformed.
    """
    start = text.lstrip()[:1]
    try:
        if start in "{[":
            return _parse_json(text, where)
        if start == "<":
            return _parse_xml(text, where)
        return _parse_yaml(text, where) if _looks_yaml(text) else text
    except RecursionError:
        raise UserError(f"{where}: nested too deeply for a calibration") from None


def _parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        try:  # a flow mapping of YAML begins like JSON
            return _load_yaml(text)
        except (yaml.YAMLError, ValueError, TypeError):
            place, problem = "", _line(error)
            if isinstance(error, json.JSONDecodeError):
                place, problem = f"line {error.lineno}, column {error.colno}: ", error.msg
            raise UserError(f"{where}: not valid JSON: {place}{problem}") from None


def _load_yaml(text: str) -> Any:
    if len(text) > _MOST_YAML_CHARACTERS:
        raise ValueError("larger than 256 KiB")
    # OpenCV below 5 begins with "%YAML:1.0", which is no YAML directive.
    text = re.sub(r"\A\s*%YAML[^\n]*\n", "", text)
    # `rostopic echo` ends every message with the beginning of the next document.
    return yaml.load(re.sub(r"^---\s*\Z", "", text, flags=re.MULTILINE), _Loader)


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return _load_yaml(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise UserError(f"{where}: not valid YAML: {place}{_line(error.problem)}") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise UserError(f"{where}: not valid YAML: {_line(error)}") from None


def _looks_yaml(text: str) -> bool:
    """Tell YAML from lines of numbers such as KITTI's ``P_rect_02: 7.2e+02 0.0 ...``."""
    if re.search(r"^\w+:[ \t]+[-+.\deE]+[ \t]+[-+.\deE]+", text, re.MULTILINE):
        return False
    return re.search(r"^\s*(- |['\"\w]+\s*:|%YAML|---)", text, re.MULTILINE) is not None


def _parse_xml(text: str, where: str) -> Any:
    if re.search(r"<!(DOCTYPE|ENTITY)", text):
        raise UserError(f"{where}: XML with a DOCTYPE is not read")
    try:
        return _from_element(ElementTree.fromstring(text))
    except ElementTree.ParseError as error:
        line, column = error.position
        raise UserError(f"{where}: not valid XML: line {line}, column {column + 1}") from None


def _from_element(element: ElementTree.Element) -> Any:
    if not len(element):
        text = (element.text or "").strip()
        words = text.split()
        numbers = [_scalar(word) for word in words]
        if element.tag == "data" or (
            len(words) > 1 and all(not isinstance(n, str) for n in numbers)
        ):
            return numbers
        return text.strip('"') if len(words) != 1 else numbers[0]
    if all(child.tag == "_" for child in element):
        return [_from_element(child) for child in element]
    return {child.tag: _from_element(child) for child in element}


def _scalar(word: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word.strip('"')


def _line(error: object) -> str:
    return " ".join(str(error).split())[:200]


def shown(value: Any) -> str:
    """Return ``value`` as one short line, however large it is."""
    text = " ".join(_shortener.repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def number(value: Any, name: str, where: str) -> float:
    """Return a finite number; YAML 1.1 reads 1e-3, which has no dot, as text."""
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            result = float(value)
        except (ValueError, OverflowError):
            result = math.nan
        if math.isfinite(result):
            return result
    raise UserError(f"{where}: {name} must be a finite number, got {shown(value)}")


def focal(value: Any, name: str, where: str) -> float:
    """Return a positive focal length in pixels."""
    result = number(value, name, where)
    if result <= 0:
        raise UserError(f"{where}: {name} = {result:g}; a focal length must be positive (pixels)")
    return result


def numbers(value: Any, names: Sequence[str], what: str, where: str) -> list[float]:
    """Return as many finite numbers as there are names, in their order."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise UserError(f"{where}: {what} must list {', '.join(names)}; got {shown(value)}")
    if len(value) != len(names):
        raise UserError(
            f"{where}: {what} has {len(value)} numbers; needed {len(names)}: {', '.join(names)}"
        )
    return [number(v, f"{what}: {name}", where) for name, v in zip(names, value, strict=True)]


def side(value: Any, name: str, where: str) -> int:
    """Return a width or height: a whole number of pixels, at least 1."""
    result = number(value, name, where)
    if result < 1 or result != round(result):
        raise UserError(f"{where}: {name} must be a whole number of pixels, got {shown(value)}")
    return int(result)


def mapping(value: Any, name: str, where: str) -> Mapping[Any, Any]:
    """Return a mapping."""
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: {name} must be a mapping, got {shown(value)}")
    return value


def get(content: Mapping[Any, Any], key: str, where: str) -> Any:
    """Return the value of a key that must be there."""
    if key not in content:
        raise UserError(f"{where}: {key} is missing")
    return content[key]


def intrinsics(matrix: Sequence[float], where: str) -> tuple[float, float, float, float]:
    """Return fx, fy, cx and cy of nine numbers of K, row by row, as the file has them.

    Raises:
        UserError: If the matrix has skew, or is none of ``fx 0 cx, 0 fy cy, 0 0 1``.
    """
    fx, skew, cx, zero, fy, cy, *last = matrix
    focal(fx, "fx", where)
    focal(fy, "fy", where)
    if zero != 0 or last != [0, 0, 1]:
        raise UserError(f"{where}: the matrix is no camera matrix: fx 0 cx, 0 fy cy, 0 0 1")
    if abs(skew) > _SKEW * fx:
        raise UserError(
            f"{where}: the matrix has skew {skew:g}, which no lens here has; calibrate without it"
        )
    return fx, fy, cx, cy
