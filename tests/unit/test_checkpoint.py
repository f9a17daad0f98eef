"""Checkpoints: what is written comes back, and what does not fit is refused in one line."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dart import checkpoint_header
from dart.checkpoint_header import hash_checkpoint, read_metadata, resolve_checkpoint
from dart.errors import UserError
from dart.models import (
    DepthNet,
    NetworkConfig,
    create_model,
    load_adapter,
    load_checkpoint,
    load_pretrained,
    save_adapter,
    save_pretrained,
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def source() -> DepthNet:
    return create_model("none", generator=seeded(0))


@pytest.fixture(scope="module")
def pretrained(source: DepthNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "source.safetensors"
    save_pretrained(source, path, {"recipe": json.dumps({"steps": 7}), "note": "12"})
    return path


@pytest.fixture(scope="module")
def adapted(pretrained: Path) -> Path:
    model = create_model("daa", pretrained=pretrained, generator=seeded(1), num_queries=4)
    model.requires_grad_(False)
    model.adapters.requires_grad_(True)
    path = pretrained.with_name("adapter.safetensors")
    save_adapter(model, path, {"recipe": json.dumps({"seed": 1})})
    return path


def assert_same_state(model: DepthNet, wanted: DepthNet) -> None:
    state = model.state_dict()
    for key, value in wanted.state_dict().items():
        assert torch.equal(state[key], value)


def refuse(path: Path | str, load=load_checkpoint) -> str:
    with pytest.raises(UserError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_pretrained_comes_back_in_half_precision(source: DepthNet, pretrained: Path) -> None:
    model = load_pretrained(pretrained)
    assert not model.training
    state = model.state_dict()
    for key, value in source.state_dict().items():
        loaded = state[key]
        assert loaded.dtype == value.dtype
        wanted = value.half().float() if value.is_floating_point() else value
        assert torch.equal(loaded, wanted)
    assert pretrained.stat().st_size < 16e6
    assert model.pretrained == (str(pretrained), hash_checkpoint(pretrained))


def test_what_a_checkpoint_says(pretrained: Path, adapted: Path) -> None:
    said = read_metadata(pretrained)
    assert said["kind"] == "pretrained"
    assert said["config"] == NetworkConfig().to_dict()
    assert said["recipe"] == {"steps": 7}
    assert said["note"] == "12"
    said = read_metadata(adapted)
    assert (said["kind"], said["variant"]) == ("adapter", "daa")
    assert said["hyperparameters"] == {"num_queries": 4, "rank": 8}
    assert said["pretrained_sha256"] == hash_checkpoint(pretrained)


def test_metadata_is_read_without_torch(pretrained: Path) -> None:
    program = (
        "import sys; from dart.checkpoint_header import read_metadata;"
        f"read_metadata({str(pretrained)!r}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_an_adapter_holds_what_was_trained(adapted: Path) -> None:
    assert {key.split(".")[0] for key in load_file(adapted)} == {"adapters"}
    assert adapted.stat().st_size < 1.2e6


def test_trained_parts_are_kept_and_the_others_are_not(pretrained: Path, tmp_path: Path) -> None:
    model = create_model("daa", pretrained=pretrained)
    model.requires_grad_(False)
    model.scale_head.requires_grad_(True)
    with torch.no_grad():
        model.scale_head.last.bias.fill_(0.3)
    path = tmp_path / "deep" / "adapter.safetensors"
    save_adapter(model, path, {})
    # Frozen adapters are there too: no other file has their random start.
    assert {key.split(".")[0] for key in load_file(path)} == {"adapters", "scale_head"}
    again = load_checkpoint(path)
    assert_same_state(again, model)
    assert (again.variant, again.hyperparameters) == ("daa", {"num_queries": 64, "rank": 8})


def test_a_trained_encoder_keeps_its_statistics(pretrained: Path, tmp_path: Path) -> None:
    model = create_model("none", pretrained=pretrained).train()
    model(torch.rand(2, 3, 32, 32, generator=seeded(0)))
    save_adapter(model, tmp_path / "full.safetensors", {})
    assert_same_state(load_adapter(tmp_path / "full.safetensors"), model)


def test_a_network_that_started_at_random_has_no_adapter_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="belongs to a pretrained network"):
        save_adapter(create_model("daa"), tmp_path / "x.safetensors", {})
    with pytest.raises(UserError, match="variant 'none', this one 'daa'"):
        save_pretrained(create_model("daa"), tmp_path / "x.safetensors", {})


def test_names_of_shipped_checkpoints(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_header, "PRETRAINED", tmp_path)
    assert "one of: none ship" in refuse("rooms_smal")
    (tmp_path / "rooms_small.safetensors").write_bytes(pretrained.read_bytes())
    assert resolve_checkpoint("rooms_small") == tmp_path / "rooms_small.safetensors"
    message = refuse("rooms_smal")
    assert message == (
        "checkpoint 'rooms_smal' does not exist; give a file or one of: rooms_small; "
        "did you mean 'rooms_small'?"
    )
    assert "is a folder, not a file" in refuse(tmp_path)


@pytest.mark.parametrize("kept", [0, 5, 8, 500, 100_000, -1])
def test_truncated(pretrained: Path, tmp_path: Path, kept: int) -> None:
    path = tmp_path / "short.safetensors"
    path.write_bytes(pretrained.read_bytes()[:kept])
    assert "is truncated" in refuse(path)
    assert str(path) in refuse(path)


def test_not_a_checkpoint(pretrained: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    torch.save({"a": torch.zeros(3)}, path)
    assert "is not a safetensors file" in refuse(path)
    path.write_bytes(struct.pack("<Q", 10) + b"not JSON!!" + b"0" * 50)
    assert "is not a safetensors file" in refuse(path)
    path.write_bytes(pretrained.read_bytes() + b"0")
    assert "has bytes too many" in refuse(path)
    save_file({"a": torch.zeros(3)}, path)
    assert "was not written by this project" in refuse(path)


def test_of_another_model(pretrained: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    config = {"kind": "pretrained", "config": json.dumps(NetworkConfig().to_dict())}
    state = load_file(pretrained)
    del state["decoder.last.bias"]
    state["decoder.last.weight"] = torch.zeros(3)
    state["else"] = torch.zeros(3)
    save_file(state, path, metadata=config)
    message = refuse(path)
    assert "is of another model: 1 tensors missing (first: decoder.last.bias)" in message
    assert "1 tensors unknown (first: else)" in message
    assert "1 tensors of another shape (first: decoder.last.weight)" in message

    config["config"] = json.dumps({"encoder": "tinyvim_x"})
    save_file(load_file(pretrained), path, metadata=config)
    assert "no encoder 'tinyvim_x'" in refuse(path)
    config["config"] = json.dumps({"encodr": "tinyvim_s"})
    save_file(load_file(pretrained), path, metadata=config)
    assert "unknown key 'encodr'" in refuse(path)
    config["config"] = "[]"
    save_file(load_file(pretrained), path, metadata=config)
    assert "config" in refuse(path)


def test_another_configuration_than_the_checkpoints(pretrained: Path) -> None:
    with pytest.raises(UserError, match="has decoder_channels=64, the network asked for has 32"):
        create_model("none", config=NetworkConfig(decoder_channels=32), pretrained=pretrained)
    config = NetworkConfig(max_distance=80.0, inversion="max_over_disparity")
    assert create_model("none", config=config, pretrained=pretrained).config == config


def test_kinds_are_not_mixed_up(pretrained: Path, adapted: Path) -> None:
    assert "is of kind 'adapter'; a network starts from" in refuse(adapted, load_pretrained)
    assert "is of kind 'pretrained', not 'adapter'" in refuse(pretrained, load_adapter)


def test_an_adapter_belongs_to_one_pretrained_network(
    source: DepthNet, pretrained: Path, adapted: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(pretrained.read_bytes())
    assert load_adapter(adapted, pretrained=moved).variant == "daa"
    other = tmp_path / "other.safetensors"
    save_pretrained(source, other, {"recipe": "{}"})
    with pytest.raises(UserError, match=r"belongs to pretrained .* with sha256 .*; '.*other"):
        load_adapter(adapted, pretrained=other)
    with pytest.raises(UserError, match=r"belongs to a pretrained network: .*does not exist"):
        load_adapter(adapted, pretrained=tmp_path / "gone.safetensors")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("variant", '"daaa"', "no variant 'daaa'.*did you mean 'daa'"),
        ("hyperparameters", '{"num_query": 4}', "has no hyperparameter 'num_query'"),
        ("hyperparameters", '{"num_queries": 5, "rank": 8}', "is of another model"),
        ("hyperparameters", "[1]", "hyperparameters"),
        ("variant", None, "does not name its variant"),
    ],
)
def test_an_adapter_of_another_variant(
    adapted: Path, tmp_path: Path, key: str, value: str | None, message: str
) -> None:
    said = {name: json.dumps(content) for name, content in read_metadata(adapted).items()}
    if value is None:
        del said[key]
    else:
        said[key] = value
    path = tmp_path / "x.safetensors"
    save_file(load_file(adapted), path, metadata=said)
    with pytest.raises(UserError, match=message):
        load_adapter(path)


def test_an_incomplete_adapter(adapted: Path, tmp_path: Path) -> None:
    state = load_file(adapted)
    del state["adapters.2.project.bias"]
    path = tmp_path / "x.safetensors"
    said = {name: json.dumps(content) for name, content in read_metadata(adapted).items()}
    save_file(state, path, metadata=said)
    assert "is of another model: it lacks adapters.2.project.bias" in refuse(path)


def test_weights_beyond_half_precision_are_refused(tmp_path: Path) -> None:
    model = create_model("none")
    with torch.no_grad():
        model.scale_head.last.bias.fill_(1e6)
    path = tmp_path / "x.safetensors"
    with pytest.raises(UserError, match=r"scale_head\.last\.bias does not fit half precision"):
        save_pretrained(model, path, {})
    assert not path.exists()


def test_a_place_that_cannot_be_written(source: DepthNet, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(UserError, match="cannot be written"):
        save_pretrained(source, blocked / "x.safetensors", {})
