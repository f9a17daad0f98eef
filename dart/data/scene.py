"""A scene: which primitives stand where, of what material, under which lights.

Styles fill a ``SceneBuilder`` from a seed; the renderer reads the finished ``Scene``.
World axes: x and y along the floor, z up, metres.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dart.data.textures import Texture

Triple = tuple[float, float, float]
"""x, y, z in metres."""
Colour = tuple[float, float, float]
"""Linear red, green, blue in 0..1."""
Rectangle = tuple[float, float, float, float]
"""x and y of the low corner, then of the high corner, in metres."""


class Dice:
    """Draws from one generator, so that a seed fixes a scene."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def uniform(self, low: float, high: float) -> float:
        """Return a number between ``low`` and ``high``."""
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def integer(self, end: int) -> int:
        """Return a whole number from 0 to ``end`` - 1."""
        return int(torch.randint(end, (), generator=self.generator))

    def chance(self, probability: float) -> bool:
        """Return true with that probability."""
        return self.uniform(0, 1) < probability

    def colour(self, low: float = 0.15, high: float = 0.85, spread: float = 0.25) -> Colour:
        """Return a colour: a grey between ``low`` and ``high``, moved by ``spread`` per channel."""
        grey = self.uniform(low, high)
        red, green, blue = (
            min(0.95, max(0.03, grey + self.uniform(-spread, spread))) for _ in range(3)
        )
        return red, green, blue


@dataclass(frozen=True)
class Material:
    """How a surface looks."""

    texture: Texture
    first: Colour
    second: Colour = (0.0, 0.0, 0.0)
    scale: float = 1.0
    """Metres per repetition of the pattern."""
    roughness: float = 1.0
    """1 = matt, 0 = the strongest highlight."""
    emission: float = 0.0
    variation: float = 0.0
    """Chooses among pictures."""

    def row(self) -> list[float]:
        """Return the numbers that ``Scene.materials`` holds."""
        tail = (self.scale, self.roughness, self.emission, self.variation)
        return [float(self.texture), *self.first, *self.second, *tail]


@dataclass(frozen=True)
class Sky:
    """An open sky with a sun: what a ray meets that meets nothing else."""

    sun_yaw: float
    """Direction towards the sun about the vertical axis, radians."""
    sun_height: float
    """Radians above the horizon."""
    sun_light: Colour
    """Linear RGB that a surface receives which faces the sun; may exceed 1."""
    horizon: Colour
    zenith: Colour
    clouds: float
    """0 = a clear sky, 1 = many clouds."""
    variation: float
    """Chooses among cloud patterns."""
    haze: float
    """Metres at which the air has taken two thirds of a surface's contrast."""


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything that the renderer needs to know, as tensors."""

    boxes: Float[Tensor, "b 8"]
    spheres: Float[Tensor, "s 8"]
    cylinders: Float[Tensor, "c 8"]
    materials: Float[Tensor, "m 11"]
    material_of: Int[Tensor, " p"]
    """Row of ``materials`` for every primitive: boxes, then spheres, then cylinders."""
    lights: Float[Tensor, "l 7"]
    """Horizontal square area lights: centre x y z, half size, linear RGB."""
    ambient: Float[Tensor, "3"]
    extent: tuple[float, float, float]
    """Width (x), depth (y) and height (z) of the space in which a camera may stand, metres."""
    obstacles: tuple[Rectangle, ...]
    """Footprints in which no camera may stand."""
    along_x: bool = False
    """Whether cameras look along x, mostly towards the farther end; else towards the middle."""
    refuge: tuple[float, float] | None = None
    """x and y at which a camera stands that found no free place; none = the middle."""
    sky: Sky | None = None
    """What is above and around; none where walls and ceiling enclose all."""
    occlusion_radius: float = 0.35
    """Metres at which a neighbouring surface takes half of the ambient light."""

    @property
    def primitives(self) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, spheres and cylinders: what a ``Tracer`` asks for."""
        return self.boxes, self.spheres, self.cylinders

    def to(self, device: torch.device | str) -> "Scene":
        """Return the scene with its tensors on ``device``."""
        moved = {
            name: getattr(self, name).to(device)
            for name in (
                "boxes", "spheres", "cylinders", "materials", "material_of", "lights", "ambient"
            )
        }  # fmt: skip
        return replace(self, **moved)


@dataclass
class SceneBuilder:
    """Collects primitives, materials and lights, and turns them into a ``Scene``."""

    boxes: list[list[float]] = field(default_factory=list)
    spheres: list[list[float]] = field(default_factory=list)
    cylinders: list[list[float]] = field(default_factory=list)
    lights: list[list[float]] = field(default_factory=list)
    ambient: Colour = (0.5, 0.5, 0.5)
    _rows: list[list[float]] = field(default_factory=list)
    _of: tuple[list[int], list[int], list[int]] = field(default_factory=lambda: ([], [], []))

    def box(
        self, centre: Triple, half: Triple, material: Material | int, *, yaw: float = 0.0
    ) -> None:
        """Add a box: centre and half sizes in metres, turned by ``yaw`` radians about z."""
        thick = [max(size, 2e-3) for size in half]
        self.boxes.append([*centre, *thick, math.cos(yaw), math.sin(yaw)])
        self._of[0].append(self.material(material))

    def sphere(self, centre: Triple, radius: float, material: Material | int) -> None:
        """Add a sphere, metres."""
        self.spheres.append([*centre, radius, radius, radius, 1.0, 0.0])
        self._of[1].append(self.material(material))

    def cylinder(
        self, foot: Triple, height: float, radius: float, material: Material | int
    ) -> None:
        """Add an upright cylinder that stands on ``foot``, metres."""
        x, y, z = foot
        self.cylinders.append([x, y, z + height / 2, radius, radius, height / 2, 1.0, 0.0])
        self._of[2].append(self.material(material))

    def material(self, material: Material | int) -> int:
        """Return the number of a material, adding it if it is new."""
        if isinstance(material, int):
            return material
        self._rows.append(material.row())
        return len(self._rows) - 1

    def build(
        self,
        *,
        extent: tuple[float, float, float],
        obstacles: tuple[Rectangle, ...],
        along_x: bool = False,
        refuge: tuple[float, float] | None = None,
        sky: Sky | None = None,
        occlusion_radius: float = 0.35,
    ) -> Scene:
        """Return the finished scene."""
        groups = []
        material_of: list[int] = []
        kinds = (self.boxes, self.spheres, self.cylinders)
        for remainder, (rows, of) in enumerate(zip(kinds, self._of, strict=True)):
            padding = _padding(len(rows), remainder)
            groups.append(torch.tensor(rows + padding).reshape(-1, 8))
            material_of += of + [0] * len(padding)
        return Scene(
            *groups,
            materials=torch.tensor(self._rows),
            material_of=torch.tensor(material_of),
            lights=torch.tensor(self.lights).reshape(-1, 7),
            ambient=torch.tensor(self.ambient),
            extent=extent,
            obstacles=obstacles,
            along_x=along_x,
            refuge=refuge,
            sky=sky,
            occlusion_radius=occlusion_radius,
        )


def _padding(count: int, remainder: int) -> list[list[float]]:
    """Return unreachable primitives that bring a group to 4 k + ``remainder``, at least 4.

    No group is then empty, and no two groups are of one size: a compiled tracer would take equal
    sizes for one and compile anew when they differ.
    """
    buried = [0.0, 0.0, -1e4, 1e-3, 1e-3, 1e-3, 1.0, 0.0]
    return [buried] * (4 * max(1, math.ceil((count - remainder) / 4)) + remainder - count)


Style = Callable[[torch.Generator], Scene]
