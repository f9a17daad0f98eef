"""Options of training against closed forms, on a network of four convolutions."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from dart.cameras import LENSES, Equidistant
from dart.data.sample import collate
from dart.data.warping import narrower, same_view
from dart.errors import UserError
from dart.recipe import Group, TrainingSpec, overlap
from dart.training.batches import SHARES, Augmentation, Batches
from dart.training.freeze import finest_group, frozen_hash, group_parameters, set_trainable
from dart.training.interpolation import install_mixture, snapshot
from dart.training.loop import Step, Trainer, create_optimizer, read_state, write_state
from dart.training.regularisers import (
    Regulariser,
    copy_trained,
    laplace_error,
    mean_gradients,
    spread_images,
    squared_answer,
)
from dart.training.schedule import learning_rate_factor
from tests.unit.test_training_batches import make_sample
from tests.unit.test_training_loop import CPU, Predicted, TinyNet

TARGET = [make_sample(i) for i in range(6)]
SOURCE = [make_sample(i) for i in range(20, 25)]
ALL_ON: dict[str, Any] = {
    "trainable": ("everything",),
    "unfreeze": {"encoder": 0.5, "adapters": 0.25},
    "learning_rate_factors": {"decoder": 0.5},
    "schedule": "linear",
    "l2_sp": 0.1,
    "ewc": 1.0,
    "mas": 0.1,
    "lwf": 0.1,
    "fisher_images": 3,
    "replay": 0.34,
    "ema": 0.9,
    "virtual_lenses": ("own", "equidistant"),
}


def make_spec(**fields: Any) -> TrainingSpec:
    common = {"steps": 12, "batch_size": 3, "learning_rate": 0.01}
    return TrainingSpec.model_validate({**common, **fields})


def make_trainer(spec: TrainingSpec) -> Trainer:
    model = TinyNet()
    set_trainable(model, spec.trainable)
    return Trainer(model, TARGET, spec, 0, CPU, SOURCE if spec.reads_source else ())


class TwoParameters(nn.Module):
    """ln distance = a + b r with r the mean red of the image: gradients by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.3))
        self.b = nn.Parameter(torch.tensor(-0.7))

    def forward(self, image: Tensor, cameras: object) -> Predicted:  # noqa: ARG002
        red = image[:, 0].mean((1, 2))[:, None, None]
        return Predicted((self.a + self.b * red).exp().expand(len(image), *image.shape[2:]))


def test_schedules_have_their_closed_forms() -> None:
    for name, form in (
        ("cosine", lambda t: (1 + math.cos(math.pi * t)) / 2),
        ("linear", lambda t: 1 - t),
        ("constant", lambda _: 1.0),
    ):
        factors = [learning_rate_factor(step, 100, schedule=name) for step in range(100)]
        assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
        assert factors[10:] == pytest.approx([form((i - 10) / 90) for i in range(10, 100)])
        assert all(a >= b for a, b in pairwise(factors[9:]))
        assert learning_rate_factor(0, 1, schedule=name) == 1.0
    assert learning_rate_factor(0, 100, warm_up=0.0) == 1.0
    assert learning_rate_factor(14, 50, warm_up=0.3) == 1.0
    assert learning_rate_factor(13, 50, warm_up=0.3) == pytest.approx(14 / 15)


def test_fisher_is_what_two_parameters_give_by_hand() -> None:
    images = list(spread_images(SOURCE, 3))
    assert [batch.keys[0] for batch in images] == [SOURCE[i].key for i in (0, 1, 3)]
    fisher = mean_gradients(TwoParameters(), iter(images), laplace_error, torch.square)
    by_hand = torch.zeros(2)
    for batch in images:
        red = batch.image[0, 0].mean()
        sign = (0.3 - 0.7 * red - batch.distance[0].log()).sign()[batch.valid[0]].mean()
        by_hand += torch.stack([sign, sign * red]).square() / 3
    assert torch.allclose(torch.stack([fisher["a"], fisher["b"]]), by_hand, rtol=1e-4)


def test_mas_is_what_two_parameters_give_by_hand() -> None:
    importance = mean_gradients(
        TwoParameters(), spread_images(SOURCE, 99), squared_answer, torch.abs
    )
    by_hand = torch.zeros(2)
    for sample in SOURCE:
        red = sample.image[0].mean()
        answer = 0.3 - 0.7 * red
        by_hand += torch.stack([2 * answer, 2 * answer * red]).abs() / len(SOURCE)
    assert torch.allclose(torch.stack([importance["a"], importance["b"]]), by_hand, rtol=1e-4)


