"""Ablation platform for distortion-aware adapters of monocular metric-depth networks."""

import os

# OpenMP's threads spin while they wait for one another, by default so long that a step beside
# another job takes tens of times as long (benchmarks/busy_cores.py). Read when torch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
