"""A run that takes its steps with others gets what it gets alone, whatever its variant."""

import copy
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from dart.cameras import KannalaBrandt
from dart.data.sample import Batch, Sample
from dart.models import DepthNet, Tuner, create_model, list_variants
from dart.models.folding import fold
from dart.recipe import TrainingSpec
from dart.training.captured import NO_GRAPH, StaticStep
from dart.training.freeze import set_trainable
from dart.training.loop import Diverged, Trainer
from dart.training.together import share_encoder, take_steps

SIZE = (64, 96)
SPEC = TrainingSpec(steps=4, batch_size=2)
CPU = torch.device("cpu")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_sample(index: int) -> Sample:
    params = torch.tensor([30.0 + index, 30.0, SIZE[1] / 2, SIZE[0] / 2, 0.01, 0.0, 0.0, 0.0])
    return Sample(
        image=torch.rand((3, *SIZE), generator=seeded(index)),
        distance=1 + 4 * torch.rand(SIZE, generator=seeded(100 + index)),
        valid=torch.ones(SIZE, dtype=torch.bool),
        camera=KannalaBrandt(params, SIZE),
        key=f"frame-{index}",
        scene=index,
    )


SAMPLES = [make_sample(index) for index in range(5)]


@cache
def encoder() -> nn.Module:
    return fold(create_model("none", generator=seeded(0)).encoder)


def make_net(name: str, seed: int) -> DepthNet:
    """A network on the common encoder, in double precision: what differs then differs in truth."""
    net = create_model(name, generator=seeded(seed))
    if not any(isinstance(adapter, Tuner) for adapter in net.adapters):
        net.encoder = copy.deepcopy(encoder())  # pyright: ignore[reportAttributeAccessIssue]
    net.pretrained = ("tiny", "0" * 64)
    net = net.double()
    set_trainable(net, SPEC.trainable)
    return net


def make_trainer(net: DepthNet, seed: int, spec: TrainingSpec = SPEC) -> Trainer:
    return Trainer(net, SAMPLES, spec, seed, CPU)


