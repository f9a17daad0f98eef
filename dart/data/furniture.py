"""The pieces of furniture of a room, each built of boxes, spheres and cylinders.

A piece draws its size and materials, asks the room for a free place and leaves the room alone if
there is none. Within a piece, x runs along its width, y to its front and z up, in metres.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from dart.data.scene import Material
from dart.data.site import Piece, Place, Site
from dart.data.textures import Texture

_PLACES = 14
"""Attempts to find a free place before a piece is left out."""
_MOST_BOXES = 150


@dataclass
class Room(Site):
    """A room that is being furnished, and its size."""

    width: float
    depth: float
    height: float

    def is_free(self, low_x: float, low_y: float, high_x: float, high_y: float) -> bool:
        """Say whether a rectangle lies in the room and touches no footprint."""
        inside = low_x > 0 and low_y > 0 and high_x < self.width and high_y < self.depth
        return inside and super().is_free(low_x, low_y, high_x, high_y)

    def at_wall(self, wall: int, along: float, *, away: float = 0.0) -> Place:
        """Return a place at one of the four walls that faces into the room."""
        return (
            Place(along, away, 0.0),
            Place(along, self.depth - away, math.pi),
            Place(away, along, -math.pi / 2),
            Place(self.width - away, along, math.pi / 2),
        )[wall]

    def claim_wall(self, width: float, depth: float) -> Place | None:
        """Return and occupy a free place with its back to a wall, or nothing."""
        for _ in range(_PLACES):
            wall = self.dice.integer(4)
            length = self.width if wall < 2 else self.depth
            if width > length - 0.2:
                continue
            along = self.dice.uniform(width / 2 + 0.05, length - width / 2 - 0.05)
            place = self.at_wall(wall, along, away=depth / 2 + 0.02)
            half_x, half_y = (width / 2, depth / 2) if wall < 2 else (depth / 2, width / 2)
            if self.claim(place.x, place.y, half_x, half_y, gap=0.03):
                return place
        return None

    def claim_floor(self, radius: float) -> Place | None:
        """Return and occupy a free place anywhere, at any turn, or nothing."""
        for _ in range(_PLACES):
            x = self.dice.uniform(radius, self.width - radius)
            y = self.dice.uniform(radius, self.depth - radius)
            if self.claim(x, y, radius, radius):
                return Place(x, y, self.dice.uniform(0, 2 * math.pi))
        return None


def add_sofa(room: Room) -> None:
    """Add a sofa of two or three seats at a wall."""
    dice = room.dice
    width = dice.uniform(1.4, 2.3)
    place = room.claim_wall(width, 0.9)
    if place is None:
        return
    box, cover = Piece(room, place).box, room.paint()
    box((0, 0, 0.22), (width / 2, 0.43, 0.2), cover)
    box((0, -0.36, 0.55), (width / 2, 0.09, 0.33), cover)
    for side in (-1, 1):
        box((side * (width / 2 - 0.09), 0, 0.4), (0.09, 0.43, 0.22), cover)
    seats = max(2, round(width / 0.7))
    for seat in range(seats):
        x = (seat + 0.5) * width * 0.84 / seats - width * 0.42
        cushion = room.paint() if dice.chance(0.3) else cover
        box((x, 0.05, 0.47), (width * 0.4 / seats, 0.34, 0.07), cushion)


def add_bed(room: Room) -> None:
    """Add a bed with its head to a wall."""
    dice = room.dice
    width = dice.uniform(1.0, 1.8)
    place = room.claim_wall(width, 2.05)
    if place is None:
        return
    box, frame = Piece(room, place).box, room.wood()
    box((0, 0, 0.2), (width / 2, 1.0, 0.12), frame)
    box((0, -0.99, 0.5), (width / 2, 0.03, 0.5), frame)
    box((0, 0.02, 0.4), (width / 2 - 0.03, 0.97, 0.1), room.plain(0.85, 0.85, 0.86))
    box((0, 0.35, 0.46), (width / 2, 0.66, 0.06), room.paint())
    for side in (-1, 1):
        pillow = room.plain(*dice.colour(0.6, 0.95, 0.05))
        box((side * width * 0.22, -0.75, 0.53), (width * 0.18, 0.18, 0.07), pillow)


def add_shelf(room: Room) -> None:
    """Add a shelf with books."""
    dice = room.dice
    width, depth, height = dice.uniform(0.6, 1.4), dice.uniform(0.25, 0.4), dice.uniform(1.2, 2.1)
    place = room.claim_wall(width, depth)
    if place is None:
        return
    piece, board = Piece(room, place), room.wood_or_paint(0.6)
    for side in (-1, 1):
        centre = (side * (width / 2 - 0.01), 0, height / 2)
        piece.box(centre, (0.012, depth / 2, height / 2), board)
    piece.box((0, -depth / 2 + 0.01, height / 2), (width / 2, 0.008, height / 2), board)
    rows = int(height / 0.35)
    for row in range(rows + 1):
        z = row * height / rows
        piece.box((0, 0, max(0.012, z)), (width / 2, depth / 2, 0.012), board)
        if row < rows:
            _add_books(piece, width=width, depth=depth, floor=z + 0.012, space=height / rows)


def _add_books(piece: Piece, *, width: float, depth: float, floor: float, space: float) -> None:
    """Add books of many colours to one board, with gaps."""
    room, dice = piece.site, piece.site.dice
    x = -width / 2 + 0.04
    while x < width / 2 - 0.08 and len(room.builder.boxes) < _MOST_BOXES:
        thickness = dice.uniform(0.02, 0.06)
        if dice.chance(0.75):
            height = min(dice.uniform(0.12, space * 0.714), space - 0.05)
            cover = room.plain(*dice.colour(0.1, 0.85, 0.3))
            centre = (x + thickness / 2, 0, floor + height / 2)
            piece.box(centre, (thickness / 2, depth * 0.36, height / 2), cover)
        x += thickness + 0.003 if dice.chance(0.9) else 0.15


def add_cabinet(room: Room) -> None:
    """Add a cabinet with doors and handles; on a low one a screen may stand."""
    dice = room.dice
    width, depth, height = dice.uniform(0.5, 1.8), dice.uniform(0.4, 0.6), dice.uniform(0.7, 2.2)
    place = room.claim_wall(width, depth)
    if place is None:
        return
    box, body = Piece(room, place).box, room.wood_or_paint(0.6)
    box((0, 0, height / 2), (width / 2, depth / 2 - 0.02, height / 2), body)
    doors = max(1, round(width / 0.5))
    handle = room.plain(0.7, 0.7, 0.7, roughness=0.2)
    for door in range(doors):
        x, half = (door + 0.5) * width / doors - width / 2, width / doors / 2
        box((x, depth / 2 - 0.01, height / 2), (half - 0.008, 0.012, height / 2 - 0.02), body)
        box((x + half * 0.7, depth / 2 + 0.01, height * 0.55), (0.01, 0.015, 0.05), handle)
    if height < 1.2 and dice.chance(0.6):
        half = dice.uniform(0.2, min(0.5, width / 2))
        screen = room.plain(0.03, 0.03, 0.04, roughness=0.2)
        box((dice.uniform(-0.2, 0.2) * width, 0, height + 0.3), (half, 0.03, 0.28), screen)


def add_table(room: Room) -> None:
    """Add a table with things on it and, if it is high enough, chairs around it."""
    dice = room.dice
    width, depth, height = dice.uniform(0.8, 1.8), dice.uniform(0.6, 1.0), dice.uniform(0.4, 0.78)
    place = room.claim_floor(max(width, depth) / 2 + 0.35)
    if place is None:
        return
    piece, body = Piece(room, place), room.wood_or_paint(0.7)
    piece.box((0, 0, height), (width / 2, depth / 2, 0.02), body)
    for side in (-1, 1):
        for end in (-1, 1):
            centre = (side * (width / 2 - 0.06), end * (depth / 2 - 0.06), height / 2)
            piece.box(centre, (0.03, 0.03, height / 2), body)
    _set_table(piece, width=width, depth=depth, top=height + 0.02)
    if height <= 0.6:
        return
    for side in (-1, 1):
        for end in (-0.5, 0.5) if width > 1.3 else (0.0,):
            if dice.chance(0.75):
                x, y = place.to_world(end * width / 2, side * (depth / 2 + 0.12))
                turn = (0 if side < 0 else math.pi) + dice.uniform(-0.25, 0.25)
                _add_chair_at(room, Place(x, y, place.yaw + turn), body)


def _set_table(piece: Piece, *, width: float, depth: float, top: float) -> None:
    """Put cups, vases and books on a table."""
    room, dice = piece.site, piece.site.dice
    for _ in range(dice.integer(5)):
        radius = dice.uniform(0.03, 0.08)
        x, y = dice.uniform(-0.4, 0.4) * width, dice.uniform(-0.4, 0.4) * depth
        foot = (*piece.place.to_world(x, y), top)
        room.builder.cylinder(foot, dice.uniform(0.06, 0.25), radius, room.paint())
    for _ in range(dice.integer(3)):
        centre = (dice.uniform(-0.3, 0.3) * width, dice.uniform(-0.3, 0.3) * depth, top + 0.012)
        piece.box(centre, (0.1, 0.14, 0.012), room.paint(), turn=dice.uniform(0, 3))


def _add_chair_at(room: Room, place: Place, body: int) -> None:
    box = Piece(room, place).box
    box((0, 0, 0.45), (0.21, 0.21, 0.02), body)
    for side in (-0.18, 0.18):
        for end in (-0.18, 0.18):
            box((side, end, 0.22), (0.018, 0.018, 0.22), body)
        box((side, -0.19, 0.68), (0.018, 0.018, 0.24), body)
    for z in (0.65, 0.85):
        box((0, -0.19, z), (0.2, 0.012, 0.04), body)


def add_chair(room: Room) -> None:
    """Add a chair that stands alone."""
    place = room.claim_floor(0.3)
    if place is not None:
        _add_chair_at(room, place, room.wood())


def add_plant(room: Room) -> None:
    """Add a potted plant."""
    dice, place = room.dice, room.claim_floor(0.25)
    if place is None:
        return
    room.builder.cylinder((place.x, place.y, 0.0), 0.3, 0.14, room.paint())
    leaf = Material(Texture.MOTTLED, (0.1, 0.35, 0.1), (0.05, 0.2, 0.05), scale=0.05)
    leaves = room.builder.material(leaf)
    for _ in range(9):
        x, y = place.x + dice.uniform(-0.18, 0.18), place.y + dice.uniform(-0.18, 0.18)
        radius = dice.uniform(0.06, 0.16)
        room.builder.sphere((x, y, dice.uniform(0.45, 1.0)), radius, leaves)


def add_lamp(room: Room) -> None:
    """Add a floor lamp that glows."""
    place = room.claim_floor(0.22)
    if place is None:
        return
    cylinder = room.builder.cylinder
    cylinder((place.x, place.y, 0.0), 0.03, 0.14, room.paint())
    cylinder((place.x, place.y, 0.0), 1.4, 0.012, room.paint())
    shade = room.plain(0.95, 0.85, 0.65, emission=0.5)
    cylinder((place.x, place.y, 1.35), 0.3, 0.18, shade)


def add_boxes(room: Room) -> None:
    """Add one or two cardboard boxes, one on the other."""
    dice, place = room.dice, room.claim_floor(0.3)
    if place is None:
        return
    card = Material(Texture.MOTTLED, (0.6, 0.45, 0.28), (0.5, 0.37, 0.22), scale=0.1)
    box, material = Piece(room, place).box, room.builder.material(card)
    half = dice.uniform(0.12, 0.25)
    box((0, 0, half), (0.2, 0.25, half), material)
    if dice.chance(0.4):
        box((0, 0, 2 * half + 0.12), (0.15, 0.18, 0.12), material, turn=dice.uniform(0, 3))


BIG_PIECES: tuple[Callable[[Room], None], ...] = (
    add_sofa, add_sofa, add_bed, add_shelf, add_shelf,
    add_cabinet, add_cabinet, add_table, add_table,
)  # fmt: skip
"""What fills a room; a piece that stands here twice is drawn twice as often."""

SMALL_PIECES: tuple[Callable[[Room], None], ...] = (
    add_table,
    add_plant,
    add_lamp,
    add_boxes,
    add_chair,
)
"""What most rooms have, each at most once."""
