"""Contact sheets keep what they are about visible."""

import numpy as np
import pytest

from dart.pictures import SheetRow, shrink_map, shrink_row


def test_a_shrunk_map_is_the_mean_of_what_is_known() -> None:
    values = np.full((4, 6), np.nan)
    values[0, :2], values[3, 5] = [1.0, 3.0], 7.0
    small = shrink_map(values, 3)
    assert small.shape == (2, 3)
    assert small[0, 0] == 2.0
    assert small[1, 2] == 7.0
    assert np.isnan(small).sum() == 4


@pytest.mark.parametrize("size", [(375, 1242), (90, 640)])
def test_single_points_stay_visible_in_the_map_and_in_the_mask_alike(size: tuple[int, int]) -> None:
    generator = np.random.default_rng(3)
    known = generator.random(size) < 0.02
    depth = np.where(known, 5.0, np.nan)
    image = np.zeros((*size, 3), dtype=np.uint8)
    row = shrink_row(SheetRow("x", image, (depth,), mask=known))
    assert row.mask is not None
    assert max(row.mask.shape) <= 320
    assert np.array_equal(row.mask, np.isfinite(row.maps[0]))
    step = -(-max(size) // 320)
    v, u = np.nonzero(known)
    assert row.mask[v // step, u // step].all()
    assert row.mask.mean() < 0.5
