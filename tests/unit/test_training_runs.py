"""Options of training in real runs of the shipped network, a few steps long."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from dart.data.dataset import open_domain
from dart.errors import UserError
from dart.measuring import count_flops
from dart.models import create_model
from dart.protocol import run_recipe
from dart.recipe import ProtocolSpec, TrainingSpec
from dart.seeds import derive_generator
from dart.soup import average_states, check_alike
from dart.studies.plan import create_recipe
from dart.training.freeze import group_parameters, set_trainable
from dart.training.loop import Trainer
from tests.unit.test_training_batches import make_sample
from tests.unit.test_training_loop import TinyNet

CPU = torch.device("cpu")
PROTOCOL = ProtocolSpec(held_out=())
VARIANT = "daa_query_softmax"


def make_trainer(**fields: Any) -> Trainer:
    generator = derive_generator(0, "init")
    model = create_model(VARIANT, pretrained="rooms_small", generator=generator)
    spec = TrainingSpec.model_validate({"steps": 3, "batch_size": 2, **fields})
    set_trainable(model, spec.trainable)
    # Validation images stand for the source's training images, of which none are shipped.
    source = open_domain("rooms_pinhole", "val") if spec.reads_source else ()
    return Trainer(model, open_domain("rooms_fisheye", "train"), spec, 0, CPU, source)


def test_weights_of_zero_change_no_bit_of_a_real_run() -> None:
    plain = make_trainer()
    off = make_trainer(l2_sp=0.0, ewc=0.0, mas=0.0, lwf=0.0, replay=0.0, ema=0.0)
    on = make_trainer(l2_sp=1.0, ewc=1.0, mas=1.0, lwf=1.0, replay=0.5, fisher_images=1)
    assert plain.run() == off.run()
    on.run()
    one, two, three = (t.model.state_dict() for t in (plain, off, on))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["decoder.last.weight"], three["decoder.last.weight"])
    # An average does not steer: the weights below it are those of the run without it.
    averaged = make_trainer(ema=0.5)
    assert averaged.run() == plain.history


def test_distillation_starts_from_zero() -> None:
    trainer = make_trainer(lwf=1.0)
    batch = trainer.draw()

    def measure() -> float:
        with torch.no_grad():
            distance = trainer.model(batch.image, batch.cameras).distance
            penalty = trainer.regulariser.penalty(batch, distance)
        assert penalty is not None
        return float(penalty)

    # Zero but for rounding: products on a CPU round by where in memory a copy of the weights lies.
    assert measure() < 1e-6
    trainer.run()
    assert measure() > 1e-4


def test_groups_of_the_network_are_parts_of_one_another() -> None:
    model = create_model("none", pretrained="rooms_small")
    names = {g: group_parameters(model, g) for g in ("encoder", "decoder", "norms", "stem")}
    stages = [group_parameters(model, g) for g in ("stage0", "stage1", "stage2", "stage3")]
    assert names["stem"] < stages[0]
    assert names["norms"] & stages[3]
    for i in range(4):
        assert stages[i] < names["encoder"]
        assert not any(stages[i] & stages[j] for j in range(i))
    parts = [group_parameters(model, g) for g in ("reassemble", "fuse", "output")]
    assert frozenset().union(*parts) == names["decoder"]
    assert sum(map(len, parts)) == len(names["decoder"])
    assert group_parameters(model, "everything") == {n for n, _ in model.named_parameters()}


def test_a_real_run_stops_counts_and_interpolates(tmp_path: Path) -> None:
    options = {"interpolate": (0.0, 1.0), "ema": 0.5, "stop_on_forgetting": 0.001}
    spec = TrainingSpec.model_validate(
        {**options, "steps": 20, "batch_size": 2, "learning_rate": 0.01}
    )
    result = run_recipe(
        create_recipe(VARIANT, {}, PROTOCOL, spec, 0), tmp_path, results=tmp_path / "results"
    )
    line = pd.read_parquet(tmp_path / "interpolation.parquet")
    for alpha, when in ((0.0, "before"), (1.0, "after")):
        for split, block in (("test", "domains"), ("val", "validation_domains")):
            for domain, entry in result[block].items():
                here = (line["split"] == split) & (line["domain"] == domain)
                chosen = line[here & (line["alpha"] == alpha)]
                found = dict(zip(chosen["metric"], chosen["value"], strict=True))
                assert found == entry[when]  # exactly
                assert set(chosen["role"]) == {entry["role"]}
    stop = result["stopped"]
    assert result["steps"] == stop["step"] < 20
    assert stop["forgetting"] > 0.001
    assert len(pd.read_parquet(tmp_path / "history.parquet")) == stop["step"]
    assert result["total_parameters"] > result["trainable_parameters"] > 0
    assert result["flops_per_image"] > 1e9


def test_operations_are_those_of_the_convolutions() -> None:
    sample = make_sample(0)
    pixels = sample.distance.numel()
    by_hand = 2 * pixels * (3 * 4 + 4 * 4 + 4 * 1) + 2 * 1 * 1
    assert count_flops(TinyNet(), sample, device=CPU) == by_hand


def test_a_soup_is_the_mean_and_refuses_mixtures() -> None:
    states = [{"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([2.0, 6.0])}]
    assert torch.equal(average_states(states)["w"], torch.tensor([1.5, 4.0]))
    with pytest.raises(UserError, match="trained different parameters"):
        average_states([*states, {"w": torch.zeros(3)}])
    one, other = (create_recipe("none", {}, PROTOCOL, TrainingSpec(), seed) for seed in (0, 1))
    check_alike([one, other])
    with pytest.raises(UserError, match="at least 2 seeds"):
        check_alike([one])
    longer = TrainingSpec(steps=500)
    with pytest.raises(UserError, match="differ in 'training'"):
        check_alike([one, other, create_recipe("none", {}, PROTOCOL, longer, 2)])


def _write_index(root: Path) -> None:
    folder = root / "frames" / "rooms_pinhole-train"
    folder.mkdir(parents=True)
    index = {"domain": "rooms_pinhole", "split": "train", "size": [96, 128]}
    (folder / "index.json").write_text(json.dumps({**index, "range_scale": 1.0, "frames": []}))


@pytest.mark.parametrize("name", ["replay", "ewc", "mas"])
def test_the_recipe_holds_the_source_where_training_reads_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DART_CACHE", str(tmp_path))
    spec = TrainingSpec.model_validate({name: 0.5})
    with pytest.raises(UserError, match=r"dart render rooms_pinhole --split train --count"):
        create_recipe("none", {}, PROTOCOL, spec, 0)
    assert "rooms_pinhole/train" not in create_recipe("none", {}, PROTOCOL, TrainingSpec(), 0).data
    _write_index(tmp_path)
    assert "rooms_pinhole/train" in create_recipe("none", {}, PROTOCOL, spec, 0).data
    # The untouched network is the same run whatever the others do.
    zero = create_recipe("zero_shot", {}, PROTOCOL, spec, 0)
    assert zero == create_recipe("zero_shot", {}, PROTOCOL, TrainingSpec(), 0)
