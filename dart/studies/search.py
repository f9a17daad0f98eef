"""Optuna chooses hyperparameters: a search of the same budget for each variant, or one for all.

A trial's value is the mean over the study's seeds, measured on the validation split. The search
can be cut off anywhere: what was proposed is taken up again, and the sampler is seeded anew by
the number of trials so far, for one that starts over with its old seed proposes its old trials.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Protocol, runtime_checkable

import optuna
from optuna.samplers import (
    BaseSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    RandomSampler,
    TPESampler,
)
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy import event
from threadpoolctl import threadpool_limits

from dart.errors import UserError
from dart.metrics import METRICS, compare
from dart.recipe import TrainingSpec, canonical_hash
from dart.stores import hide_password
from dart.studies.choices import JOINT, Choice, factors_of
from dart.studies.factors import Range, Scalar
from dart.studies.hypervolume import default_reference, history
from dart.studies.model import FactorName, Sampler
from dart.studies.plan import Cell, Planner, search_identity

GAUSSIAN_PROCESS_BELOW = 150
"""Trials from which TPE is used: a Gaussian process's time grows with their cube."""
ENDED = (TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED)


@runtime_checkable
class Host(Protocol):
    """Runs the cells of trials, and is told how far a search has come."""

    def run_trials(
        self, cells: Sequence[Cell], *, identity: str, proposed: int
    ) -> list[dict[str, Any]]:
        """Return the records; ``proposed`` counts the search's trials with these."""
        ...

    def report(self, search: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep what a search has reached so far: one row a trial."""
        ...


@contextmanager
def open_storage(url: str) -> Iterator[RDBStorage]:
    """Open Optuna's store of a study; a new one gets its tables.

    Raises:
        UserError: If what lies there is not such a store.
    """
    # Its warning that a package for faster proposals is missing is not for the user.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        storage = RDBStorage(url)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{hide_password(url)}: Optuna cannot use it: {reason}; move it away to "
            "start the search afresh (finished runs are kept)"
        ) from None
    if url.startswith("sqlite"):
        # Kills and power cuts leave such a file whole; at most its last entries are missing, and
        # those are proposed again. A commit then costs a write, not three waits for the disk.
        event.listen(storage.engine, "connect", _write_ahead)
        storage.engine.dispose()
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _write_ahead(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def make_sampler(
    *, identity: str, trials_so_far: int, budget: int, name: Sampler = "auto"
) -> BaseSampler:
    """Return a sampler whose proposals do not depend on where the search was cut off."""
    seed = int(canonical_hash({"search": identity, "trials": trials_so_far})[:8], 16)
    startup = min(10, max(4, budget // 3))
    # Generations as small as the budget is, so that there are several.
    population = min(50, max(4, budget // 5))
    if name == "auto":
        name = "gp" if budget < GAUSSIAN_PROCESS_BELOW else "tpe"
    match name:
        case "gp":
            return GPSampler(seed=seed, n_startup_trials=startup)
        case "nsga2":
            return NSGAIISampler(seed=seed, population_size=population)
        case "nsga3":
            with warnings.catch_warnings():  # it is called experimental since version 3.2
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                return NSGAIIISampler(seed=seed, population_size=population)
        case "random":
            return RandomSampler(seed=seed)
    return TPESampler(seed=seed, n_startup_trials=startup)


def measure_trial(results: Sequence[Mapping[str, Any]], metric: str) -> dict[str, float]:
    """Return the mean over seeds of what a trial reached on the validation split.

    ``target`` is the metric on the target after adaptation, negated where higher is better.

    Raises:
        UserError: If a record holds no validation errors in this metric.
    """
    outcomes = [_validation(result, metric) for result in results]
    sign = -1.0 if METRICS[metric].higher_is_better else 1.0
    return {
        "target": fmean(sign * outcome["target_after"] for outcome in outcomes),
        "forgetting": fmean(outcome["forgetting"] for outcome in outcomes),
        "forgetting_relative": fmean(outcome["forgetting_relative"] for outcome in outcomes),
    }


def _validation(result: Mapping[str, Any], metric: str) -> Mapping[str, float]:
    domains = result.get("validation_domains")
    if domains:
        return compare(domains, metric)
    if result.get("metric") == metric and "validation" in result:
        return result["validation"]
    raise UserError(
        f"run {result['key'][:16]}: its record has no validation errors in '{metric}'; "
        "delete its folder to run it again"
    )


def suggest(trial: Trial, planner: Planner, variant: str) -> Choice:
    """Return the values that Optuna proposes for every factor of a variant."""
    choice: dict[FactorName, Scalar] = {}
    hyperparameters = planner.study.variants[variant].hyperparameters
    for (kind, name), factor in factors_of(planner.study, variant).items():
        label = label_of(planner, variant, (kind, name))
        if not isinstance(factor, Range):
            options: list[Scalar] = list(factor.values)
            choice[kind, name] = trial.suggest_categorical(label, options)  # type: ignore[assignment]
            continue
        if kind == "training":
            is_whole = TrainingSpec.model_fields[name].annotation is int
        else:
            is_whole = hyperparameters[name].type == "int"
        draw = trial.suggest_int if is_whole else trial.suggest_float
        choice[kind, name] = draw(label, factor.low, factor.high, log=factor.log)
    return choice


def label_of(planner: Planner, variant: str, factor: FactorName) -> str:
    """Return Optuna's name of a factor; in a joint search two variants' ranks are two things."""
    kind, name = factor
    inside = f".{variant}" if planner.study.spec.joint and kind == "hyperparameters" else ""
    return f"{kind}{inside}.{name}"


@dataclass(frozen=True)
class _Asked:
    """A trial that Optuna proposed."""

    trial: Trial
    label: int
    cells: list[Cell]


class Search:
    """The search of one variant's hyperparameters, or of all variants at once.

    Args:
        variant: Its name, or ``JOINT``.
        width: Trials that are run at once.
    """

    def __init__(
        self,
        planner: Planner,
        variant: str,
        *,
        storage: RDBStorage,
        host: Host,
        retry_failed: bool,
        width: int = 1,
    ) -> None:
        self.planner = planner
        self.variant = variant
        self.host = host
        self.width = width
        self.spec = planner.study.spec
        self.identity = search_identity(planner, variant)
        self.reference: tuple[float, ...] | None = None
        if self.spec.reference:
            self.reference = tuple(self.spec.reference[name] for name in self.spec.objectives)
        name = "joint" if variant == JOINT else variant
        self.optuna = optuna.create_study(
            study_name=f"{name}-{self.identity[:12]}",
            storage=storage,
            directions=[StudyDirection.MINIMIZE] * len(self.spec.objectives),
            load_if_exists=True,
        )
        self._adopt()
        if retry_failed:
            self._requeue([t for t in self._counted() if t.state == TrialState.FAIL])

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.optuna.get_trials(deepcopy=False, states=states)

    def _counted(self) -> list[FrozenTrial]:
        """Return the trials that ended and that no later one replaces."""
        every = self._trials(*ENDED, TrialState.RUNNING, TrialState.WAITING)
        replaced = {trial.user_attrs.get("replaces") for trial in every}
        return [
            trial
            for trial in every
            if trial.state in ENDED and "label" in trial.user_attrs and trial.number not in replaced
        ]

    def _adopt(self) -> None:
        """Queue again what a process that died had begun; this one holds the study's lock."""
        begun = self._trials(TrialState.RUNNING)
        self._requeue([trial for trial in begun if "label" in trial.user_attrs])
        for trial in begun:
            self.optuna.tell(trial.number, state=TrialState.FAIL)

    def _requeue(self, trials: Sequence[FrozenTrial]) -> None:
        every = self._trials(*ENDED, TrialState.RUNNING, TrialState.WAITING)
        replaced = {trial.user_attrs.get("replaces") for trial in every}
        for trial in trials:
            if trial.number not in replaced:
                self.optuna.enqueue_trial(
                    trial.user_attrs["params"],
                    user_attrs={
                        "replaces": trial.number,
                        "label": trial.user_attrs["label"],
                        "params": trial.user_attrs["params"],
                    },
                )

    def runs_left(self) -> int:
        """Return how many runs the search may yet need."""
        return self._left() * len(self.spec.budget.seeds)

    def run(self) -> None:
        """Run trials until the budget is used, those that were cut off first."""
        while left := self._left():
            self._run_some([self._ask() for _ in range(min(self.width, left))])

    def _left(self) -> int:
        waiting = len(self._trials(TrialState.WAITING))
        return max(waiting, self.spec.budget.trials - len(self._counted()))

    def _ask(self) -> _Asked:
        so_far = self.proposed()
        self.optuna.sampler = make_sampler(
            identity=self.identity,
            trials_so_far=so_far,
            budget=self.spec.budget.trials,
            name=self.spec.sampler,
        )
        variants = list(self.spec.variants)
        is_joint = self.variant == JOINT
        if is_joint and so_far < len(variants) and not self._trials(TrialState.WAITING):
            # Every variant once, so that each has something to be compared by.
            self.optuna.enqueue_trial({"variant": variants[so_far]})
        trial = self.optuna.ask()
        # Matrices of a Gaussian process are too small to share: threads would wait for each other.
        with threadpool_limits(1):
            variant = self.variant
            if is_joint:
                variant = str(trial.suggest_categorical("variant", variants))
            choice = suggest(trial, self.planner, variant)
        label = trial.user_attrs.get("label", so_far)
        # Set last: a trial without a label was never run, and does not count.
        trial.set_user_attr("params", trial.params)
        trial.set_user_attr("label", label)
        return _Asked(trial, label, self.planner.cells(variant, choice, trial=label))

    def _run_some(self, asked: Sequence[_Asked]) -> None:
        results: dict[int, list[dict[str, Any]]] = {one.label: [] for one in asked}
        # Where runs may end early, the other seeds of a trial wait for the first.
        first = 1 if self.spec.pruning else len(self.spec.budget.seeds)
        for part in (slice(0, first), slice(first, None)):
            pending = [one for one in asked if not _is_pruned(results[one.label])]
            cells = [(one.label, cell) for one in pending for cell in one.cells[part]]
            if cells:
                records = self.host.run_trials(
                    [cell for _, cell in cells], identity=self.identity, proposed=self.proposed()
                )
                for (label, _), record in zip(cells, records, strict=True):
                    results[label].append(record)
        for one in asked:
            self._tell(one.trial, results[one.label])
        self._report()

    def _tell(self, trial: Trial, results: Sequence[Mapping[str, Any]]) -> None:
        if _is_pruned(results):
            self.optuna.tell(trial, state=TrialState.PRUNED)
            return
        if any(result["status"] != "finished" for result in results):
            self.optuna.tell(trial, state=TrialState.FAIL)
            return
        metric = self.spec.protocol.metric
        values = measure_trial(results, metric)
        for name, limit in self.spec.constraints.items():
            trial.set_constraint(name, values[name] - limit)
        self.optuna.tell(trial, [values[name] for name in self.spec.objectives])
        if self.reference is None:
            self.reference = default_reference(
                dict(_validation(results[0], metric)),
                self.spec.objectives,
                higher_is_better=METRICS[metric].higher_is_better,
            )

    def _report(self) -> None:
        """Tell the host the area that is dominated after each trial so far."""
        if self.reference is None:
            return  # nothing has finished
        trials = sorted(self._counted(), key=lambda trial: trial.user_attrs["label"])
        points = [tuple(t.values) if t.values and _is_feasible(t) else None for t in trials]
        rows = [
            {
                "search": self.variant,
                "trial": trial.user_attrs["label"],
                "state": trial.state.name.lower(),
                **dict(zip(self.spec.objectives, trial.values or (), strict=False)),
                "feasible": _is_feasible(trial),
                "reference": list(self.reference),
                "hypervolume": area,
            }
            for trial, area in zip(trials, history(points, self.reference), strict=True)
        ]
        self.host.report(self.variant, rows)

    def _labelled(self) -> dict[int, FrozenTrial]:
        every = self._trials(*ENDED, TrialState.RUNNING)
        return {t.user_attrs["label"]: t for t in every if "label" in t.user_attrs}

    def proposed(self) -> int:
        """Return how many trials have been proposed so far."""
        return len(self._labelled())

    def known_cells(self) -> list[Cell]:
        """Return the cells of every trial proposed so far that did not end early."""
        cells = []
        for label, trial in sorted(self._labelled().items()):
            if trial.state == TrialState.PRUNED:
                continue
            params = trial.user_attrs["params"]
            variant = params.get("variant", self.variant)
            choice: dict[FactorName, Scalar] = {
                factor: params[label_of(self.planner, variant, factor)]
                for factor in factors_of(self.planner.study, variant)
            }
            cells += self.planner.cells(variant, choice, trial=label)
        return cells


def _is_pruned(results: Sequence[Mapping[str, Any]]) -> bool:
    return any(result["status"] == "pruned" for result in results)


def _is_feasible(trial: FrozenTrial) -> bool:
    return all(value <= 0 for value in trial.constraints.values())
