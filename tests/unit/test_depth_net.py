"""The composed network: inversion, padding, cameras, and where adapted features flow."""

import copy
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dart.cameras import Camera, KannalaBrandt, Pinhole, default_camera
from dart.errors import UserError
from dart.models import DepthNet, NetworkConfig, create_model
from dart.models.depth_net import initial_relative_inverse_depth, invert


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@cache
def shared() -> DepthNet:
    return create_model("none", generator=seeded(0)).eval()


@pytest.fixture
def model() -> DepthNet:
    return copy.deepcopy(shared())


@pytest.fixture
def image() -> Tensor:
    return torch.rand(2, 3, 64, 96, generator=seeded(1))


def pinhole(size: tuple[int, int] = (64, 96), focal: float = 70.0) -> Camera:
    return Pinhole(torch.tensor([focal, focal, size[1] / 2, size[0] / 2]), size)


def test_bounded_inversion_in_closed_form() -> None:
    config = NetworkConfig(min_distance=0.5, max_distance=10.0)
    r = torch.tensor([[[0.0, 0.25, 1.0]]]).expand(3, 1, 3)
    answer = invert(r, torch.tensor([1.0, 0.5, 3.0]), config)
    # 1 / d = scale (0.1 + 1.9 r), within [0.1, 2].
    wanted = [[10.0, 1 / 0.575, 0.5], [10.0, 1 / 0.2875, 1.0], [1 / 0.3, 1 / 1.725, 0.5]]
    torch.testing.assert_close(answer[:, 0], torch.tensor(wanted))


def test_bounded_inversion_never_leaves_the_bounds() -> None:
    config = NetworkConfig()
    r = torch.rand(500, 4, 5, generator=seeded(0))
    scale = torch.randn(500, generator=seeded(1)).mul(3).exp()
    distance = invert(r, scale, config)
    assert distance.min() >= config.min_distance
    assert distance.max() <= config.max_distance


def test_inversion_of_the_notes_is_never_nearer_than_its_maximum() -> None:
    config = NetworkConfig(inversion="max_over_disparity", scale_activation="sigmoid")
    r = torch.rand(500, 4, 5, generator=seeded(0))
    distance = invert(r, torch.rand(500, generator=seeded(1)), config)
    assert distance.min() >= config.max_distance
    assert distance.isfinite().all()
    half = invert(torch.full((1, 1, 1), 0.5), torch.full((1,), 0.5), config)
    assert half.item() == pytest.approx(80.0)


def test_starts_at_the_geometric_mean_of_the_bounds() -> None:
    config = NetworkConfig(min_distance=0.5, max_distance=8.0)
    r = torch.full((1, 1, 1), initial_relative_inverse_depth(config))
    assert invert(r, torch.ones(1), config).item() == pytest.approx(2.0)


@torch.no_grad()
def test_prediction_is_consistent(model: DepthNet, image: Tensor) -> None:
    answer = model(image, [pinhole()] * 2)
    assert answer.distance.shape == answer.relative_inverse_depth.shape == (2, 64, 96)
    assert torch.equal(answer.scale, torch.ones(2))
    wanted = invert(answer.relative_inverse_depth, answer.scale, model.config)
    assert torch.equal(answer.distance, wanted)


@torch.no_grad()
def test_options_of_the_notes_run(image: Tensor) -> None:
    config = NetworkConfig(inversion="max_over_disparity", scale_activation="sigmoid")
    model = create_model("none", config=config).eval()
    assert (model(image).distance >= config.max_distance).all()


@torch.no_grad()
@pytest.mark.parametrize("size", [(50, 70), (33, 32), (1, 1)])
def test_pads_with_the_camera_and_crops_back(model: DepthNet, size: tuple[int, int]) -> None:
    image = torch.rand(1, 3, *size, generator=seeded(2))
    camera = pinhole(size)
    bottom, right = -size[0] % 32, -size[1] % 32
    padded = functional.pad(image, (0, right, 0, bottom), mode="replicate")
    wanted = model(padded, [camera.pad(0, 0, right, bottom)]).distance
    answer = model(image, [camera]).distance
    assert torch.equal(answer, wanted[:, : size[0], : size[1]])


