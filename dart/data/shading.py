"""The light that comes back along rays: lamps, sun, sky and what surfaces around reflect.

One sample per ray of every light, with soft shadows, and one bounced ray that serves both ambient
occlusion and the colour of what stands near.

Axis letters: ``n`` rays, ``3 n`` with the coordinates first.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dart.data.intersect import MISS, Tracer
from dart.data.scene import Scene, Sky
from dart.data.sky import sky_light, sun_direction
from dart.data.textures import albedo

_OFFSET = 2e-3
"""Metres that a secondary ray starts above its surface, lest it hit the surface itself."""
_SUN_RADIUS = 0.02
"""Tangent of the angle under which the sun's radius appears: four times the true one, for soft
edges of shadows that are metres away."""
_SKY_SHARE = 0.6
"""What surfaces receive of the sky's light as it is seen: less, so that shadows stay dark."""


@dataclass(frozen=True, eq=False)
class Strata:
    """Spreads the random points of a pixel's samples over a grid, which halves their noise."""

    sample: Int[Tensor, " n"]
    side: int

    def draw(self, generator: torch.Generator) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Return points of the unit square, one cell of the grid per sample of a pixel."""
        # Drawn where the generator lives, so that every device gets the same numbers.
        random = torch.rand((2, len(self.sample)), generator=generator, device=generator.device)
        random = random.to(self.sample.device)
        first = (self.sample // self.side + random[0]) / self.side
        return first, (self.sample % self.side + random[1]) / self.side


def radiance(
    scene: Scene,
    rays: tuple[Float[Tensor, "3 n"], Float[Tensor, "3 n"]],
    strata: Strata,
    *,
    spread: float,
    generator: torch.Generator,
    trace: Tracer,
) -> Float[Tensor, "3 n"]:
    """Return the light that comes back along each ray, linear RGB.

    Args:
        scene: What the rays meet.
        rays: Origins in metres and unit directions, world axes.
        strata: Which sample of its pixel each ray is.
        spread: Angle in radians between neighbouring pixels' rays.
        generator: Draws the points of lights and the directions of bounced rays.
        trace: Finds what a ray meets.
    """
    origin, direction = rays
    distance, index = trace.nearest(scene.primitives, origin, direction)
    hit = distance < MISS / 2
    point = origin + direction * distance
    normal, local, local_normal = _surface(scene, point, index)
    facing = (normal * direction).sum(0)
    normal = torch.where(facing > 0, -normal, normal)
    footprint = distance * spread / facing.abs().clamp(min=0.15)
    material = scene.materials[scene.material_of[index]]
    colour = albedo(material, local.T, local_normal.T, footprint).T
    start = point + normal * _OFFSET
    light = torch.zeros_like(point)
    for lamp in scene.lights:
        direct, gloss = _direct(scene, lamp, (start, normal, direction), strata.draw(generator),
                                trace)  # fmt: skip
        light = light + (direct + gloss * (1 - material[:, 8]) * 1.5) * lamp[4:7, None]
    if scene.sky is not None:
        light = light + _sunlight(scene, scene.sky, (start, normal), strata.draw(generator), trace)
    light = light + _ambient(scene, start, normal, strata.draw(generator), trace)
    light = colour * light + material[:, 9] * colour
    if scene.sky is None:
        return torch.where(hit, light, 0.0)
    clear = torch.exp(-distance / scene.sky.haze)
    haze = torch.tensor(scene.sky.horizon, device=light.device)[:, None]
    return torch.where(hit, torch.lerp(haze, light, clear), sky_light(scene.sky, direction))


def _sunlight(
    scene: Scene,
    sky: Sky,
    surface: tuple[Tensor, Tensor],
    where: tuple[Tensor, Tensor],
    trace: Tracer,
) -> Float[Tensor, "3 n"]:
    """Return the sun's light on matt surfaces, with its shadow."""
    start, normal = surface
    device = start.device
    axis, side, up = sun_direction(sky).to(device).unbind(1)
    radius, turn = _SUN_RADIUS * where[0].sqrt(), 2 * math.pi * where[1]
    towards = (
        axis[:, None] + side[:, None] * radius * turn.cos() + up[:, None] * radius * turn.sin()
    )
    towards = towards / _length(towards)
    cosine = (normal * towards).sum(0).clamp(min=0)
    lit_at = (cosine > 0).nonzero()[:, 0]
    visible = torch.zeros_like(cosine)
    free = trace.nearest_distance(scene.primitives, start[:, lit_at], towards[:, lit_at])
    visible[lit_at] = (free > MISS / 2).float()
    return cosine * visible * torch.tensor(sky.sun_light, device=device)[:, None]


