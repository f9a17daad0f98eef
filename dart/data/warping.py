"""Frames through another lens: any picture as any lens would have seen it from the same place.

Axis letters: ``h w`` pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor
from torch.nn import functional as F

from dart.cameras import LENSES, Camera
from dart.cameras.warp import warp_grid
from dart.data.sample import Sample

IDEAL = ("pinhole", "equidistant", "equisolid", "stereographic")
"""Lenses that one focal length describes."""
_MOST_POINTS = 8
_GRIDS_KEPT = 4
_WIDEST_OF = {"pinhole": math.radians(65), "orthographic": math.radians(85)}
_WIDEST = math.radians(110)
_DISTORTION = {"kannala_brandt": (0.03, -0.012, 0.002, 0.0)}


@dataclass(frozen=True, eq=False)
class _Grids:
    """Where the pixels of a new lens lie in an image, for one pair of cameras."""

    nearest: Int64[Tensor, "h w 2"]
    """Column and row of the source pixel that each pixel's ray falls on."""
    inside: Bool[Tensor, "h w"]
    fine: int
    """Points along one pixel's side that the picture is sampled at."""
    unit: Float[Tensor, "height width 2"]
    """Those points in the source, -1..1 from edge to edge."""
    weight: Float[Tensor, "height width"]
    """1 where such a point lies in the source, else 0."""


class Warper:
    """Shows frames as one camera would have seen them from the same place.

    Each pixel takes the distance of the source pixel that its ray falls on: that pixel's own,
    never a mixture. Pixels that look outside the source, or where it is not valid, are not valid.
    The picture is the mean of bilinear samples over each pixel, as many as the lens shrinks it.

    Args:
        camera: The lens to see through, with the size of the result.
        rotation: Turns rays of the new camera into those of the frame's; none by default.
    """

    def __init__(self, camera: Camera, *, rotation: Float[Tensor, "3 3"] | None = None) -> None:
        self.camera = camera
        self.rotation = rotation
        self._known: dict[str, _Grids] = {}

    def __call__(self, sample: Sample) -> Sample:
        """Return the frame through the new lens."""
        grids = self._find(sample.camera)
        column, row = grids.nearest.unbind(-1)
        valid = grids.inside & sample.valid[row, column]
        distance = torch.where(valid, sample.distance[row, column], 0.0)
        image = _average(sample.image, grids)
        return replace(
            sample,
            image=image,
            distance=distance,
            valid=valid,
            camera=self.camera,
            digest=b"",
        )

    def _find(self, source: Camera) -> _Grids:
        if source.key not in self._known:
            if len(self._known) >= _GRIDS_KEPT:
                self._known.pop(next(iter(self._known)))
            self._known[source.key] = _create_grids(source, self.camera, self.rotation)
        return self._known[source.key]


def warp(sample: Sample, camera: Camera, *, rotation: Float[Tensor, "3 3"] | None = None) -> Sample:
    """Return one frame as ``camera`` would have seen it (``Warper``, for a single frame)."""
    return Warper(camera, rotation=rotation)(sample)


def _create_grids(source: Camera, target: Camera, rotation: Float[Tensor, "3 3"] | None) -> _Grids:
    height, width = source.size
    grid, inside = warp_grid(source, target, rotation)
    largest = grid.new_tensor([width - 1, height - 1])
    nearest = grid.floor().clamp(min=0).minimum(largest).long()
    fine = _shrinkage(grid, inside)
    finer = target.resize((target.size[0] * fine, target.size[1] * fine))
    points, weight = warp_grid(source, finer, rotation)
    unit = torch.where(weight[..., None], 2 * points / grid.new_tensor([width, height]) - 1, 0.0)
    return _Grids(nearest, inside, fine, unit.float(), weight.float())


