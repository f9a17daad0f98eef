import dataclasses
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from dart.angles import AngleErrors, solid_angles
from dart.cameras import KannalaBrandt, Pinhole
from dart.data.sets import open_dataset
from dart.errors import UserError
from dart.evaluation import Evaluation, Evaluator, Setting, predict_distance, summarise, thin
from dart.models.checkpoint import load_checkpoint
from dart.models.depth_net import DepthNet
from tests.helpers.triples import Triples, tilted_plane

CPU = torch.device("cpu")
SETTING = Setting(width=64, cloud_points=500)


@pytest.fixture(scope="module")
def model() -> DepthNet:
    return load_checkpoint("rooms_small")


@pytest.fixture
def triples(tmp_path: Path) -> Triples:
    made = Triples(tmp_path / "set")
    for number in range(3):
        made.add(f"room/desk_{number}", tilted_plane(1.5 + number))
    made.add("room/sofa_0", tilted_plane(3.0))
    made.add("lens/desk_5", np.full((48, 64), 2.0), kind="range")
    return made


def run(model: DepthNet, triples: Triples, setting: Setting = SETTING) -> Evaluation:
    data = open_dataset(triples.root, "real_triples", on_missing="skip")
    return Evaluator(model, data, setting, device=CPU).run()


def test_numbers_are_those_of_the_files_and_of_the_prediction(
    model: DepthNet, triples: Triples
) -> None:
    evaluation = run(model, triples)
    data = open_dataset(triples.root, "real_triples")
    sample = data[0]
    # z = range * cosine, with the rays of the same camera
    rays = sample.camera.to(dtype=torch.float64).rays().numpy()
    z = predict_distance(model, sample, width=64, device=CPU) * rays[..., 2]
    true = tilted_plane(1.5)
    table = evaluation.per_image
    chosen = table[(table["image"] == "room/desk_0") & (table["alignment"] == "none")]
    values = chosen[chosen["predictor"] == "network"].set_index("metric")["value"]
    assert values["abs_rel"] == pytest.approx(float(np.mean(np.abs(z - true) / true)), abs=1e-3)
    assert values["rmse"] == pytest.approx(float(np.sqrt(np.mean((z - true) ** 2))), abs=1e-3)
    constant = chosen[chosen["predictor"] == "constant"].set_index("metric")["value"]
    middle = np.median([np.median(tilted_plane(d)) for d in (1.5, 2.5, 3.5, 3.0)])
    expected = float(np.mean(np.abs(middle - true) / true))
    assert constant["abs_rel"] == pytest.approx(expected, abs=1e-3)
    assert {"f_area_squared", "abs_rel_solid_angle", "d_auc"} <= set(values.index)


def test_scenes_count_once_and_conventions_stay_apart(model: DepthNet, triples: Triples) -> None:
    evaluation = run(model, triples, dataclasses.replace(SETTING, cloud_points=0))
    table = evaluation.per_image
    chosen = table[
        (table["predictor"] == "network")
        & (table["alignment"] == "none")
        & (table["metric"] == "abs_rel")
    ].set_index("image")["value"]
    summary = summarise(evaluation.per_image)
    rows = summary[
        (summary["predictor"] == "network")
        & (summary["alignment"] == "none")
        & (summary["metric"] == "abs_rel")
    ]
    found = {(row["level"], row["name"]): row for row in rows.to_dict("records")}
    room = found["group", "room"]
    desk, sofa = chosen[[f"room/desk_{n}" for n in range(3)]].mean(), chosen["room/sofa_0"]
    assert room["mean_images"] == pytest.approx((3 * desk + sofa) / 4)
    assert room["mean_scenes"] == pytest.approx((desk + sofa) / 2)
    assert (room["images"], room["scenes"]) == (4, 2)
    assert {name for level, name in found if level == "all"} == {"all z", "all range"}
    assert found["all", "all range"]["mean_images"] == pytest.approx(chosen["lens/desk_5"])
    assert set(evaluation.constants) == {"room", "lens"}


