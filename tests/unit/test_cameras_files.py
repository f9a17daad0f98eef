"""Calibration files: read back what was written, and one line for whatever is wrong."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dart.cameras import KannalaBrandt, Pinhole, camera_from_dict, load_camera
from dart.cameras.camera import Camera
from dart.errors import UserError

PINHOLE = {
    "model": "pinhole",
    "params": {"fx": 100.0, "fy": 101.0, "cx": 32.0, "cy": 24.0},
    "width": 64,
    "height": 48,
}
FISHEYE_PARAMS = torch.tensor([20.1, 20, 32, 24, 0.01, -0.002, 1e-4, -1e-6])


@pytest.mark.parametrize("suffix", ["json", "yaml"])
@pytest.mark.parametrize(
    "camera",
    [
        Pinhole(torch.tensor([100.1, 101.0, 32.0, 24.0]), (48, 64)),
        KannalaBrandt(FISHEYE_PARAMS, (48, 64)),
        KannalaBrandt(FISHEYE_PARAMS, (48, 64), max_polar=1.4),
        KannalaBrandt(FISHEYE_PARAMS, (48, 64), max_polar=math.radians(100.0)),
    ],
)
def test_round_trip(camera: Camera, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"camera.{suffix}"
    content = camera.to_dict()
    path.write_text(json.dumps(content) if suffix == "json" else yaml.safe_dump(content))
    again = load_camera(path)
    assert type(again) is type(camera)
    assert torch.equal(again.params, camera.params)
    assert again.key == camera.key


def test_params_as_a_list_and_numbers_without_a_dot(tmp_path: Path) -> None:
    path = tmp_path / "lens.yaml"
    path.write_text(
        "model: kannala_brandt\nparams: [20, 20, 32, 24, 1e-3, 0, 0, 0]\n"
        "width: 64\nheight: 48\nmax_polar_degrees: 90\n"
    )
    camera = load_camera(path)
    assert camera.params.tolist() == pytest.approx([20, 20, 32, 24, 1e-3, 0, 0, 0])
    assert camera.to_dict()["max_polar_degrees"] == 90.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "pinhol"}, "unknown camera model 'pinhol'; known: pinhole, kannala_brandt"),
        ({"model": "pinhol"}, "did you mean 'pinhole'"),
        ({"model": 3}, "unknown camera model 3"),
        ({"params": [1, 2, 3]}, "got 3 numbers; needed 4: fx, fy, cx, cy"),
        ({"params": {"fx": 1, "fy": 1, "cx": 1}}, "missing cy; needed: fx, fy, cx, cy"),
        ({"params": PINHOLE["params"] | {"fz": 1}}, "unknown key 'fz'; known: fx, fy, cx, cy"),
        ({"params": 5}, "expected fx, fy, cx, cy, got 5"),
        ({"params": PINHOLE["params"] | {"fx": 0}}, "fx = 0; it must be positive"),
        ({"params": PINHOLE["params"] | {"fy": -1}}, "fy = -1; it must be positive"),
        ({"params": PINHOLE["params"] | {"cx": math.nan}}, "cx must be a finite number, got nan"),
        ({"params": PINHOLE["params"] | {"cx": "wide"}}, "cx must be a finite number, got 'wide'"),
        ({"params": PINHOLE["params"] | {"fx": 1e300}}, "fx = inf"),
        ({"width": 0}, "width must be a whole number of pixels, at least 1, got 0"),
        ({"height": 1.5}, "height must be a whole number"),
        ({"widht": 4}, "unknown key 'widht'.*did you mean 'width'"),
        ({"max_polar_degrees": 80}, "pinhole takes no max_polar_degrees"),
    ],
)
def test_bad_content(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        camera_from_dict(PINHOLE | changes, where="study.yaml: camera")
    assert str(caught.value).startswith("study.yaml: camera: ")
    assert "\n" not in str(caught.value)


def test_missing_keys_and_no_mapping() -> None:
    with pytest.raises(UserError, match="camera: missing width, height; needed: model"):
        camera_from_dict({"model": "pinhole", "params": [1, 1, 1, 1]})
    with pytest.raises(UserError, match=r"expected model, params, width, height, got \[1\]"):
        camera_from_dict([1])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.yaml", b"model: [pinhole\nwidth: 3\n", "not valid YAML: line 2, column "),
        ("a.yaml", b"a: b: c", "not valid YAML: line 1, column 5"),
        ("a.yaml", b"\x00\x01", "not valid JSON or YAML"),
        ("a.json", b'{"model": }', "not valid JSON: line 1, column 11"),
        ("a.json", b"", "not valid JSON"),
        ("a.yaml", b"", "expected model, params, width, height, got None"),
        ("a.json", b"\xff\xfe\xfa", "is not text"),
    ],
)
def test_bad_file(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load_camera(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_camera(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        load_camera(tmp_path)
