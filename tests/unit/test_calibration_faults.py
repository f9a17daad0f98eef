"""Whatever is wrong with a calibration file, it is one line that names the file."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dart.cameras import Camera, load_calibration
from dart.cameras.calibration import list_formats
from dart.errors import UserError

OPENCV = """%YAML:1.0
---
image_width: 640
image_height: 480
fisheye_model: 0
camera_matrix: !!opencv-matrix
   rows: 3
   cols: 3
   dt: d
   data: [ 500., 0., 320., 0., 501., 240., 0., 0., 1. ]
distortion_coefficients: !!opencv-matrix
   rows: 1
   cols: 5
   dt: d
   data: [ 0.1, -0.01, 0.001, 0.0002, 0.0 ]
"""
XML = """<?xml version="1.0"?>
<opencv_storage>
<image_width>640</image_width>
<image_height>480</image_height>
<camera_matrix type_id="opencv-matrix"><rows>3</rows><cols>3</cols><dt>d</dt>
<data>500. 0. 320. 0. 501. 240. 0. 0. 1.</data></camera_matrix>
</opencv_storage>
"""
KALIBR = """cam0:
  camera_model: pinhole
  intrinsics: [458.654, 457.296, 367.215, 248.375]
  distortion_model: radtan
  distortion_coeffs: [-0.28, 0.07, 0.0002, 0.00002]
  resolution: [752, 480]
