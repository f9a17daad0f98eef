"""Project Aria's JSON: a device's calibration, HOT3D's cameras, or one camera.

A camera has ``Projection`` (``Name``, ``Params``), or ``projection_model_type`` and
``projection_params``. FISHEYE624 has one focal length (15 numbers) or two (16). A device's own
calibration has no image size; it has to be given.

First pixel's centre: (0, 0), as ``CameraCalibration`` in projectaria_tools has it.
Source: projectaria_tools' ``FisheyeRadTanThinPrism.h`` and its documentation.
"""

from collections.abc import Mapping
from typing import Any

from dart.cameras.calibration import content as c
from dart.errors import UserError

_TERMS = ("k0", "k1", "k2", "k3", "k4", "k5", "p0", "p1", "s0", "s1", "s2", "s3")
_KB = ("k0", "k1", "k2", "k3")
_ONE, _TWO = ("f", "cx", "cy"), ("fx", "fy", "cx", "cy")
_MODELS = {
    "fisheye624": ("fisheye624", _TERMS),
    "fisheyeradtanthinprism": ("fisheye624", _TERMS),
    "kannalabrandtk3": ("kannala_brandt", _KB),
    "kb3": ("kannala_brandt", _KB),
    "linear": ("pinhole", ()),
    "pinhole": ("pinhole", ()),
}
_WRAPPERS = ("calibration", "cam_model", "camera_model", "intrinsics")
_NAME_KEYS = ("projection_model_type", "model_name", "model")
_PARAM_KEYS = ("projection_params", "params", "camera_params")
_SIZES = (("image_height", "image_width"), ("height", "width"))


def detect(content: Any) -> bool:
    """Return whether there is a list of Aria's cameras, or a camera with Aria's words."""
    if not isinstance(content, Mapping):
        return False
    if isinstance(content.get("CameraCalibrations"), list):
        return True
    return any(_is_camera(part) for part in (content, *content.values()))


def _is_camera(part: Any) -> bool:
    if not isinstance(part, Mapping):
        return False
    part = _inner(part)
    model = part.get("model", part.get("model_name"))
    aria = isinstance(model, str) and _plain(model) in ("fisheye624", "kannalabrandtk3")
    own = model == "fisheye624" and "params" in part  # a file of this project
    listed = aria and any(key in part for key in _PARAM_KEYS)
    return ("Projection" in part or "projection_params" in part or listed) and not own


def _inner(part: Mapping[Any, Any]) -> Mapping[Any, Any]:
    for key in _WRAPPERS:
        inner = part.get(key)
        if isinstance(inner, Mapping) and any(k in inner for k in ("Projection", *_PARAM_KEYS)):
            return inner
    return part


def list_cameras(content: Any, where: str) -> Mapping[Any, Any]:
    """Return the cameras by label."""
    content = c.mapping(content, "the file", where)
    if "CameraCalibrations" in content:
        parts = content["CameraCalibrations"]
        if not isinstance(parts, list) or not parts:
            raise UserError(f"{where}: CameraCalibrations must list cameras, got {c.shown(parts)}")
        named = [c.mapping(part, f"camera {i}", where) for i, part in enumerate(parts)]
        return {str(part.get("Label", i)): part for i, part in enumerate(named)}
    if _is_camera(content):
        part = _inner(content)
        return {str(part.get("label", "camera")): part}
    found = {str(k): _inner(v) for k, v in content.items() if _is_camera(v)}
    if not found:
        raise UserError(f"{where}: no camera with projection_model_type and projection_params")
    return found


def _plain(model: str) -> str:
    return model.rpartition(".")[2].replace("_", "").replace("-", "").lower()


def describe(part: Any, where: str) -> c.Description:
    """Return one camera."""
    projection = part.get("Projection", part)
    projection = c.mapping(projection, "Projection", where)
    names = ("Name", *_NAME_KEYS)
    model = next((projection[key] for key in names if key in projection), None)
    if not isinstance(model, str) or _plain(model) not in _MODELS:
        raise UserError(
            f"{where}: the model {c.shown(model)} is not read; read are FISHEYE624, "
            "FisheyeRadTanThinPrism, KANNALA_BRANDT_K3, LINEAR"
        )
    lens, terms = _MODELS[_plain(model)]
    keys = ("Params", *_PARAM_KEYS)
    values = next((projection[key] for key in keys if key in projection), None)
    single = isinstance(values, list) and len(values) == len(_ONE) + len(terms)
    params = c.numbers(values, (*(_ONE if single else _TWO), *terms), f"{model} params", where)
    if single:
        params = [params[0], *params]
    for name, value in zip(("fx", "fy"), params, strict=False):
        c.focal(value, name, where)
    return c.Description(lens, tuple(params), _size(part, where), first_centre=0.0)


def _size(part: Mapping[Any, Any], where: str) -> tuple[int, int] | None:
    for height, width in _SIZES:
        if height in part and width in part:
            return c.side(part[height], height, where), c.side(part[width], width, where)
    for key in ("image_size", "ImageSize"):
        if key in part:
            width, height = c.numbers(part[key], ("width", "height"), key, where)
            return c.side(height, "height", where), c.side(width, "width", where)
    return None


FORMAT = c.Format(
    "aria",
    "Project Aria JSON (Fisheye624)",
    detect,
    list_cameras,
    describe,
    default=("camera-rgb", "214-1"),
)