def test_a_damaged_frame_stops_unless_it_may_be_skipped(model: DepthNet, triples: Triples) -> None:
    (triples.root / "room" / "desk_1_depth.png").write_bytes(b"\x89PNG")
    setting = dataclasses.replace(SETTING, cloud_points=0, alignments=("none",))
    with pytest.raises(UserError, match=r"1 of 5 frames.*desk_1_depth"):
        run(model, triples, setting)
    evaluation = run(model, triples, dataclasses.replace(setting, skip_unreadable=True))
    assert list(evaluation.unreadable) == ["room/desk_1"]
    assert "room/desk_1" not in set(evaluation.per_image["image"])


def test_an_unknown_convention_is_refused(
    model: DepthNet, triples: Triples, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = open_dataset(triples.root, "real_triples")
    raw = dataclasses.replace(data.read_raw(0))
    object.__setattr__(raw, "convention", "unknown")
    monkeypatch.setattr(data, "read_raw", lambda _index: raw)
    with pytest.raises(UserError, match="convention"):
        Evaluator(model, data, SETTING, device=CPU).run()


@pytest.mark.parametrize(
    ("changed", "told"),
    [({"width": 16}, "16"), ({"alignments": ("scale_medin",)}, "scale_median")],
)
def test_a_mistaken_setting_is_named(changed: dict, told: str) -> None:
    with pytest.raises(UserError, match=told):
        Setting(**changed)


def test_solid_angles_have_the_closed_form_of_a_pinhole() -> None:
    lens = Pinhole(torch.tensor([100.0, 100.0, 80.0, 60.0], dtype=torch.float64), (120, 160))
    rays = lens.rays().numpy()
    measured = solid_angles(rays)[1:-1, 1:-1]
    assert measured == pytest.approx((rays[..., 2] ** 3 / 100**2)[1:-1, 1:-1], rel=2e-3)


def test_solid_angles_of_a_fisheye_cover_its_cap() -> None:
    params = torch.tensor([100.0, 100, 160, 160, 0, 0, 0, 0], dtype=torch.float64)
    lens = KannalaBrandt(params, (320, 320))
    rays = lens.rays().numpy()
    cap = np.arccos(rays[..., 2]) < math.radians(80)
    total = solid_angles(rays)[cap].sum()
    assert total == pytest.approx(2 * math.pi * (1 - math.cos(math.radians(80))), rel=5e-3)


def test_rings_and_bands_by_hand() -> None:
    errors = AngleErrors()
    polar = np.radians([5.0, 5.0, 15.0, 95.0])
    true = np.array([1.5, 3.0, 1.5, 1.5])
    errors.add(true * np.array([1.1, 1.3, 2.0, 1.0]), true, polar)
    errors.add(true[:1] * 1.3, true[:1], polar[:1])
    table = errors.table({"group": "g"})
    rings = table[table["distance_from"].isna()].set_index("polar_from")
    assert list(rings.index) == [0, 10, 90]
    # the mean of two images, 0.2 and 0.3: not of three pixels
    assert rings.loc[0, "abs_rel"] == pytest.approx(0.25)
    assert rings.loc[0, "delta1"] == pytest.approx(0.25)
    assert rings.loc[10, "rmse"] == pytest.approx(1.5)
    assert rings.loc[10, "log_bias"] == pytest.approx(math.log(2))
    assert list(rings["images"]) == [2, 1, 1]
    near = table[(table["polar_from"] == 0) & (table["distance_from"] == 1)]
    assert float(near["abs_rel"].iloc[0]) == pytest.approx(0.2)


def test_thinning_keeps_valid_pixels_and_about_the_limit() -> None:
    valid = np.random.default_rng(0).random((200, 300)) < 0.5
    rows, columns = thin(valid, 5000)
    assert valid[rows, columns].all()
    assert 0.8 * 5000 < len(rows) <= 1.1 * 5000
    everything = thin(valid, 10**6)
    assert len(everything[0]) == valid.sum()


def test_a_summary_of_one_image_is_that_image() -> None:
    labels = {"image": "a", "scene": "s", "group": "g", "convention": "z"}
    row = {**labels, "predictor": "network", "alignment": "none", "metric": "rmse", "value": 2.0}
    summary = summarise(pd.DataFrame([row]))
    assert list(summary["level"]) == ["all", "group", "scene"]
    assert (summary["mean_images"] == 2.0).all()
    assert (summary["mean_scenes"] == 2.0).all()
