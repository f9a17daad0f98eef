"""Which runs a study has: counts in closed form, keys that change with the recipe alone."""

import dataclasses
import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import run_study
from dart.recipe import ZERO_SHOT, ProtocolSpec, Recipe, TrainingSpec
from dart.studies.plan import Planner, create_recipe, make_plan
from dart.studies.spec import Study, load_spec
from tests.helpers.study_engine import VARIANTS, FakeRun, own_registry, run_toy, write_study

LISTS = (
    "variants:\n  plain: {}\n  tuned: {rank: [4, 8, 16], gate: [0.0, 1.0], wide: [false, true]}\n"
)
SEARCH = """\
variants: {plain: {}, tuned: {rank: {low: 2, high: 64}}}
budget: {trials: 4, seeds: [0, 1]}
"""


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    with own_registry():
        yield


def _study(folder: Path, text: str) -> Study:
    return load_spec(write_study(folder, text))


def _labels(study: Study) -> list[tuple[Any, ...]]:
    return [
        (cell.recipe.variant, tuple(cell.recipe.hyperparameters.values()), cell.recipe.seed)
        for cell in Planner(study).enumerate()
    ]


def test_factorial_runs_every_combination_once_a_seed(tmp_path: Path) -> None:
    study = _study(tmp_path, LISTS + "budget: {seeds: [0, 1]}")
    labels = _labels(study)
    assert len(labels) == 1 + 2 * (1 + 3 * 2 * 2)
    assert len(set(labels)) == len(labels)
    assert labels[0][0] == ZERO_SHOT


def test_ofat_changes_one_factor_of_the_first_values(tmp_path: Path) -> None:
    study = _study(tmp_path, LISTS + "design: ofat\nbudget: {seeds: [0, 1]}")
    tuned = [values for variant, values, seed in _labels(study) if variant == "tuned" and not seed]
    assert len(tuned) == 1 + (3 - 1) + (2 - 1) + (2 - 1)
    base = (4, 0.0, False, "mean")
    assert tuned[0] == base
    for values in tuned[1:]:
        assert sum(a != b for a, b in zip(values, base, strict=True)) == 1


def test_training_fields_are_factors_of_every_variant(tmp_path: Path) -> None:
    study = _study(tmp_path, LISTS + "search: {learning_rate: [1e-3, 1e-4]}")
    cells = Planner(study).enumerate()
    assert len(cells) == 1 + 2 * (1 + 12)
    assert {cell.recipe.training.learning_rate for cell in cells[1:]} == {1e-3, 1e-4}
    assert cells[1].training == {"learning_rate": 1e-3}


def test_a_plan_is_the_same_every_time(tmp_path: Path) -> None:
    study = _study(tmp_path, LISTS)
    first = [cell.to_dict() for cell in Planner(study).enumerate()]
    assert first == [cell.to_dict() for cell in Planner(load_spec(study.file.path)).enumerate()]


def test_the_untouched_network_is_one_run_whatever_the_training(tmp_path: Path) -> None:
    one = Planner(_study(tmp_path, LISTS)).zero_shot()
    text = LISTS + "training: {steps: 7}\nbudget: {seeds: [3, 4]}"
    other = Planner(_study(tmp_path, text)).zero_shot()
    assert one.key == other.key


def test_a_value_written_out_is_the_default_it_equals(tmp_path: Path) -> None:
    one = _study(tmp_path, "variants: {tuned: {}}")
    other = _study(tmp_path, "variants: {tuned: {rank: 8, gate: 0, wide: false}}")
    assert _keys(one) == _keys(other)


def _keys(study: Study) -> list[str]:
    return [cell.key for cell in Planner(study).enumerate()]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("variants:", "question: Why?\nvariants:"),
        ("variants:", "baseline: tuned\nvariants:"),
        ("variants:", "# a comment\nvariants:"),
        ("seeds: [0]", "trials: 99, seeds: [0]"),
        ("metric: abs_rel", "metric: delta1"),
        ("variants:", "constraints: {forgetting: 0.1}\nvariants:"),
    ],
)
def test_what_changes_no_number_changes_no_key(old: str, new: str, tmp_path: Path) -> None:
    text = LISTS + "protocol: {pretrained: CHECKPOINT, metric: abs_rel}\nbudget: {seeds: [0]}\n"
    assert old in text
    assert _keys(_study(tmp_path, text)) == _keys(_study(tmp_path, text.replace(old, new)))


EMPTY_AT_FIRST = {"interpolate": (0.5,), "virtual_lenses": ("own",)}


