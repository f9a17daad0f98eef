"""From run folders with planted effects to verdicts."""

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.aa_simulation import count_claims
from dart.analysis.claims import Evidence, decide
from dart.analysis.statistics import Estimate
from dart.analysis.verdict_tables import to_dict, to_frame
from dart.analysis.verdicts import Comparison, VariantVerdict, compare_study
from dart.errors import UserError
from tests.helpers.study_chance import Plan, write_plan

MARGINS = {"margin": 0.02, "rope": 0.02}
EFFECTS = {
    "base": (0.0, 0.0),
    "gains": (0.05, 0.0),
    "gains_and_loses": (0.05, 0.05),
    "loses_both": (-0.05, 0.05),
    "forgets": (0.0, 0.05),
    "keeps_but_lags": (-0.05, -0.05),
    "alike": (0.0, 0.0),
}
EXPECTED = {
    "zero_shot": "reference",
    "base": "baseline",
    "gains": "better",
    "gains_and_loses": "trade-off",
    "loses_both": "worse",
    "forgets": "worse",
    "keeps_but_lags": "trade-off",
    "alike": "equivalent",
}


def _by_name(comparison: Comparison) -> dict[str, VariantVerdict]:
    return {row.variant: row for row in comparison.verdicts}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    folder = write_plan(tmp_path_factory.mktemp("planted"), Plan(EFFECTS, comparison=MARGINS))
    return compare_study(folder)


def test_planted_effects_get_their_word(planted: Comparison) -> None:
    assert {row.variant: row.verdict for row in planted.verdicts} == EXPECTED


@pytest.mark.parametrize("variant", [name for name in EFFECTS if name != "base"])
@pytest.mark.parametrize("index", [0, 1])
def test_planted_effects_are_recovered(planted: Comparison, variant: str, index: int) -> None:
    effect = _by_name(planted)[variant].effects[("adaptation", "forgetting")[index]]
    difference, true = effect.difference, EFFECTS[variant][index]
    assert difference is not None
    # Sixteen intervals of level 0.95 do not all hold the truth; twice the width nearly surely.
    half = difference.upper - difference.lower
    assert abs(difference.value - true) < half
    assert abs(difference.value - true) < 0.012
    if true:
        assert np.sign(difference.value) == np.sign(true)
        assert effect.p_holm < 0.05
        assert effect.p_holm >= difference.p
    assert effect.own.lower < effect.own.value < effect.own.upper


def test_the_other_numbers_say_the_same(planted: Comparison) -> None:
    rows = _by_name(planted)
    gains = rows["gains"].effects["adaptation"]
    assert gains.relative is not None
    assert gains.wins is not None
    assert gains.reading is not None
    assert gains.relative.value == pytest.approx(0.15 / 0.20 - 1, abs=0.05)
    assert gains.wins.lower > 0.9
    assert gains.reading.above > 0.95
    assert gains.effect_size > 2
    assert rows["gains"].on_front > 0.5
    assert rows["loses_both"].on_front == 0
    assert planted.hypervolume.lower <= planted.hypervolume.value <= planted.hypervolume.upper
    held_out = rows["gains"].effects["held_out"].difference
    assert held_out is not None
    assert held_out.value == pytest.approx(0.05, abs=0.02)  # the plan's gain goes there too


def test_one_seed_gives_no_interval_and_no_claim(tmp_path: Path) -> None:
    folder = write_plan(tmp_path, Plan(EFFECTS, seeds=1, comparison=MARGINS))
    found = compare_study(folder)
    for row in found.verdicts[2:]:
        assert row.verdict == "inconclusive"
        assert row.reason.startswith("one seed")
        difference = row.effects["adaptation"].difference
        assert difference is not None
        assert math.isnan(difference.p)
        assert math.isnan(difference.lower)
        assert math.isnan(row.on_front)
    assert any(note.startswith("1 seed: no interval") for note in found.notes)
    json.dumps(to_dict(found), allow_nan=False)


