"""The style ``rooms``: furnished, 3-7 m, with doors, windows, pictures and ceiling lights."""

from collections.abc import Callable

import torch

from dart.data.furniture import BIG_PIECES, SMALL_PIECES, Room
from dart.data.scene import Dice, Material, Scene
from dart.data.site import Piece
from dart.data.textures import Texture

_THICKNESS = 0.1


def build_room(generator: torch.Generator) -> Scene:
    """Return a furnished room."""
    dice = Dice(generator)
    size = (dice.uniform(3, 7), dice.uniform(3, 6), dice.uniform(2.3, 3.0))
    room = Room(*size, dice=dice)
    _add_shell(room)
    for _ in range(4 + dice.integer(4)):
        BIG_PIECES[dice.integer(len(BIG_PIECES))](room)
    for add in SMALL_PIECES:
        if dice.chance(0.7):
            add(room)
    _add_openings(room)
    _add_rug(room)
    _add_lights(room)
    return room.builder.build(extent=size, obstacles=tuple(room.occupied))


def _floor(dice: Dice) -> Material:
    options: tuple[Callable[[], Material], ...] = (
        lambda: Material(
            Texture.WOOD, (0.55, 0.36, 0.2), (0.3, 0.17, 0.08), dice.uniform(0.09, 0.16), 0.6
        ),
        lambda: Material(
            Texture.BRICK, dice.colour(0.4, 0.8, 0.1), (0.3, 0.3, 0.3), dice.uniform(0.3, 0.6), 0.5
        ),
        lambda: Material(
            Texture.MOTTLED,
            dice.colour(0.25, 0.6, 0.12),
            dice.colour(0.2, 0.5, 0.1),
            dice.uniform(0.1, 0.5),
        ),
        lambda: Material(
            Texture.CHECKER,
            dice.colour(0.5, 0.8, 0.05),
            dice.colour(0.1, 0.4, 0.05),
            dice.uniform(0.3, 0.5),
            0.5,
        ),
    )
    return options[dice.integer(len(options))]()


def _wall(dice: Dice) -> Material:
    options: tuple[Callable[[], Material], ...] = (
        lambda: Material(
            Texture.MOTTLED,
            dice.colour(0.55, 0.85, 0.1),
            dice.colour(0.5, 0.8, 0.08),
            dice.uniform(0.3, 1),
        ),
        lambda: Material(Texture.BRICK, (0.55, 0.28, 0.2), (0.7, 0.68, 0.62), 0.22),
        lambda: Material(
            Texture.STRIPES,
            dice.colour(0.6, 0.85, 0.08),
            dice.colour(0.5, 0.8, 0.1),
            dice.uniform(0.15, 0.4),
        ),
        lambda: Material(Texture.PLAIN, dice.colour(0.6, 0.9, 0.1)),
    )
    return options[dice.integer(len(options))]()


def _add_shell(room: Room) -> None:
    """Add floor, ceiling, walls and skirting boards."""
    dice, builder = room.dice, room.builder
    width, depth, height, thick = room.width, room.depth, room.height, _THICKNESS
    ceiling = Material(Texture.MOTTLED, (0.82, 0.82, 0.8), (0.75, 0.75, 0.74), scale=0.6)
    slab = (width / 2 + 1, depth / 2 + 1, thick)
    builder.box((width / 2, depth / 2, -thick), slab, _floor(dice))
    builder.box((width / 2, depth / 2, height + thick), slab, ceiling)
    common = builder.material(_wall(dice))
    skirting = room.plain(*dice.colour(0.6, 0.9, 0.03))
    along_x, along_y = (width / 2 + thick, thick), (thick, depth / 2 + thick)
    for x, y, half in (
        (width / 2, -thick, along_x),
        (width / 2, depth + thick, along_x),
        (-thick, depth / 2, along_y),
        (width + thick, depth / 2, along_y),
    ):
        accent = Material(
            Texture.MOTTLED, dice.colour(0.4, 0.8, 0.2), dice.colour(0.4, 0.8, 0.1), scale=0.5
        )
        wall = common if dice.chance(0.8) else builder.material(accent)
        builder.box((x, y, height / 2), (*half, height / 2), wall)
    for x, y, half in (
        (width / 2, 0.01, (width / 2, 0.012)),
        (width / 2, depth - 0.01, (width / 2, 0.012)),
        (0.01, depth / 2, (0.012, depth / 2)),
        (width - 0.01, depth / 2, (0.012, depth / 2)),
    ):
        builder.box((x, y, 0.05), (*half, 0.05), skirting)


