"""Losses on log distance: an error of ten percent weighs the same at one metre and at ten.

Axes: ``b`` images, ``h w`` pixels.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from jaxtyping import Bool, Float
from torch import Tensor


def log_errors(
    distance: Float[Tensor, "b h w"], true: Float[Tensor, "b h w"], valid: Bool[Tensor, "b h w"]
) -> tuple[Float[Tensor, "b h w"], Float[Tensor, " b"]]:
    """Return ln(prediction / truth), zero where invalid, and the number of valid pixels.

    Each image must have a valid pixel, as every image of a ``Batches`` has: to find out here would
    keep a GPU waiting.
    """
    count = valid.flatten(1).sum(1)
    # where() before log(): the gradient of log at an invalid zero would be NaN, masked or not
    ratio = (distance / true.where(valid, distance.detach())).where(valid, 1.0)
    return ratio.log(), count.to(distance.dtype)


def si_log(
    distance: Float[Tensor, "b h w"], true: Float[Tensor, "b h w"], valid: Bool[Tensor, "b h w"]
) -> Float[Tensor, ""]:
    """Return the mean over images of sqrt(var(e) + 0.15 mean(e)^2), e = ln(prediction / truth).

    Source: UniDepth and Depth Any Camera use this weight of the mean (FACTS section 7).
    """
    errors, count = log_errors(distance, true, valid)
    mean = errors.sum((1, 2)) / count
    square = errors.square().sum((1, 2)) / count
    return (square - 0.85 * mean.square()).clamp_min(1e-8).sqrt().mean()


def log_l1(
    distance: Float[Tensor, "b h w"], true: Float[Tensor, "b h w"], valid: Bool[Tensor, "b h w"]
) -> Float[Tensor, ""]:
    """Return the mean over images of the mean of |ln(prediction / truth)|."""
    errors, count = log_errors(distance, true, valid)
    return (errors.abs().sum((1, 2)) / count).mean()


def rel_l1(
    distance: Float[Tensor, "b h w"], true: Float[Tensor, "b h w"], valid: Bool[Tensor, "b h w"]
) -> Float[Tensor, ""]:
    """Return the mean over images of the mean of |prediction / truth - 1|: AbsRel itself.

    It punishes a distance that is too far more than one that is too near by the same factor.
    """
    errors, count = log_errors(distance, true, valid)
    return (errors.expm1().abs().sum((1, 2)) / count).mean()


LOSSES: Mapping[str, Callable[..., Float[Tensor, ""]]] = MappingProxyType(
    {"si_log": si_log, "log_l1": log_l1, "rel_l1": rel_l1}
)