def test_the_baseline_against_itself_is_nothing(tmp_path: Path) -> None:
    folder = write_plan(tmp_path, Plan({"base": (0.0, 0.0), "other": (0.03, 0.0)}))
    content = json.loads((folder / "cells.json").read_text())
    for cell in [cell for cell in content["cells"] if cell["variant"] == "base"]:
        key = cell["key"][::-1]  # the same run under another name
        copy = tmp_path / "runs" / key[:16]
        shutil.copytree(tmp_path / "runs" / cell["key"][:16], copy)
        record = json.loads((copy / "result.json").read_text())
        (copy / "result.json").write_text(json.dumps(record | {"key": key}))
        content["cells"].append(cell | {"variant": "twin", "key": key})
    (folder / "cells.json").write_text(json.dumps(content))
    twin = _by_name(compare_study(folder))["twin"]
    for objective in ("adaptation", "forgetting"):
        difference = twin.effects[objective].difference
        assert difference is not None
        assert (difference.value, difference.lower, difference.upper) == (0, 0, 0)
        assert difference.p == 1
    assert twin.verdict == "equivalent"
    wins = twin.effects["adaptation"].wins
    assert wins is not None
    assert wins.value == 0.5


def test_names_and_order_change_nothing(tmp_path: Path) -> None:
    first = compare_study(write_plan(tmp_path / "a", Plan(EFFECTS)))
    order = [*reversed(EFFECTS)]
    turned = compare_study(write_plan(tmp_path / "b", Plan(EFFECTS), order=order))
    renamed = {f"x_{name}": effect for name, effect in EFFECTS.items()}
    other = compare_study(write_plan(tmp_path / "c", Plan(renamed)))
    for name in list(EFFECTS)[1:]:
        one = _by_name(first)[name]
        for comparison, called in ((turned, name), (other, f"x_{name}")):
            two = _by_name(comparison)[called]
            assert two.verdict == one.verdict
            for objective in ("adaptation", "forgetting"):
                a, b = one.effects[objective], two.effects[objective]
                assert a.difference is not None
                assert b.difference is not None
                assert b.difference.value == pytest.approx(a.difference.value, rel=1e-9)
                assert b.difference.upper == pytest.approx(a.difference.upper, rel=1e-9)
                assert b.p_holm == pytest.approx(a.p_holm, rel=1e-9)


def test_twice_the_errors_are_twice_the_differences(tmp_path: Path) -> None:
    once = compare_study(write_plan(tmp_path / "a", Plan(EFFECTS)))
    twice = compare_study(write_plan(tmp_path / "b", Plan(EFFECTS, scale=2.0)))
    assert twice.margin == pytest.approx(2 * once.margin)  # a share of the value before
    for one, two in zip(once.verdicts, twice.verdicts, strict=True):
        assert one.verdict == two.verdict
        a, b = (row.effects["forgetting"].difference for row in (one, two))
        if a is not None and b is not None:
            assert (b.value, b.lower) == pytest.approx((2 * a.value, 2 * a.lower))


def test_the_sign_is_right_where_higher_is_better(tmp_path: Path, planted: Comparison) -> None:
    folder = write_plan(tmp_path, Plan(EFFECTS, metric="delta1", comparison=MARGINS))
    found = compare_study(folder)
    assert {row.variant: row.verdict for row in found.verdicts} == EXPECTED
    for one, two in zip(planted.verdicts, found.verdicts, strict=True):
        a, b = (row.effects["adaptation"].difference for row in (one, two))
        if a is not None and b is not None:
            assert b.value == pytest.approx(a.value)
    relative = _by_name(found)["gains"].effects["adaptation"].relative
    assert relative is not None
    assert relative.value > 0  # delta1 itself rose


def test_any_variant_can_be_the_baseline(tmp_path: Path) -> None:
    folder = write_plan(tmp_path, Plan(EFFECTS, comparison=MARGINS))
    swapped = _by_name(compare_study(folder, baseline="gains"))
    assert swapped["base"].verdict == "worse"
    untouched = _by_name(compare_study(folder, baseline="zero_shot"))
    gain = untouched["base"].effects["adaptation"]
    assert gain.difference == gain.own  # from nothing on
    assert untouched["zero_shot"].verdict == "baseline"


