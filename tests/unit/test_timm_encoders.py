"""Encoders of timm: stages against timm's own features, weights from files, refusals."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from dart.errors import UserError
from dart.models import NetworkConfig, create_model
from dart.models.encoder import create_encoder
from dart.models.folding import fold, is_folded
from dart.models.stages import Encoder
from dart.training.freeze import frozen_hash, set_trainable


def tiny(encoder: str) -> NetworkConfig:
    return NetworkConfig(encoder=encoder, decoder_channels=8, camera_dim=16, scale_dim=16)


def run(encoder: Encoder, image: Tensor) -> list[Tensor]:
    maps = []
    for index in range(4):
        image = encoder.stage_layers(index)(image)
        maps.append(image)
    return maps


def save_weights(name: str, path: Path) -> torch.nn.Module:
    """Write the weights of a whole classifier, as published files hold them, and return it."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    save_file(model.state_dict(), path)
    return model


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "ends"), [("test_resnet", (1, 2, 3, 4)), ("test_efficientnet", (1, 2, 3, 4))]
)
def test_a_pyramid_with_weights_of_a_file_gives_the_classifiers_maps(
    name: str, ends: tuple[int, ...], tmp_path: Path
) -> None:
    model = save_weights(name, tmp_path / "w.safetensors")
    image = torch.randn(2, 3, 64, 96)
    expected = model.forward_intermediates(image, intermediates_only=True)  # pyright: ignore[reportCallIssue]
    encoder = create_encoder(f"timm/{name}", weights=tmp_path / "w.safetensors").eval()
    for own, index in zip(run(encoder, image), ends, strict=True):
        torch.testing.assert_close(own, expected[index])


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "groups"),
    [("test_vit", (0, 2, 3, 5)), ("test_vit2", (1, 3, 5, 7)), ("test_vit3", (1, 3, 5, 8))],
)
def test_a_transformer_carries_its_class_tokens_between_groups(
    name: str, groups: tuple[int, ...], tmp_path: Path
) -> None:
    model = save_weights(name, tmp_path / "w.safetensors")
    model.set_input_size((80, 112))  # pyright: ignore[reportCallIssue]
    image = torch.randn(2, 3, 80, 112)
    expected = model.forward_intermediates(image, indices=list(groups), intermediates_only=True)  # pyright: ignore[reportCallIssue]
    encoder = create_encoder(f"timm/{name}", weights=tmp_path / "w.safetensors").eval()
    for own, wanted in zip(run(encoder, image), expected, strict=True):
        torch.testing.assert_close(own[:, :, :5], wanted, rtol=1e-4, atol=1e-5)


def test_rows_of_class_tokens_reach_neither_adapters_nor_decoder() -> None:
    model = create_model("none", config=tiny("timm/test_vit"))
    seen = []

    class Watch(torch.nn.Module):
        def forward(self, features: Tensor, _: Tensor) -> Tensor:
            seen.append(tuple(features.shape))
            return torch.zeros_like(features)

    image = torch.rand(1, 3, 60, 70)
    expected = model.eval()(image).distance
    model.adapt([Watch() for _ in range(4)])
    assert torch.equal(model(image).distance, expected)
    assert seen == [(1, 64, 4, 5)] * 4


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("timm/vit_tinypatch16_224", "did you mean 'vit_tiny_patch16_224'"),
        ("resnet18", "did you mean 'timm/resnet18'"),
        ("timm/levit_128s", "maps of strides 16, 32, 64; needed are 4, 8, 16, 32"),
        ("timm/eva02_tiny_patch14_224", "maps of strides 14;"),
        ("timm/hiera_tiny_224", "does not run stage by stage"),
    ],
)
def test_refuses_what_lacks_stages(name: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        create_encoder(name)


def test_refuses_weights_of_another_network(tmp_path: Path) -> None:
    save_weights("test_resnet", tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="do not fit encoder 'timm/test_vit'"):
        create_encoder("timm/test_vit", weights=tmp_path / "w.safetensors")


def test_statistics_of_batch_norms_stay_even_where_the_encoder_trains() -> None:
    model = create_model("none", config=tiny("timm/test_resnet"))
    set_trainable(model, ["encoder", "decoder"])
    before = frozen_hash(model)
    model(torch.rand(2, 3, 64, 64)).distance.mean().backward()
    assert frozen_hash(model) == before
    set_trainable(model, ["decoder"])
    assert not any(module.training for module in model.encoder.modules())


def test_folding_leaves_other_encoders_as_they_are() -> None:
    encoder = create_encoder("timm/test_resnet").eval()
    image = torch.rand(1, 3, 64, 64)
    folded = fold(encoder)
    assert not is_folded(folded)
    assert folded.state_dict().keys() == encoder.state_dict().keys()
    for own, wanted in zip(run(folded, image), run(encoder, image), strict=True):
        assert torch.equal(own, wanted)
