"""Does ending runs early leave a better front? Hypervolume at equal budgets of training steps.

Four rules propose the same random settings and differ only in what they end at the rungs: no run,
the worst on the target alone, the worst on a sum of both errors (each as a share of its corner),
or by Pareto rank as ``pruning`` does. Half a run counts its steps and leaves no result.

``python -m benchmarks.asha`` uses two simulated surfaces, whose target error falls with the
steps while forgetting grows: on ``easy`` most settings are fair, on ``hard`` few are.
``--real`` trains on the built-in domains instead; ``--real --trials 2 --steps 6`` is a short try.
``--recorded RESULTS`` trains nothing: its trials are the runs that lie in a results folder, all
variants of one seed in random orders, and its rungs are steps at which they were measured.
"""

import argparse
import itertools
import json
import math
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import pandas as pd
import torch

from dart.errors import Pruned
from dart.protocol import run_recipe
from dart.recipe import Group, ProtocolSpec, TrainingSpec
from dart.studies.asha import survives
from dart.studies.folders import write_atomic
from dart.studies.hypervolume import hypervolume
from dart.studies.plan import create_recipe

Point = tuple[float, float]
Rule = Callable[[Sequence[Point], Point, int], bool]
CORNER = (0.44, 0.011)
TRAINED: tuple[tuple[Group, ...], ...] = (
    ("adapters",),
    ("adapters", "scale_head"),
    ("adapters", "decoder"),
    ("adapters", "decoder", "scale_head"),
)
"""What a real trial trains, by its setting's kind."""
STEPS = 90
RESULTS = Path(tempfile.gettempdir()) / "dart-asha"
"""Keeps what was measured before training and after: a second start goes on with what lacks."""


def _best_share(scores: Sequence[float], score: float, eta: int) -> bool:
    """Say whether a score is among the best one in ``eta``, itself included."""
    reached = len(scores) + 1
    return reached < eta or sum(other < score for other in scores) < math.ceil(reached / eta)


def keep_all(_before: Sequence[Point], _point: Point, _eta: int) -> bool:
    """End no run."""
    return True


def by_target(before: Sequence[Point], point: Point, eta: int) -> bool:
    """Look at the target alone."""
    return _best_share([other[0] for other in before], point[0], eta)


def by_sum(before: Sequence[Point], point: Point, eta: int) -> bool:
    """Look at the sum of both errors."""
    scores = [sum(other) for other in (*before, point)]
    return _best_share(scores[:-1], scores[-1], eta)


def by_pareto_rank(before: Sequence[Point], point: Point, eta: int) -> bool:
    """Decide as ``pruning`` does."""
    return survives(before, point, eta=eta)


RULES: dict[str, Rule] = {
    "none": keep_all,
    "target": by_target,
    "sum": by_sum,
    "pareto": by_pareto_rank,
}


@dataclass(frozen=True)
class Setting:
    """One choice on a simulated surface."""

    rate: float
    capacity: int
    gate: float
    kind: int
    nuisance: tuple[float, ...]
    noise: int

    def errors(self, step: int, *, hard: bool) -> Point:
        """Return error on the target and forgetting after ``step`` steps."""
        off = sum((x - 0.5) ** 2 for x in self.nuisance) if hard else 0.0
        floor = 0.12 + 0.025 * abs(math.log2(self.capacity) - 3) + 0.05 * (1 - self.gate)
        floor += 0.03 * (0.0, 1.0, 0.4, 0.7)[self.kind]
        floor += 0.1 * max(0.0, math.log10(self.rate / 3e-3))
        pace = self.rate / 1e-3 * (0.6 + 0.2 * self.kind)
        target = floor + (0.4 - floor) * math.exp(-pace * step / 25) + 0.25 * off
        forgotten = 0.0025 * (self.rate / 1e-3) ** 0.8 * (step / STEPS) ** 0.7 * (0.4 + self.gate)
        forgotten *= (1.08, 1.0, 1.4, 1.2)[self.kind] * (1 + 3 * off)
        chance = random.Random(self.noise * 1000 + step)
        return target + chance.gauss(0, 0.004), forgotten + chance.gauss(0, 0.0002)


