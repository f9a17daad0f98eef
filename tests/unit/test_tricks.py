"""Every trick that makes a run faster can be turned off, and then the numbers are the same."""

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from dart.cli import main
from dart.data.dataset import open_domain
from dart.data.sample import collate
from dart.data.transforms import flip
from dart.models.folding import is_folded
from dart.protocol import load_network, run_recipe
from dart.recipe import ProtocolSpec, Recipe, TrainingSpec
from dart.studies.plan import create_recipe
from dart.training.captured import is_wanted
from dart.training.freeze import set_trainable
from dart.training.loop import Trainer
from dart.training.prefix import Prefix
from dart.tricks import TRICKS

CPU = torch.device("cpu")


def _recipe(steps: int) -> Recipe:
    training = TrainingSpec(steps=steps, batch_size=2)
    return create_recipe("daa_query_softmax", {}, ProtocolSpec(held_out=()), training, 0)


def _train(
    off: str, monkeypatch: pytest.MonkeyPatch, *, steps: int = 3, take: int | None = None
) -> Trainer:
    monkeypatch.setenv("DART_OFF", off)
    recipe = _recipe(steps)
    model = load_network(recipe, CPU)
    set_trainable(model, recipe.training.trainable)
    data = open_domain("rooms_fisheye", "train")[:3]
    trainer = Trainer(model, data, recipe.training, 0, CPU)
    for _ in range(steps if take is None else take):
        trainer.take_step()
    return trainer


@pytest.mark.parametrize(
    "name", ["folded_norms", "channels_last", "scan", "kept_maps", ",".join(TRICKS)]
)
def test_a_trick_changes_no_loss(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fast, plain = _train("", monkeypatch), _train(name, monkeypatch)
    for one, other in zip(fast.history, plain.history, strict=True):
        assert other.loss == pytest.approx(one.loss, rel=1e-5)
        assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-4)


def test_a_run_goes_on_in_another_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _train("", monkeypatch, steps=6).trained["decoder.narrow.weight"]
    for first, then in (("channels_last", ""), ("", "channels_last")):
        begun = _train(first, monkeypatch, steps=6, take=3)
        before = begun.trained["decoder.narrow.weight"]
        resumed = _train(then, monkeypatch, steps=6, take=0)
        resumed.load(begun.state())
        resumed.run()
        after = resumed.trained["decoder.narrow.weight"]
        assert before.stride() != after.stride()
        assert (after - whole).norm() < 0.01 * (whole - before).norm()
        for parameter, kept in resumed.optimizer.state.items():
            assert kept["exp_avg"].stride() == kept["exp_avg_sq"].stride() == parameter.stride()


def test_what_is_off_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.rand(2, 3, 32, 32)
    for off in (False, True):
        trainer = _train(",".join(TRICKS) if off else "", monkeypatch)
        model = cast("Any", trainer.model)
        assert is_folded(model.encoder) is not off
        assert (trainer.prefix is None) is off
        assert model.normalise(image).is_contiguous() is off
        weight = model.decoder.narrow.weight
        assert weight.is_contiguous() is off
        trainer.device = torch.device("cuda")  # only said: whether steps would be captured there
        assert is_wanted([trainer]) is not off


def test_kept_maps_are_those_of_their_picture() -> None:
    recipe = _recipe(1)
    model = load_network(recipe, CPU)
    set_trainable(model, recipe.training.trainable)
    data = open_domain("rooms_fisheye", "train")[:4]
    prefix = Prefix(model, "float32")
    prefix.kept.clear()
    samples = [*data, *map(flip, data)]
    assert len({sample.digest for sample in samples}) == len(samples)
    for _ in range(2):  # met for the first time, then known
        [maps] = prefix.of(collate(samples))
        for sample, kept in zip(samples, maps, strict=True):
            [own] = model.encode_prefix(sample.image[None])
            assert torch.equal(kept[None], own)
    assert len(prefix.kept) == len(samples)


def test_a_record_says_what_was_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DART_OFF", " kept_maps,channels_last,kept_maps")
    result = run_recipe(_recipe(1), tmp_path, results=tmp_path)
    assert result["environment"]["switched_off"] == ["channels_last", "kept_maps"]


def test_a_wrong_name_is_told_before_anything_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DART_OFF", "kept_map")
    assert main(["variants", "--json"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == (
        "error: DART_OFF: there is no trick 'kept_map' to turn off; there are: "
        f"{', '.join(TRICKS)}; did you mean 'kept_maps'?\n"
    )
    monkeypatch.setenv("DART_OFF", "")
    assert main(["variants", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
