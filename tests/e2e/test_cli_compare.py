"""``dart compare`` as a user types it: every form prints the same numbers, mistakes one line."""

import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dart.analysis.verdict_tables import text_rows, to_dict
from dart.analysis.verdicts import compare_study
from dart.cli import main
from tests.helpers.study_chance import Plan, write_plan

EFFECTS = {"base": (0.0, 0.0), "gains": (0.05, 0.0), "forgets_50%": (0.0, 0.05)}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    write_plan(folder, Plan(EFFECTS, comparison={"margin": 0.02}, status={("gains", 3): "failed"}))
    return folder


def _run(capsys: pytest.CaptureFixture[str], results: Path, *options: str) -> str:
    assert main(["compare", "toy", "--results", str(results), *options]) == 0
    return capsys.readouterr().out


def test_every_form_prints_the_numbers_of_python(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    comparison = compare_study("toy", results=results)
    expected = json.loads(json.dumps(to_dict(comparison)))
    assert json.loads(_run(capsys, results, "--json")) == expected
    forms = [_run(capsys, results, *form) for form in ([], ["--markdown"], ["--latex"])]
    cells = [line for row in text_rows(comparison) for cell in row[1:] for line in cell]
    for form in forms:
        plain = form.replace("\\", "")
        for cell in cells:
            assert cell in plain
        for row in comparison.verdicts:
            assert row.variant in plain
        assert "note: seed 3 dropped for all variants: gains lacks 3" in form


def test_the_printed_cells_are_the_objects_numbers(results: Path) -> None:
    comparison = compare_study("toy", results=results)
    for row, cells in zip(to_dict(comparison)["verdicts"], text_rows(comparison), strict=True):
        assert cells[1] == (row["verdict"],)
        difference = row["effects"]["forgetting"]["difference"]
        if difference is None:
            assert cells[6] == ("-",)
            continue
        numbers = [float(n) for n in re.findall(r"[-+]\d+\.\d+", " ".join(cells[6]))]
        wanted = [difference[name] for name in ("value", "lower", "upper")]
        assert numbers == pytest.approx(wanted, abs=5.1e-5)


def test_the_words_are_explained(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = _run(capsys, results)
    assert "gains: better: adapts better; forgetting stays within the margin" in text
    assert "forgets_50%: worse" in text
    assert "better = adapts better (Holm)" in text
    assert "1 failed" in text
    assert "4 seeds: enough to screen" in text


def test_markdown_and_latex_are_well_formed(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = [line for line in _run(capsys, results, "--markdown").splitlines() if line[:1] == "|"]
    assert len(table) == 2 + 4
    assert len({line.count("|") for line in table}) == 1
    latex = _run(capsys, results, "--latex")
    assert r"forgets\_50\%" in latex
    rows = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert len({line.count(" & ") for line in rows}) == 1
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", latex)
    assert columns is not None
    assert len(columns[1]) == rows[0].count(" & ") + 1


def test_another_baseline_turns_the_sign(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {
        base: {row["variant"]: row for row in json.loads(text)["verdicts"]}
        for base in ("base", "gains")
        for text in [_run(capsys, results, "--json", "--baseline", base)]
    }
    one = rows["base"]["gains"]["effects"]["adaptation"]["difference"]
    other = rows["gains"]["base"]["effects"]["adaptation"]["difference"]
    assert one["value"] == pytest.approx(-other["value"])
    assert one["lower"] == pytest.approx(-other["upper"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["toi"], "no study 'toi'"),
        (["toy", "--baseline", "bass"], "unknown baseline 'bass'"),
        (["toy", "--metric", "absrel"], "did you mean 'abs_rel'?"),
        (["toy", "--metric", "rmse"], "no image of the target was measured in 'rmse'"),
        (["toy", "--tracking-uri", "http://127.0.0.1:9"], "no MLflow server answers"),
        (["toy", "--tracking-uri", "sqlite:////nowhere/at.db"], "there is no database"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")
def test_a_mistake_is_one_line(
    results: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert main(["compare", "--results", str(results), *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert says in shown.err
    assert shown.err.count("\n") == 1


def test_a_narrow_terminal_loses_columns_and_no_verdict(results: Path) -> None:
    from rich.console import Console

    from dart.analysis.verdict_tables import print_comparison

    text = io.StringIO()
    console = Console(width=100, force_terminal=True, color_system=None, file=text)
    print_comparison(compare_study("toy", results=results), console=console)
    shown = text.getvalue()
    assert "forgets_50%" in shown
    assert "better" in shown
    assert "on front" not in shown


def test_a_long_name_leaves_the_numbers_whole(results: Path) -> None:
    from rich.console import Console

    from dart.analysis.verdict_tables import print_comparison

    comparison = compare_study("toy", results=results)
    shown = []
    for add in ("", "_" + "long" * 40):
        rows = [replace(row, variant=row.variant + add) for row in comparison.verdicts]
        text = io.StringIO()
        console = Console(width=180, color_system=None, file=text)
        print_comparison(replace(comparison, verdicts=tuple(rows)), console=console)
        shown.append(re.findall(r"[+-]?\d\.\d{3,4}", text.getvalue()))
    assert len(shown[0]) > 10
    assert shown[1] == shown[0]


def test_comparing_needs_neither_torch_nor_mlflow(results: Path) -> None:
    program = (
        "import sys\nfrom dart.cli import main\n"
        f"main(['compare', 'toy', '--results', {str(results)!r}, '--json'])\n"
        "sys.exit(bool({'torch', 'mlflow', 'timm', 'optuna', 'seaborn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
