import math
import warnings
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.regression.mixed_linear_model import MixedLM
from statsmodels.stats.multitest import multipletests

from dart.analysis.bootstrap import (
    CrossedBootstrap,
    favourable,
    hypervolume,
    interval,
    on_front,
    summarize_front,
)
from dart.analysis.statistics import (
    adjust_holm,
    average_scenes,
    estimate_mean,
    estimate_ratio,
    read_posterior,
    standardized_mean,
    warn_of_few_seeds,
)

# Standard deviations of seeds, of seeds in a domain, of images and of the rest; domains' images.
WORLDS = {
    "seeds_count": (0.3, 0.0, 1.0, 1.0, (200,)),
    "images_count": (0.02, 0.0, 1.0, 0.3, (64,)),
    "both_count": (0.13, 0.0, 1.0, 0.5, (64,)),
    "three_domains": (0.2, 0.1, 1.0, 1.0, (80, 200, 40)),
}


def _draw(
    chance: np.random.Generator, world: str, *, seeds: int, heavy: bool = False, shift: float = 0.0
) -> list[np.ndarray]:
    by_seed, by_domain, by_image, rest, sizes = WORLDS[world]
    normal = chance.standard_normal
    seed = by_seed * normal((seeds, 1))
    blocks = []
    for size in sizes:
        hardness = chance.standard_t(3, (1, size)) / 3**0.5 if heavy else normal((1, size))
        own = by_domain * normal((seeds, 1)) + rest * normal((seeds, size))
        blocks.append(shift + seed + by_image * hardness + own)
    return blocks


def _share_significant(world: str, *, seeds: int, studies: int, **options: float | bool) -> float:
    chance = np.random.default_rng(seeds)
    found = [
        estimate_mean(_draw(chance, world, seeds=seeds, **options)).p < 0.05  # type: ignore[arg-type]
        for _ in range(studies)
    ]
    return float(np.mean(found))


@pytest.mark.parametrize("seeds", [5, 10])
def test_false_positives_and_coverage_short(seeds: int) -> None:
    # 600 studies: 0.05 is measured to +-0.018 (two standard errors).
    share = _share_significant("seeds_count", seeds=seeds, studies=600)
    assert 0.02 <= share <= 0.068


@pytest.mark.slow
@pytest.mark.parametrize(("world", "seeds", "heavy"), [*product(WORLDS, (5, 10), (False, True))])
def test_false_positives_and_coverage(world: str, seeds: int, heavy: bool) -> None:
    share = _share_significant(world, seeds=seeds, studies=5000, heavy=heavy)
    assert share <= 0.06
    assert 0.92 <= 1 - share <= 0.98  # the interval holds the truth exactly where p > alpha


@pytest.mark.parametrize(("seeds", "power"), [(5, 0.65), (10, 0.92)])
def test_an_effect_is_found(seeds: int, power: float) -> None:
    assert _share_significant("seeds_count", seeds=seeds, studies=300, shift=0.5) > power


def test_one_domain_of_seeds_alone_is_the_t_test() -> None:
    # Images that are all alike leave nothing but seeds.
    per_seed = np.random.default_rng(0).standard_normal(6)
    found = estimate_mean([np.tile(per_seed[:, None], 9)])
    theirs: Any = stats.ttest_1samp(per_seed, 0.0)
    assert found.p == pytest.approx(theirs.pvalue)
    assert (found.lower, found.upper) == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    assert found.df == pytest.approx(5)


def test_one_domain_of_images_alone_is_the_t_test() -> None:
    per_image = np.random.default_rng(0).standard_normal(30)
    found = estimate_mean([np.tile(per_image, (4, 1))])
    theirs: Any = stats.ttest_1samp(per_image, 0.0)
    assert found.p == pytest.approx(theirs.pvalue)


