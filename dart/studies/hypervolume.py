"""The area that trials dominate, from a declared corner: how far a search has come.

All objectives are minimised. Only what beats the corner on every objective counts.
"""

from collections.abc import Iterable, Sequence

WORSE = 0.1
"""The corner lies so much, as a share, beyond the untouched network on either error."""

Point = Sequence[float]


def default_reference(
    outcome: dict[str, float], objectives: Sequence[str], *, higher_is_better: bool
) -> tuple[float, ...]:
    """Return the corner: errors of the untouched network on target and source, a tenth worse.

    Args:
        outcome: ``target_before`` and ``source_before``, of the validation split.
        objectives: Names, in the order of a trial's values.
        higher_is_better: Of the metric; the target is then negated, as in a trial's values.
    """
    target = outcome["target_before"] * (-1.0 if higher_is_better else 1.0)
    corner = {
        "target": target + WORSE * abs(target),
        "forgetting": WORSE * abs(outcome["source_before"]),
    }
    return tuple(corner[name] for name in objectives)


def hypervolume(points: Iterable[Point], reference: Point) -> float:
    """Return the length or area between the corner and what at least one point dominates.

    Raises:
        ValueError: For more than two objectives.
    """
    inside = [p for p in points if all(x < r for x, r in zip(p, reference, strict=True))]
    if not inside:
        return 0.0
    if len(reference) == 1:
        return reference[0] - min(point[0] for point in inside)
    if len(reference) > 2:
        raise ValueError(f"{len(reference)} objectives; the area is of two")
    area, lowest = 0.0, reference[1]
    for first, second in sorted((p[0], p[1]) for p in inside):
        if second < lowest:
            area += (reference[0] - first) * (lowest - second)
            lowest = second
    return area


def history(points: Sequence[Point | None], reference: Point) -> list[float]:
    """Return the area after each trial; None is a trial that failed, ended early or may not be."""
    grown: list[float] = []
    front: list[Point] = []
    for point in points:
        if point is None or any(_covers(other, point) for other in front):
            grown.append(grown[-1] if grown else 0.0)
            continue
        front = [other for other in front if not _covers(point, other)] + [point]
        grown.append(hypervolume(front, reference))
    return grown


def _covers(one: Point, two: Point) -> bool:
    return all(x <= y for x, y in zip(one, two, strict=True))