"""
COLMAP = "# cameras\n1 OPENCV 640 480 500 501 320 240 0.1 -0.01 0.001 0.0002\n"
NERFSTUDIO = json.dumps(
    {
        "camera_model": "OPENCV_FISHEYE",
        "fl_x": 500.0,
        "fl_y": 501.0,
        "cx": 320.0,
        "cy": 240.0,
        "w": 640,
        "h": 480,
        "k1": 0.1,
        "k2": -0.01,
        "k3": 0.001,
        "k4": 0.0002,
        "frames": [{"file_path": "a.png"}],
    }
)
KITTI = "S_rect_02: 1242 375\nP_rect_02: 721.5 0 609.5 44.8 0 721.5 172.8 0.2 0 0 1 0.003\n"
MEI = """%YAML:1.0
---
model_type: MEI
image_width: 1400
image_height: 1400
mirror_parameters: {xi: 2.2}
distortion_parameters: {k1: 0.01, k2: 1.6, p1: 0.0004, p2: 0.0004}
projection_parameters: {gamma1: 1336.0, gamma2: 1335.0, u0: 716.0, v0: 705.0}
"""
WOODSCAPE = json.dumps(
    {
        "intrinsic": {
            "model": "radial_poly",
            "poly_order": 4,
            "width": 1280.0,
            "height": 966.0,
            "aspect_ratio": 1.0,
            "cx_offset": 3.9,
            "cy_offset": -3.0,
            "k1": 339.7,
            "k2": -31.9,
            "k3": 48.2,
            "k4": -7.2,
        }
    }
)
ARIA = json.dumps(
    {
        "image_width": 1408,
        "image_height": 1408,
        "projection_model_type": "FISHEYE624",
        "projection_params": [609.5, 715.1, 716.7, 0.4, -0.4, 0.1, 1.0, -1.5, 0.6, *[1e-4] * 6],
    }
)
FLAT = json.dumps(
    {
        "model": "kannala_brandt4",
        "width": 480,
        "height": 480,
        "fx": 236.4,
        "fy": 236.4,
        "cx": 239.5,
        "cy": 239.5,
        "k": [0.05, -0.012, 0.002, 0.0],
        "max_theta_deg": 56.0,
    }
)
OWN = json.dumps({"model": "pinhole", "params": [500, 501, 320, 240], "width": 640, "height": 480})
# A list of two lists of two lists, forty deep: more numbers than there are atoms to hold them.
LAUGHS = "a0: &a0 [1, 1]\n"
LAUGHS += "".join(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(40)) + "K: *a40\n"
WHOLE = {
    "opencv.yml": OPENCV,
    "opencv.xml": XML,
    "kalibr.yaml": KALIBR,
    "cameras.txt": COLMAP,
    "transforms.json": NERFSTUDIO,
    "calib_cam_to_cam.txt": KITTI,
    "image_02.yaml": MEI,
    "00001_FV.json": WOODSCAPE,
    "aria.json": ARIA,
    "flat.json": FLAT,
    "own.json": OWN,
}


def swap(name: str, old: str, new: str) -> tuple[str, str]:
    assert WHOLE[name].count(old) >= 1
    return name, WHOLE[name].replace(old, new, 1)


@pytest.mark.parametrize("name", WHOLE)
def test_the_files_without_a_fault_are_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(WHOLE[name])
    assert isinstance(load_calibration(path), Camera)


FAULTS = [
    (*swap("opencv.yml", "data: [ 500., 0.,", "data: [ 500.,"), "the matrix has 8 numbers; need"),
    (*swap("opencv.yml", "data: [ 500.", "data: [ 0."), "fx = 0; a focal length must be positive"),
    (*swap("opencv.yml", "data: [ 500.", "data: [ -500."), "fx = -500"),
    (*swap("opencv.yml", "data: [ 500.", "data: [ .nan"), "K0 must be a finite number, got nan"),
    (*swap("opencv.yml", "data: [ 500., 0.", "data: [ 500., 3."), "skew 3"),
    (*swap("opencv.yml", "0., 0., 1. ]", "0., 0., 2. ]"), "no camera matrix: fx 0 cx"),
    (*swap("opencv.yml", "fisheye_model: 0", "fisheye_model: maybe"), "fisheye_model must be a"),
    (*swap("opencv.yml", "data: [ 0.1, -0.01, 0.001,", "data: [ 0.1,"), "3 distortion coeff"),
    (*swap("opencv.yml", "data: [ 0.1", "data: [ far"), "distortion must be a finite number"),
    (*swap("opencv.yml", "image_width: 640", "image_width: 0"), "image_width must be a whole"),
    (*swap("opencv.yml", "image_width: 640\n", ""), "does not say the image's size"),
    (*swap("opencv.yml", "fisheye_model: 0", "fisheye_model: 1"), "5 numbers; needed 4: k1"),
    (*swap("opencv.yml", "fisheye_model: 0", "distortion_model: odd"), "unknown distortion_model"),
    (*swap("opencv.yml", "camera_matrix", "camera_matrx"), "no known calibration format"),
    (*swap("opencv.yml", "data: [ 500.", "data: [[ 500."), "not valid YAML: line"),
    (*swap("opencv.xml", "</data>", ""), "not valid XML: line 6"),
    (*swap("opencv.xml", "500. 0.", "zero 0."), "must be a finite number, got 'zero'"),
    (*swap("opencv.xml", "<?xml", "<!DOCTYPE x [<!ENTITY a 'b'>]>\n<?xml"), "DOCTYPE"),
    (*swap("kalibr.yaml", "458.654, ", ""), "intrinsics of pinhole has 3 numbers; needed 4: fu"),
    (*swap("kalibr.yaml", "458.654", "0.0"), "fx = 0"),
    (*swap("kalibr.yaml", "pinhole", "pinhol"), "camera_model 'pinhol'; read are pinhole, omni"),
    (*swap("kalibr.yaml", "radtan", "fov"), "distortion_model 'fov'; read are radtan"),
    (*swap("kalibr.yaml", "camera_model: pinhole\n", "camera_model: eucm\n"), "has 4 numbers"),
    (*swap("kalibr.yaml", "  resolution: [752, 480]\n", ""), "resolution is missing"),
    (*swap("cameras.txt", "OPENCV", "OPENCVV"), "model OPENCVV is not read: .*mean 'OPENCV'"),
    (*swap("cameras.txt", " 0.0002", ""), "OPENCV has 9 numbers; needed 10"),
    (*swap("cameras.txt", "500", "0"), "the focal length = 0"),
    (*swap("cameras.txt", "500", "nan"), "fx must be a finite number, got 'nan'"),
    (*swap("cameras.txt", "1 OPENCV", "1 OPENCV 640 480 1 1 1 1 0 0 0 0\n1 OPENCV"), "two cameras"),
    (*swap("cameras.txt", "0.0002\n", "0.0002\nhello\n"), "line 3 is not 'CAMERA_ID"),
    (*swap("transforms.json", '"w": 640, ', ""), "w is missing"),
    (*swap("transforms.json", "500.0", "0"), "fl_x = 0"),
    (*swap("transforms.json", "500.0", "NaN"), "fl_x must be a finite number"),
    (*swap("transforms.json", "OPENCV_FISHEYE", "OPENCV"), "k4 of this camera_model is not read"),
    (*swap("transforms.json", "OPENCV_FISHEYE", "OPENCV_FISHEY"), "did you mean 'OPENCV_FISHEYE'"),
    (*swap("transforms.json", '[{"file_path": "a.png"}]', "[3]"), "frame 0 must be a mapping"),
    (*swap("calib_cam_to_cam.txt", " 0.003", ""), "projection has 11 numbers; needed 12"),
    (*swap("calib_cam_to_cam.txt", "721.5", "0"), "fx = 0"),
    (*swap("calib_cam_to_cam.txt", "S_rect_02: 1242 375\n", ""), "does not say the image's size"),
    (*swap("image_02.yaml", "xi: 2.2", "x: 2.2"), "mirror_parameters: xi is missing"),
    (*swap("image_02.yaml", "gamma1: 1336.0", "gamma1: 0"), "gamma1 = 0"),
    (*swap("image_02.yaml", "MEI", "SCARAMUZZA"), "model_type 'SCARAMUZZA' is not read"),
    (*swap("00001_FV.json", '"k3": 48.2, ', ""), "k3 is missing"),
    (*swap("00001_FV.json", "339.7", "0"), "k1 = 0; it is the focal length"),
    (*swap("00001_FV.json", '"poly_order": 4', '"poly_order": 5'), "order 5 is not read"),
    (*swap("aria.json", "609.5, ", ""), "params has 14 numbers; needed 16: fx, fy"),
    (*swap("aria.json", "609.5", "0"), "fx = 0"),
    (*swap("aria.json", "FISHEYE624", "OMNI"), "the model 'OMNI' is not read"),
    (*swap("flat.json", '"fx": 236.4, ', ""), "fx is missing"),
    (*swap("flat.json", "[0.05, ", "["), "k has 3 numbers; needed 4: k1"),
    (*swap("flat.json", "56.0", "190.0"), "max_polar = 190 degrees"),
    (*swap("own.json", "[500, ", "["), "got 3 numbers; needed 4: fx"),
    (*swap("own.json", "pinhole", "pinhol"), "did you mean 'pinhole'"),
    ("empty.yaml", "", "is empty"),
    ("blank.json", " \n\t\n", "is empty"),
    ("words.txt", "this is no calibration\n", "no known calibration format"),
    ("list.json", "[1, 2, 3]", "no known calibration format"),
    ("number.json", "17", "no known calibration format"),
    ("cut.json", NERFSTUDIO[:80], "not valid JSON: line 1, column"),
    ("deep.json", "[" * 100_000, "nested too deeply|not valid"),
    ("deep.yaml", "a: " + "[" * 20_000, "nested too deeply|not valid"),
    ("long.json", '{"fl_x": 1' + "0" * 5000 + "}", "not valid|must be a finite"),
    ("laughs.yaml", LAUGHS, "the matrix has 4 numbers; needed 9"),
]


@pytest.mark.parametrize(("name", "text", "message"), FAULTS, ids=range(len(FAULTS)))
def test_a_fault_is_one_line(name: str, text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_calibration(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(path))


def test_what_is_no_text_and_what_is_not_there(tmp_path: Path) -> None:
    for raw in (b"\x89PNG\r\n\x1a\n\x00\x00", b"\xff\xfe{\x00", b"P0: 1 2 3\x00"):
        path = tmp_path / "binary.yaml"
        path.write_bytes(raw)
        with pytest.raises(UserError, match="is not text"):
            load_calibration(path)
    with pytest.raises(UserError, match="does not exist"):
        load_calibration(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        load_calibration(tmp_path)


def test_content_of_two_formats_is_ambiguous(tmp_path: Path) -> None:
    path = tmp_path / "both.json"
    path.write_text(json.dumps(json.loads(NERFSTUDIO) | json.loads(WOODSCAPE)))
    with pytest.raises(UserError, match="could be nerfstudio or woodscape; choose with --format"):
        load_calibration(path)
    assert load_calibration(path, format="woodscape").model == "radial_polynomial"
    assert load_calibration(path, format="nerfstudio").model == "kannala_brandt"


@pytest.mark.parametrize("form", list_formats())
@pytest.mark.parametrize("text", ["{}", "[]", "5", "a: b\n", "<a/>", "hello", '{"params": {}}'])
def test_a_format_that_the_file_is_not(form: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_calibration(path, format=form)
    assert "\n" not in str(caught.value)


def _cut(text: str, first: int, count: int, new: str) -> str:
    at = first % (len(text) + 1)
    return text[:at] + new + text[at + count :]


MUTATION = st.builds(
    lambda first, count, new: lambda text: _cut(text, first, count, new),
    st.integers(0, 1000),
    st.integers(0, 40),
    st.one_of(
        st.text(max_size=8),
        st.sampled_from(["nan", "-1", "0", "1e400", "[", "{", "null", '"', "\n", ": ", "true"]),
    ),
)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=st.sampled_from(list(WHOLE)), changes=st.lists(MUTATION, min_size=1, max_size=3))
def test_a_mutated_file_is_read_or_refused_in_one_line(
    name: str, changes: list[Callable[[str], str]], tmp_path: Path
) -> None:
    text = WHOLE[name]
    for change in changes:
        text = change(text)
    path = tmp_path / name
    path.write_text(text, encoding="utf-8", errors="replace")
    try:
        camera = load_calibration(path)
    except UserError as error:
        refusal = str(error)
    else:
        refusal = None
        assert camera.params.isfinite().all()
        assert (camera.params[:2] > 0).all()
    assert refusal is None or len(refusal.splitlines()) == 1
