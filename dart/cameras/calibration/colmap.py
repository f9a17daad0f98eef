"""COLMAP's ``cameras.txt``: a line ``CAMERA_ID MODEL WIDTH HEIGHT PARAMS...`` a camera.

First pixel's centre: (0.5, 0.5).
Source: COLMAP's ``src/colmap/sensor/models.h`` and the page "Output Format". Its tangential terms
of OPENCV are OpenCV's; SIMPLE_RADIAL and RADIAL are its first terms.
"""

import re
from collections.abc import Mapping
from typing import Any

from dart.cameras.calibration import content as c
from dart.errors import UserError, did_you_mean

_KB = ("k1", "k2", "k3", "k4")
_FISHEYE624 = ("k1", "k2", "k3", "k4", "k5", "k6", "p0", "p1", "s0", "s1", "s2", "s3")
_THIN_PRISM = ("k1", "k2", "p1", "p2", "k3", "k4", "sx1", "sy1")
_RATIONAL = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
_TWO = ("fx", "fy", "cx", "cy")
_ONE = ("f", "cx", "cy")
_MODELS: Mapping[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "SIMPLE_PINHOLE": ("pinhole", _ONE, ()),
    "PINHOLE": ("pinhole", _TWO, ()),
    "SIMPLE_RADIAL": ("radial_tangential", (*_ONE, "k1"), _RATIONAL),
    "RADIAL": ("radial_tangential", (*_ONE, "k1", "k2"), _RATIONAL),
    "OPENCV": ("radial_tangential", (*_TWO, "k1", "k2", "p1", "p2"), _RATIONAL),
    "FULL_OPENCV": ("radial_tangential", (*_TWO, *_RATIONAL), _RATIONAL),
    "SIMPLE_FISHEYE": ("equidistant", _ONE, ()),
    "FISHEYE": ("equidistant", _TWO, ()),
    "SIMPLE_RADIAL_FISHEYE": ("kannala_brandt", (*_ONE, "k1"), _KB),
    "RADIAL_FISHEYE": ("kannala_brandt", (*_ONE, "k1", "k2"), _KB),
    "OPENCV_FISHEYE": ("kannala_brandt", (*_TWO, *_KB), _KB),
    "THIN_PRISM_FISHEYE": ("thin_prism_fisheye", (*_TWO, *_THIN_PRISM), _THIN_PRISM),
    "RAD_TAN_THIN_PRISM_FISHEYE": ("fisheye624", (*_TWO, *_FISHEYE624), _FISHEYE624),
}
"""COLMAP's model -> lens, the file's parameters, the lens's after the principal point."""
_REFUSED = {"FOV": "its one-parameter atan lens is none of ours; undistort with COLMAP first"}
_LINE = re.compile(r"^\s*(\d+)[\s,]+([A-Z][A-Z0-9_]+)[\s,]+(\S.*)$")


def detect(content: Any) -> bool:
    """Return whether the first line that is no comment begins with a number and a model."""
    if not isinstance(content, str):
        return False
    lines = (line for line in content.splitlines() if line.strip() and line.strip()[0] != "#")
    return _LINE.match(next(lines, "")) is not None


def list_cameras(content: Any, where: str) -> Mapping[Any, Any]:
    """Return each line by its camera's number."""
    found: dict[str, tuple[str, list[str]]] = {}
    for number, line in enumerate(str(content).splitlines(), start=1):
        if not line.strip() or line.strip().startswith("#"):
            continue
        match = _LINE.match(line)
        if match is None:
            raise UserError(
                f"{where}: line {number} is not 'CAMERA_ID MODEL WIDTH HEIGHT PARAMS', "
                f"but {c.shown(line)}"
            )
        if match[1] in found:
            raise UserError(f"{where}: line {number}: there are two cameras {match[1]}")
        found[match[1]] = (match[2], re.split(r"[\s,]+", match[3].strip()))
    if not found:
        raise UserError(f"{where}: no line 'CAMERA_ID MODEL WIDTH HEIGHT PARAMS'")
    return found


def describe(part: Any, where: str) -> c.Description:
    """Return the camera of one line."""
    model, words = part
    if model not in _MODELS:
        known = ", ".join(_MODELS)
        reason = _REFUSED.get(model, f"read are {known}{did_you_mean(model, _MODELS)}")
        raise UserError(f"{where}: the model {model} is not read: {reason}")
    lens, names, tail = _MODELS[model]
    width, height, *values = c.numbers(words, ("width", "height", *names), model, where)
    given = dict(zip(names, values, strict=True))
    fx = c.focal(given.get("fx", given.get("f")), "the focal length", where)
    fy = c.focal(given.get("fy", fx), "fy", where)
    extra = tuple(given.get(name, 0.0) for name in tail)
    size = c.side(height, "height", where), c.side(width, "width", where)
    return c.Description(lens, (fx, fy, given["cx"], given["cy"], *extra), size, first_centre=0.5)


FORMAT = c.Format("colmap", "COLMAP cameras.txt", detect, list_cameras, describe)
