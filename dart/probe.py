"""How much a network's prediction depends on its camera input.

Image and truth stay; only the camera that the network is told changes, an arm at a time. What a
network does not read cannot change its prediction, so an arm's change is exactly zero then.

Axis letters: ``b`` batch, ``e`` camera channels, ``h w`` pixels or cells, ``n`` valid pixels.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from dart.cameras import Camera, CameraEmbedder, Equidistant, Stereographic, default_camera
from dart.data.sample import Sample, collate
from dart.measuring import EVALUATION_BATCH
from dart.metrics import abs_rel
from dart.models.depth_net import DepthNet

REAL = "real"
_OTHER = "another image's"
CHANGED = 0.01
"""Relative change from which a pixel counts as changed."""
MATTERS = 0.01
"""Mean absolute log ratio from which the camera input is said to matter."""
SAME_SHAPE = 1e-4
"""Mean absolute log ratio below which, but for one factor an image, nothing changed."""
COLUMNS = ("mean_abs_log_ratio", "median_ratio", "shape_change", "share_changed", "abs_rel")
_FOCALS = (0.5, 0.7, 1.4, 2.0)
_WIDEST_STEREOGRAPHIC = math.radians(170.0)


@dataclass(frozen=True)
class Arm:
    """One way to tell the network another camera."""

    name: str
    cameras: Sequence[Camera]
    """One an image."""
    embedding: Callable[[Tensor], Tensor] | None = None
    """What is done to the embedding of those cameras."""


class _ChangedEmbedder(CameraEmbedder):
    """An embedder whose answers pass through a function."""

    def __init__(self, inner: CameraEmbedder, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__(inner.dim)
        self._inner = inner
        self._change = change

    def embed(
        self,
        cameras: Sequence[Camera],
        stride: int,
        *,
        device: torch.device | str | None = None,
    ) -> Float[Tensor, "#b e h w"]:
        """Return the changed embedding."""
        return self._change(self._inner.embed(cameras, stride, device=device))

    def rays(
        self,
        cameras: Sequence[Camera],
        stride: int,
        *,
        device: torch.device | str | None = None,
    ) -> Float[Tensor, "#b 3 h w"]:
        """Return the changed rays."""
        return self._change(self._inner.rays(cameras, stride, device=device))


@contextmanager
def _embedder(model: DepthNet, change: Callable[[Tensor], Tensor] | None) -> Iterator[None]:
    inner, shown = model.embedder, model.adapter_embedder
    if change is not None:
        model.embedder = _ChangedEmbedder(inner, change)
        model.adapter_embedder = _ChangedEmbedder(shown, change)
    try:
        yield
    finally:
        model.embedder, model.adapter_embedder = inner, shown


def list_arms(cameras: Sequence[Camera], generator: np.random.Generator) -> list[Arm]:
    """Return every arm that can be told apart from the real cameras, the real one first.

    Left out are the other images' cameras where all images have the same one, and a lens whose
    formula does not reach the real field of view.

    Args:
        cameras: The real camera of every image.
        generator: Deals out the other images' cameras, and shuffles the embedding's cells.
    """
    arms = [Arm(REAL, cameras)]
    arms += [Arm(f"focal x{factor:g}", [_zoom(c, factor) for c in cameras]) for factor in _FOCALS]
    for lens in (Equidistant, Stereographic):
        other = [_same_view(camera, lens) for camera in cameras]
        arms += [Arm(f"{lens.model} lens", [c for c in other if c is not None])]
    arms.append(Arm(_OTHER, _deal(cameras, generator)))
    seed = int(generator.integers(2**31))
    arms += [
        Arm("pixels shuffled", cameras, lambda embedding: _shuffle(embedding, seed)),
        Arm("constant K0", [default_camera(camera.size) for camera in cameras]),
        Arm("none (zeros)", cameras, torch.zeros_like),
    ]
    return [arm for arm in arms if len(arm.cameras) == len(cameras)]


def _zoom(camera: Camera, factor: float) -> Camera:
    factors = torch.ones_like(camera.params)
    factors[..., :2] = factor
    return replace(camera, params=camera.params * factors)


def _same_view(camera: Camera, lens: type[Equidistant | Stereographic]) -> Camera | None:
    """Return an ideal lens with the camera's principal point and horizontal field of view."""
    height, width = camera.size
    cx, cy = camera.params[2:4].double().tolist()
    u = torch.linspace(0.0, float(width), 2 * width + 1, dtype=torch.float64)
    rays, seen = camera.unproject(torch.stack([u, torch.full_like(u, cy)], dim=-1))
    polar = torch.acos(rays[:, 2].clamp(-1, 1))
    offset = torch.where(seen, (u - cx).abs(), -1.0)
    radius, angle = float(offset.max()), float(polar[offset.argmax()])
    if radius <= 0 or angle <= 0:
        return None
    if lens is Stereographic and angle > _WIDEST_STEREOGRAPHIC:
        return None
    focal = radius / (2 * math.tan(angle / 2) if lens is Stereographic else angle)
    return lens(camera.params.new_tensor([focal, focal, cx, cy]), (height, width))


