"""OpenCV's FileStorage (YAML, XML or JSON), and ROS's camera_info in YAML.

OpenCV writes no names of its own: these are the keys of its samples, of ROS and of common scripts.
Four distortion coefficients are k1 k2 p1 p2 of a plain lens or k1..k4 of a fisheye; the file has
to say which (``distortion_model``, ``fisheye_model``), or the format is named: ``opencv`` or
``opencv_fisheye``.

First pixel's centre: (0, 0).
Source: OpenCV's ``calib3d`` and ``fisheye`` documentation; ROS's ``sensor_msgs/CameraInfo``.
"""

from collections.abc import Mapping
from typing import Any

from dart.cameras.calibration import content as c
from dart.errors import UserError

_PAIRS = (
    ("camera_matrix", "distortion_coefficients"),
    ("camera_matrix", "dist_coeffs"),
    ("camera_matrix", "dist_coeff"),
    ("cameraMatrix", "distCoeffs"),
    ("Camera_Matrix", "Distortion_Coefficients"),
    ("K", "D"),
    ("k", "d"),
    ("mtx", "dist"),
    *((f"{k}{i}", f"{d}{i}") for i in (1, 2) for k, d in (("M", "D"), ("K", "D"))),
)
_SIZES = (("image_height", "image_width"), ("height", "width"), ("Height", "Width"))
_MODEL_KEYS = ("distortion_model", "camera_model", "model")
_FISHEYE_KEYS = ("fisheye_model", "fisheye", "is_fisheye")
_KB = ("k1", "k2", "k3", "k4")
_KINDS = {
    "fisheye": "fisheye",
    "equidistant": "fisheye",
    "kannala_brandt": "fisheye",
    "plumb_bob": "plain",
    "radtan": "plain",
    "rational_polynomial": "plain",
    "pinhole": "plain",
    "none": "plain",
}
_ORDER = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
_UNSUPPORTED = {12: "thin prism terms", 14: "thin prism and tilt terms"}


def detect(content: Any) -> bool:
    """Return whether there is a camera matrix under one of the known names."""
    return (
        isinstance(content, Mapping)
        and "params" not in content
        and "cx" not in content  # flat JSON has its four k1..k4 under ``k``
        and any(_is_matrix(content[key]) for key, _ in _PAIRS if key in content)
    )


def _is_matrix(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, Mapping) and "data" in value)


def list_cameras(content: Any, where: str) -> Mapping[Any, Any]:
    """Return one camera by the name of each camera matrix; a stereo file has M1 and M2."""
    content = c.mapping(content, "the file", where)
    found = {}
    for matrix, distortion in _PAIRS:
        if matrix in content and (matrix not in found or distortion in content):
            found[matrix] = {**content, "_matrix": content[matrix], "_d": content.get(distortion)}
    if not found:
        raise UserError(f"{where}: no camera matrix; it is called one of {_names()}")
    return found


def _names() -> str:
    return ", ".join(dict.fromkeys(matrix for matrix, _ in _PAIRS))


def describe(part: Any, where: str) -> c.Description:
    """Return the camera of a file whose kind of lens is said in it, or certain from the count."""
    return _describe(part, where, _kind(part, where))


def describe_fisheye(part: Any, where: str) -> c.Description:
    """Return the camera of a file that is known to be ``cv2.fisheye``'s."""
    return _describe(part, where, "fisheye")


def describe_plain(part: Any, where: str) -> c.Description:
    """Return the camera of a file that is known not to be a fisheye's, unless it says so."""
    return _describe(part, where, _kind(part, where) or "plain")


def _kind(part: Mapping[Any, Any], where: str) -> str | None:
    for key in _FISHEYE_KEYS:
        if key in part:
            return "fisheye" if c.number(_truth(part[key]), key, where) else "plain"
    for key in _MODEL_KEYS:
        if key in part:
            model = str(part[key]).lower()
            if model not in _KINDS:
                raise UserError(
                    f"{where}: unknown {key} {c.shown(part[key])}; known: {', '.join(_KINDS)}"
                )
            return _KINDS[model]
    return None


def _truth(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    return {"true": 1, "false": 0}.get(str(value).lower(), value)


def _describe(part: Mapping[Any, Any], where: str, kind: str | None) -> c.Description:
    matrix = c.numbers(_flat(part["_matrix"]), [f"K{i}" for i in range(9)], "the matrix", where)
    pixels = c.intrinsics(matrix, where)
    model, extra = _distortion(_flat([] if part["_d"] is None else part["_d"]), kind, where)
    return c.Description(model, (*pixels, *extra), _size(part, where), first_centre=0.0)


def _distortion(values: Any, kind: str | None, where: str) -> tuple[str, tuple[float, ...]]:
    if not isinstance(values, list):
        raise UserError(f"{where}: the distortion must be a list, got {c.shown(values)}")
    if kind == "fisheye":
        return "kannala_brandt", tuple(c.numbers(values, _KB, "the fisheye distortion", where))
    numbers = [c.number(value, "distortion", where) for value in values]
    if len(numbers) in _UNSUPPORTED:
        if any(numbers[len(_ORDER) :]):
            raise UserError(f"{where}: {_UNSUPPORTED[len(numbers)]} of the distortion are not read")
        numbers = numbers[: len(_ORDER)]
    if len(numbers) not in (0, 4, 5, 8):
        raise UserError(f"{where}: {len(numbers)} distortion coefficients; there are 0, 4, 5 or 8")
    if not any(numbers):
        return "pinhole", ()
    if len(numbers) == 4 and kind is None:
        raise UserError(
            f"{where}: 4 distortion coefficients are k1 k2 p1 p2 or a fisheye's k1..k4, and no "
            "fisheye_model or distortion_model says which; choose --format opencv or "
            "opencv_fisheye (a manifest's column camera_format), or add fisheye_model: 1"
        )
    return "radial_tangential", (*numbers, *[0.0] * (len(_ORDER) - len(numbers)))


def _flat(value: Any) -> Any:
    """Return the numbers of a matrix: OpenCV's ``data``, or a list, nested or not."""
    data = value.get("data") if isinstance(value, Mapping) else value
    if isinstance(data, list) and data and all(isinstance(row, list) for row in data):
        return [number for row in data for number in row]
    return data


def _size(part: Mapping[Any, Any], where: str) -> tuple[int, int] | None:
    for height, width in _SIZES:
        if height in part and width in part:
            return c.side(part[height], height, where), c.side(part[width], width, where)
    if "image_size" in part:
        width, height = c.numbers(
            _flat(part["image_size"]), ("width", "height"), "image_size", where
        )
        return c.side(height, "height", where), c.side(width, "width", where)
    return None


FORMAT = c.Format(
    "opencv",
    "OpenCV YAML, XML or JSON; ROS camera_info",
    detect,
    list_cameras,
    describe,
    describe_named=describe_plain,
)
FISHEYE = c.Format(
    "opencv_fisheye",
    "the same, known to be a fisheye's",
    lambda _: False,
    list_cameras,
    describe_fisheye,
)
