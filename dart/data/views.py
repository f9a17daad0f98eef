"""What a built-in domain's frame shows: the camera, its place in the scene, and its exposure.

All of a frame's randomness comes from its name (domain, scene, view), so any frame can be rendered
alone and in any order.
"""

import math
from dataclasses import replace
from hashlib import sha256

import torch
from jaxtyping import Float
from torch import Tensor

from dart.cameras import LENSES, Camera
from dart.data.intersect import tracer
from dart.data.renderer import DEFAULT_QUALITY, Exposure, Pose, Quality, Rendering, render_view
from dart.data.scene import Dice, Scene
from dart.domains import DomainSpec

_ATTEMPTS = 16
_WALL_GAP = 0.3
_FURNITURE_GAP = 0.15
_NEAR, _OPEN = 0.5, 1.4
"""Metres: a view is taken where a tenth of what it sees may be nearer than the first, and half
must be farther than the second."""
_RELIEF = 1.5
"""Least ratio of the far to the near parts of a view: a bare wall shows less."""


def frame_generator(domain: str, scene: int, view: int) -> torch.Generator:
    """Return the generator of one frame's camera, place, light samples and noise."""
    digest = sha256(f"{domain}/{scene}/{view}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def draw_camera(domain: DomainSpec, dice: Dice) -> Camera:
    """Return a camera of the domain's lens."""
    lens, (height, width) = domain.lens, domain.size
    low, high = lens.fov_degrees
    fov = low + dice.integer(high - low + 1)
    focal = lens.focal(fov, width)
    # A panorama shows the full sphere, whatever the shape of its frame.
    upright = height / math.pi if lens.model == "equirectangular" else focal
    params = torch.tensor([focal, upright, width / 2, height / 2, *lens.distortion])
    camera = LENSES[lens.model](params, domain.size)
    if lens.model in ("pinhole", "equirectangular") or not lens.circle:
        return camera
    return replace(camera, max_polar=math.radians(fov / 2))


def draw_exposure(dice: Dice, *, outdoors: bool = False) -> Exposure:
    """Return how the picture is developed."""
    warm, tint = dice.uniform(-0.1, 0.1), dice.uniform(-0.04, 0.04)
    return Exposure(
        gain=2 ** dice.uniform(-0.5, 0.5),
        balance=(1 + warm, 1 + tint, 1 - warm),
        noise=dice.uniform(0.003, 0.02),
        blur=max(0.05, dice.uniform(-0.3, 0.6)),
        shoulder=0.6 if outdoors else 0.18,
    )


def draw_pose(scene: Scene, dice: Dice) -> Pose:
    """Return a place between the furniture from which something is to be seen.

    Of several places and directions, the first is taken whose middle view is neither a bare wall
    nor something at an arm's length; failing that, the most open one.
    """
    best: tuple[float, Pose] | None = None
    for _ in range(_ATTEMPTS):
        pose = _candidate(scene, dice)
        if pose is None:
            continue
        seen = _probe(scene, pose)
        near, middle, far = seen.quantile(torch.tensor([0.1, 0.5, 0.9])).tolist()
        openness = min(near / _NEAR, middle / _OPEN, far / near / _RELIEF)
        if openness > 1:
            return pose
        if best is None or openness > best[0]:
            best = openness, pose
    if best is None:
        # A crowded room: its middle at 1.7 m, for what is higher than that stands at a wall.
        width, depth, _ = scene.extent
        x, y = scene.refuge or (width / 2, depth / 2)
        return Pose((x, y, 1.7), dice.uniform(-math.pi, math.pi))
    return best[1]


def _candidate(scene: Scene, dice: Dice) -> Pose | None:
    """Return a place and direction, or nothing if furniture stands there."""
    width, depth, _ = scene.extent
    x, y = dice.uniform(_WALL_GAP, width - _WALL_GAP), dice.uniform(_WALL_GAP, depth - _WALL_GAP)
    gap = _FURNITURE_GAP
    if any(a - gap < x < c + gap and b - gap < y < d + gap for a, b, c, d in scene.obstacles):
        return None
    yaw = math.atan2(depth / 2 - y, width / 2 - x)
    if scene.along_x:
        yaw = 0.0 if (x < width / 2) == dice.chance(0.8) else math.pi
    return Pose(
        position=(x, y, dice.uniform(1.0, 1.8)),
        yaw=yaw + dice.uniform(-0.8, 0.8),
        pitch=dice.uniform(-0.32, 0.1),
        roll=dice.uniform(-0.05, 0.05),
    )


def _probe(scene: Scene, pose: Pose) -> Float[Tensor, " n"]:
    """Return metres to what stands in a coarse grid of 60 x 45 degrees about the optical axis."""
    x, y = torch.meshgrid(torch.linspace(-0.58, 0.58, 10), torch.linspace(-0.41, 0.41, 8),
                          indexing="ij")  # fmt: skip
    rays = torch.stack([x, y, torch.ones_like(x)]).reshape(3, -1)
    towards = pose.rotation() @ (rays / torch.linalg.vector_norm(rays, dim=0))
    origin = torch.tensor(pose.position)[:, None].expand_as(towards)
    # Never compiled: a place must not hang on how rays are traced.
    return tracer(compiled=False).nearest_distance(scene.primitives, origin, towards)


def render_frame(
    domain: DomainSpec,
    scene: Scene,
    *,
    seed: int,
    view: int,
    quality: Quality = DEFAULT_QUALITY,
) -> tuple[Rendering, Camera]:
    """Return one frame of a domain and the camera that saw it.

    Args:
        domain: Whose lens and name.
        scene: Built from ``seed`` and the domain's style.
        seed: The scene's.
        view: Number of the view of this scene.
        quality: Number of samples, and whether compiled kernels trace them.
    """
    generator = frame_generator(domain.name, seed, view)
    dice = Dice(generator)
    camera = draw_camera(domain, dice)
    pose = draw_pose(scene, dice)
    exposure = draw_exposure(dice, outdoors=scene.sky is not None)
    rendering = render_view(
        scene,
        camera,
        pose,
        generator=generator,
        exposure=exposure,
        quality=quality,
    )
    return _within(rendering, domain.distances[1]), camera


def _within(rendering: Rendering, farthest: float) -> Rendering:
    """Return the rendering without the ranges beyond what the domain declares."""
    near = rendering.distance <= farthest
    distance = torch.where(near, rendering.distance, 0.0)
    return replace(rendering, distance=distance, valid=rendering.valid & near)
