"""Per-image depth metrics and the one place that decides the sign of a change.

Every metric takes the valid pixels of one image as two flat arrays in metres, prediction and
truth, both z or both distance along the ray. Aggregation is a mean over images, done where the
images are read; nothing is pooled over pixels of different images.

``METRICS`` is what every run records; ``FURTHER_METRICS`` are the forms of other code bases, which
an evaluation on a data set gives as well. Code bases differ in what they call by one name: each
deviation stands at its metric.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy.spatial import KDTree

Pixels = Float[ndarray, " n"]
_NUM_THRESHOLDS = 100
_QUICK_TREE = {"balanced_tree": False, "compact_nodes": False}
"""Fastest for two surfaces of tens of thousands of points: measured, answers are the same."""


def abs_rel(predicted: Pixels, true: Pixels) -> float:
    """Return the mean of |p - d| / d.

    >>> abs_rel(np.array([1.0, 3.0]), np.array([2.0, 2.0]))
    0.5
    """
    return float(np.mean(np.abs(predicted - true) / true))


def sq_rel(predicted: Pixels, true: Pixels) -> float:
    """Return the mean of (p - d)^2 / d, in metres."""
    return float(np.mean((predicted - true) ** 2 / true))


def rmse(predicted: Pixels, true: Pixels) -> float:
    """Return the root of the mean squared error, in metres."""
    return float(np.sqrt(np.mean((predicted - true) ** 2)))


def rmse_log(predicted: Pixels, true: Pixels) -> float:
    """Return the root of the mean squared difference of natural logarithms."""
    return float(np.sqrt(np.mean(np.log(predicted / true) ** 2)))


def si_log(predicted: Pixels, true: Pixels) -> float:
    """Return 100 times the standard deviation of the log difference: the KITTI server's form.

    The deviation is of the population; UniDepth divides by n - 1, and Depth Anything V2 halves
    the mean's share and leaves out the factor 100.
    """
    return float(100 * np.std(np.log(predicted / true)))


def si_log_bessel(predicted: Pixels, true: Pixels) -> float:
    """Return ``si_log`` with the deviation of a sample (n - 1): UniDepth's form.

    >>> round(si_log_bessel(np.array([1.0, np.e]), np.array([1.0, 1.0])), 3)
    70.711
    """
    return float(100 * _sample_variance(np.log(predicted / true)) ** 0.5)


def si_log_variance(predicted: Pixels, true: Pixels) -> float:
    """Return 100 times the variance (n - 1) of the log difference: Depth Any Camera's form.

    >>> round(si_log_variance(np.array([1.0, np.e]), np.array([1.0, 1.0])), 3)
    50.0
    """
    return float(100 * _sample_variance(np.log(predicted / true)))


def si_log_half(predicted: Pixels, true: Pixels) -> float:
    """Return sqrt(mean e^2 - (mean e)^2 / 2) of the log difference e: Depth Anything V2's form.

    Half of a common factor counts, and there is no factor of 100.

    >>> round(si_log_half(np.array([np.e, np.e]), np.array([1.0, 1.0])), 6)
    0.707107
    """
    error = np.log(predicted / true)
    return float(np.sqrt(np.mean(error**2) - 0.5 * np.mean(error) ** 2))


def _sample_variance(values: Pixels) -> float:
    return float(np.var(values, ddof=1)) if values.size > 1 else 0.0


def sq_rel_squared(predicted: Pixels, true: Pixels) -> float:
    """Return the mean of (p - d)^2 / d^2: ``sq_rel`` as KITTI's development kit has it.

    >>> sq_rel_squared(np.array([1.0, 6.0]), np.array([2.0, 4.0]))
    0.25
    """
    return float(np.mean(((predicted - true) / true) ** 2))


def median_log(predicted: Pixels, true: Pixels) -> float:
    """Return 100 times the absolute median of the log difference: how far the scale is off.

    >>> round(median_log(np.array([np.e, 1.0, np.e]), np.ones(3)), 6)
    100.0
    """
    return float(100 * np.abs(np.median(np.log(predicted / true))))


def delta_area(predicted: Pixels, true: Pixels) -> float:
    """Return the area under ``delta`` as its power goes from 0.01 to 5, divided by 5 (``d_auc``).

    A perfect prediction has 0.998, because the powers start at 0.01.

    >>> round(delta_area(np.ones(2), np.ones(2)), 6)
    0.998
    """
    powers = np.linspace(0.01, 5, 500)
    needed = np.sort(np.abs(np.log(predicted / true))) / np.log(1.25)
    shares = np.searchsorted(needed, powers, side="left") / needed.size
    return float(np.trapezoid(shares, powers) / 5)


def within(predicted: Pixels, true: Pixels, *, ratio: float) -> float:
    """Return the share of pixels with max(p/d, d/p) strictly below ``ratio``.

    >>> within(np.array([1.02, 1.04]), np.ones(2), ratio=1.03)
    0.5
    """
    return float(np.mean(np.maximum(predicted / true, true / predicted) < ratio))


def log10(predicted: Pixels, true: Pixels) -> float:
    """Return the mean absolute difference of decimal logarithms."""
    return float(np.mean(np.abs(np.log10(predicted / true))))


def delta(predicted: Pixels, true: Pixels, *, power: float) -> float:
    """Return the share of pixels with max(p/d, d/p) strictly below 1.25**power."""
    return within(predicted, true, ratio=1.25**power)


@dataclass(frozen=True)
class Metric:
    """A metric and which way it points."""

    compute: Callable[[Pixels, Pixels], float]
    higher_is_better: bool


def _delta(power: float) -> Metric:
    return Metric(lambda predicted, true: delta(predicted, true, power=power), True)


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "abs_rel": Metric(abs_rel, False),
        "sq_rel": Metric(sq_rel, False),
        "rmse": Metric(rmse, False),
        "rmse_log": Metric(rmse_log, False),
        "si_log": Metric(si_log, False),
        "log10": Metric(log10, False),
        "delta1": _delta(1),
        "delta2": _delta(2),
        "delta3": _delta(3),
    }
)

FURTHER_METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "si_log_bessel": Metric(si_log_bessel, False),
        "si_log_variance": Metric(si_log_variance, False),
        "si_log_half": Metric(si_log_half, False),
        "sq_rel_squared": Metric(sq_rel_squared, False),
        "median_log": Metric(median_log, False),
        "delta_half": _delta(0.5),
        "tau_1_03": Metric(lambda p, d: within(p, d, ratio=1.03), True),
        "d_auc": Metric(delta_area, True),
    }
)
CLOUD_METRICS = ("f_area_squared", "f_area_metres")
SOLID_ANGLE_METRICS = ("abs_rel_solid_angle", "rmse_solid_angle", "delta1_solid_angle")


def measure_weighted(predicted: Pixels, true: Pixels, weights: Pixels) -> dict[str, float]:
    """Return ``SOLID_ANGLE_METRICS``: means in which each pixel counts as its weight says.

    Args:
        weights: Solid angle of each pixel, in any unit.

    >>> one, three = np.array([1.0]), np.array([3.0])
    >>> both = np.concatenate([one, one]), np.concatenate([one, one * 2])
    >>> measure_weighted(*both, np.concatenate([three, one]))["abs_rel_solid_angle"]
    0.125
    """
    ratio = np.maximum(predicted / true, true / predicted)
    error = np.abs(predicted - true)
    means = [np.average(v, weights=weights) for v in (error / true, error**2, ratio < 1.25)]
    means[1] = means[1] ** 0.5
    return {name: float(m) for name, m in zip(SOLID_ANGLE_METRICS, means, strict=True)}


def measure_clouds(
    predicted: Float[ndarray, "n 3"],
    true: Float[ndarray, "m 3"],
    *,
    nearest: float,
    farthest: float,
) -> dict[str, float]:
    """Return ``CLOUD_METRICS``: areas under the F-score of two point clouds.

    The F-score joins the share of predicted points near a true one and of true points near a
    predicted one, at 100 thresholds evenly spaced in their logarithm. ``f_area_squared`` compares
    *squared* distances with the thresholds, so that a threshold t accepts points within sqrt(t)
    metres, and sums trapezoids over 100 thresholds (99 intervals): what UniDepth and UniK3D call
    F_A or F1, 0.99 if perfect. ``f_area_metres`` compares distances with the same thresholds and
    is 1 if perfect; it is not to be compared with their numbers.

    Args:
        predicted: Metres; both clouds in the same frame.
        true: Metres.
        nearest: Smallest threshold, in metres: the smallest depth that counts.
        farthest: Largest depth that counts; the largest threshold is a twentieth of it.
    """
    thresholds = np.geomspace(nearest, farthest / 20, _NUM_THRESHOLDS)
    reach = 1.001 * max(thresholds[-1], thresholds[-1] ** 0.5)
    gaps = [
        np.sort(KDTree(to, **_QUICK_TREE).query(of, distance_upper_bound=reach)[0])
        for of, to in ((predicted, true), (true, predicted))
    ]
    areas = []
    for limits in (thresholds**0.5, thresholds):
        precision, recall = (np.searchsorted(gap, limits) / gap.size for gap in gaps)
        total = precision + recall
        score = 2 * precision * recall / np.where(total > 0, total, 1)
        areas.append(float(np.trapezoid(score)))
    values = areas[0] / _NUM_THRESHOLDS, areas[1] / (_NUM_THRESHOLDS - 1)
    return dict(zip(CLOUD_METRICS, values, strict=True))


def measure_image(
    predicted: Float[ndarray, "h w"], true: Float[ndarray, "h w"], valid: Bool[ndarray, "h w"]
) -> dict[str, float]:
    """Return every metric over the valid pixels of one image.

    Raises:
        ValueError: If no pixel is valid, or a valid pixel is not a positive finite number.
    """
    if not valid.any():
        raise ValueError("no valid pixel in the image: a metric over nothing is not a number")
    pixels = predicted[valid].astype(np.float64), true[valid].astype(np.float64)
    for name, values in zip(("prediction", "truth"), pixels, strict=True):
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise ValueError(f"the {name} has values that are not positive and finite")
    return {name: metric.compute(*pixels) for name, metric in METRICS.items()}


def _least_squares(x: Pixels, y: Pixels) -> tuple[float, float]:
    """Return factor and offset of the line through (x, y); a constant x has the factor 0."""
    spread = float(np.mean((x - x.mean()) ** 2))
    factor = 0.0
    if spread > 1e-12 * float(np.mean(x**2)):
        factor = float(np.mean((x - x.mean()) * (y - y.mean()))) / spread
    return factor, float(y.mean()) - factor * float(x.mean())


def _scale_shift_depth(predicted: Pixels, true: Pixels) -> Pixels:
    factor, offset = _least_squares(predicted, true)
    return factor * predicted + offset


def _scale_shift_inverse_depth(predicted: Pixels, true: Pixels) -> Pixels:
    factor, offset = _least_squares(1 / predicted, 1 / true)
    inverse = factor / predicted + offset
    # What is not positive lies beyond infinity: as far as possible.
    return np.where(inverse > 0, 1 / np.where(inverse > 0, inverse, 1), np.inf)


ALIGNMENTS: Mapping[str, Callable[[Pixels, Pixels], Pixels]] = MappingProxyType(
    {
        "none": lambda predicted, _: predicted,
        "scale_median": lambda p, d: p * (np.median(d) / np.median(p)),
        "scale_depth": lambda p, d: p * (np.mean(p * d) / np.mean(p**2)),
        "scale_shift_depth": _scale_shift_depth,
        "scale_shift_inverse_depth": _scale_shift_inverse_depth,
    }
)
"""Ways to fit the prediction of one image to its truth, each named with the space of the fit.

