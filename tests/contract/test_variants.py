"""What every registered variant owes, whoever wrote it. No test here names one."""

import copy
import hashlib
import pickle
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dart.cameras import Camera, KannalaBrandt, Pinhole
from dart.models import (
    DepthNet,
    Tuner,
    create_model,
    list_variants,
    load_adapter,
    load_pretrained,
    registry,
    save_adapter,
    save_pretrained,
    variant_info,
)
from dart.models.depth_net import NoAdapter
from dart.recipe import Group
from dart.training.freeze import frozen_hash, set_trainable
from dart.variants import check_declaration, scan_variants

STAGES = range(4)
SIZE = (64, 96)

pytestmark = pytest.mark.parametrize("name", list_variants())
at_every_stage = pytest.mark.parametrize("index", STAGES, ids=lambda i: f"stride{4 * 2**i}")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module", autouse=True)
def _one_encoder_a_seed() -> Iterator[None]:
    """Draw the weights of an encoder once a seed, and hand out copies: that takes most time."""
    first = cache(registry.build_encoder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            registry,
            "build_encoder",
            lambda config, *, seed: copy.deepcopy(first(config, seed=seed)),
        )
        yield


@cache
def built(name: str, seed: int = 0, *, again: bool = False) -> DepthNet:  # noqa: ARG001
    return create_model(name, generator=seeded(seed))


class Adapted(nn.Module):
    """What an adapter changes of its stage's map, whatever kind of adapter it is."""

    def __init__(self, adapter: nn.Module, layers: dict[torch.dtype, nn.Module]) -> None:
        super().__init__()
        self.adapter = adapter
        # Not registered: the layers are frozen and not the adapter's.
        self.layers = layers

    def forward(self, features: Tensor, camera: Tensor) -> Tensor:
        """Return the change; ``features`` enter a stage that is tuned, and leave any other."""
        if isinstance(self.adapter, Tuner):
            layers = self.layers[features.dtype]
            return self.adapter(layers, features, camera) - layers(features)
        return self.adapter(features, camera)


@cache
def frozen_layers(name: str, index: int, seed: int) -> dict[torch.dtype, nn.Module]:
    """Copies of a stage's layers, which no adapter may write into."""
    layers = built(name, seed).encoder.stage_layers(index)
    return {
        dtype: copy.deepcopy(layers).eval().requires_grad_(False).to(dtype)
        for dtype in (torch.float32, torch.float64)
    }


def adapter_of(name: str, index: int, seed: int = 0) -> Adapted:
    """A fresh copy in double precision, which the smallest residuals need to show at all."""
    adapter = built(name, seed).adapters[index]
    if isinstance(adapter, NoAdapter):
        pytest.skip("no adapter at this stage")
    layers = frozen_layers(name, index, seed) if isinstance(adapter, Tuner) else {}
    return Adapted(copy.deepcopy(adapter), layers).double()


def camera(focal: float = 60.0) -> Camera:
    return Pinhole(torch.tensor([focal, focal, SIZE[1] / 2, SIZE[0] / 2]), SIZE)


def fisheye() -> Camera:
    params = torch.tensor([30.0, 30.0, SIZE[1] / 2, SIZE[0] / 2, 0.01, 0.0, 0.0, 0.0])
    return KannalaBrandt(params, SIZE)


