import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from dart.analysis import load_runs, load_study
from dart.analysis.details import load_angles, load_curves, load_updates
from dart.analysis.figures import (
    critical_difference,
    error_by_angle,
    forest,
    forgetting_by_domain,
    learning_curves,
    show_predictions,
    trade_off,
    update_sizes,
)
from dart.analysis.verdicts import compare_study
from dart.errors import UserError
from tests.helpers.study_results import FakeRun, adapted, untouched, write_study

plt.switch_backend("agg")

DOMAINS = {"plain": "source", "wide": "target"}


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def _runs() -> list[FakeRun]:
    runs = [untouched()]
    for i, variant in enumerate(("daa", "gated")):
        for seed in range(4):
            noise = 0.001 * seed
            runs.append(adapted(variant, gain=0.1 + i / 20 + noise, loss=0.02 - noise, seed=seed))
    return runs


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A study of two variants with planted details."""
    runs = _runs()
    write_study(tmp_path, runs)
    for run in runs:
        if run.variant != "zero_shot":
            _write_details(tmp_path / "runs" / run.key[:16], strong=run.variant == "gated")
    return tmp_path


def _write_details(folder: Path, *, strong: bool) -> None:
    angles = [
        (domain, role, "test", f"{domain}-{image}", ring, "abs_rel", ring / 100, ring / 200)
        for domain, role in DOMAINS.items()
        for image in range(4)
        for ring in (0, 10, 20)
    ]
    columns = ["domain", "role", "split", "image", "ring", "metric", "before", "after"]
    pd.DataFrame(angles, columns=columns).to_parquet(folder / "angles.parquet")
    curves = [
        (step, domain, role, "abs_rel", 0.4 - step / 100)
        for step in (0, 10, 20)
        for domain, role in DOMAINS.items()
    ]
    names = ["step", "domain", "role", "metric", "value"]
    pd.DataFrame(curves, columns=names).to_parquet(folder / "curves.parquet")
    change = 1e-2 if strong else 0.0
    updates = [
        ("adapters.0", "queries.a", 8, 1.0, change, change),
        ("decoder", "head.weight", 8, 1.0, 1e-3, 1e-3),
        ("decoder", "head.bias", 8, 1.0, 1e-3, 1e-3),
    ]
    names = ["part", "parameter", "count", "initial", "update", "relative"]
    pd.DataFrame(updates, columns=names).to_parquet(folder / "updates.parquet")


def test_the_error_by_angle_is_the_mean_of_each_ring(results: Path) -> None:
    ax = error_by_angle(load_angles("toy", results=results), metric="abs_rel", domain="wide")
    drawn = {str(line.get_label()): line for line in ax.lines}
    assert set(drawn) == {"daa", "gated", "before"}
    assert np.allclose(np.asarray(drawn["daa"].get_xydata()), [[5, 0], [15, 0.05], [25, 0.1]])
    assert np.allclose(np.asarray(drawn["before"].get_ydata(), float), [0, 0.1, 0.2])
    assert "degrees" in ax.get_xlabel()


def test_a_domain_that_is_not_there_is_named(results: Path) -> None:
    with pytest.raises(UserError, match="unknown domain 'wid'; there are: plain, wide"):
        error_by_angle(load_angles("toy", results=results), metric="abs_rel", domain="wid")


@pytest.mark.parametrize("role", ["target", "source"])
def test_a_curve_starts_before_training(results: Path, role: str) -> None:
    ax = learning_curves(load_curves("toy", results=results), role=role, metric="abs_rel")
    assert len(ax.lines) == 2
    assert np.allclose(np.asarray(ax.lines[0].get_xydata()), [[0, 0.4], [10, 0.3], [20, 0.2]])


def test_an_adapter_that_never_moved_is_an_empty_cell(results: Path) -> None:
    ax = update_sizes(load_updates("toy", results=results))
    shown = [text.get_text() for text in ax.texts]
    rows = [label.get_text() for label in ax.get_yticklabels()]
    assert rows == ["adapters.0: queries.a", "decoder"]
    assert shown == ["-2.0", "-3.0", "-3.0"]  # daa's queries have none


def test_parameters_of_many_names_share_groups_that_fit_a_page(results: Path) -> None:
    updates = load_updates("toy", results=results)
    daa = updates[(updates["variant"] == "daa") & updates["part"].str.startswith("adapters")]
    layers = [daa.assign(parameter=f"layers.{i}.weight") for i in range(70)]
    ax = update_sizes(pd.concat([updates, *layers]))
    rows = [label.get_text() for label in ax.get_yticklabels()]
    assert rows == ["adapters.0: layers", "adapters.0: queries.a", "decoder"]
    words = [daa.assign(parameter=f"word{i}.a") for i in range(70)]
    ax = update_sizes(pd.concat([updates, *words]))
    assert [label.get_text() for label in ax.get_yticklabels()] == ["adapters.0", "decoder"]


def test_a_page_has_room_for_thirty_names(results: Path) -> None:
    angles = load_angles("toy", metric="abs_rel", results=results)
    name = angles["variant"].iloc[0]
    copies = [f"{name} with_a_longer_name={i}, and_another={i}" for i in range(30)]
    many = pd.concat([angles[angles["variant"] == name].assign(variant=copy) for copy in copies])
    many["variant"] = pd.Categorical(many["variant"], copies)
    ax = error_by_angle(many, metric="abs_rel", domain=str(many["domain"].iloc[0]))
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.canvas.draw()
    legend = ax.get_legend()
    assert legend is not None
    inside, page = legend.get_window_extent(), figure.bbox
    assert page.y0 <= inside.y0 < inside.y1 <= page.y1
    assert ax.bbox.width > page.width / 2  # the names leave room for what they name
    assert ax.bbox.x1 <= inside.x0


def test_runs_of_before_the_details_are_told_apart_from_a_mistake(tmp_path: Path) -> None:
    write_study(tmp_path, _runs())
    with pytest.raises(UserError, match=r"no finished run has kept updates\.parquet"):
        load_updates("toy", results=tmp_path)


def test_a_damaged_file_is_named(results: Path) -> None:
    folder = next(path.parent for path in results.glob("runs/*/curves.parquet"))
    (folder / "curves.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=rf"{folder.name}/curves\.parquet"):
        load_curves("toy", results=results)


def test_forgetting_is_drawn_for_every_domain_but_the_target(results: Path) -> None:
    ax = forgetting_by_domain(load_study("toy", results=results), metric="abs_rel")
    assert [tick.get_text() for tick in ax.get_xticklabels()] == [
        "plain\n(source)", "other\n(held_out)"
    ]  # fmt: skip
    means = sorted(
        round(float(y), 6)
        for line in ax.lines
        for y in np.atleast_1d(np.asarray(line.get_ydata(), float))
        if math.isfinite(y) and y != 0
    )
    # plain rises by 0.02 less 0, 0.001, 0.002, 0.003; other falls from 0.30 to 0.25.
    assert means.count(0.0185) == 2
    assert means.count(-0.05) == 2


def test_the_forest_draws_each_difference_with_its_interval(results: Path) -> None:
    comparison = compare_study("toy", results=results)
    ax = forest(comparison, objective="adaptation")
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["gated"]
    gated = next(v for v in comparison.verdicts if v.variant == "gated")
    found = gated.effects["adaptation"].difference
    assert found is not None
    assert found.value == pytest.approx(0.05)
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert np.asarray(dots[0].get_xdata(), float) == pytest.approx([found.value])
    assert gated.verdict in [text.get_text() for text in ax.texts]


def test_crosses_and_front_come_with_a_comparison(results: Path) -> None:
    runs, comparison = load_runs("toy", results=results), compare_study("toy", results=results)
    plain, crossed = trade_off(runs), trade_off(runs, comparison=comparison)
    added = crossed.lines[len(plain.lines) - 2 :]
    own = {v.variant: v.effects for v in comparison.verdicts if v.effects}
    spans = [np.asarray(line.get_xdata(), float) for line in crossed.lines]
    gain = own["gated"]["adaptation"].own
    assert any(span.shape == (2,) and np.allclose(span, [gain.lower, gain.upper]) for span in spans)
    assert len(crossed.lines) > len(plain.lines)
    assert added


def test_predictions_of_an_unknown_variant_name_the_nearest(results: Path) -> None:
    with pytest.raises(UserError, match=r"unknown variant 'gate'.*did you mean 'gated'"):
        show_predictions("toy", "gate", results=results)
    with pytest.raises(UserError, match="no run of 'gated' of seed 7 has a picture"):
        show_predictions("toy", "gated", seed=7, results=results)


def test_the_picture_of_the_asked_seed_is_shown(results: Path) -> None:
    run = next(run for run in _runs() if (run.variant, run.seed) == ("gated", 2))
    pixels = np.full((6, 9, 3), 0.5, np.float32)
    plt.imsave(results / "runs" / run.key[:16] / "predictions.png", pixels)
    ax = show_predictions("toy", "gated", results=results)
    assert ax.get_title(loc="left") == "gated, seed 2"
    shown = ax.images[0].get_array()
    assert shown is not None
    assert shown.shape[:2] == (6, 9)


def _blocks(count: int, shift: float) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    names = ["none", "same", "bad"]
    rows = [
        (f"domain{d}", "test", "abs_rel", name, 0.2 + rng.normal(0, 0.01) + shift * (name == "bad"))
        for d in range(count)
        for name in names
    ]
    frame = pd.DataFrame(rows, columns=["domain", "split", "metric", "variant", "after"])
    return frame.assign(variant=pd.Categorical(frame["variant"], names, ordered=True))


def test_ranks_need_ten_domains() -> None:
    with pytest.raises(UserError, match="at least 10 domains, the study has 9"):
        critical_difference(_blocks(9, 0.1), metric="abs_rel")


def test_what_is_worst_everywhere_has_the_last_rank_and_stands_alone() -> None:
    ax = critical_difference(_blocks(12, 0.5), metric="abs_rel")
    assert [tick.get_text() for tick in ax.get_yticklabels()][-1] == "bad"
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert np.asarray(dots[-1].get_xdata(), float) == pytest.approx([3])
    # Nemenyi for 3 variants and 12 blocks: 2.343 sqrt(3 * 4 / (6 * 12)), Demsar 2006, table 5.
    assert f"{2.343 * math.sqrt(12 / 72):.2f}" in ax.get_xlabel()


def test_the_front_leaves_out_what_is_beaten(tmp_path: Path) -> None:
    plan = {"far": (0.2, 0.05), "beaten": (0.1, 0.06), "near": (0.1, 0.01)}
    runs = [untouched()] + [
        adapted(name, gain=gain, loss=loss, seed=seed)
        for name, (gain, loss) in plan.items()
        for seed in range(3)
    ]
    write_study(tmp_path, runs, baseline="near")
    comparison = compare_study("toy", results=tmp_path)
    ax = trade_off(load_runs("toy", results=tmp_path), comparison=comparison)
    front = next(line for line in ax.lines if line.get_linestyle() == ":")
    # Each stretch lies at the forgetting of the point with more gain: below it nothing is beaten.
    assert front.get_drawstyle() == "steps-post"
    points = np.asarray(front.get_xydata(), float)
    assert np.allclose(points, [[0.2, 0.05], [0.1, 0.01], [0, 0]])


def test_many_variants_stand_below_each_other(results: Path) -> None:
    updates = load_updates("toy", results=results)
    daa = updates[updates["variant"] == "daa"]
    names = [f"daa_{i}" for i in range(13)]
    many = pd.concat([daa.assign(variant=name) for name in names])
    ax = update_sizes(many.assign(variant=pd.Categorical(many["variant"], names)))
    assert [label.get_text() for label in ax.get_yticklabels()] == names
    assert "decoder" in [label.get_text() for label in ax.get_xticklabels()]


def test_many_domains_stand_below_each_other(results: Path) -> None:
    images = load_study("toy", results=results)
    other = images[images["domain"] == "other"]
    names = [f"other_{i}" for i in range(5)]
    many = pd.concat([other.assign(domain=name) for name in names])
    ax = forgetting_by_domain(many, metric="abs_rel")
    assert [tick.get_text() for tick in ax.get_yticklabels()] == [
        f"{name}\n(held_out)" for name in names
    ]
    means = [
        round(float(x), 6)
        for line in ax.lines
        for x in np.atleast_1d(np.asarray(line.get_xdata(), float))
        if math.isfinite(x) and x != 0
    ]
    assert means.count(-0.05) == 5 * 2  # from 0.30 to 0.25 in each
