"""Adapters and heads of a fold called at once do what they do one after the other."""

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.traffic import Traffic
from dart.models import DepthNet, Tuner, list_variants
from dart.models import batched as batching
from dart.models.batched import call_alike, refusals
from dart.models.together import forward_together
from dart.training.captured import NO_GRAPH, StaticStep, is_batched
from dart.training.loop import Diverged, Trainer
from dart.training.together import share_encoder
from tests.contract.test_fold import SAMPLES, make_net, make_trainer, seeded, weights

REFUSED = {"daa_multi_scale": "torch cannot batch aten::as_strided_"}
"""Variant of ours -> why its adapters are called one after the other."""


@pytest.fixture(autouse=True)
def _nothing_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "_tried", {})


def fold_of(nets: Sequence[DepthNet], *, batched: bool = True) -> StaticStep:
    trainers = [make_trainer(net, seed) for seed, net in enumerate(nets)]
    [group] = share_encoder(trainers)
    return StaticStep(group, batched=batched)


def leaves_the_encoder_alone(net: DepthNet) -> bool:
    return not any(isinstance(adapter, Tuner) for adapter in net.adapters)


@pytest.mark.parametrize("name", list_variants())
def test_a_batched_run_is_the_run_alone(name: str) -> None:
    nets = [make_net(name, 0), make_net("daa_combined", 1), make_net(name, 2)]
    if not leaves_the_encoder_alone(nets[0]):
        pytest.skip("changes the encoder, so that its runs do not fold")
    alone = [make_trainer(copy.deepcopy(net), seed) for seed, net in enumerate(nets)]
    static = fold_of(nets)
    for _ in range(3):
        for trainer in alone:
            trainer.take_step()
        static.take()
    assert static.reason == NO_GRAPH  # and not that something is read on the host
    reasons = {f"{name} ({REFUSED[name]})"} if name in REFUSED else set()
    assert set(refusals()) == reasons
    for one, other in zip(alone, static.trainers, strict=True):
        losses = [[step.loss for step in trainer.history] for trainer in (one, other)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)
        moved = weights(other.model)
        for key, value in weights(one.model).items():
            torch.testing.assert_close(moved[key], value, rtol=1e-4, atol=1e-7)


