"""Measuring a network on a data set from disk, one image at a time.

Each image is shrunk to the width that the network works at, and the prediction is enlarged to the
size of the truth, which is never resized. The network predicts distance along the ray; where a
data set holds z, prediction and truth are both turned into z with the same rays, so that errors
are in the set's own convention. Numbers of different conventions are never averaged.

Beside the network stands a constant: the median over a group's images of the median truth. It
knows the group's scale, which the network does not, and nothing else.

Axis letters: ``h w`` pixels of the truth, ``n`` its valid pixels.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch.nn import functional as F

from dart.angles import AngleErrors, solid_angles
from dart.cameras import Camera
from dart.data.groups import group_of
from dart.data.sample import Sample
from dart.data.sets.base import DepthDataset
from dart.data.transforms import resize
from dart.errors import UserError, did_you_mean
from dart.metrics import (
    ALIGNMENTS,
    FURTHER_METRICS,
    METRICS,
    align,
    measure_clouds,
    measure_weighted,
)
from dart.models import DepthNet
from dart.pictures import SheetRow, shrink_row

CLOUD_ALIGNMENTS = ("none", "scale_median")
_SHOWN_A_GROUP = 3
_SHOWN = 18
_CAMERAS_KEPT = 4
_RIGHT_ANGLE_COSINE = 1e-4
_PIXEL_METRICS = {**METRICS, **FURTHER_METRICS}

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Setting:
    """How a network is measured."""

    width: int = 128
    """Width in pixels at which the network sees an image; the height keeps the aspect."""
    alignments: tuple[str, ...] = tuple(ALIGNMENTS)
    """Keys of ``ALIGNMENTS``."""
    cloud_points: int = 76_800
    """Most points of each cloud that are compared; 0 leaves clouds out, which take most time."""
    skip_unreadable: bool = False
    """Whether frames that cannot be read are left out; their names are kept."""

    def __post_init__(self) -> None:
        if self.width < 32:
            raise UserError(f"width {self.width}: expected at least 32 pixels")
        if self.cloud_points < 0:
            raise UserError(f"cloud points {self.cloud_points}: expected at least 0")
        for name in self.alignments:
            if name not in ALIGNMENTS:
                raise UserError(
                    f"unknown alignment '{name}', allowed are {', '.join(ALIGNMENTS)}"
                    f"{did_you_mean(name, ALIGNMENTS)}"
                )


@dataclass(frozen=True)
class Frame:
    """What is known of a readable frame before it is measured."""

    index: int
    key: str
    scene: str
    group: str
    convention: Literal["z", "range"]
    median: float
    """Of the truth, in metres and the frame's convention."""


@dataclass(frozen=True)
class Evaluation:
    """Everything that was measured."""

    per_image: pd.DataFrame
    """``image scene group convention predictor alignment metric value``."""
    per_angle: pd.DataFrame
    """Means over images for rings of polar angle, and for each band of distance in a ring."""
    unreadable: dict[str, str]
    """Key -> why it could not be read."""
    constants: dict[str, float]
    """Group -> the constant that the network is held against, in metres."""
    rows: list[SheetRow] = field(repr=False)
    """Some frames of every group for a contact sheet."""


@dataclass(frozen=True)
class _Lens:
    """What measuring needs of a camera."""

    rays: Float[ndarray, "h w 3"]
    polar: Float[ndarray, "h w"]
    solid: Float[ndarray, "h w"]


def survey(data: DepthDataset, *, on_frame: Progress) -> tuple[list[Frame], dict[str, str]]:
    """Return the readable frames, and why the others are not readable.

    Raises:
        UserError: A frame's convention is not known, or no frame can be read.
    """
    frames, unreadable = [], {}
    for index, entry in enumerate(data.entries):
        try:
            sample, convention = data[index], data.read_raw(index).convention
        except UserError as error:
            unreadable[entry.key] = str(error)
        else:
            if convention not in ("z", "range"):
                raise UserError(
                    f"{entry.key}: the convention of the depth is {convention!r}, allowed are 'z' "
                    "and 'range'; errors in an unknown one mean nothing"
                )
            factor = _factor(sample.camera, convention)
            values = (sample.distance.numpy() * factor)[sample.valid.numpy()]
            frames.append(
                Frame(
                    index=index,
                    key=entry.key,
                    scene=entry.scene,
                    group=group_of(entry.key, otherwise=data.name),
                    convention=convention,
                    median=float(np.median(values)),
                )
            )
        on_frame("reading", index + 1, len(data))
    if not frames:
        raise UserError(f"{data.root}: no frame can be read: {next(iter(unreadable.values()))}")
    return frames, unreadable


def _factor(camera: Camera, convention: str) -> Float[ndarray, "h w"] | float:
    """Return what turns distance along the ray into the convention."""
    if convention == "range":
        return 1.0
    return camera.to(dtype=torch.float64).rays()[..., 2].numpy().clip(_RIGHT_ANGLE_COSINE, 1)