def _other(value: Any) -> Any:
    """Return another value of the same kind."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return f"{value}x"
        case tuple():
            return value[:-1]
        case dict():
            return {name: _other(old) for name, old in value.items()} or {"decoder": 2.0}
    raise AssertionError(value)


def _recipe_changes() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every field of a recipe with one change of it, found from the models themselves."""
    recipe = _recipe()
    for name in TrainingSpec.model_fields:
        value = getattr(recipe.training, name)
        other = EMPTY_AT_FIRST[name] if value == () else _other(value)
        changed = recipe.training.model_copy(update={name: other})
        yield f"training.{name}", {"training": changed}
    for name in set(ProtocolSpec.model_fields) - {"metric", "pretrained", "files"}:
        value = getattr(recipe.protocol, name)
        yield (
            f"protocol.{name}",
            {"protocol": recipe.protocol.model_copy(update={name: _other(value)})},
        )
    for name in set(Recipe.model_fields) - {"training", "protocol"}:
        yield name, {name: _other(getattr(recipe, name))}


def _recipe() -> Recipe:
    return Recipe(
        variant="tuned",
        hyperparameters={"rank": 8, "gate": 1.0},
        variant_code="1",
        pretrained_sha256="2",
        data={"rooms_fisheye/test": "3"},
    )


def test_every_field_of_a_recipe_changes_its_key() -> None:
    keys = {"": _recipe().key}
    for name, change in _recipe_changes():
        keys[name] = _recipe().model_copy(update=change).key
    assert len(set(keys.values())) == len(keys)
    assert len(keys) > len(TrainingSpec.model_fields) + len(Recipe.model_fields)


def test_an_edited_variant_checkpoint_or_data_set_is_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = _study(tmp_path, "variants: {plain: {}, tuned: {}}")
    zero, plain, tuned = _keys(study)
    edited = {**VARIANTS, "tuned": dataclasses.replace(VARIANTS["tuned"], code="2")}
    with own_registry(edited):
        assert _keys(load_spec(study.file.path))[:2] == [zero, plain]
        assert _keys(load_spec(study.file.path))[2] != tuned
    monkeypatch.setattr(
        "dart.studies.plan.fingerprint", lambda name, split: f"{name}/{split} rendered again"
    )
    assert not set(_keys(study)) & {zero, plain, tuned}
    monkeypatch.undo()
    checkpoint = tmp_path / "net.safetensors"
    header = checkpoint.read_bytes()[8:].replace(b"{", b"{ ", 1)
    checkpoint.write_bytes(len(header).to_bytes(8, "little") + header)
    assert not set(_keys(study)) & {zero, plain, tuned}


def test_a_run_outside_a_study_has_the_key_of_the_same_run_inside(tmp_path: Path) -> None:
    study = _study(tmp_path, "variants: {tuned: {rank: 4}}\ntraining: {steps: 7}")
    spec = study.spec
    single = create_recipe("tuned", {"rank": 4}, spec.protocol, spec.training, 0)
    assert single.key == _keys(study)[1]


def test_states_and_time_left_come_from_the_run_folders(tmp_path: Path) -> None:
    text = "variants: {plain: {}, broken: {}}\nbudget: {seeds: [0, 1]}"
    path = write_study(tmp_path, text)
    results = tmp_path / "results"
    before = make_plan(load_spec(path), results)
    assert before.states() == ["missing"] * 5
    assert before.seconds_left is None
    assert not results.exists()

    run_toy(path, results)
    write_study(tmp_path, text.replace("[0, 1]", "[0, 1, 2]"))
    plan = make_plan(load_spec(path), results)
    states = {cell.label: state for cell, state in zip(plan.cells, plan.states(), strict=True)}
    assert states == {
        "zero_shot trial 0 seed 0": "done",
        "plain trial 0 seed 0": "done",
        "plain trial 0 seed 1": "done",
        "plain trial 0 seed 2": "missing",
        "broken trial 0 seed 0": "failed",
        "broken trial 0 seed 1": "failed",
        "broken trial 0 seed 2": "missing",
    }
    # Each finished run says 0.5 s: the known variant's mean, and the same pace for the other.
    assert plan.seconds_left == pytest.approx(1.0)
    only = make_plan(load_spec(path), results, only=["plain"])
    assert len(only.cells) == 4