def test_what_is_batched_is_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward of eight equal runs take fewer than half of the operators."""

    def count(*, batched: bool) -> int:
        static = fold_of([make_net("daa_combined", s) for s in range(8)], batched=batched)
        static.take()
        for trainer in static.trainers:
            # What an optimiser does of each run's own is not at issue.
            monkeypatch.setattr(trainer, "move", lambda loss: torch.stack([loss, loss]).detach())
        with static._static(), Traffic() as traffic:
            static._body()
        return traffic.operators

    assert count(batched=True) < 0.5 * count(batched=False)


def test_a_run_that_diverges_harms_no_other_of_a_batch() -> None:
    nets = [make_net("daa_query_softmax", seed) for seed in range(3)]
    fine, bad = fold_of(copy.deepcopy(nets)), fold_of(nets)
    with torch.no_grad():
        next(bad.nets[1].adapters.parameters()).fill_(torch.nan)
    expected, steps = fine.take(), bad.take()
    assert isinstance(steps[1], Diverged)
    assert "step 0" in str(steps[1])
    assert (steps[0], steps[2]) == (expected[0], expected[2])
    for index in (0, 2):
        wanted = weights(fine.nets[index])
        for key, value in weights(bad.nets[index]).items():
            assert torch.equal(value, wanted[key])
    assert refusals() == []


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_batch_computes_in_the_precision_of_its_runs(precision: str) -> None:
    nets = [make_net("daa_combined", seed).float() for seed in range(2)]
    for net in nets:
        net.encoder = nets[0].encoder
    images = torch.stack([sample.image for sample in SAMPLES[:4]])
    cameras = [sample.camera for sample in SAMPLES[:4]]
    lower = torch.autocast("cpu", torch.bfloat16) if precision == "bfloat16" else nullcontext()
    with lower:
        one_by_one = forward_together(nets, images, cameras)
        at_once = forward_together(nets, images, cameras, batched=True)
    tolerance = 0.03 if precision == "bfloat16" else 1e-5
    for one, other in zip(one_by_one, at_once, strict=True):
        for field in ("distance", "relative_inverse_depth", "scale"):
            wanted, got = getattr(one, field), getattr(other, field)
            assert got.dtype == wanted.dtype
            torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)
    assert refusals() == []


class Reader(nn.Module):
    """An adapter that looks at a number before it decides."""

    def __init__(self, adapter: nn.Module) -> None:
        super().__init__()
        self.adapter = adapter

    def forward(self, features: Tensor, camera: Tensor) -> Tensor:
        residual = self.adapter(features, camera)
        return residual if residual.abs().mean().item() < 1e9 else 0 * residual


class Dropping(Reader):
    """An adapter that draws numbers, which a batch would draw otherwise."""

    def forward(self, features: Tensor, camera: Tensor) -> Tensor:
        return nn.functional.dropout(self.adapter(features, camera), 0.5)


class Counting(Reader):
    """An adapter that keeps count of its calls."""

    def __init__(self, adapter: nn.Module) -> None:
        super().__init__(adapter)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, features: Tensor, camera: Tensor) -> Tensor:
        self.calls += 1  # pyright: ignore
        return self.adapter(features, camera)


@pytest.mark.parametrize(
    ("wrapper", "reason"),
    [
        (Reader, "item"),
        (Dropping, "random"),
        (Counting, "writes into its weights or buffers"),
    ],
)
def test_what_cannot_be_batched_is_called_in_turn_and_named(
    wrapper: type[Reader], reason: str
) -> None:
    def make() -> list[DepthNet]:
        nets = [make_net("daa", seed) for seed in range(2)]
        for net in nets:
            net.adapters[1] = wrapper(net.adapters[1])  # pyright: ignore
        return nets

    in_turn, at_once = fold_of(make(), batched=False), fold_of(make())
    torch.manual_seed(0)
    expected = [in_turn.take() for _ in range(2)]
    torch.manual_seed(0)
    for steps, wanted in zip([at_once.take() for _ in range(2)], expected, strict=True):
        for step, other in zip(steps, wanted, strict=True):
            assert not isinstance(step, Exception)
            assert not isinstance(other, Exception)
            assert step.loss == pytest.approx(other.loss, rel=1e-6)
    [refusal] = refusals()
    assert refusal.startswith("daa (")
    assert reason in refusal
    if wrapper is Counting:
        assert [int(net.adapters[1].calls) for net in at_once.nets] == [2, 2]  # pyright: ignore


@pytest.mark.parametrize("lack", [torch.OutOfMemoryError, MemoryError])
def test_a_lack_of_memory_says_nothing_of_a_module(lack: type[Exception]) -> None:
    def act(*_: object) -> Tensor:
        raise lack("planted")

    module = nn.Linear(2, 2)
    with pytest.raises(lack, match="planted"):
        call_alike(act, [[module], [module]], [[torch.ones(1, 2)]] * 2, ["one", "other"])
    assert refusals() == []


class Told(nn.Module):
    """Does with a product what it is told."""

    def __init__(self, change: Any) -> None:
        super().__init__()
        self.change = change
        self.linear = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        answer = self.linear(x)
        if isinstance(self.change, float | Tensor):
            return answer * self.change
        return self.change(answer)


def by_closure(factor: float) -> Callable[[Tensor], Tensor]:
    return lambda x: factor * x


def by_default(factor: float) -> Callable[[Tensor], Tensor]:
    return lambda x, factor=factor: factor * x


def by_keyword(factor: float) -> Callable[[Tensor], Tensor]:
    def change(x: Tensor, *, factor: float = factor) -> Tensor:
        return factor * x

    return change


class Hooked(Told):
    """Changes its answer by a hook."""

    def __init__(self, factor: float) -> None:
        super().__init__(1.0)
        self.register_forward_hook(lambda *told: factor * told[-1])


@pytest.mark.parametrize(
    "make",
    [
        Told,
        lambda factor: Told(partial(torch.mul, other=factor)),
        lambda factor: Told(by_closure(factor)),
        lambda factor: Told(by_default(factor)),
        lambda factor: Told(by_keyword(factor)),
    ],
)
def test_only_what_computes_alike_is_called_at_once(make: Callable[[float], nn.Module]) -> None:
    """A number that a module holds, or its code, makes it another architecture, as a shape does."""
    calls: list[int] = []

    def act(module: nn.Module, x: Tensor) -> Tensor:
        calls.append(1)
        return module(x)

    modules = [make(1.5), make(2.0), make(1.5)]
    inputs = [[torch.rand(4, 2, generator=seeded(index))] for index in range(3)]
    answers = call_alike(act, [[module] for module in modules], inputs, ["a", "b", "a"])
    assert len(calls) == 2
    for module, own, answer in zip(modules, inputs, answers, strict=True):
        torch.testing.assert_close(answer, module(*own))


def from_file(factor: float) -> Callable[[Tensor], Tensor]:
    """A function of a file that is another's copy but for a constant."""
    names: dict[str, Any] = {}
    exec(f"FACTOR = {factor}\ndef multiply(x):\n    return FACTOR * x", names)
    return names["multiply"]