def _deal(cameras: Sequence[Camera], generator: np.random.Generator) -> list[Camera]:
    """Return another camera for every image, taken from the others; none if all are one."""
    pool = {camera.key: camera for camera in cameras}
    if len(pool) == 1:
        return []
    dealt = []
    for camera in cameras:
        others = [key for key in pool if key != camera.key]
        other = pool[others[int(generator.integers(len(others)))]]
        dealt.append(other if other.size == camera.size else other.resize(camera.size))
    return dealt


def _shuffle(embedding: Float[Tensor, "b e h w"], seed: int) -> Float[Tensor, "b e h w"]:
    cells = embedding.flatten(2)
    order = np.random.default_rng(seed).permutation(cells.shape[-1])
    return cells[..., torch.from_numpy(order).to(cells.device)].reshape(embedding.shape)


@torch.inference_mode()
def probe(
    model: DepthNet,
    data: Sequence[Sample],
    *,
    device: torch.device,
    seed: int = 0,
    on_images: Callable[[int], None] = lambda _: None,
) -> pd.DataFrame:
    """Return one row an image and arm: ``image``, ``scene``, ``arm`` and ``COLUMNS``.

    ``mean_abs_log_ratio`` and ``median_ratio`` compare the prediction with the one under the real
    camera, ``shape_change`` is the first without the image's common factor, ``share_changed`` the
    share of pixels that differ by more than 1 %, ``abs_rel`` the error against the truth. All are
    over the pixels that have a truth.

    Args:
        data: Images of one size.
        on_images: Called with the number of images done.
    """
    model.eval()
    cameras = [data[index].camera for index in range(len(data))]
    arms = list_arms(cameras, np.random.default_rng(seed))
    rows: list[dict[str, Any]] = []
    for start in range(0, len(data), EVALUATION_BATCH):
        samples = [data[i] for i in range(start, min(start + EVALUATION_BATCH, len(data)))]
        image = collate(samples).image.to(device)
        maps = [_predict(model, image, arm, start, len(samples)) for arm in arms]
        for arm, changed in zip(arms, maps, strict=True):
            rows += [
                _row(sample, arm.name, changed[i], maps[0][i]) for i, sample in enumerate(samples)
            ]
        on_images(start + len(samples))
    return pd.DataFrame(rows)


def _predict(
    model: DepthNet, image: Float[Tensor, "b 3 h w"], arm: Arm, start: int, count: int
) -> Float[ndarray, "b h w"]:
    with _embedder(model, arm.embedding):
        return model(image, arm.cameras[start : start + count]).distance.float().cpu().numpy()


def _row(
    sample: Sample, arm: str, changed: Float[ndarray, "h w"], real: Float[ndarray, "h w"]
) -> dict[str, Any]:
    valid = sample.valid.numpy()
    before, after = real[valid].astype(np.float64), changed[valid].astype(np.float64)
    log_ratio = np.log(after / before)
    return {
        "image": sample.key,
        "scene": sample.scene,
        "arm": arm,
        "mean_abs_log_ratio": float(np.abs(log_ratio).mean()),
        "median_ratio": float(np.exp(np.median(log_ratio))),
        "shape_change": float(np.abs(log_ratio - np.median(log_ratio)).mean()),
        "share_changed": float((np.abs(after / before - 1) > CHANGED).mean()),
        "abs_rel": abs_rel(after, sample.distance.numpy()[valid].astype(np.float64)),
    }


def summarize(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return the means over the images of every arm, and the error's change over the real one's."""
    means = table.groupby("arm", sort=False)[list(COLUMNS)].mean()
    arms = {
        str(arm): dict(zip(COLUMNS, map(float, row), strict=True))
        for arm, row in zip(means.index, means.to_numpy(), strict=True)
    }
    real = arms[REAL]["abs_rel"]
    return {arm: {**row, "abs_rel_change": row["abs_rel"] / real - 1} for arm, row in arms.items()}


def describe(arms: Mapping[str, Mapping[str, float]]) -> str:
    """Return in words whether the camera input matters."""
    told = {name: values for name, values in arms.items() if name != REAL}
    most = max(told, key=lambda name: told[name]["mean_abs_log_ratio"])
    largest = told[most]["mean_abs_log_ratio"]
    if largest == 0:
        return "this network does not use the camera: no other camera changes a single pixel"
    share = f"{math.expm1(largest):.1%}"
    if largest < MATTERS:
        return f"the camera hardly matters: the most that changes is {share} ({most})"
    better = [n for n, values in told.items() if values["abs_rel"] < arms[REAL]["abs_rel"]]
    quality = (
        "the real camera gives the smallest AbsRel of all"
        if not better
        else f"yet {len(better)} of {len(told)} wrong cameras give a smaller AbsRel than the "
        f"real one ({', '.join(better)})"
    )
    scale = ""
    if max(values["shape_change"] for values in told.values()) < SAME_SHAPE:
        scale = ", by one factor an image: only the scale head reads the camera"
    return f"the camera matters: {most} changes the prediction by {share}{scale}; {quality}"