def test_the_standard_error_is_that_of_a_mixed_model() -> None:
    chance = np.random.default_rng(3)
    seeds, images = 8, 40
    block = 0.4 * chance.standard_normal((seeds, 1)) + chance.standard_normal((1, images))
    block = block + 0.5 * chance.standard_normal((seeds, images)) + 0.2
    seed, image = (np.ravel(axis) for axis in np.indices(block.shape))
    parts = {
        "seed": (seed[:, None] == np.arange(seeds)).astype(float),
        "image": (image[:, None] == np.arange(images)).astype(float),
    }
    ones = np.ones((block.size, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from statsmodels.regression.mixed_linear_model import VCSpec

        spec = VCSpec(
            list(parts),
            [[[f"{name}{i}" for i in range(m.shape[1])]] for name, m in parts.items()],
            [[m] for m in parts.values()],
        )
        model = MixedLM(block.ravel(), ones, groups=np.zeros(block.size), exog_vc=spec)
        theirs = model.fit(reml=True)
    found = estimate_mean([block])
    assert found.value == pytest.approx(theirs.fe_params[0], abs=1e-8)
    assert found.standard_error == pytest.approx(theirs.bse_fe[0], rel=1e-3)


@given(
    seeds=st.integers(2, 6),
    images=st.integers(2, 8),
    factor=st.floats(0.01, 100),
    chance=st.integers(0, 999),
)
@settings(max_examples=40, deadline=None)
def test_scale_sign_and_order_do_what_they_should(
    seeds: int, images: int, factor: float, chance: int
) -> None:
    draw = np.random.default_rng(chance)
    block = draw.standard_normal((seeds, images)) + 0.3
    found = estimate_mean([block])
    scaled = estimate_mean([-factor * block])
    assert scaled.value == pytest.approx(-factor * found.value)
    assert (scaled.upper, scaled.lower) == pytest.approx(
        (-factor * found.lower, -factor * found.upper)
    )
    assert scaled.p == pytest.approx(found.p)
    shuffled = block[draw.permutation(seeds)][:, draw.permutation(images)]
    assert estimate_mean([shuffled]).lower == pytest.approx(found.lower)


def test_domains_count_alike_whatever_their_size() -> None:
    small, large = np.full((3, 2), 1.0), np.full((3, 100), 2.0)
    assert estimate_mean([small, large]).value == pytest.approx(1.5)


@pytest.mark.parametrize(("shape", "reason"), [((1, 9), "one seed"), ((4, 1), "one image")])
def test_what_cannot_be_known_is_not_a_number(shape: tuple[int, int], reason: str) -> None:
    found = estimate_mean([np.full(shape, 0.5)])
    assert found.value == 0.5
    assert found.reason.startswith(reason)
    for number in (found.lower, found.upper, found.p, found.quantile(0.9)):
        assert math.isnan(number)
    assert not found.lies_within(1.0, alpha=0.05)


def test_runs_that_are_the_same_differ_by_nothing() -> None:
    same = estimate_mean([np.zeros((5, 9))])
    assert (same.value, same.lower, same.upper, same.p) == (0.0, 0.0, 0.0, 1.0)
    assert same.lies_within(0.01, alpha=0.05)
    shifted = estimate_mean([np.full((5, 9), 0.1)])
    assert (shifted.lower, shifted.upper, shifted.p) == pytest.approx((0.1, 0.1, 0.0))


def test_bounds_and_probabilities_agree() -> None:
    block = np.random.default_rng(1).standard_normal((6, 30)) + 0.1
    found = estimate_mean([block], alpha=0.1)
    assert found.quantile(0.95) == pytest.approx(found.upper)
    assert found.quantile(0.05) == pytest.approx(found.lower)
    assert found.probability_below(found.upper) == pytest.approx(0.95)
    reading = read_posterior(found, 0.2)
    assert reading.above + reading.within + reading.below == pytest.approx(1)
    assert reading.above == pytest.approx(1 - found.probability_below(0.2))
    assert found.lies_within(found.upper + 1e-9, alpha=0.05) == (-found.lower < found.upper)


def test_holm_is_that_of_statsmodels() -> None:
    p = np.array([0.01, 0.04, 0.03, 0.005, 0.9])
    np.testing.assert_allclose(adjust_holm(p), np.asarray(multipletests(p, method="holm")[1]))
    with_gap = adjust_holm(np.array([0.01, np.nan, 0.03]))
    np.testing.assert_allclose(with_gap, [0.02, np.nan, 0.03])


def test_frames_of_a_scene_count_as_one() -> None:
    block = np.array([[1.0, 3.0, 10.0], [2.0, 4.0, 20.0]])
    np.testing.assert_allclose(
        average_scenes(block, np.array([7, 7, 2])), [[10.0, 2.0], [20.0, 3.0]]
    )


def test_copies_of_a_frame_add_no_certainty() -> None:
    block = np.random.default_rng(5).standard_normal((5, 12)) + 0.5
    scenes = np.repeat(np.arange(12), 4)
    copied = average_scenes(np.repeat(block, 4, axis=1), scenes)
    assert estimate_mean([copied]).p == pytest.approx(estimate_mean([block]).p)


def test_a_ratio_of_means_with_its_interval() -> None:
    theirs = 1.0 + 0.1 * np.random.default_rng(0).standard_normal((5, 30))
    exact = estimate_ratio([0.8 * theirs], [theirs])
    assert exact.value == pytest.approx(-0.2)
    assert exact.upper - exact.lower == pytest.approx(0, abs=1e-9)
    noisy = 0.8 * theirs + 0.05 * np.random.default_rng(1).standard_normal(theirs.shape)
    found = estimate_ratio([noisy], [theirs])
    assert found.lower < -0.2 < found.upper
    assert found.upper - found.lower < 0.1
    back = estimate_ratio([theirs], [noisy])  # the same the other way round
    assert (1 + back.value) * (1 + found.value) == pytest.approx(1)
    assert (1 + back.upper) * (1 + found.lower) == pytest.approx(1)
    assert estimate_ratio([theirs - 5], [theirs]).reason


def test_the_effect_size_is_over_seeds() -> None:
    block = np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    assert standardized_mean([block]) == pytest.approx(2.0)
    assert math.isnan(standardized_mean([block[:1]]))


def test_few_seeds_are_said() -> None:
    assert "too few even to screen" in warn_of_few_seeds(2)
    assert "screen" in warn_of_few_seeds(4)
    assert "for a claim take 10" in warn_of_few_seeds(9)
    assert warn_of_few_seeds(10) == ""


def test_the_bootstrap_has_the_spread_of_the_closed_form() -> None:
    chance = np.random.default_rng(2)
    blocks = {str(i): block for i, block in enumerate(_draw(chance, "both_count", seeds=10))}
    sizes = {name: block.shape[1] for name, block in blocks.items()}
    bootstrap = CrossedBootstrap(10, sizes, generator=np.random.default_rng(0), replicates=4000)
    means = bootstrap.means({name: block[None] for name, block in blocks.items()})[:, 0]
    closed = estimate_mean([*blocks.values()])
    assert means.mean() == pytest.approx(closed.value, abs=4 * closed.standard_error / 4000**0.5)
    # The residual is in the resampled rows and in the columns: a little wider than the formula.
    assert 0.95 <= means.std() / closed.standard_error <= 1.25
    again = CrossedBootstrap(10, sizes, generator=np.random.default_rng(0), replicates=4000)
    np.testing.assert_array_equal(
        again.means({name: block[None] for name, block in blocks.items()})[:, 0], means
    )
    found = interval(closed.value, means)
    assert found.lower < closed.value < found.upper


@given(st.integers(0, 10_000), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_front_and_area_are_what_they_mean(seed: int, count: int) -> None:
    chance = np.random.default_rng(seed)
    gains, losses = chance.integers(0, 5, count) / 5, chance.integers(0, 5, count) / 5
    expected = [
        not any(
            g >= gain and loss_ <= loss and (g > gain or loss_ < loss)
            for g, loss_ in zip(gains, losses, strict=True)
        )
        for gain, loss in zip(gains, losses, strict=True)
    ]
    assert on_front(gains, losses).tolist() == expected
    x, y = np.meshgrid((np.arange(50) + 0.5) / 50, (np.arange(50) + 0.5) / 50)
    covered = np.zeros_like(x, dtype=bool)
    for gain, loss in zip(gains, losses, strict=True):
        covered |= (x < gain) & (y > loss)
    assert float(hypervolume(gains, losses)) == pytest.approx(covered.mean())


def test_the_untouched_network_beats_what_only_forgets() -> None:
    gains, losses = np.array([0.5, -0.1]), np.array([0.2, 0.1])
    shares, area = summarize_front((gains, gains[None]), (losses, losses[None]))
    assert shares == [1.0, 0.0]
    assert area.value == pytest.approx(0.5 * 0.8)


def test_ties_are_half_a_win() -> None:
    assert favourable(np.array([-1.0, 0.0, 2.0])).tolist() == [0.0, 0.5, 1.0]
