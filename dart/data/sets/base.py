"""What every data set on disk owes: a listing, readers of its files, and checked samples.

A format says where its frames lie and how its files are read; this module does what all formats
share. It checks sizes, bounds and paths, turns depth along the optical axis into distance along
the ray, and names the file of every mistake. No file stays open between two frames, so that a set
can be handed to worker processes.

Axis letters: ``h w`` pixels.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, overload

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray

from dart.cameras import Camera
from dart.data.sample import Sample
from dart.data.sets.files import read_hdf5, read_npy, read_png16, read_rgb
from dart.data.sets.paths import FilesInside, resolve_inside
from dart.errors import UserError, did_you_mean

__all__ = [
    "DepthDataset",
    "Entry",
    "RawFrame",
    "read_hdf5",
    "read_npy",
    "read_png16",
    "read_rgb",
    "resolve_inside",
]

SMALLEST_COSINE = 1e-4
"""Depth along the optical axis says nothing about rays that are farther than this from it."""
_LENSES_KEPT = 8


@dataclass(frozen=True)
class Entry:
    """One frame of a data set on disk, not yet read."""

    key: str
    """Unlike any other in the set, and the same on every machine: ``office_0001a/0042``."""
    scene: str
    """Frames of one scene share it: statistics count scenes."""
    image: Path
    """The picture, or the container file it lies in."""
    depth: Path | None
    """None: the set has no depth here."""
    index: int = 0
    """Position inside a container file."""
    camera: Camera | None = None
    """The camera, if the listing knows it."""


@dataclass(frozen=True, eq=False)
class RawFrame:
    """What the files of one frame say, before anything is converted."""

    image: UInt8[ndarray, "h w 3"]
    """RGB."""
    depth: Float[ndarray, "h w"] | None
    """Metres in the set's own convention; 0 or not finite where unknown."""
    camera: Camera
    mask: Bool[ndarray, "h w"] | None
    """False where the set itself says that a pixel does not count."""
    convention: Literal["z", "range"]
    """Depth along the optical axis, or distance along the ray."""