def weights(net: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in net.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", list_variants())
def test_a_folded_run_is_the_run_alone(name: str) -> None:
    nets = [make_net(name, 0), make_net("daa_combined", 1)]
    alone = [make_trainer(copy.deepcopy(net), seed) for seed, net in enumerate(nets)]
    together = [make_trainer(net, seed) for seed, net in enumerate(nets)]
    groups = share_encoder(together)
    is_tuned = any(isinstance(adapter, Tuner) for adapter in nets[0].adapters)
    assert len(groups) == (2 if is_tuned else 1)
    for _ in range(3):
        for trainer in alone:
            trainer.take_step()
        for group in groups:
            take_steps(group)
    for one, other in zip(alone, together, strict=True):
        losses = [[step.loss for step in trainer.history] for trainer in (one, other)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)
        expected, moved = weights(one.model), weights(other.model)
        for key, value in expected.items():
            torch.testing.assert_close(moved[key], value, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", list_variants())
def test_a_step_from_tensors_that_stay_is_the_step_and_reads_nothing(name: str) -> None:
    net = make_net(name, 0)
    plain = make_trainer(copy.deepcopy(net), 0)
    static = StaticStep([make_trainer(net, 0)])
    for _ in range(4):
        plain.take_step()
        static.take()
    assert static.reason == NO_GRAPH  # and not that something is read on the host
    [trainer] = static.trainers
    assert len(trainer.history) == 4
    # A weight moves by up to 4e-3 here.
    for step, expected in zip(trainer.history, plain.history, strict=True):
        assert step.loss == pytest.approx(expected.loss, rel=5e-5)
        assert step.grad_norm == pytest.approx(expected.grad_norm, rel=5e-4)
    for key, value in weights(plain.model).items():
        torch.testing.assert_close(weights(trainer.model)[key], value, rtol=1e-3, atol=1e-5)


def test_a_run_that_diverges_harms_no_other() -> None:
    fine = [make_trainer(make_net("daa_query_softmax", seed), seed) for seed in range(3)]
    bad = [make_trainer(make_net("daa_query_softmax", seed), seed) for seed in range(3)]
    with torch.no_grad():
        next(bad[1].model.adapters.parameters()).fill_(torch.nan)  # pyright: ignore
    for trainers in (fine, bad):
        share_encoder(trainers)
    expected, steps = take_steps(fine), take_steps(bad)
    assert isinstance(steps[1], Diverged)
    assert "step 0" in str(steps[1])
    assert (steps[0], steps[2]) == (expected[0], expected[2])
    for index in (0, 2):
        kept, wanted = weights(bad[index].model), weights(fine[index].model)
        assert all(torch.equal(value, wanted[key]) for key, value in kept.items())
    assert len(bad[1].history) == 0


def test_only_what_leaves_the_encoder_alone_is_grouped() -> None:
    free = make_net("none", 2)
    set_trainable(free, ("encoder", "decoder"))
    other = make_net("none", 3)
    other.pretrained = ("other", "1" * 64)
    trainers = [
        make_trainer(make_net("daa", 0), 0),
        make_trainer(free, 1),
        make_trainer(make_net("none", 1), 2),
        make_trainer(other, 3),
        make_trainer(make_net("none", 4), 4, SPEC.model_copy(update={"batch_size": 3})),
    ]
    groups = share_encoder(trainers)
    assert [[t.seed for t in group] for group in groups] == [[0, 2], [1], [3], [4]]
    assert trainers[0].model.encoder is trainers[2].model.encoder
    assert trainers[1].model.encoder is not trainers[0].model.encoder


def test_runs_whose_pictures_come_again_fold_apart_from_those_whose_do_not() -> None:
    specs = [SPEC, SPEC.model_copy(update={"colour": 0.5})] * 2
    trainers = [make_trainer(make_net("daa", 0), seed, spec) for seed, spec in enumerate(specs)]
    groups = share_encoder(trainers)
    assert groups == [trainers[::2], trainers[1::2]]
    for group in groups:
        assert not any(isinstance(step, Exception) for step in take_steps(group))


def test_a_run_that_cannot_move_fails_alone_and_no_other_moves_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where the moments of the second run's optimiser find no memory."""
    nets = [make_net("daa", seed) for seed in range(3)]
    alone = [make_trainer(copy.deepcopy(net), seed) for seed, net in enumerate(nets)]
    [group] = share_encoder([make_trainer(net, seed) for seed, net in enumerate(nets)])

    def lack() -> None:
        raise MemoryError("planted")

    monkeypatch.setattr(group[1].optimizer, "step", lack)
    one, failed, other = take_steps(group)
    assert isinstance(failed, MemoryError)
    assert [len(trainer.history) for trainer in group] == [1, 0, 1]
    for place, step in ((0, one), (2, other)):
        alone[place].take_step()
        assert not isinstance(step, Exception)
        moved = weights(group[place].model)
        for key, value in weights(alone[place].model).items():
            torch.testing.assert_close(moved[key], value, rtol=1e-4, atol=1e-7)


def test_a_picture_of_the_next_step_that_cannot_be_read_costs_no_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    [group] = share_encoder([make_trainer(make_net("daa", seed), seed) for seed in range(2)])
    static, draw = StaticStep(group), group[1].draw

    def read(step: int | None = None) -> Batch:
        if step == 1 or len(group[1].history) == 1:
            raise OSError("planted")
        return draw(step)

    monkeypatch.setattr(group[1], "draw", read)
    assert not any(isinstance(step, Exception) for step in static.take())
    before = [weights(trainer.model) for trainer in group]
    with pytest.raises(OSError, match="planted"):
        static.take()
    assert [len(trainer.history) for trainer in group] == [1, 1]
    for trainer, kept in zip(group, before, strict=True):
        torch.testing.assert_close(weights(trainer.model), kept, rtol=0, atol=0)
