"""``dart status``, ``retry``, ``doctor`` and ``sync``: what one does with studies that ran."""

import sys
from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dart.commands.common import print_json, results_folder
from dart.errors import UserError, did_you_mean
from dart.stores import check_store
from dart.studies.doctor import Finding, examine
from dart.studies.failures import read_kinds
from dart.studies.front import describe_front, find_front
from dart.studies.records import check_folder
from dart.studies.summary import SUFFIXES, Written, list_studies, read_study
from dart.studies.sync import sync_study

STATES = ("done", "running", "failed", "missing")


def status(options: Namespace) -> int:
    """Say what runs a study has, what is at work, what failed and what is best."""
    results = results_folder(options)
    check_folder(results)
    study = read_study(results, options.study)
    content = describe_study(study)
    if options.json:
        print_json(content)
    else:
        _print_status(content)
    return 0


def describe_study(study: Written) -> dict[str, Any]:
    """Return counts, failures and best runs of a study, as ``dart status --json`` prints them."""
    states = study.states()
    counts = Counter(states.values())
    variants: dict[str, Counter[str]] = {}
    for cell in study.cells:
        variants.setdefault(cell["variant"], Counter())[states[cell["key"]]] += 1
    failed = [
        {
            "key": cell["key"],
            "variant": cell["variant"],
            "trial": cell["trial"],
            "seed": cell["seed"],
            "failure": record.get("failure", "bug"),
            "attempts": record.get("attempts", 1),
            "reason": record.get("reason", "no reason recorded"),
        }
        for cell, record in study.committed()
        if states[cell["key"]] == "failed"
    ]
    return {
        "study": study.name,
        "metric": study.metric,
        "process": study.holder(),
        "num_runs": len(states),
        **{f"num_{name}": counts[name] for name in STATES},
        "variants": {v: {name: count[name] for name in STATES} for v, count in variants.items()},
        "failed": failed,
        "front": find_front(
            ((f"{c['variant']} trial {c['trial']}", record) for c, record in study.committed()),
            study.metric,
        ),
    }


def _print_status(content: dict[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    process = content["process"]
    work = f"process {process} is at work" if process else "no process is at work"
    counts = ", ".join(
        f"{content[f'num_{n}']} {n}" for n in ("done", "running", "failed", "missing")
    )
    console.print(f"study {content['study']}: {content['num_runs']} runs, {counts}; {work}")
    table = Table("variant", *STATES)
    for variant, states in content["variants"].items():
        table.add_row(variant, *(str(count) for count in states.values()))
    console.print(table)
    for run in content["failed"]:
        console.print(
            f"failed: {run['variant']} trial {run['trial']} seed {run['seed']} "
            f"({run['failure']}): {run['reason']}",
            markup=False,
        )
    if content["front"]:
        front = describe_front(content["front"])
        console.print(f"best in validation (target, forgetting): {front}", markup=False)


def find_study_file(name_or_path: str) -> Path:
    """Return the YAML file of a study that is given by its file, or by its name in ``studies/``.

    Raises:
        UserError: There is no such file.
    """
    path = Path(name_or_path)
    if path.suffix in SUFFIXES or path.is_file():
        return path
    known = {file.stem: file for suffix in SUFFIXES for file in Path("studies").glob(f"*{suffix}")}
    if name_or_path not in known:
        raise UserError(
            f"no study file studies/{name_or_path}.yaml; give the study's YAML file"
            f"{did_you_mean(name_or_path, known)}"
        )
    return known[name_or_path]


def retry(options: Namespace) -> int:
    """Run the failed runs of a study again, those of some kinds or all."""
    # A study needs torch and MLflow, and what stands above does not.
    from dart.commands.study_run import run_study  # noqa: PLC0415
    from dart.studies.runner import Options  # noqa: PLC0415
    from dart.studies.spec import load_spec  # noqa: PLC0415

    kinds = read_kinds(options.failed)
    study = load_spec(find_study_file(options.study))
    settings = Options(retry=kinds, device=options.device)
    return run_study(study, results_folder(options), settings, as_json=options.json)


def doctor(options: Namespace) -> int:
    """Say what is wrong with a results folder, and mend it if asked to."""
    results = results_folder(options)
    uri = _tracking_uri(options)
    left: list[Finding] = []
    shown: list[dict[str, Any]] = []
    for finding in examine(results, uri=uri):
        mended = options.mend and finding.mend is not None
        if mended and finding.mend is not None:
            finding.mend()
        elif finding.mend is not None:
            left.append(finding)
        shown.append({**finding.to_dict(), "mended": mended})
        if not options.json:
            word = "mended" if mended else ("wrong" if finding.mend else "note")
            sys.stdout.write(f"{word}: {finding.kind}: {finding.path}: {finding.text}\n")
    if options.json:
        print_json({"results": str(results), "findings": shown})
    elif left:
        sys.stdout.write(f"{len(left)} things to mend: dart doctor --mend\n")
    elif not shown:
        sys.stdout.write(f"{results}: nothing is wrong\n")
    return 1 if left else 0


def sync(options: Namespace) -> int:
    """Write MLflow's copy of studies anew from the run folders."""
    results = results_folder(options)
    check_folder(results)
    if bool(options.study) == options.all:
        raise UserError("give one study, or --all")
    names = list_studies(results) if options.all else [options.study]
    uri = _tracking_uri(options)
    for study in [read_study(results, name) for name in names]:
        runs = sync_study(study, uri=uri)
        sys.stderr.write(f"{study.name}: {runs} runs\n")
    return 0


def _tracking_uri(options: Namespace) -> str | None:
    if options.tracking_uri is None:
        return None
    return check_store("--tracking-uri", options.tracking_uri, servers=True)
