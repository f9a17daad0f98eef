"""Cars, vans and people: what moves about.

Pieces are built at a given place (see ``site``); y is the direction in which they go.
"""

from dart.data.site import Piece, Place, Site

_TYRE = (0.04, 0.04, 0.045)
_GLASS = (0.07, 0.09, 0.11)


def _car_paint(site: Site) -> int:
    dice = site.dice
    if dice.chance(0.5):
        grey = dice.uniform(0.04, 0.85)
        return site.plain(grey, grey, min(1.0, grey * 1.03), roughness=0.2)
    return site.plain(*dice.colour(0.15, 0.6, 0.35), roughness=0.2)


def add_wheels(piece: Piece, *, half_width: float, radius: float, axle: float) -> None:
    """Add two axles, ``axle`` metres before and behind the middle, with wheels at both ends."""
    tyre = piece.site.plain(*_TYRE)
    for y in (-axle, axle):
        piece.box((0, y, radius), (half_width + 0.1, radius * 0.75, radius * 0.98), tyre)
        piece.box((0, y, radius), (half_width + 0.1, radius * 0.98, radius * 0.75), tyre)


def _add_lamps(piece: Piece, *, half_width: float, front: float, height: float) -> None:
    white = piece.site.plain(0.95, 0.95, 0.85, emission=0.4, roughness=0.1)
    red = piece.site.plain(0.7, 0.06, 0.06, emission=0.3, roughness=0.3)
    for side in (-1, 1):
        piece.box((side * half_width * 0.78, front, height), (0.17, 0.02, 0.07), white)
        piece.box((side * half_width * 0.8, -front, height + 0.05), (0.13, 0.02, 0.09), red)


def add_car(site: Site, place: Place, *, length: float, detailed: bool = True) -> None:
    """Add a car; one far away does without lamps and pillars."""
    piece, paint, half = Piece(site, place), _car_paint(site), length / 2
    glass = site.plain(*_GLASS, roughness=0.05)
    width, shift = 0.86, -0.06 * length
    piece.box((0, 0, 0.53), (width, half, 0.27), paint)
    piece.box((0, shift, 0.92), (width * 0.93, half * 0.6, 0.13), glass)
    piece.box((0, shift, 1.15), (width * 0.86, half * 0.52, 0.12), glass)
    piece.box((0, shift, 1.3), (width * 0.84, half * 0.47, 0.045), paint)
    add_wheels(piece, half_width=width - 0.09, radius=0.32, axle=half * 0.62)
    if detailed:
        piece.box((0, shift - 0.05, 1.05), (width * 0.935, 0.05, 0.26), paint)
        _add_lamps(piece, half_width=width, front=half, height=0.66)


def add_van(site: Site, place: Place, *, length: float, detailed: bool = True) -> None:
    """Add a delivery van with a box of a body."""
    piece, paint, half = Piece(site, place), _car_paint(site), length / 2
    glass, width = site.plain(*_GLASS, roughness=0.05), 0.97
    height = site.dice.uniform(2.0, 2.5)
    piece.box((0, -0.55, (height + 0.4) / 2), (width, half - 0.55, (height - 0.4) / 2), paint)
    piece.box((0, half - 0.55, 0.75), (width, 0.55, 0.38), paint)
    piece.box((0, half - 0.9, 1.4), (width * 0.95, 0.35, 0.3), glass)
    add_wheels(piece, half_width=width - 0.09, radius=0.36, axle=half * 0.62)
    if detailed:
        _add_lamps(piece, half_width=width, front=half, height=0.75)


def add_person(site: Site, place: Place) -> None:
    """Add a standing or walking person, 1.5 to 1.9 m tall."""
    dice, piece = site.dice, Piece(site, place)
    size, step = dice.uniform(0.88, 1.08), dice.uniform(0, 0.16)
    trousers = site.plain(*dice.colour(0.08, 0.45, 0.12))
    coat = site.plain(*dice.colour(0.12, 0.7, 0.35))
    skin = dice.uniform(0.3, 1)
    face = site.plain(0.78 * skin, 0.57 * skin, 0.46 * skin)
    for side in (-1, 1):
        piece.cylinder((side * 0.09, side * step, 0), 0.85 * size, 0.075, trousers)
        piece.cylinder((side * 0.235, -side * step, 0.8 * size), 0.6 * size, 0.05, coat)
    piece.cylinder((0, 0, 0.8 * size), 0.65 * size, 0.18, coat)
    piece.cylinder((0, 0, 1.45 * size), 0.06, 0.06, face)
    piece.sphere((0, 0, 1.61 * size), 0.115, face)
