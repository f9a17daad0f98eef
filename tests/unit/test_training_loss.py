import math

import pytest
import torch

from dart.training.loss import log_l1, rel_l1, si_log

TRUE = torch.full((2, 3, 4), 2.0)
ALL = torch.ones(2, 3, 4, dtype=torch.bool)


def test_a_global_factor_costs_its_logarithm() -> None:
    assert log_l1(TRUE * 1.5, TRUE, ALL).item() == pytest.approx(math.log(1.5), rel=1e-5)
    # var(e) = 0 and mean(e) = ln 1.5, so the loss is sqrt(0.15) ln 1.5
    expected = math.sqrt(0.15) * math.log(1.5)
    assert si_log(TRUE * 1.5, TRUE, ALL).item() == pytest.approx(expected, rel=1e-4)


def test_relative_loss_is_abs_rel_and_prefers_too_near() -> None:
    assert rel_l1(TRUE * 1.5, TRUE, ALL).item() == pytest.approx(0.5, rel=1e-5)
    assert rel_l1(TRUE / 1.5, TRUE, ALL).item() == pytest.approx(1 / 3, rel=1e-5)


def test_a_symmetric_spread_costs_its_deviation() -> None:
    factors = torch.tensor([math.e, 1 / math.e]).repeat(2, 3, 2)
    assert log_l1(TRUE * factors, TRUE, ALL).item() == pytest.approx(1.0, rel=1e-5)
    assert si_log(TRUE * factors, TRUE, ALL).item() == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("loss", [log_l1, rel_l1, si_log])
def test_invalid_pixels_change_neither_loss_nor_gradient(loss) -> None:
    valid = ALL.clone()
    valid[:, 0] = False
    true = TRUE.masked_fill(~valid, 0.0)
    distance = (TRUE * torch.linspace(1.1, 1.9, 4)).requires_grad_(True)
    value = loss(distance, true, valid)
    expected = loss(distance.detach()[:, 1:], TRUE[:, 1:], ALL[:, 1:])
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    value.backward()
    assert distance.grad is not None
    assert torch.isfinite(distance.grad).all()
    assert (distance.grad[:, 0] == 0).all()
    assert (distance.grad[:, 1:] != 0).any()


@pytest.mark.parametrize("loss", [log_l1, rel_l1, si_log])
def test_images_weigh_the_same_however_many_pixels_are_valid(loss) -> None:
    valid = ALL.clone()
    valid[0, 1:] = False
    distance = TRUE.clone()
    distance[0] *= 3
    single = [loss(distance[i : i + 1], TRUE[i : i + 1], valid[i : i + 1]).item() for i in (0, 1)]
    assert loss(distance, TRUE, valid).item() == pytest.approx(sum(single) / 2, rel=1e-5)
