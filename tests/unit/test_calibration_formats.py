"""Every published calibration format: written as its tool writes it, read, and held against a ray
computed another way."""

import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml

from dart.cameras import Camera, load_calibration
from dart.cameras.calibration import list_formats, list_names
from dart.errors import UserError

RAY = np.array([0.3, -0.2, 1.0])
K = np.array([[500.0, 0, 321.5], [0, 505.0, 238.25], [0, 0, 1]])
PLUMB = np.array([-0.28, 0.09, 1.5e-3, -7e-4, -0.011])
RATIONAL = np.array([0.4, -0.1, 1e-3, -2e-3, 0.02, 0.75, -0.05, 0.01])
FISHEYE = np.array([0.05, -0.012, 0.002, -1e-4])


def pixel(camera: Camera, ray: Any = RAY) -> np.ndarray:
    """Project in float64; the parameters themselves are float32."""
    pixels, seen = camera.project(torch.tensor(ray, dtype=torch.float64))
    assert bool(seen)
    return pixels.numpy()


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def opencv_pixel(distortion: np.ndarray, *, fisheye: bool = False) -> np.ndarray:
    """OpenCV's own projection; its first pixel's centre is (0, 0)."""
    zero = np.zeros(3)
    points = RAY.reshape(1, 1, 3)
    project = cv2.fisheye.projectPoints if fisheye else cv2.projectPoints
    return project(points, zero, zero, K, distortion)[0].reshape(2)


def file_storage(path: Path, distortion: np.ndarray, **more: Any) -> Path:
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    storage.write("image_width", 640)
    storage.write("image_height", 480)
    for key, value in more.items():
        storage.write(key, value)
    storage.write("camera_matrix", K)
    storage.write("distortion_coefficients", distortion.reshape(1, -1))
    storage.release()
    return path


@pytest.mark.parametrize("suffix", ["yml", "xml", "json"])
@pytest.mark.parametrize("distortion", [PLUMB, RATIONAL], ids=["plumb_bob", "rational"])
def test_opencv_file_storage(suffix: str, distortion: np.ndarray, tmp_path: Path) -> None:
    camera = load_calibration(file_storage(tmp_path / f"a.{suffix}", distortion))
    assert camera.size == (480, 640)
    assert pixel(camera) == pytest.approx(opencv_pixel(distortion) + 0.5, abs=1e-4)


@pytest.mark.parametrize("suffix", ["yml", "xml", "json"])
def test_opencv_fisheye(suffix: str, tmp_path: Path) -> None:
    path = file_storage(tmp_path / f"a.{suffix}", FISHEYE, fisheye_model=1)
    expected = opencv_pixel(FISHEYE, fisheye=True) + 0.5
    assert pixel(load_calibration(path)) == pytest.approx(expected, abs=1e-4)


def test_opencv_before_version_5_has_its_own_directive(tmp_path: Path) -> None:
    text = file_storage(tmp_path / "a.yml", PLUMB).read_text()
    old = write(tmp_path / "old.yml", "%YAML:1.0\n" + text.split("\n", 1)[1])
    assert load_calibration(old).key == load_calibration(tmp_path / "a.yml").key


def test_four_opencv_coefficients_are_two_lenses(tmp_path: Path) -> None:
    path = file_storage(tmp_path / "a.yml", FISHEYE)
    with pytest.raises(UserError, match="choose --format opencv or opencv_fisheye"):
        load_calibration(path)
    fisheye = load_calibration(path, format="opencv_fisheye")
    plain = load_calibration(path, format="opencv")
    assert pixel(fisheye) == pytest.approx(opencv_pixel(FISHEYE, fisheye=True) + 0.5, abs=1e-4)
    assert pixel(plain) == pytest.approx(opencv_pixel(FISHEYE) + 0.5, abs=1e-4)


def test_an_opencv_lens_without_distortion_is_a_pinhole(tmp_path: Path) -> None:
    camera = load_calibration(file_storage(tmp_path / "a.yml", np.zeros(5)))
    assert camera.model == "pinhole"
    # by hand: 500 * 0.3 + 321.5 + 0.5 and 505 * -0.2 + 238.25 + 0.5
    assert pixel(camera) == pytest.approx([472.0, 137.75], abs=1e-4)


