"""What the built-in domains are: style, lens, role and which scenes each split may use.

Torch-free, so that a plan can name a domain and its data without loading a renderer.
A scene is a seed and a style. The splits of every domain own disjoint ranges of scene seeds, so
that no room is seen twice: not in two splits and not through two lenses.
"""

import json
import math
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from dart.errors import UserError, did_you_mean

FRAME_SIZE = (96, 128)
"""Height and width in pixels of the frames of every built-in domain."""

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class LensSpec:
    """A lens whose field of view fills the frame's width."""

    model: Literal["pinhole", "kannala_brandt", "equisolid", "equirectangular"]
    """Name of the camera model in ``dart.cameras``."""
    fov_degrees: tuple[int, int]
    """Smallest and largest horizontal field of view; every view draws whole degrees of it."""
    distortion: tuple[float, ...] = ()
    """Kannala-Brandt k1..k4 (unitless, angles in radians); empty for the other lenses."""
    circle: bool = True
    """Whether a fisheye's view ends at half the field of view, which leaves black corners."""

    def focal(self, fov_degrees: float, width: int) -> float:
        """Return the focal length in pixels at which ``width`` pixels see ``fov_degrees``."""
        half = math.radians(fov_degrees) / 2
        if self.model == "pinhole":
            return width / 2 / math.tan(half)
        if self.model == "equisolid":
            return width / 4 / math.sin(half / 2)
        # Without distortion, an angle's share of the width is its share of the field of view.
        powers = (half ** (2 * order + 3) * k for order, k in enumerate(self.distortion))
        return width / 2 / (half + sum(powers))


@dataclass(frozen=True)
class SplitSpec:
    """Which scenes a split owns, and how its frames are rendered."""

    scenes: range
    """Scene seeds of this split; no other split of any domain has one of them."""
    shipped: int
    """Number of frames in the pack that comes with the project; 0 = rendered on demand."""
    views_per_scene: int = 1
    """Views of one scene, each with its own place, direction and exposure."""
    samples_per_pixel: int = 4
    """Rays traced per pixel for the picture: a square number."""

    @property
    def capacity(self) -> int:
        """Number of frames that the split's scenes suffice for."""
        return len(self.scenes) * self.views_per_scene

    def locate(self, index: int) -> tuple[int, int]:
        """Return scene seed and view number of the frame ``index``."""
        scene, view = divmod(index, self.views_per_scene)
        return self.scenes[scene], view


@dataclass(frozen=True)
class DomainSpec:
    """A built-in domain: one style of scenes seen through one kind of lens."""

    name: str
    role: Literal["source", "target", "held_out"]
    style: Literal["rooms", "streets", "warehouse"]
    lens: LensSpec
    splits: Mapping[str, SplitSpec]
    size: tuple[int, int] = FRAME_SIZE
    """Height and width in pixels."""
    range_scale: float = 2000.0
    """Units of the 16-bit range picture per metre: half a unit (0.25 mm) is the rounding error."""
    distances: tuple[float, float] = (0.05, 10.0)
    """Nearest and farthest range in metres; what lies beyond is invalid, as the sky is."""


def _splits(first: int, *, val: int = 0, test: int = 0, views: int = 1) -> Mapping[str, SplitSpec]:
    """Return splits of 100,000, 10,000 and 10,000 scenes from ``first`` on; packs of that size."""
    end = first + 100_000
    return MappingProxyType(
        {
            "train": SplitSpec(range(first, end), shipped=0, views_per_scene=views),
            "val": SplitSpec(range(end, end + 10_000), shipped=val),
            "test": SplitSpec(range(end + 10_000, end + 20_000), shipped=test),
        }
    )


_STEREOGRAPHIC = (1 / 12, 1 / 120, 17 / 20160, 31 / 362880)
_PINHOLE = LensSpec("pinhole", (50, 85))
_FISHEYE = LensSpec("kannala_brandt", (170, 170), (0.03, -0.012, 0.002, 0.0))

