"""The style ``streets``: a road between houses, with traffic, trees and people, under the sky.

x runs along the street and y across it: from 0 a pavement, the road and the other pavement.
Cameras stand on the first 24 m; the street goes on in both directions.
"""

import math
from dataclasses import dataclass

import torch

from dart.data.houses import add_fence, add_house, add_lamp_post, add_tree, draw_house
from dart.data.scene import Dice, Material, Scene, Sky
from dart.data.site import Piece, Place, Site
from dart.data.textures import Texture
from dart.data.traffic import add_car, add_person, add_van

_LENGTH = 24.0
_REACH = 80.0
"""Metres that houses go on beyond the cameras' part."""
_KERB = 0.12
_NEAR = 26.0
"""Metres from the middle within which cars and houses show their details."""


@dataclass
class Street(Site):
    """A street that is being built: its measures in metres."""

    pavement: float
    road: float

    @property
    def width(self) -> float:
        """Metres from house front to house front, without gardens."""
        return 2 * self.pavement + self.road

    def beside(self, side: int, away: float) -> float:
        """Return y at ``away`` metres outside of the pavement of side -1 or 1."""
        return -away if side < 0 else self.width + away

    def facing(self, x: float, side: int, away: float) -> Place:
        """Return a place at a side of the street whose front looks at the road."""
        return Place(x, self.beside(side, away), 0.0 if side < 0 else math.pi)

    def along(self, x: float, y: float, direction: int) -> Place:
        """Return a place whose front looks along the street, towards +x or -x."""
        return Place(x, y, -direction * math.pi / 2)


def is_near(x: float) -> bool:
    """Say whether a place is near enough to the cameras to show details."""
    return abs(x - _LENGTH / 2) < _NEAR


def build_street(generator: torch.Generator) -> Scene:
    """Return a street."""
    dice = Dice(generator)
    street = Street(dice.uniform(2.0, 3.2), dice.uniform(6.0, 9.0), dice=dice)
    _add_ground(street)
    for side in (-1, 1):
        _add_row_of_houses(street, side)
    _add_parked_cars(street)
    _add_traffic(street)
    _add_trees_and_posts(street)
    for _ in range(2 + dice.integer(5)):
        _add_passer_by(street)
    sky = _draw_sky(dice)
    shade = 0.4 + 0.15 * sky.clouds
    street.builder.ambient = (0.9 * shade, shade, 1.12 * shade)
    return street.builder.build(
        extent=(_LENGTH, street.width, 8.0),
        obstacles=tuple(street.occupied),
        along_x=True,
        sky=sky,
        occlusion_radius=2.5,
    )


def _add_ground(street: Street) -> None:
    """Add lawn, road, kerbs, pavements and the marks on the road."""
    dice, builder = street.dice, street.builder
    middle, half_road = street.width / 2, street.road / 2
    lawn = Material(Texture.MOTTLED, (0.24, 0.36, 0.13), (0.34, 0.37, 0.18), 2.0)
    builder.box((0, middle, -1.0), (400, 400, 0.9), lawn)
    tone = dice.uniform(0.6, 1.3)
    dark, light = (0.19 * tone, 0.19 * tone, 0.2 * tone), (0.25 * tone, 0.25 * tone, 0.25 * tone)
    asphalt = Material(Texture.MOTTLED, dark, light, 1.5)
    builder.box((0, middle, -0.5), (400, half_road, 0.5), asphalt)
    slabs = Material(
        (Texture.BRICK, Texture.CHECKER, Texture.MOTTLED)[dice.integer(3)],
        dice.colour(0.4, 0.6, 0.03),
        dice.colour(0.32, 0.48, 0.03),
        dice.uniform(0.5, 1.0),
    )
    paving, kerb = builder.material(slabs), street.plain(0.6, 0.59, 0.57)
    for side in (-1, 1):
        y = street.beside(side, -street.pavement / 2)
        builder.box((0, y, _KERB - 0.5), (400, street.pavement / 2, 0.5), paving)
        y = street.beside(side, -street.pavement)
        builder.box((0, y, _KERB - 0.48), (400, 0.08, 0.5), kerb)
    paint = street.plain(0.82, 0.82, 0.78)
    if dice.chance(0.75):
        for number in range(11):
            builder.box((-28 + 8.0 * number, middle, 0), (1.5, 0.07, 0.004), paint)
    if dice.chance(0.35):
        x = _LENGTH / 2 + dice.uniform(-20, 20)
        zebra = Material(Texture.STRIPES, (0.84, 0.84, 0.8), (0.2, 0.2, 0.2), 1.0)
        # Turned, so that the stripes run along the street.
        builder.box((x, middle, 0), (half_road - 0.1, 1.6, 0.006), zebra, yaw=math.pi / 2)