def _shrinkage(grid: Float[Tensor, "h w 2"], inside: Bool[Tensor, "h w"]) -> int:
    """Return how many source pixels lie along one new pixel, at most, for most of the image."""
    steps = [
        grid.diff(dim=axis).abs().amax(-1)[pair]
        for axis, pair in ((0, inside[1:] & inside[:-1]), (1, inside[:, 1:] & inside[:, :-1]))
    ]
    lengths = torch.cat(steps)
    if lengths.numel() == 0:
        return 1
    middle = lengths.kthvalue(max(1, round(0.9 * lengths.numel()))).values
    return int(middle.ceil().clamp(1, _MOST_POINTS))


def _average(image: Float[Tensor, "3 h w"], grids: _Grids) -> Float[Tensor, "3 height width"]:
    """Return the mean of each pixel's points that lie in the source; black where none does."""
    picture = F.grid_sample(
        image[None], grids.unit[None], mode="bilinear", padding_mode="border", align_corners=False
    )
    total = F.avg_pool2d(picture * grids.weight, grids.fine)
    share = F.avg_pool2d(grids.weight[None, None], grids.fine)
    return torch.where(share > 0, total / share.clamp(min=1e-6), 0.0)[0]


def draw_lens(
    source: Camera, size: tuple[int, int], *, generator: Generator, models: Sequence[str] = IDEAL
) -> Camera:
    """Return a random lens that sees a part of what ``source`` sees.

    The model is drawn from ``models``; the half field of view along the longer side from 0.6 to
    1.0 of the source's own, at most 65 degrees for a pinhole and 110 for the others.

    Args:
        size: Height and width in pixels of the image to be made.
    """
    drawn = torch.rand(2, generator=generator).tolist()
    model = models[int(drawn[0] * len(models))]
    return _lens_of(model, _half_view(source) * (0.6 + 0.4 * drawn[1]), size)


def same_view(source: Camera, model: str) -> Camera:
    """Return the lens of another model that sees what ``source`` sees along the longer side.

    As far as it can: half a field of view is at most 65 degrees for a pinhole, 85 for an
    orthographic lens and 110 for the others. ``kannala_brandt`` has the coefficients of the
    built-in fisheyes, the other models have none.
    """
    return _lens_of(model, _half_view(source), (source.size[0], source.size[1]))


def narrower(camera: Camera, share: float) -> Camera:
    """Return the same lens with a longer focal length: ``share`` of its field of view is left.

    Along the longer side, from the principal point; height, width and distortion stay.
    """
    reach = _half_view(camera)
    axis = int(camera.size[0] > camera.size[1])  # of the pixel: u, unless the image is upright
    rays = torch.zeros(2, 3, dtype=torch.float64)
    for ray, angle in zip(rays, (reach, share * reach), strict=True):
        ray[axis], ray[2] = math.sin(angle), math.cos(angle)
    pixels, _ = camera.project(rays)
    whole, part = (pixels[:, axis] - camera.params[2 + axis].double()).tolist()
    params = camera.params.clone()
    params[:2] *= whole / part
    return replace(camera, params=params)


def _lens_of(model: str, reach: float, size: tuple[int, int]) -> Camera:
    """Return a lens whose longer side sees ``reach`` radians to both sides, if it can."""
    reach = min(reach, _WIDEST_OF.get(model, _WIDEST))
    lens, distortion = LENSES[model], _DISTORTION.get(model, ())
    ray = torch.tensor([[math.sin(reach), 0.0, math.cos(reach)]], dtype=torch.float64)
    unit = lens(torch.tensor([1.0, 1.0, 0.0, 0.0, *distortion], dtype=torch.float64), (1, 1))
    focal = max(size) / 2 / float(unit.project(ray)[0][0, 0])
    return lens(torch.tensor([focal, focal, size[1] / 2, size[0] / 2, *distortion]), size)


def _half_view(camera: Camera) -> float:
    """Return half the field of view in radians along the image's longer side."""
    height, width = camera.size
    ends = [[0.5, height / 2], [width - 0.5, height / 2]]
    if height > width:
        ends = [[width / 2, 0.5], [width / 2, height - 0.5]]
    rays, _ = camera.unproject(torch.tensor(ends, dtype=torch.float64))
    return float(rays[..., 2].clamp(-1, 1).acos().amin())
