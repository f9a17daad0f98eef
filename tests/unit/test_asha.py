"""Runs that end early: fronts by hand, decisions that stay, and studies that go on as before."""

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dart.errors import Pruned, UserError
from dart.recipe import ZERO_SHOT, Recipe
from dart.studies.asha import Rungs, crowding, front_ranks, order_points, read_rows, survives
from dart.studies.executor import Ending, InlineExecutor
from dart.studies.plan import make_plan
from dart.studies.records import run_folder
from dart.studies.spec import load_spec
from dart.studies.summary import read_study
from tests.helpers.study_engine import FakeRun, own_registry, run_toy, write_study

# Two fronts by hand: three points that trade one for the other, two behind them, one behind all.
POINTS = [(1.0, 5.0), (3.0, 3.0), (5.0, 1.0), (4.0, 4.0), (2.0, 6.0), (6.0, 7.0)]


def test_fronts_crowding_and_order_by_hand() -> None:
    assert front_ranks(POINTS) == [0, 0, 0, 1, 1, 2]
    assert crowding(POINTS[:3]) == [math.inf, 2.0, math.inf]
    assert crowding([(0.0, 4.0), (1.0, 3.0), (3.0, 1.0), (4.0, 0.0)])[1:3] == [1.5, 1.5]
    # The ends of a front before its middle, every member before the next front.
    assert order_points(POINTS) == [0, 2, 1, 3, 4, 5]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=25))
def test_ranks_are_those_of_fronts_peeled_off_one_by_one(points: list[tuple[int, int]]) -> None:
    left, ranks, rank = set(range(len(points))), [0] * len(points), 0
    while left:
        front = {
            i
            for i in left
            if not any(
                points[j] != points[i]
                and all(a <= b for a, b in zip(points[j], points[i], strict=True))
                for j in left
            )
        }
        for index in front:
            ranks[index] = rank
        left, rank = left - front, rank + 1
    assert front_ranks([(float(x), float(y)) for x, y in points]) == ranks


def test_one_in_eta_goes_on_and_so_does_what_nothing_beats() -> None:
    behind = (10.0, 10.0)
    assert survives([], behind, eta=3)
    assert survives([(1.0, 1.0)], behind, eta=3)  # two others are needed for a comparison
    assert not survives([(1.0, 1.0), (2.0, 2.0)], behind, eta=3)
    assert survives([(1.0, 1.0), (2.0, 2.0)], (0.5, 9.0), eta=3)
    # Four of which two may go on: the second front's only member is the second.
    assert survives([(1.0, 1.0), (7.0, 7.0), (8.0, 8.0)], (2.0, 2.0), eta=3)
    assert not survives([(1.0, 1.0), (1.5, 1.5), (8.0, 8.0)], (2.0, 2.0), eta=3)


def _rungs(folder: Path, key: str) -> Rungs:
    return Rungs(folder / "asha.jsonl", "g", (2,), 2, "abs_rel", {"key": key})


def _errors(target: float, source: float) -> list[tuple[int, str, str, str, float]]:
    return [
        (2, "t", "target", "abs_rel", target),
        (2, "s", "source", "abs_rel", source),
        (2, "s2", "source", "abs_rel", source),
        (2, "t", "target", "delta1", 9.0),
    ]


def test_a_decision_stays_though_others_came_and_a_line_was_cut_off(tmp_path: Path) -> None:
    _rungs(tmp_path, "a")(2, _errors(0.2, 0.2))
    with pytest.raises(Pruned):
        _rungs(tmp_path, "b")(2, _errors(0.3, 0.3))
    path = tmp_path / "asha.jsonl"
    path.write_bytes(path.read_bytes() + b'{"group": "g", "k')
    _rungs(tmp_path, "c")(2, _errors(0.1, 0.1))
    with pytest.raises(Pruned):  # the same answer, though it would be the best by now
        _rungs(tmp_path, "b")(2, _errors(0.0, 0.0))
    rows = read_rows(path)
    assert [(row["key"], row["decision"]) for row in rows] == [
        ("a", "go on"),
        ("b", "stop"),
        ("c", "go on"),
    ]
    assert (rows[1]["target"], rows[1]["source"]) == (0.3, 0.3)
    assert (rows[1]["rank"], rows[1]["place"], rows[1]["reached"]) == (1, 1, 2)
    assert _rungs(tmp_path, "b").stopped_at() == 2
    assert _rungs(tmp_path, "a").stopped_at() is None


def test_what_is_not_finite_is_worst_and_higher_may_be_better(tmp_path: Path) -> None:
    rungs = Rungs(tmp_path / "asha.jsonl", "g", (2,), 2, "delta1", {"key": "a"})
    rungs(2, [(2, "t", "target", "delta1", 0.9), (2, "s", "source", "delta1", math.nan)])
    (row,) = read_rows(tmp_path / "asha.jsonl")
    assert (row["target"], row["source"]) == (-0.9, math.inf)


# A larger rank forgets more and gains nothing: of any two runs one beats the other.
SEARCH = """\
variants: {tuned: {rank: {low: 2, high: 4096}}}
training: {steps: 5}
sampler: random
pruning: {rungs: [2, 4], eta: 2}
budget: {trials: 10, seeds: [0, 1]}
"""


def _states(results: Path) -> list[str]:
    storage = optuna.storages.RDBStorage(f"sqlite:///{results}/studies/toy/optuna.db")
    try:
        (name,) = optuna.get_all_study_names(storage)
        return [t.state.name for t in optuna.load_study(study_name=name, storage=storage).trials]
    finally:
        storage.remove_session()
        storage.engine.dispose()