def test_frames_of_few_scenes_make_wider_intervals(tmp_path: Path) -> None:
    many = compare_study(write_plan(tmp_path / "a", Plan(EFFECTS)))
    few = compare_study(write_plan(tmp_path / "b", Plan(EFFECTS, scenes=5)))
    assert (few.images["wide"], few.scenes["wide"], many.scenes["wide"]) == (40, 5, 40)
    assert any("40 images of 5 scenes" in note for note in few.notes)
    own = [_by_name(found)["base"].effects["adaptation"].own for found in (many, few)]
    assert own[1].value == pytest.approx(own[0].value, abs=1e-3)


def test_a_failed_run_drops_its_seed_for_all(tmp_path: Path) -> None:
    status = {("gains", 2): "failed", ("alike", 4): "missing"}
    found = compare_study(write_plan(tmp_path / "a", Plan(EFFECTS, status=status)))
    assert found.seeds == (0, 1, 3)
    notes = "\n".join(found.notes)
    assert "1 of 36 runs failed: gains 1" in notes
    assert "1 of 36 runs missing: alike 1" in notes
    assert "seed 2, 4 dropped for all variants: gains lacks 2; alike lacks 4" in notes
    assert (_by_name(found)["gains"].failed, _by_name(found)["alike"].missing) == (1, 1)
    # What is left is what a study of those seeds alone gives.
    whole = compare_study(write_plan(tmp_path / "b", Plan(EFFECTS)))
    assert _by_name(found)["forgets"].effects != _by_name(whole)["forgets"].effects


def test_a_variant_without_any_run_is_a_row_without_numbers(tmp_path: Path) -> None:
    status = {("gains", seed): "failed" for seed in range(5)}
    found = compare_study(write_plan(tmp_path, Plan(EFFECTS, status=status)))
    assert len(found.seeds) == 5
    row = _by_name(found)["gains"]
    assert (row.verdict, row.reason, row.failed) == ("inconclusive", "no finished run", 5)
    assert not row.effects
    assert "gains" not in set(to_frame(found)["variant"])


@pytest.mark.parametrize(
    ("status", "says"),
    [
        ({("base", seed): "failed" for seed in range(5)}, "the baseline 'base' has no finished"),
        (
            {("gains", seed): "failed" for seed in (0, 1, 2)}
            | {("alike", 3): "failed"}
            | {("alike", 4): "failed"},
            r"no seed has a finished run of every variant \(gains lacks 0, 1, 2; alike lacks 3, 4",
        ),
    ],
)
def test_nothing_to_compare_is_said(
    tmp_path: Path, status: Mapping[tuple[str, int], str], says: str
) -> None:
    folder = write_plan(tmp_path, Plan(EFFECTS, status=status))
    with pytest.raises(UserError, match=says):
        compare_study(folder)


def test_distance_and_depth_are_not_compared(tmp_path: Path) -> None:
    record: dict[tuple[str, int], dict[str, Any]] = {
        ("base", 0): {"convention": "distance along the ray"},
        ("gains", 1): {"convention": "depth along the axis"},
    }
    folder = write_plan(tmp_path, Plan(EFFECTS, record=record))
    with pytest.raises(UserError, match=r"'depth along the axis' and 'distance along the ray'"):
        compare_study(folder)


def test_mixed_code_is_noted(tmp_path: Path) -> None:
    made: list[dict[str, Any]] = [
        {"git_sha": "a", "dirty": False, "versions": {"torch": "2.9"}, "device": "cpu"},
        {"git_sha": "b", "dirty": True, "versions": {"torch": "2.10"}, "device": "cuda"},
    ]
    record = {("base", seed): {"environment": made[seed]} for seed in (0, 1)}
    notes = "\n".join(compare_study(write_plan(tmp_path, Plan(EFFECTS, record=record))).notes)
    assert "runs are of 2 versions of the code" in notes
    assert "1 of 36 runs are of code that was not committed" in notes
    assert "runs used 2 versions of torch" in notes
    assert "different devices: cpu, cuda" in notes


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"baseline": "gainz"}, r"unknown baseline 'gainz'.*did you mean 'gains'"),
        ({"metric": "abs_rl"}, r"unknown metric 'abs_rl'.*did you mean 'abs_rel'"),
    ],
)
def test_unknown_names_get_the_nearest(tmp_path: Path, options: Any, says: str) -> None:
    folder = write_plan(tmp_path, Plan(EFFECTS))
    with pytest.raises(UserError, match=says):
        compare_study(folder, **options)


