"""The ``comparison`` block of a study file: checked, kept, and without effect on any run."""

import json
from pathlib import Path

import pytest

from dart.comparison import ComparisonSpec
from dart.errors import UserError
from dart.studies.plan import Planner
from dart.studies.spec import load_spec
from tests.helpers.study_engine import own_registry, run_toy, write_study

STUDY = "variants: {tuned: {rank: [4, 8]}, plain: {}}\nbaseline: tuned\n"


def test_margins_are_kept_and_change_no_key(tmp_path: Path) -> None:
    with own_registry():
        plain = write_study(tmp_path, STUDY, name="plain")
        declared = write_study(tmp_path, STUDY + "comparison: {margin: 0.02}\n", name="declared")
        keys = [
            [cell.key for cell in Planner(load_spec(path)).enumerate()]
            for path in (plain, declared)
        ]
        assert keys[0] == keys[1]
    run_toy(declared, tmp_path)
    content = json.loads((tmp_path / "studies" / "declared" / "cells.json").read_text())
    assert ComparisonSpec.model_validate(content["comparison"]).margin == 0.02


@pytest.mark.parametrize(
    ("block", "says"),
    [
        ("{margn: 0.01}", "unknown key 'margn'.*did you mean 'margin'"),
        ("{margin: 0.01, margin_relative: 0.1}", "give margin or margin_relative, not both"),
        ("{alpha: 0.7}", "comparison.alpha: should be less than 0.5"),
        ("{rope: -1}", "comparison.rope: should be greater than 0"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, block: str, says: str) -> None:
    path = write_study(tmp_path, STUDY + f"comparison: {block}\n")
    with own_registry(), pytest.raises(UserError, match=says):
        load_spec(path)


def test_margins_resolve_to_the_metrics_unit() -> None:
    assert ComparisonSpec().resolve_margin(0.2) == pytest.approx(0.01)
    assert ComparisonSpec(margin_relative=0.1).resolve_margin(0.2) == pytest.approx(0.02)
    assert ComparisonSpec(rope=0.03).resolve_rope(0.2) == 0.03
