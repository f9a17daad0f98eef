import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from dart.analysis import load_runs, load_study, print_table, summarize, to_json
from dart.errors import UserError
from tests.helpers.study_results import IMAGES, FakeRun, adapted, untouched, write_study

TOY = [
    adapted("daa", gain=0.10, loss=0.02, seed=0),
    adapted("daa", gain=0.20, loss=0.04, seed=1),
    adapted("other", gain=-0.04, loss=0.0, seed=0, trainable_parameters=12),
    FakeRun("other", seed=1, status="failed"),
    FakeRun("never", seed=0, status="failed"),
    FakeRun("never", seed=1, status="missing"),
    untouched(),
]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    write_study(tmp_path, TOY)
    return tmp_path


def _rows(table: pd.DataFrame) -> dict[str, dict[Any, Any]]:
    return {str(row["variant"]): row for row in table.to_dict("records")}


def test_the_final_table_is_means_over_seeds(results: Path) -> None:
    table = _rows(summarize(load_runs("toy", results=results)))
    daa = table["daa"]
    assert daa["target_before"] == pytest.approx(0.40)
    assert daa["target_after"] == pytest.approx(0.25)
    assert daa["adaptation"] == pytest.approx(0.15)
    assert daa["adaptation_std"] == pytest.approx(0.10 / 2**0.5)
    assert daa["forgetting"] == pytest.approx(0.03)
    assert daa["forgetting_relative"] == pytest.approx(0.30)
    assert daa["held_out_after"] == pytest.approx(0.25)
    assert table["other"]["adaptation"] == pytest.approx(-0.04)


def test_zero_shot_comes_first_and_changed_nothing(results: Path) -> None:
    table = summarize(load_runs("toy", results=results))
    assert list(table["variant"]) == ["zero_shot", "daa", "other", "never"]
    assert table["adaptation"].iloc[0] == 0.0
    assert table["forgetting"].iloc[0] == 0.0
    assert list(table["baseline"]) == [False, True, False, False]


def test_runs_are_counted_by_what_became_of_them(results: Path) -> None:
    table = _rows(summarize(load_runs("toy", results=results)))
    counts = {v: {k: row[k] for k in ("runs", "failed", "missing")} for v, row in table.items()}
    assert counts["daa"] == {"runs": 2, "failed": 0, "missing": 0}
    assert counts["other"] == {"runs": 1, "failed": 1, "missing": 0}
    assert counts["never"] == {"runs": 0, "failed": 1, "missing": 1}


def test_json_has_no_sentinel_for_a_missing_number(results: Path) -> None:
    content = json.loads(json.dumps(to_json(summarize(load_runs("toy", results=results)))))
    assert (content["study"], content["metric"]) == ("toy", "abs_rel")
    rows = {row["variant"]: row for row in content["variants"]}
    assert rows["never"]["adaptation"] is None
    assert rows["never"]["trainable_parameters"] is None
    assert rows["other"]["adaptation_std"] is None  # one seed has no spread
    assert rows["other"]["trainable_parameters"] == 12
    json.dumps(content, allow_nan=False)


def test_the_studys_metric_decides_not_the_runs(tmp_path: Path) -> None:
    write_study(tmp_path, TOY[:2], metric="delta1")  # the runs were recorded under abs_rel
    daa = _rows(summarize(load_runs("toy", results=tmp_path)))["daa"]
    assert daa["target_after"] == pytest.approx(0.65)
    assert daa["adaptation"] == pytest.approx(0.15)  # higher is better: a gain
    assert daa["forgetting"] == pytest.approx(0.03)


def test_a_trial_is_chosen_on_validation_and_reported_on_test(tmp_path: Path) -> None:
    lucky = {"gain": 0.30, "loss": 0.0, "trial": 0, "hyperparameters": {"rank": 2, "heads": 1}}
    sound = {"gain": 0.10, "loss": 0.0, "trial": 1, "hyperparameters": {"rank": 4, "heads": 1}}
    runs = [
        *(adapted("daa", seed=seed, validation=0.39, **lucky) for seed in (0, 1)),
        *(adapted("daa", seed=seed, validation=0.20, **sound) for seed in (0, 1)),
    ]
    write_study(tmp_path, runs)
    frame = load_runs("toy", results=tmp_path)
    (row,) = summarize(frame).to_dict("records")
    assert (row["settings"], row["trials"], row["runs"]) == ("rank=4", 2, 2)
    assert row["adaptation"] == pytest.approx(0.10)
    assert list(summarize(frame, every_trial=True)["settings"]) == ["rank=2", "rank=4"]


