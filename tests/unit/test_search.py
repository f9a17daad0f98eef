"""A search: equal budgets, new proposals after a stop, what was cut off is taken up again."""

from pathlib import Path
from typing import Any

import optuna
import pytest

from dart.errors import UserError
from dart.studies.asha import read_rows
from dart.studies.executor import InlineExecutor
from dart.studies.progress import Reporter
from dart.studies.runner import Options
from dart.studies.search import make_sampler, measure_trial
from dart.studies.stopping import StopRequest
from tests.helpers.study_engine import FakeRun, run_toy, write_study

TRIALS = 4
"""All of them drawn before a Gaussian process is fitted, which takes seconds."""
SEARCH = f"""\
variants:
  tuned:
    rank: {{low: 2, high: 4096, log: true}}
    gate: {{low: 0.0, high: 1.0}}
    mix: [mean, gated]
training: {{learning_rate: 1e-3}}
search: {{learning_rate: {{low: 1e-4, high: 1e-2, log: true}}}}
budget: {{trials: {TRIALS}, seeds: [0, 1]}}
"""
RUNS = 1 + 2 * TRIALS


class Stopped(FakeRun):
    """Is interrupted in its last run."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def __call__(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        if len(self.calls) == self.after:
            raise KeyboardInterrupt
        return super().__call__(*arguments, **options)


def _stop_after(path: Path, results: Path, runs: int) -> list[str]:
    run = Stopped(runs)
    with pytest.raises(KeyboardInterrupt):
        run_toy(path, results, run)
    return run.calls


def _trials(results: Path) -> list[optuna.trial.FrozenTrial]:
    uri = f"sqlite:///{results / 'studies' / 'toy' / 'optuna.db'}"
    storage = optuna.storages.RDBStorage(uri)
    try:
        (summary,) = optuna.get_all_study_summaries(storage)
        return optuna.load_study(study_name=summary.study_name, storage=storage).trials
    finally:
        storage.remove_session()
        storage.engine.dispose()


def test_a_search_runs_its_budget_and_then_nothing(tmp_path: Path) -> None:
    path = write_study(tmp_path, SEARCH)
    run = FakeRun()
    outcome = run_toy(path, tmp_path, run)
    assert len(run.calls) == len(set(run.calls)) == RUNS
    assert [cell.trial for cell in outcome.cells[1:]] == [t for t in range(TRIALS) for _ in "01"]
    for trial, pair in zip(_trials(tmp_path), _pairs(outcome.results[1:]), strict=True):
        # Both objectives are minimised and are means over the seeds.
        assert trial.values == [
            pytest.approx(sum(result[name] for result in pair) / 2)
            for name in ("target_after", "forgetting")
        ]
    again = FakeRun()
    run_toy(path, tmp_path, again)
    assert again.calls == []


def _pairs(results: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    return [results[i : i + 2] for i in range(0, len(results), 2)]


def test_a_search_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = FakeRun()
    run_toy(write_study(tmp_path / "whole", SEARCH), tmp_path / "whole", whole)
    path, results = write_study(tmp_path / "parts", SEARCH), tmp_path / "parts"
    calls = _stop_after(path, results, 4)  # within the second trial
    calls += _stop_after(path, results, 2)
    rest = FakeRun()
    outcome = run_toy(path, results, rest)
    assert calls + rest.calls == whole.calls
    assert sorted({cell.trial for cell in outcome.cells}) == list(range(TRIALS))


def test_a_larger_budget_adds_trials(tmp_path: Path) -> None:
    path = write_study(tmp_path, SEARCH)
    run_toy(path, tmp_path)
    more = FakeRun()
    write_study(tmp_path, SEARCH.replace(f"trials: {TRIALS}", f"trials: {TRIALS + 1}"))
    run_toy(path, tmp_path, more)
    assert len(more.calls) == 2


def test_a_failed_trial_counts_and_can_be_tried_again(tmp_path: Path) -> None:
    class Flaky(FakeRun):
        def __call__(self, *arguments: Any, **options: Any) -> dict[str, Any]:
            if len(self.calls) == 3:
                self.calls.append("failed")
                raise RuntimeError("no memory")
            return super().__call__(*arguments, **options)

    path = write_study(tmp_path, SEARCH)
    outcome = run_toy(path, tmp_path, Flaky())
    assert len(outcome.cells) == RUNS
    assert len(outcome.failed) == 1
    idle = FakeRun()
    run_toy(path, tmp_path, idle)
    assert idle.calls == []
    retry = FakeRun()
    outcome = run_toy(path, tmp_path, retry, retry_failed=True)
    assert len(retry.calls) == 1
    assert outcome.failed == []
    complete = [t for t in _trials(tmp_path) if t.state == optuna.trial.TrialState.COMPLETE]
    assert sorted(trial.user_attrs["label"] for trial in complete) == list(range(TRIALS))
    idle = FakeRun()
    run_toy(path, tmp_path, idle, retry_failed=True)
    assert idle.calls == []


def test_a_gaussian_process_proposes_from_trials_and_constraints(tmp_path: Path) -> None:
    text = SEARCH.replace(f"trials: {TRIALS}", f"trials: {TRIALS + 1}")
    run = FakeRun()
    run_toy(write_study(tmp_path, text + "constraints: {forgetting: 0.01}"), tmp_path, run)
    assert len(set(run.calls)) == RUNS + 2
    for trial in _trials(tmp_path):
        assert trial.values is not None
        assert trial.constraints == {"forgetting": pytest.approx(trial.values[1] - 0.01)}


def test_lists_that_fit_the_budget_are_enumerated(tmp_path: Path) -> None:
    text = "design: search\nvariants: {tuned: {mix: [mean, gated], wide: [true, false]}}\n"
    run = FakeRun()
    run_toy(write_study(tmp_path, text + "budget: {trials: 4}"), tmp_path, run)
    assert len(set(run.calls)) == 1 + 4
    assert not (tmp_path / "studies" / "toy" / "optuna.db").exists()


def test_what_is_in_flight_is_not_run_a_second_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Four(InlineExecutor):
        slots = 4

    def make(options: Options, stop: StopRequest, reporter: Reporter) -> InlineExecutor:
        return Four(options.run, stop=stop, on_step=reporter.step)

    monkeypatch.setattr("dart.studies.execute._make_executor", make)
    text = "sampler: random\nvariants: {tuned: {rank: {low: 2, high: 3}, wide: [true, false]}}\n"
    run = FakeRun()
    path = write_study(tmp_path, text + "budget: {trials: 16, seeds: [0]}")
    run_toy(path, tmp_path, run)
    # Sixteen trials, four at once, of four settings: the zero-shot row and each setting once.
    assert len(_trials(tmp_path)) == 16
    assert {str(trial.values) for trial in _trials(tmp_path)} != {"None"}
    assert len(run.calls) == len(set(run.calls)) == 1 + 4


def test_the_store_of_another_program_is_refused_in_one_line(tmp_path: Path) -> None:
    path = write_study(tmp_path, SEARCH)
    store = tmp_path / "studies" / "toy" / "optuna.db"
    store.parent.mkdir(parents=True)
    store.write_text("no database")
    with pytest.raises(UserError, match=r"optuna\.db: Optuna cannot use it: .*move it away"):
        run_toy(path, tmp_path)


def test_a_sampler_depends_on_the_study_and_on_how_far_it_is() -> None:
    def first(identity: str, trials: int, budget: int = 10) -> dict[str, Any]:
        study = optuna.create_study(
            sampler=make_sampler(identity=identity, trials_so_far=trials, budget=budget)
        )
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        return trial.params

    proposals = [first("a", 0), first("a", 1), first("b", 0)]
    assert len({str(proposal) for proposal in proposals}) == 3
    assert first("a", 0) == proposals[0]
    names = [
        type(make_sampler(identity="a", trials_so_far=0, budget=n)).__name__ for n in (149, 150)
    ]
    assert names == ["GPSampler", "TPESampler"]


def test_a_trial_is_judged_on_the_validation_split_and_lower_is_better() -> None:
    def record(before: float, after: float) -> dict[str, Any]:
        means = {"abs_rel": 1.0, "delta1": 0.5}
        target = {"before": means, "after": {"abs_rel": after, "delta1": 1 - after}}
        source = {"before": means, "after": {"abs_rel": before, "delta1": 0.25}}
        return {
            "key": "k",
            "metric": "abs_rel",
            "target_after": 99.0,
            "validation_domains": {
                "t": {"role": "target", **target},
                "s": {"role": "source", **source},
            },
        }

    records = [record(1.0, 0.2), record(2.0, 0.4)]
    in_abs_rel = measure_trial(records, "abs_rel")
    assert in_abs_rel == pytest.approx(
        {"target": 0.3, "forgetting": 0.5, "forgetting_relative": 0.5}
    )
    in_delta1 = measure_trial(records, "delta1")
    assert in_delta1 == pytest.approx(
        {"target": -0.7, "forgetting": 0.25, "forgetting_relative": 0.5}
    )
    with pytest.raises(UserError, match="no validation errors in 'rmse'"):
        measure_trial([{"key": "k", "metric": "abs_rel", "validation": {}}], "rmse")


JOINT = """\
joint: true
sampler: SAMPLER
variants:
  plain: {}
  tuned: {rank: {low: 2, high: 4096, log: true}, gate: {low: 0.0, high: 1.0}}
