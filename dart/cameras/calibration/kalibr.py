"""Kalibr's ``camchain.yaml``: cameras cam0, cam1, ... with a projection and a distortion.

First pixel's centre: (0, 0), that of the corner detectors of OpenCV and AprilTag.
Source: Kalibr's wiki, "Supported models" and "YAML formats".
"""

from collections.abc import Mapping
from typing import Any

from dart.cameras.calibration import content as c
from dart.errors import UserError

_PIXELS = ("fu", "fv", "pu", "pv")
_KEYS = {"camera_model", "intrinsics"}
_EXTRA = {"pinhole": (), "omni": ("xi",), "eucm": ("alpha", "beta"), "ds": ("xi", "alpha")}
_DISTORTIONS = {
    "radtan": ("k1", "k2", "p1", "p2"),
    "equidistant": ("k1", "k2", "k3", "k4"),
    "none": (),
}
_LENSES = {
    ("pinhole", "none"): "pinhole",
    ("pinhole", "radtan"): "radial_tangential",
    ("pinhole", "equidistant"): "kannala_brandt",
    ("omni", "none"): "mei",
    ("omni", "radtan"): "mei",
    ("eucm", "none"): "eucm",
    ("ds", "none"): "double_sphere",
}


def detect(content: Any) -> bool:
    """Return whether a part of the content has Kalibr's ``camera_model`` and ``intrinsics``."""
    return isinstance(content, Mapping) and any(
        isinstance(part, Mapping) and "camera_model" in part and "intrinsics" in part
        for part in content.values()
    )


def list_cameras(content: Any, where: str) -> Mapping[Any, Any]:
    """Return the cameras of the chain by their names."""
    content = c.mapping(content, "the file", where)
    found = {str(k): v for k, v in content.items() if isinstance(v, Mapping) and _KEYS & v.keys()}
    if not found:
        raise UserError(f"{where}: no camera cam0 with camera_model and intrinsics")
    return found


def describe(part: Any, where: str) -> c.Description:
    """Return one camera of the chain."""
    part = c.mapping(part, "the camera", where)
    model = _known(c.get(part, "camera_model", where), _EXTRA, "camera_model", where)
    distortion = part.get("distortion_model", "none")
    distortion = _known(distortion, _DISTORTIONS, "distortion_model", where)
    own = _EXTRA[model]
    values = c.numbers(
        c.get(part, "intrinsics", where), (*own, *_PIXELS), f"intrinsics of {model}", where
    )
    names = _DISTORTIONS[distortion]
    terms = c.numbers(part.get("distortion_coeffs") or [], names, "distortion_coeffs", where)
    width, height = c.numbers(
        c.get(part, "resolution", where), ("width", "height"), "resolution", where
    )
    lens = _lens(model, distortion, terms, where)
    tail = _tail(lens, values[: len(own)], terms)
    size = c.side(height, "resolution: height", where), c.side(width, "resolution: width", where)
    return c.Description(lens, (*values[len(own) :], *tail), size, first_centre=0.0)


def _known(value: Any, known: Mapping[Any, Any], key: str, where: str) -> str:
    if not isinstance(value, str) or value not in known:
        raise UserError(f"{where}: {key} {c.shown(value)}; read are {', '.join(known)}")
    return value


def _lens(model: str, distortion: str, terms: list[float], where: str) -> str:
    key = (model, distortion if any(terms) or model in ("pinhole", "omni") else "none")
    if key not in _LENSES:
        known = ", ".join("-".join(pair) for pair in _LENSES)
        raise UserError(f"{where}: {model}-{distortion} is not read; read are {known}")
    return _LENSES[key]


def _tail(lens: str, own: list[float], terms: list[float]) -> tuple[float, ...]:
    """Return the parameters after the principal point, in the lens's order."""
    if lens == "radial_tangential":
        return (*terms, 0.0, 0.0, 0.0, 0.0)
    if lens == "mei":
        return (*own, *(terms or (0.0, 0.0, 0.0, 0.0)))
    return tuple(terms if lens == "kannala_brandt" else own)


FORMAT = c.Format("kalibr", "Kalibr camchain.yaml", detect, list_cameras, describe)
