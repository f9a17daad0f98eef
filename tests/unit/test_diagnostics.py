import numpy as np
import pytest
import torch
from torch import nn

from dart.cameras import KannalaBrandt, Pinhole
from dart.diagnostics import (
    choose_steps,
    copy_parameters,
    measure_rings,
    measure_updates,
    polar_degrees,
    spread,
    watch_adapters,
)
from dart.metrics import METRICS, measure_image


def test_the_polar_angle_of_a_pinhole_is_its_arctangent() -> None:
    camera = Pinhole(torch.tensor([50.0, 50.0, 20.5, 10.5]), (20, 40))
    polar = polar_degrees(camera)
    assert polar[10, 20] == pytest.approx(0, abs=1e-5)
    assert polar[10, 39] == pytest.approx(np.degrees(np.arctan(19 / 50)), abs=1e-5)


def test_the_polar_angle_goes_beyond_90_degrees() -> None:
    # Equidistant: a pixel's distance from the centre is its angle.
    camera = KannalaBrandt(torch.tensor([20.0, 20.0, 40.5, 0.5, 0, 0, 0, 0]), (1, 81))
    assert polar_degrees(camera)[0, 0] == pytest.approx(np.degrees(40 / 20), abs=1e-4)


def test_each_ring_is_measured_as_an_image_of_its_own() -> None:
    rng = np.random.default_rng(0)
    true, predicted = rng.uniform(0.5, 9, (2, 12, 16))
    valid, polar = rng.random((12, 16)) > 0.3, rng.uniform(0, 95, (12, 16))
    polar[polar // 10 == 4] = 33.0  # a ring that no pixel falls in
    table = measure_rings(predicted, true, valid, polar)
    assert set(table["ring"]) == {0, 10, 20, 30, 50, 60, 70, 80, 90}
    for ring in table["ring"].unique().tolist():
        rows = table[table["ring"] == ring]
        inside = valid & (polar >= ring) & (polar < ring + 10)
        assert (rows["pixels"] == inside.sum()).all()
        expected = measure_image(predicted, true, inside)
        found = dict(zip(rows["metric"], rows["value"], strict=True))
        assert list(found) == list(METRICS)
        assert found == pytest.approx(expected, rel=1e-9)


def test_a_planted_change_is_found_and_nothing_else() -> None:
    adapter, decoder = nn.Linear(4, 3), nn.Linear(2, 2)
    model = nn.ModuleDict({"adapters": nn.ModuleList([adapter]), "decoder": decoder})
    nn.init.constant_(decoder.weight, 2.0)
    nn.init.zeros_(decoder.bias)
    before = copy_parameters(model)
    with torch.no_grad():
        decoder.weight.add_(0.5)
        decoder.bias.add_(0.25)
    table = measure_updates(before, model)
    names = list(table["part"] + "." + table["parameter"])
    assert names == ["adapters.0.weight", "adapters.0.bias", "decoder.weight", "decoder.bias"]
    assert table["count"].tolist() == [12, 3, 4, 2]
    assert table["update"].tolist() == pytest.approx([0, 0, 0.5, 0.25])
    relative = table["relative"].tolist()
    assert relative[:3] == pytest.approx([0, 0, 0.25])
    assert np.isnan(relative[3])


def test_what_is_frozen_is_not_copied() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    assert list(copy_parameters(model)) == ["weight"]


@pytest.mark.parametrize(
    ("steps", "expected"), [(40, {8, 16, 24, 32, 40}), (2, {1, 2}), (0, set())]
)
def test_a_curve_ends_with_the_last_step(steps: int, expected: set[int]) -> None:
    assert choose_steps(steps) == expected


def test_positions_are_spread_over_the_whole_set() -> None:
    assert list(spread(24, most=8)) == [0, 3, 6, 9, 12, 15, 18, 21]
    assert list(spread(3, most=8)) == [0, 1, 2]


class _Scaled(nn.Module):
    """Hands back a tenth of what it is given, after an attention that is known."""

    def __init__(self, attention: torch.Tensor) -> None:
        super().__init__()
        self.attention = attention
        self.mix = nn.Identity()
        self.weigh = nn.Linear(3, 2)
        nn.init.zeros_(self.weigh.weight)
        nn.init.constant_(self.weigh.bias, 1.0)
        self.mix.weigh = self.weigh

    def forward(self, features: torch.Tensor, camera: torch.Tensor) -> torch.Tensor:
        self.weigh(features.flatten(2).mT)
        self.mix(self.attention)
        return 0.1 * features + 0 * camera


def test_maps_of_adapters_are_what_they_did_and_nothing_stays_behind() -> None:
    uniform = torch.full((1, 2, 5, 8), 1 / 8)
    decided = torch.zeros(1, 2, 5, 8)
    decided[:, :, 3] = 0.7
    model = nn.Module()
    model.adapters = nn.ModuleList([_Scaled(uniform), nn.Module(), _Scaled(decided)])
    features = torch.randn(1, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), watch_adapters(model) as maps:
        for index in (0, 2):
            model.adapters[index](features, torch.zeros(1))
    assert set(maps) == {f"stage{i}/{n}" for i in (0, 2) for n in ("residual", "attention", "gate")}
    for values in maps.values():
        assert values.shape == (2, 4)
    assert maps["stage0/residual"] == pytest.approx(np.full((2, 4), 0.1))
    assert maps["stage0/attention"] == pytest.approx(np.full((2, 4), 1 / 5))
    assert maps["stage2/attention"] == pytest.approx(np.ones((2, 4)))
    assert maps["stage2/gate"] == pytest.approx(np.full((2, 4), 1 / (1 + np.exp(-1))))
    maps.clear()
    model.adapters[0](features, torch.zeros(1))
    assert not maps
