"""A place where a scene is being built: what stands there, and the dice that decide.

Styles add pieces (a sofa, a car, a rack), each of boxes, spheres and cylinders. Within a piece, x
runs along its width, y to its front and z up, in metres.
"""

import math
from dataclasses import dataclass, field

from dart.data.scene import Dice, Material, Rectangle, SceneBuilder
from dart.data.textures import Texture


@dataclass(frozen=True)
class Place:
    """Where a piece stands: the middle of its footprint in metres, and its turn in radians."""

    x: float
    y: float
    yaw: float

    def to_world(self, x: float, y: float) -> tuple[float, float]:
        """Return the scene's coordinates of a point given in the piece's own."""
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        return self.x + cos * x - sin * y, self.y + sin * x + cos * y


@dataclass(kw_only=True)
class Site:
    """What stands where, and materials to choose from."""

    dice: Dice
    builder: SceneBuilder = field(default_factory=SceneBuilder)
    occupied: list[Rectangle] = field(default_factory=list)

    def is_free(self, low_x: float, low_y: float, high_x: float, high_y: float) -> bool:
        """Say whether a rectangle touches no footprint."""
        return all(
            high_x < a or low_x > c or high_y < b or low_y > d for a, b, c, d in self.occupied
        )

    def claim(self, x: float, y: float, half_x: float, half_y: float, *, gap: float = 0.0) -> bool:
        """Occupy a rectangle, ``gap`` metres wider than given, if it is free; say whether it was.

        ``half_x`` and ``half_y`` are half its sizes.
        """
        if not self.is_free(x - half_x, y - half_y, x + half_x, y + half_y):
            return False
        half_x, half_y = half_x + gap, half_y + gap
        self.occupied.append((x - half_x, y - half_y, x + half_x, y + half_y))
        return True

    def wood(self) -> int:
        """Add a wood and return its number."""
        dice = self.dice
        first = (dice.uniform(0.28, 0.62), dice.uniform(0.16, 0.38), dice.uniform(0.1, 0.25))
        second = (dice.uniform(0.15, 0.3), dice.uniform(0.08, 0.18), dice.uniform(0.04, 0.1))
        grain = dice.uniform(0.12, 0.3)
        return self.builder.material(Material(Texture.WOOD, first, second, grain, roughness=0.6))

    def paint(self) -> int:
        """Add a paint or a fabric of any colour and return its number."""
        dice = self.dice
        texture = Texture.MOTTLED if dice.chance(0.5) else Texture.PLAIN
        first, second = dice.colour(0.15, 0.9, 0.2), dice.colour(0.15, 0.8, 0.15)
        scale, roughness = dice.uniform(0.05, 0.3), dice.uniform(0.4, 1)
        return self.builder.material(Material(texture, first, second, scale, roughness))

    def plain(
        self, red: float, green: float, blue: float, *, roughness: float = 1.0, emission: float = 0
    ) -> int:
        """Add a material of one colour and return its number."""
        colour = (red, green, blue)
        material = Material(Texture.PLAIN, colour, roughness=roughness, emission=emission)
        return self.builder.material(material)

    def wood_or_paint(self, wood: float) -> int:
        """Add a wood with probability ``wood``, else a paint."""
        return self.wood() if self.dice.chance(wood) else self.paint()


@dataclass(frozen=True)
class Piece:
    """Adds primitives in the coordinates of one piece."""

    site: Site
    place: Place

    def box(
        self,
        centre: tuple[float, float, float],
        half: tuple[float, float, float],
        material: int,
        *,
        turn: float = 0.0,
    ) -> None:
        """Add a box, turned by ``turn`` radians against the piece."""
        x, y = self.place.to_world(centre[0], centre[1])
        yaw = self.place.yaw + turn
        self.site.builder.box((x, y, centre[2]), half, material, yaw=yaw)

    def cylinder(
        self, foot: tuple[float, float, float], height: float, radius: float, material: int
    ) -> None:
        """Add an upright cylinder."""
        x, y = self.place.to_world(foot[0], foot[1])
        self.site.builder.cylinder((x, y, foot[2]), height, radius, material)

    def sphere(self, centre: tuple[float, float, float], radius: float, material: int) -> None:
        """Add a sphere."""
        x, y = self.place.to_world(centre[0], centre[1])
        self.site.builder.sphere((x, y, centre[2]), radius, material)