@pytest.mark.parametrize("weight", [0.1, 3.0])
def test_l2_sp_pulls_with_its_weight_times_the_distance(weight: float) -> None:
    model = TinyNet()
    set_trainable(model, ["decoder", "adapters"])
    batch = collate(TARGET[:2])
    regulariser = Regulariser(model, make_spec(l2_sp=weight), source=(), device=CPU)
    start = copy_trained(model)
    with torch.no_grad():
        for name in start:
            model.get_parameter(name).add_(0.25 * torch.randn_like(start[name]))
    penalty = regulariser.penalty(batch, model(batch.image, None).distance)
    assert penalty is not None
    penalty.backward()
    for name, first in start.items():
        moved = model.get_parameter(name)
        assert moved.grad is not None
        assert torch.allclose(moved.grad, weight * (moved - first).detach(), atol=1e-6)
    assert model.get_parameter("encoder.0.weight").grad is None


def test_ewc_and_mas_weigh_each_entry() -> None:
    model = TwoParameters()
    spec = make_spec(ewc=0.5, mas=0.25, fisher_images=5)
    regulariser = Regulariser(model, spec, source=SOURCE, device=CPU)
    (half, fisher), (whole, mas) = regulariser.pulls
    assert (half, whole) == (0.25, 0.25)
    with torch.no_grad():
        model.a.add_(2.0)
        model.b.sub_(3.0)
    batch = collate(TARGET[:1])
    penalty = regulariser.penalty(batch, model(batch.image, None).distance)
    assert fisher is not None
    assert mas is not None
    wanted = 0.25 * (4 * fisher["a"] + 9 * fisher["b"]) + 0.25 * (4 * mas["a"] + 9 * mas["b"])
    assert penalty is not None
    assert torch.allclose(penalty, wanted)


def test_lwf_is_the_mean_change_of_the_log_answer_on_target_images() -> None:
    model = TwoParameters()
    spec = make_spec(lwf=2.0, replay=0.34)
    regulariser = Regulariser(model, spec, source=SOURCE, device=CPU)
    batch = Batches(TARGET, 3, Augmentation(False, 0.0), 0, SOURCE, 1).draw(0)
    with torch.no_grad():
        model.b.add_(0.5)
    penalty = regulariser.penalty(batch, model(batch.image, None).distance)
    assert penalty is not None
    red = batch.image[:2, 0].mean((1, 2))
    assert torch.allclose(penalty, 2.0 * (0.5 * red).abs().mean(), rtol=1e-4)


def test_what_is_off_is_not_there_bit_for_bit() -> None:
    plain = make_trainer(make_spec())
    off = {"l2_sp": 0.0, "ewc": 0.0, "mas": 0.0, "lwf": 0.0, "replay": 0.0, "ema": 0.0}
    other = make_trainer(make_spec(**off, unfreeze={}, virtual_lenses=(), stop_on_forgetting=0.0))
    assert plain.run() == other.run()
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name


@pytest.mark.parametrize("name", ["l2_sp", "ewc", "mas", "lwf"])
def test_a_pull_keeps_the_weights_nearer(name: str) -> None:
    moved = []
    for weight in (0.0, 1000.0):
        trainer = make_trainer(make_spec(**{name: weight}, steps=30))
        before = copy_trained(trainer.model)
        trainer.run()
        after = copy_trained(trainer.model)
        moved.append(sum(float((after[k] - before[k]).square().sum()) for k in before))
    assert moved[1] < 0.7 * moved[0]


def test_the_average_has_its_closed_form() -> None:
    trainer = make_trainer(make_spec(ema=0.3, steps=8))
    seen = [trainer.model.get_parameter("decoder.weight").detach().clone()]
    trainer.run(
        on_step=lambda _: seen.append(
            trainer.model.get_parameter("decoder.weight").detach().clone()
        )
    )
    # After the last step, each set of weights has the share that all later decays left it.
    decays = [min(0.3, (1 + t) / (10 + t)) for t in range(8)]
    shares = [math.prod(decays)] + [(1 - decays[t]) * math.prod(decays[t + 1 :]) for t in range(8)]
    assert sum(shares) == pytest.approx(1)
    terms = [share * value for share, value in zip(shares, seen, strict=True)]
    wanted = torch.stack(terms).sum(0)
    assert trainer.average is not None
    assert torch.allclose(trainer.average.mean["decoder.weight"], wanted, atol=1e-6)
    with trainer.as_result():
        assert torch.allclose(trainer.model.get_parameter("decoder.weight"), wanted, atol=1e-6)
    assert torch.equal(trainer.model.get_parameter("decoder.weight"), seen[-1])