@pytest.mark.parametrize(
    ("model", "distortion"),
    [("plumb_bob", PLUMB), ("rational_polynomial", RATIONAL), ("equidistant", FISHEYE)],
)
@pytest.mark.parametrize("layout", ["calibration", "message"])
def test_ros_camera_info(model: str, distortion: np.ndarray, layout: str, tmp_path: Path) -> None:
    content: dict[str, Any]
    if layout == "calibration":  # what camera_calibration writes
        content = {
            "image_width": 640,
            "image_height": 480,
            "camera_name": "narrow_stereo",
            "camera_matrix": {"rows": 3, "cols": 3, "data": K.flatten().tolist()},
            "distortion_model": model,
            "distortion_coefficients": {
                "rows": 1,
                "cols": len(distortion),
                "data": distortion.tolist(),
            },
            "rectification_matrix": {"rows": 3, "cols": 3, "data": np.eye(3).flatten().tolist()},
            "projection_matrix": {"rows": 3, "cols": 4, "data": [0.0] * 12},
        }
    else:  # what `rostopic echo` prints
        content = {
            "height": 480,
            "width": 640,
            "distortion_model": model,
            "D": distortion.tolist(),
            "K": K.flatten().tolist(),
            "R": np.eye(3).flatten().tolist(),
        }
    path = write(tmp_path / "camera_info.yaml", yaml.safe_dump(content))
    expected = opencv_pixel(distortion, fisheye=model == "equidistant") + 0.5
    assert pixel(load_calibration(path)) == pytest.approx(expected, abs=1e-4)


KALIBR = """cam0:
  cam_overlaps: [1]
  camera_model: {model}
  distortion_coeffs: {terms}
  distortion_model: {distortion}
  intrinsics: {intrinsics}
  resolution: [752, 480]
  rostopic: /cam0/image_raw
cam1:
  T_cn_cnm1:
  - [1.0, 0.0, 0.0, -0.11]
  - [0.0, 1.0, 0.0, 0.0]
  - [0.0, 0.0, 1.0, 0.0]
  - [0.0, 0.0, 0.0, 1.0]
  cam_overlaps: [0]
  camera_model: pinhole
  distortion_coeffs: []
  distortion_model: none
  intrinsics: [457.587, 456.134, 379.999, 255.238]
  resolution: [752, 480]
  rostopic: /cam1/image_raw
"""


def kalibr_plane(model: str, own: list[float]) -> np.ndarray:
    """Each projection of the Kalibr wiki, written again."""
    x, y, z = RAY
    if model == "pinhole":
        return np.array([x / z, y / z])
    if model == "omni":
        return np.array([x, y]) / (z + own[0] * np.linalg.norm(RAY))
    if model == "eucm":
        alpha, beta = own
        d = math.sqrt(beta * (x * x + y * y) + z * z)
        return np.array([x, y]) / (alpha * d + (1 - alpha) * z)
    xi, alpha = own
    d1 = np.linalg.norm(RAY)
    d2 = math.hypot(x, y, xi * d1 + z)
    return np.array([x, y]) / (alpha * d2 + (1 - alpha) * (xi * d1 + z))


def radtan(plane: np.ndarray, terms: list[float]) -> np.ndarray:
    (x, y), (k1, k2, p1, p2) = plane, terms
    r2 = x * x + y * y
    radial = 1 + k1 * r2 + k2 * r2 * r2
    return np.array(
        [
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
            y * radial + 2 * p2 * x * y + p1 * (r2 + 2 * y * y),
        ]
    )


def equidistant(plane: np.ndarray, terms: list[float]) -> np.ndarray:
    r = float(np.hypot(*plane))
    theta = math.atan(r)
    bent = theta + sum(k * theta ** (2 * i + 3) for i, k in enumerate(terms))
    return plane * bent / r


def test_ros_topic_as_it_is_echoed(tmp_path: Path) -> None:
    matrix = f"K: {K.flatten().tolist()}\n---\n"
    text = "header: \n  seq: 1\nheight: 480\nwidth: 640\ndistortion_model: plumb_bob\nD: []\n"
    camera = load_calibration(write(tmp_path / "camera_info.yaml", text + matrix))
    assert (camera.model, camera.size) == ("pinhole", (480, 640))


