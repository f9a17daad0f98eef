"""Adapters that run a stage their own way: hooks that do not stay, sizes, statistics."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dart.errors import UserError
from dart.models import Stage, create_model
from dart.models.beside import Beside, OnLastAxis, hooked, list_blocks, list_mlps
from experiments.norm_tuning import NormStatistics

CAMERA = torch.zeros(1, 1, 6, 8)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def num_hooks(layers: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in layers.modules())


def keep(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output


@pytest.mark.parametrize(
    ("variant", "parameters"),
    [
        # FACTS count the four norms of fork_feat too, of 504 channels; this network has none.
        ("bn_affine", 50_608 - 2 * 504),
        ("bitfit", 30_688 - 504),
        ("bn_statistics", 0),
        # lora's and daa's together.
        ("daa_lora", 276_864 + 220_408),
    ],
)
def test_size_on_tinyvim_s(variant: str, parameters: int) -> None:
    adapters = create_model(variant).adapters
    assert sum(p.numel() for p in adapters.parameters()) == parameters


def test_a_layer_beside_another_is_added() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(), nn.Conv2d(5, 4, 1))
    beside = Beside({"0": nn.Conv2d(3, 5, 1), "2": nn.Conv2d(5, 4, 1)})
    features = torch.randn(2, 3, 6, 8, generator=seeded(0))
    hidden = (layers[0](features) + beside.additions[0](features)).relu()
    wanted = layers[2](hidden) + beside.additions[1](hidden)
    torch.testing.assert_close(beside(layers, features, CAMERA), wanted)
    assert num_hooks(layers) == 0


def test_hooks_are_gone_after_an_exception() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 5, 1), nn.Conv2d(5, 4, 1))
    # The second addition answers in a shape that cannot be added.
    beside = Beside({"0": nn.Conv2d(3, 5, 1), "1": nn.Conv2d(5, 7, 1)})
    with pytest.raises(RuntimeError):
        beside(layers, torch.zeros(1, 3, 6, 8), CAMERA)
    assert num_hooks(layers) == 0
    with pytest.raises(AttributeError), hooked(layers, {"0": keep, "absent": keep}):
        pass
    assert num_hooks(layers) == 0


def test_tokens_go_through_a_network_one_by_one() -> None:
    conv = nn.Conv2d(3, 5, 1)
    tokens = torch.randn(2, 4, 6, 3, generator=seeded(0))
    wanted = tokens @ conv.weight.flatten(1).mT + conv.get_parameter("bias")
    torch.testing.assert_close(OnLastAxis(conv)(tokens), wanted)


def test_a_stage_without_the_place_is_refused() -> None:
    stage = Stage(2, 4, 16, 8, layers=nn.Sequential(nn.Conv2d(3, 4, 1)))
    with pytest.raises(UserError, match=r"stage 2 .* no module of it is called 'blocks'"):
        list_blocks(stage)
    with pytest.raises(UserError, match=r"stage 2 .* 'fc1' and 'fc2'"):
        list_mlps(stage)


def batch_normed(values: np.ndarray) -> np.ndarray:
    mean, var = values.mean((0, 2, 3), keepdims=True), values.var((0, 2, 3), keepdims=True)
    return (values - mean) / np.sqrt(var + 1e-5)


def test_statistics_are_those_of_all_images_shown() -> None:
    layers = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3)).eval()
    before = {key: value.clone() for key, value in layers.state_dict().items()}
    tuner = NormStatistics(layers, num_images=8)
    # Unequal batches of unequal means, as the images of different rooms.
    batches = [
        (k + 1) * torch.randn(n, 3, 6, 8, generator=seeded(k)) + k for k, n in enumerate((3, 1, 2))
    ]
    with torch.no_grad(), tuner.estimating():
        for batch in batches:
            tuner(layers, batch, CAMERA)
    values = torch.cat(batches).double().numpy()
    second = np.concatenate([batch_normed(b.double().numpy()).clip(0) for b in batches])
    for index, seen in enumerate((values, second)):
        mean, var = tuner.get_buffer(f"mean{index}"), tuner.get_buffer(f"var{index}")
        np.testing.assert_allclose(mean, seen.mean((0, 2, 3)), rtol=1e-5)
        np.testing.assert_allclose(var, seen.var((0, 2, 3), ddof=1), rtol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in layers.state_dict().items())
    assert num_hooks(layers) == 0
    # Afterwards each image alone is normed by what all gave.
    wanted = (values[:1] - values.mean((0, 2, 3), keepdims=True)) / np.sqrt(
        values.var((0, 2, 3), ddof=1, keepdims=True) + 1e-5
    )
    first = nn.Sequential(layers[0])
    only = NormStatistics(first, num_images=8)
    only.load_state_dict({key: tuner.state_dict()[key] for key in ("mean0", "var0")})
    answer: Tensor = only(first, batches[0][:1], CAMERA)
    np.testing.assert_allclose(answer.detach().numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_an_estimate_that_fails_changes_nothing() -> None:
    layers = nn.Sequential(nn.BatchNorm2d(3)).eval()
    tuner = NormStatistics(layers, num_images=8)
    shown = torch.randn(2, 3, 6, 8, generator=seeded(0))
    with pytest.raises(RuntimeError), tuner.estimating():
        tuner(layers, tuner(layers, shown, CAMERA)[:, :2], CAMERA)
    assert torch.equal(tuner.get_buffer("mean0"), torch.zeros(3))
    features = torch.randn(1, 3, 6, 8, generator=seeded(1))
    assert torch.equal(tuner(layers, features, CAMERA), layers(features))
