"""Lenses against formulas written here, OpenCV, real calibrations and each other."""

import math

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from dart.cameras import LENSES, Equirectangular, KannalaBrandt, Pinhole, warp_grid
from dart.errors import UserError

SIZE = (60, 80)
PIXEL = [220.0, 230.0, 40.5, 29.0]
POLAR = torch.deg2rad(torch.tensor([0.5, 20, 45, 60, 80], dtype=torch.float64))[:, None]
AZIMUTH = torch.tensor([-3.0, -1.2, 0.4, 2.1], dtype=torch.float64)
POINTS = torch.stack(
    [POLAR.sin() * AZIMUTH.cos(), POLAR.sin() * AZIMUTH.sin(), POLAR.cos() + 0 * AZIMUTH], dim=-1
)
KITTI_360 = {
    "02": [1336.32, 1335.79, 716.94, 705.76, 2.2134, 0.0168, 1.6549, 4.222e-4, 4.246e-4],
    "03": [1485.44, 1484.95, 698.88, 698.15, 2.5535, 0.0494, 4.5068, 1.348e-3, -7.034e-4],
}


def project(model: str, extras: list[float], points: Tensor = POINTS) -> Tensor:
    camera = LENSES[model](torch.tensor([*PIXEL, *extras], dtype=torch.float64), SIZE)
    pixels, seen = camera.project(points)
    assert seen.all()
    return pixels


@pytest.mark.parametrize(
    ("model", "radius"),
    [
        ("equidistant", lambda t: t),
        ("equisolid", lambda t: 2 * math.sin(t / 2)),
        ("stereographic", lambda t: 2 * math.tan(t / 2)),
        ("orthographic", math.sin),
        ("pinhole", math.tan),
    ],
)
def test_ideal_radius(model: str, radius) -> None:
    sides = torch.stack([AZIMUTH.cos(), AZIMUTH.sin()], dim=-1)
    radii = torch.tensor([radius(t) for t in POLAR.flatten().tolist()], dtype=torch.float64)
    expected = radii[:, None, None] * sides * torch.tensor(PIXEL[:2]) + torch.tensor(PIXEL[2:])
    assert torch.allclose(project(model, []), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("model", "extras", "other", "same"),
    [
        ("mei", [0.0, -0.01, 0.002, 1e-4, -2e-4], "radial_tangential", None),
        ("eucm", [0.0, 1.7], "pinhole", []),
        ("eucm", [1.0, 1.0], "orthographic", []),
        ("double_sphere", [0.0, 0.6], "eucm", [0.6, 1.0]),
        ("double_sphere", [0.7, 0.0], "mei", [0.7, 0, 0, 0, 0]),
        ("fisheye624", [-0.02, 0.005, -0.001, 2e-4] + [0.0] * 8, "kannala_brandt", None),
        ("radial_polynomial", [1.0, 0, 0, 0], "equidistant", []),
        ("radial_tangential", [0.0] * 8, "pinhole", []),
    ],
)
def test_special_cases_are_other_lenses(
    model: str, extras: list[float], other: str, same: list[float] | None
) -> None:
    if model == "mei":
        same = [*extras[1:], 0, 0, 0, 0]
    elif same is None:
        same = extras[:4]
    points = POINTS[:3] if other == "radial_tangential" else POINTS
    ours, theirs = project(model, extras, points), project(other, same, points)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-9)


