"""Per-image depth metrics and the one place that decides the sign of a change.

Every metric takes the valid pixels of one image as two flat arrays in metres, prediction and
truth, both z or both distance along the ray. Aggregation is a mean over images, done where the
images are read; nothing is pooled over pixels of different images.

Source: FACTS section 7 lists how the field's code bases differ; deviations stand at each metric.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

Pixels = Float[ndarray, " n"]


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


def log10(predicted: Pixels, true: Pixels) -> float:
    """Return the mean absolute difference of decimal logarithms."""
    return float(np.mean(np.abs(np.log10(predicted / true))))


def delta(predicted: Pixels, true: Pixels, *, power: float) -> float:
    """Return the share of pixels with max(p/d, d/p) strictly below 1.25**power."""
    return float(np.mean(np.maximum(predicted / true, true / predicted) < 1.25**power))


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
