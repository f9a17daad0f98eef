"""Adapters that are off for pinholes, and filters on the tangent plane."""

import math

import pytest
import torch
from torch import Tensor, nn

from dart.cameras import (
    Camera,
    CameraEmbedder,
    Equidistant,
    Equisolid,
    Pinhole,
    Stereographic,
)
from dart.models import Routed, create_model, line_bend, pinhole_gate, variant_info
from experiments.polar import polar_shares
from experiments.tangent_sampling import tangent_offsets

SIZE = (96, 128)
STRIDES = (4, 8, 16, 32)


def camera(lens: type[Camera], focal: float, centre: tuple[float, float] = (64, 48)) -> Camera:
    return lens(torch.tensor([focal, focal, *centre]), SIZE)


def pinhole(fov_degrees: float, centre: tuple[float, float] = (64, 48)) -> Camera:
    return camera(Pinhole, 64 / math.tan(math.radians(fov_degrees / 2)), centre)


FISHEYES = [
    camera(Equidistant, 64 / math.radians(85)),
    camera(Equisolid, 32 / math.sin(math.radians(42.5))),
    camera(Stereographic, 32 / math.tan(math.radians(42.5))),
]


def rays(lens: Camera, stride: int) -> Tensor:
    return CameraEmbedder(2).rays([lens], stride).double()


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("fov", [50, 60, 70, 85, 110, 130])
@pytest.mark.parametrize("centre", [(64, 48), (30, 80)])
def test_the_gate_is_shut_for_every_pinhole(
    stride: int, fov: float, centre: tuple[float, float]
) -> None:
    assert not pinhole_gate(rays(pinhole(fov, centre), stride)).any()


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("lens", FISHEYES, ids=lambda lens: lens.model)
def test_the_gate_is_open_for_fisheyes_of_170_degrees(stride: int, lens: Camera) -> None:
    assert (pinhole_gate(rays(lens, stride)) == 1).all()


def test_a_bend_is_the_volume_of_three_rays() -> None:
    # A top row that is a circle of latitude, 45 degrees above the horizon: its ends and its
    # middle span cos^3 45 times the volume of (-1, -1, 0), (0, -1, 1) and (1, -1, 0), which is 2.
    half = math.sqrt(0.5)
    row = half * torch.tensor([[-1.0, -1, 0], [0, -1, 1], [1, -1, 0]]).double()
    grid = torch.stack([row, torch.tensor([[-1.0, 0, 0], [0, 0, 1], [1, 0, 0]]).double()])
    volume = abs(float(torch.linalg.det(row)))
    torch.testing.assert_close(volume, 2 * half**3)
    found = line_bend(grid.permute(2, 0, 1)[None])
    torch.testing.assert_close(float(found), volume)


class Ones(nn.Module):
    """Adds one everywhere."""

    def forward(self, features: Tensor, camera: Tensor) -> Tensor:  # noqa: ARG002
        return torch.ones_like(features)


def test_a_routed_adapter_is_off_for_the_pinholes_of_a_mixed_batch() -> None:
    shown = torch.cat([rays(pinhole(70), 8), rays(FISHEYES[0], 8)])
    residual = Routed(Ones())(torch.zeros(2, 5, 12, 16).double(), torch.cat([shown, shown], 1))
    assert not residual[0].any()
    assert (residual[1] == 1).all()


@torch.no_grad()
@pytest.mark.parametrize("name", ["daa_routed", "polar_both"])
def test_whatever_a_routed_network_learnt_it_is_the_pretrained_one_on_pinholes(name: str) -> None:
    assert variant_info(name).uses_camera
    model = create_model(name).eval()
    for parameter in model.adapters.parameters():
        parameter += torch.randn_like(parameter)
    image = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    answers = []
    for enabled in (True, False):
        model.adapters_enabled = enabled
        answers.append([model(image, [lens]).distance for lens in (pinhole(85), FISHEYES[0])])
    assert torch.equal(answers[0][0], answers[1][0])
    assert not torch.allclose(answers[0][1], answers[1][1])


def test_polar_shares_sum_to_one_and_peak_at_their_angle() -> None:
    shares = polar_shares(rays(FISHEYES[0], 4), 6)
    torch.testing.assert_close(shares.sum(1), torch.ones_like(shares[:, 0]))
    assert int(shares[0, :, 12, 16].argmax()) == 0
    # 80 degrees off the axis is the fifth of six bins, 20 degrees apart.
    assert int(shares[0, :, 12, -2].argmax()) == 4


def cells(lens: type[Camera], focal: float) -> Tensor:
    """Rays at the centres of 41x61 cells about the axis."""
    return lens(torch.tensor([focal, focal, 30.5, 20.5]).double(), (41, 61)).rays()


def offsets_of(lens: type[Camera], focal: float) -> Tensor:
    return tangent_offsets(cells(lens, focal).permute(2, 0, 1)[None])[0]


def test_a_pinhole_moves_no_tap_on_its_axis() -> None:
    offsets = offsets_of(Pinhole, 60.0)
    assert offsets[:, 20, 30].abs().max() < 1e-3
    # Off the axis a pinhole stretches by 1 / cos^2 along the radius and 1 / cos across it.
    polar = math.atan(20 / 60)
    radial, across = offsets[5, 20, 50], offsets[7, 20, 50]
    wanted = (1 / math.cos(polar) ** 2 - 1, 1 / math.cos(polar) - 1)
    torch.testing.assert_close(float(radial[0]), wanted[0], rtol=0.01, atol=1e-3)
    torch.testing.assert_close(float(across[1]), wanted[1], rtol=0.01, atol=1e-3)


@pytest.mark.parametrize("column", [34, 42, 50, 58])
def test_an_equidistant_lens_moves_taps_along_its_circles_only(column: int) -> None:
    focal = 61 / math.radians(170)
    offsets = offsets_of(Equidistant, focal)
    polar = (column - 30) / focal
    radial, across = offsets[5, 20, column], offsets[7, 20, column]
    torch.testing.assert_close(radial, torch.zeros(2).double(), rtol=0, atol=2e-3)
    torch.testing.assert_close(float(across[1]), polar / math.sin(polar) - 1, rtol=0.01, atol=2e-3)
    assert abs(float(across[0])) < 1e-6
    assert not offsets[4].any()


def test_rays_that_no_longer_turn_move_no_tap() -> None:
    still = torch.tensor([0.0, 0.6, 0.8]).double()[None, :, None, None].expand(1, 3, 4, 5)
    assert not tangent_offsets(still).any()
    assert tangent_offsets(still[..., :1]).shape == (1, 9, 4, 1, 2)
