"""Estimates from paired errors: plain arrays in, numbers with their doubt out.

A *block* holds one number for each seed and image of one domain, nearly always a difference that
is paired by seed and image. A seed's training touches every image of every domain and an image is
hard for every seed, so neither rows nor columns are independent: the estimate treats seeds and
images as crossed random effects, with domains fixed and weighted equally.

Axes: ``s`` seeds, ``i`` images (or scenes), ``k`` comparisons.

Source: PLATFORM 5.2; two deviations stand at ``_variance``. docs/method.md says it in words.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer
from numpy import ndarray
from scipy import stats

Block = Float[ndarray, "s _i"]

SEEDS_TO_SCREEN = 3
SEEDS_DEFAULT = 5
SEEDS_TO_CLAIM = 10


@dataclass(frozen=True)
class Estimate:
    """A mean and what is known of its error."""

    value: float
    standard_error: float
    df: float
    """Degrees of freedom of the t distribution that the estimate follows."""
    lower: float
    """Lower end of the two-sided interval of level 1 - alpha."""
    upper: float
    p: float
    """Of the two-sided test that the mean is 0."""
    reason: str = ""
    """Why there is no interval; then everything but ``value`` is not a number."""

    def quantile(self, level: float) -> float:
        """Return the one-sided bound that the true mean lies below with probability ``level``."""
        if not self.standard_error > 0:
            return self.value if self.standard_error == 0 else math.nan
        return self.value + self.standard_error * float(stats.t.ppf(level, self.df))

    def probability_below(self, limit: float) -> float:
        """Return P(mean < limit), reading the t interval as a posterior under a flat prior."""
        if not self.standard_error > 0:
            return float(self.value < limit) if self.standard_error == 0 else math.nan
        return float(stats.t.cdf((limit - self.value) / self.standard_error, self.df))

    def lies_within(self, margin: float, *, alpha: float) -> bool:
        """Say whether both one-sided tests put the mean between -margin and margin (TOST)."""
        return self.quantile(alpha) > -margin and self.quantile(1 - alpha) < margin


@dataclass(frozen=True)
class Reading:
    """The Bayesian reading of an estimate: three probabilities that add up to 1."""

    above: float
    """That the mean is above the region of practical equivalence (ROPE)."""
    within: float
    below: float


def read_posterior(estimate: Estimate, rope: float) -> Reading:
    """Return how probable it is that the mean lies above, within and below -rope to rope."""
    below = estimate.probability_below(-rope)
    above = 1 - estimate.probability_below(rope)
    return Reading(above=above, within=max(0.0, 1 - above - below), below=below)


def estimate_mean(blocks: Sequence[Block], *, alpha: float = 0.05) -> Estimate:
    """Return the mean over domains, seeds and images with its crossed-effects t interval.

    Args:
        blocks: One for each domain; the same seeds in the same order, any number of images.
        alpha: The interval has level 1 - alpha.

    Returns:
        With one seed, or one image in a domain, a value without interval and the reason.
    """
    value = float(np.mean([block.mean() for block in blocks]))
    seeds = blocks[0].shape[0]
    if reason := _too_few(seeds, [block.shape[1] for block in blocks]):
        return Estimate(value, *[math.nan] * 5, reason=reason)
    variance, df = _variance(blocks)
    error = math.sqrt(variance)
    if error <= 1e-12 * max(abs(block).max() for block in blocks):
        # Equal to rounding: a constant shift, or runs that are the same.
        zero = abs(value) <= 1e-12
        return Estimate(value, 0.0, df, value, value, 1.0 if zero else 0.0)
    half = error * float(stats.t.ppf(1 - alpha / 2, df))
    p = 2 * float(stats.t.sf(abs(value) / error, df))
    return Estimate(value, error, df, value - half, value + half, p)


def _too_few(seeds: int, images: Sequence[int]) -> str:
    if seeds < 2:
        return "one seed: how much a training's chance changes the number is not known"
    if min(images) < 2:
        return "one image or scene in a domain: how much images differ is not known"
    return ""


def _variance(blocks: Sequence[Block]) -> tuple[float, float]:
    """Return variance and degrees of freedom of the mean.

    Deviations from PLATFORM 5.2, chosen by simulation (docs/method.md): the variance is never
    below what seeds alone or images alone give; and the degrees of freedom take the seeds' part
    at its upper quartile, because with few seeds it is often too small by chance and Satterthwaite
    would then believe the images' many degrees of freedom.
    """
    count = len(blocks)
    seeds = blocks[0].shape[0]
    per_seed = np.mean([block.mean(axis=1) for block in blocks], axis=0)
    by_seed = float(per_seed.var(ddof=1)) / seeds
    by_image, residual, spread = 0.0, 0.0, 0.0
    for block in blocks:
        images = block.shape[1]
        columns = block.mean(axis=0)
        rest = block - block.mean(axis=1, keepdims=True) - columns + block.mean()
        part = float(columns.var(ddof=1)) / (count**2 * images)
        freedom = (seeds - 1) * (images - 1)
        by_image += part
        spread += part**2 / (images - 1)
        residual += float((rest**2).sum()) / freedom / (count**2 * seeds * images)
    # The residual is in both parts and is taken out once.
    variance = max(by_seed + by_image - residual, by_seed, by_image)
    likely = by_seed * (seeds - 1) / float(stats.chi2.ppf(0.25, seeds - 1))
    total = max(likely + by_image - residual, likely, by_image)
    spread += likely**2 / (seeds - 1)
    return variance, max(1.0, total**2 / spread) if spread > 0 else float(seeds - 1)


def average_scenes(
    block: Float[ndarray, "*k i"], scenes: Integer[ndarray, " i"]
) -> Float[ndarray, "*k c"]:
    """Return the mean of the images of each scene, scenes in ascending order.

    Frames of one scene resemble each other; what is independent is the scene.
    """
    _, position = np.unique(scenes, return_inverse=True)
    shares = np.zeros((len(scenes), position.max() + 1))
    shares[np.arange(len(scenes)), position] = 1
    return block @ (shares / shares.sum(axis=0))


def estimate_ratio(
    ours: Sequence[Block], theirs: Sequence[Block], *, alpha: float = 0.05
) -> Estimate:
    """Return the relative difference of two means, ours / theirs - 1, with its interval.

    Over domains it is the geometric mean of the ratios. The interval is that of the mean log
    ratio by the delta method: each number enters as its share in its own mean.

    Returns:
        Not a number where a mean is not positive.
    """
    logs, shares = [], []
    for our, their in zip(ours, theirs, strict=True):
        if our.mean() <= 0 or their.mean() <= 0:
            return Estimate(*[math.nan] * 6, reason="a mean is not positive: it has no ratio")
        logs.append(math.log(our.mean() / their.mean()))
        shares.append(our / our.mean() - their / their.mean() + logs[-1])
    log = estimate_mean(shares, alpha=alpha)
    ratio = math.expm1(log.value)
    return Estimate(
        value=ratio,
        standard_error=(1 + ratio) * log.standard_error,
        df=log.df,
        lower=math.expm1(log.lower),
        upper=math.expm1(log.upper),
        p=log.p,
        reason=log.reason,
    )


def standardized_mean(blocks: Sequence[Block]) -> float:
    """Return d_z: the mean over its standard deviation between seeds; paired, without unit."""
    per_seed = np.mean([block.mean(axis=1) for block in blocks], axis=0)
    if len(per_seed) < 2:
        return math.nan
    spread = float(per_seed.std(ddof=1))
    return float(per_seed.mean()) / spread if spread > 0 else math.nan


def adjust_holm(p_values: Float[ndarray, " k"]) -> Float[ndarray, " k"]:
    """Return p values for claims that are all right with probability 1 - alpha (Holm 1979).

    What is not a number was not tested and does not count.
    """
    adjusted = np.full(len(p_values), np.nan)
    order = [int(i) for i in np.argsort(p_values) if not np.isnan(p_values[i])]
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, float(p_values[index]) * (len(order) - rank)))
        adjusted[index] = largest
    return adjusted


def warn_of_few_seeds(seeds: int) -> str:
    """Return what so many seeds allow, in words; empty from ten on."""
    if seeds < SEEDS_TO_SCREEN:
        return f"{seeds} seeds: too few even to screen variants; take at least {SEEDS_TO_SCREEN}"
    if seeds < SEEDS_DEFAULT:
        return f"{seeds} seeds: enough to screen variants, not to compare them; {SEEDS_DEFAULT} are"
    if seeds < SEEDS_TO_CLAIM:
        return f"{seeds} seeds: enough to compare variants; for a claim take {SEEDS_TO_CLAIM}"
    return ""
