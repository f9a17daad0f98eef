"""WoodScape's and SynWoodScape's JSON: a polynomial from angle to pixels.

First pixel's centre: (0, 0): a pixel is ``rho x / chi + cx_offset + width / 2 - 0.5``.
Source: WoodScape's ``scripts/calibration/projection.py``, FACTS 8.
"""

from collections.abc import Mapping
from typing import Any

from dart.cameras.calibration import content as c
from dart.errors import UserError

_MODEL = "radial_poly"
_ORDER = 4


def detect(content: Any) -> bool:
    """Return whether there is WoodScape's ``intrinsic``."""
    if not isinstance(content, Mapping):
        return False
    part = content.get("intrinsic")
    return isinstance(part, Mapping) and ("cx_offset" in part or part.get("model") == _MODEL)


def list_cameras(content: Any, where: str) -> Mapping[Any, Any]:
    """Return the file's one camera."""
    content = c.mapping(content, "the file", where)
    part = c.mapping(c.get(content, "intrinsic", where), "intrinsic", where)
    return {str(content.get("name", "camera")): part}


def describe(part: Any, where: str) -> c.Description:
    """Return the file's camera."""
    model = part.get("model", _MODEL)
    order = part.get("poly_order", _ORDER)
    if model != _MODEL or order != _ORDER:
        raise UserError(
            f"{where}: model {c.shown(model)} of order {c.shown(order)} is not read; "
            f"{_MODEL} of order {_ORDER} is"
        )
    height, width = (c.side(c.get(part, key, where), key, where) for key in ("height", "width"))
    x = c.number(c.get(part, "cx_offset", where), "cx_offset", where)
    y = c.number(c.get(part, "cy_offset", where), "cy_offset", where)
    aspect = c.focal(part.get("aspect_ratio", 1.0), "aspect_ratio", where)
    names = [f"k{power}" for power in range(1, _ORDER + 1)]
    k = [c.number(c.get(part, name, where), name, where) for name in names]
    if k[0] <= 0:
        raise UserError(f"{where}: k1 = {k[0]:g}; it is the focal length and must be positive")
    centre = (x + width / 2 - 0.5, y + height / 2 - 0.5)
    params = (1.0, aspect, *centre, *k)
    return c.Description("radial_polynomial", params, (height, width), first_centre=0.0)


FORMAT = c.Format("woodscape", "WoodScape JSON", detect, list_cameras, describe)
