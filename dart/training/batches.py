"""Batches as a pure function of seed and step, so that a resumed run sees what it would have seen.

Axes: ``b`` images, ``c`` colours, ``h w`` pixels.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from dart.data.dataset import Batch, Sample, collate
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


def flip(sample: Sample) -> Sample:
    """Return the sample mirrored left to right, its camera with it; distances stay exact."""
    return replace(
        sample,
        image=sample.image.flip(-1),
        distance=sample.distance.flip(-1),
        valid=sample.valid.flip(-1),
        camera=sample.camera.flip(),
    )


def change_colour(
    image: Float[Tensor, "c h w"], *, strength: float, generator: Generator
) -> Float[Tensor, "c h w"]:
    """Return ``image`` with another gamma, contrast and white balance.

    Args:
        strength: 1 lets gamma, contrast and each colour change by a factor of up to 1.5.
    """
    c = image.shape[0]
    factors = (1.5 ** (strength * (2 * torch.rand(2 + c, generator=generator) - 1))).to(image)
    mean = image.mean()
    image = (image - mean) * factors[1] + mean
    return (image * factors[2:, None, None]).clamp(0, 1) ** factors[0]


def draw_batch(
    data: Sequence[Sample], *, batch_size: int, seed: int, step: int, flips: bool, colour: float
) -> Batch:
    """Return the batch of ``step``, augmented; the same arguments give the same batch.

    Args:
        flips: Mirror each image with probability one half.
        colour: Strength of ``change_colour``; 0 leaves colours alone.
    """
    generator = derive_generator(seed, "augmentation", step)
    samples = []
    for index in batch_indices(len(data), batch_size=batch_size, seed=seed, step=step):
        sample = data[index]
        if flips and float(torch.rand((), generator=generator)) < 0.5:
            sample = flip(sample)
        if colour:
            image = change_colour(sample.image, strength=colour, generator=generator)
            sample = replace(sample, image=image)
        samples.append(sample)
    return collate(samples)