@pytest.mark.parametrize(
    "make",
    [lambda factor: Told(torch.tensor(factor)), lambda factor: Told(from_file(factor)), Hooked],
)
def test_what_cannot_be_compared_is_not_called_at_once(make: Callable[[float], nn.Module]) -> None:
    """A tensor that is no weight, a function of another file, and a hook."""
    modules = [make(1.0), make(2.0)]
    x = torch.ones(4, 2)
    answers = call_alike(lambda m, x: m(x), [[m] for m in modules], [[x], [x]], ["a", "b"])
    for module, answer in zip(modules, answers, strict=True):
        torch.testing.assert_close(answer, module(x))


class Ramp(nn.Module):
    """Multiplies by the number of its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.calls * x


def test_what_keeps_something_of_a_call_is_called_in_turn() -> None:
    modules, x = [Ramp(), Ramp()], torch.ones(4, 2)
    for number in (1, 2):
        answers = call_alike(lambda m, x: m(x), [[m] for m in modules], [[x], [x]], ["a", "b"])
        torch.testing.assert_close(answers, [number * x, number * x])
    assert refusals() == ["a, b (it changes what it holds)"]


def test_what_is_not_trained_in_one_run_is_trained_in_the_other() -> None:
    modules = [nn.Linear(2, 2), nn.Linear(2, 2)]
    modules[0].weight.requires_grad_(False)
    inputs = [[torch.rand(4, 2, generator=seeded(index))] for index in range(2)]
    answers = call_alike(lambda m, x: m(x), [[m] for m in modules], inputs, ["a", "b"])
    torch.stack([answer.sum() for answer in answers]).sum().backward()
    assert modules[0].weight.grad is None
    grads = [p.grad for m in modules for p in m.parameters() if p.requires_grad]
    for module in modules:
        module.zero_grad()
    for module, own in zip(modules, inputs, strict=True):
        module(*own).sum().backward()
    expected = [p.grad for m in modules for p in m.parameters() if p.requires_grad]
    torch.testing.assert_close(grads, expected)


def test_a_fold_off_a_gpu_is_not_batched(monkeypatch: pytest.MonkeyPatch) -> None:
    trainers: list[Trainer] = [make_trainer(make_net("daa", 0), 0)]
    assert not is_batched(trainers)
    monkeypatch.setattr(trainers[0], "device", torch.device("cuda"))
    assert is_batched(trainers)
    monkeypatch.setenv("DART_OFF", "batched")
    assert not is_batched(trainers)
