"""Workers of Ray: killed ones are replaced, a lost node's runs move, nothing runs for nothing."""

import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from dart.studies.summary import read_study
from tests.helpers.servers import free_port
from tests.helpers.study_process import StudyProcess

pytest.importorskip("ray", reason="Ray is not installed: pip install 'dart-ablation[ray]'")

STUDY = "variants: {plain: {}, tuned: {rank: [4, 8]}}\nbudget: {seeds: [0, 1, 2]}\n"
RUNS = 10
TWO = ("--workers=2",)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[StudyProcess]:
    engine = StudyProcess(tmp_path, STUDY)
    yield engine
    engine.stop()


def test_killed_workers_are_replaced_and_their_runs_repeated(engine: StudyProcess) -> None:
    errors = engine.finish(*TWO, "--deaths=1", seconds=0.2)
    assert errors.count("crashed, attempt 1 of 3; it is run again") == 3
    engine.check_whole()
    assert set(Counter(engine.calls()).values()) == {1}
    engine.finish(*TWO)  # and again: nothing runs, and Ray is not even started
    assert len(engine.calls()) == RUNS


def test_a_run_that_kills_every_worker_has_failed(engine: StudyProcess) -> None:
    process = engine.start(*TWO, "--deaths=99", seconds=0.2)
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    study = read_study(engine.results, "toy")
    failed = [record for _, record in study.committed() if record["status"] == "failed"]
    assert [record["failure"] for record in failed] == ["crashed"] * 3
    assert [record["attempts"] for record in failed] == [3] * 3
    assert len(study.records) == RUNS


def test_a_worker_that_is_told_to_end_is_no_failure_however_often(engine: StudyProcess) -> None:
    errors = engine.finish(*TWO, "--deaths=4", "--how=TERM", seconds=0.1)
    assert errors.count("cut off (signal 15); it is run again") == 3 * 4
    assert "attempt" not in errors
    engine.check_whole()


def test_a_worker_that_hears_no_alarm_is_ended_by_the_coordinator(engine: StudyProcess) -> None:
    # The grace that a worker gets to end by itself is what this test waits for.
    engine.path.write_text(engine.path.read_text().replace("[0, 1, 2]", "[1]"))
    process = engine.start("--workers=3", "--deaths=1", "--how=hang", "--limit=1", seconds=0.1)
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    study = read_study(engine.results, "toy")
    failures = Counter(record.get("failure") for _, record in study.committed())
    assert failures == {None: 1, "time_limit": 3}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_coordinator_that_is_stopped_goes_on_where_it_was(
    number: signal.Signals, engine: StudyProcess
) -> None:
    first = engine.start(*TWO, seconds=1.5)
    engine.wait_for_runs(4)
    first.send_signal(number)
    _, errors = first.communicate(timeout=300)
    assert first.returncode == (-9 if number == signal.SIGKILL else 143), errors
    assert "Traceback" not in errors
    engine.finish(*TWO)
    engine.check_whole()
    # What was in flight was begun twice at most; what was done was not.
    assert len(engine.calls()) <= RUNS + 2


def test_an_address_where_nothing_listens_is_one_line(engine: StudyProcess) -> None:
    for address, text in ((f"127.0.0.1:{free_port()}", "refused"), ("nonsense", "expected HOST")):
        process = engine.start(*TWO, f"--address={address}", seconds=0.2)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 2
        assert errors.splitlines()[-1].startswith(f"error: --address {address}: no cluster of Ray")
        assert text in errors
        assert "Traceback" not in errors
        assert not engine.results.exists()


def test_more_accelerators_than_there_are_is_one_line_and_no_endless_wait() -> None:
    code = (
        "from dart.studies.executor import Cluster\n"
        "from dart.studies.ray_executor import start_ray\n"
        "try: start_ray(Cluster(1, 64.0))\n"
        "except ValueError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.fullmatch(
        r"--gpus-per-run 64: Ray finds \d+ accelerators on this machine\n", done.stdout
    )


def test_a_cluster_that_does_not_come_up_is_started_again_and_then_is_one_line() -> None:
    code = (
        "import ray\n"
        "from dart.studies.executor import Cluster\n"
        "from dart.studies.ray_executor import start_ray\n"
        "start, late = ray.init, 2\n"
        "def init(**options):\n"
        "    global late\n"
        "    late -= 1\n"
        "    if late >= 0: raise Exception('The current node timed out\\nduring startup.')\n"
        "    return start(**options)\n"
        "ray.init = init\n"
        "print(start_ray(Cluster(2)).is_initialized())\n"
        "ray.shutdown()\n"
        "late = 99\n"
        "try: start_ray(Cluster(2))\n"
        "except ValueError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "True",
        "--workers: no cluster of Ray can be used: The current node timed out during startup.",
    ]


def test_the_runs_of_a_lost_node_move_to_another(engine: StudyProcess) -> None:
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
        process = engine.start(*TWO, f"--address={address}", seconds=3.0)
        engine.wait_for_runs(2)
        nodes.stdin.write("\n")
        nodes.stdin.flush()
        assert nodes.stdout.readline().strip() == "removed"
        # Whether a run was lost, or ended before its worker missed the node, is a matter of
        # milliseconds, and on a slow machine all may be done: the study must come out whole anyhow.
        _, errors = process.communicate(timeout=500)
        assert process.returncode == 0, errors
    engine.check_whole()
