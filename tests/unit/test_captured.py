"""Steps from tensors that stay where they are: what a GPU replays, run here without a graph."""

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dart.cameras import KannalaBrandt
from dart.data.sample import Sample, digest_image
from dart.data.transforms import flip
from dart.models import DepthNet, create_model
from dart.models.folding import fold
from dart.recipe import TrainingSpec
from dart.training.batches import Augmentation, Batches
from dart.training.captured import NO_GRAPH, StaticStep, is_wanted
from dart.training.freeze import set_trainable
from dart.training.loop import Diverged, Trainer
from dart.training.resident import Resident
from dart.training.together import share_encoder, take_steps

SIZE = (32, 64)
CPU = torch.device("cpu")
SPEC = TrainingSpec(steps=6, batch_size=2)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_sample(index: int, *, size: tuple[int, int] = SIZE) -> Sample:
    params = [30.0 + index, 30.0, size[1] / 2 + index, size[0] / 2, 0.01, 0.0, 0.0, 0.0]
    pixels = torch.randint(0, 256, (3, *size), generator=seeded(index))
    return Sample(
        image=pixels.to(torch.uint8).float() / 255,
        distance=1 + 4 * torch.rand(size, generator=seeded(100 + index)),
        valid=torch.rand(size, generator=seeded(200 + index)) < 0.9,
        camera=KannalaBrandt(torch.tensor(params), size),
        key=f"frame-{index}",
        scene=index,
    )


SAMPLES = [make_sample(index) for index in range(5)]
SOURCE = [make_sample(index) for index in range(10, 14)]


@cache
def encoder() -> nn.Module:
    return fold(create_model("none", generator=seeded(0)).encoder)


def make_trainer(spec: TrainingSpec = SPEC, *, seed: int = 0, name: str = "daa") -> Trainer:
    net = create_model(name, generator=seeded(seed))
    net.encoder = copy.deepcopy(encoder())  # pyright: ignore[reportAttributeAccessIssue]
    net.pretrained = ("tiny", "0" * 64)
    # What rounding Adam makes large is no difference of these.
    net = net.double() if spec.precision == "float32" else net
    set_trainable(net, spec.trainable)
    return Trainer(net, SAMPLES, spec, seed, CPU, SOURCE)


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in trainer.trained.items()}


def assert_alike(one: Trainer, other: Trainer, *, rel: float = 1e-5) -> None:
    assert len(one.history) == len(other.history)
    for step, expected in zip(one.history, other.history, strict=True):
        assert step.loss == pytest.approx(expected.loss, rel=rel)
        assert step.learning_rate == expected.learning_rate
    moved = weights(one)
    for name, value in weights(other).items():
        if value.dtype == torch.float64:
            torch.testing.assert_close(moved[name], value, rtol=1e-3, atol=1e-5)


OPTIONS: dict[str, dict[str, Any]] = {
    "bfloat16": {"precision": "bfloat16"},
    "ema": {"ema": 0.9},
    "l2_sp": {"l2_sp": 0.1},
    "ewc": {"ewc": 10.0, "fisher_images": 2},
    "mas": {"mas": 1.0, "fisher_images": 2},
    "lwf": {"lwf": 0.5},
    "replay": {"replay": 0.5},
    "colour": {"colour": 0.5},
    "virtual lenses": {"virtual_lenses": ("own", "pinhole")},
    "linear": {"schedule": "linear", "warm_up": 0.5},
}


@pytest.mark.parametrize("fields", OPTIONS.values(), ids=OPTIONS.keys())
def test_every_option_gives_what_it_gives_without(fields: dict[str, Any]) -> None:
    spec = TrainingSpec.model_validate(SPEC.model_dump() | fields)
    plain, trainer = make_trainer(spec), make_trainer(spec)
    static = StaticStep([trainer])
    for _ in range(4):
        plain.take_step()
        static.take()
    assert static.reason == NO_GRAPH
    assert_alike(trainer, plain, rel=5e-3 if "precision" in fields else 1e-5)
    if plain.average is not None:
        assert trainer.average is not None
        for name, mean in plain.average.mean.items():
            torch.testing.assert_close(trainer.average.mean[name], mean, rtol=1e-3, atol=1e-5)


