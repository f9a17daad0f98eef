"""A stand-in for training: writes a run's record at once, so that the engine can be tested.

As a program it runs a study with that stand-in in a process of its own, to be killed.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd

from dart.metrics import compare
from dart.recipe import ZERO_SHOT, Recipe
from dart.studies.asha import Rungs
from dart.studies.execute import Outcome, execute_study
from dart.studies.executor import Cluster
from dart.studies.failures import read_kinds
from dart.studies.progress import PlainReporter
from dart.studies.runner import Options
from dart.studies.spec import load_spec
from dart.variants import Hyperparameter, VariantInfo

STEPS = 5
BEFORE = {"rooms_pinhole": 0.1, "rooms_fisheye": 0.4, "rooms_stereographic": 0.3}


def _info(name: str, *hyperparameters: Hyperparameter, code: str = "1") -> VariantInfo:
    known = {parameter.name: parameter for parameter in hyperparameters}
    return VariantInfo(name, "It helps.", None, known, f"{name}.py", code)


VARIANTS = {
    "plain": _info("plain"),
    "tuned": _info(
        "tuned",
        Hyperparameter("rank", "int", 8),
        Hyperparameter("gate", "float", 0.0),
        Hyperparameter("wide", "bool", False),
        Hyperparameter("mix", "str", "mean", choices=("mean", "gated")),
    ),
    "broken": _info("broken", Hyperparameter("how", "str", "bug")),
}


def write_checkpoint(path: Path, kind: str = "pretrained") -> Path:
    """Write the smallest file that is a checkpoint by its header."""
    header = json.dumps({"__metadata__": {"kind": f'"{kind}"'}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    return path


def write_study(folder: Path, text: str, *, name: str = "toy") -> Path:
    """Write a study file whose protocol uses a checkpoint beside it."""
    checkpoint = write_checkpoint(folder / "net.safetensors")
    path = folder / f"{name}.yaml"
    if "protocol:" not in text:
        text += f"\nprotocol: {{pretrained: {checkpoint}}}\n"
    path.write_text(text.replace("CHECKPOINT", str(checkpoint)))
    return path


@contextmanager
def own_registry(variants: dict[str, VariantInfo] = VARIANTS) -> Iterator[None]:
    """Let studies see the variants of this module, and data that has no files."""
    with ExitStack() as stack:
        for module in ("spec", "plan"):
            stack.enter_context(patch(f"dart.studies.{module}.scan_variants", lambda: variants))
        stack.enter_context(patch("dart.studies.plan.fingerprint", lambda *names: "/".join(names)))
        yield


class FakeRun:
    """Writes a run's record without training; ``calls`` lists what it was asked for."""

    def __init__(self, *, seconds: float = 0.0, log: Path | None = None) -> None:
        self.seconds = seconds
        self.log = log
        self.calls: list[str] = []

    def __call__(  # noqa: PLR0913  # as the real one
        self,
        recipe: Recipe,
        folder: Path,
        *,
        results: Path,  # noqa: ARG002
        device: str,  # noqa: ARG002
        state: Path | None,  # noqa: ARG002
        on_step: Callable[[int, int, float], None],
        rungs: Rungs | None = None,
    ) -> dict[str, Any]:
        started = datetime.now(UTC)
        self._say(f"{recipe.variant} {recipe.hyperparameters} {recipe.seed}")
        if recipe.variant == "broken":
            (folder / "half.bin").write_bytes(b"half")
            raise {"bug": RuntimeError, "input": ValueError}[str(recipe.hyperparameters["how"])](
                "the loss is\n not finite"
            )
        for step in range(STEPS):
            time.sleep(self.seconds / STEPS)
            if rungs is not None and step + 1 in rungs.steps:
                rungs(step + 1, curve_point(recipe, step + 1))
            on_step(step + 1, STEPS, 1.0 / (step + 1))
        result = {
            **make_result(recipe),
            "started": started.isoformat(),
            "ended": datetime.now(UTC).isoformat(),
            "wall_seconds": max(self.seconds, 0.5),
        }
        steps = range(STEPS)
        pd.DataFrame({"step": steps, "loss": [1.0 / (s + 1) for s in steps]}).to_parquet(
            folder / "history.parquet"
        )
        pd.DataFrame({"before": [0.4], "after": [0.3]}).to_parquet(folder / "per_image.parquet")
        for name in ("predictions.png", "adapter.safetensors"):
            (folder / name).write_bytes(name.encode())
        (folder / "recipe.json").write_text(recipe.model_dump_json())
        (folder / "result.json").write_text(json.dumps(result))
        return result

    def _say(self, label: str) -> None:
        self.calls.append(label)
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(label + "\n")


