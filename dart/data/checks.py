"""What can be told of a data set by opening every file: ``dart data check``.

A wrong unit, a wrong convention or a damaged file costs a training run; each leaves a trace in the
files themselves. The check names what it finds and changes nothing.

Axis letters: ``h w`` pixels.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray

from dart.cameras import Camera
from dart.data.groups import group_of
from dart.data.planarity import Planarity, judge, plane_shares
from dart.data.sets.base import DepthDataset, RawFrame
from dart.errors import UserError
from dart.pictures import SheetRow, shrink_row

LARGEST_ROUND_TRIP = 0.01
"""Pixels of error from which a lens's round trip is a problem."""
PLAUSIBLE_MEDIAN = (0.05, 150.0)
"""Metres: medians outside are of another unit."""
FRAME_FACTOR = 50.0
"""A frame whose median differs by more from the set's is of another unit."""
_PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
_VALUES_A_FRAME = 2000
_PLANES_A_GROUP = 40
_SHOWN = 12


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, or very likely so."""

    kind: str
    where: str
    text: str


@dataclass
class Report:
    """What the check found."""

    frames: int
    opened: int = 0
    without_depth: int = 0
    scenes: int = 0
    sizes: dict[str, int] = field(default_factory=dict)
    lenses: dict[str, dict[str, Any]] = field(default_factory=dict)
    units: str = "unknown"
    percentiles: dict[str, dict[str, float]] = field(default_factory=dict)
    """Group -> percentiles of the depth in the files, in metres and the group's convention."""
    valid_share: dict[str, dict[str, float]] = field(default_factory=dict)
    invalid_pixels: dict[str, int] = field(default_factory=dict)
    planarity: dict[str, dict[str, Any]] = field(default_factory=dict)
    scenes_in_several_splits: dict[str, list[str]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    rows: list[SheetRow] = field(default_factory=list, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the pictures."""
        return {k: v for k, v in asdict(self).items() if k != "rows"}


def check_dataset(
    data: DepthDataset,
    *,
    splits: Mapping[str, Sequence[str]] | None = None,
    sample: int | None = None,
    seed: int = 0,
    on_frame: Callable[[int, int], None] = lambda _done, _all: None,
) -> Report:
    """Open the files of a data set and return what they say.

    Args:
        data: Opened with ``on_missing="skip"``, so that missing files are counted.
        splits: Split -> keys of its frames; the same picture in two of them is a problem.
        sample: Number of frames to open, evenly spread; all unless given.
        seed: Draws the points of the planarity test.
        on_frame: Called with the frames done and those to do.
    """
    checker = _Checker(data, splits or {}, seed=seed)
    total = len(data) if sample is None else min(sample, len(data))
    indices = [int(i) for i in np.linspace(0, len(data) - 1, total).round()]
    shown = {indices[int(i)] for i in np.linspace(0, total - 1, min(_SHOWN, total)).round()}
    for done, index in enumerate(indices, start=1):
        checker.open(index, show=index in shown)
        on_frame(done, total)
    return checker.finish()


class _Checker:
    def __init__(
        self, data: DepthDataset, splits: Mapping[str, Sequence[str]], *, seed: int
    ) -> None:
        self.data = data
        self.report = Report(frames=len(data) + len(data.skipped), scenes=len(data.scenes))
        self.generator = np.random.default_rng(seed)
        self.split_of: dict[str, list[str]] = {}
        for split, keys in splits.items():
            for key in keys:
                self.split_of.setdefault(key, []).append(split)
        self.sizes: Counter[str] = Counter()
        self.pictures: dict[bytes, list[str]] = {}
        self.depths: dict[str, list[ndarray]] = {}
        self.medians: dict[str, float] = {}
        self.shares: dict[str, list[float]] = {}
        self.planes: dict[tuple[str, str], list[tuple[float, float]]] = {}
        self.groups: dict[str, str] = {e.key: self._group(e.key) for e in data.entries}
        self.every = {
            group: max(1, count // _PLANES_A_GROUP)
            for group, count in Counter(self.groups.values()).items()
        }
        self.opened: Counter[str] = Counter()
        for key, path in data.missing.items():
            self._add("missing", key, f"{path} does not exist")

    def _group(self, key: str) -> str:
        return group_of(key, otherwise=self.data.name)

    def _add(self, kind: str, where: str, text: str) -> None:
        self.report.problems.append(Problem(kind, where, text))

    def open(self, index: int, *, show: bool) -> None:
        """Read one frame and count what it says."""
        entry = self.data.entries[index]
        try:
            raw = self.data.read_raw(index)
        except UserError as error:
            self._add("unreadable", entry.key, str(error))
            return
        self.report.opened += 1
        h, w = raw.camera.size
        self.sizes[f"{w}x{h}"] += 1
        digest = blake2b(raw.image.tobytes(), digest_size=16).digest()
        self.pictures.setdefault(digest, []).append(entry.key)
        circle = self._check_lens(raw.camera, entry.key)
        if raw.depth is None:
            self.report.without_depth += 1
            return
        self._count(raw.depth, entry.key, circle)
        try:
            valid = self.data[index].valid.numpy()
        except UserError as error:
            self._add("no valid depth", entry.key, str(error))
            valid = np.zeros(raw.depth.shape, bool)
        self.shares.setdefault(self.groups[entry.key], []).append(float(valid.mean()))
        self._test_planes(raw, valid, self.groups[entry.key])
        if show:
            self.report.rows.append(shrink_row(_show(entry.key, raw, raw.depth, valid)))

    def _check_lens(self, camera: Camera, key: str) -> Bool[ndarray, "h w"]:
        """Return the image circle; note what is odd about a lens that is new."""
        cosine, inside = self.data.look_through(camera)
        if camera.key in self.report.lenses:
            self.report.lenses[camera.key]["frames"] += 1
            return inside
        pixels = camera.project(camera.rays())[0]
        error = (pixels - camera._pixel_grid()).abs().amax(-1).numpy()
        worst = float(error[inside].max()) if inside.any() else float("nan")
        polar = np.degrees(np.arccos(cosine.clip(-1, 1)))
        (h, w), (cx, cy) = camera.size, camera.params[2:4].tolist()
        self.report.lenses[camera.key] = {
            "model": camera.model,
            "frames": 1,
            "round_trip_pixels": worst,
            "largest_polar_degrees": float(polar[inside].max()) if inside.any() else 0.0,
            "share_in_circle": float(inside.mean()),
        }
        if not inside.any():
            self._add("camera", key, f"no pixel lies in the field of view of its {camera.model}")
        elif worst > LARGEST_ROUND_TRIP:
            self._add("camera", key, f"{camera.model}: pixels come back {worst:.3g} pixels off")
        if not (0.2 * w < cx < 0.8 * w and 0.2 * h < cy < 0.8 * h):
            text = f"principal point ({cx:.1f}, {cy:.1f}) is far from the middle of {w}x{h} pixels"
            self._add("camera", key, f"{text}: a calibration of another size?")
        return inside

    def _count(self, depth: Float[ndarray, "h w"], key: str, circle: Bool[ndarray, "h w"]) -> None:
        finite = np.isfinite(depth)
        positive = finite & (np.where(finite, depth, 0) > 0)
        counted = {
            "not finite": int((~finite).sum()),
            "zero": int((depth == 0).sum()),
            "negative": int((finite & (np.where(finite, depth, 0) < 0)).sum()),
            "outside the image circle": int((positive & ~circle).sum()),
        }
        for name, count in counted.items():
            self.report.invalid_pixels[name] = self.report.invalid_pixels.get(name, 0) + count
        if counted["negative"]:
            self._add("negative", key, f"{counted['negative']} pixels have a depth below 0")
        outside = counted["outside the image circle"] / max(1, int(positive.sum()))
        if outside > 0.01:
            text = f"{outside:.0%} of the depth lies outside the lens's field of view"
            self._add("image circle", key, text)
        values = depth[positive & circle]
        if values.size:
            thinned = values[:: max(1, values.size // _VALUES_A_FRAME)]
            self.medians[key] = float(np.median(thinned))
            self.depths.setdefault(self.groups[key], []).append(thinned)

    def _test_planes(self, raw: RawFrame, valid: Bool[ndarray, "h w"], group: str) -> None:
        number = self.opened[group]
        self.opened[group] += 1
        if number % self.every[group] or raw.depth is None:
            return
        rays = raw.camera.to(dtype=torch.float64).rays().numpy()
        shares = plane_shares(raw.depth, rays, valid, self.generator)
        if shares is not None:
            self.planes.setdefault((group, raw.convention), []).append(shares)

    def finish(self) -> Report:
        """Return the report with what only all frames together show."""
        report = self.report
        report.sizes = dict(self.sizes)
        report.lenses = dict(_merge_lenses(report.lenses))
        for group, parts in self.depths.items():
            values = np.percentile(np.concatenate(parts), _PERCENTILES)
            report.percentiles[group] = {
                f"p{p}": round(float(v), 4) for p, v in zip(_PERCENTILES, values, strict=True)
            }
        for group, shares in self.shares.items():
            report.valid_share[group] = {"mean": float(np.mean(shares)), "least": min(shares)}
        self._check_units()
        for (group, convention), shares in self.planes.items():
            found = judge(shares, convention)  # type: ignore[arg-type]
            if found is not None:
                report.planarity[f"{group} ({convention})"] = found.to_dict()
                self._check_convention(group, found)
        self._check_duplicates()
        return report

    def _check_units(self) -> None:
        low, high = PLAUSIBLE_MEDIAN
        for group, values in self.report.percentiles.items():
            median = values["p50"]
            if median > high:
                self._add(
                    "units",
                    group,
                    f"median depth {median:.4g} m: millimetres read as metres? "
                    f"(divided by 1000: {median / 1000:.3g} m)",
                )
            elif median < low:
                self._add(
                    "units",
                    group,
                    f"median depth {median:.3g} m: divided by 1000 once too often? "
                    f"(times 1000: {median * 1000:.3g} m)",
                )
        units = [p.where for p in self.report.problems if p.kind == "units"]
        if self.medians:
            self.report.units = "not metres, see the problems" if units else "metres"
        for key, median in self.medians.items():
            usual = self.report.percentiles[self.groups[key]]["p50"]
            if not 1 / FRAME_FACTOR < median / usual < FRAME_FACTOR:
                text = f"median depth {median:.4g} m, where its group has {usual:.4g} m"
                self._add("units", key, text)

    def _check_convention(self, group: str, found: Planarity) -> None:
        if found.fits_better in ("undecided", found.declared):
            return
        self._add(
            "convention",
            group,
            f"declared as {found.declared}, but planes are flat when it is read as "
            f"{found.fits_better}: the largest holds {found.share_as_z:.0%} of a frame's points "
            f"read as z and {found.share_as_range:.0%} read as range ({found.frames} frames)",
        )

    def _check_duplicates(self) -> None:
        for keys in self.pictures.values():
            splits = sorted({split for key in keys for split in self.split_of.get(key, ())})
            if len(splits) > 1:
                text = f"the same picture is in {' and '.join(splits)}: {', '.join(keys[:4])}"
                self._add("duplicate between splits", keys[0], text)
            elif len(keys) > 1:
                text = f"{len(keys)} frames have the same picture: {', '.join(keys[:4])}"
                self._add("duplicate", keys[0], text)
        scenes: dict[str, set[str]] = {}
        for entry in self.data.entries:
            scenes.setdefault(entry.scene, set()).update(self.split_of.get(entry.key, ()))
        self.report.scenes_in_several_splits = {
            scene: sorted(found) for scene, found in scenes.items() if len(found) > 1
        }


def _merge_lenses(lenses: Mapping[str, dict[str, Any]]) -> Mapping[str, dict[str, Any]]:
    """Return one entry a lens model and image size: sets may have a camera a frame."""
    merged: dict[str, dict[str, Any]] = {}
    for key, values in lenses.items():
        name = " ".join(key.split(" ", 2)[:2])
        known = merged.setdefault(name, {**values, "frames": 0, "cameras": 0})
        known["frames"] += values["frames"]
        known["cameras"] += 1
        for field_name in ("round_trip_pixels", "largest_polar_degrees"):
            known[field_name] = max(known[field_name], values[field_name])
        known["share_in_circle"] = min(known["share_in_circle"], values["share_in_circle"])
    return merged


def _show(
    key: str, raw: RawFrame, depth: Float[ndarray, "h w"], valid: Bool[ndarray, "h w"]
) -> SheetRow:
    with np.errstate(invalid="ignore"):
        known = np.isfinite(depth) & (depth > 0)
    return SheetRow(
        name=f"{key} ({raw.convention})",
        image=raw.image,
        maps=(np.where(known, depth, np.nan).astype(np.float64),),
        mask=valid,
    )
