"""False cameras for adapters: is it the lens that they use, or only the place in the image?

With one fixed lens the embedding is a fixed function of the cell, and any other fixed function
of the cell is as good. Only several lenses, and a lens held out of training, tell camera-aware
from position-aware (docs/variants.md).

Axis letters: ``b`` batch, ``e`` camera channels, ``h w`` cells.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dart.cameras.camera import Camera
from dart.cameras.fisheyes import Equidistant
from dart.cameras.lenses import Pinhole
from dart.cameras.rays import check_size
from dart.conditioning import CameraControl
from dart.seeds import derive_seed

_FOCAL_PER_DIAGONAL = 0.7
WIDE = math.radians(60)
"""A lens that sees farther off its axis than this is wide."""


def default_camera(size: tuple[int, int]) -> Pinhole:
    """Return the fixed pinhole K0 of images that come without a camera.

    The centre is the image's; the focal length is 0.7 of the diagonal, UniDepth V2's starting
    guess: 59.5 degrees across an image of 4:3.
    """
    check_size(size, "default_camera")
    height, width = size
    focal = _FOCAL_PER_DIAGONAL * math.hypot(height, width)
    return Pinhole(torch.tensor([focal, focal, width / 2, height / 2]), size)


def largest_polar(camera: Camera) -> float:
    """Return how far off the axis the image's border sees, in radians."""
    height, width = camera.size
    v, u = torch.arange(height) + 0.5, torch.arange(width) + 0.5
    rows = [torch.stack([u, v[end].expand(width)], dim=-1) for end in (0, -1)]
    columns = [torch.stack([u[end].expand(height), v], dim=-1) for end in (0, -1)]
    border = torch.cat([*rows, *columns]).to(camera.params)
    rays, _ = camera.unproject(border.expand(*camera.params.shape[:-1], *border.shape))
    return float(torch.atan2(torch.linalg.vector_norm(rays[..., :2], dim=-1), rays[..., 2]).max())


def mismatched_camera(camera: Camera) -> Camera:
    """Return a lens of the other kind: a pinhole for a wide lens, a fisheye for any other.

    The pinhole sees 90 degrees from corner to corner and the fisheye, equidistant, 180; both
    centre on the image. A wide lens sees more than 60 degrees off its axis, so the border's
    rays are false by 15 degrees at least, and by 30 for a lens that is not wide.
    """
    height, width = camera.size
    half = math.hypot(height, width) / 2
    if largest_polar(camera) > WIDE:
        return Pinhole(camera.params.new_tensor([half, half, width / 2, height / 2]), camera.size)
    focal = half / (math.pi / 2)
    return Equidistant(camera.params.new_tensor([focal, focal, width / 2, height / 2]), camera.size)


def shown_lens(camera: Camera, control: CameraControl) -> Camera:
    """Return the lens whose rays adapters are shown in the place of ``camera``."""
    if control == "constant":
        return default_camera(camera.size).to(camera.params.device, camera.params.dtype)
    return mismatched_camera(camera) if control == "mismatched" else camera


def permutation(size: tuple[int, int]) -> Int[Tensor, " n"]:
    """Return the one fixed order in which cells of a map of ``size`` are shuffled."""
    cells = size[0] * size[1]
    generator = torch.Generator().manual_seed(derive_seed(0, "shuffled", *size))
    order = torch.randperm(cells, generator=generator)
    # Of two cells one order in two changes nothing.
    return order.roll(1) if torch.equal(order, torch.arange(cells)) else order


def arrange(features: Float[Tensor, "b e h w"], control: CameraControl) -> Float[Tensor, "b e h w"]:
    """Return the map that adapters are shown: zeros, its cells in another order, or as it is."""
    if control == "none":
        return torch.zeros_like(features)
    if control != "shuffled":
        return features
    size = (features.shape[2], features.shape[3])
    order = permutation(size).to(features.device)
    return features.flatten(2)[..., order].unflatten(2, size)
