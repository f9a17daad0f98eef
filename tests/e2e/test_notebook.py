import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest

from tests.helpers.study_results import adapted, untouched, write_study

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))

pytestmark = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


def _execute(notebook: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", str(notebook)]
    folders = {"IPYTHONDIR": str(tmp_path / "ipython"), "JUPYTER_RUNTIME_DIR": str(tmp_path / "jp")}
    # The kernel draws into the notebook, not where the tests draw.
    inherited = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    return subprocess.run(
        [*command, "--output-dir", str(tmp_path)],
        env=inherited | folders,
        capture_output=True,
        text=True,
        check=False,
    )


SHOWN = {
    "01_trade_off": "0.28",  # gated's target: 0.40 before less 0.12
    "02_verdicts": "+0.1200",
    "03_where_it_forgets": "0.02",
    "04_why": "0.5",  # the gate
    "05_search": "rank",
}
"""What each one must show of the study below."""


def test_it_runs_on_the_quickstarts_results(notebook: Path, tmp_path: Path) -> None:
    runs = [untouched()]
    for seed in (0, 1):
        runs.append(adapted("daa", gain=0.1, loss=0.02, seed=seed))
        runs += [
            adapted(
                "gated",
                gain=0.12 - trial / 100,
                loss=0.02,
                seed=seed,
                trial=trial,
                hyperparameters={"rank": 4 + 4 * trial},
            )
            for trial in (0, 1)
        ]
    write_study(tmp_path / "results", runs, name="quickstart", details=True, design="factorial")
    done = _execute(notebook, tmp_path)
    assert done.returncode == 0, done.stderr
    cells = json.loads((tmp_path / notebook.name).read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert not [o for o in outputs if o.get("name") == "stderr"]
    shown = [data for output in outputs for data in output.get("data", {})]
    assert "image/png" in shown
    texts = [
        "".join(output["data"][kind])
        for output in outputs
        for kind in ("text/html", "text/markdown")
        if kind in output.get("data", {})
    ]
    assert any(SHOWN[notebook.stem] in text for text in texts)


def test_it_says_what_is_missing(notebook: Path, tmp_path: Path) -> None:
    done = _execute(notebook, tmp_path)
    assert done.returncode != 0
    assert "no study 'quickstart'" in done.stderr


def test_the_pair_says_the_same(notebook: Path) -> None:
    script, book = jupytext.read(notebook.with_suffix(".py")), jupytext.read(notebook)
    assert len(script.cells) == len(book.cells)
    for ours, theirs in zip(script.cells, book.cells, strict=True):
        assert (ours.cell_type, ours.source) == (theirs.cell_type, theirs.source)
        assert ours.metadata.get("tags") == theirs.metadata.get("tags")


def test_no_output_is_committed(notebook: Path) -> None:
    for cell in jupytext.read(notebook).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_it_is_thin(notebook: Path) -> None:
    code = [cell.source for cell in jupytext.read(notebook).cells if cell.cell_type == "code"]
    assert len(code) <= 10
    defined = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda
    assert not [node for node in ast.walk(ast.parse("\n".join(code))) if isinstance(node, defined)]
