"""Samples of the built-in domains: a picture, exact distances, and the camera that saw them.

Axis letters: ``b`` batch, ``h w`` pixels.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import overload

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from dart.cameras import Camera, camera_from_dict
from dart.data.frames import FrameStore, decode_image, decode_range
from dart.domains import find_frames, index_fingerprint
from dart.errors import UserError


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


@dataclass(frozen=True, eq=False)
class Batch:
    """Several frames of one size."""

    image: Float[Tensor, "b 3 h w"]
    distance: Float[Tensor, "b h w"]
    valid: Bool[Tensor, "b h w"]
    cameras: tuple[Camera, ...]
    keys: tuple[str, ...]
    scenes: tuple[int, ...]

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
    )


# Not Sequence[Sample]: a run-time checker would then decode a frame wherever a set is passed.
class FrameDataset(Sequence):
    """The frames of a rendered set; decoded ones stay in memory (80 kB a frame of 96 x 128).

    Args:
        store: Where the frames lie.
    """

    def __init__(self, store: FrameStore) -> None:
        self._store = store
        self._decoded: dict[int, tuple[UInt8[Tensor, "3 h w"], Float[Tensor, "h w"]]] = {}
        cameras: dict[str, Camera] = {}
        self._cameras: list[Camera] = []
        for record in store.index.frames:
            text = json.dumps(record.camera, sort_keys=True)
            if text not in cameras:
                where = f"{store.path}: camera of {record.key}"
                cameras[text] = camera_from_dict(record.camera, where=where)
            self._cameras.append(cameras[text])

    @property
    def fingerprint(self) -> str:
        """Text that changes whenever a pixel, a range or a camera of the set does."""
        return index_fingerprint(json.loads(json.dumps(asdict(self._store.index))))

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self._store.index.frames)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        """Return one frame, or several.

        Raises:
            UserError: a file of the set is missing or damaged.
        """
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        if position not in self._decoded:
            self._decoded[position] = self._decode(position)
        pixels, distance = self._decoded[position]
        record = self._store.index.frames[position]
        return Sample(
            image=pixels.float() / 255,
            distance=distance.clone(),
            valid=distance > 0,
            camera=self._cameras[position],
            key=record.key,
            scene=record.scene,
        )

    def _decode(self, position: int) -> tuple[UInt8[Tensor, "3 h w"], Float[Tensor, "h w"]]:
        store = self._store
        record = store.index.frames[position]
        image = decode_image(
            store.read(record.image_file, checksum=record.image_sha256),
            where=f"{store.path}/{record.image_file}",
        )
        where = f"{store.path}/{record.range_file}"
        distance = decode_range(
            store.read(record.range_file, checksum=record.range_sha256),
            scale=store.index.range_scale,
            where=where,
        )
        size = self._cameras[position].size
        if tuple(image.shape[-2:]) != size or tuple(distance.shape) != size:
            raise UserError(
                f"{where}: {tuple(distance.shape)} pixels (picture {tuple(image.shape[-2:])}), "
                f"its camera has {size}"
            )
        return image, distance


def open_domain(name: str, split: str, folder: Path | None = None) -> FrameDataset:
    """Return the frames of a split of a built-in domain.

    Args:
        name: The domain's.
        split: ``train``, ``val`` or ``test``.
        folder: A folder or zip that ``dart render`` made; by default the pack that ships with the
            project, else the cache.

    Raises:
        UserError: unknown name or split; frames that are missing, unfinished, damaged or of
            another domain or split.
    """
    path = find_frames(name, split, folder=folder)
    store = FrameStore(path)
    index = store.index
    if (index.domain, index.split) != (name, split):
        raise UserError(
            f"{path}: holds frames of {index.domain} {index.split}, not of {name} {split}"
        )
    return FrameDataset(store)
