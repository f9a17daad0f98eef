"""The choices of a study that no other beats: on the target, and in what is forgotten.

Judged on the validation split, where choices are made; a choice is the mean over its seeds.
"""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from dart.metrics import METRICS, compare
from dart.recipe import ZERO_SHOT

MOST = 4
"""Members of a front that one line shows."""


def find_front(runs: Iterable[tuple[str, Mapping[str, Any]]], metric: str) -> list[dict[str, Any]]:
    """Return the choices that are not dominated, best on the target first.

    Only choices are compared that have as many finished seeds as any has.

    Args:
        runs: A choice's name, as ``daa trial 3``, and a record of it.
        metric: The study's.
    """
    measured: dict[str, list[tuple[float, float]]] = {}
    for name, record in runs:
        domains = record.get("validation_domains")
        if record["status"] == "finished" and domains and record["variant"] != ZERO_SHOT:
            outcome = compare(domains, metric)
            point = (float(outcome["target_after"]), float(outcome["forgetting"]))
            measured.setdefault(name, []).append(point)
    # One seed against the mean of three would compare luck.
    most = max(map(len, measured.values()), default=0)
    measured = {name: seeds for name, seeds in measured.items() if len(seeds) == most}
    sign = -1 if METRICS[metric].higher_is_better else 1
    points = {
        name: (sign * fmean(p[0] for p in seeds), fmean(p[1] for p in seeds))
        for name, seeds in measured.items()
    }
    front = [
        {
            "name": name,
            "target": sign * point[0],
            "forgetting": point[1],
            "runs": len(measured[name]),
        }
        for name, point in points.items()
        if not any(_dominates(other, point) for other in points.values())
    ]
    return sorted(front, key=lambda member: sign * member["target"])


def _dominates(one: tuple[float, float], two: tuple[float, float]) -> bool:
    return one != two and one[0] <= two[0] and one[1] <= two[1]


def describe_front(front: Sequence[Mapping[str, Any]]) -> str:
    """Return the front in one short line: error on the target, and what was forgotten."""
    shown = [f"{m['name']} {m['target']:.4f} {m['forgetting']:+.4f}" for m in front[:MOST]]
    more = f" and {len(front) - MOST} more" if len(front) > MOST else ""
    return " | ".join(shown) + more