@pytest.mark.parametrize(
    ("model", "own", "distortion", "terms"),
    [
        ("pinhole", [], "radtan", [-0.28, 0.07, 2e-4, 1.8e-5]),
        ("pinhole", [], "equidistant", [-0.013, 0.02, -0.012, 0.0025]),
        ("pinhole", [], "none", []),
        ("omni", [1.8], "radtan", [-0.2, 0.1, 1e-3, -1e-3]),
        ("omni", [0.9], "none", []),
        ("eucm", [0.6, 1.1], "none", []),
        ("eucm", [0.6, 1.1], "radtan", [0.0, 0.0, 0.0, 0.0]),
        ("ds", [-0.2, 0.59], "none", []),
    ],
)
def test_kalibr(
    model: str, own: list[float], distortion: str, terms: list[float], tmp_path: Path
) -> None:
    intrinsics = [*own, 458.654, 457.296, 367.215, 248.375]
    text = KALIBR.format(model=model, terms=terms, distortion=distortion, intrinsics=intrinsics)
    camera = load_calibration(write(tmp_path / "camchain.yaml", text), name="cam0")
    plane = kalibr_plane(model, own)
    if any(terms):
        plane = (radtan if distortion == "radtan" else equidistant)(plane, terms)
    expected = plane * [458.654, 457.296] + [367.215, 248.375] + 0.5
    assert camera.size == (480, 752)
    assert pixel(camera) == pytest.approx(expected, abs=1e-3)


def test_kalibr_has_several_cameras(tmp_path: Path) -> None:
    values = {"model": "pinhole", "terms": [], "distortion": "none"}
    text = KALIBR.format(**values, intrinsics=[1.0, 1.0, 1.0, 1.0])
    path = write(tmp_path / "camchain.yaml", text)
    assert list_names(path) == ["cam0", "cam1"]
    with pytest.raises(UserError, match="2 cameras: cam0, cam1; choose with --name"):
        load_calibration(path)
    with pytest.raises(UserError, match="no camera 'cam2'; it has: cam0, cam1; did you mean"):
        load_calibration(path, name="cam2")
    assert load_calibration(path, name="cam1").params[0].item() == pytest.approx(457.587)


def test_kalibr_is_told_from_other_files_of_several_mappings(tmp_path: Path) -> None:
    content = {"camera_matrix": {"rows": 3, "cols": 3, "data": K.flatten().tolist()}}
    path = write(tmp_path / "ros.yaml", json.dumps(content))
    with pytest.raises(UserError, match="no camera cam0 with camera_model and intrinsics"):
        load_calibration(path, format="kalibr")


HEADER = """# Camera list with one line of data per camera:
#   CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]
# Number of cameras: 1
"""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("SIMPLE_PINHOLE 640 480 500 320 240", (320 + 150, 240 - 100)),
        ("PINHOLE 640 480 500 510 320 240", (320 + 150, 240 - 102)),
        ("SIMPLE_RADIAL 640 480 500 320 240 0.1", (320 + 150 * 1.013, 240 - 100 * 1.013)),
        ("RADIAL 640 480 500 320 240 0.1 0.5", (320 + 150 * 1.02145, 240 - 100 * 1.02145)),
    ],
)
def test_colmap_by_hand(line: str, expected: tuple[float, float], tmp_path: Path) -> None:
    # r^2 = 0.3^2 + 0.2^2 = 0.13; COLMAP's first centre is (0.5, 0.5) already, so nothing moves
    camera = load_calibration(write(tmp_path / "cameras.txt", f"{HEADER}1 {line}\n"))
    assert pixel(camera) == pytest.approx(expected, abs=1e-4)


def _text(*numbers: float) -> str:
    return " ".join(repr(float(number)) for number in numbers)


