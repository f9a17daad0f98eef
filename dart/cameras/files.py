"""Calibration files: JSON or YAML with ``model``, ``params``, ``width`` and ``height``.

``params`` maps names to numbers, or lists the numbers in the lens's order. A fisheye may say
``max_polar_degrees``, half its field of view. Whatever is wrong with a file is a ``UserError`` of
one line that names the file, the place and what is allowed.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from dart.cameras.camera import Camera
from dart.cameras.polar import PolarCamera
from dart.cameras.table import LENSES
from dart.errors import UserError, did_you_mean

_REQUIRED = ("model", "params", "width", "height")
_MAX_POLAR = "max_polar_degrees"


def load_camera(path: str | Path) -> Camera:
    """Return the camera that a calibration file describes, in float32.

    Raises:
        UserError: If the file cannot be read or does not describe a camera.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"camera file '{path}' does not exist") from None
    except UnicodeDecodeError:
        raise UserError(f"camera file '{path}' is not text; JSON or YAML is expected") from None
    except OSError as error:
        raise UserError(f"camera file '{path}' cannot be read: {error.strerror}") from None
    return camera_from_dict(_parse(text, path), where=f"camera file '{path}'")


def _parse(text: str, path: Path) -> Any:
    try:
        return json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except json.JSONDecodeError as error:
        place, problem = f"line {error.lineno}, column {error.colno}", error.msg
        raise UserError(f"camera file '{path}' is not valid JSON: {place}: {problem}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = " ".join(str(error.problem).split())
        raise UserError(f"camera file '{path}' is not valid YAML: {place}{problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = " ".join(str(error).split())
        raise UserError(f"camera file '{path}' is not valid JSON or YAML: {problem}") from None


def camera_from_dict(content: Any, *, where: str = "camera") -> Camera:
    """Return the camera that ``content`` describes: the inverse of ``Camera.to_dict``.

    Args:
        content: A mapping, as a calibration file has it.
        where: What to call it in an error.

    Raises:
        UserError: If something is missing, unknown or impossible.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{where}: expected {', '.join(_REQUIRED)}, got {_shown(content)}")
    _check_keys(content, required=_REQUIRED, optional=(_MAX_POLAR,), where=where)
    model = content["model"]
    if not isinstance(model, str) or model not in LENSES:
        raise UserError(
            f"{where}: unknown camera model {_shown(model)}; known: {', '.join(LENSES)}"
            + did_you_mean(str(model), LENSES)
        )
    lens = LENSES[model]
    params = torch.tensor(_param_values(content["params"], lens, where))
    size = (_side(content, "height", where), _side(content, "width", where))
    try:
        if _MAX_POLAR not in content:
            return lens(params, size)
        if not issubclass(lens, PolarCamera):
            takers = [name for name, kind in LENSES.items() if issubclass(kind, PolarCamera)]
            raise UserError(f"{model} takes no {_MAX_POLAR}; only {', '.join(takers)} do")
        limit = math.radians(_number(content[_MAX_POLAR], _MAX_POLAR))
        return lens(params, size, max_polar=limit)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _check_keys(
    content: Mapping[Any, Any], *, required: Sequence[str], optional: Sequence[str], where: str
) -> None:
    allowed = [*required, *optional]
    for key in content:
        if key not in allowed:
            raise UserError(
                f"{where}: unknown key {_shown(key)}; known: {', '.join(allowed)}"
                + did_you_mean(str(key), allowed)
            )
    missing = [key for key in required if key not in content]
    if missing:
        raise UserError(f"{where}: missing {', '.join(missing)}; needed: {', '.join(required)}")


def _param_values(params: Any, lens: type[Camera], where: str) -> list[float]:
    names = lens.param_names
    where = f"{where}: params of {lens.model}"
    if isinstance(params, Mapping):
        _check_keys(params, required=names, optional=(), where=where)
        params = [params[name] for name in names]
    elif not isinstance(params, Sequence) or isinstance(params, str):
        raise UserError(f"{where}: expected {', '.join(names)}, got {_shown(params)}")
    elif len(params) != len(names):
        raise UserError(
            f"{where}: got {len(params)} numbers; needed {len(names)}: {', '.join(names)}"
        )
    try:
        return [_number(value, name) for name, value in zip(names, params, strict=True)]
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _number(value: Any, name: str) -> float:
    # YAML 1.1 reads 1e-3, which has no dot, as text.
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise UserError(f"{name} must be a finite number, got {_shown(value)}")


def _side(content: Mapping[Any, Any], name: str, where: str) -> int:
    value = content[name]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(
            f"{where}: {name} must be a whole number of pixels, at least 1, got {_shown(value)}"
        )
    return value


def _shown(value: Any) -> str:
    """Return ``value`` as one short line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
