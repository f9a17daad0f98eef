"""Runs of a search that end early: successive halving on two objectives, asynchronously.

A run that reaches a rung is ordered among all that reached it before: by the number of fronts
ahead of it, then by crowding, so that the ends and the gaps of a front survive. One in ``eta``
goes on. A score made of target and forgetting would favour what forgets little because it has
learnt little; a front keeps both (docs/studies.md has the comparison).

Decisions are lines of ``asha.jsonl`` in the study's folder, taken under a lock and never changed:
a study that was cut off reads them again and goes the same way.

Source: asynchronous halving: Li et al., MLSys 2020, arXiv 1810.05934, in the form that stops
instead of promoting; fronts and crowding: Deb et al., IEEE TEC 6 (2002). Deviation: what no
other run beats goes on in any case, and so does a run whose rung fewer than ``eta`` reached.
"""

import json
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from dart.errors import Pruned
from dart.locks import wait_for_lock
from dart.metrics import METRICS

Point = tuple[float, float]
"""Target and source; both are minimised."""


def front_ranks(points: Sequence[Point]) -> list[int]:
    """Return for each point how many fronts lie before its own."""
    ranks = [0] * len(points)
    lowest: list[Point] = []  # of every front the last member: the one with the least source
    for index in sorted(range(len(points)), key=lambda i: points[i]):
        point = points[index]
        rank = bisect_left(lowest, True, key=lambda other: not _dominates(other, point))
        lowest[rank : rank + 1] = [point]
        ranks[index] = rank
    return ranks


def _dominates(one: Point, two: Point) -> bool:
    return one != two and one[0] <= two[0] and one[1] <= two[1]


def crowding(points: Sequence[Point]) -> list[float]:
    """Return for each point of one front how far its neighbours lie; infinite at the ends."""
    distances = [0.0] * len(points)
    for axis in (0, 1):
        order = sorted(range(len(points)), key=lambda i: points[i][axis])
        span = points[order[-1]][axis] - points[order[0]][axis]
        distances[order[0]] = distances[order[-1]] = math.inf
        for before, middle, after in zip(order, order[1:], order[2:], strict=False):
            if span > 0:
                distances[middle] += (points[after][axis] - points[before][axis]) / span
    return distances


def order_points(points: Sequence[Point]) -> list[int]:
    """Return positions of points, the best first: by front, by crowding, then as they came."""
    ranks = front_ranks(points)
    spread = [0.0] * len(points)
    for rank in set(ranks):
        members = [i for i in range(len(points)) if ranks[i] == rank]
        for index, value in zip(members, crowding([points[i] for i in members]), strict=True):
            spread[index] = value
    return sorted(range(len(points)), key=lambda i: (ranks[i], -spread[i], i))


def survives(before: Sequence[Point], point: Point, *, eta: int) -> bool:
    """Say whether a run goes on from a rung that others reached before it."""
    points = [*before, point]
    if len(points) < eta or front_ranks(points)[-1] == 0:
        return True
    return order_points(points).index(len(before)) < math.ceil(len(points) / eta)


@dataclass(frozen=True)
class Rungs:
    """Decides at each rung whether one run goes on.

    Args:
        path: ``asha.jsonl`` in the study's folder.
        group: Runs of one group are compared: those of one search and setting of pruning.
        about: What a line says of the run, its key among it.
    """

    path: Path
    group: str
    steps: tuple[int, ...]
    eta: int
    metric: str
    about: Mapping[str, Any]

    def __call__(self, step: int, points: Sequence[tuple[int, str, str, str, float]]) -> None:
        """Take note of a run's errors at a rung.

        Args:
            step: Steps of training so far.
            points: Step, domain, role, metric and mean error on validation images.

        Raises:
            Pruned: The run ends here.
        """
        point = self._measure(points)
        with wait_for_lock(self.path.with_name(f".{self.path.name}.lock")):
            rows = [row for row in read_rows(self.path) if row["group"] == self.group]
            known = [r for r in rows if r["key"] == self.about["key"] and r["step"] == step]
            row = known[0] if known else self._decide(rows, step, point)
            if not known:
                _append(self.path, row)
        if row["decision"] == "stop":
            raise Pruned(step)

    def _measure(self, points: Sequence[tuple[int, str, str, str, float]]) -> Point:
        sign = -1.0 if METRICS[self.metric].higher_is_better else 1.0
        values: dict[str, list[float]] = {"target": [], "source": []}
        for _, _, role, metric, value in points:
            if metric == self.metric and role in values:
                values[role].append(sign * value if math.isfinite(value) else math.inf)
        return fmean(values["target"]), fmean(values["source"])

    def _decide(self, rows: Sequence[Mapping[str, Any]], step: int, point: Point) -> dict[str, Any]:
        before = [(r["target"], r["source"]) for r in rows if r["step"] == step]
        goes_on = survives(before, point, eta=self.eta)
        return {
            "group": self.group,
            **self.about,
            "step": step,
            "target": point[0],
            "source": point[1],
            "rank": front_ranks([*before, point])[-1],
            "place": order_points([*before, point]).index(len(before)),
            "reached": len(before) + 1,
            "decision": "go on" if goes_on else "stop",
        }

    def stopped_at(self) -> int | None:
        """Return the steps after which the run was ended early, if it was."""
        for row in read_rows(self.path):
            is_own = row["group"] == self.group and row["key"] == self.about["key"]
            if is_own and row["decision"] == "stop":
                return int(row["step"])
        return None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return every decision; a last line that a killed process left half-written is none."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def _append(path: Path, row: Mapping[str, Any]) -> None:
    with path.open("rb+" if path.exists() else "wb+") as file:
        size = file.seek(0, 2)
        if size:
            file.seek(size - 1)
            broken = file.read(1) != b"\n"
            file.write(b"\n" if broken else b"")
        file.write(json.dumps(row).encode() + b"\n")
