"""Procedural surface colours: noise, bricks, wood, fabric, pictures.

Axis letters: ``n`` points on surfaces, ``m`` those of one texture.
"""

from enum import IntEnum
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

_LATTICE = 32


class Texture(IntEnum):
    """How a material's two colours are laid out on a surface."""

    PLAIN = 0
    CHECKER = 1
    BRICK = 2
    WOOD = 3
    MOTTLED = 4
    STRIPES = 5
    PICTURE = 6
    SLATS = 7
    FACADE = 8
    CARTON = 9
    STACK = 10


@cache
def _lattice(device: torch.device) -> Float[Tensor, "1 1 d d d"]:
    """Return fixed random numbers on a periodic lattice; the last cell repeats the first."""
    generator = torch.Generator().manual_seed(20_231)
    cells = torch.rand((_LATTICE,) * 3, generator=generator)
    index = torch.arange(_LATTICE + 1) % _LATTICE
    return cells[index][:, index][:, :, index][None, None].to(device)


def value_noise(x: Float[Tensor, " n"], y: Float[Tensor, " n"], z: float | Tensor) -> Tensor:
    """Return smooth noise in 0..1 that changes over about one unit of the coordinates."""
    points = torch.stack([x, y, torch.as_tensor(z, dtype=x.dtype).to(x.device).expand_as(x)], -1)
    cell = points.floor()
    part = points - cell
    # A cubic blend has no kinks at the cell borders, which plain trilinear interpolation shows.
    smooth = (cell % _LATTICE) + part * part * (3 - 2 * part)
    grid = smooth * (2 / _LATTICE) - 1
    lattice = _lattice(x.device)
    return F.grid_sample(lattice, grid[None, None, None], align_corners=True)[0, 0, 0, 0]


def fractal_noise(
    x: Float[Tensor, " n"], y: Float[Tensor, " n"], z: float | Tensor = 0.0, *, octaves: int = 4
) -> Float[Tensor, " n"]:
    """Return a sum of ``octaves`` of noise, each twice as fine and half as strong, in 0..1."""
    total = torch.zeros_like(x)
    weight = 0.5
    for _ in range(octaves):
        total = total + weight * value_noise(x, y, z)
        x, y, z = x * 2.03 + 17.3, y * 2.03 + 5.9, z * 2.03 + 11.1
        weight /= 2
    return total


