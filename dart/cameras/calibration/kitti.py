"""KITTI: ``calib_cam_to_cam.txt``, KITTI-360's ``perspective.txt``, the odometry's ``calib.txt``.

The images that both sets hand out are rectified: pinholes with the first three columns of
``P_rect_XX``. The names are ``image_00`` .. ``image_03``, as the folders are called. The odometry's
and the detection set's files (``P0`` .. ``P3``) have no image size; it has to be given.

First pixel's centre: (0, 0).
Source: the readme of KITTI's raw development kit; KITTI-360's documentation.
"""

import re
from collections.abc import Mapping
from typing import Any

from dart.cameras.calibration import content as c
from dart.errors import UserError

_RECTIFIED = re.compile(r"^P_rect_(\d\d):(.*)$", re.MULTILINE)
_ODOMETRY = re.compile(r"^P(\d):(.*)$", re.MULTILINE)
_SIZE = r"^S_rect_{}:(.*)$"


def detect(content: Any) -> bool:
    """Return whether a line begins with ``P_rect_``."""
    return isinstance(content, str) and _RECTIFIED.search(content) is not None


def detect_odometry(content: Any) -> bool:
    """Return whether a line begins with ``P0:`` or the like."""
    return isinstance(content, str) and _ODOMETRY.search(content) is not None


def list_cameras(content: Any, where: str) -> Mapping[Any, Any]:
    """Return matrix and size of every rectified camera."""
    text = str(content)
    found = {}
    for number, matrix in _RECTIFIED.findall(text):
        size = re.search(_SIZE.format(number), text, re.MULTILINE)
        found[f"image_{number}"] = (matrix, size[1] if size else None)
    return _some(found, "P_rect_02", where)


def list_odometry(content: Any, where: str) -> Mapping[Any, Any]:
    """Return the matrix of every camera."""
    found = {
        f"image_{number}": (matrix, None) for number, matrix in _ODOMETRY.findall(str(content))
    }
    return _some(found, "P2", where)


def _some(found: Mapping[Any, Any], example: str, where: str) -> Mapping[Any, Any]:
    if not found:
        raise UserError(f"{where}: no line '{example}: ' with twelve numbers")
    return found


def describe(part: Any, where: str) -> c.Description:
    """Return one camera's pinhole."""
    matrix, size = part
    names = [f"P{row}{column}" for row in range(3) for column in range(4)]
    p = c.numbers(matrix.split(), names, "the projection", where)
    pixels = c.intrinsics([*p[:3], *p[4:7], *p[8:11]], where)
    if size is None:
        return c.Description("pinhole", pixels, None, first_centre=0.0)
    width, height = c.numbers(size.split(), ("width", "height"), "S_rect", where)
    sides = c.side(height, "S_rect: height", where), c.side(width, "S_rect: width", where)
    return c.Description("pinhole", pixels, sides, first_centre=0.0)


FORMAT = c.Format(
    "kitti",
    "KITTI calib_cam_to_cam.txt, KITTI-360 perspective.txt",
    detect,
    list_cameras,
    describe,
    default=("image_02", "image_00"),
)
ODOMETRY = c.Format(
    "kitti_odometry",
    "KITTI odometry calib.txt",
    detect_odometry,
    list_odometry,
    describe,
    default=("image_2", "image_0"),
)