def features_and_camera(name: str, index: int, *lenses: Camera) -> tuple[Tensor, Tensor]:
    model = built(name)
    adapter, stride = model.adapters[index], model.strides[index]
    channels = (3, *model.encoder.channels)[index + (not isinstance(adapter, Tuner))]
    before = (1, *model.strides)[index] if isinstance(adapter, Tuner) else stride
    shape = (2, channels, SIZE[0] // before, SIZE[1] // before)
    features = torch.randn(shape, generator=seeded(1)).double()
    return features, model.show(lenses or [camera(), fisheye()], index, features)


def step(adapter: nn.Module, features: Tensor, camera: Tensor) -> None:
    change = adapter(features, camera)
    wanted = torch.randn(change.shape, generator=seeded(2)).double()
    adapter.zero_grad()
    if not any(True for _ in adapter.parameters()):  # declared frozen: buffers alone
        return
    (change - wanted).square().sum().backward()
    with torch.no_grad():
        for parameter in adapter.parameters():
            assert parameter.grad is not None
            parameter -= 1e-3 * parameter.grad


@at_every_stage
def test_starts_as_declared(name: str, index: int) -> None:
    residual = adapter_of(name, index)(*features_and_camera(name, index))
    is_identity = torch.equal(residual, torch.zeros_like(residual))
    assert is_identity == variant_info(name).starts_at_identity


@at_every_stage
def test_every_parameter_learns_within_two_steps(name: str, index: int) -> None:
    # Step one moves only a projection that starts at zero; step two must move all the rest.
    adapter, inputs = adapter_of(name, index), features_and_camera(name, index)
    before = {key: value.detach().clone() for key, value in adapter.named_parameters()}
    for _ in range(2):
        step(adapter, *inputs)
    stuck = [key for key, value in adapter.named_parameters() if torch.equal(value, before[key])]
    assert not stuck


@at_every_stage
def test_depends_on_the_camera_after_one_step_if_it_says_so(name: str, index: int) -> None:
    adapter = adapter_of(name, index)
    features, angles = features_and_camera(name, index)
    step(adapter, features, angles)
    _, others = features_and_camera(name, index, fisheye())
    same = torch.equal(adapter(features, angles), adapter(features, others))
    assert same != variant_info(name).uses_camera


@at_every_stage
@torch.no_grad()
def test_keeps_shape_and_dtype(name: str, index: int) -> None:
    adapter, model = adapter_of(name, index).float(), built(name)
    both, lenses = features_and_camera(name, index, camera(), fisheye())
    cells = (SIZE[0] // model.strides[index], SIZE[1] // model.strides[index])
    for batch, cameras in ((1, 1), (2, 1), (2, 2)):
        residual = adapter(both[:batch].float(), lenses[:cameras].float())
        assert residual.shape == (batch, model.encoder.channels[index], *cells)
        assert residual.dtype == torch.float32


@at_every_stage
def test_images_of_a_batch_do_not_mix(name: str, index: int) -> None:
    adapter = adapter_of(name, index)
    features, angles = features_and_camera(name, index, camera(), fisheye())
    step(adapter, features, angles)
    together = adapter(features, angles)
    alone = [adapter(features[i : i + 1], angles[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-9, atol=1e-12)


@at_every_stage
def test_finite_in_bfloat16(name: str, index: int) -> None:
    adapter = adapter_of(name, index).float()
    features, angles = (t.float() for t in features_and_camera(name, index))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        residual = adapter(features, angles)
    assert residual.isfinite().all()
    if residual.requires_grad:
        residual.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in adapter.parameters())


@at_every_stage
def test_same_seed_same_adapter(name: str, index: int) -> None:
    first, other = adapter_of(name, index), adapter_of(name, index, seed=1)
    again = built(name, again=True).adapters[index]
    for key, value in first.adapter.state_dict().items():
        assert torch.equal(value, again.state_dict()[key].double())
    differs = [
        not torch.equal(p, q) for p, q in zip(first.parameters(), other.parameters(), strict=True)
    ]
    # Nothing is drawn where everything starts at one value, as the norms' changes at zero.
    is_drawn = any(p.min() < p.max() for p in first.parameters())
    assert any(differs) == is_drawn


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    model = create_model("none", generator=seeded(5))
    with torch.no_grad():
        model.scale_head.last.bias.fill_(0.25)
    save_pretrained(model, path, {})
    return path


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.rand((1, 3, *SIZE), generator=seeded(3))


def scramble(model: nn.Module) -> None:
    """Move every parameter of adapters away from its start, and every buffer upwards."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=seeded(4))
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer += 0.1 * torch.rand(buffer.shape, generator=seeded(4))


def fingerprint(layers: nn.Module) -> str:
    """A digest of the layers and of everything that hangs on them, hooks too."""
    return hashlib.sha256(pickle.dumps(layers)).hexdigest()


@at_every_stage
def test_leaves_the_layers_of_its_stage_alone(name: str, index: int) -> None:
    if not isinstance(built(name).adapters[index], Tuner):
        pytest.skip("sees no layers")
    adapter, (features, angles) = adapter_of(name, index), features_and_camera(name, index)
    layers = copy.deepcopy(adapter.layers[features.dtype])
    adapter.layers = {features.dtype: layers}
    scramble(adapter.adapter)
    before = fingerprint(layers)
    step(adapter, features, angles)
    wrong = features[:, :-1]  # which the first layer refuses
    with pytest.raises(RuntimeError):
        adapter.adapter(layers, wrong, angles)
    assert fingerprint(layers) == before
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in layers.modules()
    )


@torch.no_grad()
def test_without_adapters_it_is_the_pretrained_network(
    name: str, pretrained: Path, image: Tensor
) -> None:
    model = create_model(name, pretrained=pretrained).eval()
    scramble(model.adapters)
    model.adapters_enabled = False
    expected = load_pretrained(pretrained)(image, [camera()])
    answer = model(image, [camera()])
    assert torch.equal(answer.distance, expected.distance)
    assert torch.equal(answer.scale, expected.scale)


@torch.no_grad()
def test_starts_as_the_pretrained_network_if_it_says_so(
    name: str, pretrained: Path, image: Tensor
) -> None:
    model = create_model(name, pretrained=pretrained).eval()
    answer = model(image, [camera()]).distance
    expected = load_pretrained(pretrained)(image, [camera()]).distance
    assert torch.equal(answer, expected) == variant_info(name).starts_at_identity


@pytest.mark.parametrize("groups", [("adapters",), ("adapters", "decoder", "scale_head")])
def test_training_leaves_the_frozen_and_survives_a_checkpoint(
    name: str, pretrained: Path, image: Tensor, groups: tuple[Group, ...], tmp_path: Path
) -> None:
    model = create_model(name, pretrained=pretrained, generator=seeded(9))
    set_trainable(model, groups)
    before = frozen_hash(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    if parameters:
        optimizer = torch.optim.Adam(parameters, lr=1e-2)
        model(image, [fisheye()]).distance.log().square().mean().backward()
        optimizer.step()
    assert frozen_hash(model) == before

    scramble(model.adapters)
    path = tmp_path / "adapter.safetensors"
    save_adapter(model, path, {"recipe": '{"seed": 9}'})
    with torch.no_grad():
        expected = model.eval()(image, [fisheye()]).distance
        answer = load_adapter(path)(image, [fisheye()]).distance
    assert torch.equal(answer, expected)


def test_is_described_the_same_by_text_and_by_import(name: str) -> None:
    scanned = scan_variants()
    assert sorted(scanned) == list_variants()
    assert variant_info(name) == scanned[name]


def test_says_what_it_is_for(name: str) -> None:
    info = variant_info(name)
    check_declaration(name, info.hypothesis, where=info.source_file)
    assert info.compare_to is None or info.compare_to in list_variants()
    assert info.compare_to != name
