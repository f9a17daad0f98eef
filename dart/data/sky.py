"""The light of an open sky, and where its sun stands."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from dart.data.scene import Sky
from dart.data.textures import fractal_noise

_CLOUD = (0.95, 0.95, 0.97)
_CLOUD_HEIGHT = 0.15
"""Added to the height of a direction, so that clouds at the horizon stay larger than a pixel."""


def sun_direction(sky: Sky) -> Float[Tensor, "3 3"]:
    """Return the unit vector towards the sun and two across it, as columns in world axes."""
    cos, sin = math.cos(sky.sun_yaw), math.sin(sky.sun_yaw)
    flat, high = math.cos(sky.sun_height), math.sin(sky.sun_height)
    towards = (flat * cos, flat * sin, high)
    side, up = (-sin, cos, 0.0), (-high * cos, -high * sin, flat)
    return torch.tensor([towards, side, up]).T


def sky_light(
    sky: Sky, direction: Float[Tensor, "3 n"], *, clouds: bool = True
) -> Float[Tensor, "3 n"]:
    """Return the light from each direction above the horizon; below it, that of the horizon.

    Args:
        sky: Which sky.
        direction: Unit vectors, world axes.
        clouds: Whether to draw them; light on surfaces does without.
    """
    x, y, z = direction
    z = z.clamp(min=0)
    low, high = (torch.tensor(c, device=z.device)[:, None] for c in (sky.horizon, sky.zenith))
    light = torch.lerp(low, high, z.sqrt())
    if not clouds:
        return light
    flat = 1.3 / (z + _CLOUD_HEIGHT)
    density = fractal_noise(x * flat + sky.variation, y * flat, sky.variation)
    # Clouds thin out towards the horizon, where they would shrink to noise.
    cover = ((density - 0.62 + 0.25 * sky.clouds) * 4).clamp(0, 1) * (z * 6).clamp(max=1)
    white = torch.tensor(_CLOUD, device=z.device)[:, None]
    return torch.lerp(light, white, 0.85 * cover * (sky.clouds > 0))