@torch.inference_mode()
def predict_distance(
    model: DepthNet, sample: Sample, *, width: int, device: torch.device
) -> Float[ndarray, "h w"]:
    """Return metres along the rays at the sample's size, from the network run at ``width``.

    The prediction is enlarged bilinearly (corners not aligned).

    Raises:
        UserError: The network's answer is not positive and finite.
    """
    size: tuple[int, int] = sample.camera.size
    small = resize(sample, (max(1, round(size[0] * width / size[1])), width))
    model.eval()
    distance = model(small.image[None].to(device), [small.camera]).distance.float()
    if not (distance.isfinite().all() and (distance > 0).all()):
        raise UserError(f"{sample.key}: the network gives distances that are not finite metres")
    full = F.interpolate(distance[None], size=size, mode="bilinear", align_corners=False)
    return full[0, 0].cpu().numpy()


def thin(valid: Bool[ndarray, "h w"], limit: int) -> tuple[Int[ndarray, " n"], Int[ndarray, " n"]]:
    """Return rows and columns of about ``limit`` valid pixels, as a nearest resize keeps them."""
    share = min(1.0, (limit / max(1, int(valid.sum()))) ** 0.5)
    rows, columns = (
        np.minimum((np.arange(max(1, int(n * share))) + 0.5) / share, n - 1).astype(int)
        for n in valid.shape
    )
    kept = valid[np.ix_(rows, columns)]
    if not kept.any():  # few points that the grid misses
        rows, columns = np.arange(valid.shape[0]), np.arange(valid.shape[1])
        kept = valid
    v, u = np.nonzero(kept)
    return rows[v], columns[u]


class Evaluator:
    """Measures one network on one data set.

    Args:
        model: The network, on ``device``.
        data: What to measure it on.
        setting: How.
        device: Where the network runs.
    """

    def __init__(
        self, model: DepthNet, data: DepthDataset, setting: Setting, *, device: torch.device
    ) -> None:
        self.model = model
        self.data = data
        self.setting = setting
        self.device = device
        self._lenses: dict[str, _Lens] = {}
        self._angles: dict[tuple[str, ...], AngleErrors] = {}

    def run(self, *, on_frame: Progress = lambda _what, _done, _all: None) -> Evaluation:
        """Measure every frame.

        Raises:
            UserError: A frame cannot be read and is not to be skipped.
        """
        frames, unreadable = survey(self.data, on_frame=on_frame)
        if unreadable and not self.setting.skip_unreadable:
            raise UserError(_name_unreadable(unreadable, total=len(self.data)))
        constants = {
            group: float(np.median([f.median for f in frames if f.group == group]))
            for group in dict.fromkeys(f.group for f in frames)
        }
        shown = choose_shown(frames)
        tables, rows = [], []
        for number, frame in enumerate(frames, start=1):
            sample = self.data[frame.index]
            predicted = predict_distance(
                self.model, sample, width=self.setting.width, device=self.device
            )
            tables.append(self._measure(frame, sample, predicted, constants[frame.group]))
            if frame.index in shown:
                rows.append(shrink_row(_show(frame, sample, predicted)))
            on_frame("measuring", number, len(frames))
        angles = [errors.table(self._labels(key)) for key, errors in self._angles.items()]
        return Evaluation(
            per_image=pd.concat(tables, ignore_index=True),
            per_angle=pd.concat(angles, ignore_index=True),
            unreadable=unreadable,
            constants=constants,
            rows=rows,
        )

    def _labels(self, key: tuple[str, ...]) -> dict[str, str]:
        return dict(zip(("group", "convention", "predictor", "alignment"), key, strict=True))

    def _lens(self, camera: Camera) -> _Lens:
        if camera.key not in self._lenses:
            if len(self._lenses) >= _CAMERAS_KEPT:
                self._lenses.pop(next(iter(self._lenses)))
            rays = camera.to(dtype=torch.float64).rays().numpy()
            polar = np.arccos(rays[..., 2].clip(-1, 1))
            self._lenses[camera.key] = _Lens(rays, polar, solid_angles(rays))
        return self._lenses[camera.key]

    def _measure(
        self, frame: Frame, sample: Sample, predicted: Float[ndarray, "h w"], constant: float
    ) -> pd.DataFrame:
        """Return one row for each predictor, alignment and metric of a frame."""
        lens, valid = self._lens(sample.camera), sample.valid.numpy()
        factor = np.asarray(_factor(sample.camera, frame.convention))
        along = np.broadcast_to(factor, valid.shape)[valid]
        true = sample.distance.numpy()[valid].astype(np.float64) * along
        given = {
            "network": predicted[valid].astype(np.float64) * along,
            "constant": np.full(true.shape, constant),
        }
        bounds = (self.data.min_distance, self.data.max_distance)
        rows = []
        for predictor, values in given.items():
            for how in self.setting.alignments:
                fitted = align(values, true, how=how, bounds=bounds)
                measured = {name: m.compute(fitted, true) for name, m in _PIXEL_METRICS.items()}
                measured |= measure_weighted(fitted, true, lens.solid[valid])
                if self.setting.cloud_points and predictor == "network" and how in CLOUD_ALIGNMENTS:
                    measured |= self._clouds(lens, valid, fitted / along, true / along)
                rows.extend((predictor, how, name, value) for name, value in measured.items())
                key = (frame.group, frame.convention, predictor, how)
                errors = self._angles.setdefault(key, AngleErrors())
                errors.add(fitted, true, lens.polar[valid])
        table = pd.DataFrame(rows, columns=["predictor", "alignment", "metric", "value"])
        labels = {
            "image": frame.key,
            "scene": frame.scene,
            "group": frame.group,
            "convention": frame.convention,
        }
        return table.assign(**labels)[[*labels, *table.columns]]

    def _clouds(
        self,
        lens: _Lens,
        valid: Bool[ndarray, "h w"],
        predicted: Float[ndarray, " n"],
        true: Float[ndarray, " n"],
    ) -> dict[str, float]:
        numbers = np.zeros(valid.shape, int)
        numbers[valid] = np.arange(len(true))
        v, u = thin(valid, self.setting.cloud_points)
        chosen, rays = numbers[v, u], lens.rays[v, u]
        return measure_clouds(
            predicted[chosen, None] * rays,
            true[chosen, None] * rays,
            nearest=self.data.min_distance,
            farthest=self.data.max_distance,
        )


