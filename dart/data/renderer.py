"""Pictures and exact ranges of a scene through any camera.

Geometry (``intersect``), surface colours (``textures``) and light (here) are separate. The light
is one sample per ray of every area light, with soft shadows, and one bounced ray that serves both
ambient occlusion and the colour of what stands near.

Axis letters: ``n`` rays, ``3 n`` with the coordinates first, ``s`` samples per pixel.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from dart.cameras import Camera
from dart.data.intersect import MISS, Tracer, tracer
from dart.data.scene import Scene
from dart.data.textures import albedo

_OFFSET = 2e-3
"""Metres that a secondary ray starts above its surface, lest it hit the surface itself."""
_OCCLUSION_RADIUS = 0.35
"""Metres at which a neighbouring surface takes half of the ambient light."""
_MIDDLE_GREY = 0.42
"""Linear brightness to which the median pixel is exposed."""


@dataclass(frozen=True)
class Pose:
    """Where a camera stands and where it looks; angles in radians, metres."""

    position: tuple[float, float, float]
    yaw: float
    pitch: float = 0.0
    roll: float = 0.0

    def rotation(self) -> Float[Tensor, "3 3"]:
        """Return the matrix from camera (x right, y down, z forward) to world axes (z up)."""
        cos_yaw, sin_yaw = math.cos(self.yaw), math.sin(self.yaw)
        cos_pitch, sin_pitch = math.cos(self.pitch), math.sin(self.pitch)
        forward = torch.tensor([cos_yaw * cos_pitch, sin_yaw * cos_pitch, sin_pitch])
        right = torch.tensor([sin_yaw, -cos_yaw, 0.0])
        down = torch.linalg.cross(forward, right)
        cos, sin = math.cos(self.roll), math.sin(self.roll)
        return torch.stack([cos * right + sin * down, cos * down - sin * right, forward], 1)


@dataclass(frozen=True)
class Exposure:
    """How the camera turns light into a picture."""

    gain: float = 1.0
    """Factor on the automatic exposure."""
    balance: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """White balance: factors on red, green and blue."""
    noise: float = 0.01
    """Standard deviation of the sensor noise, of a full scale of 1."""
    blur: float = 0.0
    """Standard deviation of the lens's blur in pixels."""


@dataclass(frozen=True)
class Quality:
    """How a picture is traced."""

    samples_per_pixel: int = 4
    """A square number: the samples form a grid in the pixel."""
    compiled: bool = False
    """Trace with compiled kernels (see ``Tracer``)."""


DEFAULT_QUALITY = Quality()


@dataclass(frozen=True, eq=False)
class Rendering:
    """What ``render_view`` makes."""

    image: Float[Tensor, "3 h w"]
    """sRGB-like, 0..1; 0 outside the lens's field of view."""
    distance: Float[Tensor, "h w"]
    """Metres along the ray of the pixel's centre; 0 where not valid."""
    valid: Bool[Tensor, "h w"]


def render_view(
    scene: Scene,
    camera: Camera,
    pose: Pose,
    *,
    generator: torch.Generator,
    exposure: Exposure = Exposure(),
    quality: Quality = DEFAULT_QUALITY,
) -> Rendering:
    """Return the picture and the exact range that a camera sees of a scene.

    Args:
        scene: What to look at.
        camera: One camera; its lens and frame size decide the rays.
        pose: Where it stands and looks.
        generator: Draws the samples of light and the sensor noise, on the scene's device.
        exposure: How light becomes a picture.
        quality: Number of samples, and whether compiled kernels trace them.
    """
    trace = tracer(compiled=quality.compiled)
    device = scene.materials.device
    centres, valid = _pixel_rays(camera, torch.tensor([[0.5, 0.5]]))
    rotation = pose.rotation()
    towards = (rotation @ centres[0].T)[:, valid[0]].to(device)
    position = torch.tensor(pose.position, device=device)[:, None]
    distance, _ = trace.nearest(scene.primitives, position.expand_as(towards), towards)

    light = _trace_samples(
        scene,
        camera,
        (position, rotation),
        valid[0],
        quality=quality,
        generator=generator,
    )
    height, width = camera.size
    inside = valid[0].to(device)
    seen = distance < MISS / 2
    range_picture = torch.zeros(height * width, device=device)
    range_picture[inside] = torch.where(seen, distance, 0.0)
    range_picture = range_picture.reshape(height, width)
    image = torch.zeros((3, height * width), device=device)
    image[:, inside] = light
    image = _develop(
        image.reshape(3, height, width), inside.reshape(height, width), exposure, generator
    )
    return Rendering(image, range_picture, range_picture > 0)


