"""Lenses with large tangential terms: what lies in the field of view is found again, wherever."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dart.cameras import LENSES
from dart.cameras.camera import Camera

# Found by random search: from the disc's edge, a search for these pixels came to rest there.
FOUND = {
    "radial_tangential": [
        *(0.857325325881833, -0.3810588341839548, -0.020397376227109583, 0.012838707746057755),
        *(-0.10624275859857868, -0.5755929696410654, -0.07620526562546948, 0.06296297226097686),
    ],
    "thin_prism_fisheye": [
        *(0.3864857712737285, 0.02662206569748765, 0.04747331326000635, -0.05253703236324338),
        *(0.13440810724117674, -0.022685671293221108, 0.055369237283608666, 0.04917984160034078),
    ],
}
LARGEST = {
    "radial_tangential": [1.0, 0.6, 0.02, 0.02, 0.2, 0.6, 0.2, 0.1],
    "fisheye624": [0.5, 0.2, 0.1, 0.02, 0.006, 0.002, 0.04, 0.04, 0.04, 0.02, 0.04, 0.02],
    "thin_prism_fisheye": [0.4, 0.2, 0.05, 0.05, 0.1, 0.02, 0.05, 0.05],
    "mei": [1.5, 0.6, 0.6, 0.02, 0.02],
}


def make(model: str, extras: list[float]) -> Camera:
    params = torch.tensor([90.0, 100.0, 320.3, 239.1, *extras], dtype=torch.float64)
    return LENSES[model](params, (480, 640))


def draw(model: str) -> list[Camera]:
    generator = np.random.default_rng(7)
    bounds = np.array(LARGEST[model])
    drawn = [generator.uniform(-bounds, bounds) for _ in range(25)]
    if model == "mei":
        drawn = [np.array([abs(values[0]) * 2, *values[1:]]) for values in drawn]
    return [make(model, values.tolist()) for values in drawn]


def field(limit: float) -> Tensor:
    share = torch.linspace(0, 1 - 1e-9, 60, dtype=torch.float64)
    polar, azimuth = torch.meshgrid(
        limit * share, torch.linspace(-3.14, 3.13, 49, dtype=torch.float64), indexing="ij"
    )
    sine = polar.sin()
    return torch.stack([sine * azimuth.cos(), sine * azimuth.sin(), polar.cos()], dim=-1)


def check(camera: Camera) -> None:
    rays = field(camera.polar_limit.item())
    pixels, seen = camera.project(rays)
    found, valid = camera.unproject(pixels)
    again, _ = camera.project(found)
    assert seen.all()
    assert valid.all()
    near = (pixels.abs() < 2000).all(-1)
    assert (again - pixels)[near].abs().max() <= 1e-8
    # The same ray, not another one that shares its pixel: the field of view ends before a fold.
    angle = torch.linalg.cross(found, rays).norm(dim=-1)
    assert angle[:-2][near[:-2]].max() <= 1e-6


@pytest.mark.parametrize("model", FOUND)
def test_no_pixel_in_the_field_of_view_is_lost(model: str) -> None:
    check(make(model, FOUND[model]))


@pytest.mark.parametrize("model", LARGEST)
def test_large_terms_end_the_field_of_view_before_the_plane_folds(model: str) -> None:
    for camera in draw(model):
        check(camera)


def test_a_fold_between_the_directions_that_are_looked_at_is_seen() -> None:
    # Closed form: with a tangential term t alone the Jacobian's determinant along azimuth a and
    # radius r is (1 + 2 t r cos a')(1 + 6 t r cos a'), a' from t's direction: it folds first at
    # r = 1 / (6 |t|), opposite to t, here halfway between two of 32 directions.
    turn = 2 * math.pi * 9.5 / 32
    p1, p2 = 0.05 * math.sin(turn), 0.05 * math.cos(turn)
    camera = make("radial_tangential", [0.0, 0.0, p1, p2, 0.0, 0.0, 0.0, 0.0])
    assert math.tan(camera.polar_limit.item()) == pytest.approx(1 / (6 * 0.05), rel=5e-4)


def test_pixels_beyond_the_edges_image_are_not_searched_for_and_not_valid() -> None:
    camera = make("mei", [1.4, -0.1, 0.02, 1e-3, -2e-3])
    rays, valid = camera.rays_and_valid()
    edge = field(camera.polar_limit.item())[-1]
    reach = (camera.project(edge)[0] - camera.params[2:4]).norm(dim=-1).max()
    far = (camera._pixel_grid() - camera.params[2:4]).norm(dim=-1) > reach + 1
    assert far.any()
    assert not valid[far].any()
    assert torch.allclose(rays.norm(dim=-1), torch.ones(480, 640, dtype=torch.float64))