def test_the_long_frame_has_a_row_a_run_image_and_metric(results: Path) -> None:
    images = load_study("toy", results=results)
    assert len(images) == 4 * 3 * IMAGES * 2  # finished runs, domains, images, metrics
    daa = images.query("variant == 'daa' and metric == 'abs_rel' and role == 'target'")
    assert daa.groupby("seed")["after"].mean().to_dict() == pytest.approx({0: 0.30, 1: 0.20})


def test_hyperparameters_are_columns_and_never_hide_ours(tmp_path: Path) -> None:
    values = {"rank": 4, "seed": 7, "scene": "x"}
    run = adapted("daa", gain=0.1, loss=0.0, seed=1, hyperparameters=values)
    write_study(tmp_path, [run])
    for frame in (load_study("toy", results=tmp_path), load_runs("toy", results=tmp_path)):
        assert set(frame["rank"]) == {4}
        assert set(frame["seed"]) == {1}
        assert set(frame["hyperparameter_seed"]) == {7}
        assert set(frame["hyperparameter_scene"]) == {"x"}


def test_a_study_is_found_by_name_file_and_folder(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load_runs("toy", results=results)
    monkeypatch.setenv("DART_RESULTS", str(results))
    for where in ("toy", "studies/toy.yaml", results / "studies" / "toy"):
        pd.testing.assert_frame_equal(load_runs(where), expected)


def test_the_cache_gives_the_same_frame_and_follows_new_runs(results: Path) -> None:
    first = load_study("toy", results=results)
    (cache,) = (results / "studies" / "toy").glob(".per_image-*.parquet")
    pd.testing.assert_frame_equal(load_study("toy", results=results), first)
    cache.write_bytes(b"broken")
    pd.testing.assert_frame_equal(load_study("toy", results=results), first)

    write_study(results, [adapted("daa", gain=0.1, loss=0.0, seed=9)], name="more")
    cells = json.loads((results / "studies/more/cells.json").read_text())["cells"]
    path = results / "studies/toy/cells.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"cells": content["cells"] + cells}))
    assert len(load_study("toy", results=results)) == len(first) * 5 // 4
    assert len(list(path.parent.glob(".per_image-*"))) == 1


def test_an_unknown_study_is_named_with_its_neighbours(results: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no study 'toi'.*it has: toy; did you mean 'toy'"):
        load_runs("toi", results=results)
    with pytest.raises(UserError, match="it has none yet"):
        load_runs("toy", results=tmp_path / "nothing")


def test_a_study_without_finished_runs_says_so(tmp_path: Path) -> None:
    write_study(tmp_path, TOY[4:6])
    for load in (load_runs, load_study):
        with pytest.raises(UserError, match=r"'toy' in .* has no finished run yet"):
            load("toy", results=tmp_path)
    write_study(tmp_path, [], name="empty")
    with pytest.raises(UserError, match=r"cells\.json: the study asks for no run"):
        load_runs("empty", results=tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "Expecting property name"),
        ("{}", "key: Field required"),
        ('{"key": "KEY", "status": "done"}', "status: Input should be 'finished' or 'failed'"),
        ('{"key": "KEY", "status": "finished"}', "no 'abs_rel' of every domain"),
        ('{"key": "other", "status": "failed"}', "the record is of run 'other'"),
        (None, "the file is not there"),
    ],
)
def test_a_corrupt_result_is_one_line_with_the_file(
    results: Path, text: str | None, says: str
) -> None:
    path = results / "runs" / TOY[0].key[:16] / "result.json"
    path.unlink()
    if text is not None:
        path.write_text(text.replace("KEY", TOY[0].key))
    with pytest.raises(UserError) as caught:
        load_runs("toy", results=results)
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PAR1 broken", None])
def test_corrupt_images_are_one_line_with_the_file(results: Path, content: bytes | None) -> None:
    path = results / "runs" / TOY[0].key[:16] / "per_image.parquet"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_study("toy", results=results)
    assert str(caught.value).startswith(f"{path}: cannot be read: ")
    assert "\n" not in str(caught.value)