def _add_row_of_houses(street: Street, side: int) -> None:
    """Add houses wall to wall along one side, with gaps, gardens and what bounds them."""
    dice = street.dice
    setback = dice.uniform(0, 0.3) if dice.chance(0.5) else dice.uniform(2.0, 5.0)
    x = -_REACH + dice.uniform(-4, 4)
    while x < _LENGTH + _REACH:
        house = draw_house(street)
        middle = x + house.width / 2
        gap = dice.uniform(1.5, 8) if dice.chance(0.4) else 0.0
        if dice.chance(0.9):
            away = setback + dice.uniform(0, 0.4)
            place = street.facing(middle, side, away)
            add_house(street, place, house, detailed=is_near(middle))
            if setback > 1 and is_near(middle):
                fence = Piece(street, street.facing(middle, side, 0.35))
                add_fence(fence, width=house.width - 1.4)
        elif is_near(middle):
            add_tree(street, street.facing(middle, side, setback + 4))
        x += house.width + gap


def _claim_for_car(street: Street, x: float, y: float, length: float) -> bool:
    """Take the place of a car, with room around it in which no camera stands."""
    return street.claim(x, y, length / 2 + 0.3, 1.2, gap=0.2)


def _add_parked_cars(street: Street) -> None:
    """Add cars at the kerbs of one or both sides."""
    dice = street.dice
    sides = (-1, 1) if dice.chance(0.6) else (1 - 2 * dice.integer(2),)
    for side in sides:
        x = -28.0 + dice.uniform(0, 6)
        density = dice.uniform(0.25, 0.7)
        while x < _LENGTH + 28:
            van = dice.chance(0.15)
            length = dice.uniform(4.9, 5.6) if van else dice.uniform(3.7, 4.7)
            x += length / 2
            y = street.beside(side, -street.pavement - 1.1)
            if dice.chance(density) and _claim_for_car(street, x, y, length):
                add = add_van if van else add_car
                place = street.along(x, y, 1 if dice.chance(0.85) == (side < 0) else -1)
                add(street, place, length=length, detailed=is_near(x))
            x += length / 2 + dice.uniform(0.7, 2.5)


def _add_traffic(street: Street) -> None:
    """Add a few cars on the road, each on the right-hand side of its direction."""
    dice = street.dice
    for _ in range(dice.integer(4)):
        direction = 1 - 2 * dice.integer(2)
        x = _LENGTH / 2 + direction * dice.uniform(9, 45) * (1 if dice.chance(0.5) else -1)
        y = street.width / 2 - direction * street.road * 0.17
        length = dice.uniform(3.8, 4.7)
        if _claim_for_car(street, x, y, length):
            add_car(street, street.along(x, y, direction), length=length, detailed=is_near(x))


def _add_trees_and_posts(street: Street) -> None:
    """Add lamp posts along one side, and trees at the kerbs of streets that have them."""
    dice = street.dice
    side = 1 - 2 * dice.integer(2)
    for number in range(5):
        x = -28.0 + 20 * number + dice.uniform(0, 4)
        place = street.facing(x, side, -street.pavement + 0.3)
        if street.claim(x, place.y, 0.4, 0.4):
            add_lamp_post(street, place)
    if not dice.chance(0.7):
        return
    for _ in range(4 + dice.integer(5)):
        x, side = dice.uniform(-26, _LENGTH + 26), 1 - 2 * dice.integer(2)
        place = street.facing(x, side, -street.pavement + 0.55)
        if street.claim(x, place.y, 0.5, 0.5):
            add_tree(street, place)


def _add_passer_by(street: Street) -> None:
    """Add somebody on a pavement, or crossing the road."""
    dice = street.dice
    x = _LENGTH / 2 + dice.uniform(-17, 17)
    side = 1 - 2 * dice.integer(2)
    crossing = dice.chance(0.2)
    y = street.beside(side, -dice.uniform(0.5, street.pavement - 0.5))
    if crossing:
        y = street.width / 2 + dice.uniform(-0.3, 0.3) * street.road
    if street.claim(x, y, 0.5, 0.5, gap=0.1):
        turn = dice.uniform(-0.4, 0.4) + (math.pi / 2 if dice.chance(0.5) else -math.pi / 2)
        add_person(street, Place(x, y, 0.0 if crossing else turn))


def _draw_sky(dice: Dice) -> Sky:
    """Return the sky of a clear, a cloudy or an overcast day."""
    overcast, low = dice.chance(0.3), dice.chance(0.25)
    sun_yaw = dice.uniform(-math.pi, math.pi)
    strength = dice.uniform(0.0, 0.25) if overcast else dice.uniform(1.1, 2.0)
    warm = 0.8 if low and not overcast else 0.94
    horizon = (0.72, 0.74, 0.77) if overcast else (0.8, 0.84, 0.92 * warm)
    zenith = (0.62, 0.65, 0.7) if overcast else (0.26, 0.45, 0.8)
    return Sky(
        sun_yaw=sun_yaw,
        sun_height=dice.uniform(0.25, 0.45) if low else dice.uniform(0.5, 1.2),
        sun_light=(1.05 * strength, strength * (0.5 + 0.5 * warm), 0.9 * warm * strength),
        horizon=horizon,
        zenith=zenith,
        clouds=1.0 if overcast else dice.uniform(0, 1),
        variation=dice.uniform(0, 30),
        haze=dice.uniform(150, 500),
    )
