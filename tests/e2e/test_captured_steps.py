"""The short form of ``benchmarks/captured_steps.py``; the long form is run by hand and reported."""

import json
import sys

import pytest

from benchmarks.captured_steps import WAYS, main


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