def test_images_without_a_column_are_refused(results: Path) -> None:
    path = results / "runs" / TOY[0].key[:16] / "per_image.parquet"
    pd.DataFrame({"domain": ["plain"]}).to_parquet(path)
    with pytest.raises(UserError, match="it has no column 'after'"):
        load_study("toy", results=results)


def test_the_terminal_shows_every_row_the_baseline_and_failures(results: Path) -> None:
    console = Console(record=True, width=140)
    print_table(summarize(load_runs("toy", results=results)), console=console)
    text = console.export_text()
    line = {words[0]: words for words in map(str.split, text.splitlines()) if len(words) > 2}
    assert line["daa"][1] == "*"
    assert "1,000" in line["daa"]
    assert "+30.0%" in line["daa"]
    assert "1 failed" in text
    assert line["zero_shot"].count("+0.0000") == 2


def test_a_long_name_takes_more_lines_and_numbers_stay_whole(results: Path) -> None:
    table = summarize(load_runs("toy", results=results))
    console = Console(record=True, width=140)
    print_table(table, console=console)
    numbers = re.findall(r"[+-]?\d\.\d{4}", console.export_text())
    assert len(numbers) > 10
    name = "daa_" + "long" * 40
    print_table(table.replace({"variant": {"daa": name}}), console=console)
    text = console.export_text()
    assert re.findall(r"[+-]?\d\.\d{4}", text) == numbers
    assert name in "".join(line.split()[0] for line in text.splitlines() if line.strip())


def test_reading_results_needs_neither_torch_nor_mlflow() -> None:
    program = (
        "import sys, dart.analysis.figures\n"
        "sys.exit(bool({'torch', 'mlflow', 'timm', 'optuna'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_choice_of_metrics_is_the_same_rows(results: Path) -> None:
    whole = load_study("toy", results=results)
    cached = load_study("toy", results=results, metrics=["delta1"], splits=["test"])
    for old in (results / "studies/toy").glob(".per_image-*"):
        old.unlink()
    fresh = load_study("toy", results=results, metrics=["delta1"], splits=["test"])
    pd.testing.assert_frame_equal(cached, fresh)
    chosen = whole[(whole["metric"] == "delta1") & (whole["split"] == "test")]
    pd.testing.assert_frame_equal(cached, chosen.reset_index(drop=True))
    assert load_study("toy", results=results, metrics=["rmse"]).empty


def test_a_run_made_anew_is_read_anew(results: Path) -> None:
    load_study("toy", results=results)
    path = results / "runs" / TOY[0].key[:16] / "per_image.parquet"
    errors = pd.read_parquet(path).assign(after=9.0)
    path.unlink()
    errors.to_parquet(path)
    daa = load_study("toy", results=results).query("variant == 'daa' and seed == 0")
    assert set(daa["after"]) == {9.0}


@pytest.mark.parametrize("size", [0, 4, 1000])
def test_a_cache_cut_short_is_made_anew(results: Path, size: int) -> None:
    first = load_study("toy", results=results)
    (cache,) = (results / "studies" / "toy").glob(".per_image-*.parquet")
    cache.write_bytes(cache.read_bytes()[:size])
    pd.testing.assert_frame_equal(load_study("toy", results=results), first)
    pd.testing.assert_frame_equal(load_study("toy", results=results), first)


def test_many_readers_at_once_agree_and_leave_one_file(results: Path) -> None:
    program = (
        "import sys; from dart.analysis import load_study\n"
        "print(round(load_study('toy', results=sys.argv[1])['after'].sum(), 9))"
    )
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(results)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    sums = {reader.communicate()[0] for reader in readers}
    assert len(sums) == 1
    assert float(sums.pop()) == pytest.approx(load_study("toy", results=results)["after"].sum())
    assert len(list((results / "studies" / "toy").glob(".per_image-*"))) == 1


def test_results_on_a_disk_that_is_only_read_are_read(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("Read-only file system")

    expected = load_study("toy", results=results)
    for old in (results / "studies/toy").glob(".per_image-*"):
        old.unlink()
    monkeypatch.setattr("pyarrow.parquet.ParquetWriter", refuse)  # root may write anywhere
    pd.testing.assert_frame_equal(load_study("toy", results=results), expected)
    assert not list((results / "studies/toy").glob(".per_image-*"))
