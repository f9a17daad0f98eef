"""JSON with the intrinsics side by side: ``model``, ``width``, ``height``, ``fx``, ``fy``, ...

The layouts of the data formats ``real_triples`` (``pinhole``, or ``kannala_brandt4`` with ``k`` and
``max_theta_deg``, half its field of view) and ``homes`` (``erp`` with ``w`` and ``h``).

First pixel's centre: (0, 0); a panorama covers the whole sphere, from edge to edge.
Source: the manifest of ``real_triples``.
"""

import math
from collections.abc import Mapping
from typing import Any

from dart.cameras.calibration import content as c
from dart.errors import UserError

_MODELS = ("pinhole", "kannala_brandt4", "erp")


def detect(content: Any) -> bool:
    """Return whether a model stands beside its focal length or its sides."""
    return (
        isinstance(content, Mapping)
        and isinstance(content.get("model"), str)
        and "params" not in content
        and ("fx" in content or "k" in content or content["model"] in _MODELS)
    )


def list_cameras(content: Any, where: str) -> Mapping[Any, Any]:
    """Return the file's one camera."""
    return {"camera": c.mapping(content, "the file", where)}


def describe(part: Any, where: str) -> c.Description:
    """Return the file's camera."""
    model = part.get("model")
    if model not in _MODELS:
        raise UserError(
            f"{where}: model {c.shown(model)} is not read; read are {', '.join(_MODELS)}"
        )
    if model == "erp":
        height, width = (c.side(c.get(part, key, where), key, where) for key in ("h", "w"))
        pixels = (width / math.tau, height / math.pi, (width - 1) / 2, (height - 1) / 2)
        return c.Description("equirectangular", pixels, (height, width), first_centre=0.0)
    height, width = (c.side(c.get(part, key, where), key, where) for key in ("height", "width"))
    fx, fy = (c.focal(c.get(part, key, where), key, where) for key in ("fx", "fy"))
    cx, cy = (c.number(c.get(part, key, where), key, where) for key in ("cx", "cy"))
    if model == "pinhole":
        return c.Description(model, (fx, fy, cx, cy), (height, width), first_centre=0.0)
    k = c.numbers(c.get(part, "k", where), ("k1", "k2", "k3", "k4"), "k", where)
    limit = None
    if "max_theta_deg" in part:
        limit = math.radians(c.number(part["max_theta_deg"], "max_theta_deg", where))
    size = (height, width)
    return c.Description("kannala_brandt", (fx, fy, cx, cy, *k), size, 0.0, max_polar=limit)


FORMAT = c.Format("flat", "flat JSON (real_triples, homes)", detect, list_cameras, describe)
