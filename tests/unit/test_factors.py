"""Effects of factors and importance of parameters, against statsmodels and Optuna."""

import hashlib
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from dart.analysis import load_runs
from dart.analysis.factors import factor_effects, parameter_importance
from dart.errors import UserError


def _write(results: Path, rows: Sequence[dict[str, Any]], *, design: str) -> Path:
    """Write a study whose runs gain ``gain`` and lose ``loss``, with the other keys as settings."""
    folder = results / "studies" / "toy"
    folder.mkdir(parents=True)
    cells = []
    for row in rows:
        settings = {k: v for k, v in row.items() if k not in ("seed", "trial", "gain", "loss")}
        key = hashlib.sha256(f"{settings} {row['seed']}".encode()).hexdigest()
        variant = settings.pop("variant", "daa")
        place = {"variant": variant, "seed": row["seed"], "trial": row["trial"]}
        cells.append({"key": key, "hyperparameters": settings, **place})
        run = results / "runs" / key[:16]
        run.mkdir(parents=True)
        domains = {
            "plain": {"role": "source", "change": row["loss"]},
            "wide": {"role": "target", "change": -row["gain"]},
        }
        measured = {
            name: {
                "role": domain["role"],
                "before": {"abs_rel": 0.5},
                "after": {"abs_rel": 0.5 + domain["change"]},
            }
            for name, domain in domains.items()
        }
        record = {"key": key, "status": "finished", "domains": measured}
        (run / "result.json").write_text(json.dumps(record))
    head = {"study": "toy", "metric": "abs_rel", "baseline": "daa", "design": design}
    (folder / "cells.json").write_text(json.dumps(head | {"cells": cells}))
    return folder


def _factorial(chance: np.random.Generator, *, interaction: float = 0.0) -> list[dict[str, Any]]:
    choices = list(product([1, 2, 4], ["mean", "gated"]))
    luck = 0.01 * chance.standard_normal(4)
    return [
        {
            "heads": heads,
            "mix": mix,
            "seed": seed,
            "trial": trial,
            "gain": 0.1
            + 0.02 * (mix == "gated")
            + interaction * (mix == "gated") * (heads == 4)
            + luck[seed]
            + 0.003 * chance.standard_normal(),
            "loss": 0.01 * chance.standard_normal(),
        }
        for trial, (heads, mix) in enumerate(choices)
        for seed in range(4)
    ]


def test_effects_are_those_of_statsmodels(tmp_path: Path) -> None:
    folder = _write(tmp_path, _factorial(np.random.default_rng(0)), design="factorial")
    found = factor_effects(folder).query("objective == 'adaptation'").set_index("term")
    runs = load_runs(folder).astype({"adaptation": float, "variant": str})
    theirs = anova_lm(
        ols("adaptation ~ C(seed) + C(heads) * C(mix)", pd.DataFrame(runs)).fit(), typ=2
    )
    for ours, name in (("heads", "C(heads)"), ("mix", "C(mix)"), ("heads:mix", "C(heads):C(mix)")):
        assert found.loc[ours, "f"] == pytest.approx(theirs.loc[name, "F"])
        assert found.loc[ours, "p"] == pytest.approx(theirs.loc[name, "PR(>F)"])
        assert found["df"][ours] == theirs["df"][name]


def test_planted_effects_and_interactions_are_told_apart(tmp_path: Path) -> None:
    rows = _factorial(np.random.default_rng(1), interaction=0.05)
    found = factor_effects(_write(tmp_path, rows, design="factorial"))
    table = found.set_index(["objective", "term"])["p"]
    assert table["adaptation", "heads:mix"] < 1e-4
    assert table["adaptation", "mix"] < 1e-4
    assert table["forgetting", "mix"] > 0.01
    assert found["share"].between(0, 1).all()


def test_variants_with_the_same_factors_are_one_more_factor(tmp_path: Path) -> None:
    rows = [
        {**row, "variant": name, "gain": row["gain"] + 0.05 * (name == "other")}
        for name in ("daa", "other")
        for row in _factorial(np.random.default_rng(2))
    ]
    found = factor_effects(_write(tmp_path, rows, design="factorial"))
    assert set(found["variant"]) == {"daa", "other", "all"}
    of_all = found.query("variant == 'all' and objective == 'adaptation'").set_index("term")
    assert of_all["p"]["variant"] < 1e-6
    assert "variant:mix" in of_all.index


@pytest.mark.parametrize(
    ("design", "says"), [("ofat", "one factor at a time"), ("search", "importance")]
)
def test_a_design_without_interactions_is_refused(tmp_path: Path, design: str, says: str) -> None:
    folder = _write(tmp_path, _factorial(np.random.default_rng(0)), design=design)
    with pytest.raises(UserError, match=says):
        factor_effects(folder)


def _search(trials: int) -> list[dict[str, Any]]:
    chance = np.random.default_rng(0)
    return [
        {
            "rate": float(rate := 10 ** chance.uniform(-4, -2)),
            "rank": int(chance.integers(1, 64)),
            "mix": ["mean", "gated"][chance.integers(2)],
            "seed": 0,
            "trial": trial,
            "gain": 0.2 - 0.05 * (np.log10(rate) + 3) ** 2,
            "loss": 0.0,
        }
        for trial in range(trials)
    ]


def test_importance_ranks_as_optunas(tmp_path: Path) -> None:
    rows = _search(200)
    found = parameter_importance(_write(tmp_path, rows, design="search"))
    ours = found.query("objective == 'adaptation'").set_index("parameter")["importance"]
    study = optuna.create_study(direction="maximize")
    space = {
        "rate": optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True),
        "rank": optuna.distributions.IntDistribution(1, 64),
        "mix": optuna.distributions.CategoricalDistribution(["mean", "gated"]),
    }
    for row in rows:
        params = {name: row[name] for name in space}
        trial = optuna.trial.create_trial(params=params, distributions=space, value=row["gain"])
        study.add_trial(trial)
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    theirs = optuna.importance.get_param_importances(study, evaluator=evaluator)
    assert ours.idxmax() == next(iter(theirs)) == "rate"
    assert ours["rate"] > 0.7
    assert ours.sum() == pytest.approx(1)
    # All forget alike: no parameter decides anything, and the order of trials must not seem to.
    assert set(found["objective"]) == {"adaptation"}


def test_importance_needs_two_parameters(tmp_path: Path) -> None:
    rows = [{**row, "rank": 8, "mix": "mean"} for row in _search(200)]
    with pytest.raises(UserError, match="differ in two parameters"):
        parameter_importance(_write(tmp_path, rows, design="search"))


def test_importance_needs_trials(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no variant has 8 finished trials"):
        parameter_importance(_write(tmp_path, _search(5), design="search"))
