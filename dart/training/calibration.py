"""Shows target images to adapters that learn from looking, without a gradient."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Protocol, runtime_checkable

import torch

from dart.data.sample import Sample, collate
from dart.models import DepthNet


@runtime_checkable
class Calibrated(Protocol):
    """An adapter that takes something over from the maps that pass through it."""

    num_images: int
    """Most images that it needs."""

    def estimating(self) -> AbstractContextManager[None]:
        """Look at all that passes inside, and take it over at the end."""
        ...


@torch.no_grad()
def calibrate(
    model: DepthNet,
    open_data: Callable[[], Sequence[Sample]],
    *,
    batch_size: int,
    device: torch.device,
) -> None:
    """Show evenly spread training images to the adapters that ask for them, before training.

    It depends on nothing but weights and images, so a resumed run finds what it had.

    Args:
        open_data: Called only where an adapter asks.
    """
    asking = [adapter for adapter in model.adapters if isinstance(adapter, Calibrated)]
    if not asking:
        return
    data = open_data()
    count = min(len(data), max(adapter.num_images for adapter in asking))
    chosen = [index * len(data) // count for index in range(count)]
    model.eval()
    with ExitStack() as stack:
        for adapter in asking:
            stack.enter_context(adapter.estimating())
        for first in range(0, count, batch_size):
            samples = [data[index] for index in chosen[first : first + batch_size]]
            batch = collate(samples).to(device)
            model(batch.image, batch.cameras)
