"""A folded encoder is the same function with fewer operations."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dart.models.folding import FrozenConv, fold
from dart.models.tinyvim import SIZES
from tests.helpers.tinyvim_reference import create_tinyvim, reference_state, relative_l2

BOUND = 1e-5


@pytest.mark.parametrize("name", SIZES)
@torch.no_grad()
def test_outputs_stay(name: str) -> None:
    model = create_tinyvim(name, fork_feat=True)
    model.load_state_dict(reference_state(model))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded = fold(model)
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    model.eval()
    for norm in (False, True):
        options = {"norm": norm, "intermediates_only": True}
        expected = model.forward_intermediates(image, **options)
        found = folded.forward_intermediates(image, **options)
        for stage, reference in zip(found, expected, strict=True):
            assert relative_l2(stage, reference) < BOUND
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_gradients_still_reach_the_image() -> None:
    model = create_tinyvim("tinyvim_s", num_classes=0).eval()
    image = torch.rand(1, 3, 32, 32, requires_grad=True)
    gradients = [
        torch.autograd.grad(net.forward_features(image).square().sum(), image)[0]
        for net in (model, fold(model))
    ]
    assert relative_l2(gradients[1], gradients[0]) < 1e-4


def test_no_norm_or_parallel_path_is_left_and_all_is_frozen() -> None:
    model = create_tinyvim("tinyvim_s", num_classes=0).train()
    folded = fold(model)
    assert model.training
    assert not folded.training
    assert not any(p.requires_grad for p in folded.parameters())
    assert [key for key, m in folded.named_modules() if isinstance(m, nn.BatchNorm2d)] == ["norm"]
    convolutions = sum(isinstance(m, nn.Conv2d) for m in folded.modules())
    assert convolutions == sum(isinstance(m, nn.Conv2d) for m in model.modules()) - 31


@torch.no_grad()
def test_the_published_count_of_the_folded_classifier() -> None:
    model = fold(create_tinyvim("tinyvim_s", distilled=False))
    layer_scales = 2_520
    # The published count folds the norms but keeps the layer scales.
    assert sum(p.numel() for p in model.parameters()) + layer_scales == 5_648_832


def test_weights_are_cast_once_and_the_bits_are_those_of_autocast(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DART_OFF", "products")  # they round otherwise
    model = create_tinyvim("tinyvim_s", num_classes=0).eval()
    folded = fold(model)
    plain = copy.deepcopy(folded)
    for module in plain.modules():
        if isinstance(module, FrozenConv):
            module.forward = partial(nn.Conv2d.forward, module)
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    entering = image.clone().requires_grad_()
    casts = []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.inference_mode():
            folded.forward_features(image)
        for net in (folded, plain):
            with Casts() as seen:
                features = net.forward_features(entering)
            casts.append(seen.parameters)
            assert torch.equal(features, plain.forward_features(image))
            features.square().sum().backward()  # what inference mode made would be refused
    frozen = [m for m in folded.modules() if isinstance(m, FrozenConv)]
    assert casts == [0, 2 * len(frozen)]
    with torch.no_grad():
        frozen[0].weight += 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not torch.equal(folded.forward_features(image), plain.forward_features(image))
    assert folded.forward_features(image).dtype == torch.float32


@pytest.mark.parametrize(("kernel", "groups"), [(1, 1), (1, 2), (3, 1)])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_products_are_the_convolution(
    kernel: int, groups: int, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    conv = FrozenConv(48, 32, kernel, padding=kernel // 2, groups=groups)
    with torch.no_grad():
        for weight in conv.requires_grad_(False).parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    image = torch.randn(2, 48, 5, 7, generator=generator).to(memory_format=layout)
    image.requires_grad_()
    grad = torch.randn(2, 32, 5, 7, generator=generator)
    exact = conv.double()(image.double())
    (exact_grad,) = torch.autograd.grad(exact, image, grad.double())
    conv.float()
    for off in ("", "products"):
        monkeypatch.setenv("DART_OFF", off)
        with Operators() as seen, torch.autocast("cpu", dtype=torch.bfloat16):
            output = conv(image)
        is_product = not off and layout == torch.channels_last and (kernel, groups) == (1, 1)
        assert ("aten::addmm" in seen.names) is is_product
        assert ("aten::convolution" in seen.names) is not is_product
        assert output.is_contiguous(memory_format=layout)
        (own_grad,) = torch.autograd.grad(output, image, grad.bfloat16())
        for own, true in ((output, exact), (own_grad, exact_grad)):
            assert (own - true).norm() <= 0.01 * true.norm()


class Operators(TorchDispatchMode):
    """Names the operators that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


class Casts(TorchDispatchMode):
    """Counts the parameters of convolutions that are cast to bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.parameters = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.name() == "aten::_to_copy" and isinstance(args[0], nn.Parameter):
            self.parameters += result.dtype == torch.bfloat16
        return result
