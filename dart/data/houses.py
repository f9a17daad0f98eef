"""The pieces beside a road: houses, fences, hedges, trees and lamp posts.

Of a house, y = 0 is the front and y < 0 lies behind it (see ``site`` for the axes of a piece).
"""

from dataclasses import dataclass

from dart.data.scene import Colour, Material
from dart.data.site import Piece, Place, Site
from dart.data.textures import Texture, facade_code

_GLASS = (0.08, 0.11, 0.14)


@dataclass(frozen=True)
class House:
    """Measures of a house: windows side by side, storeys, metres."""

    columns: int
    storeys: int
    cell: float
    """Metres from window to window, across and up."""
    depth: float

    @property
    def width(self) -> float:
        """Metres along the street."""
        return self.columns * self.cell

    @property
    def height(self) -> float:
        """Metres up to the roof."""
        return self.storeys * self.cell


def draw_house(site: Site) -> House:
    """Return the measures of a house."""
    dice = site.dice
    storeys = 1 + dice.integer(5)
    return House(2 + dice.integer(4), storeys, dice.uniform(2.7, 3.3), dice.uniform(7, 12))


def _wall_colour(site: Site) -> Colour:
    dice = site.dice
    if dice.chance(0.3):
        tone = dice.uniform(0.7, 1.2)
        return 0.5 * tone, 0.27 * tone, 0.2 * tone
    return dice.colour(0.35, 0.85, 0.12)


def add_house(site: Site, place: Place, house: House, *, detailed: bool = True) -> None:
    """Add a house with its windows and roof and, unless it is far away, a door and what is by it.

    Args:
        site: Where.
        place: The middle of its front.
        house: Its measures.
        detailed: Whether it has a door, steps, a plinth and balconies.
    """
    dice, piece = site.dice, Piece(site, place)
    half, depth, height = house.width / 2, house.depth / 2, house.height
    walls = Material(
        Texture.FACADE,
        _wall_colour(site),
        _GLASS,
        house.cell,
        roughness=0.8,
        variation=facade_code(house.columns, house.storeys, dice.integer(4)),
    )
    piece.box((0, -depth, height / 2), (half, depth, height / 2), site.builder.material(walls))
    _add_roof(piece, house, steps=3 if detailed else 1)
    if detailed:
        _add_front(piece, house)


def _add_roof(piece: Piece, house: House, *, steps: int) -> None:
    """Add a flat roof with a cornice, or tiles that step back as a mansard does."""
    site, dice = piece.site, piece.site.dice
    half, depth, height = house.width / 2, house.depth / 2, house.height
    tone = dice.uniform(0.6, 1.2)
    dark: Colour = (0.3 * tone, 0.13 * tone, 0.1 * tone) if dice.chance(0.5) else (0.2, 0.2, 0.22)
    cornice = site.plain(*dice.colour(0.4, 0.8, 0.05))
    piece.box((0, -depth, height + 0.1), (half + 0.2, depth + 0.2, 0.12), cornice)
    if dice.chance(0.65):
        tiles = site.builder.material(Material(Texture.BRICK, dark, (0.08, 0.07, 0.07), 0.5))
        rise = 2.1 / steps
        for step in range(steps):
            inset, z = 0.3 + 1.05 * rise * step, height + 0.2 + rise * (step + 0.5)
            size = (half - 0.2, max(0.4, depth - inset), rise / 2 + 0.01)
            piece.box((0, -depth, z), size, tiles)
    if dice.chance(0.6):
        x = dice.uniform(-0.7, 0.7) * half
        piece.box((x, -depth, height + 1.6), (0.35, 0.25, 1.3), site.plain(0.45, 0.25, 0.2))


def _add_front(piece: Piece, house: House) -> None:
    """Add a plinth, a door with a step and, at times, a shop window or balconies."""
    site, dice, half = piece.site, piece.site.dice, house.width / 2
    frame = site.plain(*dice.colour(0.5, 0.9, 0.05))
    plinth = site.plain(*dice.colour(0.25, 0.5, 0.04))
    piece.box((0, 0.0, 0.3), (half, 0.05, 0.3), plinth)
    # Between two windows of the ground floor, where the facade has bare wall.
    door = (dice.integer(house.columns - 1) + 1) * house.cell - half
    piece.box((door, 0.02, 1.15), (0.62, 0.06, 1.15), frame)
    piece.box((door, 0.05, 1.1), (0.48, 0.06, 1.05), site.wood_or_paint(0.4))
    piece.box((door, 0.35, 0.08), (0.75, 0.4, 0.08), plinth)
    if house.storeys > 1 and dice.chance(0.3):
        _add_shop(piece, house)
    elif house.storeys > 1 and dice.chance(0.35):
        rail = site.plain(0.15, 0.15, 0.16)
        x = (dice.integer(house.columns) + 0.5) * house.cell - half
        for storey in range(1, house.storeys):
            floor = storey * house.cell
            piece.box((x, 0.5, floor), (1.1, 0.5, 0.08), frame)
            piece.box((x, 0.98, floor + 0.55), (1.1, 0.02, 0.42), rail)