@pytest.mark.parametrize(
    ("model", "values", "expected"),
    [
        ("OPENCV", [500, 505, 321.5, 238.25, *PLUMB[:4]], opencv_pixel(PLUMB[:4])),
        ("FULL_OPENCV", [500, 505, 321.5, 238.25, *RATIONAL], opencv_pixel(RATIONAL)),
        (
            "OPENCV_FISHEYE",
            [500, 505, 321.5, 238.25, *FISHEYE],
            opencv_pixel(FISHEYE, fisheye=True),
        ),
    ],
)
def test_colmap_has_the_lenses_of_opencv(
    model: str, values: list[float], expected: np.ndarray, tmp_path: Path
) -> None:
    path = write(tmp_path / "cameras.txt", f"{HEADER}7 {model} 640 480 {_text(*values)}\n")
    assert pixel(load_calibration(path)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("line", "terms"),
    [
        ("SIMPLE_RADIAL_FISHEYE 640 480 500 320 240 0.1", [0.1]),
        ("RADIAL_FISHEYE 640 480 500 320 240 0.1 -0.02", [0.1, -0.02]),
        ("SIMPLE_FISHEYE 640 480 500 320 240", []),
        (
            "THIN_PRISM_FISHEYE 640 480 500 500 320 240 0.1 -0.02 0 0 0.01 0 0 0",
            [0.1, -0.02, 0.01],
        ),
    ],
)
def test_colmap_fisheyes(line: str, terms: list[float], tmp_path: Path) -> None:
    camera = load_calibration(write(tmp_path / "cameras.txt", f"{HEADER}1 {line}\n"))
    expected = 500 * equidistant(RAY[:2], terms) + [320, 240]
    assert pixel(camera) == pytest.approx(expected, abs=1e-4)


def test_colmap_thin_prism_fisheye(tmp_path: Path) -> None:
    # ETH3D's "courtyard", and COLMAP's ThinPrismFisheyeCameraModel written out
    eth3d = "3411.42 3410.02 3041.29 2014.07"
    terms = [0.21047, 0.21102, -5.36231e-06, 0.00051541, -0.158023, 0.406856, -8.5e-05, 8.6e-04]
    line = f"0 THIN_PRISM_FISHEYE 6048 4032 {eth3d} {_text(*terms)}\n"
    camera = load_calibration(write(tmp_path / "cameras.txt", line))
    k1, k2, p1, p2, k3, k4, sx1, sy1 = terms
    x, y = equidistant(RAY[:2], [])
    q = x * x + y * y
    radial = 1 + k1 * q + k2 * q**2 + k3 * q**3 + k4 * q**4
    right = x * radial + 2 * p1 * x * y + p2 * (q + 2 * x * x) + sx1 * q
    down = y * radial + 2 * p2 * x * y + p1 * (q + 2 * y * y) + sy1 * q
    expected = (3411.42 * right + 3041.29, 3410.02 * down + 2014.07)
    assert pixel(camera) == pytest.approx(expected, abs=2e-3)


def test_colmap_chooses_by_number_and_refuses_what_no_lens_is(tmp_path: Path) -> None:
    lines = "1 FOV 640 480 500 500 320 240 0.9\n2 PINHOLE 640 480 500 510 320 240\n"
    path = write(tmp_path / "cameras.txt", HEADER + lines)
    assert load_calibration(path, name="2").params[1].item() == 510
    with pytest.raises(UserError, match=r"1: the model FOV is not read: .*undistort"):
        load_calibration(path, name="1")
    with pytest.raises(UserError, match="2 cameras: 1, 2; choose"):
        load_calibration(path)


SHARED = {"w": 640, "h": 480, "fl_x": 500.0, "fl_y": 505.0, "cx": 321.5, "cy": 238.25}
FRAME = {"file_path": "images/frame_00001.png", "transform_matrix": np.eye(4).tolist()}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"camera_model": "PINHOLE"}, opencv_pixel(np.zeros(4))),
        (
            {"camera_model": "OPENCV", **dict(zip(("k1", "k2", "p1", "p2"), PLUMB, strict=False))},
            opencv_pixel(PLUMB[:4]),
        ),
        (
            {
                "camera_model": "OPENCV_FISHEYE",
                **dict(zip(("k1", "k2", "k3", "k4"), FISHEYE, strict=True)),
            },
            opencv_pixel(FISHEYE, fisheye=True),
        ),
    ],
    ids=["pinhole", "opencv", "fisheye"],
)
def test_nerfstudio(more: dict[str, Any], expected: np.ndarray, tmp_path: Path) -> None:
    content = {**SHARED, **more, "frames": [FRAME]}
    path = write(tmp_path / "transforms.json", json.dumps(content))
    assert pixel(load_calibration(path)) == pytest.approx(expected, abs=1e-4)


