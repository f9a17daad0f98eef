"""Kills a study again and again, and looks whether anything was lost or done twice.

    .venv/bin/python benchmarks/chaos.py --kills 100              # the study's own process
    .venv/bin/python benchmarks/chaos.py --kills 100 --workers 2  # and workers of Ray

A stand-in for training writes records whose numbers follow from the recipe, and its log tells what
was begun. SIGKILL comes at random moments, drawn from ``--seed``: a third of them while a run
trains, a third from the moment on when its record stands aside, a third after its commit, when
MLflow, Optuna and the ledger are written. With workers half of the kills hit one of them. At the
end every run must be there, with the numbers of an undisturbed study, each committed once: no
committed record may ever change.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from dart.analysis import load_runs, summarize, to_json  # noqa: E402
from tests.helpers.study_engine import run_toy, write_study  # noqa: E402

STUDY = """\
variants:
  plain: {{}}
  tuned: {{rank: {{low: 2, high: 64, log: true}}, gate: {{low: 0.0, high: 1.0}}}}
# It changes nothing of the stand-in, so that a search that found the best goes on to new runs.
search: {{learning_rate: {{low: 1.0e-4, high: 1.0e-2, log: true}}}}
baseline: plain
budget: {{trials: {trials}, seeds: [0, 1]}}
"""
COMMIT_SECONDS = 0.03
"""What comes between a record that stands aside and the rename, at most, on a busy disk."""
MORE_TRIALS = 4
"""Added to a study that ended while there are kills left."""
DEATHS = 1
"""A run whose worker dies a third time is recorded as crashed; a kill may hit the run after it."""


@dataclass
class Chaos:
    """One study, its killer, and what was seen."""

    folder: Path
    trials: int
    seconds: float
    workers: int
    track: bool
    random: random.Random
    kills: dict[str, int] = field(default_factory=lambda: {"coordinator": 0, "worker": 0})
    found: Counter[str] = field(default_factory=Counter)
    """What the killed process was at, told from the folders that it left."""
    deaths: Counter[str] = field(default_factory=Counter)
    """Run -> workers that were killed while they had it."""
    starts: int = 0
    seen: dict[str, str] = field(default_factory=dict)
    """Committed run -> its record as it was first seen."""
    changed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.first_trials = self.trials
        self.study = write_study(self.folder, STUDY.format(trials=self.trials))
        self.results = self.folder / "results"
        self.log = self.folder / "calls.log"
        self.log.touch()

    def start(self) -> subprocess.Popen[str]:
        """Start the study."""
        self.starts += 1
        command = [sys.executable, "-m", "tests.helpers.study_engine", str(self.study)]
        command += [str(self.results), str(self.seconds), *(["--track"] if self.track else [])]
        if self.workers > 1:
            command.append(f"--workers={self.workers}")
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "DART_FAKE_LOG": str(self.log), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def look(self) -> None:
        """Remember what was committed; a record that changes was committed twice."""
        for path in (self.results / "runs").glob("[!.]*/result.json"):
            text = path.read_text()
            if json.loads(text)["status"] != "finished":
                continue  # its worker was killed, and it is tried again
            if self.seen.setdefault(path.parent.name, text) != text:
                self.changed.append(path.parent.name)

    def disturb(self, kills: int) -> None:
        """Start the study and kill it until so many kills were done."""
        while sum(self.kills.values()) < kills:
            process = self.start()
            self._kill_at_random(process, kills)
            self.look()
            done = f"{dict(self.kills)}, while {dict(self.found)}, runs {len(self.seen)}"
            sys.stderr.write(f"start {self.starts}: killed {done}\n")

    def _kill_at_random(self, process: subprocess.Popen[str], kills: int) -> None:
        while sum(self.kills.values()) < kills:
            if not self._wait_for_moment(process):
                _, errors = process.communicate()
                if process.returncode != 0:
                    raise AssertionError(errors[-2000:])
                self._add_work()
                return
            victim = self._choose_worker(process.pid)
            if victim is not None:
                _kill(victim)
                self.kills["worker"] += 1
                self._classify([victim])
                continue
            workers = list(find_workers(process.pid)) if self.workers > 1 else [process.pid]
            process.kill()
            process.communicate()
            self.kills["coordinator"] += 1
            self._classify(workers)
            return
        process.kill()
        process.communicate()

    def _wait_for_moment(self, process: subprocess.Popen[str]) -> bool:
        """Wait until a run is at a random moment of its life; False if the study ended before."""
        begun, committed = self._count_begun(), self._count_committed()
        moment = self.random.choice(("training", "committing", "committed"))
        if not _wait(process, lambda: self._count_begun() > begun, every=0.01):
            return False
        longest = self.seconds
        if moment == "committing":
            longest = COMMIT_SECONDS
            if not _wait(process, lambda: bool(self._aside("result.json")), every=0.001):
                return False
        if moment == "committed":
            longest = 2 * self.seconds
            if not _wait(process, lambda: self._count_committed() > committed, every=0.005):
                return False
        time.sleep(self.random.uniform(0.0, longest))
        return process.poll() is None

    def _choose_worker(self, pid: int) -> int | None:
        """Return the worker to kill, or None for the coordinator: half of the times either."""
        workers = find_workers(pid) if self.workers > 1 else {}
        if not workers or self.random.random() >= 0.5:
            return None
        chosen = self.random.choice(list(workers))
        if self.deaths[workers[chosen]] >= DEATHS:
            return None
        self.deaths[workers[chosen]] += 1
        return chosen

    def _classify(self, pids: list[int]) -> None:
        """Count what killed processes were at."""
        own = [path for path in self._aside("") if int(path.name.rpartition("-")[2]) in pids]
        written = [path for path in own if (path / "result.json").exists()]
        self.found["committing" if written else "training" if own else "between"] += 1

    def _aside(self, name: str) -> list[Path]:
        """Return the runs that are not committed, or a file of theirs."""
        return list((self.results / "runs").glob(f".tmp-*/{name}" if name else ".tmp-*"))

    def _count_committed(self) -> int:
        return len(list((self.results / "runs").glob("[!.]*")))

    def _count_begun(self) -> int:
        return len(self.log.read_text().splitlines())

    def _add_work(self) -> None:
        self.trials += MORE_TRIALS
        text = STUDY.format(trials=self.trials)
        write_study(self.folder, text)

    def finish(self) -> dict[str, Any]:
        """Let the study end and return what came of it."""
        process = self.start()
        _, errors = process.communicate()
        if process.returncode != 0:
            raise AssertionError(errors[-2000:])
        self.look()
        undisturbed = self.folder / "undisturbed"
        # What a sampler proposes depends on its budget, which grew on the way here too.
        for trials in range(self.first_trials, self.trials + 1, MORE_TRIALS):
            write_study(self.folder, STUDY.format(trials=trials))
            run_toy(self.study, undisturbed)
        wanted = {
            path.name: _numbers(undisturbed, path.name) for path in (undisturbed / "runs").glob("*")
        }
        found = {path.name for path in (self.results / "runs").glob("*")}
        begun = self.log.read_text().splitlines()
        return {
            "runs": len(wanted),
            "kills": self.kills,
            "killed_while": dict(self.found),
            "starts": self.starts,
            "begun": len(begun),
            "repeated": len(begun) - len(wanted),
            "lost": sorted(wanted.keys() - found),
            "surplus": sorted(found - wanted.keys()),
            "committed_twice": sorted(set(self.changed)),
            "other_numbers": [
                name
                for name, numbers in wanted.items()
                if name in found and _numbers(self.results, name) != numbers
            ],
            "same_table": _table(self.results) == _table(undisturbed),
            "mlflow": self._count_mlflow(),
        }

    def _count_mlflow(self) -> dict[str, int]:
        if not self.track:
            return {}
        from dart.tracking import database_uri, read_statuses  # noqa: PLC0415

        statuses = list(read_statuses(database_uri(self.results), "toy").values())
        return {status: statuses.count(status) for status in sorted(set(statuses))}


def _numbers(results: Path, name: str) -> Any:
    record = json.loads((results / "runs" / name / "result.json").read_text())
    return {key: record[key] for key in ("key", "status", "domains", "validation_domains")}


def _table(results: Path) -> str:
    return json.dumps(to_json(summarize(load_runs("toy", results=results))))


def _wait(process: subprocess.Popen[str], until: Callable[[], bool], *, every: float) -> bool:
    """Wait until something holds; False if the process ended instead."""
    deadline = time.monotonic() + 300
    while not until():
        if process.poll() is not None:
            return False
        if time.monotonic() > deadline:
            raise AssertionError("nothing happened for five minutes")
        time.sleep(every)
    return True


def find_workers(pid: int) -> dict[int, str]:
    """Return the processes of Ray's workers under a coordinator, and the run each of them has."""
    parents: dict[int, list[int]] = {}
    names: dict[int, str] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            names[int(path.name)] = (path / "cmdline").read_bytes().decode(errors="replace")
            parents.setdefault(int(fields[1]), []).append(int(path.name))
        except OSError:
            continue
    found, waiting = {}, [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        waiting += children
        busy = [child for child in children if names[child].startswith("ray::dart-")]
        found |= {child: names[child].rstrip("\0 ").rpartition("-")[2] for child in busy}
    return found


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def run_chaos(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Disturb a study in an empty folder and return what came of it."""
    chaos = Chaos(
        folder,
        options.trials,
        options.seconds,
        options.workers,
        options.track,
        random.Random(options.seed),
    )
    chaos.disturb(options.kills)
    return chaos.finish()


def is_whole(report: dict[str, Any]) -> bool:
    """Say whether nothing was lost, done twice or changed."""
    wrong = ("lost", "surplus", "committed_twice", "other_numbers")
    mirrored = set(report["mlflow"]) <= {"FINISHED"}
    return report["same_table"] and mirrored and not any(report[name] for name in wrong)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.3, help="that one run takes")
    parser.add_argument("--trials", type=int, default=6, help="of the search, at first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-track", dest="track", action="store_false", help="without MLflow")
    return parser.parse_args(arguments)


def main() -> int:
    """Print one JSON object; 0 if nothing was lost."""
    folder = Path(tempfile.mkdtemp(prefix="dart-chaos-"))
    report = run_chaos(folder, parse())
    print(json.dumps(report, indent=1))
    if is_whole(report):
        shutil.rmtree(folder)
        return 0
    print(f"look into {folder}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