def _add_shop(piece: Piece, house: House) -> None:
    """Add shop windows along the ground floor, a sign and an awning above them."""
    site, dice, half = piece.site, piece.site.dice, house.width / 2
    glass = site.plain(0.1, 0.13, 0.15, roughness=0.1)
    low, high = 0.5, min(2.5, house.cell - 0.4)
    piece.box((0, 0.03, (low + high) / 2), (half - 0.4, 0.05, (high - low) / 2), glass)
    bar = site.plain(*dice.colour(0.1, 0.6, 0.2))
    for number in range(house.columns + 1):
        x = (half - 0.4) * (2 * number / house.columns - 1)
        piece.box((x, 0.06, (low + high) / 2), (0.06, 0.06, (high - low) / 2), bar)
    sign = site.plain(*dice.colour(0.2, 0.6, 0.35))
    piece.box((0, 0.08, high + 0.2), (half - 0.3, 0.08, 0.22), sign)
    if dice.chance(0.6):
        cloth = Material(Texture.STRIPES, dice.colour(0.3, 0.7, 0.35), (0.85, 0.84, 0.8), 0.6)
        size = (half - 0.4, 0.6, 0.04)
        piece.box((0, 0.7, high), size, site.builder.material(cloth))


def add_fence(piece: Piece, *, width: float) -> None:
    """Add a garden's border: a hedge, a wall, or pickets on two rails."""
    site, dice = piece.site, piece.site.dice
    kind = dice.integer(3)
    if kind == 0:
        height = dice.uniform(0.45, 0.8)
        piece.box((0, 0, height), (width / 2, 0.3, height), _leaves(site, scale=0.3))
        return
    if kind == 1:
        stone = Material(Texture.BRICK, dice.colour(0.3, 0.6, 0.1), (0.5, 0.48, 0.45), 0.4)
        piece.box((0, 0, 0.45), (width / 2, 0.12, 0.45), site.builder.material(stone))
        return
    paint = site.plain(0.85, 0.85, 0.83) if dice.chance(0.5) else site.plain(0.3, 0.2, 0.12)
    for z in (0.35, 0.8):
        piece.box((0, 0, z), (width / 2, 0.02, 0.05), paint)
    posts = max(2, round(width / 0.8))
    for number in range(posts + 1):
        x = width * (number / posts - 0.5)
        piece.box((x, 0.03, 0.5), (0.05, 0.02, 0.5), paint)


def _leaves(site: Site, *, scale: float) -> int:
    dice = site.dice
    tone, autumn = dice.uniform(0.6, 1.3), dice.chance(0.15)
    first = (0.36, 0.24, 0.07) if autumn else (0.15, 0.33, 0.1)
    second = (0.2, 0.1, 0.03) if autumn else (0.05, 0.15, 0.04)
    colours = [(r * tone, g * tone, b * tone) for r, g, b in (first, second)]
    return site.builder.material(Material(Texture.MOTTLED, colours[0], colours[1], scale))


def add_tree(site: Site, place: Place) -> None:
    """Add a tree with a round crown, or a conifer."""
    dice, piece = site.dice, Piece(site, place)
    bark = site.builder.material(
        Material(Texture.MOTTLED, (0.24, 0.17, 0.11), (0.13, 0.09, 0.06), 0.15)
    )
    leaves, height = _leaves(site, scale=0.5), dice.uniform(2.9, 4.2)
    piece.cylinder((0, 0, 0), height, dice.uniform(0.1, 0.2), bark)
    if dice.chance(0.2):
        for tier in range(4):
            piece.cylinder((0, 0, 2.1 + tier * 0.9), 0.85, 1.5 - 0.35 * tier, leaves)
        return
    for number in range(6):
        radius = dice.uniform(0.6, 1.15)
        x, y = dice.uniform(-0.95, 0.95), dice.uniform(-0.95, 0.95)
        lift = radius + (number % 3) * 0.6 * dice.uniform(0.5, 1)
        piece.sphere((x, y, height - 0.7 + lift), radius, leaves)


def add_lamp_post(site: Site, place: Place) -> None:
    """Add a street lamp whose arm reaches out over the road."""
    piece, steel = Piece(site, place), site.plain(0.32, 0.33, 0.34, roughness=0.5)
    piece.cylinder((0, 0, 0), 5.6, 0.07, steel)
    piece.box((0, 0.7, 5.6), (0.04, 0.75, 0.04), steel)
    piece.box((0, 1.4, 5.53), (0.13, 0.3, 0.05), site.plain(0.9, 0.9, 0.8, emission=0.1))
