"""Batches as a pure function of seed and step: a resumed run sees what it would have seen."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import overload

import torch
from torch import Generator

from dart.data.sample import Batch, Sample, collate
from dart.data.transforms import colour as change_colours
from dart.data.transforms import flip
from dart.data.warping import Warper, narrower, same_view
from dart.errors import UserError
from dart.seeds import derive_generator

SHARES = (0.5, 0.625, 0.75, 0.875)
"""Of the field of view, one of which is left through the virtual lens ``narrow``."""


def batch_indices(
    length: int, *, batch_size: int, seed: int, step: int, stream: str = ""
) -> list[int]:
    """Return the samples of one step: permutations of the data set, one after another.

    Args:
        stream: Name of another stream of chance than that of the target images.

    Raises:
        ValueError: If the data set is empty.
    """
    if length < 1:
        raise ValueError("cannot draw a batch from an empty data set")
    positions = range(step * batch_size, (step + 1) * batch_size)
    orders: dict[int, list[int]] = {}
    for epoch in {position // length for position in positions}:
        generator = derive_generator(seed, f"{stream}order", epoch)
        orders[epoch] = torch.randperm(length, generator=generator).tolist()
    return [orders[position // length][position % length] for position in positions]


@dataclass
class Augmentation:
    """Random changes of a training image.

    Args:
        flips: Mirror each image with probability one half.
        colour: Strength of ``transforms.colour``; 0 leaves colours alone.
        lenses: Models of lenses, one of which is drawn for each image and sees what the image's
            own lens does (``warping.same_view``); ``own`` keeps the picture, ``narrow`` shows
            a part of its field of view (``SHARES``) through the same lens.
    """

    flips: bool
    colour: float
    lenses: tuple[str, ...] = ()
    _warpers: dict[tuple[str | float, str], Warper] = field(default_factory=dict, repr=False)

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Return the changed image."""
        if self.flips and float(torch.rand((), generator=generator)) < 0.5:
            sample = flip(sample)
        if self.lenses:
            drawn = int(torch.randint(len(self.lenses), (), generator=generator))
            lens: str | float = self.lenses[drawn]
            if lens == "narrow":
                lens = SHARES[int(torch.randint(len(SHARES), (), generator=generator))]
            sample = self._see_through(sample, lens)
        if self.colour:
            sample = change_colours(sample, strength=self.colour, generator=generator)
        return sample

    def _see_through(self, sample: Sample, lens: str | float) -> Sample:
        if lens == "own":
            return sample
        key = (lens, sample.camera.key)
        if key not in self._warpers:
            own = sample.camera
            seen = same_view(own, lens) if isinstance(lens, str) else narrower(own, lens)
            self._warpers[key] = Warper(seen)
        warped = self._warpers[key](sample)
        if not bool(warped.valid.any()):
            raise UserError(f"{sample.key}: no valid pixel is left through virtual lens '{lens}'")
        return warped


def draw_samples(
    data: Sequence[Sample],
    *,
    count: int,
    seed: int,
    step: int,
    augment: Augmentation,
    stream: str = "",
) -> list[Sample]:
    """Return ``count`` images of ``step``, augmented; the same arguments give the same images.

    Args:
        stream: Name of another stream of chance than that of the target images.
    """
    generator = derive_generator(seed, f"{stream}augmentation", step)
    indices = batch_indices(len(data), batch_size=count, seed=seed, step=step, stream=stream)
    return [augment(data[index], generator) for index in indices]


class Joined(Sequence):
    """Several sets of samples as one.

    Raises:
        UserError: Their images differ in size.
    """

    def __init__(self, parts: Sequence[Sequence]) -> None:
        sizes = {tuple(part[0].image.shape[-2:]) for part in parts}
        if len(sizes) > 1:
            raise UserError(f"training: images of the sources differ in size: {sorted(sizes)}")
        self._places = [(part, index) for part in parts for index in range(len(part))]

    def __len__(self) -> int:
        """Return the number of samples in all."""
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        """Return one sample, or several."""
        if isinstance(index, slice):
            return [part[place] for part, place in self._places[index]]
        part, place = self._places[index]
        return part[place]


@dataclass
class Batches:
    """Batches of target images with a share of replayed source images behind them.

    Args:
        data: Training samples of the target.
        source: Training samples of the source.
        batch_size: Images a batch, replayed ones included.
        replayed: Images of the source among them.
        augment: Changes of target images; source images are changed likewise, but keep their lens.
        seed: Decides order and augmentation, of source and target independently.
    """

    data: Sequence[Sample]
    batch_size: int
    augment: Augmentation
    seed: int
    source: Sequence[Sample] = ()
    replayed: int = 0

    def __post_init__(self) -> None:
        if self.replayed == 0:
            return
        if len(self.source) == 0:
            raise UserError("training: replay needs training images of the source")
        sizes = [tuple(data[0].image.shape[-2:]) for data in (self.data, self.source)]
        if sizes[0] != sizes[1]:
            told = ["{}x{}".format(*size) for size in sizes]
            raise UserError(
                f"training: replay needs images of one size; the target's are {told[0]}, the "
                f"source's {told[1]}"
            )

    def draw(self, step: int) -> Batch:
        """Return the batch of a step.

        Raises:
            ValueError: If an image has no valid pixel.
        """
        count, seed = self.batch_size - self.replayed, self.seed
        samples = draw_samples(self.data, count=count, seed=seed, step=step, augment=self.augment)
        if self.replayed:
            samples += draw_samples(
                self.source,
                count=self.replayed,
                seed=seed,
                step=step,
                augment=Augmentation(self.augment.flips, self.augment.colour),
                stream="replay ",
            )
        if not self._all_valid(samples):
            raise ValueError("an image of the batch has no valid pixel")
        return collate(samples)

    def _all_valid(self, samples: Sequence[Sample]) -> bool:
        """Say whether every image has a valid pixel; resident ones were looked at before."""
        return all(sample.valid.is_cuda or bool(sample.valid.any()) for sample in samples)
