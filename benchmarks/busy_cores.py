"""Training steps beside another job: how long OpenMP's threads should spin while they wait.

Each way is a process of its own that takes steps of ``daa_query_softmax`` (8 images of 96x128) with
as many threads as there are cores, first alone, then beside one process that keeps a core busy:

- ``default``: what libgomp does if told nothing (``GOMP_SPINCOUNT=300000``), some milliseconds;
- ``dart``: ``GOMP_SPINCOUNT=10000``, which ``import dart`` sets unless the user did;
- ``passive``: ``OMP_WAIT_POLICY=PASSIVE``, threads sleep at once;
- ``one thread``: ``OMP_NUM_THREADS=1``.

Run: ``python -m benchmarks.busy_cores [--steps 15]``
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.folded_steps import create_way
from dart.recipe import TrainingSpec

WAYS = {
    "default": {"GOMP_SPINCOUNT": "300000"},
    "dart": {"GOMP_SPINCOUNT": "10000"},  # set here, since torch may be loaded before dart
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
OWN = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
PATIENCE = 30.0
"""Seconds after which a process takes no further step."""
BUSY = "while True: pass"


def take_steps(count: int) -> None:
    """Take steps and print the median of their milliseconds."""
    spec = TrainingSpec(steps=count + 3)
    take = create_way("dart float32", "daa_query_softmax", [0], spec, torch.device("cpu"))
    seconds: list[float] = []
    end = time.monotonic() + PATIENCE
    for step in range(count + 3):
        begun = time.perf_counter()
        take(1)
        if step >= 3:
            seconds.append(time.perf_counter() - begun)
        if seconds and time.monotonic() > end:
            break
    print(1000 * statistics.median(seconds))


def measure(way: str, steps: int) -> float:
    """Return the median milliseconds of a step of one way."""
    environment = {name: value for name, value in os.environ.items() if name not in OWN}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.busy_cores", "--child", "--steps", str(steps)],
        cwd=Path(__file__).parents[1],
        env=environment | WAYS[way],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout)


def main() -> None:
    """Print milliseconds a step of each way, alone and beside a busy process, and ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        take_steps(options.steps)
        return
    alone = {way: measure(way, options.steps) for way in WAYS}
    # In a session of its own, as another job is: the kernel gives each session the same share.
    busy = subprocess.Popen([sys.executable, "-c", BUSY], start_new_session=True)
    try:
        beside = {way: measure(way, options.steps) for way in WAYS}
    finally:
        busy.kill()
    print(f"{os.cpu_count()} cores; times the speed of `default` in the same column")
    print(f"{'way':12s} {'alone ms':>9s} {'x':>6s} {'beside ms':>10s} {'x':>6s}")
    for way in WAYS:
        ratios = [times["default"] / times[way] for times in (alone, beside)]
        print(f"{way:12s} {alone[way]:9.0f} {ratios[0]:6.2f} {beside[way]:10.0f} {ratios[1]:6.2f}")
    print(json.dumps({"alone": alone, "beside": beside}))


if __name__ == "__main__":
    main()