def test_what_begins_to_train_later_is_not_captured() -> None:
    spec = TrainingSpec.model_validate(SPEC.model_dump() | {"unfreeze": {"decoder": 0.5}})
    plain, trainer = make_trainer(spec), make_trainer(spec)
    static = StaticStep([trainer])
    static.reason = ""  # as on a GPU
    before = weights(trainer)
    for _ in range(2):
        plain.take_step()
        static.take()
    assert static.reason == "parts of the network begin to train later"
    name = next(name for name in before if name.startswith("decoder"))
    assert torch.equal(weights(trainer)[name], before[name])
    for _ in range(3):
        plain.take_step()
        static.take()
    assert_alike(trainer, plain)


def test_it_goes_on_from_a_saved_state() -> None:
    whole, first, second = make_trainer(), make_trainer(), make_trainer()
    static = StaticStep([whole])
    for _ in range(6):
        static.take()
    static = StaticStep([first])
    for _ in range(3):
        static.take()
    second.load(copy.deepcopy(first.state()))
    static = StaticStep([second])
    while len(second.history) < 6:
        static.take()
    assert_alike(second, whole, rel=1e-7)


class Reading(nn.Module):
    """An adapter that does something to its features which a graph may not hold."""

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(()))
        self.act = act

    def forward(self, features: Tensor, camera: Tensor) -> Tensor:  # noqa: ARG002
        return self.gain * self.act(features)


def branch(features: Tensor) -> Tensor:
    return features if features.mean() > 0 else -features


READINGS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "item": (lambda x: x * float(x.detach().mean()), "reads a number"),
    "branch": (branch, "reads a number"),
    "nonzero": (lambda x: x + len(x.detach().nonzero()), "asks where a tensor is not zero"),
    "mask": (lambda x: x + x[x > 0].mean(), "chooses by a mask (aten::index"),
    "masked write": (
        lambda x: torch.zeros_like(x).index_put((x > 0,), x.new_zeros(())),
        "chooses by a mask (aten::index_put",
    ),
    "masked_select": (lambda x: x + x.masked_select(x > 0).mean(), "chooses by a mask"),
    "unique": (lambda x: x + len(x.detach().unique()), "asks for distinct values"),
    "equal": (lambda x: x * torch.equal(x, x), "compares tensors"),
}


@pytest.mark.parametrize(("act", "words"), READINGS.values(), ids=READINGS.keys())
def test_what_reads_a_value_is_named_and_runs_as_it_is(
    act: Callable[[Tensor], Tensor], words: str
) -> None:
    trainer = make_trainer(name="daa_zero_init")
    assert isinstance(trainer.model, DepthNet)
    trainer.model.adapters[1] = Reading(act)
    trainer = Trainer(trainer.model, SAMPLES, SPEC, 0, CPU)
    static = StaticStep([trainer])
    for _ in range(5):  # beyond the practice, where a GPU would capture
        static.take()
    assert static.reason.startswith(f"daa_zero_init: a step {words}")
    assert "test_captured.py:" in static.reason
    assert len(trainer.history) == 5


def test_a_nan_is_found_at_once_named_and_harms_no_other() -> None:
    fine, bad = ([make_trainer(seed=seed) for seed in range(3)] for _ in range(2))
    for trainers in (fine, bad):
        share_encoder(trainers)
    static, planted = StaticStep(fine), StaticStep(bad)
    for _ in range(2):
        static.take()
        planted.take()
    with torch.no_grad():
        next(iter(bad[1].trained.values())).fill_(torch.nan)
    before = weights(bad[1])
    wanted, found = static.take(), planted.take()
    assert isinstance(found[1], Diverged)
    assert str(found[1]).startswith("step 2: the loss is nan")
    assert (found[0], found[2]) == (wanted[0], wanted[2])
    for name, value in weights(bad[1]).items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)
    for index in (0, 2):
        kept = weights(bad[index])
        assert all(torch.equal(kept[n], value) for n, value in weights(fine[index]).items())


