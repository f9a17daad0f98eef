"""Changes of a frame in which the camera moves with the pixels and no two distances are mixed.

Every function returns a new sample whose distances are still those of its camera's rays: a
distance is copied from one pixel of the source, the nearest, never interpolated. Pictures are
averaged over the area that a pixel covers, so that shrinking does not alias.

Axis letters: ``c`` colours, ``h w`` pixels.
"""

import math
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor
from torch.nn import functional as F

from dart.cameras import Camera
from dart.data.sample import Sample
from dart.errors import UserError


def sample_z(sample: Sample) -> tuple[Float[Tensor, "h w"], Bool[Tensor, "h w"]]:
    """Return depth along the optical axis in metres, and where it exists and is positive.

    Rays at 90 degrees and more from the axis have no such depth; there it is 0.
    """
    cosine = sample.camera.to(dtype=torch.float64).rays()[..., 2].to(sample.distance)
    valid = sample.valid & (cosine > 0)
    return torch.where(valid, sample.distance * cosine, 0.0), valid


def resize(sample: Sample, size: tuple[int, int]) -> Sample:
    """Return the sample at ``size`` (height, width).

    A pixel keeps the distance of the valid source pixel nearest to its centre among those that it
    covers. That suits training; where errors are measured, resize the prediction instead.
    """
    height, width = sample.distance.shape
    if size == (height, width):
        return sample
    down, right = (_weights(old, new) for old, new in zip((height, width), size, strict=True))
    image = down.to(sample.image) @ sample.image @ right.to(sample.image).mT
    camera = sample.camera.resize(size)
    distance, valid = _nearest_valid(sample.distance, sample.valid, size)
    valid = valid & camera.valid()
    distance = torch.where(valid, distance, 0.0)
    return replace(sample, image=image, distance=distance, valid=valid, camera=camera, digest=b"")


def _weights(old: int, new: int) -> Float[Tensor, "new old"]:
    """Return each new pixel's share in the old ones: area covered, or linear where it grows."""
    edges = torch.arange(new + 1, dtype=torch.float64) * old / new
    pixels = torch.arange(old, dtype=torch.float64)
    if new < old:
        ends = torch.minimum(edges[1:, None], pixels + 1)
        starts = torch.maximum(edges[:-1, None], pixels)
        return (ends - starts).clamp(min=0) * new / old
    centres = ((edges[1:] + edges[:-1]) / 2 - 0.5).clamp(0, old - 1)
    return (1 - (centres[:, None] - pixels).abs()).clamp(min=0)


def _nearest_valid(
    distance: Float[Tensor, "h w"], valid: Bool[Tensor, "h w"], size: tuple[int, int]
) -> tuple[Float[Tensor, "height width"], Bool[Tensor, "height width"]]:
    """Return distance and validity at ``size``: of the nearest valid pixel within each new one."""
    rows, columns = (
        ((torch.arange(new) + 0.5) * old / new).long()
        for new, old in zip(size, valid.shape, strict=True)
    )
    near, found = distance[rows[:, None], columns], valid[rows[:, None], columns]
    v, u = valid.nonzero(as_tuple=True)
    down, right = size[0] / valid.shape[0], size[1] / valid.shape[1]
    row, column = ((v + 0.5) * down), ((u + 0.5) * right)
    cell = row.long() * size[1] + column.long()
    off_centre = ((row % 1) - 0.5).square() / down**2 + ((column % 1) - 0.5).square() / right**2
    nearest = torch.full((size[0] * size[1],), math.inf)
    nearest = nearest.scatter_reduce(0, cell, off_centre.float(), "amin")
    chosen = off_centre.float() == nearest[cell]
    covered = torch.zeros(size[0] * size[1])
    # Ties write in an order that is fixed on a CPU only; the smallest of them is always the same.
    covered = covered.scatter_reduce(
        0, cell[chosen], distance[v, u][chosen], "amin", include_self=False
    ).reshape(size)
    fill = ~found & nearest.reshape(size).isfinite()
    return torch.where(found, near, torch.where(fill, covered, 0.0)), found | fill


def pad(sample: Sample, left: int, top: int, right: int, bottom: int) -> Sample:
    """Return the sample with black, invalid pixels added on its sides."""
    sides = (left, right, top, bottom)
    return replace(
        sample,
        image=F.pad(sample.image, sides),
        digest=b"",
        distance=F.pad(sample.distance, sides),
        valid=F.pad(sample.valid, sides),
        camera=sample.camera.pad(left, top, right, bottom),
    )


