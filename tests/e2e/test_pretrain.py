"""``dart pretrain`` as a user runs it: several domains, a network to begin from, and going on."""

import json
from pathlib import Path

import pytest

from dart.checkpoint_header import hash_checkpoint, read_metadata
from dart.cli import main

COUNTS = {"rooms_pinhole": 6, "streets_pinhole": 2}


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("frames")
    for domain, count in COUNTS.items():
        command = ["render", domain, "--split", "train", "--count", str(count), "--workers", "1"]
        assert main([*command, "--size", "32x64", "--out", str(folder / domain)]) == 0
    return [str(folder / domain) for domain in COUNTS]


def test_a_network_is_trained_further_on_two_domains(
    frames: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "further.safetensors"
    command = ["pretrain", "--network", "rooms_small", "--max-distance", "80", "--batch-size", "2"]
    first, *_ = COUNTS
    command += ["--precision", "bfloat16", "--domain", *COUNTS, first, "--data", *frames, frames[0]]
    assert main([*command, "--steps", "1", "--out", str(tmp_path / "one.safetensors")]) == 0
    (tmp_path / "one.state.pt").rename(tmp_path / "further.state.pt")
    assert main([*command, "--steps", "2", "--out", str(out)]) == 0  # goes on with the state
    told = capsys.readouterr().err
    assert "step 2/2" in told
    assert "step 1/2" not in told
    metadata = read_metadata(out)
    assert metadata["config"]["max_distance"] == 80
    recipe = metadata["recipe"]
    assert {name: about["frames"] for name, about in recipe["domains"].items()} == COUNTS
    assert {name: about["listed"] for name, about in recipe["domains"].items()} == {
        name: 1 + (name == first) for name in COUNTS
    }
    assert recipe["network"]["sha256"] == hash_checkpoint("rooms_small")
    card = json.loads(out.with_suffix(".json").read_text())
    assert card["sha256"] == hash_checkpoint(out)
    assert card["test"]["streets_pinhole"]["abs_rel"] > 0
    assert main(["evaluate", str(out), "--domains", "streets_pinhole", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)["domains"]["streets_pinhole"]["abs_rel"]
    assert measured == pytest.approx(card["test"]["streets_pinhole"]["abs_rel"], rel=1e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--domain", *COUNTS, "--data", "one"], "--data: 1 folders for 2 domains; one a domain"),
        (["--network", "rooms_smal"], "did you mean 'rooms_small'?"),
        (["--network", "rooms_small", "--max-distance", "0.05"], "max_distance=0.05"),
        (["--network", "rooms_small", "--encoder-weights", "x"], "--network brings an encoder"),
    ],
)
def test_mistakes_are_one_line(
    options: list[str],
    words: str,
    frames: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = [] if "--data" in options else ["--data", frames[0]]
    out = ["--steps", "2", "--out", str(tmp_path / "x.safetensors")]
    assert main(["pretrain", *data, *options, *out]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert not list(tmp_path.iterdir())
