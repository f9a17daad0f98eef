"""The short form of ``benchmarks/chaos.py``; the long form is run by hand and reported."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


@pytest.fixture(scope="module")
def chaos(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("chaos", repository / "benchmarks" / "chaos.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["chaos"] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def test_a_study_that_is_killed_at_random_loses_nothing(chaos: ModuleType, tmp_path: Path) -> None:
    report = chaos.run_chaos(tmp_path, chaos.parse(["--kills", "3", "--trials", "4"]))
    assert chaos.is_whole(report), report
    assert sum(report["kills"].values()) == 3
    assert report["repeated"] <= 3  # only what was in flight was begun again


def test_a_report_of_loss_is_not_whole(chaos: ModuleType) -> None:
    sound: dict[str, object] = {
        name: [] for name in ("lost", "surplus", "committed_twice", "other_numbers")
    }
    sound["same_table"] = True
    assert chaos.is_whole({**sound, "mlflow": {"FINISHED": 3}})
    assert not chaos.is_whole({**sound, "mlflow": {"FINISHED": 3, "RUNNING": 1}})
    assert not chaos.is_whole({**sound, "lost": ["a"], "mlflow": {"FINISHED": 3}})
    assert not chaos.is_whole({**sound, "same_table": False, "mlflow": {"FINISHED": 3}})