def test_a_study_of_before_declared_margins_has_the_defaults(tmp_path: Path) -> None:
    folder = write_plan(tmp_path, Plan(EFFECTS))
    assert "comparison" not in json.loads((folder / "cells.json").read_text())
    found = compare_study(folder)
    assert found.alpha == 0.05
    assert found.margin == pytest.approx(0.05 * 0.15, rel=0.1)  # of the sources' 0.10 and 0.20
    assert found.rope == pytest.approx(0.05 * 0.40, rel=0.1)


def test_frame_and_object_hold_the_same_numbers(planted: Comparison) -> None:
    frame = to_frame(planted).set_index(["variant", "objective"])
    rows = {row["variant"]: row for row in to_dict(planted)["verdicts"]}
    for name, row in rows.items():
        for objective, effect in row["effects"].items():
            numbers = frame.loc[(name, objective)]
            assert numbers["own"] == effect["own"]["value"]
            if effect["difference"] is None:
                assert pd.isna(numbers["difference"])
            else:
                assert numbers["difference_upper"] == pytest.approx(effect["difference"]["upper"])


def _evidence(value: float, error: float, *, p: float) -> Evidence:
    return Evidence(Estimate(value, error, 30.0, value - 2 * error, value + 2 * error, p), p, 0.02)


@pytest.mark.parametrize(
    ("gain", "loss", "word"),
    [
        (_evidence(0.05, 0.005, p=0.001), _evidence(0.0, 0.005, p=1.0), "better"),
        # More forgetting, surely, but surely less than the margin.
        (_evidence(0.05, 0.005, p=0.001), _evidence(0.01, 0.001, p=0.001), "better"),
        (_evidence(0.0, 0.03, p=1.0), _evidence(0.01, 0.001, p=0.001), "inconclusive"),
        # The margin is not ruled out.
        (_evidence(0.05, 0.005, p=0.001), _evidence(0.0, 0.05, p=1.0), "inconclusive"),
        (_evidence(0.05, 0.005, p=0.001), _evidence(0.06, 0.005, p=0.001), "trade-off"),
        (_evidence(-0.05, 0.005, p=0.001), _evidence(-0.06, 0.005, p=0.001), "trade-off"),
        (_evidence(-0.05, 0.005, p=0.001), _evidence(0.0, 0.005, p=1.0), "worse"),
        (_evidence(0.0, 0.005, p=1.0), _evidence(0.0, 0.005, p=1.0), "equivalent"),
        (_evidence(0.0, 0.005, p=1.0), _evidence(0.0, 0.05, p=1.0), "inconclusive"),
        (_evidence(0.0, 0.05, p=1.0), _evidence(-0.06, 0.005, p=0.001), "inconclusive"),
    ],
)
def test_the_claim_rule(gain: Evidence, loss: Evidence, word: str) -> None:
    verdict, reason = decide(gain, loss, alpha=0.05)
    assert verdict == word
    assert "no difference" not in reason.replace("no difference shown", "")


def test_a_gain_too_small_to_matter_is_called_so() -> None:
    kept = _evidence(0.0, 0.005, p=1.0)
    _, large = decide(_evidence(0.05, 0.005, p=0.001), kept, alpha=0.05)
    verdict, small = decide(_evidence(0.01, 0.002, p=0.001), kept, alpha=0.05)  # margin 0.02
    assert verdict == "better"
    assert "too small to matter in practice" in small
    assert "too small" not in large


def test_a_missing_interval_is_no_verdict() -> None:
    gain = _evidence(0.05, 0.005, p=0.001)
    blind = replace(gain, difference=Estimate(0.0, *[math.nan] * 5, reason="one seed"))
    assert decide(gain, blind, alpha=0.05) == ("inconclusive", "one seed")


def test_equal_variants_are_seldom_claimed_to_differ_short() -> None:
    # 120 studies of eight variants: 0.07 + 2 standard errors.
    share, _ = count_claims(120, seeds=5)
    assert share <= 0.07 + 2 * (0.07 * 0.93 / 120) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [5, 10])
def test_equal_variants_are_seldom_claimed_to_differ(seeds: int) -> None:
    share, _ = count_claims(1000, seeds=seeds)
    assert 0.03 <= share <= 0.07