def _name_unreadable(unreadable: Mapping[str, str], *, total: int) -> str:
    shown = "; ".join(list(unreadable.values())[:3])
    more = "; ..." if len(unreadable) > 3 else ""
    return (
        f"{len(unreadable)} of {total} frames cannot be read (--skip-unreadable leaves them out): "
        f"{shown}{more}"
    )


def choose_shown(frames: list[Frame]) -> set[int]:
    """Return the indices of some frames of every group, evenly spread over it."""
    groups: dict[str, list[int]] = {}
    for frame in frames:
        groups.setdefault(frame.group, []).append(frame.index)
    if len(groups) == 1:
        (only,) = groups.values()
        return set(only[:: max(1, -(-len(only) // 8))])
    chosen = [
        index
        for indices in groups.values()
        for index in indices[:: max(1, -(-len(indices) // _SHOWN_A_GROUP))]
    ]
    return set(chosen[:: max(1, -(-len(chosen) // _SHOWN))])


def _show(frame: Frame, sample: Sample, predicted: Float[ndarray, "h w"]) -> SheetRow:
    valid, true = sample.valid.numpy(), sample.distance.numpy().astype(np.float64)
    inside = sample.camera.valid().numpy()
    known = np.where(valid, true, 1.0)
    name = frame.key.rsplit("/", 1)[-1]
    return SheetRow(
        name=f"{frame.group}/{name}" if frame.group != name else name,
        image=sample.image.permute(1, 2, 0).numpy(),
        maps=(np.where(valid, true, np.nan), np.where(inside, predicted, np.nan)),
        error=np.where(valid, np.abs(predicted - true) / known, np.nan),
    )


def summarise(per_image: pd.DataFrame) -> pd.DataFrame:
    """Return means over images and over scenes: of everything, of each group, of each scene.

    Columns: ``level name scene convention predictor alignment metric images scenes mean_images
    mean_scenes``. Everything of one convention is a row of its own: the two are never averaged.
    """
    tables = []
    for level, keys in (("all", []), ("group", ["group"]), ("scene", ["group", "scene"])):
        by = [*keys, "convention", "predictor", "alignment", "metric"]
        means = per_image.groupby(by, sort=False)["value"].agg(mean_images="mean", images="size")
        scenes = per_image.groupby([*by, *([] if "scene" in by else ["scene"])], sort=False)
        per_scene = scenes["value"].mean().groupby(by, sort=False)
        means["mean_scenes"], means["scenes"] = per_scene.mean(), per_scene.size()
        tables.append(means.reset_index().assign(level=level))
    table = pd.concat(tables, ignore_index=True).rename(columns={"group": "name"})
    table["name"] = table["name"].fillna("all " + table["convention"])
    table["scene"] = table["scene"].fillna("")
    head = ["level", "name", "scene", "convention", "predictor", "alignment", "metric"]
    return table[[*head, "images", "scenes", "mean_images", "mean_scenes"]]


def list_groups(summary: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Return name and rows of every group, then of everything in one convention."""
    for level in ("group", "all"):
        chosen = summary[summary["level"] == level]
        for name in dict.fromkeys(chosen["name"]):
            yield str(name), chosen[chosen["name"] == name]


NOT_MEASURED = {
    "rho": "the network takes the rays as given and predicts none, so there is nothing to compare"
}
"""Metrics of the field that say nothing about this network, and why."""