def cell_noise(column: Float[Tensor, " n"], row: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return one random number in 0..1 per integer cell: the tint of a brick or a plank."""
    lattice = _lattice(column.device)[0, 0, 7]
    return lattice[row.long() % _LATTICE, column.long() % _LATTICE]


def _checker(u: Tensor, v: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
    return (u.floor() + v.floor()) % 2, torch.ones_like(u)


def _stripes(u: Tensor, v: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
    return (u * 2).floor() % 2, torch.ones_like(v)


def _slats(_: Tensor, v: Tensor, __: Tensor) -> tuple[Tensor, Tensor]:
    return (v * 2).floor() % 2, torch.ones_like(v)


def facade_code(columns: int, storeys: int, kind: int) -> float:
    """Return the ``variation`` that centres the windows of a facade of so many columns and rows."""
    return columns % 2 + 2 * (storeys % 2) + 4 * kind


_WINDOWS = torch.tensor(
    [[1, 0.2, 0.3, 0.8], [2, 0.27, 0.28, 0.8], [1, 0.36, 0.35, 0.8], [1, 0.14, 0.08, 0.82]]
)
"""Kinds of windows: how many to a cell of the facade, half their width, sill and lintel."""


def _facade(u: Tensor, v: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
    code = code.round().int()
    u, v = u + code % 2 * 0.5, v + code // 2 % 2 * 0.5
    number, half, sill, lintel = _WINDOWS.to(u.device)[(code // 4).clamp(0, 3)].unbind(-1)
    across = u * number
    column, row = across.floor(), v.floor()
    x, y = (across - column - 0.5).abs(), v - row
    glass = (x < half) & (y > sill) & (y < lintel)
    frame = (x < half + 0.05) & (y > sill - 0.06) & (y < lintel + 0.04)
    bar = (x < 0.02) | ((y - lintel + 0.14).abs() < 0.01)
    noise = cell_noise(column, row)
    # Drawn curtains: the glass takes half of the wall's colour.
    pane = torch.where(noise > 0.7, 0.55, 1.0)
    amount = torch.where(glass & ~bar, pane, torch.where(frame, -0.3, 0.0))
    return amount, torch.where(glass, 0.6 + 0.8 * noise, 1.0)


def _carton(u: Tensor, v: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
    tape = (u.abs() < 0.05).float() * 0.8
    label = (u > 0.14) & (u < 0.36) & (v > -0.2) & (v < 0.12)
    print_lines = (v * 20).floor() % 2 * 0.6
    return torch.where(label, print_lines - 0.9, tape), torch.ones_like(u)


def _stack(u: Tensor, v: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
    column, row = u.floor(), v.floor()
    noise = cell_noise(column, row)
    gap = ((u - column) < 0.07) | ((v - row) > 0.55 + 0.35 * noise)
    return gap.float(), 0.55 + 0.8 * noise


def _brick(u: Tensor, v: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
    row = (v * 2).floor()
    u = u + row % 2 * 0.5
    mortar = ((u - u.floor()) < 0.05) | ((v * 2 - row) < 0.09)
    return mortar.float(), 0.8 + 0.4 * cell_noise(u.floor(), row)


def _wood(u: Tensor, v: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
    plank = u.floor()
    shift = cell_noise(plank, torch.zeros_like(plank))
    grain = fractal_noise(u * 6, (v + shift * 9) * 0.6, plank * 3.1)
    seam = ((u - plank) < 0.03).float()
    return 0.4 + 0.4 * (grain * 6).sin(), (1 - 0.6 * seam) * (0.85 + 0.3 * shift)


def _mottled(u: Tensor, v: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
    return fractal_noise(u * 3, v * 3) * 1.3 - 0.1, torch.ones_like(u)


_PATTERNS = {
    Texture.CHECKER: _checker,
    Texture.BRICK: _brick,
    Texture.WOOD: _wood,
    Texture.MOTTLED: _mottled,
    Texture.STRIPES: _stripes,
    Texture.SLATS: _slats,
    Texture.FACADE: _facade,
    Texture.CARTON: _carton,
    Texture.STACK: _stack,
}


def _picture(u: Tensor, v: Tensor, variation: Tensor) -> Float[Tensor, "m 3"]:
    """Return smooth blobs of colour, others for every value of ``variation``."""
    channels = [
        fractal_noise(u * 3 + shift * 7.7, v * 3 + shift * 7.7, variation * 13, octaves=3)
        for shift in range(3)
    ]
    return torch.stack(channels, -1).mul(1.6).sub(0.2)


def _flat_coordinates(local: Tensor, normal: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two coordinates in metres along the surface: the axes nearest to its plane."""
    x, y, z = local.unbind(-1)
    nx, ny, nz = normal.abs().unbind(-1)
    lies = nz > 0.7
    u = torch.where(lies, x, torch.where(nx > ny, y, x))
    return u, torch.where(lies, y, z)


def albedo(
    material: Float[Tensor, "n 11"],
    local: Float[Tensor, "n 3"],
    normal: Float[Tensor, "n 3"],
    footprint: Float[Tensor, " n"],
) -> Float[Tensor, "n 3"]:
    """Return the surface colour, linear RGB in 0..1.

    Args:
        material: Rows of ``Scene.materials``, one per point.
        local: Metres in the frame of the primitive, so that patterns move with the furniture.
        normal: Unit, in the same frame.
        footprint: Metres of surface that a pixel covers; patterns finer than it fade to their
            mean, for they would alias.
    """
    kind = material[:, 0].round().int()
    colour = material[:, 1:4].clone()
    scale = material[:, 7]
    u, v = _flat_coordinates(local, normal)
    fade = (1 - 1.2 * footprint / scale).clamp(0, 1)
    for texture, pattern in _PATTERNS.items():
        at = (kind == texture).nonzero()[:, 0]
        if len(at):
            amount, tint = pattern(u[at] / scale[at], v[at] / scale[at], material[at, 10])
            kept = fade[at, None]
            amount = amount[:, None] * kept + 0.4 * (1 - kept)
            mixed = torch.lerp(colour[at], material[at, 4:7], amount)
            colour[at] = mixed * (tint[:, None] * kept + (1 - kept))
    at = (kind == Texture.PICTURE).nonzero()[:, 0]
    if len(at):
        colour[at] = _picture(u[at] / scale[at], v[at] / scale[at], material[at, 10])
    grain = fractal_noise(u * 9, v * 9, 1.0, octaves=2)
    fade = (1 - 8 * footprint).clamp(0, 1)
    return (colour * (0.93 + 0.14 * (grain * fade + 0.5 * (1 - fade)))[:, None]).clamp(0, 1)
