"""``dart report``: one page that needs nothing else, with the numbers of ``dart compare``."""

import csv
import html
import json
import re
from pathlib import Path

import pytest

from dart.analysis.verdict_tables import text_rows, to_frame
from dart.analysis.verdicts import compare_study
from dart.cli import main
from tests.helpers.browser import chromium
from tests.helpers.servers import Unavailable
from tests.helpers.study_results import FakeRun, adapted, three_variants, untouched, write_study

PAPER = 688
"""Pixels between the margins of A4."""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    runs = three_variants()
    runs.append(adapted("other", gain=0.1, loss=0.02, seed=3))
    runs += [FakeRun("gated", seed=3, status="failed"), FakeRun("daa", seed=3, status="missing")]
    write_study(folder, runs, details=True)
    return folder


@pytest.fixture(scope="module")
def report(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    assert main(["report", "toy", "--results", str(results), "--out", str(out)]) == 0
    return out


def _cells(page: str) -> list[str]:
    tables = re.findall(r'<table class="(?:verdicts|costs)">.*?</table>', page, re.DOTALL)
    assert len(tables) == 2
    return [html.unescape(text) for text in re.findall(r">([^<>\n]+)<", "".join(tables))]


def test_the_numbers_are_those_of_compare(results: Path, report: Path) -> None:
    comparison = compare_study("toy", results=results)
    shown = _cells((report / "report.html").read_text())
    markdown = (report / "report.md").read_text()
    for row in text_rows(comparison):
        for cell in row:
            for line in cell:
                assert line in shown
                assert line in markdown
    frame = to_frame(comparison)
    with (report / "verdicts.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["variant"] for row in rows] == list(frame["variant"])
    for name in ("own", "difference", "difference_lower", "p_holm"):
        ours = [float(row[name]) if row[name] else None for row in rows]
        theirs = [None if value != value else value for value in frame[name]]
        assert ours == pytest.approx(theirs)


def test_it_needs_no_other_file(report: Path) -> None:
    page = (report / "report.html").read_text()
    sources = re.findall(r'(?:src|srcset|data)="([^"]{1,40})', page)
    assert sources
    assert all(source.startswith("data:image/") for source in sources)
    assert not re.search(r"<(script|link|iframe)\b|url\(|@import", page)
    assert re.findall(r'href="([^"]*)"', page) == []  # MLflow knows nothing of this study


def test_it_tells_what_failed_and_where_numbers_come_from(report: Path) -> None:
    for name in ("report.html", "report.md"):
        text = html.unescape((report / name).read_text())
        assert "the loss is nan at step 3" in text
        assert "not run yet" in text
        assert "seed 3 dropped for all variants" in text
    page = (report / "report.html").read_text()
    assert "<dt>seeds</dt><dd>0, 1, 2, 3</dd>" in page
    assert "1 failed" in page


def test_the_tables_behind_the_figures_lie_beside_it(report: Path) -> None:
    for name in ("runs", "summary", "angles", "curves", "updates"):
        with (report / f"{name}.csv").open() as file:
            assert list(csv.DictReader(file))
    drawn = {path.stem for path in (report / "figures").iterdir()}
    assert {"trade_off", "forest_adaptation", "forest_forgetting", "by_domain", "updates"} <= drawn
    assert {"by_angle_wide", "curve_target", "curve_source"} <= drawn


def test_a_browser_shows_it_on_screen_and_paper(report: Path, tmp_path: Path) -> None:
    try:
        with chromium(tmp_path / "profile") as page:
            page.visit(
                (report / "report.html").as_uri(),
                until="document.readyState == 'complete' && document.images.length > 0 && "
                "[...document.images].every(i => i.complete && i.naturalWidth > 0)",
            )
            assert not page.errors
            outside = [url for url in page.requests if not url.startswith(("data:", "file:"))]
            assert not outside
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            right = page.evaluate_on_paper(
                "Math.max(...[...document.querySelectorAll('table, img')]"
                ".map(e => e.getBoundingClientRect().right))",
                width=PAPER,
            )
            assert 0 < right <= PAPER
            page.paper(tmp_path / "report.pdf")
            assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    except Unavailable as reason:
        pytest.skip(str(reason))


def test_runs_made_before_details_were_kept_are_said(tmp_path: Path) -> None:
    write_study(tmp_path, [untouched(), adapted("daa", gain=0.1, loss=0.02)])
    out = tmp_path / "report"
    assert main(["report", "toy", "--results", str(tmp_path), "--out", str(out)]) == 0
    page = html.unescape((out / "report.html").read_text())
    for name in ("angles", "curves", "updates"):
        assert f"no finished run has kept {name}.parquet" in page
    assert "1 seed: no interval" in page
    assert "no run of 'daa' has a picture" in page


def _refuse(capsys: pytest.CaptureFixture[str], results: Path, *options: str) -> str:
    assert main(["report", *options, "--results", str(results)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_mistakes_are_one_line(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no study 'tyo'" in _refuse(capsys, results, "tyo")
    assert "unknown baseline 'ada'" in _refuse(capsys, results, "toy", "--baseline", "ada")
    assert "unknown metric 'absrel'" in _refuse(capsys, results, "toy", "--metric", "absrel")
    taken = tmp_path / "file"
    taken.write_text("")
    assert "cannot write the report" in _refuse(capsys, results, "toy", "--out", str(taken))
    write_study(tmp_path, [FakeRun("daa", status="missing")])
    assert "no finished run yet" in _refuse(capsys, tmp_path, "toy")


def test_json_names_the_page(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report"
    options = ["--results", str(results), "--out", str(out), "--json"]
    assert main(["report", "toy", *options]) == 0
    assert json.loads(capsys.readouterr().out)["page"] == str(out / "report.html")
