import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dart.cameras import KannalaBrandt
from dart.data.checks import Report, check_dataset
from dart.data.planarity import judge, plane_shares
from dart.data.sets import open_dataset
from tests.helpers.triples import Triples, tilted_plane


@pytest.fixture
def triples(tmp_path: Path) -> Triples:
    made = Triples(tmp_path / "set")
    for number in range(4):
        made.add(f"room/desk_{number}", tilted_plane(1.5 + 0.2 * number))
    return made


def check(triples: Triples, **options: Any) -> Report:
    data = open_dataset(triples.root, "real_triples", on_missing="skip")
    splits = {
        split: [e.key for e in open_dataset(triples.root, "real_triples", split=split).entries]
        for split in data.splits
        if not data.skipped
    }
    return check_dataset(data, splits=splits, **options)


def kinds(report: Report) -> list[str]:
    return sorted(problem.kind for problem in report.problems)


def test_a_sound_set_has_no_problem(triples: Triples) -> None:
    report = check(triples)
    assert report.problems == []
    assert (report.frames, report.opened, report.scenes) == (4, 4, 1)
    assert report.sizes == {"64x48": 4}
    assert report.units == "metres"
    (lens,) = report.lenses.values()
    assert lens["frames"] == 4
    assert lens["round_trip_pixels"] < 1e-4
    # corners of a pinhole: closed form
    assert lens["largest_polar_degrees"] == pytest.approx(
        np.degrees(np.arctan(np.hypot(31.5, 23.5) / 40)), abs=1e-3
    )
    assert report.planarity["room (z)"]["fits_better"] == "z"
    assert report.planarity["room (z)"]["share_as_z"] > 0.99
    json.dumps(report.to_dict())
    assert len(report.rows) == 4


def test_percentiles_are_those_of_the_files(tmp_path: Path) -> None:
    triples = Triples(tmp_path)
    depth = np.linspace(1, 4, 48 * 64).reshape(48, 64)
    triples.add("a/b_0", depth)
    found = check(triples).percentiles["a"]
    assert found["p50"] == pytest.approx(2.5, abs=2e-3)
    assert found["p5"] == pytest.approx(1.15, abs=2e-3)


def test_the_wrong_convention_is_named(triples: Triples) -> None:
    for sample in triples.samples:
        sample["depth_kind"] = "range"
    triples.add("room/desk_9", tilted_plane(2.1), kind="range")
    (problem,) = check(triples).problems
    assert problem.kind == "convention"
    assert problem.where == "room"
    assert "declared as range" in problem.text


@pytest.mark.parametrize(("scale", "told"), [(5, "millimetres"), (5e6, "1000 once too often")])
def test_units_off_by_a_thousand_are_named(triples: Triples, scale: float, told: str) -> None:
    for sample in triples.samples:
        sample["depth_scale"] = scale
    triples.add("room/desk_9", tilted_plane(2.0), depth_scale=scale)
    report = check(triples)
    (units,) = [problem for problem in report.problems if problem.kind == "units"]
    assert told in units.text
    assert report.units != "metres"


def test_one_frame_of_another_unit_is_named(triples: Triples) -> None:
    triples.add("room/desk_9", tilted_plane(0.02))
    units = [problem for problem in check(triples).problems if problem.kind == "units"]
    assert [problem.where for problem in units] == ["room/desk_9"]


def test_truncated_missing_and_empty_files_are_each_named(triples: Triples) -> None:
    broken = triples.root / "room" / "desk_0_depth.png"
    broken.write_bytes(broken.read_bytes()[:60])
    (triples.root / "room" / "desk_1_rgb.png").unlink()
    triples.add("room/desk_7", np.zeros((48, 64)))
    report = check(triples)
    found = {problem.where: problem.kind for problem in report.problems}
    assert found == {
        "room/desk_0": "unreadable",
        "room/desk_1": "missing",
        "room/desk_7": "no valid depth",
    }
    missing = next(problem for problem in report.problems if problem.kind == "missing")
    assert missing.text == f"{triples.root / 'room' / 'desk_1_rgb.png'} does not exist"
    assert report.frames == 5
    assert report.opened == 3