# Not Sequence[Sample]: a run-time checker would then decode a frame wherever a set is passed.
class DepthDataset(Sequence, ABC):
    """The frames of a data set on disk, read when asked for.

    Args:
        root: The set's folder, or the one file that holds or lists it.
        split: One of ``splits``; every frame unless given.
        evaluation: Count only the pixels of the crop that the field's protocol evaluates.
        on_missing: What to do where a listed file does not exist; ``skip`` keeps the names of
            the frames left out in ``skipped``, and their files in ``missing``.

    Raises:
        UserError: the folder, a split or a file is not there, a path leaves the folder, two
            frames share a key, or there is no frame at all.
    """

    name: ClassVar[str]
    splits: tuple[str, ...] = ()
    """The format's own splits; empty where it has none."""
    convention: Literal["z", "range"]
    """Depth along the optical axis, or distance along the ray, where all frames agree."""
    min_distance: float
    """Smallest depth that counts, in metres and the set's own convention."""
    max_distance: float
    """Largest depth that counts, in metres and the set's own convention."""

    def __init__(
        self,
        root: Path,
        *,
        split: str | None = None,
        evaluation: bool = False,
        on_missing: Literal["error", "skip"] = "error",
    ) -> None:
        self.root = Path(root)
        self.split = split
        self.evaluation = evaluation
        if not self.root.exists():
            raise UserError(f"{root}: no such folder or file of a data set")
        if split is not None and split not in self.splits:
            allowed = ", ".join(self.splits) or "none: the format has no splits of its own"
            raise UserError(
                f"{root}: format {self.name} has no split '{split}', allowed are {allowed}"
                f"{did_you_mean(split, self.splits)}"
            )
        self._lenses: dict[str, tuple[Float[ndarray, "h w"], Bool[ndarray, "h w"]]] = {}
        self.entries, self.missing = self._check_entries(on_missing)
        self.skipped = tuple(self.missing)
        self.scenes = tuple(dict.fromkeys(entry.scene for entry in self.entries))
        self._scene_numbers = {scene: number for number, scene in enumerate(self.scenes)}

    @property
    def folder(self) -> Path:
        """The folder that no path of the set may leave."""
        return self.root if self.root.is_dir() else self.root.parent

    @abstractmethod
    def _list(self) -> Iterable[Entry]:
        """Return the frames of ``self.split`` without opening them."""

    @abstractmethod
    def _read_image(self, entry: Entry) -> UInt8[ndarray, "h w 3"]:
        """Return the picture as RGB."""

    @abstractmethod
    def _read_depth(self, entry: Entry) -> Float[ndarray, "h w"]:
        """Return metres in the set's convention; 0 or not finite where unknown."""

    @abstractmethod
    def _read_camera(self, entry: Entry) -> Camera:
        """Return the camera of the picture, with its size."""

    def _read_mask(self, entry: Entry) -> Bool[ndarray, "h w"] | None:  # noqa: ARG002
        """Return False where a pixel does not count (vehicle, glass); None: all count."""
        return None

    def _further_files(self, entry: Entry) -> Iterable[Path]:  # noqa: ARG002
        """Return what else than picture and depth a frame needs, as far as the listing knows."""
        return ()

    def _convention_of(self, entry: Entry) -> Literal["z", "range"]:  # noqa: ARG002
        """Return the frame's convention, for sets that mix both."""
        return self.convention

    def _crop(self, size: tuple[int, int]) -> Bool[ndarray, "h w"] | None:  # noqa: ARG002
        """Return the pixels that the field's protocol evaluates; None: all."""
        return None

    def _crop_of(self, entry: Entry, size: tuple[int, int]) -> Bool[ndarray, "h w"] | None:  # noqa: ARG002
        """Return ``_crop``, for sets whose frames differ in it."""
        return self._crop(size)

    def _check_entries(
        self, on_missing: Literal["error", "skip"]
    ) -> tuple[tuple[Entry, ...], Mapping[str, Path]]:
        """Return the frames that are there, and of each other one the first file that is not."""
        listed = list(self._list())
        if not listed:
            where = "" if self.split is None else f" in split '{self.split}'"
            raise UserError(f"{self.root}: no frame of format {self.name}{where}")
        inside = FilesInside(self.folder)
        kept, missing, keys = [], {}, set()
        for entry in listed:
            if entry.key in keys:
                raise UserError(f"{self.root}: two frames are called '{entry.key}'")
            keys.add(entry.key)
            needed = (entry.image, entry.depth, *self._further_files(entry))
            gone = [path for path in needed if path is not None and not inside.has(path)]
            if gone:
                missing[entry.key] = gone[0]
            else:
                kept.append(entry)
        if missing and (on_missing == "error" or not kept):
            shown = ", ".join(str(path) for path in list(missing.values())[:3])
            more = ", ..." if len(missing) > 3 else ""
            hint = "; on_missing='skip' (or --skip-unreadable) leaves them out" if kept else ""
            raise UserError(
                f"{self.root}: files of {len(missing)} of {len(listed)} frames are missing: "
                f"{shown}{more}{hint}"
            )
        return tuple(kept), missing

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.entries)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        """Return one frame, or several; distances are along the ray.

        Raises:
            UserError: a file is unreadable, of another size than its camera, or has no valid depth.
        """
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        entry, raw = self.entries[position], self.read_raw(position)
        if raw.depth is None:
            raise UserError(f"{entry.image}: format {self.name} has no depth for this frame")
        cosine, circle = self.look_through(raw.camera)
        crop = self._crop_of(entry, raw.camera.size) if self.evaluation else None
        counted = self._count(raw, crop, circle=circle, cosine=cosine)
        if not counted.any():
            raise UserError(f"{entry.depth}: {self._explain(raw, counted=circle)}")
        depth = np.where(counted, raw.depth, 0).astype(np.float64)
        if raw.convention == "z":
            depth /= np.where(counted, cosine, 1)
        return Sample(
            image=torch.from_numpy(raw.image).permute(2, 0, 1).contiguous().float() / 255,
            distance=torch.from_numpy(depth.astype(np.float32)),
            valid=torch.from_numpy(counted),
            camera=raw.camera,
            key=entry.key,
            scene=self._scene_numbers[entry.scene],
        )

    def read_raw(self, index: int) -> RawFrame:
        """Return what the files of one frame say, checked for size and kind only.

        Raises:
            UserError: a file is unreadable or of another size than its camera.
        """
        entry = self.entries[index]
        image = self._read_image(entry)
        camera = entry.camera or self._read_camera(entry)
        depth = None if entry.depth is None else self._read_depth(entry)
        mask = self._read_mask(entry)
        size = tuple(image.shape[:2])
        if camera.size != size:
            raise UserError(
                f"{entry.image}: {_pixels(size)}, but its camera is of {_pixels(camera.size)}"
            )
        for path, kind, values in ((entry.depth, "depth", depth), (entry.image, "mask", mask)):
            if values is not None and values.shape != size:
                raise UserError(
                    f"{path}: {kind} of {_pixels(values.shape)}, but the image {entry.image.name} "
                    f"has {_pixels(size)}"
                )
        return RawFrame(
            image=image,
            depth=depth,
            camera=camera,
            mask=mask,
            convention=self._convention_of(entry),
        )

    def look_through(self, camera: Camera) -> tuple[Float[ndarray, "h w"], Bool[ndarray, "h w"]]:
        """Return z of every pixel's unit ray, and which pixels lie in the image circle."""
        if camera.key not in self._lenses:
            if len(self._lenses) >= _LENSES_KEPT:
                self._lenses.pop(next(iter(self._lenses)))
            rays, seen = camera.to(dtype=torch.float64).rays_and_valid()
            self._lenses[camera.key] = (rays[..., 2].numpy(), seen.numpy())
        return self._lenses[camera.key]

    def _count(
        self,
        raw: RawFrame,
        crop: Bool[ndarray, "h w"] | None,
        *,
        circle: Bool[ndarray, "h w"],
        cosine: Float[ndarray, "h w"],
    ) -> Bool[ndarray, "h w"]:
        """Return the pixels whose depth counts."""
        depth = raw.depth
        assert depth is not None
        with np.errstate(invalid="ignore"):
            counted = np.isfinite(depth) & (depth > 0)
            counted &= (depth >= self.min_distance) & (depth <= self.max_distance)
        counted &= circle
        if raw.convention == "z":
            counted &= cosine > SMALLEST_COSINE
        for mask in (raw.mask, crop):
            if mask is not None:
                counted &= mask
        return counted

    def _explain(self, raw: RawFrame, *, counted: Bool[ndarray, "h w"]) -> str:
        """Return why no pixel of a frame counts."""
        assert raw.depth is not None
        depth = raw.depth[counted]
        finite = depth[np.isfinite(depth)]
        shares = {
            "NaN or infinite": 1 - finite.size / max(1, depth.size),
            "zero": (finite == 0).sum() / max(1, depth.size),
            "negative": (finite < 0).sum() / max(1, depth.size),
        }
        told = ", ".join(f"{share:.0%} {kind}" for kind, share in shares.items() if share > 0)
        positive = finite[finite > 0]
        if positive.size:
            told += f"{', ' if told else ''}the rest {positive.min():.4g} to {positive.max():.4g} m"
        return (
            f"no valid depth ({told or 'no pixel in the image circle'}); counted are "
            f"{self.min_distance:g} to {self.max_distance:g} m inside the masks"
        )


def _pixels(size: Sequence[int]) -> str:
    return " x ".join(str(length) for length in reversed(size)) + " pixels"
