"""The command ``dart`` as a user types it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dart.checkpoint_header import list_pretrained
from dart.cli import main
from dart.commands import COMMANDS
from dart.data.dataset import open_domain

DOMAINS = ["rooms_pinhole", "rooms_fisheye", "rooms_stereographic"]
TRAIN = ["train", "daa_query_softmax", "--batch-size", "2", "--set", "num_queries=8"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of results for all tests here: the untouched network is measured once."""
    return tmp_path_factory.mktemp("results")


def test_help_is_quick_and_needs_no_torch() -> None:
    code = (
        "import sys\nfrom dart.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'mlflow', 'timm'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    listed = re.findall(r"^    (\w+) ", done.stdout, re.MULTILINE)
    assert sorted(listed) == sorted(COMMANDS)


def test_variants_lists_every_design(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["variants", "--json"]) == 0
    rows = {row["variant"]: row for row in json.loads(capsys.readouterr().out)["variants"]}
    assert rows["none"]["adapter_parameters"] == 0
    assert rows["daa"]["adapter_parameters"] == 220_408
    heads = rows["none"]["trainable_parameters"]
    for row in rows.values():
        assert row["hypothesis"]
        assert row["trainable_parameters"] == heads + row["adapter_parameters"]


@pytest.mark.parametrize("network", list_pretrained())
def test_evaluate_gives_the_before_numbers(
    network: str, capsys: pytest.CaptureFixture[str], repository: Path
) -> None:
    assert main(["evaluate", network, "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)["domains"]
    assert list(measured) == DOMAINS
    card = json.loads((repository / "dart" / "pretrained" / f"{network}.json").read_text())
    for domain in DOMAINS:
        assert measured[domain]["abs_rel"] == pytest.approx(
            card["test"][domain]["abs_rel"], rel=1e-3
        )
    # What a shipped network is for: it knows the source, and there is something to adapt to.
    assert measured["rooms_pinhole"]["abs_rel"] <= 0.15
    assert measured["rooms_fisheye"]["abs_rel"] >= 1.3 * measured["rooms_pinhole"]["abs_rel"]


def test_train_then_evaluate_the_adapter(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = [*TRAIN, "--steps", "4", "--out", str(out), "--results", str(results)]
    assert main(arguments) == 0
    capsys.readouterr()
    result = json.loads((out / "result.json").read_text())
    assert result["hyperparameters"]["num_queries"] == 8
    assert main(["evaluate", str(out / "adapter.safetensors"), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)["domains"]
    for domain in DOMAINS:
        # the run folds its frozen encoder, the checkpoint does not: equal up to rounding
        expected = result["domains"][domain]["after"]["abs_rel"]
        assert measured[domain]["abs_rel"] == pytest.approx(expected, rel=1e-3)
    assert main(arguments) == 2
    assert "finished run" in capsys.readouterr().err


def test_a_killed_training_goes_on_to_the_same_weights(results: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    command = [sys.executable, "-m", "dart.cli", *TRAIN, "--steps", "60", "--results", str(results)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*command, "--out", str(whole)], check=True, env=environment, capture_output=True
    )
    process = subprocess.Popen([*command, "--out", str(broken)], env=environment)
    state = broken / "training_state.pt"
    for _ in range(1200):
        if state.exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (broken / "result.json").exists()
    refused = subprocess.run(
        [*command, "--out", str(broken)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2
    assert "--resume" in refused.stderr
    changed = subprocess.run(
        [*command, "--out", str(broken), "--resume", "--learning-rate", "0.5"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert changed.returncode == 2
    assert "another recipe" in changed.stderr
    resumed = subprocess.run(
        [*command, "--out", str(broken), "--resume"],
        env=environment,
        capture_output=True,
        check=False,
    )
    assert resumed.returncode == 0, resumed.stderr
    ends = [json.loads((p / "result.json").read_text())["domains"] for p in (whole, broken)]
    assert ends[0] == ends[1]
    # Tensor by tensor: the file's header has no fixed order.
    weights = [load_file(p / "adapter.safetensors") for p in (whole, broken)]
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name
    assert not state.exists()


def test_predict_writes_metres_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = open_domain("rooms_fisheye", "test")[0]
    pixels = (sample.image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    cv2.imwrite(str(tmp_path / "room.png"), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    camera = tmp_path / "camera.json"
    camera.write_text(json.dumps(sample.camera.to_dict()))
    command = ["predict", str(tmp_path / "room.png"), "--camera", str(camera)]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    raw = cv2.imread(str(tmp_path / "out" / "room_distance.png"), cv2.IMREAD_UNCHANGED)
    assert raw is not None
    assert raw.dtype == np.uint16
    assert raw.shape == (96, 128)
    inside = sample.camera.valid().numpy()
    assert (raw[~inside] == 0).all()
    assert (raw[inside] >= 100).all()  # the network's nearest distance is 0.1 m
    assert cv2.imread(str(tmp_path / "out" / "room_distance_colour.png")) is not None
    assert "millimetres" in capsys.readouterr().out

    camera.write_text(json.dumps(sample.camera.to_dict() | {"width": 64}))
    assert main(command) == 2
    assert "64x96" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["statu"], ["status"], ["export", "x", "--max-forgetting", "much"]], ids=str
)
def test_words_that_make_no_command_get_one_line_and_status_two(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    shown = capsys.readouterr().err
    assert stop.value.code == 2
    assert shown.startswith("error: ")
    assert shown.count("\n") == 1
    assert "--help lists what there is" in shown


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["train", "daa_gatd"], ["daa_gatd", "daa_gated"]),
        (["train", "daa", "--set", "num_query=3"], ["num_query", "num_queries"]),
        (["train", "daa", "--set", "rank"], ["rank", "NAME=VALUE"]),
        (["train", "daa", "--set", "rank=x"], ["rank", "x"]),
        (["train", "daa", "--set", "rank=["], ["rank=["]),
        (["train", "daa", "--seed", "-1"], ["--seed", "-1"]),
        (["train", "daa", "--steps", "0"], ["--steps", "0"]),
        (["train", "daa", "--learning-rate", "nan"], ["--learning-rate"]),
        (["train", "daa", "--target", "rooms_fishey"], ["rooms_fishey", "rooms_fisheye"]),
        (["train", "daa", "--target", "rooms_pinhole"], ["rooms_pinhole", "twice"]),
        (["train", "daa", "--pretrained", "rooms_smal"], ["rooms_smal", "rooms_small"]),
        (["train", "daa", "--trainable", "backbone"], ["--trainable", "backbone"]),
        (["train", "daa", "--device", "cuda:77"], ["cuda:77"]),
        (["evaluate", "nowhere.safetensors"], ["nowhere.safetensors"]),
        (["evaluate", "rooms_small", "--domains", "moon"], ["moon", "rooms_pinhole"]),
        (["predict", "nothing.png", "--camera", "c.json"], ["nothing.png"]),
        (["render", "rooms_pinhole", "--count", "0"], ["--count", "0"]),
        (["render", "room_pinhole", "--count", "1"], ["room_pinhole", "rooms_pinhole"]),
        (["pretrain", "--steps", "0", "--out", "x.safetensors"], ["--steps"]),
    ],
    ids=" ".join,
)
def test_a_mistake_gets_one_line_and_status_two(
    arguments: list[str], named: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr().err.strip()
    assert len(shown.splitlines()) == 1, shown
    for word in named:
        assert word in shown


def test_a_truncated_checkpoint_is_named(
    tmp_path: Path, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (repository / "dart" / "pretrained" / "rooms_small.safetensors").read_bytes()
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(whole[: len(whole) // 2])
    assert main(["evaluate", str(broken)]) == 2
    assert "broken.safetensors" in capsys.readouterr().err
