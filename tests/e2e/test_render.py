"""``dart render`` as a user runs it: a kill, a second process, faults in what is asked."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dart.cli import main

COMMAND = [sys.executable, "-m", "dart.cli", "render", "rooms_pinhole", "--split", "val"]
SMALL = ["--size", "16x24"]


def children_of(process: int) -> list[int]:
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True
    )
    return [int(number) for number in listed.stdout.split()]


def wait_until(holds: Callable[[], bool], *, seconds: float = 400) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)


def test_a_killed_rendering_is_resumed_and_its_workers_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    out = tmp_path / "set"
    arguments = ["--count", "390", "--workers", "2", "--out", str(out)]
    first = subprocess.Popen([*COMMAND, *SMALL, *arguments], stderr=subprocess.DEVNULL)
    request.addfinalizer(first.wait)
    request.addfinalizer(first.kill)
    journal = out / "journal.jsonl"
    # Its header and two frames.
    wait_until(lambda: journal.exists() and len(journal.read_text().splitlines()) >= 3)
    # Held, it cannot finish while a busy machine is slow to start the second one.
    os.kill(first.pid, signal.SIGSTOP)
    again = ["render", "rooms_pinhole", "--split", "val", *SMALL, "--workers", "1",
             "--count", "20", "--out", str(out)]  # fmt: skip
    assert main(again) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {out}: process {first.pid} is rendering into it; wait for it")
    workers = children_of(first.pid)
    assert len(workers) >= 2
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    assert not (out / "index.json").exists()
    assert main([*again, "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["frames"], done["damaged"]) == (20, 0)
    assert done["rendered"] <= 18
    assert (out / "index.json").exists()
    assert not [path for path in out.rglob(".*") if path.name != ".lock"]
    assert main(again) == 0
    assert capsys.readouterr().out.endswith("set; 0 are new\n")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "dart render takes a domain and --count, or --packs"),
        (["rooms_pinhole"], "dart render takes a domain and --count, or --packs"),
        (["room_pinhole", "--count", "1"], "did you mean 'rooms_pinhole'?"),
        (["rooms_pinhole", "--count", "0"], "--count 0: expected at least 1"),
        (["rooms_pinhole", "--count", "1", "--workers", "0"], "--workers 0: expected at least 1"),
        (["rooms_pinhole", "--count", "1", "--size", "96"], "--size 96: expected HxW in pixels"),
        (["rooms_pinhole", "--count", "1", "--size", "4x4"], "size: 4x4 pixels, allowed are 16"),
        (["rooms_pinhole", "--count", "1", "--device", "abacus"], "--device abacus: not usable"),
        (["rooms_pinhole", "--packs"], "--packs makes all packs as they ship"),
    ],
)
def test_faults_are_told_in_one_line(
    arguments: list[str],
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DART_CACHE", str(tmp_path / "cache"))
    assert main(["render", *arguments]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert text in told.err
    assert told.err.count("\n") == 1
    assert not (tmp_path / "cache").exists()


def test_frames_go_to_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DART_CACHE", str(tmp_path))
    arguments = ["render", "rooms_equisolid", "--count", "1", *SMALL, "--workers", "1", "--json"]
    assert main(arguments) == 0
    told = json.loads(capsys.readouterr().out)
    folder = tmp_path / "frames" / "rooms_equisolid-train-16x24"
    assert (told["folder"], told["rendered"]) == (str(folder), 1)
    assert (folder / "index.json").is_file()