def test_parameters_wait_for_their_share_of_the_steps() -> None:
    spec = make_spec(
        trainable=("everything",), unfreeze={"encoder": 0.5, "adapters": 0.25}, weight_decay=0.5
    )
    trainer = make_trainer(spec)
    names = ("encoder.0.weight", "adapters.weight", "decoder.weight")
    first = {name: trainer.model.get_parameter(name).detach().clone() for name in names}
    moved: dict[str, int] = {}

    def look(step: Step) -> None:
        for name in names:
            if not torch.equal(trainer.model.get_parameter(name), first[name]):
                moved.setdefault(name, step.step)

    trainer.run(on_step=look)
    assert moved == {"encoder.0.weight": 6, "adapters.weight": 3, "decoder.weight": 0}
    # AdamW counts from where a parameter began, so that its moments are those of its own steps.
    counts = {
        name: int(trainer.optimizer.state[trainer.model.get_parameter(name)]["step"])
        for name in names
    }
    assert counts == {"encoder.0.weight": 6, "adapters.weight": 9, "decoder.weight": 12}


@pytest.mark.parametrize("stop_after", [2, 6, 10])
def test_a_run_with_every_option_resumes_bit_for_bit(stop_after: int, tmp_path: Path) -> None:
    spec = make_spec(**ALL_ON)
    whole, broken = make_trainer(spec), make_trainer(spec)
    history = whole.run()
    while len(broken.history) < stop_after:
        broken.take_step()
    write_state(tmp_path / "state.pt", broken.state())
    resumed = make_trainer(spec)
    resumed.load(read_state(tmp_path / "state.pt"))
    assert resumed.run() == history
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
    assert whole.average is not None
    assert resumed.average is not None
    for name, value in whole.average.mean.items():
        assert torch.equal(resumed.average.mean[name], value), name


def test_a_mixture_is_exact_at_both_ends_and_linear_between() -> None:
    trainer = make_trainer(make_spec())
    start, frozen = snapshot(trainer.model), frozen_hash(trainer.model)
    trainer.run()
    end = snapshot(trainer.model)
    for alpha, wanted in ((0.0, start), (1.0, end)):
        install_mixture(trainer.model, start, end, alpha)
        assert all(torch.equal(value, wanted[n]) for n, value in snapshot(trainer.model).items())
    install_mixture(trainer.model, start, end, 0.25)
    for name, value in snapshot(trainer.model).items():
        assert torch.allclose(value, 0.75 * start[name] + 0.25 * end[name], atol=1e-7)
    assert frozen_hash(trainer.model) == frozen


def test_replay_has_its_share_and_its_own_chance() -> None:
    plain = Batches(TARGET, 4, Augmentation(True, 0.3), 0)
    mixed = Batches(TARGET, 6, Augmentation(True, 0.3), 0, SOURCE, 2)
    source = {sample.key for sample in SOURCE}
    seen: list[str] = []
    for step in range(5):
        one, two = plain.draw(step), mixed.draw(step)
        # The target's images, their order and their changes do not know of the source's.
        assert two.keys[:4] == one.keys
        assert torch.equal(two.image[:4], one.image)
        assert set(two.keys[4:]) <= source
        seen += two.keys[4:]
    assert sorted(seen) == sorted([*source] * 2)  # two whole permutations


def test_virtual_lenses_show_the_same_cone_through_another_lens() -> None:
    lenses = [lens for lens in get_args(_lens_names()) if lens not in ("own", "narrow")]
    camera = Equidistant(torch.tensor([30.0, 30.0, 32.0, 24.0]), (48, 64))
    edge = torch.tensor([[0.5, 24.0], [63.5, 24.0]])
    wanted = camera.unproject(edge)[0][..., 2].acos()
    for lens in lenses:
        other = same_view(camera, lens)
        assert isinstance(other, LENSES[lens])
        assert other.size == camera.size
        reach = other.unproject(edge)[0][..., 2].acos()
        assert torch.allclose(reach, wanted.clamp(max=1.15), atol=0.03), lens
    own = Augmentation(False, 0.0, ("own",))(TARGET[0], torch.Generator())
    assert torch.equal(own.image, TARGET[0].image)


@pytest.mark.parametrize("size", [(48, 64), (64, 48)])
@pytest.mark.parametrize("model", ["pinhole", "equidistant", "kannala_brandt"])
def test_a_narrower_lens_sees_its_share_of_the_angles(model: str, size: tuple[int, int]) -> None:
    camera = same_view(
        Equidistant(torch.tensor([30.0, 30.0, size[1] / 2, size[0] / 2]), size), model
    )
    is_wide = size[1] > size[0]
    across = [
        [size[1] / 2 + d * is_wide, size[0] / 2 + d * (not is_wide)] for d in (0.0, 20.0, 31.5)
    ]
    pixels = torch.tensor(across, dtype=torch.float64)
    whole = camera.unproject(pixels)[0][..., 2].clamp(max=1).acos()
    part = narrower(camera, 0.6)
    assert type(part) is type(camera)
    seen = part.unproject(pixels)[0][..., 2].clamp(max=1).acos()
    assert float(seen[0]) == pytest.approx(0, abs=1e-6)
    assert float(seen[2]) == pytest.approx(0.6 * float(whole[2]), abs=1e-6)
    if model == "equidistant":
        assert torch.allclose(seen, 0.6 * whole, atol=1e-6)