def test_nerfstudio_equirectangular_covers_the_sphere(tmp_path: Path) -> None:
    # nerfstudio writes fl_x = fl_y = height for panoramas
    content = {"camera_model": "EQUIRECTANGULAR", "w": 1000, "h": 500, "fl_x": 500, "fl_y": 500}
    path = write(tmp_path / "transforms.json", json.dumps(content | {"frames": [FRAME]}))
    camera = load_calibration(path)
    assert pixel(camera, [0.0, 0.0, 1.0]) == pytest.approx([500, 250], abs=1e-3)
    assert pixel(camera, [1.0, 0.0, 0.0]) == pytest.approx([750, 250], abs=1e-3)
    assert pixel(camera, [0.0, 1.0, 1.0]) == pytest.approx([500, 375], abs=1e-3)


def test_nerfstudio_frames_may_differ(tmp_path: Path) -> None:
    other = FRAME | {"file_path": "images/b.png", "fl_x": 700.0, "fl_y": 707.0}
    content = {**SHARED, "frames": [FRAME, other]}
    path = write(tmp_path / "transforms.json", json.dumps(content))
    with pytest.raises(UserError, match="2 cameras"):
        load_calibration(path)
    assert load_calibration(path, name="images/b.png").params[0].item() == 700


def test_blender_gives_an_angle(tmp_path: Path) -> None:
    content = {"camera_angle_x": math.radians(90), "w": 800, "h": 800, "frames": [FRAME]}
    camera = load_calibration(write(tmp_path / "transforms.json", json.dumps(content)))
    assert camera.params.tolist() == pytest.approx([400, 400, 400, 400])


KITTI = """calib_time: 09-Jan-2012 13:57:47
corner_dist: 9.950000e-02
S_02: 1.392000e+03 5.120000e+02
K_02: 9.597910e+02 0.000000e+00 6.960217e+02 0.000000e+00 9.569251e+02 2.241806e+02 0 0 1
D_02: -3.691481e-01 1.968681e-01 1.353473e-03 5.677587e-04 -6.770705e-02
S_rect_00: 1.242000e+03 3.750000e+02
P_rect_00: 7.215377e+02 0 6.095593e+02 0 0 7.215377e+02 1.728540e+02 0 0 0 1 0
S_rect_02: 1.242000e+03 3.750000e+02
R_rect_02: 9.998817e-01 1.511453e-02 -2.841595e-03 0 0 0 0 0 0
P_rect_02: 7.215377e+02 0.0 6.095593e+02 4.485728e+01 0 7.215377e+02 1.728540e+02 2.163791e-01 \
0 0 1.000000e+00 2.745884e-03
"""


def test_blenders_own_files_lack_the_size(tmp_path: Path) -> None:
    content = {"camera_angle_x": 0.69, "frames": [{"file_path": "./train/r_0"}]}
    path = write(tmp_path / "transforms_train.json", json.dumps(content))
    with pytest.raises(UserError, match="w and h are missing; write the images' width and height"):
        load_calibration(path)


def test_kitti_rectified(tmp_path: Path) -> None:
    camera = load_calibration(write(tmp_path / "calib_cam_to_cam.txt", KITTI))
    assert (camera.model, camera.size) == ("pinhole", (375, 1242))
    expected = [721.5377 * 0.3 + 609.5593 + 0.5, 721.5377 * -0.2 + 172.854 + 0.5]
    assert pixel(camera) == pytest.approx(expected, abs=1e-3)


def test_kitti_360_perspective_has_other_folders(tmp_path: Path) -> None:
    text = KITTI[: KITTI.index("S_rect_02")]
    camera = load_calibration(write(tmp_path / "perspective.txt", text))
    assert camera.params[2].item() == pytest.approx(610.0593)


def test_kitti_odometry_has_no_size(tmp_path: Path) -> None:
    rows = "7.188560e+02 0 6.071928e+02 {} 0 7.188560e+02 1.852157e+02 0 0 0 1 0"
    text = "".join(f"P{i}: {rows.format(-100.0 * i)}\n" for i in range(4)) + "Tr: 1 0 0\n"
    path = write(tmp_path / "calib.txt", text)
    with pytest.raises(UserError, match="does not say the image's size; give --size HxW"):
        load_calibration(path)
    camera = load_calibration(path, size=(376, 1241))
    assert camera.params.tolist() == pytest.approx([718.856, 718.856, 607.6928, 185.7157])