@pytest.mark.parametrize(
    ("arguments", "past", "left"),
    [
        ([], {}, "about 2160 s, 0.6 CPU-hours"),
        ([], {"fold": 6}, "about 360 s, 0.1 CPU-hours"),
        (["--workers", "4"], {}, "about 1080 s, 0.6 CPU-hours"),
        (["--device", "cuda"], {}, "about 2160 s, 0.6 GPU-hours"),
        (["--device", "cuda", "--gpus-per-run", "0.25", "--workers", "4"], {}, "0.15 GPU-hours"),
    ],
)
def test_the_plan_tells_time_and_hours_of_accelerators_by_past_runs(
    arguments: list[str],
    past: dict[str, int],
    left: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write_study(tmp_path, "variants: {plain: {}}\nbudget: {seeds: [0]}")
    run_toy(path, tmp_path)
    took = {"wall_seconds": 1080.0} | past
    for record in tmp_path.glob("runs/*/result.json"):
        record.write_text(json.dumps(json.loads(record.read_text()) | took))
    write_study(tmp_path, "variants: {plain: {}}\nbudget: {seeds: [0, 1, 2]}")
    handler = signal.getsignal(signal.SIGTERM)
    try:
        assert run_study.main([str(path), "--plan", "--results", str(tmp_path), *arguments]) == 0
    finally:
        signal.signal(signal.SIGTERM, handler)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(
        "study toy (factorial): 4 runs, 2 done, 0 failed, 2 missing; time left: "
    )
    assert last.endswith(left)


def test_the_plan_shows_the_aliases_of_a_fractional_design(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        "variants: {tuned: {rank: [4, 8], gate: [0.0, 1.0], wide: [false, true], "
        "mix: [mean, gated]}}\ndesign: fractional\nfraction: {runs: 8}\n"
    )
    path = write_study(tmp_path, text)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        assert run_study.main([str(path), "--plan", "--results", str(tmp_path / "none")]) == 0
    finally:
        signal.signal(signal.SIGTERM, handler)
    shown = capsys.readouterr().out
    assert "design of tuned: 2^(4-1): 8 runs, resolution IV" in shown
    # Of resolution IV: pairs of factors share columns, single factors have theirs.
    assert re.search(r"rank\W+gate.*=.*wide\W+mix", shown)
    assert len(re.findall(r"^[0-9a-f]{16}  missing", shown, re.MULTILINE)) == 1 + 8


def test_a_record_that_cannot_be_read_is_shown_as_failed(tmp_path: Path) -> None:
    path = write_study(tmp_path, "variants: {plain: {}}")
    run_toy(path, tmp_path)
    plan = make_plan(load_spec(path), tmp_path)
    folder = tmp_path / "runs" / plan.cells[0].key[:16]
    (folder / "result.json").write_text('{"status"')
    (tmp_path / "runs" / plan.cells[1].key[:16] / "result.json").unlink()
    plan = make_plan(load_spec(path), tmp_path)
    assert plan.states() == ["failed", "failed"]
    assert all("result.json" in str(result and result["reason"]) for result in plan.results)


def test_a_search_plans_its_budget_and_then_what_it_proposed(tmp_path: Path) -> None:
    path = write_study(tmp_path, SEARCH)
    plan = make_plan(load_spec(path), tmp_path)
    # Nothing of the plain variant varies: it has one choice and no search.
    assert [cell.recipe.variant for cell in plan.cells] == [ZERO_SHOT, "plain", "plain"]
    assert plan.open_trials == {"tuned": 4}
    run_toy(path, tmp_path)
    plan = make_plan(load_spec(path), tmp_path)
    assert plan.open_trials == {"tuned": 0}
    assert set(plan.states()) == {"done"}
    write_study(tmp_path, SEARCH.replace("trials: 4", "trials: 6"))
    assert make_plan(load_spec(path), tmp_path).open_trials == {"tuned": 2}
    # Another protocol is another search: nothing of it has been proposed.
    write_study(tmp_path, SEARCH + "training: {steps: 7}")
    plan = make_plan(load_spec(path), tmp_path)
    assert plan.open_trials == {"tuned": 4}
    assert len(plan.cells) == 3


def test_a_damaged_list_of_cells_is_made_anew(tmp_path: Path) -> None:
    path = write_study(tmp_path, SEARCH)
    run_toy(path, tmp_path)
    cells = tmp_path / "studies" / "toy" / "cells.json"
    whole = json.loads(cells.read_text())
    cells.write_text("{")
    assert make_plan(load_spec(path), tmp_path).open_trials == {"tuned": 4}
    run = FakeRun()
    run_toy(path, tmp_path, run)
    assert run.calls == []  # Optuna's store still knows what was proposed
    assert json.loads(cells.read_text()) == whole
    assert make_plan(load_spec(path), tmp_path).open_trials == {"tuned": 0}
