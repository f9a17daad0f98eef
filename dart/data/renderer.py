"""Pictures and exact ranges of a scene through any camera.

Geometry (``intersect``), surface colours (``textures``), light (``shading``) and the camera (here)
are separate.

Axis letters: ``n`` rays, ``3 n`` with the coordinates first, ``s`` samples per pixel.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from dart.cameras import Camera
from dart.data.intersect import MISS, tracer
from dart.data.scene import Scene
from dart.data.shading import Strata, radiance

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
    shoulder: float = 0.18
    """How much bright light is compressed; more keeps a sky from turning white."""


@dataclass(frozen=True)
class Quality:
    """How a picture is traced."""

    samples_per_pixel: int = 4
    """A square number: the samples form a grid in the pixel."""
    compiled: bool = False
    """Trace with compiled kernels (see ``Tracer``)."""
    device: str = "cpu"
    """Where rays are traced; random numbers come from the generator, whatever the device."""


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
        generator: Draws the samples of light and the sensor noise.
        exposure: How light becomes a picture.
        quality: Number of samples, and whether compiled kernels trace them.
    """
    trace = tracer(compiled=quality.compiled)
    device = torch.device(quality.device)
    scene, camera = scene.to(device), camera.to(device)
    centres, valid = _pixel_rays(camera, torch.tensor([[0.5, 0.5]], device=device))
    rotation = pose.rotation().to(device)
    towards = (rotation @ centres[0].T)[:, valid[0]]
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
    inside = valid[0]
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
        torch.arange(height, dtype=torch.float32, device=offsets.device),
        torch.arange(width, dtype=torch.float32, device=offsets.device),
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
    offsets = torch.cartesian_prod(steps, steps).to(inside.device)
    position, rotation = pose
    rays, _ = _pixel_rays(camera, offsets)
    towards = (rays[:, inside].reshape(-1, 3) @ rotation.T).T.contiguous()
    sample = torch.arange(side * side, device=position.device)
    sample = sample.repeat_interleave(int(inside.sum()))
    spread = _pixel_spread(camera)
    origin = position.expand_as(towards).contiguous()
    light = radiance(
        scene,
        (origin, towards),
        Strata(sample, side),
        spread=spread,
        generator=generator,
        trace=tracer(compiled=quality.compiled),
    )
    return light.reshape(3, side * side, -1).mean(1)


def _pixel_spread(camera: Camera) -> float:
    """Return the angle in radians that the middle pixel covers."""
    height, width = camera.size
    middle = torch.tensor([[width / 2, height / 2], [width / 2 + 1, height / 2]]).to(camera.params)
    rays, _ = camera.unproject(middle)
    return float(torch.linalg.vector_norm(rays[1] - rays[0]))


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
    image = (light / (1 + exposure.shoulder * light)).clamp(0, 1) ** (1 / 2.2)
    noise = torch.randn(image.shape, generator=generator, device=generator.device).to(image.device)
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
