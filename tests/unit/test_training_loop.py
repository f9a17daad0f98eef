from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dart.errors import UserError
from dart.recipe import TrainingSpec
from dart.training.freeze import count_trainable, frozen_hash, set_trainable
from dart.training.loop import Diverged, Step, Trainer, read_state, write_state
from tests.unit.test_training_batches import make_sample

CPU = torch.device("cpu")


@dataclass
class Predicted:
    distance: Tensor


class TinyNet(nn.Module):
    """The four parts of a network, each as small as can be; the encoder has statistics."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.encoder = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
            self.adapters = nn.Conv2d(4, 4, 1)
            self.decoder = nn.Conv2d(4, 1, 1)
            self.scale_head = nn.Linear(1, 1)

    def forward(self, image: Tensor, cameras: object) -> Predicted:  # noqa: ARG002
        features = self.encoder(image)
        depth = self.decoder(features + self.adapters(features))
        return Predicted(
            self.scale_head(depth.flatten(1)[:, :1]).exp()[:, None] * depth[:, 0].exp()
        )


def make_trainer(spec: TrainingSpec, *, seed: int = 0) -> Trainer:
    model = TinyNet()
    set_trainable(model, spec.trainable)
    return Trainer(model, [make_sample(i) for i in range(6)], spec, seed, CPU)


SPEC = TrainingSpec(steps=12, batch_size=3, learning_rate=0.01, flip=True, colour=0.3)


def test_only_what_is_trainable_moves_and_the_hash_proves_it() -> None:
    trainer = make_trainer(SPEC)
    model = trainer.model
    before = {k: v.clone() for k, v in model.state_dict().items()}
    frozen = frozen_hash(model)
    trainer.run()
    assert frozen_hash(model) == frozen
    moved = {
        k.split(".")[0] for k, v in model.state_dict().items() if not torch.equal(v, before[k])
    }
    assert moved == {"adapters", "decoder", "scale_head"}


def test_the_hash_sees_drifting_statistics() -> None:
    model = TinyNet()
    set_trainable(model, ["decoder"])
    frozen = frozen_hash(model)
    model.encoder.train()
    model.encoder(torch.rand(2, 3, 4, 4))
    assert frozen_hash(model) != frozen


def test_batch_norm_keeps_its_statistics_even_where_weights_train() -> None:
    trainer = make_trainer(SPEC.model_copy(update={"trainable": ("encoder", "decoder")}))
    mean = trainer.model.get_buffer("encoder.1.running_mean").clone()
    trainer.run()
    assert torch.equal(trainer.model.get_buffer("encoder.1.running_mean"), mean)
    assert count_trainable(trainer.model) == 16 + 8 + 5


def test_learning_lowers_the_loss() -> None:
    history = make_trainer(SPEC.model_copy(update={"steps": 60})).run()
    assert sum(s.loss for s in history[-10:]) < 0.9 * sum(s.loss for s in history[:10])


def test_the_same_seed_gives_the_same_run() -> None:
    first, second, other = (make_trainer(SPEC, seed=seed).run() for seed in (0, 0, 1))
    assert first == second
    assert first != other


def test_a_resumed_run_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    whole = make_trainer(SPEC)
    history = whole.run()
    broken = make_trainer(SPEC)

    def stop(step: Step) -> None:
        if step.step == 6:
            write_state(tmp_path / "state.pt", broken.state())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken.run(on_step=stop)
    resumed = make_trainer(SPEC)
    resumed.load(read_state(tmp_path / "state.pt"))
    assert resumed.run() == history
    for key, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[key], value), key


def test_a_foreign_or_broken_state_is_refused(tmp_path: Path) -> None:
    trainer = make_trainer(SPEC)
    write_state(tmp_path / "state.pt", trainer.state())
    other = make_trainer(SPEC.model_copy(update={"trainable": ("decoder",)}))
    with pytest.raises(ValueError, match="another model or freeze policy"):
        other.load(read_state(tmp_path / "state.pt"))
    data = (tmp_path / "state.pt").read_bytes()
    (tmp_path / "state.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="not a whole training state"):
        read_state(tmp_path / "state.pt")


def test_a_nan_stops_the_run_before_it_spoils_the_weights() -> None:
    trainer = make_trainer(SPEC)
    trainer.take_step()
    with torch.no_grad():
        trainer.model.get_parameter("decoder.bias").fill_(float("nan"))
    weight = trainer.model.get_parameter("decoder.weight").clone()
    with pytest.raises(Diverged, match="step 1: the loss is nan"):
        trainer.run()
    assert torch.equal(trainer.model.get_parameter("decoder.weight"), weight)


def test_rates_and_decay_go_to_their_groups() -> None:
    spec = SPEC.model_copy(update={"learning_rate_factors": {"decoder": 0.1}, "weight_decay": 0.05})
    groups = make_trainer(spec).optimizer.param_groups
    rates = sorted((round(g["peak"], 6), g["weight_decay"]) for g in groups)
    assert rates == [(0.001, 0.0), (0.001, 0.05), *[(0.01, 0.0)] * 2, *[(0.01, 0.05)] * 2]
    for group in groups:
        assert all((p.ndim > 1) == (group["weight_decay"] > 0) for p in group["params"])
