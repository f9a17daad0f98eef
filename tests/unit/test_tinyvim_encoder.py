"""The encoder as timm and the network use it: sizes, modes, features, initial values."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from dart.errors import UserError
from dart.models.tinyvim import SIZES, STRIDES, initialise
from tests.helpers.tinyvim_reference import create_tinyvim


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    return create_tinyvim("tinyvim_s", num_classes=0).eval()


def _stages(model: Any, image: Tensor, **options: Any) -> list[Tensor]:
    return model.forward_intermediates(image, intermediates_only=True, **options)


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 40), (31, 33), (32, 32), (50, 34), (96, 128)], ids=str
)
@torch.no_grad()
def test_any_size_gives_a_cell_for_every_begun_stride(model: Any, size: tuple[int, int]) -> None:
    stages = _stages(model, torch.rand(2, 3, *size))
    for stage, channels, stride in zip(stages, model.channels, STRIDES, strict=True):
        assert stage.shape == (2, channels, -(-size[0] // stride), -(-size[1] // stride))
        assert stage.isfinite().all()


@torch.no_grad()
def test_an_odd_size_equals_the_padded_image_cropped(model: Any) -> None:
    image = torch.rand(1, 3, 40, 50)
    padded = torch.nn.functional.pad(image, (0, 14, 0, 24), mode="replicate")
    for stage, whole in zip(_stages(model, image), _stages(model, padded), strict=True):
        assert torch.equal(stage, whole[:, :, : stage.shape[2], : stage.shape[3]])


@pytest.mark.parametrize("size", [(0, 64), (64, 0)])
def test_an_empty_image_is_refused(model: Any, size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=r"image of \d+x\d+ pixels: both sides must be at least 1"):
        _stages(model, torch.zeros(1, 3, *size))


def test_a_map_of_an_unpadded_image_is_refused(model: Any) -> None:
    with pytest.raises(UserError, match="multiples of 8"):
        model.forward_stage(0, torch.zeros(1, 48, 12, 16))


@torch.no_grad()
def test_stage_by_stage_is_the_whole(model: Any) -> None:
    image = torch.rand(1, 3, 64, 64)
    features = model.stem(image)
    for index, stage in enumerate(_stages(model, image)):
        features = model.forward_stage(index, features)
        assert torch.equal(features, stage)


@torch.no_grad()
def test_indices_and_early_stop(model: Any) -> None:
    image = torch.rand(1, 3, 32, 64)
    stages = _stages(model, image)
    assert torch.equal(_stages(model, image, indices=[1], stop_early=True)[0], stages[1])
    assert [s.shape for s in _stages(model, image, indices=2)] == [s.shape for s in stages[2:]]
    final, all_stages = model.forward_intermediates(image)
    assert torch.equal(final, model.forward_features(image))
    assert len(all_stages) == 4
    assert torch.equal(_stages(model, image, norm=True)[3], final)


def test_another_format_is_refused(model: Any) -> None:
    with pytest.raises(UserError, match="only 'NCHW'"):
        _stages(model, torch.rand(1, 3, 32, 32), output_fmt="NHWC")


@pytest.mark.parametrize("name", SIZES)
@torch.no_grad()
def test_features_only_is_a_timm_pyramid(name: str) -> None:
    net = create_tinyvim(name, features_only=True, out_indices=(1, 3)).eval()
    channels = SIZES[name].channels
    assert net.feature_info.channels() == [channels[1], channels[3]]
    assert net.feature_info.reduction() == [8, 32]
    assert [f.shape[1:] for f in net(torch.rand(1, 3, 32, 64))] == [
        (channels[1], 4, 8),
        (channels[3], 1, 2),
    ]


@torch.no_grad()
def test_the_classifier_averages_its_heads() -> None:
    model = create_tinyvim("tinyvim_s", num_classes=5).eval()
    image = torch.rand(2, 3, 32, 32)
    pooled = model.forward_head(model.forward_features(image), pre_logits=True)
    logits = model(image)
    assert torch.allclose(logits, (model.head(pooled) + model.dist_head(pooled)) / 2)
    model.train().set_distilled_training()
    assert len(model(image)) == 2
    model.reset_classifier(0)
    assert model(image).shape == (2, 224)


@torch.no_grad()
def test_fork_feat_returns_normed_stages() -> None:
    model = create_tinyvim("tinyvim_s", fork_feat=True).eval()
    image = torch.rand(1, 3, 32, 32)
    normed = _stages(model, image, norm=True)
    assert all(torch.equal(a, b) for a, b in zip(model(image), normed, strict=True))
    assert torch.equal(normed[1], model.norm2(_stages(model, image)[1]))


def test_training_moves_statistics_and_reaches_every_weight() -> None:
    model = create_tinyvim("tinyvim_s", num_classes=2).train()
    before = model.patch_embed[0].bn.running_mean.clone()
    model(torch.rand(2, 3, 64, 64)).square().sum().backward()
    assert not torch.equal(model.patch_embed[0].bn.running_mean, before)
    unmoved = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # Batch norm in training takes out whatever a bias adds before it.
    assert [key for key in unmoved if not key.endswith("conv1.bias")] == []


@torch.no_grad()
def test_eval_does_not_depend_on_the_batch(model: Any) -> None:
    images = torch.rand(3, 3, 32, 32)
    alone = _stages(model, images[1:2])
    for stage, single in zip(_stages(model, images), alone, strict=True):
        assert torch.allclose(stage[1:2], single, rtol=1e-4, atol=1e-4)


def test_bfloat16_autocast_is_finite_and_near(model: Any) -> None:
    image = torch.rand(2, 3, 64, 96)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        stages = _stages(model, image)
        torch.stack([stage.float().square().mean() for stage in stages]).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    model.zero_grad()
    with torch.no_grad():
        for stage, precise in zip(stages, _stages(model, image), strict=True):
            assert (stage.float() - precise).norm() / precise.norm() < 0.05


def test_initial_values_are_those_of_the_generator() -> None:
    first, second = (create_tinyvim("tinyvim_s", num_classes=3) for _ in range(2))
    initialise(first, torch.Generator().manual_seed(1))
    initialise(second, torch.Generator().manual_seed(1))
    states = first.state_dict(), second.state_dict()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    initialise(second, torch.Generator().manual_seed(2))
    mixer, other = first.network[0][2].op, second.network[0][2].op
    assert not torch.equal(mixer.in_proj.c.weight, other.in_proj.c.weight)
    assert torch.allclose(mixer.A_logs.exp(), torch.arange(1.0, 9.0).expand(48, 8))
    assert torch.equal(mixer.Ds, torch.ones(48))
    steps = torch.nn.functional.softplus(mixer.dt_projs_bias)
    assert 9.9e-4 < steps.min() < steps.max() < 0.101
    assert torch.equal(first.network[0][0].layer_scale, torch.ones(48, 1, 1))


def test_pretrained_says_where_weights_come_from() -> None:
    with pytest.raises(UserError, match="load_weights"):
        timm.create_model("tinyvim_s", pretrained=True)
