"""The files of a report: page, Markdown, tables and figures."""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader

from dart.analysis.claims import LEGEND
from dart.analysis.details import load_angles, load_curves, load_interpolation, load_updates
from dart.analysis.records import Cell, RunRecord, open_study
from dart.analysis.report.drawings import (
    Drawing,
    Sources,
    draw_answer,
    draw_predictions,
    draw_where,
    draw_why,
)
from dart.analysis.report.origins import describe_origins
from dart.analysis.tables import (
    Location,
    images_frame,
    read_records,
    runs_frame,
    summarize,
)
from dart.analysis.verdict_tables import (
    SHOWN_COSTS,
    cost_rows,
    describe,
    explain,
    headings,
    text_rows,
    to_frame,
    to_markdown,
)
from dart.analysis.verdicts import Comparison, compare_study
from dart.errors import UserError

PAGE = "report.html"
TEMPLATE = "page.html.j2"


def write_report(
    study: Location,
    out: Path,
    *,
    results: Location | None = None,
    baseline: str | None = None,
    metric: str | None = None,
    links: Mapping[str, str] | None = None,
) -> Path:
    """Write the report of a study into a folder and return the path of the page.

    Args:
        study: Name, YAML file, or folder in the results.
        out: The folder: ``report.html``, which needs no other file, ``report.md``, tables as CSV,
            and the figures.
        results: Root of the results; ``DART_RESULTS`` or ``results`` unless given.
        baseline: The study's own unless given.
        metric: The study's own unless given.
        links: Key of a run -> its address in MLflow's pages.

    Raises:
        UserError: The study is unknown or has no finished run, or the folder cannot be written.
    """
    opened = open_study(study, results=results)
    comparison = compare_study(
        opened.folder, baseline=baseline, metric=metric, results=opened.results
    )
    record = opened.record.model_copy(update={"metric": comparison.metric})
    opened = type(opened)(record, opened.folder, opened.results)
    records = read_records(opened)
    runs = runs_frame(opened, records)
    finished = [cell for cell, run in records if run and run.status == "finished"]
    images = images_frame(opened, finished, metrics=[comparison.metric], splits=["test"])
    sources = Sources(opened, comparison, runs, images)
    sections = {
        "answer": draw_answer(sources),
        "where": draw_where(sources),
        "why": draw_why(sources),
        "predictions": draw_predictions(sources),
    }
    content = {
        "study": record.study,
        "question": record.question,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "comparison": comparison,
        "headline": headline(comparison),
        "headings": headings()[: -len(SHOWN_COSTS)],
        "rows": list(zip(text_rows(comparison), comparison.verdicts, strict=True)),
        "cost_headings": headings()[-len(SHOWN_COSTS) :],
        "costs": cost_rows(comparison),
        "described": describe(comparison),
        "explained": explain(comparison),
        "legend": LEGEND,
        "sections": sections,
        "runs": _list_runs(records, runs, links or {}),
        "counts": Counter(runs["status"]),
        "origins": describe_origins(opened, records),
        "linked": bool(links),
    }
    drawings = [drawing for section in sections.values() for drawing in section]
    tables = {
        "verdicts": to_frame(comparison),
        "summary": summarize(runs),
        "runs": runs,
        **_kept(opened.folder, opened.results, comparison.metric),
    }
    return _write(Path(out), content, drawings=drawings, tables=tables)


def headline(comparison: Comparison) -> str:
    """Return what the study found in one sentence."""
    counts = Counter(v.verdict for v in comparison.verdicts if v.verdict in LEGEND)
    total = sum(counts.values())
    if not total:
        return f"No variant was compared with {comparison.baseline}."
    found = ", ".join(f"{counts[word]} {word}" for word in LEGEND if counts[word])
    noun = "variant" if total == 1 else "variants"
    return f"{total} {noun} compared with {comparison.baseline}: {found}."


def _list_runs(
    records: Sequence[tuple[Cell, RunRecord | None]],
    runs: pd.DataFrame,
    links: Mapping[str, str],
) -> list[dict[str, Any]]:
    rows = []
    for (cell, run), numbers in zip(records, runs.to_dict("records"), strict=True):
        status = run.status if run else "missing"
        rows.append(
            {
                "variant": cell.variant,
                "settings": numbers["settings"],
                "seed": cell.seed,
                "status": status,
                "reason": (run.reason if run else "not run yet") or "",
                "link": links.get(cell.key, ""),
                "key": cell.key[:16],
                **{
                    name: f"{numbers[name]:+.4f}" if status == "finished" else "-"
                    for name in ("adaptation", "forgetting")
                },
            }
        )
    return rows


def _kept(folder: Path, results: Path, metric: str) -> dict[str, pd.DataFrame]:
    """Return the tables behind the figures of angles, curves and updates, where runs kept them."""
    readers = {
        "angles": lambda: load_angles(folder, metric=metric, results=results),
        "curves": lambda: load_curves(folder, metric=metric, results=results),
        "updates": lambda: load_updates(folder, results=results),
        "interpolation": lambda: load_interpolation(folder, results=results),
    }
    tables = {}
    for name, read in readers.items():
        try:
            tables[name] = read()
        except UserError:
            continue  # the figure's place on the page says why
    return tables


def _write(
    out: Path,
    content: Mapping[str, Any],
    *,
    drawings: Sequence[Drawing],
    tables: Mapping[str, pd.DataFrame],
) -> Path:
    environment = Environment(
        loader=PackageLoader("dart.analysis.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["embed"] = _embed
    page = environment.get_template(TEMPLATE).render(content)
    try:
        (out / "figures").mkdir(parents=True, exist_ok=True)
        for drawing in drawings:
            if drawing.data:
                _replace(out / "figures" / drawing.file, drawing.data)
        for name, table in tables.items():
            _replace(out / f"{name}.csv", table.to_csv(index=False).encode())
        _replace(out / "report.md", _markdown(content).encode())
        _replace(out / PAGE, page.encode())
    except OSError as error:
        raise UserError(f"cannot write the report to {out}: {error.strerror}") from None
    return out / PAGE


def _replace(path: Path, data: bytes) -> None:
    """Write a file beside its place and put it there whole."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(data)
    partial.replace(path)


def _embed(drawing: Drawing) -> str:
    return f"data:{drawing.mime};base64,{base64.b64encode(drawing.data).decode()}"


TITLES = {
    "answer": "What was gained and what was lost",
    "where": "Where it forgets",
    "why": "Why",
    "predictions": "Predictions",
}


def _markdown(content: Mapping[str, Any]) -> str:
    lines = [f"# {content['study']}", "", content["question"], "", content["headline"], ""]
    lines += [to_markdown(content["comparison"]), ""]
    for name, drawings in content["sections"].items():
        lines += [f"### {TITLES[name]}", ""]
        for drawing in drawings:
            if drawing.data:
                lines += [f"![{drawing.caption}](figures/{drawing.file})", ""]
            lines += [drawing.caption, ""]
    counts = ", ".join(f"{count} {status}" for status, count in content["counts"].items())
    lines += ["### Runs", "", f"{counts}.", ""]
    for run in content["runs"]:
        if run["status"] != "finished":
            words = f"{run['variant']}, seed {run['seed']}: {run['status']}: {run['reason']}"
            lines.append(f"- {words}")
    lines += ["", "### Where the numbers come from", ""]
    lines += [f"- {heading}: {words}" for heading, words in content["origins"].items()]
    return "\n".join([*lines, "", f"Written {content['written']} by dart report.", ""])
