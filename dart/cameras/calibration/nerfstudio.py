"""nerfstudio's (and instant-ngp's) ``transforms.json``: one camera, or one a frame.

Intrinsics stand at the top or in the frames, which win. A frame's camera has its ``file_path`` as
its name; where all frames share one, it is called ``all``.

First pixel's centre: (0.5, 0.5), as ``Cameras.get_image_coords`` has it.
Source: nerfstudio's "Data conventions" and ``cameras/cameras.py``. An equirectangular image's
``fl_x`` and ``fl_y`` are pixels per half turn there, and by default the whole sphere.
"""

import math
from collections.abc import Mapping
from typing import Any

from dart.cameras.calibration import content as c
from dart.errors import UserError, did_you_mean

_PLAIN = ("k1", "k2", "p1", "p2", "k3")
_KB = ("k1", "k2", "k3", "k4")
_MODELS = {
    "PINHOLE": "plain",
    "SIMPLE_PINHOLE": "plain",
    "PERSPECTIVE": "plain",
    "OPENCV": "plain",
    "FULL_OPENCV": "plain",
    "OPENCV_FISHEYE": "fisheye",
    "FISHEYE": "fisheye",
    "EQUIRECTANGULAR": "equirectangular",
}
_KEYS = {
    *("camera_model", "fl_x", "fl_y", "cx", "cy", "w", "h", "camera_angle_x", "is_fisheye"),
    *("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2"),
}


def detect(content: Any) -> bool:
    """Return whether there are frames of images, or nerfstudio's words for a focal length."""
    if not isinstance(content, Mapping):
        return False
    frames = content.get("frames")
    first = frames[0] if isinstance(frames, list) and frames else None
    named = isinstance(first, Mapping) and "file_path" in first
    return named or "fl_x" in content or "camera_angle_x" in content


def list_cameras(content: Any, where: str) -> Mapping[Any, Any]:
    """Return the camera of every frame, or the one they all share."""
    content = c.mapping(content, "the file", where)
    shared = {key: content[key] for key in _KEYS & content.keys()}
    frames = content.get("frames", [])
    if not isinstance(frames, list):
        raise UserError(f"{where}: frames must be a list, got {c.shown(frames)}")
    found: dict[str, dict[str, Any]] = {}
    for index, frame in enumerate(frames):
        own = c.mapping(frame, f"frame {index}", where)
        part = shared | {key: own[key] for key in _KEYS & own.keys()}
        found[str(own.get("file_path", index))] = part
    first = next(iter(found.values()), shared)
    return {"all": first} if all(part == first for part in found.values()) else found


def describe(part: Any, where: str) -> c.Description:
    """Return one frame's camera."""
    kind = _kind(part, where)
    missing = [key for key in ("w", "h") if key not in part]
    if missing:
        names = f"{missing[0]} is" if len(missing) == 1 else "w and h are"
        raise UserError(
            f"{where}: {names} missing; write the images' width and height in pixels into the file"
        )
    width, height = (c.side(part[key], key, where) for key in ("w", "h"))
    cx = c.number(part.get("cx", width / 2), "cx", where)
    cy = c.number(part.get("cy", height / 2), "cy", where)
    if kind == "equirectangular":
        fx = c.focal(part.get("fl_x", width / 2), "fl_x", where) / math.pi
        fy = c.focal(part.get("fl_y", height), "fl_y", where) / math.pi
        return c.Description(kind, (fx, fy, cx, cy), (height, width), first_centre=0.5)
    fx = _focal(part, width, where)
    fy = c.focal(part.get("fl_y", fx), "fl_y", where)
    lens, extra = _distortion(part, kind, where)
    return c.Description(lens, (fx, fy, cx, cy, *extra), (height, width), first_centre=0.5)


def _kind(part: Mapping[Any, Any], where: str) -> str:
    model = part.get("camera_model")
    if model is None:
        return "fisheye" if part.get("is_fisheye") else "plain"
    if not isinstance(model, str) or model not in _MODELS:
        raise UserError(
            f"{where}: camera_model {c.shown(model)} is not read; read are {', '.join(_MODELS)}"
            + did_you_mean(str(model), _MODELS)
        )
    return _MODELS[model]


def _focal(part: Mapping[Any, Any], width: int, where: str) -> float:
    if "fl_x" in part or "camera_angle_x" not in part:
        return c.focal(c.get(part, "fl_x", where), "fl_x", where)
    angle = c.number(part["camera_angle_x"], "camera_angle_x", where)
    if not 0 < angle < math.pi:
        raise UserError(f"{where}: camera_angle_x = {angle:g}; it must lie between 0 and pi")
    return width / 2 / math.tan(angle / 2)


def _distortion(part: Mapping[Any, Any], kind: str, where: str) -> tuple[str, tuple[float, ...]]:
    names = (*_PLAIN, "k4", "k5", "k6")
    given = {name: c.number(part.get(name, 0.0), name, where) for name in names}
    if kind == "fisheye":
        unread = [name for name in ("p1", "p2", "k5", "k6") if given[name]]
        terms = tuple(given[name] for name in _KB)
        model = "kannala_brandt"
    else:
        # nerfstudio's k4 is a fourth power series term, OpenCV's stands below the fraction.
        unread = [name for name in ("k4", "k5", "k6") if given[name]]
        terms = (*(given[name] for name in _PLAIN), 0.0, 0.0, 0.0)
        model = "radial_tangential" if any(terms) else "pinhole"
    if unread:
        raise UserError(f"{where}: {', '.join(unread)} of this camera_model is not read; 0 is")
    return model, terms if model != "pinhole" else ()


FORMAT = c.Format("nerfstudio", "nerfstudio transforms.json", detect, list_cameras, describe)
