"""``dart camera`` as a user types it."""

import json
import math
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dart.cameras import Equirectangular, KannalaBrandt, Pinhole, warp_grid
from dart.cameras.inspection import inspect_camera
from dart.cli import main

FISHEYE = KannalaBrandt(torch.tensor([60.0, 60, 80, 60, 0.03, -0.012, 0.002, 0]), (120, 160))


def write_camera(path: Path, camera: KannalaBrandt | Pinhole = FISHEYE) -> Path:
    path.write_text(json.dumps(camera.to_dict()))
    return path


def picture(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    assert image is not None
    return image


def test_a_pinhole_of_90_degrees(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_camera(tmp_path / "a.json", Pinhole(torch.tensor([50.0, 50, 50, 50]), (100, 100)))
    assert main(["camera", str(path), "--json", "--out", str(tmp_path / "out")]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["horizontal_fov_degrees"] == pytest.approx(90)
    assert said["vertical_fov_degrees"] == pytest.approx(90)
    assert said["diagonal_fov_degrees"] == pytest.approx(2 * math.degrees(math.atan(2**0.5)))
    assert said["seen_share"] == 1
    assert said["round_trip_pixels"] < 1e-10
    assert said["nearest_ideal"] == "pinhole"
    assert said["ideal_focal"] == pytest.approx(50)
    assert said["ideal_difference_degrees"] < 0.01
    assert said["warnings"] == []
    assert picture(Path(said["pictures"][0])).std() > 5
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a_camera.png"]


def test_a_lens_that_ends_inside_its_image() -> None:
    # equidistant, 1 px a degree, seen to 40 degrees of 50: a circle of radius 40 in 100 x 100
    focal = 180 / math.pi
    params = torch.tensor([focal, focal, 50, 50, 0, 0, 0, 0])
    found = inspect_camera(KannalaBrandt(params, (100, 100), max_polar=math.radians(40)))
    assert found.horizontal_fov == pytest.approx(80, abs=1e-4)
    assert found.diagonal_fov == pytest.approx(80, abs=1e-4)
    assert found.seen_share == pytest.approx(math.pi * 40**2 / 100**2, abs=2e-3)
    assert found.polar_limit == pytest.approx(40)
    assert found.nearest_ideal == "equidistant"
    assert found.ideal_focal == pytest.approx(focal, rel=1e-4)
    assert np.nanmax(found.polar) == pytest.approx(40, abs=1)
    angles, radius = found.curve
    assert radius == pytest.approx(angles, rel=1e-4)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ([500.0, 500, 640, 360], "lies 50% of a side off the centre"),
        ([500.0, 620, 320, 240], "pixels are rarely that far from square"),
        ([0.9, 0.9, 320, 240], "focal length in metres, millimetres or parts of the width"),
        ([50000.0, 50000, 320, 240], "is the focal length in pixels of these images"),
    ],
)
def test_what_looks_odd_is_said(
    params: list[float], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_camera(tmp_path / "odd.json", Pinhole(torch.tensor(params), (480, 640)))
    assert main(["camera", str(path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert words in said
    assert said.count("warning") == 1


def test_an_image_is_shown_rectified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # a panorama with a red patch straight ahead and a blue one 70 degrees to the right
    panorama = np.full((180, 360, 3), 90, np.uint8)
    panorama[70:110, 160:200] = (0, 0, 255)
    panorama[70:110, 230:270] = (255, 0, 0)
    sphere = Equirectangular(torch.tensor([57.29578, 57.29578, 180, 90]), (180, 360))
    grid, _ = warp_grid(sphere, FISHEYE)
    u, v = (grid - 0.5).numpy().transpose(2, 0, 1)
    image = tmp_path / "scene.png"
    cv2.imwrite(str(image), cv2.remap(panorama, u, v, cv2.INTER_LINEAR))
    path = write_camera(tmp_path / "lens.json")
    assert main(["camera", str(path), "--image", str(image), "--out", str(tmp_path)]) == 0
    assert "lens_scene_views.png" in capsys.readouterr().out
    views = picture(tmp_path / "lens_scene_views.png").astype(int)
    red = (views[..., 2] > 200) & (views[..., :2].max(-1) < 60)
    blue = (views[..., 0] > 200) & (views[..., 1:].max(-1) < 60)
    top = slice(0, views.shape[0] // 2)
    # the front view is the third of four pictures, the right view the last
    quarter = views.shape[1] // 4
    assert red[top, 2 * quarter : 3 * quarter].sum() > 1000
    assert blue[top, 3 * quarter :].sum() > 1000
    # 40 degrees of 90 across, rectified: a square patch stays straight-edged
    rows, columns = np.nonzero(red[top, 2 * quarter : 3 * quarter])
    extent = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    assert len(rows) / extent > 0.9


def test_an_image_of_another_resolution(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_camera(tmp_path / "lens.json")
    image = tmp_path / "scene.png"
    cv2.imwrite(str(image), np.zeros((240, 320, 3), np.uint8))
    assert main(["camera", str(path), "--image", str(image)]) == 2
    error = capsys.readouterr().err
    assert "160x120 images" in error
    assert "320x240 (width x height); if it was resized: --size 240x320" in error
    assert main(["camera", str(path), "--image", str(image), "--size", "240x320"]) == 0
    cv2.imwrite(str(image), np.zeros((240, 240, 3), np.uint8))
    capsys.readouterr()
    assert main(["camera", str(path), "--image", str(image)]) == 2
    assert "another aspect: it was cropped" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--size", "240"], ["--size 240", "480x640"]),
        (["--size", "0x5"], ["--size 0x5"]),
        (["--format", "calibr"], ["calibr", "kalibr"]),
        (["--name", "cam0"], ["holds one camera"]),
        (["--image", "none.png"], ["none.png", "no such image"]),
        (["--image", "lens.json"], ["lens.json", "not a readable image"]),
        (["--out", "lens.json"], ["lens.json"]),
    ],
    ids=lambda value: value[0],
)
def test_a_mistake_gets_one_line_and_no_picture(
    more: list[str],
    named: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_camera(tmp_path / "lens.json")
    assert main(["camera", "lens.json", *more]) == 2
    shown = capsys.readouterr().err.strip()
    assert len(shown.splitlines()) == 1, shown
    for word in named:
        assert word in shown
    assert [p.name for p in tmp_path.iterdir()] == ["lens.json"]


@pytest.mark.data
@pytest.mark.parametrize(
    ("folder", "calibration", "image"),
    [
        ("real/indoor_fisheye_7scenes_ibr", "redkitchen_000_calib.json", "redkitchen_000_rgb.jpg"),
        ("real/indoor_pinhole_mix", "gx_p2_calib.json", "gx_p2_rgb.png"),
        ("homes", "0000.json", "0000.jpg"),
    ],
)
def test_photographs(
    folder: str, calibration: str, image: str, repository: Path, tmp_path: Path
) -> None:
    shared = os.environ.get("DART_SHARED_DATA") or repository.parent / "shared" / "data"
    where = Path(shared) / folder
    if not where.is_dir():
        pytest.skip(f"{where} is not here")
    arguments = ["--image", str(where / image), "--out", str(tmp_path)]
    assert main(["camera", str(where / calibration), *arguments]) == 0
    assert len(list(tmp_path.glob("*.png"))) == 2