def _pixel_rays(
    camera: Camera, offsets: Float[Tensor, "s 2"]
) -> tuple[Float[Tensor, "s n 3"], Bool[Tensor, "s n"]]:
    """Return the rays through every pixel at the given places within it (0..1, 0..1)."""
    height, width = camera.size
    row, column = torch.meshgrid(
        torch.arange(height, dtype=torch.float32),
        torch.arange(width, dtype=torch.float32),
        indexing="ij",
    )
    corners = torch.stack([column, row], -1).reshape(1, -1, 2)
    rays, valid = camera.unproject(corners + offsets[:, None])
    return rays, valid


def _trace_samples(
    scene: Scene,
    camera: Camera,
    pose: tuple[Float[Tensor, "3 1"], Float[Tensor, "3 3"]],
    inside: Bool[Tensor, " p"],
    *,
    quality: Quality,
    generator: torch.Generator,
) -> Float[Tensor, "3 q"]:
    """Return the light that reaches every pixel ``q`` of those ``inside``, linear RGB."""
    side = math.isqrt(quality.samples_per_pixel)
    steps = (torch.arange(side) + 0.5) / side
    offsets = torch.cartesian_prod(steps, steps)
    position, rotation = pose
    rays, _ = _pixel_rays(camera, offsets)
    towards = (rays[:, inside].reshape(-1, 3) @ rotation.T).T.contiguous().to(position.device)
    sample = torch.arange(side * side, device=position.device)
    sample = sample.repeat_interleave(int(inside.sum()))
    spread = _pixel_spread(camera)
    origin = position.expand_as(towards).contiguous()
    light = _radiance(
        scene,
        (origin, towards),
        _Strata(sample, side),
        spread=spread,
        generator=generator,
        trace=tracer(compiled=quality.compiled),
    )
    return light.reshape(3, side * side, -1).mean(1)


def _pixel_spread(camera: Camera) -> float:
    """Return the angle in radians that the middle pixel covers."""
    height, width = camera.size
    middle = torch.tensor([[width / 2, height / 2], [width / 2 + 1, height / 2]])
    rays, _ = camera.unproject(middle)
    return float(torch.linalg.vector_norm(rays[1] - rays[0]))


@dataclass(frozen=True, eq=False)
class _Strata:
    """Spreads the random points of a pixel's samples over a grid, which halves their noise."""

    sample: Int[Tensor, " n"]
    side: int

    def draw(self, generator: torch.Generator) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Return points of the unit square, one cell of the grid per sample of a pixel."""
        random = torch.rand((2, len(self.sample)), generator=generator, device=self.sample.device)
        first = (self.sample // self.side + random[0]) / self.side
        return first, (self.sample % self.side + random[1]) / self.side


def _radiance(
    scene: Scene,
    rays: tuple[Float[Tensor, "3 n"], Float[Tensor, "3 n"]],
    strata: _Strata,
    *,
    spread: float,
    generator: torch.Generator,
    trace: Tracer,
) -> Float[Tensor, "3 n"]:
    """Return the light that comes back along each ray, linear RGB."""
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
    light = light + _ambient(scene, start, normal, strata.draw(generator), trace)
    return torch.where(hit, colour * light + material[:, 9] * colour, 0.0)


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
    open_share = free / (free + _OCCLUSION_RADIUS)
    bounced = scene.materials[scene.material_of[index], 1:4].T
    return open_share * scene.ambient[:, None] * (0.65 + 0.5 * bounced)


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


def _develop(
    light: Float[Tensor, "3 h w"],
    inside: Bool[Tensor, "h w"],
    exposure: Exposure,
    generator: torch.Generator,
) -> Float[Tensor, "3 h w"]:
    """Return the picture: exposed, balanced, blurred, tone-mapped, with noise."""
    if exposure.blur > 0:
        light = _blur(light, inside, exposure.blur)
    middle = light[:, inside].mean(0).median().clamp(min=1e-3)
    balance = torch.tensor(exposure.balance, device=light.device)[:, None, None]
    light = light * balance * (_MIDDLE_GREY * exposure.gain / middle)
    image = (light / (1 + 0.18 * light)).clamp(0, 1) ** (1 / 2.2)
    noise = torch.randn(image.shape, generator=generator, device=image.device)
    return torch.where(inside, (image + exposure.noise * noise).clamp(0, 1), 0.0)


def _blur(
    light: Float[Tensor, "3 h w"], inside: Bool[Tensor, "h w"], sigma: float
) -> Float[Tensor, "3 h w"]:
    """Return the light blurred by a Gaussian that takes nothing from outside the lens's view."""
    taps = torch.exp(-0.5 * (torch.arange(-2, 3, device=light.device) / sigma) ** 2)
    kernel = (taps[:, None] * taps / taps.sum() ** 2)[None, None]
    weight = F.conv2d(inside.float()[None, None], kernel, padding=2)[0]
    blurred = F.conv2d((light * inside)[:, None], kernel, padding=2)[:, 0]
    return torch.where(inside, blurred / weight.clamp(min=1e-6), 0.0)
