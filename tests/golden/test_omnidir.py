"""Mei's lens against OpenCV's ``cv2.omnidir``, which only its contributed modules have."""

import json
from pathlib import Path

import pytest
import torch

from dart.cameras import LENSES

CASES = json.loads((Path(__file__).parent / "data" / "omnidir.json").read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"xi {case['xi']}")
def test_mei_is_omnidir(case: dict) -> None:
    fx, fy, cx, cy = case["K"]
    # OpenCV counts pixel centres from 0, k1 k2 p1 p2 are in the same order.
    params = [fx, fy, cx + 0.5, cy + 0.5, case["xi"], *case["distortion"]]
    camera = LENSES["mei"](torch.tensor(params, dtype=torch.float64), (480, 640))
    points = torch.tensor(case["points"], dtype=torch.float64)
    expected = torch.tensor(case["pixels"], dtype=torch.float64) + 0.5
    pixels, seen = camera.project(points)
    assert torch.allclose(pixels[seen], expected[seen], rtol=1e-11, atol=1e-9)
    assert seen.sum() >= 10
    rays, valid = camera.unproject(expected[seen])
    assert valid.all()
    assert torch.allclose(rays, torch.nn.functional.normalize(points[seen], dim=-1), atol=1e-8)
