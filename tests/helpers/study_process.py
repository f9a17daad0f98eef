"""A study in a process of its own, with a stand-in for training: to be killed and started again."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from dart.studies.records import run_folder
from dart.studies.summary import read_study
from tests.helpers.study_engine import run_toy, write_study

PATIENCE = 300
"""Seconds after which something that should happen never will."""


class StudyProcess:
    """Starts processes of one study and knows what they have begun and committed."""

    def __init__(self, folder: Path, text: str, *, name: str = "toy") -> None:
        self.folder = folder
        self.path = write_study(folder, text, name=name)
        self.results = folder / "results"
        self.log = folder / "calls.log"
        self.log.touch()
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, *flags: str, seconds: float) -> subprocess.Popen[str]:
        """Start the study, each of whose runs takes so long."""
        command = [sys.executable, "-m", "tests.helpers.study_engine", str(self.path)]
        process = subprocess.Popen(
            [*command, str(self.results), str(seconds), *flags],
            env={**os.environ, "DART_FAKE_LOG": str(self.log), "OMP_NUM_THREADS": "1"},
            cwd=Path(__file__).parents[2],
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def finish(self, *flags: str, seconds: float = 0.0) -> str:
        """Run the study to its end and return what it told."""
        process = self.start(*flags, seconds=seconds)
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors
        return errors

    def stop(self) -> None:
        """Kill what still runs."""
        for process in self.processes:
            process.kill()
            process.wait()
            if process.stderr is not None:
                process.stderr.close()

    def calls(self) -> list[str]:
        """Return what runs were begun, in order."""
        return self.log.read_text().splitlines()

    def committed(self) -> list[str]:
        """Return the names of the committed runs' folders."""
        return [path.name for path in (self.results / "runs").glob("[!.]*")]

    def wait_for_calls(self, count: int) -> None:
        """Wait until so many runs were begun."""
        self._wait(lambda: len(self.calls()) >= count)

    def wait_for_runs(self, count: int) -> None:
        """Wait until so many runs were committed."""
        self._wait(lambda: len(self.committed()) >= count)

    def _wait(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not is_so():
            assert self.processes[-1].poll() is None, self.processes[-1].communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def check_whole(self) -> None:
        """Every run is there once, with the numbers of an undisturbed study, and no other."""
        undisturbed = self.folder / "undisturbed"
        run_toy(self.path, undisturbed)
        cells = read_study(undisturbed, self.path.stem).cells
        for cell in cells:
            one, two = (
                json.loads((run_folder(root, cell["key"]) / "result.json").read_text())
                for root in (undisturbed, self.results)
            )
            assert one["domains"] == two["domains"]
        assert len(self.committed()) == len(cells)