def _direct(
    scene: Scene,
    lamp: Float[Tensor, "7"],
    surface: tuple[Tensor, Tensor, Tensor],
    where: tuple[Tensor, Tensor],
    trace: Tracer,
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Return the matt and the glossy light of one lamp, with its shadow."""
    start, normal, direction = surface
    half = lamp[3]
    x, y = lamp[0] + (2 * where[0] - 1) * half, lamp[1] + (2 * where[1] - 1) * half
    towards = torch.stack([x, y, lamp[2].expand_as(x)]) - start
    reach = _length(towards)
    towards = towards / reach
    cosine = (normal * towards).sum(0).clamp(min=0)
    lit = cosine > 0
    visible = torch.zeros_like(cosine)
    lit_at = lit.nonzero()[:, 0]
    free = trace.nearest_distance(scene.primitives, start[:, lit_at], towards[:, lit_at])
    visible[lit_at] = (free > reach[lit_at] - 0.06).float()
    received = visible * towards[2].abs().clamp(min=0.25) / (0.6 + reach * reach)
    mirrored = direction - 2 * (direction * normal).sum(0) * normal
    gloss = (mirrored * towards).sum(0).clamp(min=0) ** 40
    return cosine * received, gloss * received


def _ambient(
    scene: Scene, start: Tensor, normal: Tensor, where: tuple[Tensor, Tensor], trace: Tracer
) -> Float[Tensor, "3 n"]:
    """Return the ambient light, less near other surfaces and tinted by their colour."""
    up, turn = 2 * where[0] - 1, 2 * math.pi * where[1]
    flat = (1 - up * up).clamp(min=0).sqrt()
    # A point of the unit sphere added to the normal gives cosine-weighted directions.
    towards = normal + torch.stack([flat * turn.cos(), flat * turn.sin(), up])
    towards = towards / _length(towards).clamp(min=1e-4)
    free, index = trace.nearest(scene.primitives, start, towards)
    open_share = free / (free + scene.occlusion_radius)
    bounced = scene.materials[scene.material_of[index], 1:4].T
    light = open_share * scene.ambient[:, None] * (0.65 + 0.5 * bounced)
    if scene.sky is None:
        return light
    open_sky = _SKY_SHARE * sky_light(scene.sky, towards, clouds=False)
    return torch.where(free < MISS / 2, light, open_sky)


def _length(vector: Float[Tensor, "3 n"]) -> Float[Tensor, " n"]:
    """Return the length of each column; torch's own norm is slow along the outer axis."""
    x, y, z = vector.unbind(0)
    return (x * x + y * y + z * z).sqrt()


def _surface(
    scene: Scene, point: Float[Tensor, "3 n"], index: Int[Tensor, " n"]
) -> tuple[Float[Tensor, "3 n"], Float[Tensor, "3 n"], Float[Tensor, "3 n"]]:
    """Return normal (world axes), point and normal (axes of the primitive) of surface points."""
    shapes = torch.cat(scene.primitives)[index].T
    cx, cy, cz, hx, hy, hz, cos, sin = shapes.unbind(0)
    rx, ry, z = point[0] - cx, point[1] - cy, point[2] - cz
    x, y = cos * rx + sin * ry, cos * ry - sin * rx
    local = torch.stack([x, y, z])
    scaled = torch.stack([x / hx, y / hy, z / hz])
    size = scaled.abs()
    axis = (size == size.amax(0)).float() * scaled.sign()
    round_side = torch.stack([scaled[0], scaled[1], torch.zeros_like(z)])
    cap = torch.stack([torch.zeros_like(z), torch.zeros_like(z), z.sign()])
    on_cap = (hz - z.abs()).abs() < 1e-3
    num_boxes, num_spheres = len(scene.boxes), len(scene.spheres)
    normal = torch.where(on_cap, cap, round_side)
    normal = torch.where(index < num_boxes + num_spheres, scaled, normal)
    normal = torch.where(index < num_boxes, axis, normal)
    normal = normal / _length(normal).clamp(min=1e-6)
    nx, ny, nz = normal.unbind(0)
    return torch.stack([cos * nx - sin * ny, sin * nx + cos * ny, nz]), local, normal
