"""``dart probe``: what changes when only the camera does."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dart.cameras import Pinhole
from dart.cli import main
from dart.data.dataset import open_domain
from dart.models import create_model
from dart.probe import REAL, describe, list_arms, probe, summarize

CPU = torch.device("cpu")


def test_a_network_that_reads_no_camera_changes_by_exactly_nothing() -> None:
    # untrained, without adapters: the scale head's last layer is zero
    data = open_domain("rooms_pinhole", "test")
    arms = summarize(probe(create_model("none"), [data[i] for i in range(2)], device=CPU))
    assert len(arms) == 11
    for values in arms.values():
        assert values["mean_abs_log_ratio"] == 0
        assert values["share_changed"] == 0
        assert values["median_ratio"] == 1
    assert describe(arms) == (
        "this network does not use the camera: no other camera changes a single pixel"
    )


def test_the_shipped_network_reads_it_in_its_scale_head(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["--domains", "rooms_pinhole", "rooms_fisheye", "--count", "4", "--json"]
    assert main(["probe", "rooms_small", *arguments]) == 0
    domains = json.loads(capsys.readouterr().out)["domains"]
    pinhole, fisheye = domains["rooms_pinhole"], domains["rooms_fisheye"]
    assert pinhole["images"] == fisheye["images"] == 4
    assert pinhole["arms"][REAL]["mean_abs_log_ratio"] == 0
    # a longer focal length is a narrower view: the same picture is farther away
    assert pinhole["arms"]["focal x2"]["median_ratio"] > 1.1
    assert pinhole["arms"]["focal x0.5"]["median_ratio"] < 0.9
    assert max(arm["shape_change"] for arm in pinhole["arms"].values()) < 1e-4
    assert "only the scale head reads the camera" in pinhole["says"]
    # the fisheye domain has one camera, so there is no other image's
    assert set(pinhole["arms"]) - set(fisheye["arms"]) == {"another image's"}


def test_an_adapter_changes_the_shape_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    train = ["train", "daa_query_softmax", "--batch-size", "2", "--steps", "4", "--set"]
    places = ["--out", str(out), "--results", str(tmp_path / "results")]
    assert main([*train, "num_queries=8", *places]) == 0
    arguments = ["--domains", "rooms_fisheye", "--count", "2"]
    capsys.readouterr()
    assert main(["probe", str(out / "adapter.safetensors"), *arguments, "--json"]) == 0
    fisheye = json.loads(capsys.readouterr().out)["domains"]["rooms_fisheye"]
    assert fisheye["arms"]["constant K0"]["shape_change"] > 1e-4
    assert "only the scale head" not in fisheye["says"]
    assert main(["probe", "rooms_small", *arguments]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "means over 2 images" in said
    assert "rooms_fisheye: the camera matters" in said


def test_ideal_lenses_keep_the_field_of_view() -> None:
    # 90 degrees across: equidistant f = 50 / (pi / 4), stereographic f = 50 / (2 tan 22.5)
    camera = Pinhole(torch.tensor([50.0, 50, 50, 40]), (80, 100))
    wide = Pinhole(torch.tensor([20.0, 20, 50, 40]), (80, 100))
    arms = {a.name: a for a in list_arms([camera, wide], np.random.default_rng(0))}
    focal = arms["equidistant lens"].cameras[0].params
    assert focal.tolist() == pytest.approx([63.6620, 63.6620, 50, 40])
    focal = arms["stereographic lens"].cameras[0].params
    assert focal.tolist() == pytest.approx([60.3553, 60.3553, 50, 40])
    assert arms["another image's"].cameras == [wide, camera]
    assert arms["focal x1.4"].cameras[1].params.tolist() == pytest.approx([28, 28, 50, 40])
    assert arms["constant K0"].cameras[0].params[0].item() == pytest.approx(89.6437)  # 0.7 diagonal


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nowhere.safetensors"], "nowhere.safetensors"),
        (["rooms_small", "--domains", "moon"], "moon"),
        (["rooms_small", "--count", "0"], "--count 0"),
        (["rooms_small", "--device", "cuda:77"], "cuda:77"),
    ],
    ids=" ".join,
)
def test_a_mistake_gets_one_line(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["probe", *arguments]) == 2
    shown = capsys.readouterr().err.strip()
    assert len(shown.splitlines()) == 1, shown
    assert named in shown
