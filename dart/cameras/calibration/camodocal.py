"""CamOdoCal's YAML, which KITTI-360's fisheyes have (``image_02.yaml``, ``image_03.yaml``).

First pixel's centre: (0, 0), that of its corner detector.
Source: CamOdoCal's ``camera_models``, FACTS 8.
"""

from collections.abc import Mapping
from typing import Any

from dart.cameras.calibration import content as c
from dart.errors import UserError, did_you_mean

_TERMS = ("k1", "k2", "p1", "p2")
_MODELS = ("MEI", "KANNALA_BRANDT", "PINHOLE")


def detect(content: Any) -> bool:
    """Return whether there are CamOdoCal's projection parameters."""
    return isinstance(content, Mapping) and (
        "projection_parameters" in content or "mirror_parameters" in content
    )


def list_cameras(content: Any, where: str) -> Mapping[Any, Any]:
    """Return the file's one camera."""
    content = c.mapping(content, "the file", where)
    return {str(content.get("camera_name", "camera")): content}


def describe(part: Any, where: str) -> c.Description:
    """Return the file's camera."""
    model = str(part.get("model_type", "MEI"))
    if model not in _MODELS:
        raise UserError(
            f"{where}: model_type {c.shown(part['model_type'])} is not read; read are "
            f"{', '.join(_MODELS)}{did_you_mean(model, _MODELS)}"
        )
    keys = ("image_height", "image_width")
    height, width = (c.side(c.get(part, key, where), key, where) for key in keys)
    lens, params = _READERS[model](part, where)
    return c.Description(lens, params, (height, width), first_centre=0.0)


def _values(part: Mapping[Any, Any], group: str, names: tuple[str, ...], where: str) -> list[float]:
    values = c.mapping(c.get(part, group, where), group, where)
    where = f"{where}: {group}"
    found = [c.number(c.get(values, name, where), name, where) for name in names]
    for name, value in zip(names, found, strict=True):
        if name in ("gamma1", "gamma2", "fx", "fy", "mu", "mv"):
            c.focal(value, name, where)
    return found


def _mei(part: Mapping[Any, Any], where: str) -> tuple[str, tuple[float, ...]]:
    pixels = _values(part, "projection_parameters", ("gamma1", "gamma2", "u0", "v0"), where)
    mirror = _values(part, "mirror_parameters", ("xi",), where)
    terms = _values(part, "distortion_parameters", _TERMS, where)
    return "mei", (*pixels, *mirror, *terms)


def _kannala_brandt(part: Mapping[Any, Any], where: str) -> tuple[str, tuple[float, ...]]:
    names = ("mu", "mv", "u0", "v0", "k2", "k3", "k4", "k5")
    return "kannala_brandt", tuple(_values(part, "projection_parameters", names, where))


def _pinhole(part: Mapping[Any, Any], where: str) -> tuple[str, tuple[float, ...]]:
    pixels = _values(part, "projection_parameters", ("fx", "fy", "cx", "cy"), where)
    terms = _values(part, "distortion_parameters", _TERMS, where)
    if not any(terms):
        return "pinhole", tuple(pixels)
    return "radial_tangential", (*pixels, *terms, 0.0, 0.0, 0.0, 0.0)


_READERS = {"MEI": _mei, "KANNALA_BRANDT": _kannala_brandt, "PINHOLE": _pinhole}

FORMAT = c.Format("kitti360", "KITTI-360 image_02.yaml (CamOdoCal)", detect, list_cameras, describe)