KITTI_360 = """%YAML:1.0
---
model_type: MEI
camera_name: image_02
image_width: 1400
image_height: 1400
mirror_parameters:
   xi: 2.2134047507854890e+00
distortion_parameters:
   k1: 1.6798235660113681e-02
   k2: 1.6548773243373522e+00
   p1: 4.2223943394772046e-04
   p2: 4.2462134260997584e-04
projection_parameters:
   gamma1: 1.3363220825849971e+03
   gamma2: 1.3357883350012958e+03
   u0: 7.1694323510126321e+02
   v0: 7.0576498308221585e+02
"""


def test_kitti_360_fisheye(tmp_path: Path) -> None:
    camera = load_calibration(write(tmp_path / "image_02.yaml", KITTI_360))
    plane = RAY[:2] / (RAY[2] + 2.213404750785489 * np.linalg.norm(RAY))
    terms = [0.01679823566, 1.65487732434, 4.2223943e-4, 4.2462134e-4]
    expected = radtan(plane, terms) * [1336.322083, 1335.788335] + [716.943235, 705.764983] + 0.5
    assert camera.size == (1400, 1400)
    assert pixel(camera) == pytest.approx(expected, abs=1e-3)


def test_camodocal_kannala_brandt(tmp_path: Path) -> None:
    text = """%YAML:1.0
---
model_type: KANNALA_BRANDT
camera_name: camera
image_width: 752
image_height: 480
projection_parameters:
   k2: -0.013
   k3: 0.02
   k4: -0.012
   k5: 0.0025
   mu: 461.0
   mv: 460.0
   u0: 362.0
   v0: 246.0
"""
    camera = load_calibration(write(tmp_path / "cam.yaml", text))
    bent = equidistant(RAY[:2], [-0.013, 0.02, -0.012, 0.0025])
    assert pixel(camera) == pytest.approx(bent * [461, 460] + [362.5, 246.5], abs=1e-3)


WOODSCAPE = {
    "extrinsic": {"quaternion": [0.59, -0.57, 0.4, -0.4], "translation": [3.7, 0.0, 0.66]},
    "intrinsic": {
        "aspect_ratio": 1.01,
        "cx_offset": 3.942,
        "cy_offset": -3.093,
        "height": 966.0,
        "k1": 339.749,
        "k2": -31.988,
        "k3": 48.275,
        "k4": -7.201,
        "model": "radial_poly",
        "poly_order": 4,
        "width": 1280.0,
    },
    "name": "FV",
}


@pytest.mark.parametrize("ray", [RAY, np.array([-1.0, 0.4, -0.05])], ids=["ahead", "behind"])
def test_woodscape(ray: np.ndarray, tmp_path: Path) -> None:
    camera = load_calibration(write(tmp_path / "00001_FV.json", json.dumps(WOODSCAPE)))
    chi = float(np.hypot(*ray[:2]))
    theta = math.atan2(chi, ray[2])
    rho = 339.749 * theta - 31.988 * theta**2 + 48.275 * theta**3 - 7.201 * theta**4
    # WoodScape's formula of FACTS 8, its first centre at (0, 0), plus the half pixel to ours
    expected = [
        rho * ray[0] / chi + 3.942 + 640 - 0.5 + 0.5,
        rho * ray[1] / chi * 1.01 - 3.093 + 483 - 0.5 + 0.5,
    ]
    assert camera.size == (966, 1280)
    assert pixel(camera, ray) == pytest.approx(expected, abs=2e-3)


ARIA = [609.5, 715.1, 716.7, 0.4, -0.45, 0.17, 1.0, -1.5, 0.6, 4e-4, -8e-4, 1e-3, 1e-4, 5e-4, 2e-5]


