"""How long reading and comparing a large study takes: synthetic run folders, nothing trained.

    python benchmarks/load_study.py --runs 10000

Prints seconds for the first reading, which keeps the errors per image in one file, for reading
again, and for the comparison of all variants with the baseline, with ratios to plain reading.
"""

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dart.analysis import load_study
from dart.analysis.verdicts import compare_study
from dart.metrics import METRICS

DOMAINS = {"plain": ("source", 64, 24), "wide": ("target", 48, 24), "other": ("held_out", 32, 0)}
"""Domain -> role, test images, validation images: as in the quickstart study."""
SEEDS = 10
TRIALS = 10


def main() -> None:
    """Make the study, time everything, print a line each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--results", type=Path, help="folder to make the study in, and keep")
    options = parser.parse_args()
    if options.results is not None:
        _measure(options.results, options.runs)
        return
    with tempfile.TemporaryDirectory() as folder:
        _measure(Path(folder), options.runs)


def _measure(results: Path, runs: int) -> None:
    folder = results / "studies" / "large"
    if not (folder / "cells.json").exists():
        _seconds(f"write {runs} runs", lambda: write_study(results, runs))
    for old in folder.glob(".per_image-*"):
        old.unlink()
    plain = _seconds("read result.json of all runs alone", lambda: _read_plain(results))
    _seconds("load_study, first time", lambda: load_study(folder), plain)
    _seconds("load_study, again", lambda: load_study(folder), plain)
    _seconds(
        "load_study, again, one metric of test",
        lambda: load_study(folder, metrics=["abs_rel"], splits=["test"]),
        plain,
    )
    _seconds("compare_study", lambda: compare_study(folder), plain)


def _seconds(what: str, work: Callable[[], Any], unit: float | None = None) -> float:
    started = time.perf_counter()
    made = work()
    seconds = time.perf_counter() - started
    rows = f", {len(made):,} rows" if hasattr(made, "columns") else ""
    ratio = f", {seconds / unit:5.1f} x reading alone" if unit else ""
    print(f"{what:40} {seconds:7.2f} s{ratio}{rows}", flush=True)
    return seconds


def _read_plain(results: Path) -> None:
    for path in (results / "runs").glob("*/result.json"):
        json.loads(path.read_bytes())


def _cells(runs: int) -> Iterator[dict[str, Any]]:
    for number in range(runs):
        variant, rest = divmod(number, SEEDS * TRIALS)
        trial, seed = divmod(rest, SEEDS)
        yield {
            "key": hashlib.sha256(str(number).encode()).hexdigest(),
            "variant": f"variant_{variant}",
            "hyperparameters": {"rank": 2**trial},
            "training": {},
            "seed": seed,
            "trial": trial,
        }


def write_study(results: Path, runs: int) -> None:
    """Write a study of so many runs, ten trials and ten seeds a variant."""
    folder = results / "studies" / "large"
    folder.mkdir(parents=True)
    cells = list(_cells(runs))
    head = {"study": "large", "baseline": "variant_0", "metric": "abs_rel", "design": "factorial"}
    chance = np.random.default_rng(0)
    template = _template(chance)
    for cell in cells:
        run = results / "runs" / cell["key"][:16]
        run.mkdir(parents=True)
        noise = chance.normal(0, 0.02, len(template))
        after = template["before"].to_numpy() * 0.8 + 0.1 + noise
        errors = template.append_column("after", pa.array(after))
        pq.write_table(errors, run / "per_image.parquet")
        (run / "result.json").write_text(json.dumps(_result(cell, errors)))
    (folder / "cells.json").write_text(json.dumps({**head, "cells": cells}))


def _template(chance: np.random.Generator) -> pa.Table:
    columns: dict[str, list[Any]] = {
        name: [] for name in ("domain", "role", "split", "image", "scene", "metric")
    }
    for domain, (role, test, val) in DOMAINS.items():
        for split, count in (("test", test), ("val", val)):
            for image in range(count):
                for metric in METRICS:
                    row = (domain, role, split, f"{domain}/{split}/{image}", image, metric)
                    for name, value in zip(columns, row, strict=True):
                        columns[name].append(value)
    before = chance.uniform(0.1, 0.4, len(columns["image"]))
    return pa.table(columns | {"before": before})


def _result(cell: dict[str, Any], errors: pa.Table) -> dict[str, Any]:
    means = errors.group_by(["split", "domain", "role", "metric"]).aggregate(
        [("before", "mean"), ("after", "mean")]
    )
    splits: dict[str, dict[str, Any]] = {"test": {}, "val": {}}
    for row in means.to_pylist():
        domain = splits[row["split"]].setdefault(
            row["domain"], {"role": row["role"], "before": {}, "after": {}}
        )
        for when in ("before", "after"):
            domain[when][row["metric"]] = row[f"{when}_mean"]
    return {
        "key": cell["key"],
        "status": "finished",
        "trainable_parameters": 1000,
        "convention": "distance along the ray",
        "domains": splits["test"],
        "validation_domains": splits["val"],
        "wall_seconds": 14.0,
        "peak_memory_mib": 800.0,
    }


if __name__ == "__main__":
    main()
