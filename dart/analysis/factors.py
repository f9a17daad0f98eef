"""What each factor of a study does: effects in a designed study, importance in a search.

A factor is a setting that differs between the trials of a variant, and the variant itself where
all variants share the factors.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray
from scipy import stats

from dart.analysis.records import Cell, open_study
from dart.analysis.tables import Location, read_records, runs_frame
from dart.errors import UserError
from dart.recipe import ZERO_SHOT

OBJECTIVES = ("adaptation", "forgetting")
QUANTILE = 0.25
"""Share of trials that count as good where importance is asked."""
FEWEST_TRIALS = 8
FEWEST_PARAMETERS = 2
BINS = 10


def factor_effects(study: Location, *, results: Location | None = None) -> pd.DataFrame:
    """Return main effects and interactions of two of every factor of a factorial study.

    A least-squares model of each objective with seeds as blocks; each term is judged by what it
    explains beyond all terms that do not contain it (type II sums of squares).

    Returns:
        One row a variant, objective and term: ``term`` (``a`` or ``a:b``), ``df``, ``share`` of
        the variation between runs that is neither seeds nor other terms (partial eta squared),
        ``f``, ``p``. ``variant`` is ``all`` where the variant is itself a factor.

    Raises:
        UserError: The study is no factorial one, or nothing varies in it.
    """
    opened = open_study(study, results=results, whole=True)
    design = opened.record.design
    if design == "ofat":
        raise UserError(
            f"study {opened.record.study!r} changes one factor at a time (design: ofat): what a "
            "factor does at other values of the others was not run; use 'design: factorial'"
        )
    if design == "search":
        raise UserError(
            f"study {opened.record.study!r} is a search, whose trials are not balanced; see the "
            "importance of its parameters instead"
        )
    frame = runs_frame(opened, read_records(opened))
    names = _setting_names(frame, opened.record.cells)
    frame = frame[(frame["status"] == "finished") & (frame["variant"] != ZERO_SHOT)]
    rows = []
    for variant, runs, factors in _groups(frame, names):
        for objective in OBJECTIVES:
            rows += [
                {"variant": variant, "objective": objective, **row}
                for row in _analyse(runs, factors, objective)
            ]
    if not rows:
        raise UserError(f"study {opened.record.study!r}: no setting varies within a variant")
    return pd.DataFrame(rows)


def _setting_names(frame: pd.DataFrame, cells: Sequence[Cell]) -> list[str]:
    names = dict.fromkeys(name for cell in cells for name in cell.settings)
    return [f"hyperparameter_{n}" if f"hyperparameter_{n}" in frame else n for n in names]


def _groups(frame: pd.DataFrame, names: Sequence[str]) -> list[tuple[str, pd.DataFrame, list[str]]]:
    """Return each variant with what varies in it, and all together where that is the same."""
    groups = []
    for variant, runs in frame.groupby("variant", sort=False, observed=True):
        factors = [name for name in names if runs[name].nunique() > 1]
        if factors:
            groups.append((str(variant), runs, factors))
    same = {tuple(factors) for _, _, factors in groups}
    if len(groups) > 1 and len(groups) == frame["variant"].nunique() and len(same) == 1:
        groups.append(("all", frame, ["variant", *groups[0][2]]))
    return groups


def _analyse(runs: pd.DataFrame, factors: Sequence[str], objective: str) -> list[dict[str, object]]:
    values = runs[objective].to_numpy(float)
    blocks = _dummies(runs["seed"])
    terms: dict[tuple[str, ...], ndarray] = {(name,): _dummies(runs[name]) for name in factors}
    for one, other in itertools.combinations(factors, 2):
        product = terms[one,][:, :, None] * terms[other,][:, None, :]
        terms[one, other] = product.reshape(len(runs), -1)
    full = _residual(values, blocks, list(terms.values()))
    rows = []
    for term in terms:
        others = [x for name, x in terms.items() if not set(term) <= set(name)]
        with_it = _residual(values, blocks, [*others, terms[term]])
        without = _residual(values, blocks, others)
        rows.append({"term": ":".join(term), **_test(without, with_it, full)})
    return rows


def _dummies(column: pd.Series) -> Float[ndarray, "n _k"]:
    return pd.get_dummies(column.astype(str), drop_first=True).to_numpy(float)


def _residual(values: ndarray, blocks: ndarray, terms: Sequence[ndarray]) -> tuple[float, float]:
    """Return the residual sum of squares and its degrees of freedom."""
    design = np.hstack([np.ones((len(values), 1)), blocks, *terms])
    fitted = design @ np.linalg.lstsq(design, values, rcond=None)[0]
    rank = int(np.linalg.matrix_rank(design))
    return float(((values - fitted) ** 2).sum()), float(len(values) - rank)


def _test(
    without: tuple[float, float], with_it: tuple[float, float], full: tuple[float, float]
) -> dict[str, float]:
    explained, df = max(0.0, without[0] - with_it[0]), without[1] - with_it[1]
    if full[1] <= 0 or df <= 0:
        return {"df": df, "share": np.nan, "f": np.nan, "p": np.nan}
    noise = full[0] / full[1]
    f = explained / df / noise if noise > 0 else np.inf
    total = explained + full[0]
    share = explained / total if total > 0 else 0.0
    return {"df": df, "share": share, "f": f, "p": float(stats.f.sf(f, df, full[1]))}


def parameter_importance(study: Location, *, results: Location | None = None) -> pd.DataFrame:
    """Return how much each parameter of a search decides whether a trial is among the good ones.

    PED-ANOVA: the Pearson divergence between the distribution of a parameter among the best
    quarter of trials and among all trials, as a share of the sum over parameters. A number enters
    by its rank, so that its scale does not matter, in ten bins.

    Returns:
        One row a variant, objective and ``parameter``, with ``importance`` (sums to 1) and the
        number of ``trials``. Nothing for an objective in which all trials are equal.

    Raises:
        UserError: No variant has at least eight finished trials that differ in two parameters:
            the share of a single one is always 1.

    Source: Watanabe, Bansal and Hutter, IJCAI 2023, arXiv 2304.10255, eq. 16. Ranks and a histogram
    smoothed by one trial spread over all bins stand in for their kernel density.
    """
    opened = open_study(study, results=results, whole=True)
    frame = runs_frame(opened, read_records(opened))
    names = _setting_names(frame, opened.record.cells)
    frame = frame[(frame["status"] == "finished") & (frame["variant"] != ZERO_SHOT)]
    rows = []
    for variant, runs in frame.groupby("variant", sort=False, observed=True):
        trials = runs.groupby("trial").agg(
            dict.fromkeys(names, "first") | dict.fromkeys(OBJECTIVES, "mean")
        )
        varied = [name for name in names if trials[name].nunique() > 1]
        if len(trials) < FEWEST_TRIALS or len(varied) < FEWEST_PARAMETERS:
            continue
        for objective in OBJECTIVES:
            if trials[objective].nunique() == 1:
                continue
            sign = 1.0 if objective == "forgetting" else -1.0
            shares = _importance(trials, varied, sign * trials[objective].to_numpy(float))
            rows += [
                {
                    "variant": str(variant),
                    "objective": objective,
                    "parameter": name,
                    "importance": share,
                    "trials": len(trials),
                }
                for name, share in zip(varied, shares, strict=True)
            ]
    if not rows:
        raise UserError(
            f"study {opened.record.study!r}: no variant has {FEWEST_TRIALS} finished trials that "
            "differ in two parameters and in what came of them; importance compares parameters"
        )
    return pd.DataFrame(rows)


def _importance(
    trials: pd.DataFrame, names: Sequence[str], costs: Float[ndarray, " n"]
) -> Float[ndarray, " k"]:
    count = max(2, round(QUANTILE * len(costs)))
    good = np.argsort(costs, kind="stable")[:count]
    divergences = np.array([_divergence(_bins(trials[name]), good) for name in names])
    total = divergences.sum()
    return divergences / total if total > 0 else np.full(len(names), 1 / len(names))


def _bins(values: pd.Series) -> ndarray:
    if not pd.api.types.is_numeric_dtype(values) or values.nunique() <= BINS:
        return pd.factorize(values)[0]
    ranks = values.rank(method="average").to_numpy() - 0.5
    return np.minimum((ranks / len(values) * BINS).astype(int), BINS - 1)


def _divergence(bins: ndarray, good: ndarray) -> float:
    """Return sum over bins of p (q / p - 1)^2: p among all trials, q among the good ones."""
    number = int(bins.max()) + 1
    everywhere = (np.bincount(bins, minlength=number) + 1 / number) / (len(bins) + 1)
    among_good = (np.bincount(bins[good], minlength=number) + 1 / number) / (len(good) + 1)
    return float((everywhere * (among_good / everywhere - 1) ** 2).sum())
