"""Batches as a pure function of seed and step: a resumed run sees what it would have seen."""

from collections.abc import Sequence

import torch

from dart.data.sample import Batch, Sample, collate
from dart.data.transforms import colour as change_colours
from dart.data.transforms import flip
from dart.seeds import derive_generator


def batch_indices(length: int, *, batch_size: int, seed: int, step: int) -> list[int]:
    """Return the samples of one step: permutations of the data set, one after another.

    Raises:
        ValueError: If the data set is empty.
    """
    if length < 1:
        raise ValueError("cannot draw a batch from an empty data set")
    positions = range(step * batch_size, (step + 1) * batch_size)
    orders: dict[int, list[int]] = {}
    for epoch in {position // length for position in positions}:
        generator = derive_generator(seed, "order", epoch)
        orders[epoch] = torch.randperm(length, generator=generator).tolist()
    return [orders[position // length][position % length] for position in positions]


def draw_batch(
    data: Sequence[Sample], *, batch_size: int, seed: int, step: int, flips: bool, colour: float
) -> Batch:
    """Return the batch of ``step``, augmented; the same arguments give the same batch.

    Args:
        flips: Mirror each image with probability one half.
        colour: Strength of ``transforms.colour``; 0 leaves colours alone.
    """
    generator = derive_generator(seed, "augmentation", step)
    samples = []
    for index in batch_indices(len(data), batch_size=batch_size, seed=seed, step=step):
        sample = data[index]
        if flips and float(torch.rand((), generator=generator)) < 0.5:
            sample = flip(sample)
        if colour:
            sample = change_colours(sample, strength=colour, generator=generator)
        samples.append(sample)
    return collate(samples)
