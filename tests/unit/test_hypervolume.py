"""The dominated area against hand-made fronts and a count of cells."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dart.studies.hypervolume import default_reference, history, hypervolume

_point = st.tuples(st.integers(0, 12), st.integers(0, 12))


def test_areas_by_hand() -> None:
    assert hypervolume([], (1.0, 1.0)) == 0.0
    assert hypervolume([(0.0, 0.0)], (2.0, 3.0)) == 6.0
    assert hypervolume([(0.0, 2.0), (1.0, 0.0), (1.5, 1.5)], (2.0, 3.0)) == 2 * 1 + 1 * 2
    assert hypervolume([(-1.0, 5.0)], (2.0, 3.0)) == 0.0  # worse than the corner on one
    assert hypervolume([(0.5,), (0.25,)], (1.0,)) == 0.75
    with pytest.raises(ValueError, match="3 objectives"):
        hypervolume([(0.0, 0.0, 0.0)], (1.0, 1.0, 1.0))


@given(st.lists(_point, max_size=12))
def test_the_area_is_the_number_of_cells_that_a_point_dominates(points: list[tuple]) -> None:
    cells = sum(any(x <= a and y <= b for x, y in points) for a in range(10) for b in range(10))
    assert hypervolume(points, (10, 10)) == cells


@given(st.lists(st.none() | _point, max_size=12))
def test_history_is_the_area_of_every_beginning(points: list[tuple | None]) -> None:
    known = [hypervolume([p for p in points[: i + 1] if p], (10, 10)) for i in range(len(points))]
    assert history(points, (10, 10)) == known


def test_the_corner_is_a_tenth_worse_than_the_untouched_network() -> None:
    outcome = {"target_before": 0.4, "source_before": 0.1}
    both = ("target", "forgetting")
    assert default_reference(outcome, both, higher_is_better=False) == pytest.approx((0.44, 0.01))
    assert default_reference(outcome, both, higher_is_better=True) == pytest.approx((-0.36, 0.01))
    assert default_reference(outcome, ("forgetting",), higher_is_better=False) == (
        pytest.approx((0.01,))
    )
