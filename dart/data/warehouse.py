"""The style ``warehouse``: a hall with aisles between high racks, forklifts, doors, strip lights.

x runs along the racks. Cameras stand in an aisle or in the cross aisles at both ends.
"""

import math
from dataclasses import dataclass

import torch

from dart.data.racks import Rack, add_forklift, add_pallet, add_rack
from dart.data.scene import Colour, Dice, Material, Scene
from dart.data.site import Piece, Place, Site
from dart.data.textures import Texture
from dart.data.traffic import add_person

_STEELS: tuple[tuple[Colour, Colour], ...] = (
    ((0.08, 0.2, 0.5), (0.85, 0.38, 0.06)),
    ((0.4, 0.41, 0.43), (0.75, 0.1, 0.06)),
    ((0.1, 0.33, 0.2), (0.85, 0.65, 0.08)),
    ((0.3, 0.31, 0.33), (0.5, 0.51, 0.53)),
)
"""Colours of the uprights and of the beams."""


@dataclass
class Hall(Site):
    """A hall that is being filled: its measures in metres."""

    length: float
    depth: float
    height: float
    ends: float
    """Width of the cross aisle at each end."""

    def is_free(self, low_x: float, low_y: float, high_x: float, high_y: float) -> bool:
        """Say whether a rectangle lies in the hall and touches no footprint."""
        inside = low_x > 0 and low_y > 0 and high_x < self.length and high_y < self.depth
        return inside and super().is_free(low_x, low_y, high_x, high_y)


def build_warehouse(generator: torch.Generator) -> Scene:
    """Return a warehouse."""
    dice = Dice(generator)
    size = (dice.uniform(18, 32), dice.uniform(11, 20), dice.uniform(5.0, 8.0))
    hall = Hall(*size, ends=dice.uniform(2.8, 4.5), dice=dice)
    _add_shell(hall)
    aisles = _add_racks(hall)
    refuge = (hall.length / 2, aisles[0])
    hall.claim(*refuge, 0.6, 0.6)
    kept_free = hall.occupied[-1]
    _add_doors(hall)
    _add_pillars(hall)
    _add_lights(hall, aisles)
    _add_floor_pieces(hall, aisles)
    return hall.builder.build(
        extent=size,
        obstacles=tuple(place for place in hall.occupied if place is not kept_free),
        along_x=True,
        refuge=refuge,
        occlusion_radius=0.8,
    )


def _add_shell(hall: Hall) -> None:
    """Add the floor, the walls of sheet metal or blocks, the roof and its girders."""
    dice, builder = hall.dice, hall.builder
    length, depth, height = hall.length, hall.depth, hall.height
    tone = dice.uniform(0.75, 1.2)
    concrete = Material(
        Texture.MOTTLED,
        (0.45 * tone, 0.45 * tone, 0.44 * tone),
        (0.34 * tone, 0.34 * tone, 0.34 * tone),
        dice.uniform(1.2, 3.0),
        roughness=0.5,
    )
    builder.box((length / 2, depth / 2, -0.2), (length, depth, 0.2), concrete)
    sheet = dice.colour(0.5, 0.85, 0.08)
    darker = (0.82 * sheet[0], 0.82 * sheet[1], 0.82 * sheet[2])
    pattern = (Texture.STRIPES, Texture.BRICK, Texture.SLATS)[dice.integer(3)]
    wall = builder.material(Material(pattern, sheet, darker, dice.uniform(0.4, 0.9)))
    for x, y, half in (
        (length / 2, -0.1, (length / 2 + 0.2, 0.1)),
        (length / 2, depth + 0.1, (length / 2 + 0.2, 0.1)),
        (-0.1, depth / 2, (0.1, depth / 2 + 0.2)),
        (length + 0.1, depth / 2, (0.1, depth / 2 + 0.2)),
    ):
        builder.box((x, y, height / 2), (*half, height / 2), wall)
    roof = Material(Texture.STRIPES, (0.6, 0.61, 0.62), (0.5, 0.51, 0.52), 0.5)
    builder.box((length / 2, depth / 2, height + 0.1), (length, depth, 0.1), roof)
    steel = hall.plain(*dice.colour(0.25, 0.6, 0.08))
    girders = max(3, round(length / 5))
    for number in range(girders):
        x = length * (number + 0.5) / girders
        builder.box((x, depth / 2, height - 0.2), (0.12, depth / 2, 0.2), steel)


def _add_racks(hall: Hall) -> list[float]:
    """Add rows of racks and the lines on the floor, and return the middle y of every aisle."""
    dice, builder = hall.dice, hall.builder
    upright, beam = _STEELS[dice.integer(len(_STEELS))]
    steel = (hall.plain(*upright, roughness=0.5), hall.plain(*beam, roughness=0.5))
    half_depth, aisle, bay = dice.uniform(0.5, 0.65), dice.uniform(2.3, 3.4), dice.uniform(2.5, 3.2)
    step = dice.uniform(1.4, 1.9)
    count = min(3, int((hall.height - 1.6) / step) + 1)
    levels = tuple(0.0 if number == 0 else number * step for number in range(count))
    low, high = hall.ends, hall.length - hall.ends
    line = hall.plain(0.85, 0.68, 0.08)
    rows = min(4, max(2, int((hall.depth + aisle) / (2 * half_depth + aisle))))
    spare = hall.depth - rows * 2 * half_depth - (rows - 1) * aisle
    aisles = []
    for row in range(rows):
        y = spare / 2 + half_depth + row * (2 * half_depth + aisle)
        add_rack(hall, Rack(low, high, y, half_depth, levels, bay), steel=steel)
        hall.occupied.append((low - 0.3, y - half_depth - 0.35, high + 0.3, y + half_depth + 0.35))
        if row:
            aisles.append(y - half_depth - aisle / 2)
            for side in (-1, 1):
                middle = aisles[-1] + side * (aisle / 2 - 0.15)
                builder.box(((low + high) / 2, middle, 0), ((high - low) / 2, 0.05, 0.003), line)
    return aisles


