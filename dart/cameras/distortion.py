"""Distortion of the image plane: radial, tangential and thin-prism terms, and its inverse."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import reduce

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dart.cameras.solve import clamp_to_disc, damped_newton, newton_step

_NUM_AZIMUTHS = 32
_REACH = 1.05
"""Times the image of the disc's edge: a goal farther out is not searched for."""
_STARTS = (1.0, 0.5, 0.25, 0.9)
"""Shares of the disc from which the inverse is searched, until a point is found."""
_SMALLEST_DIVISOR = 1e-3
_SMALLEST_RADIUS = 1e-12


@dataclass(frozen=True, eq=False)
class Distortion:
    """``m (1 + N(q)) / (1 + D(q)) + tangential + prism`` of a plane point ``m`` with ``q = |m|^2``.

    Source: Brown 1966, in OpenCV's form; the prism is that of Project Aria's Fisheye624.
    """

    radial: tuple[Tensor, ...]
    """Factors of q, q^2, ... above the line."""

    divisor: tuple[Tensor, ...] = ()
    """Factors of q, q^2, ... below the line."""

    tangent: tuple[Tensor, Tensor] | None = None
    """The vector t of ``2 (t m) m + q t``: OpenCV's (p2, p1)."""

    prism: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
    """s of ``(s0 q + s1 q^2, s2 q + s3 q^2)``."""

    def apply(self, plane: Float[Tensor, "*n 2"]) -> Float[Tensor, "*m 2"]:
        """Return the distorted points."""
        x, y = plane.unbind(-1)
        q = x.square() + y.square()
        gain = (1 + _series(self.radial, q)) / (1 + _series(self.divisor, q))
        right, down = gain * x, gain * y
        if self.tangent is not None:
            t, s = self.tangent
            along = 2 * (t * x + s * y)
            right, down = right + along * x + q * t, down + along * y + q * s
        if self.prism is not None:
            s0, s1, s2, s3 = self.prism
            right, down = right + q * (s0 + s1 * q), down + q * (s2 + s3 * q)
        return torch.stack([right, down], dim=-1)

    def jacobian(self, plane: Float[Tensor, "*n 2"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the derivatives of ``apply``: right by x, right by y, down by x, down by y."""
        x, y = plane.unbind(-1)
        q = x.square() + y.square()
        above, below = 1 + _series(self.radial, q), 1 + _series(self.divisor, q)
        gain = above / below
        bend = 2 * (_series_slope(self.radial, q) - gain * _series_slope(self.divisor, q)) / below
        xx, yy = gain + bend * x * x, gain + bend * y * y
        xy = yx = bend * x * y
        if self.tangent is not None:
            t, s = self.tangent
            xx, yy = xx + 6 * t * x + 2 * s * y, yy + 6 * s * y + 2 * t * x
            xy = yx = xy + 2 * (t * y + s * x)
        if self.prism is not None:
            s0, s1, s2, s3 = self.prism
            right, down = 2 * (s0 + 2 * s1 * q), 2 * (s2 + 2 * s3 * q)
            xx, xy, yx, yy = xx + right * x, xy + right * y, yx + down * x, yy + down * y
        return xx, xy, yx, yy

    @torch.no_grad()
    def margin(self, radius: Float[Tensor, "b n"], largest: float) -> Float[Tensor, "b n"]:
        """Return what is positive where the plane at ``radius`` has neither folded nor ended.

        Folded is where the Jacobian's determinant vanishes in some direction; ended, where the
        divisor does or the distorted point lies further out than ``largest``.
        """
        plane = self._circle(radius)
        wide = self._mapped(lambda value: value[:, None, None])
        xx, xy, yx, yy = wide.jacobian(plane)
        divisor = 1 + _series(wide.divisor, plane.square().sum(-1))
        image = wide.apply(plane).norm(dim=-1)
        margin = torch.minimum(largest - image, divisor - _SMALLEST_DIVISOR).amin(-1)
        return torch.minimum(margin, _least_around(xx * yy - xy * yx))

    def _circle(self, radius: Float[Tensor, "*n"]) -> Float[Tensor, "*n a 2"]:
        """Return points around the centre; one is enough where no direction differs."""
        turn = 2 * torch.pi * torch.arange(_NUM_AZIMUTHS, dtype=radius.dtype, device=radius.device)
        azimuth = turn / _NUM_AZIMUTHS
        if self.is_radial:
            azimuth = azimuth[:1]
        return radius[..., None, None] * torch.stack([azimuth.cos(), azimuth.sin()], dim=-1)

    @property
    def is_radial(self) -> bool:
        """Whether all tangential and prism terms are zero."""
        vectors = (*(self.tangent or ()), *(self.prism or ()))
        return not any(bool(value.detach().any()) for value in vectors)

    def invert(
        self, target: Float[Tensor, "*n 2"], limit: Float[Tensor, "*b"]
    ) -> tuple[Float[Tensor, "*n 2"], Bool[Tensor, "*n"]]:
        """Return the points of the disc of radius ``limit`` that distort to ``target``.

        ``limit`` has one number a lens, with dimensions that broadcast to the target's.
        Differentiable in the target and the factors. A target that no point reaches gets the
        disc's edge in its own direction, and False.
        """
        shape = target.shape[:-1]
        constant = self._mapped(torch.Tensor.detach)
        edges = constant._mapped(lambda value: value[..., None]).apply(constant._circle(limit))
        reached = target.detach().norm(dim=-1) <= _REACH * edges.norm(dim=-1).amax(-1)
        fixed = self._mapped(lambda value: _flat(value.detach(), shape))
        goal = target.detach().reshape(-1, 2)
        most = limit.detach().expand(shape).reshape(-1)
        found, solved = fixed._search(goal, most, reached.reshape(-1))
        found, solved = found.reshape(*shape, 2), solved.reshape(shape)
        # One step with gradients makes the result an implicit function; its value stays.
        error = torch.where(solved[..., None], target - self.apply(found), 0.0)
        step = newton_step(error, constant.jacobian(found))
        radius = goal.norm(dim=-1).clamp(min=_SMALLEST_RADIUS).reshape(shape)
        edge = target * (most.reshape(shape) / radius)[..., None]
        return torch.where(solved[..., None], found + (step - step.detach()), edge), solved

    def _search(
        self, goal: Float[Tensor, "n 2"], most: Float[Tensor, " n"], tried: Bool[Tensor, " n"]
    ) -> tuple[Float[Tensor, "n 2"], Bool[Tensor, " n"]]:
        """Return points of the disc that distort to ``goal``, and which ones do; some are tried.

        Where the plane nearly folds at the disc's edge, a search from there may come to rest at
        the edge; one from further inside does not.
        """
        found, solved = torch.zeros_like(goal), torch.zeros_like(most, dtype=torch.bool)
        for share in _STARTS:
            left = (tried & ~solved).nonzero()[:, 0]
            if not left.numel():
                break
            rest = self._picked(left)
            found[left], solved[left] = damped_newton(
                lambda point, index, rest=rest: rest._picked(index).apply(point),
                lambda point, index, rest=rest: rest._picked(index).jacobian(point),
                goal[left],
                start=clamp_to_disc(goal[left], share * most[left]),
                limit=most[left],
            )
        return found, solved

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> "Distortion":
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(
            self,
            **{
                name: None if value is None else tuple(map(change, value))
                for name, value in values.items()
            },
        )

    def _picked(self, index: Tensor) -> "Distortion":
        return self._mapped(lambda value: value if value.ndim == 0 else value[index])


def _least_around(values: Float[Tensor, "*n a"]) -> Float[Tensor, "*n"]:
    """Return the least value around a circle, between its samples too (by parabolas)."""
    if values.shape[-1] == 1:
        return values[..., 0]
    before, after = values.roll(1, -1), values.roll(-1, -1)
    bend = before + after - 2 * values
    lowest = (bend > 0) & (values <= before) & (values <= after)
    dip = (before - after).square() / (8 * torch.where(lowest, bend, 1.0))
    return torch.where(lowest, values - dip, values).amin(-1)


def _flat(value: Tensor, shape: torch.Size) -> Tensor:
    return value.reshape(()) if value.numel() == 1 else value.expand(shape).reshape(-1)


def _series(factors: tuple[Tensor, ...], q: Tensor) -> Tensor:
    total = torch.zeros_like(q)
    return reduce(lambda series, value: (series + value) * q, reversed(factors), total)


def _series_slope(factors: tuple[Tensor, ...], q: Tensor) -> Tensor:
    orders = range(len(factors), 0, -1)
    total = torch.zeros_like(q)
    for order, value in zip(orders, reversed(factors), strict=True):
        total = total * q + order * value
    return total
