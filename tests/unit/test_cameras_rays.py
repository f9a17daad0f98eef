"""Rays, angles and Fourier features against closed forms, and their bad input."""

import math

import pytest
import torch

from dart.cameras import embed_rays, generate_fourier_features, generate_rays, polar_azimuth
from dart.errors import UserError


def intrinsics(**changes: float) -> torch.Tensor:
    fx, fy, cx, cy = ({"fx": 40.0, "fy": 50.0, "cx": 3.5, "cy": 2.5} | changes).values()
    return torch.tensor([[[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]]])


def test_rays_of_pixel_centres() -> None:
    rays = generate_rays(intrinsics().double(), (5, 7))
    assert rays.shape == (1, 5, 7, 3)
    assert rays[0, 2, 3].tolist() == pytest.approx([0, 0, 1], abs=1e-15)
    expected = torch.tensor([3 / 40, -2 / 50, 1.0]).double()
    assert torch.allclose(rays[0, 0, 6], expected / expected.norm(), atol=1e-8)


def test_skew_is_ignored_and_rows_are_independent() -> None:
    both = torch.cat([intrinsics(), intrinsics(fx=30.0)])
    both[:, 0, 1] = 7.0
    rays = generate_rays(both, (5, 7))
    assert torch.equal(rays[:1], generate_rays(intrinsics(), (5, 7)))
    assert torch.equal(rays[1:], generate_rays(intrinsics(fx=30.0), (5, 7)))


def test_angles_and_the_clipped_azimuth() -> None:
    rays = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, 0, -1], [0, 0, 1.5]])
    steep = math.atan2(1, 1e-3)
    expected = [[0, 0], [math.pi / 2, 0], [math.pi / 2, steep], [math.pi / 2, math.pi]]
    expected += [[math.pi, 0], [0, 0]]
    assert torch.allclose(polar_azimuth(rays), torch.tensor(expected))


def test_angles_have_a_finite_gradient_on_the_axis() -> None:
    rays = torch.tensor([[0.0, 0, 1], [0, 0, -1], [0.6, 0, 0.8]], requires_grad=True)
    polar_azimuth(rays).sum().backward()
    assert rays.grad is not None
    assert rays.grad.isfinite().all()


@pytest.mark.parametrize(
    ("use_log", "frequencies"), [(True, [1.0, 2.0, 4.0, 8.0]), (False, [1.0, 2.0, 3.0, 4.0])]
)
def test_fourier_bands(use_log: bool, frequencies: list[float]) -> None:
    x = torch.tensor([0.1, -0.7]).double()
    features = generate_fourier_features(x, 9, 8, use_log=use_log)
    expected = [math.sin(math.pi * f * value) for value in x.tolist() for f in frequencies]
    assert features.tolist() == pytest.approx(expected, abs=1e-12)


def test_embedding_of_one_cell_and_of_odd_dim() -> None:
    rays = generate_rays(intrinsics(), (5, 7))
    assert embed_rays(rays, (1, 1), 16).isfinite().all()
    assert embed_rays(rays, (2, 3), 81).shape == (1, 80, 2, 3)


@pytest.mark.parametrize(
    ("changes", "size", "message"),
    [
        ({"fx": 0.0}, (5, 7), "K has fx = 0; a focal length must be positive"),
        ({"fy": -3.0}, (5, 7), "K has fy = -3;"),
        ({"fx": math.nan}, (5, 7), "K has fx = nan;"),
        ({"cx": math.nan}, (5, 7), "principal point"),
        ({}, (0, 7), "height 0 and width 7 has no pixel; both must be at least 1"),
        ({}, (5, -1), "height 5 and width -1"),
    ],
)
def test_bad_input(changes: dict[str, float], size: tuple[int, int], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        generate_rays(intrinsics(**changes), size)
    assert "\n" not in str(caught.value)


def test_bad_features() -> None:
    with pytest.raises(UserError, match="dim = 1 leaves no band"):
        generate_fourier_features(torch.zeros(2), 1, 8)
    with pytest.raises(UserError, match="max_freq = 0 must be positive"):
        generate_fourier_features(torch.zeros(2), 8, 0)
    with pytest.raises(UserError, match="has no pixel"):
        embed_rays(generate_rays(intrinsics(), (5, 7)), (0, 1), 8)