``scale_median`` is the ratio of medians; the others are least squares over all valid pixels,
without ridge and without leaving out the worst (UniDepth has a ridge of 1e-9; UniK3D leaves 5 %).
"""


def align(predicted: Pixels, true: Pixels, *, how: str, bounds: tuple[float, float]) -> Pixels:
    """Return the prediction fitted to the truth of the same image.

    Args:
        how: Key of ``ALIGNMENTS``.
        bounds: Metres; a fit with a shift is kept within them, as it can leave them and zero.

    >>> align(np.array([1.0, 2.0]), np.array([3.0, 5.0]), how="scale_shift_depth", bounds=(0.1, 9))
    array([3., 5.])
    """
    fitted = ALIGNMENTS[how](predicted, true)
    return fitted.clip(*bounds) if "shift" in how else fitted


def degradation(before: float, after: float, *, metric: str) -> float:
    """Return how much worse ``after`` is than ``before``, in the metric's own unit.

    Positive is always worse, whichever way the metric points. On a source domain this is
    forgetting; on the target domain its negative is adaptation.
    """
    return before - after if METRICS[metric].higher_is_better else after - before


def compare(domains: Mapping[str, Mapping[str, Any]], metric: str) -> dict[str, float]:
    """Return the two objectives and what they are made of, for one metric.

    Args:
        domains: Domain -> ``role``, and the means of every metric ``before`` and ``after``.
        metric: Key of ``METRICS``.

    Returns:
        ``forgetting`` is the mean over source domains and ``forgetting_worst`` the largest;
        ``*_relative`` is the mean of each domain's change over its own value before. The
        ``held_out_*`` are absent where no domain is held out.
    """
    values = {
        role: [d for d in domains.values() if d["role"] == role]
        for role in ("source", "target", "held_out")
    }
    (target,) = values["target"]
    outcome = {"target_before": target["before"][metric], "target_after": target["after"][metric]}
    for role in ("source", "held_out"):
        for when in ("before", "after") if values[role] else ():
            outcome[f"{role}_{when}"] = float(np.mean([d[when][metric] for d in values[role]]))
    lost = [
        degradation(d["before"][metric], d["after"][metric], metric=metric)
        for d in values["source"]
    ]
    before = [d["before"][metric] for d in values["source"]]
    gained = degradation(target["after"][metric], target["before"][metric], metric=metric)
    return outcome | {
        "adaptation": gained,
        "adaptation_relative": gained / target["before"][metric],
        "forgetting": float(np.mean(lost)),
        "forgetting_worst": max(lost),
        "forgetting_relative": float(np.mean(np.divide(lost, before))),
    }
