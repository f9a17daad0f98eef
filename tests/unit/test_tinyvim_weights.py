"""Files of weights as they are found in the wild, and files that must be refused."""

import argparse
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dart.errors import UserError
from dart.models.weights import load_weights, read_weights
from tests.helpers.tinyvim_reference import create_tinyvim, reference_state


@pytest.fixture(scope="module")
def classifier() -> dict[str, Tensor]:
    return reference_state(create_tinyvim("tinyvim_s"))


@pytest.fixture(scope="module")
def fork_feat() -> dict[str, Tensor]:
    return reference_state(create_tinyvim("tinyvim_s", fork_feat=True))


def _same(model: Any, weights: dict[str, Tensor]) -> bool:
    state = model.state_dict()
    return all(torch.equal(state[key], weights[key]) for key in state if key in weights)


def _refusal(path: Path, model: Any = None) -> str:
    with pytest.raises(UserError) as caught:
        load_weights(model, path) if model is not None else read_weights(path)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    return text


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "model_ema"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_every_wrapping_is_read(
    classifier: dict[str, Tensor], tmp_path: Path, wrapper: str | None, prefix: str
) -> None:
    weights = {prefix + key: value for key, value in list(classifier.items())[:20]}
    torch.save(weights if wrapper is None else {wrapper: weights, "epoch": 3}, tmp_path / "w.pth")
    read = read_weights(tmp_path / "w.pth")
    assert list(read) == list(classifier)[:20]
    assert all(torch.equal(value, classifier[key]) for key, value in read.items())


@pytest.mark.parametrize("options", [{}, {"num_classes": 0}, {"fork_feat": True}], ids=str)
@pytest.mark.parametrize("kind", ["classifier", "fork_feat"])
def test_both_kinds_of_checkpoint_load_into_every_model(
    kind: str, options: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    weights = request.getfixturevalue(kind)
    save_file(weights, tmp_path / "w.safetensors")
    model = create_tinyvim("tinyvim_s", **options)
    missing, unused = load_weights(model, tmp_path / "w.safetensors")
    assert _same(model, weights)
    assert set(missing) == set(model.state_dict()) - set(weights)
    assert set(unused) == set(weights) - set(model.state_dict())


def test_weights_of_a_detector_are_found_under_its_backbone(
    fork_feat: dict[str, Tensor], tmp_path: Path
) -> None:
    weights = {f"backbone.{key}": value for key, value in fork_feat.items()}
    weights["neck.weight"] = torch.zeros(3)
    torch.save({"state_dict": weights}, tmp_path / "w.pth")
    model = create_tinyvim("tinyvim_s", fork_feat=True)
    assert load_weights(model, tmp_path / "w.pth") == ((), ())
    assert _same(model, fork_feat)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_namespace_is_no_obstacle(
    classifier: dict[str, Tensor], tmp_path: Path, zipped: bool
) -> None:
    args = argparse.Namespace(model="TinyViM_S", lr=1e-3, data_path="somewhere")
    content = {"model": classifier, "optimizer": {"state": {}}, "epoch": 299, "args": args}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    model = create_tinyvim("tinyvim_s")
    assert load_weights(model, tmp_path / "w.pth") == ((), ())
    assert _same(model, classifier)


class _Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("hidden", [True, False], ids=["in_namespace", "bare"])
def test_nothing_in_a_file_is_executed(tmp_path: Path, zipped: bool, hidden: bool) -> None:
    bait: Any = _Malicious(tmp_path / "executed")
    bait = argparse.Namespace(lr=bait) if hidden else bait
    torch.save({"args": bait}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    text = _refusal(tmp_path / "w.pth")
    assert "mkdir" in text
    assert "could run code" in text
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(bait))
    _refusal(tmp_path / "raw.pth")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(
    classifier: dict[str, Tensor], tmp_path: Path, name: str, share: float
) -> None:
    path = tmp_path / name
    (torch.save if name.endswith("pth") else save_file)(classifier, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "cut short" in _refusal(path)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_missing_file_or_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    assert "no such file" in _refusal(tmp_path / name)
    (tmp_path / name).mkdir()
    assert "no such file" in _refusal(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([1, 2], "holds a list"),
        ({}, "holds nothing"),
        ({"epoch": 3}, "'epoch', which is no tensor"),
        ({"model": {1: 2}}, "1, which is no tensor"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, content: Any, found: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    assert found in _refusal(tmp_path / "w.pth")


def test_weights_of_another_size_are_named(tmp_path: Path) -> None:
    torch.save(create_tinyvim("tinyvim_b", num_classes=0).state_dict(), tmp_path / "w.pth")
    model = create_tinyvim("tinyvim_s", num_classes=0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    text = _refusal(tmp_path / "w.pth", model)
    assert "are those of tinyvim_b, but the model is tinyvim_s" in text
    assert _same(model, before)


def test_weights_of_another_model_are_refused(
    classifier: dict[str, Tensor], tmp_path: Path
) -> None:
    model = create_tinyvim("tinyvim_s")
    torch.save({"conv1.weight": torch.zeros(2)}, tmp_path / "w.pth")
    assert "do not fit tinyvim_s" in _refusal(tmp_path / "w.pth", model)
    partial = {key: value for key, value in classifier.items() if "network.0.0" not in key}
    torch.save(partial, tmp_path / "w.pth")
    assert "26 keys missing, 0 unknown" in _refusal(tmp_path / "w.pth", model)
    torch.save(classifier | {"network.0.0.layer_scale": torch.ones(4)}, tmp_path / "w.pth")
    assert "1 of another shape" in _refusal(tmp_path / "w.pth", model)


def test_another_number_of_classes_is_named(classifier: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(classifier, tmp_path / "w.pth")
    model = create_tinyvim("tinyvim_s", num_classes=10)
    assert "num_classes=1000" in _refusal(tmp_path / "w.pth", model)
