"""The decoder."""

import pytest
import torch
from torch import Tensor

from dart.models.depth_head import DepthHead

CHANNELS = (48, 64, 168, 224)
SIZE = (64, 96)


@pytest.fixture
def head() -> DepthHead:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return DepthHead(CHANNELS, channels=64, initial=0.1)


@pytest.fixture
def features() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, width, SIZE[0] >> (2 + i), SIZE[1] >> (2 + i), generator=generator)
        for i, width in enumerate(CHANNELS)
    ]


def test_size(head: DepthHead) -> None:
    # FACTS 4.6 measures 0.93 M for DA-V2's head of 64 channels, an unused unit of 73 856 included.
    assert sum(p.numel() for p in head.parameters()) == pytest.approx(0.93e6 - 73_856, rel=0.01)


def test_starts_near_the_answer_it_is_given(head: DepthHead, features: list[Tensor]) -> None:
    answer = head(features, SIZE)
    assert answer.shape == (2, *SIZE)
    assert answer.median().item() == pytest.approx(0.1, rel=0.2)


def test_every_parameter_and_every_map_counts(head: DepthHead, features: list[Tensor]) -> None:
    inputs = [map_.requires_grad_() for map_ in features]
    head(inputs, SIZE).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())
    assert all(map_.grad is not None and map_.grad.abs().sum() > 0 for map_ in inputs)


def test_pixels_lie_where_their_features_do(head: DepthHead, features: list[Tensor]) -> None:
    """A change in one corner of the finest map moves that corner of the answer, not the other."""
    before = head(features, SIZE)
    features[0][:, :, :2, -2:] += 3
    moved = (head(features, SIZE) - before).abs()[0]
    assert moved[:16, -16:].mean() > 100 * moved[-16:, :16].mean()


def test_stays_within_bounds_for_wild_features(head: DepthHead, features: list[Tensor]) -> None:
    answer = head([1e3 * map_ for map_ in features], SIZE)
    assert answer.isfinite().all()
    assert (answer >= 0).all()
    assert (answer <= 1).all()


def test_answers_in_single_precision_under_autocast(
    head: DepthHead, features: list[Tensor]
) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        answer = head(features, SIZE)
    assert answer.dtype == torch.float32
    torch.testing.assert_close(answer, head(features, SIZE), rtol=0.05, atol=0)