def test_mei_with_xi_1_is_stereographic_at_half_the_focal_length() -> None:
    ours = project("mei", [1.0, 0, 0, 0, 0]) - torch.tensor(PIXEL[2:])
    theirs = project("stereographic", []) - torch.tensor(PIXEL[2:])
    assert torch.allclose(ours, theirs / 2, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("model", "extras", "degrees"),
    [
        ("mei", [2.2134, 0, 0, 0, 0], math.degrees(math.acos(-1 / 2.2134))),
        ("eucm", [0.75, 1.0], math.degrees(math.acos(-0.25 / 0.75))),
        ("double_sphere", [0.0, 0.75], math.degrees(math.acos(-0.25 / 0.75))),
        ("double_sphere", [1.25, 0.95], math.degrees(math.acos(-1 / 1.25))),
        ("radial_tangential", [-0.2] + [0.0] * 7, math.degrees(math.atan(math.sqrt(1 / 0.6)))),
        ("fisheye624", [-0.125] + [0.0] * 11, math.degrees(math.sqrt(1 / 0.375))),
        ("radial_polynomial", [300.0, -100, 0, 0], math.degrees(1.5)),
        ("orthographic", [], 90.0),
        ("stereographic", [], math.degrees(2 * math.atan(500))),
    ],
)
def test_field_of_view_in_closed_form(model: str, extras: list[float], degrees: float) -> None:
    camera = LENSES[model](torch.tensor([*PIXEL, *extras], dtype=torch.float64), SIZE)
    assert math.degrees(camera.polar_limit.item()) == pytest.approx(degrees, rel=1e-7)


@pytest.mark.parametrize("rational", [False, True])
def test_opencv_radial_tangential(rational: bool) -> None:
    k = [-0.28, 0.09, 1e-3, -7e-4, -0.01]
    k += [0.02, -0.01, 0.003] if rational else [0.0, 0.0, 0.0]
    matrix = np.array([[PIXEL[0], 0, PIXEL[2] - 0.5], [0, PIXEL[1], PIXEL[3] - 0.5], [0, 0, 1]])
    points = 3 * POINTS[:2].reshape(-1, 3)
    theirs, _ = cv2.projectPoints(points.numpy(), np.zeros(3), np.zeros(3), matrix, np.array(k))
    ours = project("radial_tangential", k, points)
    assert np.abs(theirs[:, 0] + 0.5 - ours.numpy()).max() <= 1e-9
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 200, 1e-14)
    pixels = ours.numpy()[:, None] - 0.5
    plane = cv2.undistortPoints(pixels, matrix, np.array(k), criteria=criteria)
    camera = LENSES["radial_tangential"](torch.tensor([*PIXEL, *k]).double(), SIZE)
    rays, valid = camera.unproject(ours)
    assert valid.all()
    assert np.abs(plane[:, 0] - (rays[:, :2] / rays[:, 2:]).numpy()).max() <= 1e-6


@pytest.mark.parametrize("side", list(KITTI_360))
def test_kitti_360_fisheyes(side: str) -> None:
    gamma1, gamma2, u0, v0, xi, k1, k2, p1, p2 = KITTI_360[side]
    camera = LENSES["mei"](torch.tensor(KITTI_360[side], dtype=torch.float64), (1400, 1400))
    assert math.degrees(camera.polar_limit.item()) == pytest.approx(
        math.degrees(math.acos(-1 / xi)), abs=1e-3
    )
    angles = np.stack(np.meshgrid(np.radians(np.arange(1, 112, 5)), np.arange(-3, 3, 0.4)), -1)
    theta, phi = angles.reshape(-1, 2).T
    x, y, z = np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)
    mx, my = x / (z + xi), y / (z + xi)
    q = mx**2 + my**2
    radial = 1 + k1 * q + k2 * q**2
    u = gamma1 * (mx * radial + 2 * p1 * mx * my + p2 * (q + 2 * mx**2)) + u0
    v = gamma2 * (my * radial + p1 * (q + 2 * my**2) + 2 * p2 * mx * my) + v0
    rays = torch.from_numpy(np.stack([x, y, z], axis=-1))
    pixels, seen = camera.project(rays)
    assert seen.all()
    assert np.abs(pixels.numpy() - np.stack([u, v], axis=-1)).max() <= 1e-9
    again, valid = camera.unproject(pixels)
    assert valid.all()
    assert (again - rays).abs().max() <= 1e-9
    assert not camera.crop(0, 0, 1, 1).valid().any()


