"""Embeddings other than Fourier features of two angles, and bands that alias."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dart.cameras import CameraEmbedder, Equidistant, Pinhole, count_aliased_bands, polar_azimuth
from dart.cameras.harmonics import spherical_harmonics
from dart.cameras.kinds import EMBEDDINGS, angles_without_seam
from dart.conditioning import EmbeddingKind

SIZE = (64, 96)


def equidistant(fov_degrees: float, width: int, height: int = 2) -> Equidistant:
    focal = width / math.radians(fov_degrees)
    return Equidistant(
        torch.tensor([focal, focal, width / 2, height / 2]).double(), (height, width)
    )


def directions(polar: Tensor, azimuth: Tensor) -> Tensor:
    polar, azimuth = torch.broadcast_tensors(polar, azimuth)
    return torch.stack(
        [polar.sin() * azimuth.cos(), polar.sin() * azimuth.sin(), polar.cos()], dim=-1
    )


def random_rays(count: int, seed: int = 0) -> Tensor:
    rays = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)).double()
    return rays / torch.linalg.vector_norm(rays, dim=-1, keepdim=True)


def test_harmonics_are_orthonormal() -> None:
    # Gauss-Legendre in z and an even grid in azimuth integrate products of degree 16 exactly.
    z, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(12))
    azimuth = torch.arange(24, dtype=torch.float64) * (2 * math.pi / 24)
    values = spherical_harmonics(directions(z.acos()[:, None], azimuth), degree=8)
    measure = weights[:, None, None, None] * (2 * math.pi / 24)
    gram = (values[..., :, None] * values[..., None, :] * measure).sum((0, 1))
    torch.testing.assert_close(gram, torch.eye(81).double(), rtol=0, atol=1e-12)


def test_harmonics_obey_the_addition_theorem() -> None:
    first, second = random_rays(50, 1), random_rays(50, 2)
    products = spherical_harmonics(first) * spherical_harmonics(second)
    angle = (first * second).sum(-1)
    legendre = [torch.ones_like(angle), angle]
    for n in range(1, 8):
        legendre.append(((2 * n + 1) * angle * legendre[n] - n * legendre[n - 1]) / (n + 1))
    for n in range(9):
        found = products[:, n * n : (n + 1) ** 2].sum(-1)
        wanted = (2 * n + 1) / (4 * math.pi) * legendre[n]
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_first_harmonics_in_closed_form() -> None:
    rays = random_rays(20)
    x, y, z = rays.unbind(-1)
    values = spherical_harmonics(rays, degree=2)
    torch.testing.assert_close(values[:, 0], torch.full_like(x, math.sqrt(1 / (4 * math.pi))))
    torch.testing.assert_close(
        values[:, 1:4], math.sqrt(3 / (4 * math.pi)) * torch.stack([y, z, x], dim=-1)
    )
    torch.testing.assert_close(values[:, 4], math.sqrt(15 / (4 * math.pi)) * x * y)


def test_angles_without_a_seam_are_the_polar_angle_along_the_azimuth() -> None:
    polar, azimuth = torch.tensor([1e-4, 0.3, 1.5, 3.0]).double(), torch.tensor(2.0).double()
    wanted = torch.stack([polar * azimuth.cos(), polar * azimuth.sin()], dim=-1)
    torch.testing.assert_close(angles_without_seam(directions(polar, azimuth)), wanted)
    axis = torch.tensor([[0.0, 0.0, 1.0]])
    assert torch.equal(angles_without_seam(axis), torch.zeros(1, 2))


@pytest.mark.parametrize("kind", ["periodic", "ray", "harmonics"])
def test_nothing_jumps_across_the_seam(kind: EmbeddingKind) -> None:
    polar = torch.linspace(0.2, 1.5, 20).double()
    sides = [directions(polar, torch.tensor(sign * (math.pi - 1e-6)).double()) for sign in (-1, 1)]
    above, below = (EMBEDDINGS[kind].describe(side[None, None], 16) for side in sides)
    assert (above - below).abs().max() < 1e-3
    # The same points under the notes' features: the jump that FACTS 3.3 measured.
    jump = [EMBEDDINGS["fourier"].describe(side[None, None], 16) for side in sides]
    assert (jump[0] - jump[1]).abs().max() > 1


@pytest.mark.parametrize("kind", list(EMBEDDINGS))
def test_an_embedder_gives_the_channels_that_it_promises(kind: EmbeddingKind) -> None:
    camera = Pinhole(torch.tensor([70.0, 70, 48, 32]), SIZE)
    embedder = CameraEmbedder(17, kind=kind)
    for stride in (4, 32):
        features = embedder.embed([camera], stride)
        assert features.shape == (1, embedder.channels, SIZE[0] // stride, SIZE[1] // stride)
        assert features.isfinite().all()
    assert embedder.channels == {"ray": 3, "harmonics": 81}.get(kind, 16)


@pytest.mark.parametrize(
    ("fov", "cells", "aliased"), [(63, 160, 0), (180, 160, 14), (180, 20, 25), (114, 160, 0)]
)
def test_bands_that_alias_are_those_that_were_measured(
    fov: float, cells: int, aliased: int
) -> None:
    assert count_aliased_bands(equidistant(fov, cells), 1) == (aliased, 128)


def test_the_band_limit_leaves_no_band_that_aliases() -> None:
    camera = equidistant(350, 160)
    rays = camera.rays()[None]
    step = float(polar_azimuth(rays)[..., 0].diff(dim=-1).abs().max())
    features = EMBEDDINGS["band_limited"].describe(rays, 256)
    highest = 160 / (2 * math.pi)
    torch.testing.assert_close(
        features[..., 127], torch.sin(math.pi * highest * polar_azimuth(rays)[..., 0])
    )
    assert highest * step <= 1
