"""Rays, angles, features and lenses against numbers computed with UniDepth V2's public code.

``data/unidepth_camera.npz`` was computed in float32 on a CPU. The highest Fourier bands amplify
the rounding of the angles, hence 1e-4 for features against 1e-6 for rays.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dart.cameras import (
    EUCM,
    CameraEmbedder,
    Fisheye624,
    KannalaBrandt,
    Mei,
    Pinhole,
    embed_rays,
    generate_fourier_features,
    generate_rays,
    polar_azimuth,
)
from dart.cameras.camera import Camera

REFERENCE = np.load(Path(__file__).parent / "data" / "unidepth_camera.npz")
RAYS = 1e-6
FEATURES = 1e-4
CASES = ["wide_64x96", "centre_pixel_33x65"]
EMBEDDINGS = [key for key in REFERENCE.files if "/embed/" in key]
ANGLES = [key for key in REFERENCE.files if "/angles_" in key]
# The reference's lens ends before 90 degrees: its inverse has z = 1 (FACTS 3.4).
LAST_POLAR = np.deg2rad(85)


def read(key: str) -> Tensor:
    return torch.from_numpy(REFERENCE[key])


def size_of(key: str) -> tuple[int, int]:
    height, width = (int(side) for side in REFERENCE[key])
    return height, width


def cells(text: str) -> tuple[int, int]:
    height, width = text.split("x")
    return int(height), int(width)


def rays_of(case: str) -> Tensor:
    return generate_rays(read(f"pinhole/{case}/K"), size_of(f"pinhole/{case}/size"))


def largest_error(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return (ours - theirs).abs().max().item()


def test_rays() -> None:
    key = "pinhole/centre_pixel_33x65/rays"
    assert largest_error(rays_of("centre_pixel_33x65").flatten(1, 2), read(key)) <= RAYS


@pytest.mark.parametrize("key", ANGLES)
def test_angles_of_the_references_own_rays(key: str) -> None:
    rays = read(key.replace("angles", "rays"))
    assert largest_error(polar_azimuth(rays), read(key)) <= RAYS


@pytest.mark.parametrize("key", EMBEDDINGS)
def test_embedding(key: str) -> None:
    case, _, size, dim = key.split("/")[1:]
    ours = embed_rays(rays_of(case), cells(size), int(dim))
    assert largest_error(ours.flatten(2).transpose(1, 2), read(key)) <= FEATURES


@pytest.mark.parametrize("dim", [81, 256])
def test_cached_embedding_of_a_camera(dim: int) -> None:
    matrix = read("pinhole/wide_64x96/K")[0]
    params = torch.cat([matrix.diagonal()[:2], matrix[:2, 2]])
    camera = Pinhole(params, size_of("pinhole/wide_64x96/size"))
    ours = CameraEmbedder(dim).embed([camera], 4).flatten(2).transpose(1, 2)
    assert largest_error(ours, read(f"pinhole/wide_64x96/embed/16x24/{dim}")) <= FEATURES


@pytest.mark.parametrize("name", ["v2_256", "odd_81"])
def test_fourier_features(name: str) -> None:
    key = f"fourier/{name}"
    ours = generate_fourier_features(
        read(f"{key}/x"),
        int(REFERENCE[f"{key}/dim"]),
        float(REFERENCE[f"{key}/max_freq"]),
        use_log=bool(REFERENCE[f"{key}/use_log"]),
    )
    assert largest_error(ours, read(f"{key}/out")) <= FEATURES


@pytest.mark.parametrize(
    ("lens", "key", "bound"),
    [
        (Pinhole, "cam/Pinhole/a", RAYS),
        # The reference's ten Newton steps miss its own pixels by 9e-4; fx = 22, so 4.1e-5 of a ray.
        (KannalaBrandt, "cam/Fisheye624/kb4", 5e-5),
        (Fisheye624, "cam/Fisheye624/kb4", 5e-5),
        (EUCM, "cam/EUCM/a", RAYS),
    ],
)
def test_lens(lens: type[Camera], key: str, bound: float) -> None:
    params = read(f"{key}/params")
    assert not params[:, len(lens.param_names) :].any()
    camera = lens(params[0, : len(lens.param_names)], size_of(f"{key}/size"))
    rays = camera.rays()
    theirs = read(f"{key}/rays")[0].permute(1, 2, 0)
    seen = camera.valid() & (torch.acos(rays[..., 2].clamp(-1, 1)) < LAST_POLAR)
    assert seen.float().mean() > 0.8
    assert largest_error(rays[seen], theirs[seen]) <= bound
    again, _ = camera.project(rays)
    assert largest_error(again, read(f"{key}/uv")[0].permute(1, 2, 0)) <= 1e-5
    pixels, _ = camera.project(theirs)
    assert largest_error(pixels[seen], read(f"{key}/proj")[0].permute(1, 2, 0)[seen]) <= 1e-5


def test_mei_but_for_where_its_tangential_terms_are_taken() -> None:
    key = "cam/MEI/mei"
    fx, fy, cx, cy, k1, k2, p0, p1, xi = read(f"{key}/params")[0].double()
    size = size_of(f"{key}/size")
    rays = read(f"{key}/rays")[0].permute(1, 2, 0).double()
    theirs = read(f"{key}/proj")[0].permute(1, 2, 0).double()
    focal, centre = torch.stack([fx, fy]), torch.stack([cx, cy])
    zero = torch.zeros_like(xi)
    radial = Mei(torch.stack([fx, fy, cx, cy, xi, k1, k2, zero, zero]), size)
    # The reference adds p0, p1 (of x, of y) at the radially distorted point, OpenCV before it.
    plane = (radial.project(rays)[0] - centre) / focal
    vector = torch.stack([p0, p1])
    along = 2 * (plane * vector).sum(-1, keepdim=True)
    pixels = plane + along * plane + plane.square().sum(-1, keepdim=True) * vector
    assert largest_error(pixels * focal + centre, theirs) <= 2e-5
    opencv = Mei(torch.stack([fx, fy, cx, cy, xi, k1, k2, p1, p0]), size)
    assert largest_error(opencv.project(rays)[0], theirs) <= 1e-2
