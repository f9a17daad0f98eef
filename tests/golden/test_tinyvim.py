"""TinyViM against numbers of the public code, and its scan against the recurrence by hand."""

from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

import dart.models
from dart.models import scan
from dart.models.scan import four_directions, selective_scan
from dart.models.tinyvim_blocks import LaplaceMixer, initialise
from tests.helpers.tinyvim_reference import (
    DATA,
    create_tinyvim,
    reference_keys,
    reference_state,
    relative_l2,
)

BOUND = 1e-5
PARAMETERS = {
    "tinyvim_s": (5_909_084, 5_684_084, 5_459_644, 5_458_636),
    "tinyvim_b": (11_514_236, 11_129_236, 10_744_908, 10_743_468),
    "tinyvim_l": (32_380_256, 31_867_256, 31_355_408, 31_353_232),
}


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    with np.load(DATA / "tinyvim_s_64x96.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def model() -> Any:
    model = create_tinyvim("tinyvim_s", fork_feat=True)
    model.load_state_dict(reference_state(model))
    return model.eval()


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.from_numpy(np.random.RandomState(0).standard_normal((2, 3, 64, 96))).float()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_stages_equal_the_public_code(
    model: Any,
    image: Tensor,
    reference: dict[str, np.ndarray],
    layout: torch.memory_format,
) -> None:
    image = image.contiguous(memory_format=layout)
    with torch.no_grad():
        raw = model.forward_intermediates(image, intermediates_only=True)
        normed = model.forward_intermediates(image, norm=True, intermediates_only=True)
    for index in range(4):
        assert relative_l2(raw[index], reference[f"stage{index}"]) < BOUND
        assert relative_l2(normed[index], reference[f"stage{index}_normed"]) < BOUND


def test_gradients_equal_the_public_code(
    model: Any, image: Tensor, reference: dict[str, np.ndarray]
) -> None:
    stages = model.forward_intermediates(image, intermediates_only=True)
    loss = torch.zeros(())
    for index, stage in enumerate(stages):
        weights = np.random.RandomState(1 + index).standard_normal(tuple(stage.shape))
        loss = loss + (stage * torch.from_numpy(weights).float()).mean()
    assert loss.item() == pytest.approx(float(reference["loss"]), rel=1e-4)
    keys = [name.removeprefix("grad/") for name in reference if name.startswith("grad/")]
    parameters = dict(model.named_parameters())
    grads = torch.autograd.grad(loss, [parameters[key] for key in keys])
    for key, grad in zip(keys, grads, strict=True):
        assert relative_l2(grad, reference[f"grad/{key}"]) < BOUND, key


@pytest.mark.parametrize("kind", ["cls", "fork"])
def test_keys_and_shapes_are_those_of_the_public_checkpoints(kind: str) -> None:
    model = create_tinyvim("tinyvim_s", fork_feat=kind == "fork")
    found = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert found == reference_keys(kind)


@pytest.mark.parametrize(("name", "counts"), PARAMETERS.items())
def test_parameter_counts_are_the_published_ones(name: str, counts: tuple[int, ...]) -> None:
    with torch.device("meta"):
        models = [
            create_tinyvim(name, **options)
            for options in ({}, {"distilled": False}, {"fork_feat": True}, {"num_classes": 0})
        ]
    found = [sum(p.numel() for p in model.parameters()) for model in models]
    # Without classes the final norm stays beside the trunk.
    found[3] -= sum(p.numel() for p in models[3].norm.parameters())
    assert tuple(found) == counts


def _scan_by_hand(inputs: Tensor, mixer: LaplaceMixer) -> Tensor:
    """h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t; y_t = <C_t, h_t> + D u_t."""
    _, steps, batch, channels = inputs.shape
    states = mixer.A_logs.shape[1]
    rank = mixer.dt_projs_weight.shape[2]
    rates = -mixer.A_logs.exp().view(4, channels, states)
    skip = mixer.Ds.view(4, channels)
    outputs = torch.empty_like(inputs)
    for k in range(4):
        for b in range(batch):
            state = torch.zeros(channels, states, dtype=inputs.dtype)
            for t in range(steps):
                u = inputs[k, t, b]
                low, write, read = (mixer.x_proj_weight[k] @ u).split([rank, states, states])
                delta = torch.log1p(
                    torch.exp(mixer.dt_projs_weight[k] @ low + mixer.dt_projs_bias[k])
                ).unsqueeze(1)
                state = torch.exp(delta * rates[k]) * state + delta * u.unsqueeze(1) * write
                outputs[k, t, b] = state @ read + skip[k] * u
    return outputs


@pytest.mark.parametrize(("stage", "channels"), [(0, 48), (3, 32)])
def test_scan_equals_its_recurrence(stage: int, channels: int) -> None:
    generator = torch.Generator().manual_seed(stage)
    mixer = LaplaceMixer(channels, stage)
    initialise(mixer, generator)
    mixer.double()
    low = mixer.channels[0]
    inputs = torch.randn(4, 5, 2, low, dtype=torch.float64, generator=generator)
    weights = (mixer.x_proj_weight, mixer.dt_projs_weight, mixer.dt_projs_bias)
    with torch.no_grad():
        outputs = selective_scan(inputs, *weights, mixer.A_logs, mixer.Ds)
        assert torch.allclose(outputs, _scan_by_hand(inputs, mixer), rtol=1e-12, atol=1e-13)


def test_directions_are_rows_columns_and_their_reverses() -> None:
    cells = torch.arange(6.0).view(1, 1, 2, 3)
    sequences = four_directions(cells).flatten(1).tolist()
    assert sequences == [
        [0, 1, 2, 3, 4, 5],
        [0, 3, 1, 4, 2, 5],
        [5, 4, 3, 2, 1, 0],
        [5, 2, 4, 1, 3, 0],
    ]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_scan_has_the_gradient_of_its_definition(
    chunked: bool, frozen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    mixer = LaplaceMixer(16, 1).double()
    initialise(mixer, generator)
    monkeypatch.setattr(scan, "_CHUNK", 4)
    monkeypatch.setattr(scan, "_is_chunked", lambda _: chunked)
    low = mixer.channels[0]
    inputs = torch.randn(4, 10, 2, low, dtype=torch.float64, generator=generator)
    names = ("x_proj_weight", "dt_projs_weight", "dt_projs_bias", "A_logs", "Ds")
    weights = [getattr(mixer, name).detach().requires_grad_(not frozen) for name in names]
    assert torch.autograd.gradcheck(
        scan.selective_scan, (inputs.requires_grad_(), *weights), fast_mode=True
    )


def test_the_scan_is_its_formula_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    mixer = LaplaceMixer(16, 1).double()
    initialise(mixer, generator)
    inputs = torch.randn(4, 37, 2, mixer.channels[0], dtype=torch.float64, generator=generator)
    target = torch.randn(inputs.shape, dtype=torch.float64, generator=generator)
    weights = (mixer.x_proj_weight, mixer.dt_projs_weight, mixer.dt_projs_bias)
    weights = (*weights, mixer.A_logs, mixer.Ds)
    answers = []
    for off, chunked in (("scan", False), ("", False), ("", True)):
        monkeypatch.setenv("DART_OFF", off)
        monkeypatch.setattr(scan, "_is_chunked", lambda _, chunked=chunked: chunked)
        own = [tensor.detach().clone().requires_grad_() for tensor in (inputs, *weights)]
        output = scan.selective_scan(*own)
        answers.append([output, *torch.autograd.grad(output, own, target)])
    formula, *ours = answers
    for answer in ours:
        for one, other in zip(formula, answer, strict=True):
            assert torch.allclose(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("steps", [17, 64, 65, 300])
def test_chunks_change_nothing(steps: int) -> None:
    generator = torch.Generator().manual_seed(steps)
    decay, drive = torch.rand(2, 4, steps, 2, 3, dtype=torch.float64, generator=generator)
    in_chunks = scan._run_chunked(decay, drive)
    assert torch.allclose(in_chunks, scan._run(decay, drive.clone()), rtol=1e-12, atol=1e-14)


def test_importing_the_models_registers_the_sizes() -> None:
    assert dart.models.tinyvim
    assert timm.list_models("tinyvim_*") == ["tinyvim_b", "tinyvim_l", "tinyvim_s"]
