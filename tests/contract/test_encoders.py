"""What every variant owes on other encoders than TinyViM: a pyramid with batch norms, and tokens.

No test here names a variant. Weights are random: what is held is structure, not accuracy.
"""

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dart.cameras import Camera, KannalaBrandt, Pinhole
from dart.errors import UserError
from dart.models import (
    DepthNet,
    NetworkConfig,
    create_model,
    list_variants,
    load_adapter,
    save_adapter,
    save_pretrained,
    variant_info,
)
from dart.training.freeze import frozen_hash, set_trainable

ENCODERS = ("timm/lcnet_050", "timm/test_vit")
SIZE = (50, 70)
"""No multiple of any stride."""

pytestmark = [
    pytest.mark.parametrize("encoder", ENCODERS),
    pytest.mark.parametrize("name", list_variants()),
]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cameras() -> list[Camera]:
    centre = [SIZE[1] / 2, SIZE[0] / 2]
    return [
        Pinhole(torch.tensor([60.0, 60.0, *centre]), SIZE),
        KannalaBrandt(torch.tensor([30.0, 30.0, *centre, 0.01, 0.0, 0.0, 0.0]), SIZE),
    ]


def images() -> Tensor:
    return torch.rand((2, 3, *SIZE), generator=seeded(3))


@cache
def checkpoint(encoder: str, folder: Path) -> Path:
    config = NetworkConfig(encoder=encoder, decoder_channels=16, camera_dim=16, scale_dim=16)
    path = folder / f"{encoder.replace('/', '_')}.safetensors"
    save_pretrained(create_model("none", config=config, generator=seeded(5)), path, {})
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("encoders")


def build(name: str, encoder: str, folder: Path) -> DepthNet:
    """The variant's network; a variant that changes what an encoder has not must say so."""
    try:
        return create_model(name, pretrained=checkpoint(encoder, folder), generator=seeded(9))
    except UserError as error:
        message = str(error)
    if "\n" in message:
        pytest.fail(message)
    pytest.skip(f"refused: {message}")


def step(model: nn.Module) -> None:
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    model.zero_grad()
    model(images(), cameras()).relative_inverse_depth.logit().square().mean().backward()
    optimizer.step()


@torch.no_grad()
def test_starts_as_declared(encoder: str, name: str, folder: Path) -> None:
    model = build(name, encoder, folder).eval()
    answer = model(images(), cameras()).distance
    model.adapters_enabled = False
    expected = create_model("none", pretrained=checkpoint(encoder, folder)).eval()
    assert torch.equal(model(images(), cameras()).distance, expected(images(), cameras()).distance)
    same = torch.equal(answer, expected(images(), cameras()).distance)
    assert same == variant_info(name).starts_at_identity


def test_learns_leaves_the_frozen_and_survives_a_checkpoint(
    encoder: str, name: str, folder: Path, tmp_path: Path
) -> None:
    model = build(name, encoder, folder)
    set_trainable(model, ["adapters"])
    trained = {key: p.detach().clone() for key, p in model.named_parameters() if p.requires_grad}
    before = frozen_hash(model)
    if trained:
        for _ in range(2):
            step(model)
        now = dict(model.named_parameters())
        assert any(not torch.equal(now[key], value) for key, value in trained.items())
    assert frozen_hash(model) == before

    save_adapter(model, tmp_path / "adapter.safetensors", {})
    with torch.no_grad():
        expected = model.eval()(images(), cameras()).distance
        again = load_adapter(tmp_path / "adapter.safetensors")(images(), cameras()).distance
    assert expected.shape == (2, *SIZE)
    assert torch.equal(again, expected)


@torch.no_grad()
def test_images_of_a_batch_do_not_mix(encoder: str, name: str, folder: Path) -> None:
    model = build(name, encoder, folder).eval()
    for parameter in model.adapters.parameters():
        parameter += 0.1 * torch.randn(parameter.shape, generator=seeded(4))
    together = model(images(), cameras()).distance
    alone = [
        model(images()[i : i + 1], cameras()[i : i + 1]).distance for i in range(len(images()))
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-3, atol=1e-4)