class Interrupted(FakeRun):
    """Is told to stop at a rung, before its third run is judged there."""

    def __call__(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        if len(self.calls) == 4:
            raise KeyboardInterrupt
        return super().__call__(*arguments, **options)


def test_a_search_with_pruning_ends_what_others_beat_and_resumes_the_same(tmp_path: Path) -> None:
    whole = FakeRun()
    (tmp_path / "a").mkdir()
    path = write_study(tmp_path / "a", SEARCH)
    outcome = run_toy(path, tmp_path / "a", whole)
    states = _states(tmp_path / "a")
    assert 2 <= states.count("PRUNED") < 9
    assert len(states) == 10
    rows = read_rows(tmp_path / "a" / "studies" / "toy" / "asha.jsonl")
    stopped = {row["key"] for row in rows if row["decision"] == "stop"}
    assert len(stopped) == states.count("PRUNED")
    # Half runs leave no record; whole trials have all their seeds.
    assert not stopped & {cell.key for cell in outcome.cells}
    assert len(outcome.cells) == 1 + 2 * states.count("COMPLETE")
    with own_registry():
        plan = make_plan(load_spec(path), tmp_path / "a")
    assert plan.states().count("pruned") == len(stopped)
    assert plan.states().count("missing") == 0
    assert plan.seconds_left == 0
    written = read_study(tmp_path / "a", "toy")
    assert set(written.states().values()) == {"done", "pruned"}
    assert written.status() == "FINISHED"

    (tmp_path / "b").mkdir()
    again = write_study(tmp_path / "b", SEARCH)
    cut, rest = Interrupted(), FakeRun()
    with pytest.raises(KeyboardInterrupt):
        run_toy(again, tmp_path / "b", cut)
    run_toy(again, tmp_path / "b", rest)
    assert cut.calls + rest.calls == whole.calls
    for name in ("asha.jsonl", "hypervolume.jsonl"):
        one, two = (read_rows(tmp_path / x / "studies" / "toy" / name) for x in "ab")
        assert one == two
        assert one
    idle = FakeRun()
    run_toy(again, tmp_path / "b", idle)
    assert idle.calls == []


class ShortOfMemory(FakeRun):
    """Has no memory at the first attempt at every run, and is begun three times at most."""

    def __call__(self, recipe: Recipe, *arguments: Any, **options: Any) -> dict[str, Any]:
        if recipe.variant == ZERO_SHOT:
            return super().__call__(recipe, *arguments, **options)
        times = self.calls.count(recipe.key)
        assert times < 3
        self.calls.append(recipe.key)
        if not times:
            raise MemoryError
        return super().__call__(recipe, *arguments, **options)


def test_a_run_that_failed_and_then_ended_early_has_ended(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    whole = run_toy(write_study(tmp_path / "a", SEARCH), tmp_path / "a")
    path = write_study(tmp_path / "b", SEARCH)
    disturbed = run_toy(path, tmp_path / "b", ShortOfMemory())
    assert {cell.key for cell in disturbed.cells} == {cell.key for cell in whole.cells}
    assert disturbed.failed == []
    assert read_study(tmp_path / "b", "toy").states() == read_study(tmp_path / "a", "toy").states()


def test_a_run_whose_process_dies_after_it_ended_early_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    whole = run_toy(write_study(tmp_path / "a", SEARCH), tmp_path / "a")
    take = InlineExecutor.wait_any

    def die(executor: InlineExecutor) -> list[Ending]:
        """Lose what the others of a fold lose with their worker: all that have no record."""
        endings = take(executor)
        kinds = itertools.cycle(["crashed", "preempted"])
        return [
            ending
            if run_folder(tmp_path / "b", ending.task.key).exists()
            else replace(ending, lost=next(kinds))
            for ending in endings
        ]

    monkeypatch.setattr(InlineExecutor, "wait_any", die)
    (tmp_path / "b").mkdir()
    path, run = write_study(tmp_path / "b", SEARCH), FakeRun()
    lost = run_toy(path, tmp_path / "b", run)
    assert {cell.key for cell in lost.cells} == {cell.key for cell in whole.cells}
    assert lost.failed == []
    assert len(set(run.calls)) == len(run.calls)


def test_without_pruning_the_runs_that_ended_early_are_run_whole(tmp_path: Path) -> None:
    path = write_study(tmp_path, SEARCH)
    run_toy(path, tmp_path)
    outcome = run_toy(
        write_study(tmp_path, SEARCH.replace("pruning", "# pruning")), tmp_path, FakeRun()
    )
    counted = [cell for cell in outcome.cells if cell.recipe.variant != ZERO_SHOT]
    assert len(counted) >= 20
    assert all(result["status"] == "finished" for result in outcome.results)


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("[2, 4]", "[4, 2]", "ascending"),
        ("[2, 4]", "[]", "at least 1"),
        ("[2, 4]", "[2, 5]", "not below the 5 steps"),
        ("[2, 4]", "[0]", "greater than or equal to 1"),
        ("eta: 2", "eta: 1", "greater than or equal to 2"),
        ("eta: 2", "etta: 2", "mean 'eta'?"),
        ("sampler: random", "sampler: randm", "mean 'random'?"),
        ("sampler: random", "reference: {target: 1.0}", "'forgetting' is missing"),
        ("sampler: random", "constraints: {forgeting: 1.0}", "constraints"),
    ],
)
def test_pruning_that_cannot_be_is_one_line(old: str, new: str, part: str, tmp_path: Path) -> None:
    with own_registry(), pytest.raises(UserError, match=r"toy\.yaml:\d+: ") as caught:
        load_spec(write_study(tmp_path, SEARCH.replace(old, new)))
    assert part in str(caught.value)
