"""Bytes that operators move, against what can be counted by hand."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from benchmarks.traffic import Traffic

A, B = torch.ones(64, 32), torch.ones(32, 16)
ROW = torch.ones(32)


@pytest.mark.parametrize(
    ("work", "operators", "numbers"),
    [
        (lambda: A @ B, 1, 64 * 32 + 32 * 16 + 64 * 16),
        (lambda: A.clone().add_(A), 2, 2 * 64 * 32 + 3 * 64 * 32),  # in place: also written
        (lambda: A.T.reshape(32, 8, 8).flatten(1)[:, :4], 0, 0),
        (lambda: torch.empty(1000), 0, 0),
        (lambda: A + ROW.expand(64, 32), 1, 2 * 64 * 32 + 32),
        (lambda: torch.cat([A, A]), 1, 4 * 64 * 32),
        (lambda: torch.var_mean(A), 1, 64 * 32 + 2),
    ],
)
def test_bytes_are_those_of_inputs_and_outputs(
    work: Callable[[], object], operators: int, numbers: int
) -> None:
    with Traffic() as traffic:
        work()
    assert (traffic.operators, traffic.bytes) == (operators, 4 * numbers)


def test_lower_precision_moves_half_and_gradients_are_seen() -> None:
    moved = []
    for dtype in (torch.float32, torch.bfloat16):
        linear = nn.Linear(32, 16, bias=False, dtype=dtype)
        x = torch.ones(64, 32, dtype=dtype)
        with Traffic() as traffic:
            linear(x).sum().backward()
        moved.append(traffic.bytes)
    product = 64 * 32 + 32 * 16 + 64 * 16
    one = 1 + 1  # made like the sum
    gradient = 1 + 64 * 32 + 32 * 16  # that of the sum's terms is one number, stored once
    assert moved == [size * (product + 64 * 16 + 1 + one + gradient) for size in (4, 2)]