def fisheye624(values: list[float]) -> np.ndarray:
    """The formulas of projectaria_tools' FisheyeRadTanThinPrism.h, written again."""
    f, cx, cy, *k = values
    r = float(np.hypot(*RAY[:2]))
    theta = math.atan2(r, RAY[2])
    bent = RAY[:2] / r * theta * (1 + sum(k[i] * theta ** (2 * i + 2) for i in range(6)))
    p, s, square = np.array(k[6:8]), k[8:], float(bent @ bent)
    prism = [s[0] * square + s[1] * square**2, s[2] * square + s[3] * square**2]
    return f * (bent + 2 * (bent @ p) * bent + square * p + prism) + [cx, cy]


@pytest.mark.parametrize("layout", ["factory", "hot3d", "single", "two_focals"])
def test_aria(layout: str, tmp_path: Path) -> None:
    size: tuple[int, int] | None = None
    content: Any
    if layout == "factory":
        projection = {"Name": "FisheyeRadTanThinPrism", "Params": ARIA}
        content = {
            "CameraCalibrations": [
                {"Calibrated": True, "Label": "camera-slam-left", "Projection": projection},
                {"Calibrated": True, "Label": "camera-rgb", "Projection": projection},
            ]
        }
        size = (1408, 1408)
    else:
        two = layout == "two_focals"
        inner = {
            "image_width": 1408,
            "image_height": 1408,
            "label": "camera-rgb",
            "projection_model_type": "CameraModelType.FISHEYE624",
            "projection_params": [ARIA[0], *ARIA] if two else ARIA,
        }
        content = inner if layout != "hot3d" else {"214-1": {"calibration": inner}}
    path = write(tmp_path / "calibration.json", json.dumps(content))
    camera = load_calibration(path, size=size)
    assert (camera.model, camera.size) == ("fisheye624", (1408, 1408))
    assert pixel(camera) == pytest.approx(fisheye624(ARIA) + 0.5, abs=2e-3)


def test_flat_json(tmp_path: Path) -> None:
    content = {
        "width": 480,
        "height": 480,
        "depth_kind": "range",
        "depth_scale": 1000,
        "model": "kannala_brandt4",
        "fx": 236.4,
        "fy": 236.4,
        "cx": 239.5,
        "cy": 239.5,
        "k": FISHEYE.tolist(),
        "max_theta_deg": 56.0,
    }
    camera = load_calibration(write(tmp_path / "calib.json", json.dumps(content)))
    expected = 236.4 * equidistant(RAY[:2], FISHEYE.tolist()) + 240
    assert pixel(camera) == pytest.approx(expected, abs=1e-4)
    assert camera.to_dict()["max_polar_degrees"] == 56.0
    panorama = {"model": "erp", "w": 512, "h": 256, "range_scale": 2000}
    camera = load_calibration(write(tmp_path / "home.json", json.dumps(panorama)))
    assert pixel(camera, [1.0, 0.0, 0.0]) == pytest.approx([384, 128], abs=1e-3)
    assert pixel(camera, [0.0, -1.0, 1.0]) == pytest.approx([256, 64], abs=1e-3)


def test_our_own_files_are_as_before(tmp_path: Path) -> None:
    text = "model: kannala_brandt\nparams: [20, 20, 32, 24, 1e-3, 0, 0, 0]\nwidth: 64\nheight: 48\n"
    path = write(tmp_path / "lens.yaml", text)
    assert load_calibration(path).params.tolist() == pytest.approx([20, 20, 32, 24, 1e-3, 0, 0, 0])
    path = write(tmp_path / "lens.json", json.dumps(load_calibration(path).to_dict()))
    assert load_calibration(path).params[4].item() == pytest.approx(1e-3)


def test_size_resizes_to_the_same_aspect_only(tmp_path: Path) -> None:
    path = file_storage(tmp_path / "a.yml", PLUMB)
    whole, half = load_calibration(path), load_calibration(path, size=(240, 320))
    assert pixel(half) == pytest.approx(pixel(whole) / 2, abs=1e-4)
    with pytest.raises(UserError, match="height 480 and width 640, not 480 and 480, and the aspec"):
        load_calibration(path, size=(480, 480))


def test_an_unknown_format_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "hello\n")
    with pytest.raises(
        UserError, match="no known calibration format; known: dart, opencv"
    ) as found:
        load_calibration(path)
    for name in list_formats():
        assert name in str(found.value)
    with pytest.raises(UserError, match=r"unknown calibration format 'calibr'.*mean 'kalibr'"):
        load_calibration(path, format="calibr")
