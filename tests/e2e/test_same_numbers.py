"""One study, read in four places: terminal, JSON, notebook and report print the same numbers."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dart.cli import main
from tests.helpers.study_results import FakeRun, three_variants, write_study

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "02_verdicts.ipynb"
OBJECTIVES = ("adaptation", "forgetting", "held_out")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    runs = three_variants(loss_per_seed=2e-3)
    runs.append(FakeRun("gated", seed=3, status="failed"))
    write_study(folder, runs, name="quickstart", details=True)
    return folder


def _compare(results: Path, capsys: pytest.CaptureFixture[str], *form: str) -> str:
    assert main(["compare", "quickstart", "--results", str(results), *form]) == 0
    return capsys.readouterr().out


def _run_notebook(results: Path, folder: Path) -> str:
    """Return what the notebook of the verdicts shows as its table."""
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", str(NOTEBOOK)]
    changed = {"DART_RESULTS": str(results), "IPYTHONDIR": str(folder / "ipython")}
    inherited = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    subprocess.run(
        [*command, "--output-dir", str(folder)],
        env=inherited | changed,
        capture_output=True,
        check=True,
    )
    cells = json.loads((folder / NOTEBOOK.name).read_text())["cells"]
    outputs = [output["data"] for cell in cells for output in cell.get("outputs", [])]
    [table] = ["".join(data["text/markdown"]) for data in outputs if "text/markdown" in data]
    return table


def _rows(text: str, names: list[str]) -> dict[str, list[str]]:
    """Return the words of the first table row that starts with each name, without its rules."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        words = re.sub(r"[|*`]|<br>", " ", line.replace("\\", "")).split()
        if words and words[0] in names:
            found.setdefault(words[0], words[1:])
    return found


def _numbers(row: dict[str, Any]) -> list[str]:
    """Return an object's own changes as tables print them."""
    return [f"{row['effects'][objective]['own']['value']:+.4f}" for objective in OBJECTIVES[:2]]


def test_all_places_print_the_same_numbers(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verdicts = json.loads(_compare(results, capsys, "--json"))["verdicts"]
    names = [row["variant"] for row in verdicts]
    terminal = _rows(_compare(results, capsys), names)
    markdown = _compare(results, capsys, "--markdown")
    assert _run_notebook(results, tmp_path).strip() == markdown.strip()
    out = tmp_path / "report"
    assert main(["report", "quickstart", "--results", str(results), "--out", str(out)]) == 0
    page = (out / "report.md").read_text()
    of_table, of_report = _rows(markdown, names), _rows(page, names)
    for row in verdicts:
        name = row["variant"]
        assert of_report[name] == of_table[name]
        assert row["verdict"] in terminal[name]
        for number in _numbers(row):
            assert number in terminal[name]
            assert number in of_table[name]
    with (out / "verdicts.csv").open() as file:
        for line in csv.DictReader(file):
            effect = next(row for row in verdicts if row["variant"] == line["variant"])["effects"]
            own = effect[line["objective"]]["own"]
            assert float(line["own"]) == own["value"]
            assert float(line["own_lower"]) == own["lower"]
