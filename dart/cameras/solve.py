"""Inverses that no formula gives: a bracketed Newton's method in one dimension, a damped in two.

Both search without gradients; who calls them adds one Newton step with gradients, which makes the
result an implicit function of everything the step reads.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

_NEWTON_STEPS = 64
_CONVERGED = 1e-13
_PLANE_STEPS = 80
_PLANE_CONVERGED = 1e-12
_ROUNDING = 1e-15
_SMALLEST_DAMPING = 1e-4
_LEAST_FALL = 0.1
_SMALLEST_DETERMINANT = 1e-9
_SCANS = (512, 64, 64, 64, 64, 64, 64)
_TINY = 1e-12


def first_root(powers: np.ndarray) -> float:
    """Return the first x in (0, 1] where ``sum powers[i] x^i`` vanishes, or 1."""
    # A leading coefficient that changes nothing below 1 would spoil the other roots.
    kept = np.abs(powers) > 1e-15 * np.abs(powers).max()
    roots = np.polynomial.Polynomial(powers[: np.flatnonzero(kept)[-1] + 1]).roots()
    real = roots.real[np.abs(roots.imag) <= 1e-12 * np.abs(roots.real)]
    inside = real[(real > 0) & (real < 1)]
    return float(inside.min()) if inside.size else 1.0


@torch.no_grad()
def first_fall(
    margin: Callable[[Float[Tensor, "b n"]], Float[Tensor, "b n"]], limit: Float[Tensor, " b"]
) -> Float[Tensor, " b"]:
    """Return where on (0, limit] ``margin`` first stops being positive, or ``limit``.

    A dip narrower than a 500th of ``limit`` may be missed.
    """
    low, high, falls = torch.zeros_like(limit), limit, torch.ones_like(limit, dtype=torch.bool)
    for cells in _SCANS:
        share = torch.linspace(0, 1, cells + 1, dtype=limit.dtype, device=limit.device)
        places = low[:, None] + (high - low)[:, None] * share
        fallen = ~(margin(places[:, 1:]) > 0)
        if cells == _SCANS[0]:
            falls = fallen.any(-1)
        if not bool(falls.any()):
            break
        # Where rounding hides the fall that an earlier scan saw, it is at the end.
        index = torch.where(fallen.any(-1), fallen.to(torch.uint8).argmax(-1), cells - 1)
        low, high = (places.gather(-1, (index + i)[:, None])[:, 0] for i in (0, 1))
    return torch.where(falls, low, limit)


@torch.no_grad()
def bracketed_newton(
    value: Callable[[Tensor], Tensor],
    slope: Callable[[Tensor], Tensor],
    target: Float[Tensor, "*n"],
    *,
    start: Float[Tensor, "*n"],
    limit: Float[Tensor, "*n"],
) -> Float[Tensor, "*n"]:
    """Return x in [0, limit] with ``value(x) = target`` for a ``value`` that grows from 0."""
    low, high = torch.zeros_like(limit), limit.clone()
    x = torch.minimum(start, limit)
    last = high - low
    done = torch.zeros_like(x, dtype=torch.bool)
    for _ in range(_NEWTON_STEPS):
        error = value(x) - target
        low = torch.where(error < 0, x, low)
        high = torch.where(error >= 0, x, high)
        step = error / slope(x)
        inside = (x - step >= low) & (x - step <= high)
        # Newton may crawl where the slope nears zero: halve the bracket unless steps halve.
        keep = inside & (step.abs() <= 0.5 * last.abs())
        step = torch.where(keep, step, x - (low + high) / 2)
        # A finished element stays as it is, whatever its neighbours still need.
        x = torch.where(done, x, x - step)
        last = step
        done |= step.abs() < _CONVERGED
        if bool(done.all()):
            break
    return x


def newton_step(
    error: Float[Tensor, "*n 2"], jacobian: tuple[Tensor, Tensor, Tensor, Tensor]
) -> Float[Tensor, "*n 2"]:
    """Return the solution of ``jacobian @ step = error``; rows first, finite where singular."""
    xx, xy, yx, yy = jacobian
    determinant = xx * yy - xy * yx
    small = determinant.abs() < _SMALLEST_DETERMINANT
    determinant = torch.where(small, _SMALLEST_DETERMINANT, determinant)
    x, y = error.unbind(-1)
    return torch.stack([yy * x - xy * y, xx * y - yx * x], dim=-1) / determinant[..., None]


@torch.no_grad()
def damped_newton(
    value: Callable[[Tensor, Tensor], Tensor],
    jacobian: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor, Tensor]],
    target: Float[Tensor, "n 2"],
    *,
    start: Float[Tensor, "n 2"],
    limit: Float[Tensor, " n"],
) -> tuple[Float[Tensor, "n 2"], Bool[Tensor, " n"]]:
    """Return points in the disc of radius ``limit`` with ``value(point) = target``, and which are.

    A step is halved until the error falls. ``value`` and ``jacobian`` also get the indices of the
    points that are still searched for, since their parameters may differ.
    """
    found, solved = start.clone(), torch.zeros_like(limit, dtype=torch.bool)
    active = torch.arange(len(start), device=start.device)
    point, goal, most = start, target, limit
    error = goal - value(point, active)
    damping = torch.ones_like(limit)
    for _ in range(_PLANE_STEPS):
        # Where the plane nearly folds a step has any length: half the disc is plenty.
        step = clamp_to_disc(newton_step(error, jacobian(point, active)), most / 2)
        trial = clamp_to_disc(point + damping[:, None] * step, most)
        trial_error = goal - value(trial, active)
        size, trial_size = error.norm(dim=-1), trial_error.norm(dim=-1)
        better = trial_size < (1 - _LEAST_FALL * damping) * size
        point = torch.where(better[:, None], trial, point)
        error = torch.where(better[:, None], trial_error, error)
        damping = torch.where(better, (2 * damping).clamp(max=1), damping / 2)
        size = torch.where(better, trial_size, size)
        close = size <= _PLANE_CONVERGED * goal.norm(dim=-1).clamp(min=1)
        # Near a pole the value is steep: no point is nearer than rounding lets it be.
        close |= step.norm(dim=-1) <= _ROUNDING * point.norm(dim=-1)
        # Once close, go on while it helps: the last steps cost little and give the last digits.
        over = (close & ~better) | (size == 0) | (damping < _SMALLEST_DAMPING)
        found[active], solved[active] = point, close
        kept = ~over
        if not bool(kept.any()):
            break
        active, point, error = active[kept], point[kept], error[kept]
        goal, most, damping = goal[kept], most[kept], damping[kept]
    return found, solved


def clamp_to_disc(
    point: Float[Tensor, "*n 2"], limit: Float[Tensor, "*n"]
) -> Float[Tensor, "*n 2"]:
    """Return ``point``, drawn towards the origin as far as the disc of radius ``limit``."""
    radius = point.detach().norm(dim=-1)
    outside = radius > limit
    share = torch.where(outside, limit / torch.where(outside, radius, 1.0), 1.0)
    return point * share[..., None]


def safe_root(square: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Return the square root, 0 for what is not positive, with a gradient that stays finite."""
    positive = square > _TINY**2
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)
