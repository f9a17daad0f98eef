"""One frame, and several as a batch: a picture, exact distances, and the camera that saw them.

Axis letters: ``b`` batch, ``h w`` pixels.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dart.cameras import Camera


@dataclass(frozen=True, eq=False)
class Sample:
    """One frame."""

    image: Float[Tensor, "3 h w"]
    """RGB, 0..1."""
    distance: Float[Tensor, "h w"]
    """Metres along the ray; 0 where not valid."""
    valid: Bool[Tensor, "h w"]
    camera: Camera
    key: str
    """Name of the frame, unlike that of any other."""
    scene: int
    """Frames of one scene share this number: statistics count scenes, not frames."""
    digest: bytes = b""
    """Tells pictures apart without reading them: a hash of the picture or of the file that it came
    from; empty where none is known."""


def digest_image(image: Float[Tensor, "3 h w"]) -> bytes:
    """Return a name for a picture that no other picture has: a hash of its size and pixels."""
    told = repr(tuple(image.shape)).encode() + image.cpu().contiguous().numpy().tobytes()
    return hashlib.blake2b(told, digest_size=16).digest()


@dataclass(frozen=True, eq=False)
class Batch:
    """Several frames of one size."""

    image: Float[Tensor, "b 3 h w"]
    distance: Float[Tensor, "b h w"]
    valid: Bool[Tensor, "b h w"]
    cameras: tuple[Camera, ...]
    keys: tuple[str, ...]
    scenes: tuple[int, ...]
    digests: tuple[bytes, ...]

    def to(self, device: torch.device) -> "Batch":
        """Return the batch with its tensors on ``device``; cameras stay where they are."""
        return replace(
            self,
            image=self.image.to(device),
            distance=self.distance.to(device),
            valid=self.valid.to(device),
        )


def collate(samples: Sequence[Sample]) -> Batch:
    """Return the samples as one batch.

    Raises:
        ValueError: no samples, or samples of different sizes.
    """
    sizes = {tuple(sample.image.shape[-2:]) for sample in samples}
    if len(sizes) != 1:
        raise ValueError(f"a batch needs samples of one size, got {sorted(sizes)}")
    return Batch(
        image=torch.stack([sample.image for sample in samples]),
        distance=torch.stack([sample.distance for sample in samples]),
        valid=torch.stack([sample.valid for sample in samples]),
        cameras=tuple(sample.camera for sample in samples),
        keys=tuple(sample.key for sample in samples),
        scenes=tuple(sample.scene for sample in samples),
        digests=tuple(sample.digest for sample in samples),
    )