def test_a_camera_of_another_resolution_is_named(triples: Triples) -> None:
    path = triples.root / "room" / "desk_2_calib.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "cx": 5.0}))
    (problem,) = [p for p in check(triples).problems if p.kind == "camera"]
    assert problem.where == "room/desk_2"
    path.write_text(json.dumps({**json.loads(path.read_text()), "width": 128}))
    assert kinds(check(triples)) == ["unreadable"]


def test_depth_outside_the_image_circle_is_named(tmp_path: Path) -> None:
    triples = Triples(tmp_path)
    triples.add("a/b_0", np.full((48, 64), 2.0), kind="range")
    path = tmp_path / "a" / "b_0_calib.json"
    content = json.loads(path.read_text()) | {"model": "kannala_brandt4", "k": [0.0] * 4}
    path.write_text(json.dumps({**content, "max_theta_deg": 30}))
    (problem,) = [p for p in check(triples).problems if p.kind == "image circle"]
    # closed form: pixels farther from the centre than 40 * radians(30)
    v, u = np.mgrid[:48, :64] - np.array([23.5, 31.5])[:, None, None]
    outside = (np.hypot(u, v) > 40 * np.radians(30)).mean()
    assert f"{outside:.0%}" in problem.text


def test_duplicates_within_and_between_splits_are_named(triples: Triples) -> None:
    room = triples.root / "room"
    shutil.copy(room / "desk_0_rgb.png", room / "desk_1_rgb.png")
    triples.add("hall/door_0", tilted_plane(3.0))
    shutil.copy(room / "desk_2_rgb.png", triples.root / "hall" / "door_0_rgb.png")
    problems = {problem.kind: problem.text for problem in check(triples).problems}
    assert set(problems) == {"duplicate", "duplicate between splits"}
    assert "room/desk_0, room/desk_1" in problems["duplicate"]
    assert "hall and room" in problems["duplicate between splits"]


def test_a_sample_opens_that_many_frames(triples: Triples) -> None:
    report = check(triples, sample=2)
    assert (report.opened, report.frames) == (2, 4)


def test_a_fisheye_beyond_90_degrees_is_read_as_range() -> None:
    lens = KannalaBrandt(torch.tensor([30.0, 30, 60, 60, 0, 0, 0, 0]), (120, 120))
    rays = lens.to(dtype=torch.float64).rays().numpy()
    # a room: the nearest of the planes y = 1, y = -1.4, x = +-2, z = 3
    with np.errstate(divide="ignore"):
        inverse = [rays[..., 1], -rays[..., 1] / 1.4, rays[..., 0] / 2, -rays[..., 0] / 2]
        distance = 1 / np.maximum.reduce([*inverse, rays[..., 2] / 3, np.full((120, 120), 0.05)])
    generator = np.random.default_rng(0)
    shares = [plane_shares(distance, rays, distance < 20, generator) for _ in range(3)]
    found = judge([share for share in shares if share is not None], "range")
    assert found is not None
    assert found.fits_better == "range"
    assert found.share_as_range > 2 * found.share_as_z


def test_no_plane_no_verdict() -> None:
    generator = np.random.default_rng(0)
    rays = np.tile([0.0, 0.0, 1.0], (40, 40, 1))
    rays[..., :2] = generator.normal(scale=0.01, size=(40, 40, 2))
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    shares = plane_shares(np.ones((40, 40)), rays, np.ones((40, 40), bool), generator)
    assert shares is not None
    found = judge([shares], "z")  # so narrow a view that both readings agree
    assert found is not None
    assert found.fits_better == "undecided"
    assert judge([], "z") is None
