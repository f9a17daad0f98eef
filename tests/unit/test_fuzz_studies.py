"""Study files made by chance: a plan is the one counted here, or one line says what is wrong.

The oracle knows nothing of the planner: it multiplies the lists out of the file's own text.
"""

import io
import itertools
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import run_study
from dart.recipe import ZERO_SHOT
from dart.studies.plan import make_plan
from dart.studies.spec import load_spec
from tests.helpers.study_engine import own_registry, write_checkpoint

SHORT = 60
DEFAULTS = {"rank": 8, "gate": 0.0, "wide": False, "mix": "mean"}
LEVELS: dict[str, list[Any]] = {
    "rank": [1, 4, 8],
    "gate": [-1.0, 0.5, 2],
    "wide": [True, False],
    "mix": ["mean", "gated"],
}
FIELDS: dict[str, list[Any]] = {
    "learning_rate": [1e-4, 1e-3, 1.0],
    "steps": [10, 20, 30],
    "flip": [True, False],
    "trainable": ["adapters", "adapters+decoder", "decoder"],
    "target": ["rooms_fisheye", "rooms_equisolid"],
}


def _lists(levels: dict[str, list[Any]]) -> st.SearchStrategy[dict[str, list[Any]]]:
    return st.fixed_dictionaries(
        {},
        optional={
            name: st.lists(st.sampled_from(values), min_size=1, max_size=3, unique_by=str)
            for name, values in levels.items()
        },
    )


_valid = st.fixed_dictionaries(
    {
        "design": st.sampled_from(["factorial", "ofat"]),
        "variants": st.fixed_dictionaries(
            {}, optional={"plain": st.just({}), "tuned": _lists(LEVELS)}
        ).filter(bool),
        "budget": st.fixed_dictionaries(
            {"seeds": st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True)}
        ),
    },
    optional={"factors": _lists(FIELDS)},
)


def _combinations(lists: dict[str, list[Any]], design: str) -> list[dict[str, Any]]:
    if design == "factorial":
        return [
            dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())
        ]
    first = {name: values[0] for name, values in lists.items()}
    others = [(name, value) for name, values in lists.items() for value in values[1:]]
    return [first, *({**first, name: value} for name, value in others)]


def _expected(study: dict[str, Any]) -> set[tuple[Any, ...]]:
    """Return the runs that a study asks for, multiplied out by hand."""
    runs: set[tuple[Any, ...]] = set()
    targets = set()
    for variant, own in study["variants"].items():
        shared = study.get("factors", {})
        for choice in _combinations({**own, **shared}, study["design"]):
            target = choice.get("target", "rooms_fisheye")
            hyper = {**DEFAULTS, **{n: v for n, v in choice.items() if n in own}}
            for seed in study["budget"]["seeds"]:
                runs.add(
                    (
                        variant,
                        tuple(hyper.values()) if variant == "tuned" else (),
                        choice.get("learning_rate", 1e-3),
                        choice.get("steps", 400),
                        choice.get("flip", True),
                        choice.get("trainable", "adapters+decoder+scale_head"),
                        target,
                        seed,
                    )
                )
            targets.add(target)
    return runs | {(ZERO_SHOT, target) for target in targets}


def _planned(path: Path) -> list[tuple[Any, ...]]:
    cells = make_plan(load_spec(path), path.parent / "results").cells
    planned: list[tuple[Any, ...]] = []
    for cell in cells:
        recipe = cell.recipe
        if recipe.variant == ZERO_SHOT:
            planned.append((ZERO_SHOT, recipe.protocol.target))
            continue
        planned.append(
            (
                recipe.variant,
                tuple(recipe.hyperparameters.values()),
                recipe.training.learning_rate,
                recipe.training.steps,
                recipe.training.flip,
                "+".join(recipe.training.trainable),
                recipe.protocol.target,
                recipe.seed,
            )
        )
    return planned


def _write(folder: Path, study: dict[str, Any]) -> Path:
    checkpoint = write_checkpoint(folder / "net.safetensors")
    study = {"protocol": {"pretrained": str(checkpoint)}} | study
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return path


def _check_valid(study: dict[str, Any], folder: Path) -> None:
    with own_registry():
        planned = _planned(_write(folder, study))
    assert len(planned) == len(set(planned))
    assert set(planned) == _expected(study)


_leaf = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.dates(),
    st.text(max_size=4),
    st.sampled_from(
        [1e20, -1, 0, 10**30, "plain", "tuned", "grid", "fractional", "search", "ofat", "adapters"]
    ),
)
_names = st.sampled_from(
    [
        *LEVELS,
        *FIELDS,
        "plain",
        "tuned",
        "low",
        "high",
        "log",
        "runs",
        "resolution",
        "rungs",
        "eta",
        "variant",
        "seeds",
        "trials",
        "forgetting",
        "pretrained",
        "",
    ]
)
_value = st.recursive(
    _leaf,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=3),
    max_leaves=6,
)
_change = st.dictionaries(
    st.sampled_from(
        [
            "design",
            "variants",
            "factors",
            "search",
            "settings",
            "fraction",
            "sampler",
            "joint",
            "reference",
            "pruning",
            "budget",
            "training",
            "objectives",
            "constraints",
            "comparison",
            "protocol",
            "baseline",
            "question",
            "x",
        ]
    ),
    _value,
    max_size=3,
)


def _check_any(study: dict[str, Any], change: dict[str, Any], folder: Path) -> None:
    """Plan a study with some of it replaced: a plan, or one line and status 2."""
    path = _write(folder, study | change)
    out, err = io.StringIO(), io.StringIO()
    with own_registry(), redirect_stdout(out), redirect_stderr(err):
        status = run_study.main([str(path), "--plan", "--results", str(folder / "results")])
    assert status in (0, 2)
    if status == 2:
        assert err.getvalue().startswith(f"error: {path}")
        assert err.getvalue().count("\n") == 1
    else:
        assert err.getvalue() == ""
        assert f"study toy ({load_design(path)})" in out.getvalue()


def load_design(path: Path) -> str:
    with own_registry():
        return load_spec(path).spec.design


_fuzz = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@settings(_fuzz, max_examples=SHORT)
@given(study=_valid)
def test_a_plan_is_the_product_of_its_lists(study: dict[str, Any], tmp_path: Path) -> None:
    _check_valid(study, tmp_path)


@settings(_fuzz, max_examples=SHORT)
@given(study=_valid, change=_change)
@example(study={"variants": {"plain": {}}}, change={"factors": {"steps": [1e20]}})
def test_whatever_is_changed_there_is_a_plan_or_one_line(
    study: dict[str, Any], change: dict[str, Any], tmp_path: Path
) -> None:
    _check_any(study, change, tmp_path)


@pytest.mark.slow
@settings(_fuzz, max_examples=5_000)
@given(study=_valid)
def test_five_thousand_plans(study: dict[str, Any], tmp_path: Path) -> None:
    _check_valid(study, tmp_path)


@pytest.mark.slow
@settings(_fuzz, max_examples=6_000)
@given(study=_valid, change=_change)
def test_six_thousand_changed_studies(
    study: dict[str, Any], change: dict[str, Any], tmp_path: Path
) -> None:
    _check_any(study, change, tmp_path)
