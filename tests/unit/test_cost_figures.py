"""What runs took, beside verdicts and in figures."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from dart.analysis.details import load_interpolation
from dart.analysis.figures import capacity, interpolation_curve
from dart.analysis.figures.cost import interpolation_points
from dart.analysis.report import write_report
from dart.analysis.tables import load_runs, summarize
from dart.analysis.verdict_tables import headings, text_rows, to_dict, to_latex, to_markdown
from dart.analysis.verdicts import Objective, compare_study
from dart.errors import UserError
from tests.helpers.study_results import FakeRun, adapted, untouched, write_study

plt.switch_backend("agg")

COSTS = {"total_parameters": 5_400_000, "flops_per_image": 1.25e9}
ALPHAS = (0.5, 1.0)


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def _runs() -> list[FakeRun]:
    return [
        untouched(),
        *(adapted("daa", gain=0.10, loss=0.02, seed=seed) for seed in (0, 1)),
        *(
            adapted("wide", gain=0.15, loss=0.04, seed=seed, trainable_parameters=20_000)
            for seed in (0, 1)
        ),
    ]


def _result(results: Path, run: FakeRun) -> Path:
    return results / "runs" / run.key[:16] / "result.json"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A study in which ``daa`` recorded all costs and ``wide``, of older runs, some."""
    runs = _runs()
    write_study(tmp_path, runs)
    for run in runs:
        if run.variant == "daa":
            path = _result(tmp_path, run)
            # The second seed ran folded with two others: a third of 42 seconds is its own.
            took = {"wall_seconds": 42.0, "fold": 3} if run.seed else {"wall_seconds": 10.0}
            more = COSTS | {"steps": 40 + 20 * run.seed} | took
            path.write_text(json.dumps(json.loads(path.read_text()) | more))
            _write_line(path.parent / "interpolation.parquet", run)
    return tmp_path


def _write_line(path: Path, run: FakeRun) -> None:
    """Errors that lie on straight ways, the second seed's shifted by 0.02."""
    shift = 0.02 * run.seed
    rows = [
        (alpha, domain, role, "test", "abs_rel", value * alpha + base + shift)
        for alpha in ALPHAS
        for domain, role, base, value in (
            ("wide", "target", 0.40, -0.1),
            ("plain", "source", 0.10, 0.02),
        )
    ]
    columns = ["alpha", "domain", "role", "split", "metric", "value"]
    pd.DataFrame(rows, columns=columns).to_parquet(path, index=False)


def test_costs_are_means_over_runs_and_absent_where_unknown(results: Path) -> None:
    verdicts = {row.variant: row for row in compare_study("toy", results=results).verdicts}
    trained = load_runs("toy", results=results).set_index("variant")["trainable_parameters"]
    assert dict(verdicts["daa"].costs) == {
        "trainable_parameters": trained["daa"].iloc[0],
        "steps": 50.0,
        "wall_seconds": 12.0,
        **COSTS,
    }
    assert dict(verdicts["wide"].costs) == {"trainable_parameters": 20_000, "wall_seconds": 12.5}
    table = summarize(load_runs("toy", results=results)).set_index("variant")
    known = {"total_parameters": {"daa"}, "steps": {"daa"}, "wall_seconds": {"daa", "wide"}}
    for name, variants in known.items():
        assert set(table[name].dropna().index) - {"zero_shot"} == variants
    assert table["total_parameters"].dropna().tolist() == [COSTS["total_parameters"]]


def test_every_printed_form_shows_every_cost(results: Path, tmp_path: Path) -> None:
    comparison = compare_study("toy", results=results)
    shown = ["5,400,000", "1.25e+09", "50", "12.0 s"]
    rows = {row[0][0].split()[0]: [cell[0] for cell in row] for row in text_rows(comparison)}
    assert [len(row) for row in rows.values()] == [len(headings())] * 3
    assert rows["daa"][-4:] == shown
    assert rows["wide"][-5:] == ["20,000", "-", "-", "-", "12.5 s"]
    page = write_report("toy", tmp_path / "report", results=results).read_text()
    for text in (to_markdown(comparison), to_latex(comparison), page):
        assert all(words in text for words in shown)
    content = to_dict(comparison)["verdicts"]
    costs = {row["variant"]: row["costs"] for row in content}
    assert costs["daa"]["flops_per_image"] == 1.25e9
    assert "flops_per_image" not in costs["wide"]


def test_capacity_is_drawn_where_parameters_differ(results: Path, tmp_path: Path) -> None:
    comparison = compare_study("toy", results=results)
    objectives: tuple[Objective, ...] = ("adaptation", "forgetting")
    for objective in objectives:
        ax = capacity(comparison, objective=objective)
        lines = [np.asarray(line.get_xydata(), float) for line in ax.get_lines()]
        places = {(float(line[0, 0]), float(line[0, 1])) for line in lines if len(line) == 1}
        expected = {
            (row.costs["trainable_parameters"], row.effects[objective].own.value)
            for row in comparison.verdicts
            if row.variant != "zero_shot"
        }
        assert places == expected
    alike = [run for run in _runs() if run.variant != "wide"]
    write_study(tmp_path / "alike", alike)
    with pytest.raises(UserError, match="do not differ in trained parameters"):
        capacity(compare_study("toy", results=tmp_path / "alike"))


def test_the_way_between_the_weights_is_a_mean_with_the_interval_of_t(results: Path) -> None:
    line = load_interpolation("toy", results=results)
    points = interpolation_points(line, metric="abs_rel").set_index("alpha")
    assert list(points.index) == list(ALPHAS)
    assert points["target"].tolist() == pytest.approx([0.36, 0.31])
    assert points["forgetting"].tolist() == pytest.approx([0.02, 0.03])
    # Two seeds 0.02 apart: t(1 degree, 0.975) = 12.706 times 0.01.
    assert points["forgetting_half"].tolist() == pytest.approx([0.12706] * 2, rel=1e-4)
    ax = interpolation_curve(line, metric="abs_rel")
    assert "target" in ax.get_ylabel()
    one = interpolation_points(line[line["seed"] == 0], metric="abs_rel")
    assert one["target_half"].isna().all()
    with pytest.raises(UserError, match="no error 'rmse' between"):
        interpolation_curve(line, metric="rmse")


def test_a_study_without_the_way_between_says_so(results: Path) -> None:
    for path in results.glob("runs/*/interpolation.parquet"):
        path.unlink()
    with pytest.raises(UserError, match=r"has kept interpolation\.parquet"):
        load_interpolation("toy", results=results)
