"""``dart retry``, ``replay``, ``doctor`` and ``export`` on a study that was really trained."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from dart.cli import main
from dart.studies.folders import owner_tag
from dart.tracking import database_uri

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

STUDY = """\
variants: {none: {}}
protocol: {pretrained: rooms_small, source: [rooms_pinhole], target: rooms_fisheye, held_out: []}
training: {steps: 3, batch_size: 1}
factors: {learning_rate: [1.0e-3, 1.0e+30]}
"""


def _dart(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dart.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """Return a folder with ``study.yaml`` and its ``results``: three runs, one of which failed."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "study.yaml").write_text(STUDY)
    command = [repository / "run_study.py", folder / "study.yaml", "--results", folder / "results"]
    done = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("failed: ") == 1
    return folder


def _records(project: Path) -> dict[str, dict[str, Any]]:
    """Return the records: of the untouched network, the trained one and the one that failed."""
    records = {}
    for path in project.glob("results/runs/*/result.json"):
        record = json.loads(path.read_text())
        name = record["variant"] if record["status"] == "finished" else "failed"
        records[name] = record
    assert sorted(records) == ["failed", "none", "zero_shot"]
    return records


def test_only_failures_of_the_named_kind_are_tried_again(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _records(project)
    where = ["--results", str(project / "results")]
    study = str(project / "study.yaml")
    assert main(["retry", study, "--failed", "oom", *where]) == 1  # one run is still failed
    assert _records(project) == before
    assert main(["retry", study, "--failed", "nan", *where]) == 1
    after = _records(project)
    assert after["failed"]["failure"] == "diverged"
    assert after["failed"]["ended"] > before["failed"]["ended"]
    assert {name: after[name] for name in ("none", "zero_shot")} == {
        name: before[name] for name in ("none", "zero_shot")
    }
    capsys.readouterr()
    assert main(["retry", study, "--failed", "nann", *where]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: --failed nann: no kind of failure; allowed: all, oom, nan, ")
    assert told.endswith("; did you mean 'nan'?\n")
    assert told.count("\n") == 1


def test_a_run_comes_out_identical_and_a_planted_number_does_not(project: Path) -> None:
    records = _records(project)
    done = _dart("replay", records["none"]["key"][:12], "--results", project / "results")
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stdout.endswith(": identical\n")

    planted = project / "planted"
    key = records["zero_shot"]["key"][:16]
    shutil.copytree(project / "results" / "runs" / key, planted)
    record = json.loads((planted / "result.json").read_text())
    right = record["domains"]["rooms_fisheye"]["after"]["abs_rel"]
    record["domains"]["rooms_fisheye"]["after"]["abs_rel"] = right * (1 + 1e-12)
    record |= {"fold": 6}
    threads = record["environment"]["threads"]
    record["environment"]["threads"] = 99
    (planted / "result.json").write_text(json.dumps(record))
    done = _dart("replay", planted, "--json")
    assert done.returncode == 1, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["identical"] is False
    assert outcome["changed"] == [f"threads 99 -> {threads}", "one of 6 runs folded -> alone"]
    assert outcome["largest"] == pytest.approx(1e-12, rel=1e-3)
    assert outcome["differences"] == [
        {
            "name": "domains.rooms_fisheye.after.abs_rel",
            "before": right * (1 + 1e-12),
            "after": right,
        }
    ]


def test_a_run_that_cannot_be_repeated_is_refused_in_one_line(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--results", str(project / "results")]
    failed = _records(project)["failed"]["key"][:16]
    for run, text in ((failed, "the run failed"), ("zzz", "no run begins with 'zzz'")):
        assert main(["replay", run, *where]) == 2
        told = capsys.readouterr().err
        assert told.startswith("error: ")
        assert text in told
        assert told.count("\n") == 1


def test_the_doctor_finds_what_was_planted_and_mends_it(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = project / "results"
    where = ["--results", str(results)]
    assert main(["doctor", *where]) == 0
    assert capsys.readouterr().out == f"{results}: nothing is wrong\n"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    machine = owner_tag().rpartition("-")[0]
    half = results / "runs" / f".tmp-0123456789abcdef-{machine}-{dead.pid}"
    half.mkdir()
    (results / "studies" / "study" / "lock").write_text(str(dead.pid))
    kept = _records(project)
    assert main(["doctor", "--json", *where]) == 1
    found = json.loads(capsys.readouterr().out)["findings"]
    assert [(one["kind"], one["mended"]) for one in found] == [
        ("orphaned_folder", False),
        ("dead_owner", False),
    ]
    assert half.is_dir()
    assert main(["doctor", "--mend", *where]) == 0
    assert capsys.readouterr().out.count("mended: ") == 2
    assert not half.exists()
    assert main(["doctor", *where]) == 0
    assert _records(project) == kept


def test_the_champion_is_exported_and_named_in_mlflow(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, out = project / "results", project / "champion"
    arguments = ["export", "study", "--out", str(out), "--json", "--results", str(results)]
    assert main(arguments) == 0
    told = json.loads(capsys.readouterr().out)
    record = _records(project)["none"]
    assert (told["variant"], told["run"], told["folder"]) == ("none", record["key"], str(out))
    run = results / "runs" / record["key"][:16]
    assert (out / "adapter.safetensors").read_bytes() == (run / "adapter.safetensors").read_bytes()
    assert (
        f"{record['domains']['rooms_fisheye']['after']['abs_rel']:.4f}"
        in (out / "README.md").read_text()
    )
    client = MlflowClient(database_uri(results))
    version = client.get_model_version_by_alias("dart-study", "champion")
    assert str(version.version) == told["version"]
    assert version.run_id is not None
    assert client.get_run(version.run_id).data.tags["dart.key"] == record["key"]
    assert main(arguments) == 2  # what lies there is not overwritten
    assert "is there already" in capsys.readouterr().err