factors: {steps: [5, 6]}
budget: {trials: 7}
"""


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "nsga3", "random"])
def test_one_search_over_all_variants_tries_each_and_resumes(sampler: str, tmp_path: Path) -> None:
    text = JOINT.replace("SAMPLER", sampler)
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = FakeRun()
    outcome = run_toy(write_study(tmp_path / "whole", text), tmp_path / "whole", whole)
    trials = _trials(tmp_path / "whole")
    assert len(trials) == 7
    assert [trial.params["variant"] for trial in trials[:2]] == ["plain", "tuned"]
    for trial in trials:
        own = {"hyperparameters.tuned.rank", "hyperparameters.tuned.gate"}
        expected = own if trial.params["variant"] == "tuned" else set()
        assert set(trial.params) == {"variant", "training.steps"} | expected
    # Of what varies the plain variant has two choices: what was run already is told, not run.
    assert len(whole.calls) == len({cell.key for cell in outcome.cells}) <= 8
    path, results = write_study(tmp_path / "parts", text), tmp_path / "parts"
    calls = _stop_after(path, results, 3)
    rest = FakeRun()
    run_toy(path, results, rest)
    complete = [t.params for t in _trials(results) if t.state.name == "COMPLETE"]
    assert len(complete) == 7
    # The generations of NSGA count the trial that was cut off too, so that later ones may differ.
    if not sampler.startswith("nsga"):
        assert calls + rest.calls == whole.calls
        assert complete == [trial.params for trial in trials]


def test_the_area_grows_as_its_definition_says(tmp_path: Path) -> None:
    text = SEARCH.replace("search:", "sampler: random\nsearch:").replace("trials: 4", "trials: 9")
    run_toy(write_study(tmp_path, text), tmp_path)
    rows = read_rows(tmp_path / "studies" / "toy" / "hypervolume.jsonl")
    assert [row["trial"] for row in rows] == list(range(9))
    # A tenth beyond the untouched network: 0.4 on the target, 0.1 on the source.
    assert rows[0]["reference"] == pytest.approx([0.44, 0.01])
    points = [list(trial.values or ()) for trial in _trials(tmp_path)]
    grid = [
        (0.44 * (x + 0.5) / 400, 0.02 * (y + 0.5) / 400 - 0.01)
        for x in range(400)
        for y in range(400)
    ]
    inside = [p for p in points if p[0] < 0.44 and p[1] < 0.01]
    assert all(y > -0.01 for _, y in inside)
    covered = sum(any(x >= a and y >= b for a, b in inside) for x, y in grid)
    assert rows[-1]["hypervolume"] == pytest.approx(covered / 400**2 * 0.44 * 0.02, rel=0.02)
    areas = [row["hypervolume"] for row in rows]
    assert areas == sorted(areas)


def test_a_declared_corner_and_a_bound_decide_what_counts(tmp_path: Path) -> None:
    text = SEARCH.replace("search:", "sampler: random\nsearch:")
    text += "reference: {target: 1.0, forgetting: 1.0}\nconstraints: {forgetting: -1}\n"
    run_toy(write_study(tmp_path, text), tmp_path)
    rows = read_rows(tmp_path / "studies" / "toy" / "hypervolume.jsonl")
    assert [row["reference"] for row in rows] == [[1.0, 1.0]] * TRIALS
    assert [row["feasible"] for row in rows] == [False] * TRIALS
    assert [row["hypervolume"] for row in rows] == [0.0] * TRIALS


def test_a_joint_search_needs_a_trial_for_each_variant(tmp_path: Path) -> None:
    path = write_study(tmp_path, JOINT.replace("trials: 7", "trials: 1").replace("SAMPLER", "tpe"))
    with pytest.raises(UserError, match=r"toy\.yaml:7: budget\.trials: 1 trials are too few"):
        run_toy(path, tmp_path)
