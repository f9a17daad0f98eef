"""Run a study, or show what it would run: ``python run_study.py studies/quickstart.yaml``."""

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from dart.errors import Stopped, UserError, did_you_mean
from dart.studies.choices import describe_design
from dart.studies.plan import Plan, make_plan
from dart.studies.spec import Study, load_spec
from dart.tricks import switched_off

EXECUTORS = ("inline", "ray")
EXIT = """\
exit status: 0 all runs finished; 1 some failed (they are recorded, and the others are done);
2 a mistake in what was given, nothing ran; 130 stopped by Ctrl-C, 143 by SIGTERM: finished
runs are kept, the run in flight keeps its training state, and the same command goes on.
"""


def main(arguments: list[str] | None = None) -> int:
    """Read the command line, do what it says and return the exit status."""
    options = _parse(arguments)
    results = Path(options.results or os.environ.get("DART_RESULTS") or "results")
    signal.signal(signal.SIGTERM, _stop)
    try:
        switched_off()  # a name that does not exist is told before anything is done
        study = load_spec(options.study)
        _check_only(options.only, study)
        if options.plan:
            return _show_plan(study, results, options)
        return _run(study, results, options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        print("stopped: finished runs are kept; the same command goes on", file=sys.stderr)
        return 128 + getattr(stopped, "signum", signal.SIGINT)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every other mistake is told."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        self.exit(2, f"error: {message}; run_study.py --help lists what there is\n")


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = _Parser(
        "run_study.py",
        description="Run every run of a study that is not done yet, and print the final table.",
        epilog=EXIT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", metavar="STUDY", type=Path, help="a study file, in YAML")
    parser.add_argument(
        "--plan", action="store_true", help="show every run and its state; run none"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, not a table")
    parser.add_argument(
        "--results", metavar="DIR", type=Path, help="where results go (DART_RESULTS, ./results)"
    )
    parser.add_argument(
        "--only", metavar="VARIANT", action="append", default=[], help="this variant; repeatable"
    )
    parser.add_argument("--retry-failed", action="store_true", help="run failed runs again")
    parser.add_argument("--device", default="cpu", help="a torch device: cpu (default), cuda")
    parser.add_argument(
        "--time-limit", metavar="SECONDS", type=_seconds, help="a run that takes longer has failed"
    )
    parser.add_argument(
        "--fold",
        metavar="N",
        type=_count_workers,
        default=1,
        help="runs that train together in one process and share the frozen encoder",
    )
    parser.add_argument(
        "--executor",
        metavar="NAME",
        type=_executor,
        help="inline: in this process; ray: in workers (default if --workers, --gpus-per-run or "
        "--address is given)",
    )
    workers = parser.add_argument_group("many runs at once, with Ray (pip install '.[ray]')")
    workers.add_argument(
        "--workers",
        metavar="N",
        type=_count_workers,
        default=1,
        help="processes at once; with --fold each takes several runs",
    )
    workers.add_argument(
        "--gpus-per-run",
        metavar="SHARE",
        type=_share,
        default=0.0,
        help="of an accelerator, as 0.25: four runs share one; with --fold, of a worker",
    )
    workers.add_argument("--address", metavar="HOST:PORT", help="of a cluster; default: start one")
    parser.add_argument(
        "--storage", metavar="URL", help="Optuna's database (default: SQLite in the study's folder)"
    )
    parser.add_argument(
        "--tracking-uri", metavar="URL", help="MLflow's server or database (default: mlflow.db)"
    )
    return parser.parse_args(arguments)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")  # which is in no range


def _seconds(text: str) -> float:
    seconds = _number(text)
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of seconds")
    return seconds


def _count_workers(text: str) -> int:
    count = _number(text)
    if count not in range(1, 10_001):
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 to 10000")
    return int(count)


def _executor(text: str) -> str:
    if text not in EXECUTORS:
        nearest = did_you_mean(text, EXECUTORS)
        raise argparse.ArgumentTypeError(
            f"{text} is no executor; allowed: {', '.join(EXECUTORS)}{nearest}"
        )
    return text


def _share(text: str) -> float:
    share = _number(text)
    if not (0 <= share < 1 or share in range(1, 1025)):
        raise argparse.ArgumentTypeError(f"{text} is neither a share below 1 nor a whole number")
    return share


def _stop(signum: int, _frame: FrameType | None) -> NoReturn:
    raise Stopped(signum)


def _check_only(only: list[str], study: Study) -> None:
    variants = study.spec.variants
    for name in only:
        if name not in variants:
            raise UserError(
                f"--only {name}: not a variant of study '{study.name}'; it has: "
                f"{', '.join(variants)}{did_you_mean(name, variants)}"
            )


def _show_plan(study: Study, results: Path, options: argparse.Namespace) -> int:
    plan = make_plan(study, results, only=options.only)
    if options.json:
        print(json.dumps(_plan_to_dict(study, plan, options), indent=1))
        return 0
    width = max(len(cell.recipe.variant) for cell in plan.cells)
    for cell, result, state in zip(plan.cells, plan.results, plan.states(), strict=True):
        settings = {**cell.recipe.hyperparameters, **cell.training, **cell.protocol}
        shown = " ".join(f"{name}={value}" for name, value in settings.items())
        reason = f"  {result['reason']}" if result and state == "failed" else ""
        print(
            f"{cell.key[:16]}  {state:7}  {cell.recipe.variant:{width}}  "
            f"trial {cell.trial:2}  seed {cell.recipe.seed}  {shown}{reason}".rstrip()
        )
    seeds = len(study.spec.budget.seeds)
    for variant, trials in plan.open_trials.items():
        if trials:
            print(
                f"{'-':16}  missing  {variant:{width}}  {trials} trials to propose x {seeds} seeds"
            )
    for variant, lines in describe_design(study).items():
        for line in lines:
            print(f"design of {variant}: {line}")
    print(_plan_line(study, plan, options))
    return 0


def _count(study: Study, plan: Plan) -> dict[str, int]:
    states = plan.states()
    to_propose = sum(plan.open_trials.values()) * len(study.spec.budget.seeds)
    return {
        "runs": len(states) + to_propose,
        "done": states.count("done"),
        "failed": states.count("failed"),
        "missing": states.count("missing") + to_propose,
    }


def _wall_seconds(seconds: float, missing: int, options: argparse.Namespace) -> float:
    return seconds / max(1, min(options.workers, missing))


def _plan_line(study: Study, plan: Plan, options: argparse.Namespace) -> str:
    count = _count(study, plan)
    left = "unknown until a run has finished"
    if plan.seconds_left is not None:
        hours = plan.seconds_left / 3600
        left = f"about {_wall_seconds(plan.seconds_left, count['missing'], options):.0f} s"
        if options.gpus_per_run or options.device != "cpu":
            left += f", {hours * (options.gpus_per_run or 1):.2g} GPU-hours"
        else:
            left += f", {hours:.2g} CPU-hours"
    return (
        f"study {study.name} ({study.spec.design}): {count['runs']} runs, {count['done']} done, "
        f"{count['failed']} failed, {count['missing']} missing; time left: {left}"
    )


def _plan_to_dict(study: Study, plan: Plan, options: argparse.Namespace) -> dict[str, Any]:
    runs = []
    for cell, result, state in zip(plan.cells, plan.results, plan.states(), strict=True):
        run = {**cell.to_dict(), "state": state}
        if result and state == "failed":
            run["reason"] = result.get("reason")
        runs.append(run)
    return {
        "study": study.name,
        "design": study.spec.design,
        "metric": study.spec.protocol.metric,
        "baseline": study.spec.baseline,
        **{f"num_{name}": value for name, value in _count(study, plan).items()},
        "trials_to_propose": dict(plan.open_trials),
        "design_notes": describe_design(study),
        "seconds_left": plan.seconds_left
        and _wall_seconds(plan.seconds_left, _count(study, plan)["missing"], options),
        "run_hours_left": plan.seconds_left and plan.seconds_left / 3600,
        "runs": runs,
    }


def _run(study: Study, results: Path, options: argparse.Namespace) -> int:
    # Slow to import, and --plan does without.
    from dart.commands.study_run import run_study
    from dart.studies.executor import Cluster
    from dart.studies.failures import read_kinds
    from dart.studies.runner import Options

    cluster = Cluster(options.workers, options.gpus_per_run, options.address)
    executor = options.executor or ("inline" if cluster == Cluster() else "ray")
    _check_executor(executor, is_alone=cluster == Cluster(), options=options)
    settings = Options(
        fold=options.fold,
        cluster=cluster if executor == "ray" else None,
        only=tuple(options.only),
        retry=read_kinds(["all"] if options.retry_failed else []),
        device=options.device,
        time_limit=options.time_limit,
        storage=options.storage,
        tracking_uri=options.tracking_uri,
    )
    return run_study(study, results, settings, as_json=options.json)


def _check_executor(executor: str, *, is_alone: bool, options: argparse.Namespace) -> None:
    """Refuse options that contradict each other."""
    if executor == "inline" and not is_alone:
        raise UserError(
            "--executor inline: runs one after the other in this process; leave out --workers, "
            "--gpus-per-run and --address"
        )
    if options.gpus_per_run and options.device == "cpu":
        raise UserError(
            f"--gpus-per-run {options.gpus_per_run:g}: runs would use the processor; "
            "add --device cuda, or leave it out"
        )


if __name__ == "__main__":
    sys.exit(main())
