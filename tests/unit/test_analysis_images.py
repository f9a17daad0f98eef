"""Reading many runs at once against reading each alone with pandas."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dart.analysis import load_study
from dart.analysis.image_files import COLUMNS
from tests.helpers.study_results import FakeRun, adapted, write_study

RUNS = [
    adapted(name, gain=0.1, loss=0.0, seed=seed) for name in ("daa", "other") for seed in (0, 1)
]
WORDS = ("domain", "role", "split", "image", "metric")
Change = Callable[[pd.DataFrame, int], pd.DataFrame]

CHANGES: dict[str, Change] = {
    "as they are": lambda errors, _: errors,
    "other errors after": lambda errors, run: errors.assign(after=errors["after"] + run),
    "other errors before": lambda errors, run: errors.assign(before=errors["before"] + run),
    "other scenes": lambda errors, run: errors.assign(scene=errors["scene"] * 2 + run),
    "a scene beyond four bytes": lambda errors, run: errors.assign(
        scene=errors["scene"] + (2**31 if run == 1 else 0)
    ),
    "rows in another order": lambda errors, run: errors.sample(frac=1, random_state=run),
    "other images": lambda errors, run: errors.assign(image=errors["image"] + f"of {run}"),
    "fewer rows": lambda errors, run: errors.iloc[run * 5 :],
    "no metric of some": lambda errors, run: (
        errors[errors["metric"] == "abs_rel"] if run == 1 else errors
    ),
    "columns in another order": lambda errors, run: errors[[*errors.columns[:: (-1) ** run]]],
    "single precision": lambda errors, run: errors.astype({"after": ["f8", "f4"][run % 2]}),
    "many images": lambda errors, _: pd.concat(
        [errors.assign(image=errors["image"] + f"/{copy}") for copy in range(12)]
    ),
}


def _path(results: Path, run: FakeRun) -> Path:
    return results / "runs" / run.key[:16] / "per_image.parquet"


def _read_alone(results: Path) -> pd.DataFrame:
    """The same frame by plain pandas: all files in a row, sorted by metric and split."""
    tables = [
        pd.read_parquet(_path(results, run))[[*COLUMNS]].assign(variant=run.variant, seed=run.seed)
        for run in RUNS
    ]
    frame = pd.concat(tables, ignore_index=True)
    for name in WORDS:
        frame[name] = pd.Categorical(frame[name], frame[name].unique())
    codes = [frame[name].cat.codes for name in ("metric", "split")]
    frame = frame.iloc[np.lexsort(codes[::-1])].reset_index(drop=True)
    frame = frame.astype({"before": float, "after": float})
    for name in ("scene", "seed"):
        if frame[name].between(-(2**31), 2**31 - 1).all():
            frame[name] = frame[name].astype("int32")
    return frame


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("row_group_size", [None, 7])
def test_all_runs_together_are_what_each_is_alone(
    tmp_path: Path, change: Change, row_group_size: int | None
) -> None:
    write_study(tmp_path, RUNS)
    for number, run in enumerate(RUNS):
        path = _path(tmp_path, run)
        errors = change(pd.read_parquet(path), number)
        path.unlink()
        errors.to_parquet(path, index=False, row_group_size=row_group_size)
    expected = _read_alone(tmp_path)
    for _ in ("of the runs", "kept"):
        frame = load_study("toy", results=tmp_path)
        found = frame.assign(variant=frame["variant"].astype(str))[expected.columns]
        pd.testing.assert_frame_equal(found, expected)
    chosen = expected[(expected["metric"] == "abs_rel") & (expected["split"] == "val")]
    part = load_study("toy", results=tmp_path, metrics=["abs_rel"], splits=["val"])
    pd.testing.assert_frame_equal(part[[*COLUMNS]], chosen[[*COLUMNS]].reset_index(drop=True))


def test_a_file_that_differs_in_one_bit_before_is_not_taken_for_another(tmp_path: Path) -> None:
    write_study(tmp_path, RUNS)
    path = _path(tmp_path, RUNS[2])
    errors = pd.read_parquet(path)
    changed = errors["before"].to_numpy().copy()
    changed[3] = np.nextafter(changed[3], 1.0)
    path.unlink()
    errors.assign(before=changed).to_parquet(path, index=False)
    frame = load_study("toy", results=tmp_path)
    kept = frame[(frame["variant"] == "other") & (frame["seed"] == 0)]
    assert sorted(kept["before"]) == sorted(changed)
