"""Samples of domains: the built-in ones are read from rendered frames.

Axis letters: ``b`` batch, ``h w`` pixels.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import overload

from jaxtyping import Float, UInt8
from torch import Tensor

from dart.cameras import Camera, camera_from_dict
from dart.data.domain_file import read_domain_file
from dart.data.domain_frames import DomainFrames
from dart.data.frames import FrameStore, decode_image, decode_range
from dart.data.sample import Batch, Sample, collate
from dart.domains import find_frames, index_fingerprint
from dart.errors import UserError
from dart.recipe import is_domain_file

__all__ = ["Batch", "FrameDataset", "Sample", "collate", "open_domain"]


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
            digest=bytes.fromhex(record.image_sha256),
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


def open_domain(name: str, split: str, folder: Path | None = None) -> FrameDataset | DomainFrames:
    """Return the frames of a split of a domain.

    Args:
        name: A built-in domain's, or the path of a domain file.
        split: ``train``, ``val`` or ``test``.
        folder: A folder or zip that ``dart render`` made; by default the pack that ships with the
            project, else the cache.

    Raises:
        UserError: unknown name or split; frames that are missing, unfinished, damaged or of
            another domain or split.
    """
    if is_domain_file(name):
        return DomainFrames(read_domain_file(name), split)
    path = find_frames(name, split, folder=folder)
    store = FrameStore(path)
    index = store.index
    if (index.domain, index.split) != (name, split):
        raise UserError(
            f"{path}: holds frames of {index.domain} {index.split}, not of {name} {split}"
        )
    return FrameDataset(store)
