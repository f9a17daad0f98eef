"""Short forms of benchmarks of a step; the long forms are run by hand and reported."""

import json
import sys

import pytest

from benchmarks import widened
from benchmarks.captured_steps import WAYS, main
from dart.training import precision


def test_every_way_takes_its_steps_and_says_what_is_not_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--small", "--rounds", "1", "--batch", "2", "--runs", "2"]
    monkeypatch.setattr(sys, "argv", ["captured_steps.py", *arguments])
    main()
    *lines, last = capsys.readouterr().out.splitlines()
    report = json.loads(last)
    steps = report["a step of training, 2 x 32 x 64, fold of 2"]
    assert tuple(steps) == WAYS
    assert steps["plain"]["x plain"] == 1
    for way, numbers in steps.items():
        images = 4 if way.startswith(("folded", "batched")) else 2
        rate = images / numbers["ms"] / (2 / steps["plain"]["ms"])
        assert numbers["x plain"] == pytest.approx(rate, rel=2e-3)
    static = [line for line in lines if line.startswith(("static", "folded bf", "batched"))]
    assert len(static) == 7  # four ways, their operators' heading, and two passes of the encoder
    told = [line for line in static if "of a profiled step" not in line]
    assert all("there is no graph on a CPU" in line for line in told)
    assert any(line.startswith("not measured without a GPU: graphs") for line in lines)
    folded, batched = steps["folded bfloat16"], steps["batched bfloat16"]
    assert batched["operators"] < 0.9 * folded["operators"]
    assert steps["static bfloat16"]["bytes moved"] < steps["static float32"]["bytes moved"]
    assert folded["bytes moved"] < 2 * steps["static bfloat16"]["bytes moved"]  # one encoder


def test_products_in_float32_are_compared_with_those_in_bfloat16(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", precision.has_bfloat16)  # put back at the end
    monkeypatch.setattr(sys, "argv", ["widened.py", "--rounds", "1", "--variant", "daa"])
    widened.main()
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["native"]["loss"] == 0
    assert 0 < report["widened"]["loss"] < report["float32"]["loss"] < 0.01
