"""LoRA and DoRA against the papers' formulas and PEFT's, written out; merging; sizes."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dart.errors import UserError
from dart.models import Reweighted, Stage, create_model
from dart.models.folding import fold
from dart.models.low_rank import LowRank, NormedLowRank

RANK, ALPHA = 2, 5.0


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def moved(layer: nn.Module, kind: type[LowRank]) -> LowRank:
    """A tuner of one layer, away from its start."""
    stage = Stage(0, 4, 4, 8, layers=nn.Sequential(layer))
    tuner = kind(stage, ["0.weight"], rank=RANK, alpha=ALPHA).double()
    with torch.no_grad():
        for parameter in tuner.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=seeded(parameter.numel())))
    return tuner


def layers() -> list[nn.Module]:
    return [nn.Linear(5, 4).double(), nn.Conv2d(5, 4, 1).double()]


def numbers(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy().reshape(tensor.shape[0], -1)


@pytest.mark.parametrize("layer", layers(), ids=["linear", "conv"])
@pytest.mark.parametrize("kind", [LowRank, NormedLowRank])
def test_forward_is_the_formula(layer: nn.Module, kind: type[LowRank]) -> None:
    tuner = moved(layer, kind)
    weight, bias = numbers(layer.get_parameter("weight")), layer.get_parameter("bias")
    updated = weight + ALPHA / RANK * numbers(tuner.b[0]) @ numbers(tuner.a[0])
    if isinstance(tuner, NormedLowRank):
        # The lengths are trained as differences from those of the pretrained rows.
        length = np.linalg.norm(weight, axis=1) + tuner.lengths[0].detach().numpy()
        updated = length[:, None] * updated / np.linalg.norm(updated, axis=1)[:, None]
    features = torch.randn(3, 5, generator=seeded(0)).double()
    wanted = features.numpy() @ updated.T + bias.detach().numpy()
    shape = (3, 5, 1, 1) if isinstance(layer, nn.Conv2d) else (3, 1, 1, 5)
    camera = torch.zeros(1, 8, 1, 1 if isinstance(layer, nn.Conv2d) else 4)
    answer = tuner(nn.Sequential(layer), features.view(shape), camera)
    np.testing.assert_allclose(answer.detach().numpy().reshape(3, 4), wanted, rtol=1e-12)


def test_gradients_are_the_formula() -> None:
    layer = nn.Linear(5, 4).double()
    tuner = moved(layer, LowRank)
    gradient = torch.randn(4, 5, generator=seeded(1)).double()
    (tuner.weights(nn.Sequential(layer))["0.weight"] * gradient).sum().backward()
    a, b = numbers(tuner.a[0]), numbers(tuner.b[0])
    np.testing.assert_allclose(tuner.b[0].grad, ALPHA / RANK * gradient.numpy() @ a.T, rtol=1e-12)
    np.testing.assert_allclose(tuner.a[0].grad, ALPHA / RANK * b.T @ gradient.numpy(), rtol=1e-12)


def test_gradients_of_directions_do_not_go_through_their_length() -> None:
    layer = nn.Linear(5, 4).double()
    tuner = moved(layer, NormedLowRank)
    assert isinstance(tuner, NormedLowRank)
    gradient = torch.randn(4, 5, generator=seeded(1)).double()
    (tuner.weights(nn.Sequential(layer))["0.weight"] * gradient).sum().backward()
    weight, a, b = (numbers(t) for t in (layer.weight, tuner.a[0], tuner.b[0]))
    updated = weight + ALPHA / RANK * b @ a
    norm = np.linalg.norm(updated, axis=1)
    length = np.linalg.norm(weight, axis=1) + tuner.lengths[0].detach().numpy()
    held = (length / norm)[:, None] * gradient.numpy()
    np.testing.assert_allclose(tuner.b[0].grad, ALPHA / RANK * held @ a.T, rtol=1e-12)
    np.testing.assert_allclose(
        tuner.lengths[0].grad, (gradient.numpy() * updated).sum(1) / norm, rtol=1e-12
    )


SIZES = {
    ("lora", 4, "pointwise"): 138_432,
    ("lora", 8, "pointwise"): 276_864,
    ("lora", 16, "pointwise"): 553_728,
    # 52 layers have 17 304 rows.
    ("dora", 8, "pointwise"): 276_864 + 17_304,
}


@pytest.mark.parametrize(("variant", "rank", "where"), SIZES)
def test_size_on_tinyvim_s(variant: str, rank: int, where: str) -> None:
    model = create_model(variant, rank=rank, where=where)
    assert sum(p.numel() for p in model.adapters.parameters()) == SIZES[variant, rank, where]


def test_the_scan_has_an_update_for_each_direction() -> None:
    adapters = create_model("lora", rank=2, where="scan").adapters
    low, steps = (12, 32, 84, 84, 168), (3, 4, 11, 11, 14)
    wanted = sum(4 * 2 * ((s + 16 + c) + (c + s)) for c, s in zip(low, steps, strict=True))
    assert sum(p.numel() for p in adapters.parameters()) == wanted


def test_a_rank_above_the_layer_is_refused() -> None:
    with pytest.raises(UserError, match=r"rank=49 .* in stage 0, 192x48; allowed there: 1 to 48"):
        create_model("lora", rank=49)
    with pytest.raises(UserError, match="allowed there: 1 to 3"):
        create_model("dora", rank=4, where="both")


@torch.no_grad()
@pytest.mark.parametrize("variant", ["lora", "dora", "bn_affine", "bitfit", "ssf"])
def test_merged_layers_give_the_same_also_when_folded(variant: str) -> None:
    options = {"rank": 2, "where": "both"} if variant in ("lora", "dora") else {}
    model = create_model(variant, **options).eval()
    features = torch.randn(1, 3, 64, 64, generator=seeded(0))
    for index, adapter in enumerate(model.adapters):
        assert isinstance(adapter, Reweighted)
        for parameter in adapter.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=seeded(index))
        own = model.encoder.stage_layers(index)
        merged = copy.deepcopy(own)
        adapter.merge(merged)
        cells = 64 // model.strides[index]
        wanted = adapter(own, features, torch.zeros(1, 1, cells, cells))
        for layers in (merged, fold(merged)):
            error = (layers(features) - wanted).norm() / wanted.norm()
            assert error < 1e-5
        assert (own(features) - wanted).norm() / wanted.norm() > 1e-3
        features = wanted
