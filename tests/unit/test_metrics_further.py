import doctest

import numpy as np
import pytest
import torch
import torchmetrics.functional.regression as reference

from dart import metrics
from dart.metrics import (
    ALIGNMENTS,
    CLOUD_METRICS,
    FURTHER_METRICS,
    METRICS,
    align,
    measure_clouds,
    measure_weighted,
)

Pair = tuple[np.ndarray, np.ndarray]


@pytest.fixture
def pixels() -> Pair:
    generator = np.random.default_rng(0)
    true = generator.uniform(0.5, 10.0, 400)
    return true * np.exp(0.2 + 0.3 * generator.standard_normal(400)), true


def test_the_examples_in_the_docstrings_hold() -> None:
    result = doctest.testmod(metrics)
    assert result.attempted > 8
    assert result.failed == 0


def test_no_name_is_taken_twice() -> None:
    assert not set(FURTHER_METRICS) & set(METRICS)


def test_si_log_forms_equal_torch_and_torchmetrics(pixels: Pair) -> None:
    error = torch.from_numpy(np.log(pixels[0] / pixels[1]))
    measured = {name: m.compute(*pixels) for name, m in FURTHER_METRICS.items()}
    assert measured["si_log_bessel"] == pytest.approx(100 * float(error.std(correction=1)))
    assert measured["si_log_variance"] == pytest.approx(100 * float(error.var(correction=1)))
    mse = reference.mean_squared_error(error, torch.zeros_like(error))
    assert measured["si_log_half"] == pytest.approx(float((mse - error.mean() ** 2 / 2).sqrt()))
    relative = torch.from_numpy(pixels[0] / pixels[1])
    expected = reference.mean_squared_error(relative, torch.ones_like(relative))
    assert measured["sq_rel_squared"] == pytest.approx(float(expected))


def test_the_area_under_delta_of_one_known_ratio() -> None:
    # every pixel is off by 1.25^2: delta is 0 up to power 2 and 1 from there to 5
    area = metrics.delta_area(np.full(7, 1.25**2), np.ones(7))
    assert area == pytest.approx((5 - 2) / 5, abs=2e-3)


@pytest.mark.parametrize("how", ALIGNMENTS)
def test_an_alignment_undoes_what_it_can_express(how: str, pixels: Pair) -> None:
    true = pixels[1]
    undone = {
        "none": true,
        "scale_median": 3 * true,
        "scale_depth": 0.2 * true,
        "scale_shift_depth": 2 * true + 1.5,
        "scale_shift_inverse_depth": 1 / (0.5 / true + 0.3),
    }
    assert align(undone[how], true, how=how, bounds=(0.1, 80)) == pytest.approx(true)


def test_least_squares_are_numpys(pixels: Pair) -> None:
    predicted, true = pixels
    slope, offset = np.polyfit(predicted, true, 1)
    fitted = align(predicted, true, how="scale_shift_depth", bounds=(1e-9, 1e9))
    assert fitted == pytest.approx((slope * predicted + offset).clip(1e-9))


def test_a_fit_never_leaves_the_bounds() -> None:
    # truth falls where the prediction rises: the fitted line crosses zero
    predicted, true = np.array([1.0, 2.0, 9.0]), np.array([5.0, 4.0, 0.1])
    for how in ("scale_shift_depth", "scale_shift_inverse_depth"):
        fitted = align(predicted, true, how=how, bounds=(0.5, 6.0))
        assert fitted.min() >= 0.5
        assert fitted.max() <= 6.0


def test_a_constant_prediction_becomes_the_mean_in_the_space_of_the_fit() -> None:
    predicted, true = np.full(3, 7.0), np.array([1.0, 2.0, 6.0])
    means = {"scale_median": 2.0, "scale_depth": 3.0, "scale_shift_depth": 3.0}
    means["scale_shift_inverse_depth"] = 3 / (1 + 1 / 2 + 1 / 6)
    for how, mean in means.items():
        assert align(predicted, true, how=how, bounds=(0.1, 80)) == pytest.approx(mean)


def test_equal_weights_change_nothing(pixels: Pair) -> None:
    weighted = measure_weighted(*pixels, np.full(400, 0.3))
    for name in ("abs_rel", "rmse", "delta1"):
        assert weighted[f"{name}_solid_angle"] == pytest.approx(METRICS[name].compute(*pixels))


def test_equal_clouds_have_the_best_scores() -> None:
    cloud = np.random.default_rng(0).normal(size=(50, 3))
    scores = measure_clouds(cloud, cloud, nearest=0.1, farthest=10)
    assert scores == pytest.approx({"f_area_squared": 0.99, "f_area_metres": 1.0})


def test_the_squared_form_accepts_the_root_of_a_threshold() -> None:
    # Points 20 m apart, each moved by 0.3 m: hit where t > 0.3, or where t > 0.09 if squared.
    true = np.arange(10)[:, None] * np.array([[20.0, 0.0, 0.0]])
    moved = true + np.array([[0.0, 0.3, 0.0]])
    thresholds = np.geomspace(0.01, 0.5, 100)
    scores = measure_clouds(moved, true, nearest=0.01, farthest=10)
    expected = [np.trapezoid(1.0 * (thresholds > limit)) for limit in (0.09, 0.3)]
    assert scores["f_area_squared"] == pytest.approx(expected[0] / 100)
    assert scores["f_area_metres"] == pytest.approx(expected[1] / 99)
    assert set(scores) == set(CLOUD_METRICS)


def test_a_missing_half_costs_recall_alone() -> None:
    true = np.arange(10)[:, None] * np.array([[20.0, 0.0, 0.0]])
    scores = measure_clouds(true[:5], true, nearest=0.01, farthest=10)
    assert scores["f_area_metres"] == pytest.approx(2 * 0.5 / 1.5)