def curve_point(recipe: Recipe, step: int) -> list[tuple[int, str, str, str, float]]:
    """Return the errors after some steps: as far towards the last as the steps are."""
    return [
        (
            step,
            name,
            domain["role"],
            metric,
            before + (domain["after"][metric] - before) * step / STEPS,
        )
        for name, domain in make_result(recipe)["domains"].items()
        for metric, before in domain["before"].items()
    ]


def make_result(recipe: Recipe) -> dict[str, Any]:
    """Return a record whose numbers follow from the recipe in closed form."""
    changes = {"source": 0.0, "target": 0.0, "held_out": 0.0}
    if recipe.variant != ZERO_SHOT:
        rank = float(recipe.hyperparameters.get("rank", 8))
        gate = float(recipe.hyperparameters.get("gate", 0.0))
        changes["target"] = -0.1 - 0.01 * gate + 0.001 * recipe.seed
        changes["source"] = 0.0001 * rank
    domains = {
        name: {
            "role": role,
            "before": {"abs_rel": BEFORE[name], "delta1": 1 - BEFORE[name]},
            "after": {
                "abs_rel": BEFORE[name] + changes[role],
                "delta1": 1 - BEFORE[name] - changes[role],
            },
        }
        for name, role in recipe.protocol.roles.items()
    }
    metric = recipe.protocol.metric
    return {
        "key": recipe.key,
        "status": "finished",
        "variant": recipe.variant,
        "hyperparameters": recipe.hyperparameters,
        "seed": recipe.seed,
        "metric": metric,
        "trainable_parameters": 0 if recipe.variant == ZERO_SHOT else 1000,
        "domains": domains,
        "validation_domains": {k: v for k, v in domains.items() if v["role"] != "held_out"},
        **compare(domains, metric),
        "peak_memory_mib": 1.0,
    }


def run_toy(path: Path, results: Path, run: FakeRun | None = None, **options: Any) -> Outcome:
    """Run a study with the stand-in, without MLflow unless ``track=True``."""
    options.setdefault("track", False)
    if options.pop("retry_failed", False):
        options["retry"] = read_kinds(["all"])
    with own_registry():
        return execute_study(
            load_spec(path),
            results,
            reporter=PlainReporter(sys.stderr),
            options=Options(run=run or FakeRun(), **options),
        )


class DyingRun(FakeRun):
    """Comes to grief in runs of seed 1 whose mark is not set yet.

    Args:
        times: How often that happens to a run.
        how: ``KILL`` and ``TERM`` are signals to its own process; ``hang`` hears none any more.
    """

    def __init__(self, times: int, how: str = "KILL", **options: Any) -> None:
        super().__init__(**options)
        self.times = times
        self.how = how

    def __call__(self, recipe: Recipe, folder: Path, **options: Any) -> dict[str, Any]:
        assert self.log is not None
        marks = self.log.with_name(f"{recipe.key[:16]}.marks")
        if recipe.seed == 1 and (not marks.exists() or marks.stat().st_size < self.times):
            with marks.open("a") as file:
                file.write("x")
            if self.how == "hang":
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
                time.sleep(1000)
            os.kill(os.getpid(), signal.Signals[f"SIG{self.how}"])
        return super().__call__(recipe, folder, **options)


def main() -> int:
    """Run STUDY into RESULTS, taking SECONDS a run.

    ``--track`` writes to MLflow; ``--storage=URL`` and ``--uri=URL`` are databases elsewhere;
    ``--workers=N`` and ``--address=A`` run with Ray, and ``--deaths=N`` kills the workers of seed 1
    so often, or does with them what ``--how=HOW`` says; ``--limit=S`` is the time limit.
    """
    path, results, seconds, *rest = sys.argv[1:]
    flags: dict[str, str] = {}
    for flag in rest:
        name, _, value = flag.lstrip("-").partition("=")
        flags[name] = value
    log = Path(os.environ["DART_FAKE_LOG"])
    run = FakeRun(seconds=float(seconds), log=log)
    if "deaths" in flags:
        how = flags.get("how", "KILL")
        run = DyingRun(int(flags["deaths"]), how, seconds=float(seconds), log=log)
    cluster = None
    if "workers" in flags:
        cluster = Cluster(int(flags["workers"]), address=flags.get("address"))
    try:
        run_toy(
            Path(path),
            Path(results),
            run,
            track="track" in flags or "uri" in flags,
            cluster=cluster,
            storage=flags.get("storage"),
            tracking_uri=flags.get("uri"),
            time_limit=float(flags["limit"]) if "limit" in flags else None,
        )
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt as stopped:
        return 128 + getattr(stopped, "signum", 2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