@torch.no_grad()
def test_images_without_a_camera_get_the_default_one(model: DepthNet, image: Tensor) -> None:
    wanted = model(image, [default_camera((64, 96))] * 2).distance
    assert torch.equal(model(image).distance, wanted)


@torch.no_grad()
def test_each_image_has_its_own_camera(model: DepthNet, image: Tensor) -> None:
    model.scale_head.last.weight.normal_(std=0.05, generator=seeded(3))
    fisheye = KannalaBrandt(torch.tensor([30.0, 30, 48, 32, 0.01, 0, 0, 0]), (64, 96))
    lenses = [pinhole(), fisheye]
    together = model(image, lenses).distance
    alone = [model(image[i : i + 1], [lenses[i]]).distance for i in range(2)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together, model(image, lenses[::-1]).distance)


class Constant(nn.Module):
    """A residual of the same value everywhere."""

    def forward(self, features: Tensor, camera: Tensor) -> Tensor:  # noqa: ARG002
        return torch.full_like(features, 0.5)


@torch.no_grad()
@pytest.mark.parametrize("index", range(4))
def test_adapted_features_flow_to_the_next_stage_and_the_decoder(
    model: DepthNet, image: Tensor, index: int
) -> None:
    seen: list[Tensor] = []
    model.decoder.register_forward_pre_hook(lambda _, args: seen.extend(args[0]))
    model(image)
    plain = seen.copy()
    seen.clear()
    model.adapters[index] = Constant()
    model(image)
    for stage in range(4):
        same = torch.equal(seen[stage], plain[stage])
        assert same == (stage < index)
    assert torch.equal(seen[index], plain[index] + 0.5)
    if index < 3:
        wanted = model.encoder.forward_stage(index + 1, plain[index] + 0.5)  # pyright: ignore[reportCallIssue]
        torch.testing.assert_close(seen[index + 1], wanted)


@torch.no_grad()
def test_switching_adapters_off(model: DepthNet, image: Tensor) -> None:
    plain = model(image).distance
    model.adapters[0] = Constant()
    assert not torch.equal(model(image).distance, plain)
    model.adapters_enabled = False
    assert torch.equal(model(image).distance, plain)


def test_bfloat16_is_finite(model: DepthNet, image: Tensor) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        answer = model(image)
    assert answer.distance.dtype == answer.scale.dtype == torch.float32
    assert answer.distance.isfinite().all()


def test_wrong_images_and_cameras(model: DepthNet, image: Tensor) -> None:
    with pytest.raises(UserError, match="image of 0x96 pixels: both sides must be at least 1"):
        model(image[:, :, :0])
    with pytest.raises(UserError, match="got 1 cameras for 2 images"):
        model(image, [pinhole()])
    with pytest.raises(UserError, match="the camera is of 96x64 pixels and its image of 64x96"):
        model(image, [pinhole((96, 64))] * 2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"min_distance": 0.0}, "must be 0 < min_distance < max_distance"),
        ({"min_distance": 5.0, "max_distance": 2.0}, "must be 0 < min_distance < max_distance"),
        ({"decoder_channels": 0}, "decoder_channels=0: must be a positive multiple of 4"),
        ({"inversion": "bound"}, "must be one of bounded, max_over_disparity; did you mean"),
        ({"encoder": "tinyvim_x"}, "no encoder 'tinyvim_x'; there are: tinyvim_s, tinyvim_b"),
    ],
)
def test_wrong_configurations(wrong: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_model("none", config=NetworkConfig.from_dict(wrong, where="here"))


def test_unknown_key_of_the_configuration() -> None:
    with pytest.raises(UserError, match=r"here: unknown key 'decoder'.*did you mean"):
        NetworkConfig.from_dict({"decoder": 3}, where="here")
    config = NetworkConfig(encoder="tinyvim_b", max_distance=80.0)
    assert NetworkConfig.from_dict(config.to_dict(), where="here") == config
