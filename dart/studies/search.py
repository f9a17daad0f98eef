"""Optuna chooses a variant's hyperparameters: each variant has a search of the same budget.

A trial's value is the mean over the study's seeds, measured on the validation split. The search
can be cut off anywhere: what was proposed is taken up again, and the sampler is seeded anew by
the number of trials so far, for one that starts over with its old seed proposes its old trials.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import Any, Protocol, runtime_checkable

import optuna
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from dart.errors import UserError
from dart.metrics import METRICS, compare
from dart.recipe import TrainingSpec, canonical_hash
from dart.stores import hide_password
from dart.studies.plan import Cell, Choice, FactorName, Planner, Scalar, factors_of, search_identity
from dart.studies.spec import Range

GAUSSIAN_PROCESS_BELOW = 150
"""Trials from which TPE is used: a Gaussian process's time grows with their cube."""
ENDED = (TrialState.COMPLETE, TrialState.FAIL)


@runtime_checkable
class RunTrial(Protocol):
    """Runs the cells of one trial."""

    def __call__(self, cells: Sequence[Cell], *, proposed: int) -> list[dict[str, Any]]:
        """Return the records; ``proposed`` counts the search's trials with this one."""
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
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def make_sampler(*, identity: str, trials_so_far: int, budget: int) -> BaseSampler:
    """Return a sampler whose proposals do not depend on where the search was cut off."""
    seed = int(canonical_hash({"search": identity, "trials": trials_so_far})[:8], 16)
    startup = min(10, max(4, budget // 3))
    if budget < GAUSSIAN_PROCESS_BELOW:
        return GPSampler(seed=seed, n_startup_trials=startup)
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


def suggest(
    trial: Trial, factors: Mapping[FactorName, Any], planner: Planner, variant: str
) -> Choice:
    """Return the values that Optuna proposes for every factor of a variant."""
    choice: dict[FactorName, Scalar] = {}
    hyperparameters = planner.study.variants[variant].hyperparameters
    for (kind, name), factor in factors.items():
        label = f"{kind}.{name}"
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


class VariantSearch:
    """The search of one variant's hyperparameters."""

    def __init__(
        self,
        planner: Planner,
        variant: str,
        *,
        storage: RDBStorage,
        run_trial: RunTrial,
        retry_failed: bool,
    ) -> None:
        self.planner = planner
        self.variant = variant
        self.run_trial = run_trial
        self.spec = planner.study.spec
        self.factors = factors_of(planner.study, variant)
        self.identity = search_identity(planner, variant)
        self.optuna = optuna.create_study(
            study_name=f"{variant}-{self.identity[:12]}",
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
        waiting = len(self._trials(TrialState.WAITING))
        left = max(waiting, self.spec.budget.trials - len(self._counted()))
        return left * len(self.spec.budget.seeds)

    def run(self) -> None:
        """Run trials until the budget is used, those that were cut off first."""
        while self._trials(TrialState.WAITING) or len(self._counted()) < self.spec.budget.trials:
            so_far = len(self._counted())
            self.optuna.sampler = make_sampler(
                identity=self.identity, trials_so_far=so_far, budget=self.spec.budget.trials
            )
            self._run_one(self.optuna.ask(), so_far)

    def _run_one(self, trial: Trial, so_far: int) -> None:
        choice = suggest(trial, self.factors, self.planner, self.variant)
        label = trial.user_attrs.get("label", so_far)
        # Set last: a trial without a label was never run, and does not count.
        trial.set_user_attr("params", trial.params)
        trial.set_user_attr("label", label)
        cells = self.planner.cells(self.variant, choice, trial=label)
        results = self.run_trial(cells, proposed=self.proposed())
        if any(result["status"] != "finished" for result in results):
            self.optuna.tell(trial, state=TrialState.FAIL)
            return
        values = measure_trial(results, self.spec.protocol.metric)
        for name, limit in self.spec.constraints.items():
            trial.set_constraint(name, values[name] - limit)
        self.optuna.tell(trial, [values[name] for name in self.spec.objectives])

    def _labelled(self) -> dict[int, FrozenTrial]:
        every = self._trials(*ENDED, TrialState.RUNNING)
        return {t.user_attrs["label"]: t for t in every if "label" in t.user_attrs}

    def proposed(self) -> int:
        """Return how many trials have been proposed so far."""
        return len(self._labelled())

    def known_cells(self) -> list[Cell]:
        """Return the cells of every trial proposed so far."""
        cells = []
        for label, trial in sorted(self._labelled().items()):
            params = trial.user_attrs["params"]
            choice: dict[FactorName, Scalar] = {}
            choice |= {(kind, name): params[f"{kind}.{name}"] for kind, name in self.factors}
            cells += self.planner.cells(self.variant, choice, trial=label)
        return cells
