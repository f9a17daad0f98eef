"""Training images that lie on the device: decoded once, changed there, never copied again."""

from collections.abc import Sequence
from typing import Any, overload

import torch
from jaxtyping import Float
from torch import Tensor

from dart.data.sample import Sample, digest_image

MAX_BYTES = 8 * 2**30
"""Of all images of one set; a larger one stays where it is."""


class Resident(Sequence):
    """Samples whose pictures and distances lie on a device, pictures in bytes where they fit.

    What comes out is bit for bit what went in.

    Args:
        data: Samples of one size.
        device: Where they are to lie.

    Raises:
        ValueError: If an image has no valid pixel: on a device it is not looked at again.
    """

    def __init__(self, data: Sequence[Sample], device: torch.device) -> None:
        self.images: list[Tensor] = []
        self.others: list[dict[str, Any]] = []
        """All else of each sample, by field."""
        for sample in data:
            if not bool(sample.valid.any()):
                raise ValueError(f"{sample.key} has no valid pixel")
            self.images.append(_pack(sample.image).to(device))
            others = {name: value for name, value in vars(sample).items() if name != "image"}
            others["distance"] = sample.distance.to(device)
            others["valid"] = sample.valid.to(device)
            others["digest"] = sample.digest or digest_image(sample.image)
            self.others.append(others)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.images)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        """Return one sample, or several."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        image = self.images[index]
        if image.dtype == torch.uint8:
            image = image.float() / 255
        return Sample(image=image, **self.others[index])


def _pack(image: Float[Tensor, "3 h w"]) -> Tensor:
    """Return a picture in bytes, or as it is where bytes would not give the same one back."""
    packed = (image * 255).round().to(torch.uint8)
    return packed if torch.equal(packed.float() / 255, image) else image


def is_small(data: Sequence[Sample]) -> bool:
    """Say whether a set fits: 12 bytes a pixel are enough for picture, distance and validity."""
    if len(data) == 0:
        return False
    return len(data) * 12 * data[0].valid.numel() <= MAX_BYTES
