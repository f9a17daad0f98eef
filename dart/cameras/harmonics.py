"""Real spherical harmonics of viewing rays: smooth over the whole sphere, without seam or pole.

Axis letters: ``e`` harmonics: degree 0, then degree 1 from order -1 to 1, and so on.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def num_harmonics(degree: int) -> int:
    """Return how many harmonics there are up to ``degree``: 81 up to 8."""
    return (degree + 1) ** 2


def spherical_harmonics(rays: Float[Tensor, "*b 3"], *, degree: int = 8) -> Float[Tensor, "*b e"]:
    """Return the real spherical harmonics of unit rays up to ``degree``, orthonormal on the sphere.

    Without the phase (-1)^m of Condon and Shortley. Written as polynomials of x, y and z: with the
    sine's power moved from the Legendre function into (x + iy)^m nothing divides by zero.

    Source: the recurrences of the associated Legendre functions, Abramowitz and Stegun 8.5.3.
    """
    x, y, z = rays.unbind(-1)
    rows = [[torch.zeros_like(z)] * (2 * n + 1) for n in range(degree + 1)]
    cosine, sine = torch.ones_like(z), torch.zeros_like(z)
    start = 1.0
    for order in range(degree + 1):
        before, legendre = torch.zeros_like(z), torch.full_like(z, start)
        for n in range(order, degree + 1):
            factor = _norm(n, order) * (1.0 if order == 0 else math.sqrt(2))
            rows[n][n + order] = factor * legendre * cosine
            if order > 0:
                rows[n][n - order] = factor * legendre * sine
            following = ((2 * n + 1) * z * legendre - (n + order) * before) / (n + 1 - order)
            before, legendre = legendre, following
        start *= 2 * order + 1
        cosine, sine = cosine * x - sine * y, cosine * y + sine * x
    return torch.stack([value for row in rows for value in row], dim=-1)


def _norm(n: int, order: int) -> float:
    ratio = math.factorial(n - order) / math.factorial(n + order)
    return math.sqrt((2 * n + 1) / (4 * math.pi) * ratio)
