"""Whether depth maps hold z or range: rooms and roads have planes, and only one reading is flat.

On a plane, 1 / z is linear in (X / Z, Y / Z, 1), and 1 / range is linear in the unit ray. A map
read the wrong way bends its planes, the more the wider the view. So the largest plane is sought
in both readings, and the one that it covers more of is the likelier.

Axis letters: ``h w`` pixels, ``n`` points, ``t`` trials.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

TOLERANCE = 0.01
"""Relative deviation up to which a point lies on a plane."""
CLEAR = 0.1
"""Mean log ratio of the shares of the two readings from which the test decides."""
_POINTS = 2000
_TRIALS = 300
_FEWEST = 200
_SMALLEST_COSINE = 0.2


@dataclass(frozen=True)
class Planarity:
    """What the planes of several frames say."""

    declared: Literal["z", "range"]
    fits_better: Literal["z", "range", "undecided"]
    frames: int
    share_as_z: float
    """Mean share of a frame's points within 1 % of its largest plane, read as z."""
    share_as_range: float
    log_ratio: float
    """Mean over frames of ln(share as z / share as range): above 0 speaks for z."""
    standard_error: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)


def plane_shares(
    depth: Float[ndarray, "h w"],
    rays: Float[ndarray, "h w 3"],
    valid: Bool[ndarray, "h w"],
    generator: np.random.Generator,
) -> tuple[float, float] | None:
    """Return the share of points on the largest plane, read as z and read as range.

    Args:
        depth: Metres, as they stand in the file.
        rays: Unit vectors.
        valid: Pixels that count; those beyond 78 degrees off axis are left out.
        generator: Draws points and trials; both readings get the same.

    Returns:
        Two shares in 0..1; None if too few points are valid.
    """
    points = np.flatnonzero(valid & (rays[..., 2] > _SMALLEST_COSINE))
    if points.size < _FEWEST:
        return None
    points = generator.choice(points, min(points.size, _POINTS), replace=False)
    unit = rays.reshape(-1, 3)[points].astype(np.float64)
    inverse = 1 / depth.reshape(-1)[points].astype(np.float64)
    triples = generator.integers(points.size, size=(_TRIALS, 3))
    as_z = _largest_plane(unit / unit[:, 2:], inverse, triples)
    return as_z, _largest_plane(unit, inverse, triples)


def _largest_plane(
    directions: Float[ndarray, "n 3"], inverse: Float[ndarray, " n"], triples: Int[ndarray, "t 3"]
) -> float:
    """Return the share of points on the plane through three of them that holds the most."""
    corners = directions[triples]
    usable = np.abs(np.linalg.det(corners)) > 1e-6
    if not usable.any():
        return 0.0
    planes = np.linalg.solve(corners[usable], inverse[triples[usable]][..., None])[..., 0]
    near = np.abs(planes @ directions.T / inverse - 1) < TOLERANCE
    best = near[near.sum(axis=1).argmax()]
    for _ in range(3):  # three noisy points make a rough plane: fit all that lie on it
        weight = 1 / inverse[best]
        plane = np.linalg.lstsq(directions[best] * weight[:, None], np.ones(best.sum()))[0]
        again = np.abs(directions @ plane / inverse - 1) < TOLERANCE
        if again.sum() <= best.sum():
            break
        best = again
    return float(best.mean())


def judge(
    shares: Sequence[tuple[float, float]], declared: Literal["z", "range"]
) -> Planarity | None:
    """Return which reading fits better over several frames; None without any.

    The test decides where the mean log ratio is clear (above 0.1 either way) and at least two of
    its standard errors away from 0; one frame alone needs twice the ratio.
    """
    if not shares:
        return None
    pairs = np.array(shares)
    ratios = np.log((pairs[:, 0] + 1e-3) / (pairs[:, 1] + 1e-3))
    mean, error = float(ratios.mean()), None
    if len(ratios) > 1:
        error = float(ratios.std(ddof=1) / len(ratios) ** 0.5)
    needed = 2 * CLEAR if error is None else max(CLEAR, 2 * error)
    better = "undecided" if abs(mean) < needed else "z" if mean > 0 else "range"
    return Planarity(
        declared=declared,
        fits_better=better,
        frames=len(ratios),
        share_as_z=float(pairs[:, 0].mean()),
        share_as_range=float(pairs[:, 1].mean()),
        log_ratio=mean,
        standard_error=error,
    )
