from typing import get_args

import numpy as np
import pytest
import torch
import torchmetrics.functional.regression as reference

from dart.metrics import METRICS, compare, degradation, delta, measure_image
from dart.recipe import MetricName


@pytest.fixture
def pixels() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    true = generator.uniform(0.5, 10.0, 400)
    return true * np.exp(0.3 * generator.standard_normal(400)), true


def test_the_recipe_names_exactly_the_metrics() -> None:
    assert set(get_args(MetricName)) == set(METRICS)


def test_metrics_equal_torchmetrics(pixels: tuple[np.ndarray, np.ndarray]) -> None:
    predicted, true = (torch.from_numpy(values) for values in pixels)
    logs = predicted.log(), true.log()
    mse = reference.mean_squared_error
    explained = torch.as_tensor(reference.explained_variance(*logs))
    expected = {
        "abs_rel": reference.mean_absolute_percentage_error(predicted, true),
        "sq_rel": mse(predicted / true.sqrt(), true.sqrt()),
        "rmse": mse(predicted, true, squared=False),
        "rmse_log": mse(*logs, squared=False),
        # explained variance is 1 - var(difference) / var(truth)
        "si_log": 100 * ((1 - explained) * logs[1].var(correction=0)).sqrt(),
        "log10": reference.mean_absolute_error(predicted.log10(), true.log10()),
    }
    measured = measure_image(pixels[0][None], pixels[1][None], np.ones((1, 400), bool))
    for name, value in expected.items():
        assert measured[name] == pytest.approx(float(value), rel=1e-6), name


def test_metrics_by_hand() -> None:
    measured = measure_image(np.array([[1.0, 4.0]]), np.array([[2.0, 2.0]]), np.ones((1, 2), bool))
    assert measured["abs_rel"] == pytest.approx(0.75)
    assert measured["sq_rel"] == pytest.approx((0.5 + 2.0) / 2)
    assert measured["rmse"] == pytest.approx(np.sqrt(2.5))
    assert measured["rmse_log"] == pytest.approx(np.log(2))
    assert measured["si_log"] == pytest.approx(100 * np.log(2))
    assert measured["log10"] == pytest.approx(np.log10(2))
    assert measured["delta3"] == 0.0


def test_delta_is_strict_and_symmetric() -> None:
    predicted, true = np.array([1.25, 1.0, 1.2499, 1.0]), np.array([1.0, 1.25, 1.0, 1.0])
    assert delta(predicted, true, power=1) == 0.5


def test_a_perfect_prediction_has_the_best_value(pixels: tuple[np.ndarray, np.ndarray]) -> None:
    true = pixels[1].reshape(20, 20)
    for name, value in measure_image(true, true, true > 0).items():
        assert value == (1.0 if METRICS[name].higher_is_better else 0.0)


def test_invalid_pixels_never_count(pixels: tuple[np.ndarray, np.ndarray]) -> None:
    predicted, true = (values.reshape(20, 20).copy() for values in pixels)
    valid = np.ones((20, 20), bool)
    valid[:5] = False
    expected = measure_image(predicted[5:], true[5:], valid[5:])
    predicted[:5], true[:5] = np.nan, 0.0
    assert measure_image(predicted, true, valid) == expected


def test_an_empty_mask_and_bad_values_raise() -> None:
    ones = np.ones((2, 2))
    with pytest.raises(ValueError, match="no valid pixel"):
        measure_image(ones, ones, np.zeros((2, 2), bool))
    with pytest.raises(ValueError, match="prediction has values"):
        measure_image(ones * np.nan, ones, ones > 0)
    with pytest.raises(ValueError, match="truth has values"):
        measure_image(ones, ones * 0, ones > 0)


@pytest.mark.parametrize("metric", METRICS)
def test_degradation_is_positive_when_worse(metric: str) -> None:
    true = np.full((4, 4), 2.0)
    near, far = true * 1.1, true * 1.9
    measured = [measure_image(p, true, true > 0)[metric] for p in (near, far)]
    if metric == "si_log":  # a global factor is exactly what it ignores
        assert measured == pytest.approx([0.0, 0.0])
    else:
        assert degradation(*measured, metric=metric) >= 0
        assert degradation(*measured, metric=metric) == -degradation(*measured[::-1], metric=metric)
    assert degradation(0.2, 0.3, metric="abs_rel") == pytest.approx(0.1)
    assert degradation(0.9, 0.8, metric="delta1") == pytest.approx(0.1)


def make_domain(role: str, before: float, after: float, metric: str = "abs_rel") -> dict:
    return {"role": role, "before": {metric: before}, "after": {metric: after}}


def test_an_outcome_by_hand() -> None:
    domains = {
        "near": make_domain("source", 0.10, 0.12),
        "far": make_domain("source", 0.20, 0.19),
        "fisheye": make_domain("target", 0.40, 0.30),
        "other": make_domain("held_out", 0.50, 0.45),
    }
    assert compare(domains, "abs_rel") == pytest.approx(
        {
            "target_before": 0.40,
            "target_after": 0.30,
            "adaptation": 0.10,
            "adaptation_relative": 0.25,
            "source_before": 0.15,
            "source_after": 0.155,
            "forgetting": 0.005,
            "forgetting_worst": 0.02,
            "forgetting_relative": (0.2 - 0.05) / 2,
            "held_out_before": 0.50,
            "held_out_after": 0.45,
        }
    )


def test_signs_turn_with_the_metric() -> None:
    domains = {
        "source": make_domain("source", 0.9, 0.8, "delta1"),
        "target": make_domain("target", 0.5, 0.6, "delta1"),
    }
    outcome = compare(domains, "delta1")
    assert outcome["adaptation"] == pytest.approx(0.1)
    assert outcome["forgetting"] == pytest.approx(0.1)
    assert "held_out_after" not in outcome


def test_no_change_is_exactly_zero_and_not_negative() -> None:
    domains = {
        "source": make_domain("source", 0.1, 0.1),
        "target": make_domain("target", 0.3, 0.3),
    }
    outcome = compare(domains, "abs_rel")
    for name in ("adaptation", "forgetting", "forgetting_relative", "adaptation_relative"):
        assert str(outcome[name]) == "0.0"
