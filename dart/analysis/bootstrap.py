"""Resampling of seeds and images together, for what has no closed form.

The probability that a variant is better on a random seed and image, that it lies on the front of
adaptation against forgetting, and the area under that front. Replicates reweight seeds and images,
the same way for all variants, so that pairs stay pairs.

Axes: ``r`` replicates, ``v`` variants, ``s`` seeds, ``i`` images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

REPLICATES = 1000
CHUNK = 4_000_000
"""Numbers held at once while resampling."""


@dataclass(frozen=True)
class Interval:
    """A value and the percentile interval of its replicates."""

    value: float
    lower: float
    upper: float


class CrossedBootstrap:
    """Replicates of means over seeds and over each domain's images.

    Args:
        seeds: Number of seeds.
        images: Domain -> number of images (or scenes).
        generator: Where the chance comes from.
        replicates: How many.
    """

    def __init__(
        self,
        seeds: int,
        images: dict[str, int],
        *,
        generator: np.random.Generator,
        replicates: int = REPLICATES,
    ) -> None:
        self.by_seed = _weights(generator, replicates, seeds)
        self.by_image = {name: _weights(generator, replicates, n) for name, n in images.items()}

    def means(self, blocks: dict[str, Float[ndarray, "v s _i"]]) -> Float[ndarray, "r v"]:
        """Return the mean over domains, seeds and images of every variant in every replicate."""
        variants, seeds, _ = next(iter(blocks.values())).shape
        total = np.zeros((len(self.by_seed), variants))
        for domain, block in blocks.items():
            weights = self.by_image[domain]
            step = max(1, CHUNK // weights.size)
            for start in range(0, variants, step):
                part = block[start : start + step].swapaxes(0, 1)
                images = self.by_seed @ part.reshape(seeds, -1)
                images = images.reshape(len(weights), -1, weights.shape[1])
                total[:, start : start + step] += (images @ weights[:, :, None])[..., 0]
        return total / len(blocks)


def _weights(generator: np.random.Generator, replicates: int, count: int) -> ndarray:
    """Return the weights of ``count`` things drawn with replacement, in every replicate.

    Deviations from equal weights are widened by sqrt(n / (n - 1)): a plain bootstrap of few seeds
    has too little spread (PLATFORM 5.2).
    """
    drawn = generator.multinomial(count, np.full(count, 1 / count), size=replicates) / count
    if count < 2:
        return drawn
    return 1 / count + (drawn - 1 / count) * math.sqrt(count / (count - 1))


def interval(value: float, replicates: Float[ndarray, " r"], *, alpha: float = 0.05) -> Interval:
    """Return the percentile interval of level 1 - alpha."""
    lower, upper = np.quantile(replicates, [alpha / 2, 1 - alpha / 2])
    return Interval(value, float(lower), float(upper))


def favourable(difference: Float[ndarray, "*k"]) -> Float[ndarray, "*k"]:
    """Return 1 where a difference is above 0, a half where it is 0, else 0."""
    return 0.5 * (np.sign(difference) + 1.0)


def on_front(
    gains: Float[ndarray, "*r v"], losses: Float[ndarray, "*r v"]
) -> Bool[ndarray, "*r v"]:
    """Say which variants no other beats: none gains as much and loses as little, one strictly."""
    order = np.argsort(-gains + 1j * losses, axis=-1)  # by gain, then by loss
    gain = np.take_along_axis(gains, order, axis=-1)
    loss = np.take_along_axis(losses, order, axis=-1)
    least = np.minimum.accumulate(loss, axis=-1)
    is_new = np.ones_like(loss, dtype=bool)
    is_new[..., 1:] = loss[..., 1:] < least[..., :-1]
    position = np.where(is_new, np.arange(loss.shape[-1]), 0)
    holder = np.maximum.accumulate(position, axis=-1)
    twin = (gain == np.take_along_axis(gain, holder, axis=-1)) & (loss == least)
    front = np.empty_like(is_new)
    np.put_along_axis(front, order, is_new | twin, axis=-1)
    return front


def hypervolume(
    gains: Float[ndarray, "*r v"], losses: Float[ndarray, "*r v"]
) -> Float[ndarray, "*r"]:
    """Return the area that the variants dominate, from gain 0 and loss 1 on.

    Args:
        gains: Adaptation as a share of the target's value before it.
        losses: Forgetting as a share of the sources' value before it.
    """
    gains, losses = np.maximum(gains, 0.0), np.minimum(losses, 1.0)
    order = np.argsort(losses, axis=-1)
    reached = np.maximum.accumulate(np.take_along_axis(gains, order, axis=-1), axis=-1)
    ends = np.take_along_axis(losses, order, axis=-1)
    ends = np.concatenate([ends, np.ones_like(ends[..., :1])], axis=-1)
    return np.asarray((np.diff(ends, axis=-1) * reached).sum(axis=-1))


def summarize_front(
    gains: tuple[Float[ndarray, " v"], Float[ndarray, "r v"]],
    losses: tuple[Float[ndarray, " v"], Float[ndarray, "r v"]],
    *,
    alpha: float = 0.05,
) -> tuple[Sequence[float], Interval]:
    """Return P(on front) of every variant, and the area with its interval.

    Args:
        gains: Estimates, and their replicates; shares of the value before adaptation.
        losses: The same of forgetting.
    """

    # The untouched network gains and loses nothing; what it beats is on no front.
    def with_origin(values: ndarray) -> ndarray:
        return np.concatenate([values, np.zeros_like(values[..., :1])], axis=-1)

    front = on_front(with_origin(gains[1]), with_origin(losses[1]))[..., :-1]
    area = interval(
        float(hypervolume(gains[0], losses[0])), hypervolume(gains[1], losses[1]), alpha=alpha
    )
    return [float(share) for share in front.mean(axis=0)], area
