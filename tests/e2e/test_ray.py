"""Workers of Ray: killed ones are replaced, a lost node's runs move, nothing runs for nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from dart.studies.records import run_folder
from dart.studies.summary import read_study
from tests.helpers.servers import free_port
from tests.helpers.study_engine import run_toy, write_study

pytest.importorskip("ray", reason="Ray is not installed: pip install 'dart-ablation[ray]'")

ROOT = Path(__file__).parents[2]
STUDY = "variants: {plain: {}, tuned: {rank: [4, 8]}}\nbudget: {seeds: [0, 1, 2]}\n"
RUNS = 10


class Engine:
    """A study with workers, in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.path = write_study(folder, STUDY)
        self.results = folder / "results"
        self.log = folder / "calls.log"
        self.log.touch()
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, *flags: str, seconds: float = 0.2) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.helpers.study_engine", str(self.path)]
        process = subprocess.Popen(
            [*command, str(self.results), str(seconds), *(flags or ("--workers=2",))],
            env={**os.environ, "DART_FAKE_LOG": str(self.log), "OMP_NUM_THREADS": "1"},
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def finish(self, *flags: str, seconds: float = 0.2) -> str:
        process = self.start(*flags, seconds=seconds)
        _, errors = process.communicate(timeout=400)
        assert process.returncode == 0, errors
        return errors

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
            if process.stderr is not None:
                process.stderr.close()

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines()

    def wait_for_runs(self, count: int) -> None:
        deadline = time.monotonic() + 300
        while len(list((self.results / "runs").glob("[!.]*"))) < count:
            assert self.processes[-1].poll() is None, self.processes[-1].communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def check_whole(self, folder: Path) -> None:
        """Every run is there once, with the numbers of an undisturbed study."""
        run_toy(self.path, folder / "undisturbed")
        for cell in read_study(folder / "undisturbed", "toy").cells:
            one, two = (
                json.loads((run_folder(root, cell["key"]) / "result.json").read_text())
                for root in (folder / "undisturbed", self.results)
            )
            assert one["domains"] == two["domains"]
        assert len(list((self.results / "runs").glob("[!.]*"))) == RUNS


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = Engine(tmp_path)
    yield engine
    engine.stop()


def test_killed_workers_are_replaced_and_their_runs_repeated(
    engine: Engine, tmp_path: Path
) -> None:
    errors = engine.finish("--workers=2", "--deaths=1")
    assert errors.count("crashed, attempt 1 of 3; it is run again") == 3
    engine.check_whole(tmp_path)
    assert set(Counter(engine.calls()).values()) == {1}
    engine.finish()  # and again: nothing runs, and Ray is not even started
    assert len(engine.calls()) == RUNS


def test_a_run_that_kills_every_worker_has_failed(engine: Engine) -> None:
    process = engine.start("--workers=2", "--deaths=99")
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    study = read_study(engine.results, "toy")
    failed = [record for _, record in study.committed() if record["status"] == "failed"]
    assert [record["failure"] for record in failed] == ["crashed"] * 3
    assert [record["attempts"] for record in failed] == [3] * 3
    assert len(study.records) == RUNS


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_coordinator_that_is_stopped_goes_on_where_it_was(
    number: signal.Signals, engine: Engine, tmp_path: Path
) -> None:
    first = engine.start(seconds=1.5)
    engine.wait_for_runs(4)
    first.send_signal(number)
    _, errors = first.communicate(timeout=300)
    assert first.returncode == (-9 if number == signal.SIGKILL else 143), errors
    assert "Traceback" not in errors
    engine.finish()
    engine.check_whole(tmp_path)
    # What was in flight was begun twice at most; what was done was not.
    assert len(engine.calls()) <= RUNS + 2


def test_an_address_where_nothing_listens_is_one_line(engine: Engine) -> None:
    for address, text in ((f"127.0.0.1:{free_port()}", "refused"), ("nonsense", "expected HOST")):
        process = engine.start("--workers=2", f"--address={address}")
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 2
        assert errors.splitlines()[-1].startswith(f"error: --address {address}: no cluster of Ray")
        assert text in errors
        assert "Traceback" not in errors


def test_the_runs_of_a_lost_node_move_to_another(engine: Engine, tmp_path: Path) -> None:
    code = (
        "import sys, os; os.environ['RAY_USAGE_STATS_ENABLED'] = '0'\n"
        "from ray.cluster_utils import Cluster\n"
        "cluster = Cluster(initialize_head=True, head_node_args={'num_cpus': 1})\n"
        "second = cluster.add_node(num_cpus=1)\n"
        "print(cluster.address, flush=True)\n"
        "sys.stdin.readline()\n"
        "cluster.remove_node(second, allow_graceful=False)\n"
        "print('removed', flush=True)\n"
        "sys.stdin.readline()\n"
        "cluster.shutdown()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as nodes:
        assert nodes.stdin is not None
        assert nodes.stdout is not None
        address = nodes.stdout.readline().strip()
        assert address, "the cluster did not start"
        process = engine.start("--workers=2", f"--address={address}", seconds=3.0)
        engine.wait_for_runs(2)
        nodes.stdin.write("\n")
        nodes.stdin.flush()
        assert nodes.stdout.readline().strip() == "removed"
        # Whether a run was lost, or ended before its worker missed the node, is a matter of
        # milliseconds, and on a slow machine all may be done: the study must come out whole anyhow.
        _, errors = process.communicate(timeout=500)
        assert process.returncode == 0, errors
    engine.check_whole(tmp_path)
