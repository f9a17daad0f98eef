"""The pieces of a warehouse: racks full of cartons, pallets and forklifts.

Racks run along x; the pieces that stand on the floor are built at a given place (see ``site``).
"""

from dataclasses import dataclass

from dart.data.scene import Material
from dart.data.site import Piece, Place, Site
from dart.data.textures import Texture
from dart.data.traffic import add_wheels


@dataclass(frozen=True)
class Rack:
    """One row of shelves: from ``low`` to ``high`` along x, its middle at ``y``, in metres."""

    low: float
    high: float
    y: float
    half_depth: float
    levels: tuple[float, ...]
    """Height of every shelf."""
    bay: float
    """Metres between uprights."""


def carton(site: Site, width: float) -> int:
    """Add a kind of cardboard, with tape and a label, and return its number."""
    dice = site.dice
    tone = dice.uniform(0.7, 1.15)
    brown = (0.6 * tone, 0.45 * tone, 0.28 * tone)
    second = (0.36 * tone, 0.26 * tone, 0.15 * tone)
    if dice.chance(0.15):
        brown, second = (0.8, 0.8, 0.78), dice.colour(0.2, 0.5, 0.25)
    return site.builder.material(Material(Texture.CARTON, brown, second, scale=width))


def add_rack(site: Site, rack: Rack, *, steel: tuple[int, int]) -> None:
    """Add uprights, beams and shelves of a row, and goods on them.

    Args:
        site: Where.
        rack: Its measures.
        steel: Materials of the uprights and of the beams.
    """
    upright, beam = steel
    box = site.builder.box
    middle, half_length = (rack.low + rack.high) / 2, (rack.high - rack.low) / 2
    top = rack.levels[-1] + 1.2
    bays = round(2 * half_length / rack.bay)
    for number in range(bays + 1):
        x = rack.low + number * 2 * half_length / bays
        for side in (-1, 1):
            y = rack.y + side * (rack.half_depth - 0.04)
            box((x, y, top / 2), (0.045, 0.04, top / 2), upright)
    for level in rack.levels:
        if level > 0:
            size = (half_length, rack.half_depth, 0.06)
            box((middle, rack.y, level - 0.06), size, beam)
    for level, above in zip(rack.levels, (*rack.levels[1:], top), strict=True):
        for number in range(bays):
            x = rack.low + (number + 0.5) * 2 * half_length / bays
            _fill_bay(site, rack, x=x, floor=level, space=above - level - 0.2)


def _fill_bay(site: Site, rack: Rack, *, x: float, floor: float, space: float) -> None:
    """Put a load into one bay of one level: pallets of cartons, a mixed stack, or nothing."""
    dice = site.dice
    kind = dice.uniform(0, 1)
    half_bay = rack.bay / 2 - 0.1
    depth = rack.half_depth - 0.06
    if kind < 0.12:
        return
    if kind < 0.6:
        height = dice.uniform(0.45, 0.95) * space
        half = dice.uniform(0.75, 1.0) * half_bay
        centre = (x, rack.y, floor + height / 2)
        stack = Material(
            Texture.STACK, _brown(site), (0.1, 0.08, 0.06), scale=dice.uniform(0.3, 0.5)
        )
        site.builder.box(centre, (half, depth, height / 2), stack)
        return
    for side in (-1, 1):
        if dice.chance(0.15):
            continue
        height, half = dice.uniform(0.35, 0.95) * space, half_bay * dice.uniform(0.38, 0.48)
        centre = (x + side * half_bay / 2, rack.y, floor + height / 2)
        material = carton(site, 2 * half) if dice.chance(0.75) else site.paint()
        back = dice.uniform(0.8, 1.0)
        site.builder.box(centre, (half, depth * back, height / 2), material)


def _brown(site: Site) -> tuple[float, float, float]:
    tone = site.dice.uniform(0.6, 1.1)
    return 0.62 * tone, 0.47 * tone, 0.3 * tone


def add_forklift(site: Site, place: Place) -> None:
    """Add a forklift with its mast, forks, guard and, at times, a load."""
    dice, piece = site.dice, Piece(site, place)
    body = site.plain(*((0.85, 0.5, 0.06), (0.75, 0.1, 0.07), (0.2, 0.45, 0.2))[dice.integer(3)])
    dark, steel = site.plain(0.06, 0.06, 0.07), site.plain(0.35, 0.36, 0.38, roughness=0.3)
    piece.box((0, -0.15, 0.55), (0.55, 0.8, 0.3), body)
    piece.box((0, -0.7, 0.98), (0.5, 0.26, 0.18), body)
    piece.box((0, -0.15, 1.0), (0.25, 0.25, 0.2), dark)
    piece.box((0, -0.36, 1.3), (0.25, 0.06, 0.25), dark)
    add_wheels(piece, half_width=0.5, radius=0.28, axle=0.55)
    for side in (-1, 1):
        for y in (-0.75, 0.45):
            piece.box((side * 0.48, y, 1.5), (0.03, 0.03, 0.65), dark)
        piece.box((side * 0.3, 0.8, 1.15), (0.05, 0.07, 1.05), steel)
        piece.box((side * 0.22, 1.35, 0.16), (0.06, 0.55, 0.025), steel)
    piece.box((0, -0.15, 2.12), (0.52, 0.65, 0.03), dark)
    piece.box((0, 0.8, 2.1), (0.34, 0.05, 0.06), steel)
    if dice.chance(0.6):
        add_pallet(site, Place(*place.to_world(0, 1.4), place.yaw), floor=0.19)


def add_pallet(site: Site, place: Place, *, floor: float = 0.0) -> None:
    """Add a wooden pallet with one to three layers of cartons."""
    dice, piece = site.dice, Piece(site, place)
    wood = site.plain(0.55, 0.4, 0.24)
    piece.box((0, 0, floor + 0.12), (0.5, 0.4, 0.02), wood)
    piece.box((0, 0, floor + 0.05), (0.48, 0.38, 0.05), site.plain(0.2, 0.14, 0.08))
    top = floor + 0.14
    for layer in range(1 + dice.integer(3)):
        half = dice.uniform(0.15, 0.28)
        if layer and dice.chance(0.3):
            piece.box((-0.22, 0, top + half), (0.22, 0.34, half), carton(site, 0.45))
        else:
            piece.box((0, 0, top + half), (0.46, 0.37, half), carton(site, 0.7))
        top += 2 * half
