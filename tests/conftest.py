"""Fixtures that several test modules share."""

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

# Set before any test imports torch or draws: two test processes share two cores, no screen.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A background job of a shell ignores Ctrl-C, and what the tests start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the root of the project."""
    return ROOT


@pytest.fixture(autouse=True)
def _own_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test away from the results of the person who runs it."""
    monkeypatch.setenv("DART_RESULTS", str(tmp_path / "results"))


@pytest.fixture(autouse=True)
def _same_items() -> None:
    """Let the check of types at run time look at the same items of a list in every run."""
    random.seed(0)


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    """Close what a test drew, if it drew at all."""
    import sys

    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")