def test_narrow_is_drawn_among_its_shares_and_keeps_distances() -> None:
    augment, generator = Augmentation(False, 0.0, ("narrow",)), torch.Generator().manual_seed(0)
    sample = replace(TARGET[0], distance=torch.full_like(TARGET[0].distance, 2.5))
    views = [augment(sample, generator) for _ in range(40)]
    reach = {round(float(view.camera.params[0] / sample.camera.params[0]), 3) for view in views}
    assert len(reach) == len(SHARES)
    assert min(reach) > 1
    for view in views:
        assert bool(view.valid.any())
        assert torch.allclose(view.distance[view.valid], torch.tensor(2.5))


def _lens_names() -> Any:
    return get_args(TrainingSpec.model_fields["virtual_lenses"].annotation)[0]


def test_the_finest_group_decides_rate_and_start() -> None:
    model = TinyNet()
    set_trainable(model, ["everything"])
    assert set(group_parameters(model, "norms")) == {"encoder.1.weight", "encoder.1.bias"}
    found = finest_group(model, ["norms", "everything", "encoder"])
    assert found["encoder.0.weight"] == "encoder"
    assert found["encoder.1.weight"] == "norms"
    assert found["decoder.weight"] == "everything"
    rates = {"norms": 0.1, "encoder": 0.01, "everything": 0.5}
    optimizer = create_optimizer(model, make_spec(learning_rate_factors=rates, learning_rate=1.0))
    of = {id(p): group["peak"] for group in optimizer.param_groups for p in group["params"]}
    assert of[id(model.get_parameter("encoder.0.weight"))] == 0.01
    assert of[id(model.get_parameter("encoder.1.bias"))] == 0.1
    assert of[id(model.get_parameter("scale_head.bias"))] == 0.5
    assert len(of) == len(list(model.parameters()))


def test_overlapping_groups_train_together() -> None:
    model = TinyNet()
    set_trainable(model, ["norms", "encoder", "adapters"])
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in trained} == {"encoder", "adapters"}
    assert not model.get_submodule("encoder.1").training


def test_a_group_that_matches_nothing_is_one_line() -> None:
    with pytest.raises(UserError, match=r"trainable: group 'stage3' matches no parameter"):
        set_trainable(TinyNet(), ["stage3"])
    spec = make_spec(trainable=("encoder",), unfreeze={"stage3": 0.5})
    with pytest.raises(UserError, match=r"unfreeze: group 'stage3' matches no parameter"):
        make_trainer(spec)


def test_groups_overlap_as_their_names_say() -> None:
    assert overlap("encoder", "norms")
    assert overlap("norms", "stage3")
    assert overlap("stem", "everything")
    assert not overlap("norms", "decoder")
    assert not overlap("stage1", "stage2")
    assert all(overlap("everything", group) for group in get_args(Group))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"replay": 1.0}, "less than 1"),
        ({"replay": 0.05}, "0.05 of 3 images is 0"),
        ({"replay": 0.9}, "0.9 of 3 images is 3"),
        ({"unfreeze": {"encoder": 0.5}}, "'encoder' does not train"),
        ({"unfreeze": {"decoder": 1.0}}, "less than 1"),
        ({"unfreeze": "decoder:0.5"}, "expected GROUP=NUMBER"),
        ({"trainable": ("stage9",)}, "'stage3'"),
        ({"interpolate": (0.0, 1.5)}, "less than or equal to 1"),
        ({"interpolate": (0.5, 0.5)}, "stands twice"),
        ({"virtual_lenses": ("fisheye",)}, "'equidistant'"),
        ({"ema": 1.0}, "less than 1"),
        ({"l2_sp": -1.0}, "greater than or equal to 0"),
    ],
)
def test_a_mistake_is_told_at_plan_time(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make_spec(**fields)


def test_a_mapping_may_be_a_text_so_that_it_can_be_a_factor() -> None:
    spec = make_spec(unfreeze="decoder=0.5+adapters=0.25", learning_rate_factors="none")
    assert spec.unfreeze == {"decoder": 0.5, "adapters": 0.25}
    assert spec.learning_rate_factors == {}


@pytest.mark.parametrize("name", ["ewc", "mas", "replay"])
def test_options_that_need_the_source_say_so(name: str) -> None:
    spec = make_spec(**{name: 0.34})
    assert spec.reads_source
    with pytest.raises(UserError, match="training images of the source"):
        Trainer(TinyNet(), TARGET, spec, 0, CPU)