# All wide lenses see the same 170 degrees: between them only the mapping differs.
_DOMAINS = (
    DomainSpec(
        name="rooms_pinhole",
        role="source",
        style="rooms",
        lens=_PINHOLE,
        splits=MappingProxyType(
            {
                "train": SplitSpec(range(100_000), shipped=0, views_per_scene=3),
                "val": SplitSpec(range(100_000, 110_000), shipped=24),
                "test": SplitSpec(range(110_000, 120_000), shipped=64),
            }
        ),
    ),
    DomainSpec(
        name="rooms_fisheye",
        role="target",
        style="rooms",
        lens=_FISHEYE,
        splits=MappingProxyType(
            {
                "train": SplitSpec(range(200_000, 300_000), shipped=160),
                "val": SplitSpec(range(300_000, 310_000), shipped=24),
                "test": SplitSpec(range(310_000, 320_000), shipped=48),
            }
        ),
    ),
    DomainSpec(
        name="rooms_stereographic",
        role="held_out",
        style="rooms",
        lens=LensSpec("kannala_brandt", (170, 170), _STEREOGRAPHIC),
        splits=MappingProxyType(
            {
                "train": SplitSpec(range(400_000, 500_000), shipped=0),
                "val": SplitSpec(range(500_000, 510_000), shipped=0),
                "test": SplitSpec(range(510_000, 520_000), shipped=32),
            }
        ),
    ),
    DomainSpec(
        name="rooms_fisheye_narrow",
        role="target",
        style="rooms",
        lens=replace(_FISHEYE, fov_degrees=_PINHOLE.fov_degrees, circle=False),
        splits=_splits(600_000, test=16),
    ),
    DomainSpec(
        name="rooms_equisolid",
        role="held_out",
        style="rooms",
        lens=LensSpec("equisolid", (170, 170)),
        splits=_splits(800_000, test=16),
    ),
    DomainSpec(
        name="rooms_panorama",
        role="held_out",
        style="rooms",
        lens=LensSpec("equirectangular", (360, 360)),
        splits=_splits(1_000_000, test=16),
        size=(64, 128),
    ),
    DomainSpec(
        name="streets_pinhole",
        role="source",
        style="streets",
        lens=_PINHOLE,
        splits=_splits(1_200_000, val=12, test=20, views=3),
        range_scale=800.0,
        distances=(0.3, 80.0),
    ),
    DomainSpec(
        name="streets_fisheye",
        role="target",
        style="streets",
        lens=_FISHEYE,
        splits=_splits(1_400_000, test=16),
        range_scale=800.0,
        distances=(0.3, 80.0),
    ),
    DomainSpec(
        name="warehouse_pinhole",
        role="held_out",
        style="warehouse",
        lens=_PINHOLE,
        splits=_splits(1_600_000, test=16),
        range_scale=1600.0,
        distances=(0.3, 40.0),
    ),
    DomainSpec(
        name="warehouse_fisheye",
        role="held_out",
        style="warehouse",
        lens=_FISHEYE,
        splits=_splits(1_800_000, test=16),
        range_scale=1600.0,
        distances=(0.3, 40.0),
    ),
)

DOMAINS: Mapping[str, DomainSpec] = MappingProxyType({spec.name: spec for spec in _DOMAINS})


def check_domain(name: str, *, where: str = "domain") -> DomainSpec:
    """Return the domain of that name.

    Raises:
        UserError: no domain is called ``name``; the text lists those there are.
    """
    if name not in DOMAINS:
        allowed = ", ".join(DOMAINS)
        raise UserError(
            f"{where}: unknown domain '{name}', allowed are {allowed}{did_you_mean(name, DOMAINS)}"
        )
    return DOMAINS[name]


def check_split(name: str, split: str, *, where: str = "split") -> SplitSpec:
    """Return the split of a domain.

    Raises:
        UserError: the domain or the split does not exist.
    """
    splits = check_domain(name).splits
    if split not in splits:
        allowed = ", ".join(splits)
        hint = did_you_mean(split, splits)
        raise UserError(f"{where}: {name} has no split '{split}', allowed are {allowed}{hint}")
    return splits[split]


def pack_path(name: str, split: str) -> Path:
    """Return where the pack of a split lies that ships with the project, if one does."""
    return Path(__file__).parent / "data" / "packs" / f"{name}-{split}.zip"


def cache_folder(name: str, split: str, size: tuple[int, int] | None = None) -> Path:
    """Return the folder for rendered frames: in ``$DART_CACHE``, else in ``~/.cache/dart``.

    Frames of another ``size`` (height, width) than the domain's own lie in a folder of their own.
    """
    root = os.environ.get("DART_CACHE") or Path.home() / ".cache" / "dart"
    own = check_domain(name).size
    suffix = "" if size in (None, own) else "-{}x{}".format(*(size or own))
    return Path(root) / "frames" / f"{name}-{split}{suffix}"


def find_frames(name: str, split: str, *, folder: Path | None = None) -> Path:
    """Return the pack or folder that a split is read from.

    A given ``folder`` (or zip) comes first, then the shipped pack, then the cache. The pack comes
    before the cache so that a study means the same on every machine.

    Raises:
        UserError: unknown domain or split, or its frames are nowhere; the text says how to make
            them.
    """
    check_split(name, split)
    if folder is not None:
        if not Path(folder).exists():
            raise UserError(f"{folder}: no frames of {name} {split} there")
        return Path(folder)
    choices = [pack_path(name, split), cache_folder(name, split)]
    for path in choices:
        if path.exists():
            return path
    raise UserError(
        f"{name} {split}: no frames are shipped and none lie in {choices[1]}; "
        f"make them with: dart render {name} --split {split} --count N"
    )


def fingerprint(name: str, split: str, *, folder: Path | None = None) -> str:
    """Return a text that changes whenever a pixel, a range or a camera of the split does.

    Raises:
        UserError: the split's frames are nowhere, unfinished or unreadable.
    """
    path = find_frames(name, split, folder=folder)
    try:
        if path.is_dir():
            text = (path / "index.json").read_bytes()
        else:
            with zipfile.ZipFile(path) as pack:
                text = pack.read("index.json")
        return index_fingerprint(json.loads(text))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: index.json cannot be read ({reason})") from None


def index_fingerprint(index: Mapping[str, Any]) -> str:
    """Return the fingerprint of a set's index: of its frames, not of when they were made."""
    told = {key: index[key] for key in ("domain", "split", "size", "range_scale", "frames")}
    return sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