def _add_doors(hall: Hall) -> None:
    """Add roller doors in the end walls and a small door in a long one."""
    dice = hall.dice
    frame = hall.plain(0.85, 0.65, 0.06) if dice.chance(0.5) else hall.plain(0.2, 0.2, 0.22)
    for x, yaw in ((0.0, -math.pi / 2), (hall.length, math.pi / 2)):
        for _ in range(1 + dice.integer(2)):
            half, high = dice.uniform(1.3, 1.9), min(hall.height - 1.0, dice.uniform(3.0, 4.2))
            piece = Piece(hall, Place(x, dice.uniform(half + 0.3, hall.depth - half - 0.3), yaw))
            colour = dice.colour(0.3, 0.8, 0.2)
            darker = (0.7 * colour[0], 0.7 * colour[1], 0.7 * colour[2])
            slats = hall.builder.material(Material(Texture.SLATS, colour, darker, 0.5))
            piece.box((0, 0.02, high / 2), (half + 0.15, 0.03, high / 2 + 0.08), frame)
            piece.box((0, 0.05, high / 2), (half, 0.03, high / 2), slats)
    wall = dice.integer(2)
    place = Place(dice.uniform(1, hall.length - 1), wall * hall.depth, math.pi if wall else 0.0)
    piece = Piece(hall, place)
    piece.box((0, 0.03, 1.05), (0.55, 0.04, 1.08), frame)
    piece.box((0, 0.05, 1.02), (0.46, 0.04, 1.02), hall.paint())
    piece.box((0, 0.04, 2.5), (0.3, 0.04, 0.12), hall.plain(0.1, 0.6, 0.25, emission=0.8))


def _add_pillars(hall: Hall) -> None:
    """Add pillars at the inner edges of both cross aisles, with guards in warning colours."""
    dice = hall.dice
    concrete = hall.plain(*dice.colour(0.4, 0.7, 0.03))
    guard = hall.builder.material(
        Material(Texture.SLATS, (0.85, 0.65, 0.05), (0.08, 0.08, 0.08), 0.4)
    )
    number = max(2, round(hall.depth / 6))
    half = dice.uniform(0.12, 0.2)
    for end in (hall.ends - 0.75, hall.length - hall.ends + 0.75):
        for index in range(number):
            y = hall.depth * (index + 0.5) / number
            hall.builder.box((end, y, hall.height / 2), (half, half, hall.height / 2), concrete)
            hall.builder.box((end, y, 0.5), (half + 0.03, half + 0.03, 0.5), guard)
            reach = half + 0.4
            hall.occupied.append((end - reach, y - reach, end + reach, y + reach))


def _add_lights(hall: Hall, aisles: list[float]) -> None:
    """Add strip lights over the aisles; two lamps stand for the light of them all."""
    dice, builder = hall.dice, hall.builder
    tube = hall.plain(1.0, 1.0, 0.97, emission=1.6)
    strips = max(3, round(hall.length / 5.5))
    for y in aisles:
        for number in range(strips):
            x = hall.length * (number + 0.5) / strips
            builder.box((x, y, hall.height - 0.47), (0.75, 0.08, 0.04), tube)
    power, warmth = dice.uniform(22, 48), dice.uniform(-0.08, 0.12)
    light = (power * (1 + warmth), power, power * (1 - warmth))
    for share in (dice.uniform(0.15, 0.4), dice.uniform(0.6, 0.85)):
        y = aisles[dice.integer(len(aisles))]
        builder.lights.append([hall.length * share, y, hall.height - 0.55, 0.5, *light])
    strength = dice.uniform(0.3, 0.55)
    builder.ambient = (strength * (1 + warmth / 2), strength, strength * (1 - warmth / 2))


def _add_floor_pieces(hall: Hall, aisles: list[float]) -> None:
    """Add forklifts, pallets and people in the aisles and at the ends."""
    dice = hall.dice
    for _ in range(1 + dice.integer(2)):
        place = _claim(hall, aisles, half=1.15)
        if place is not None:
            add_forklift(hall, place)
    for _ in range(2 + dice.integer(4)):
        place = _claim(hall, aisles, half=0.62)
        if place is not None:
            add_pallet(hall, place)
    for _ in range(dice.integer(4)):
        place = _claim(hall, aisles, half=0.4)
        if place is not None:
            add_person(hall, place)


def _claim(hall: Hall, aisles: list[float], *, half: float) -> Place | None:
    """Occupy a free place in an aisle or a cross aisle; nothing if there is none."""
    dice = hall.dice
    for _ in range(12):
        turn = dice.uniform(-0.15, 0.15) + math.pi / 2 * dice.integer(4)
        x, y = dice.uniform(half, hall.length - half), dice.uniform(half, hall.depth - half)
        if dice.chance(0.4):
            y = aisles[dice.integer(len(aisles))] + dice.uniform(-0.5, 0.5)
        if hall.claim(x, y, half, half, gap=0.3):
            return Place(x, y, turn)
    return None