def test_woodscape_polynomial() -> None:
    k = [339.749, -31.988, 48.275, -7.201]
    camera = LENSES["radial_polynomial"](torch.tensor([1.0, 1.0017, 643, 478, *k]).double(), SIZE)
    polar = math.radians(95)
    radius = sum(value * polar ** (order + 1) for order, value in enumerate(k))
    ray = torch.tensor([math.sin(polar) * 0.6, math.sin(polar) * 0.8, math.cos(polar)]).double()
    expected = torch.tensor([643 + 0.6 * radius, 478 + 0.8 * 1.0017 * radius]).double()
    assert torch.allclose(camera.project(ray)[0], expected, rtol=0, atol=1e-4)
    assert torch.allclose(camera.unproject(camera.project(ray)[0])[0], ray, atol=1e-12)


def test_panorama_poles_and_seam() -> None:
    height, width = 90, 180
    params = [width / (2 * math.pi), height / math.pi, width / 2, height / 2]
    camera = Equirectangular(torch.tensor(params, dtype=torch.float64), (height, width))
    points = torch.tensor(
        [[0, -1, 0], [0, 1, 0], [1, 0, 0], [-1, 0, 0], [1e-9, 0, -1], [-1e-9, 0, -1]]
    ).double()
    expected = [[90, 0], [90, 90], [135, 45], [45, 45], [180, 45], [0, 45]]
    pixels, seen = camera.project(points)
    assert seen.all()
    assert torch.allclose(pixels, torch.tensor(expected).double(), atol=1e-6)
    assert camera.valid().all()
    # One column beyond the seam is the first of the other side, but not of this image.
    rays, valid = camera.pad(0, 0, 1, 0).rays(), camera.pad(0, 0, 1, 0).valid()
    assert torch.allclose(rays[:, -1], camera.rays()[:, 0], atol=1e-12)
    assert not valid[:, -1].any()
    assert valid[:, :-1].all()
    window = camera.crop(10, 100, 20, 30)
    assert torch.allclose(window.rays(), camera.rays()[10:30, 100:130], atol=1e-12)


def test_warp_between_lenses_keeps_the_direction() -> None:
    source = KannalaBrandt(torch.tensor([20.0, 20, 40, 30, 0, 0, 0, 0]), SIZE, max_polar=1.4)
    target = Pinhole(torch.tensor([30.0, 30, 20, 15]), (30, 40))
    grid, valid = warp_grid(source, target)
    assert grid.shape == (30, 40, 2)
    assert grid.dtype == torch.float32
    assert valid.all()
    # 10 pixels right of the centre the pinhole looks atan(1/3) off axis.
    ray_pixel = source.project(torch.tensor([10.5 / 30, 0.5 / 30, 1.0]))[0]
    assert torch.allclose(grid[15, 30], ray_pixel, atol=1e-5)
    same, inside = warp_grid(source, source)
    assert torch.allclose(same[source.valid()], source._pixel_grid()[source.valid()], atol=1e-4)
    assert torch.equal(inside, source.valid())


def test_warp_with_a_rotation_and_out_of_the_image() -> None:
    source = Pinhole(torch.tensor([40.0, 40, 40, 30]), SIZE)
    turn = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    back = torch.tensor([[-1.0, 0, 0], [0, 1, 0], [0, 0, -1]])
    panorama = Equirectangular(torch.tensor([20.0, 20, 62, 31]), (62, 124))
    grid, valid = warp_grid(source, panorama)
    columns = torch.arange(124)[valid.any(0)]
    assert (columns.min() + columns.max()).item() == pytest.approx(123, abs=1)
    right, seen = warp_grid(source, panorama, turn.T)
    shifted = torch.arange(124)[seen.any(0)].float().mean().item()
    assert shifted - 61.5 == pytest.approx(-20 * math.pi / 2, abs=1.5) or (
        shifted - 61.5 == pytest.approx(20 * math.pi / 2, abs=1.5)
    )
    assert not warp_grid(source, source, back)[1].any()
    assert grid.isfinite().all()
    assert right.isfinite().all()


def test_panorama_turned_is_refused_in_one_line() -> None:
    camera = Equirectangular(torch.tensor([20.0, 20, 62, 31]), (62, 124))
    with pytest.raises(UserError) as caught:
        camera.rotate90(-1)
    assert "\n" not in str(caught.value)