def propose(seed: int) -> Iterator[Setting]:
    """Yield random settings without end."""
    chance = random.Random(seed)
    while True:
        yield Setting(
            rate=10 ** chance.uniform(-4, -2),
            capacity=chance.choice([2, 4, 8, 16, 32]),
            gate=chance.random(),
            kind=chance.randrange(4),
            nuisance=tuple(chance.random() for _ in range(4)),
            noise=chance.randrange(10**9),
        )


def spend(  # noqa: PLR0913  # a search is no less
    trials: Iterator[Callable[[int], Point]],
    rule: Rule,
    *,
    budget: int,
    steps: int,
    rungs: Sequence[int],
    eta: int,
    corner: Point,
) -> float:
    """Run trials until ``budget`` steps are used, and return the area that whole runs dominate.

    Args:
        trials: Each gives its errors after a number of steps.
        steps: Of a whole run.
        corner: Rules see errors as shares of it.
    """
    reached: dict[int, list[Point]] = {rung: [] for rung in rungs}
    whole: list[Point] = []
    for trial in trials:
        done = 0
        for rung in (*rungs, steps):
            budget -= rung - done
            done = rung
            if budget < 0:
                return hypervolume(whole, corner)
            errors = trial(rung)
            if rung == steps:
                whole.append(errors)
                break
            point = errors[0] / corner[0], errors[1] / corner[1]
            goes_on = rule(reached[rung], point, eta)
            reached[rung].append(point)
            if not goes_on:
                break
    return hypervolume(whole, corner)


def simulate(args: argparse.Namespace) -> list[dict[str, object]]:
    """Return one row a surface, budget and rule."""
    rows: list[dict[str, object]] = []
    for surface in ("easy", "hard"):
        for runs in (15, 40):
            for name, rule in RULES.items():
                areas = [
                    spend(
                        (_curve(s, hard=surface == "hard") for s in propose(seed)),
                        rule,
                        budget=runs * STEPS,
                        steps=STEPS,
                        rungs=(10, 30),
                        eta=args.eta,
                        corner=CORNER,
                    )
                    for seed in range(args.seeds)
                ]
                rows.append({"surface": surface, "runs": runs, "rule": name, **_spread(areas)})
    return rows


def _curve(setting: Setting, *, hard: bool) -> Callable[[int], Point]:
    return lambda step: setting.errors(step, hard=hard)


def _spread(areas: Sequence[float]) -> dict[str, float]:
    error = stdev(areas) / math.sqrt(len(areas)) if len(areas) > 1 else 0.0
    return {"hypervolume": mean(areas), "standard_error": error, "seeds": len(areas)}


class Watch:
    """Keeps the errors at the rungs, and ends the run at the last of them."""

    def __init__(self, steps: tuple[int, ...]) -> None:
        self.steps = steps
        self.seen: dict[int, Point] = {}

    def __call__(self, step: int, points: Sequence[tuple[int, str, str, str, float]]) -> None:
        """Take note of the errors after ``step`` steps."""
        errors = {role: value for _, _, role, metric, value in points if metric == "abs_rel"}
        self.seen[step] = (errors["target"], errors["source"])
        if step == self.steps[-1]:
            raise Pruned(step)


def watch_run(
    setting: Setting, seed: int, steps: tuple[int, ...], args: argparse.Namespace
) -> dict[int, Point]:
    """Train one setting, unless that was done before, and return step -> errors."""
    training = TrainingSpec(
        trainable=TRAINED[setting.kind],
        steps=steps[-1],
        learning_rate=setting.rate,
        batch_size=args.batch_size,
        precision="bfloat16",
    )
    recipe = create_recipe(
        "daa_zero_init", {"rank": setting.capacity}, ProtocolSpec(), training, seed
    )
    kept = RESULTS / "curves" / f"{recipe.key[:16]}-{'-'.join(map(str, steps))}.json"
    if kept.exists():
        return {int(step): tuple(pair) for step, pair in json.loads(kept.read_text()).items()}
    watch = Watch(steps)
    with tempfile.TemporaryDirectory() as folder, suppress(Pruned):
        run_recipe(recipe, Path(folder), results=RESULTS, device=args.device, rungs=watch)
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(kept, json.dumps(watch.seen))
    return watch.seen