def pad_to(sample: Sample, size: tuple[int, int]) -> Sample:
    """Return the sample in the middle of a frame of ``size`` (height, width).

    Raises:
        UserError: the sample is larger than ``size``.
    """
    height, width = sample.distance.shape
    down, right = size[0] - height, size[1] - width
    if min(down, right) < 0:
        raise UserError(f"pad_to: {width}x{height} pixels do not fit into {size[1]}x{size[0]}")
    return pad(sample, right // 2, down // 2, right - right // 2, down - down // 2)


def fit(sample: Sample, size: tuple[int, int]) -> Sample:
    """Return the whole sample resized into a frame of ``size``, padded where its shape differs."""
    height, width = sample.distance.shape
    scale = min(size[0] / height, size[1] / width)
    inner = (max(1, round(height * scale)), max(1, round(width * scale)))
    return pad_to(resize(sample, inner), size)


def crop(sample: Sample, top: int, left: int, height: int, width: int) -> Sample:
    """Return a window of the sample.

    Raises:
        UserError: the window is empty or leaves the sample.
    """
    camera = sample.camera.crop(top, left, height, width)
    window = (..., slice(top, top + height), slice(left, left + width))
    return replace(
        sample,
        image=sample.image[window],
        digest=b"",
        distance=sample.distance[window],
        valid=sample.valid[window],
        camera=camera,
    )


_mirrored: WeakKeyDictionary[Camera, Camera] = WeakKeyDictionary()
"""The mirrored camera of each that was asked for; the images of a set share a few cameras."""


def flip(sample: Sample) -> Sample:
    """Return the sample mirrored left to right, its camera with it; distances stay exact."""
    if sample.camera not in _mirrored:
        _mirrored[sample.camera] = sample.camera.flip()
    return replace(
        sample,
        image=sample.image.flip(-1),
        distance=sample.distance.flip(-1),
        valid=sample.valid.flip(-1),
        camera=_mirrored[sample.camera],
        digest=sample.digest and sample.digest[::-1],
    )


def rotate90(sample: Sample, turns: int = 1) -> Sample:
    """Return the sample turned counter-clockwise by quarter turns, its camera with it.

    Raises:
        UserError: the lens has an up and a down, as an equirectangular one.
    """
    return replace(
        sample,
        image=sample.image.rot90(turns, (-2, -1)),
        digest=b"",
        distance=sample.distance.rot90(turns),
        valid=sample.valid.rot90(turns),
        camera=sample.camera.rotate90(turns),
    )


def zoom(sample: Sample, factor: float, *, generator: Generator | None = None) -> Sample:
    """Return the sample seen ``factor`` times larger, at its own size; distances do not change.

    A factor above 1 resizes and crops, one below 1 shrinks and pads. The camera's focal length
    grows with it, so that the scene keeps its size in metres.

    Args:
        generator: Draws the place of the crop; the middle without one.

    Raises:
        UserError: the factor is not positive.
    """
    if not 0 < factor < math.inf:
        raise UserError(f"zoom: the factor is {factor:g}, allowed are finite numbers above 0")
    height, width = sample.distance.shape
    larger = resize(sample, (max(1, round(height * factor)), max(1, round(width * factor))))
    if factor <= 1:
        return pad_to(larger, (height, width))
    room = (larger.distance.shape[0] - height, larger.distance.shape[1] - width)
    place = torch.full((2,), 0.5) if generator is None else torch.rand(2, generator=generator)
    top, left = (
        int(part * (length + 1)) for part, length in zip(place.tolist(), room, strict=True)
    )
    return crop(larger, min(top, room[0]), min(left, room[1]), height, width)


def scale(sample: Sample, *, largest: float, generator: Generator) -> Sample:
    """Return the sample zoomed by a random factor between ``1 / largest`` and ``largest``."""
    drawn = float(torch.rand((), generator=generator))
    return zoom(sample, largest ** (2 * drawn - 1), generator=generator)


def change_colour(
    image: Float[Tensor, "c h w"], *, strength: float, generator: Generator
) -> Float[Tensor, "c h w"]:
    """Return ``image`` with another gamma, contrast and white balance.

    Args:
        strength: 1 lets gamma, contrast and each colour change by a factor of up to 1.5.
    """
    c = image.shape[0]
    factors = (1.5 ** (strength * (2 * torch.rand(2 + c, generator=generator) - 1))).to(image)
    mean = image.mean()
    image = (image - mean) * factors[1] + mean
    return (image * factors[2:, None, None]).clamp(0, 1) ** factors[0]


def colour(sample: Sample, *, strength: float, generator: Generator) -> Sample:
    """Return the sample with other colours (``change_colour``)."""
    image = change_colour(sample.image, strength=strength, generator=generator)
    return replace(sample, image=image, digest=b"")