def _on_wall(room: Room, width: float) -> Piece:
    """Return a place on any wall for something ``width`` metres wide."""
    wall = room.dice.integer(4)
    length = room.width if wall < 2 else room.depth
    low = width / 2 + 0.1
    along = room.dice.uniform(low, max(low + 0.01, length - low))
    return Piece(room, room.at_wall(wall, along))


def _add_openings(room: Room) -> None:
    """Add a door, windows and pictures."""
    dice, frame = room.dice, room.wood()
    door = _on_wall(room, 0.95).box
    door((0, 0.02, 1.02), (0.5, 0.03, 1.03), frame)
    door((0, 0.04, 1.0), (0.43, 0.03, 1.0), room.paint())
    door((0.33, 0.08, 1.0), (0.05, 0.02, 0.012), room.plain(0.8, 0.8, 0.75, roughness=0.1))
    pane = Material(Texture.MOTTLED, (0.75, 0.85, 1.0), (0.95, 0.97, 1.0), scale=0.6, emission=1.6)
    for _ in range(1 + dice.integer(2)):
        half = dice.uniform(0.5, 1.0)
        window = _on_wall(room, 2 * half).box
        window((0, 0, 1.5), (half + 0.05, 0.03, 0.68), frame)
        window((0, 0.02, 1.5), (half, 0.025, 0.62), room.builder.material(pane))
        window((0, 0.04, 1.5), (0.02, 0.02, 0.62), frame)
    for _ in range(1 + dice.integer(4)):
        half, tall = dice.uniform(0.15, 0.5), dice.uniform(0.15, 0.45)
        image = Material(Texture.PICTURE, (0.5, 0.5, 0.5), scale=0.5, variation=dice.uniform(0, 99))
        z = dice.uniform(1.3, 1.8)
        picture = _on_wall(room, 2 * half).box
        picture((0, 0.01, z), (half + 0.03, 0.012, tall + 0.03), frame)
        picture((0, 0.02, z), (half, 0.01, tall), room.builder.material(image))


def _add_rug(room: Room) -> None:
    dice = room.dice
    if not dice.chance(0.6):
        return
    texture = (Texture.MOTTLED, Texture.CHECKER, Texture.STRIPES)[dice.integer(3)]
    material = Material(texture, dice.colour(), dice.colour(), dice.uniform(0.08, 0.3))
    centre = (room.width * dice.uniform(0.3, 0.7), room.depth * dice.uniform(0.3, 0.7), 0.004)
    half = (dice.uniform(0.5, 1.2), dice.uniform(0.4, 1.0), 0.006)
    room.builder.box(centre, half, material, yaw=dice.uniform(-0.3, 0.3))


def _add_lights(room: Room) -> None:
    """Add one or two ceiling lights, warm or cold, and the light that comes from everywhere."""
    dice, builder = room.dice, room.builder
    for _ in range(1 + dice.integer(2)):
        x, y = room.width * dice.uniform(0.25, 0.75), room.depth * dice.uniform(0.25, 0.75)
        half, power, warmth = (
            dice.uniform(0.08, 0.3), dice.uniform(1.6, 4.0), dice.uniform(-0.12, 0.15)
        )  # fmt: skip
        red, blue = power * (1 + warmth), power * (1 - warmth)
        builder.lights.append([x, y, room.height - 0.06, half, red, power, blue])
        bulb = room.plain(1.0, 1.0, 1.0, emission=1.5)
        builder.box((x, y, room.height - 0.015), (half, half, 0.012), bulb)
    strength = dice.uniform(0.35, 0.7)
    green, blue = dice.uniform(0.95, 1.02), dice.uniform(0.9, 1.1)
    builder.ambient = (strength, strength * green, strength * blue)