def train(args: argparse.Namespace) -> list[dict[str, object]]:
    """Return the rows of the built-in domains: every trial is trained once, and each rule replays.

    A run's errors at its rungs do not depend on what a rule makes of them.
    """
    torch.set_num_threads(args.threads)
    steps = (max(1, args.steps // 9), max(1, args.steps // 3), args.steps)
    # A step of next to no length, of an adapter that begins as nothing: the network as it was.
    still = Setting(rate=1e-30, capacity=2, gate=0.0, kind=0, nuisance=(), noise=0)
    untouched = watch_run(still, 0, (1,), args)[1]
    seeds: dict[int, list[dict[int, Point]]] = {}
    for seed in range(args.seeds):
        runs = seeds[seed] = []
        for setting in itertools.islice(propose(seed), args.trials):
            runs.append(watch_run(setting, seed, steps, args))
            sys.stderr.write(f"seed {seed}: {len(runs)} of {args.trials}\n")
    return compare_rules("built-in", seeds, steps=steps, untouched=untouched, eta=args.eta)


def compare_rules(
    surface: str,
    seeds: Mapping[int, Sequence[dict[int, Point]]],
    *,
    steps: Sequence[int],
    untouched: Point,
    eta: int,
) -> list[dict[str, object]]:
    """Return a row a budget and rule: the area that a seed's trials dominate, mean of 100 orders.

    Args:
        surface: What the rows are called.
        seeds: Seed -> its trials, each as step -> errors.
        steps: Of the rungs and of a whole run.
        untouched: The errors before training; the corner lies a tenth beyond them.
    """
    *rungs, last = steps
    rows: list[dict[str, object]] = []
    for share in (0.25, 0.5):
        areas = {
            name: [
                mean(
                    spend(
                        map(_recorded, random.Random(f"{seed} {i}").sample(runs, len(runs))),
                        rule,
                        budget=int(share * last * len(runs)),
                        steps=last,
                        rungs=rungs,
                        eta=eta,
                        corner=(1.1 * untouched[0], 1.1 * untouched[1]),
                    )
                    for i in range(100)
                )
                for seed, runs in seeds.items()
            ]
            for name, rule in RULES.items()
        }
        for name, found in areas.items():
            gains = [one - other for one, other in zip(found, areas["none"], strict=True)]
            row = {"surface": surface, "runs": share, "rule": name, **_spread(found)}
            rows.append({**row, "areas": found, "gain": _spread(gains)})
    return rows


def _recorded(run: dict[int, Point]) -> Callable[[int], Point]:
    # A run without a step is worse there than any other.
    return lambda step: run.get(step, (math.inf, math.inf))


def read_curves(results: Path, metric: str = "abs_rel") -> dict[int, list[dict[int, Point]]]:
    """Return seed -> runs, each as step -> errors on validation images of target and source."""
    seeds: dict[int, list[dict[int, Point]]] = {}
    for path in sorted(results.glob("runs/[!.]*/curves.parquet")):
        curve = pd.read_parquet(path)
        curve = curve[curve["metric"] == metric].pivot_table("value", "step", "role")
        seed = json.loads((path.parent / "recipe.json").read_text())["seed"]
        points = {int(str(step)): (row["target"], row["source"]) for step, row in curve.iterrows()}
        seeds.setdefault(seed, []).append(points)
    return seeds


def replay_recorded(args: argparse.Namespace) -> list[dict[str, object]]:
    """Return the rows of runs that were trained whole, and measured on the way."""
    seeds = read_curves(args.recorded)
    start, *steps = sorted({step for runs in seeds.values() for run in runs for step in run})
    untouched = next(iter(seeds.values()))[0][start]
    steps = [*steps[:2], steps[-1]]
    return compare_rules("recorded", seeds, steps=steps, untouched=untouched, eta=args.eta)


def main() -> None:
    """Print one line a rule, or one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=24)
    parser.add_argument("--eta", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--real", action="store_true", help="train on the built-in domains")
    parser.add_argument("--recorded", type=Path, metavar="RESULTS", help="train nothing")
    parser.add_argument("--trials", type=int, default=30, help="trained for each seed")
    parser.add_argument("--steps", type=int, default=180, help="of a whole run")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    measure = replay_recorded if args.recorded else train if args.real else simulate
    rows = measure(args)
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        where = f"{row['surface']} {row.get('runs', '')}"
        print(
            f"{where:9} {row['rule']:7} {row['hypervolume']:.6f} +- {row['standard_error']:.6f} "
            f"({row['seeds']} seeds)"
        )


if __name__ == "__main__":
    main()