def test_folded_from_static_tensors_is_folded_without() -> None:
    plain, trainers = ([make_trainer(seed=seed) for seed in range(2)] for _ in range(2))
    for group in (plain, trainers):
        share_encoder(group)
    static = StaticStep(trainers)
    for _ in range(4):
        take_steps(plain)
        static.take()
    for one, other in zip(trainers, plain, strict=True):
        assert_alike(one, other)


def test_batches_of_another_shape_are_taken_as_they_are() -> None:
    plain, trainer = make_trainer(), make_trainer()
    static = StaticStep([trainer])
    static.take()
    plain.take_step()
    for one in (plain, trainer):
        one.batches = Batches(SAMPLES, 3, Augmentation(flips=True, colour=0.0), 0)
    static.ahead = None
    static.take()
    plain.take_step()
    assert static.reason == "batches differ in shape"
    assert_alike(trainer, plain)


def test_nothing_is_captured_on_a_cpu() -> None:
    assert not is_wanted([make_trainer()])


@pytest.mark.parametrize("exact", [True, False])
def test_resident_images_are_those_of_the_host_to_the_bit(exact: bool) -> None:
    samples = SAMPLES if exact else [flip(sample) for sample in SAMPLES]
    if not exact:  # not of 256 values
        samples = [Sample(**{**vars(sample), "image": sample.image.sqrt()}) for sample in samples]
    resident = Resident(samples, CPU)
    assert {image.dtype for image in resident.images} == {torch.uint8 if exact else torch.float32}
    augment = Augmentation(flips=True, colour=0.0)
    for step in range(6):
        one, other = (Batches(data, 3, augment, 7).draw(step) for data in (samples, resident))
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.distance, other.distance)
        assert torch.equal(one.valid, other.valid)
        assert [c.key for c in one.cameras] == [c.key for c in other.cameras]
        assert len(set(other.digests)) == len({digest_image(image) for image in one.image})


def test_a_digest_does_not_outlive_its_picture() -> None:
    sample = Resident(SAMPLES, CPU)[0]
    assert sample.digest == digest_image(sample.image)
    turned = flip(sample)
    assert turned.digest not in (b"", sample.digest)
    assert flip(turned).digest == sample.digest
    changed = Augmentation(flips=False, colour=1.0)(sample, seeded(0))
    assert changed.digest == b""


def test_an_image_without_a_valid_pixel_is_refused() -> None:
    blind = Sample(**{**vars(SAMPLES[0]), "valid": torch.zeros(SIZE, dtype=torch.bool)})
    with pytest.raises(ValueError, match="no valid pixel"):
        Resident([blind], CPU)
    with pytest.raises(ValueError, match="no valid pixel"):
        Batches([blind], 1, Augmentation(flips=False, colour=0.0), 0).draw(0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="captures need a GPU")
@pytest.mark.parametrize("folded", [1, 3])
def test_a_captured_step_is_the_step(folded: int, monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda")

    def trainers() -> list[Trainer]:
        made = []
        for seed in range(folded):
            trainer = make_trainer(seed=seed)
            made.append(Trainer(trainer.model.to(device), SAMPLES, SPEC, seed, device))
        share_encoder(made)
        return made

    captured = trainers()
    for _ in range(6):
        take_steps(captured)
    assert captured[0].static.graph is not None, captured[0].static.reason
    monkeypatch.setenv("DART_OFF", "capture")
    plain = trainers()
    for _ in range(6):
        take_steps(plain)
    for one, other in zip(captured, plain, strict=True):
        assert_alike(one, other, rel=1e-4)
