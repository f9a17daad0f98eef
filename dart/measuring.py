"""Errors of a network on the splits of a protocol: per image, by viewing angle, and their means.

The network before adaptation is measured once for each checkpoint and split, and kept.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import nn
from torch.utils.data import Dataset
from torch.utils.flop_counter import FlopCounterMode

from dart.angles import RING_DEGREES
from dart.data.dataset import Sample, collate, open_domain
from dart.diagnostics import measure_rings, polar_degrees, spread, watch_adapters
from dart.metrics import measure_image
from dart.models import DepthNet
from dart.models.folding import is_folded
from dart.pictures import Panel, draw_panels
from dart.recipe import Recipe, canonical_hash
from dart.training.loop import Diverged
from dart.training.passes import Ask, ask

# Not Sequence[Sample]: a run-time checker would decode a frame, or fail on one that is damaged.
Frames = Dataset[Sample] | Sequence
"""Samples by number."""

EVALUATION_BATCH = 16
PICTURES = {"target": 3, "source": 2, "held_out": 1}
WHOLE = -1
"""In place of a ring's inner edge: the errors of the whole image."""
CURVE_IMAGES = 8
"""Validation images of each domain that are measured during training."""


@torch.inference_mode()
def predict(
    model: DepthNet, data: Frames, *, device: torch.device, asked: Ask | None = None
) -> list[Float[ndarray, "h w"]]:
    """Return the predicted distance in metres of every sample, in order.

    Args:
        asked: Gives the model's distances; the model itself unless given.
    """
    model.eval()
    maps: list[Float[ndarray, "h w"]] = []
    for start in range(0, len(data), EVALUATION_BATCH):  # type: ignore[arg-type]
        stop = min(start + EVALUATION_BATCH, len(data))  # type: ignore[arg-type]
        batch = collate([data[i] for i in range(start, stop)]).to(device)
        if asked is None:
            distance = model(batch.image, batch.cameras).distance.float()
        else:
            distance = asked(batch.image, batch.cameras)
        maps.extend(distance.cpu().numpy())
    return maps


def count_flops(model: nn.Module, sample: Sample, *, device: torch.device) -> int:
    """Return the operations of one pass of one image.

    Convolutions and products of matrices, a multiplication with its addition counted as two;
    what works entry by entry, the scan's recurrence included, is not counted.
    """
    batch, quick = collate([sample]).to(device), torch.backends.mha.get_fastpath_enabled()
    model.eval()
    # The counter follows modules through gradients, and does not know the fused attention.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter:
            model(batch.image, batch.cameras)
    finally:
        torch.backends.mha.set_fastpath_enabled(quick)
    return int(counter.get_total_flops())


def measure(data: Frames, maps: Sequence[Float[ndarray, "h w"]]) -> pd.DataFrame:
    """Return one row an image and metric: ``image``, ``scene``, ``metric``, ``value``."""
    rows = []
    for index, distance in enumerate(maps):
        sample = data[index]
        for metric, value in measure_image(
            distance, sample.distance.numpy(), sample.valid.numpy()
        ).items():
            rows.append((sample.key, sample.scene, metric, value))
    return pd.DataFrame(rows, columns=["image", "scene", "metric", "value"])


def measure_angles(data: Frames, maps: Sequence[Float[ndarray, "h w"]]) -> pd.DataFrame:
    """Return one row an image, ring of polar angle and metric.

    Columns ``image, scene, ring`` (its inner edge in degrees)``, pixels, metric, value``.
    """
    polar: dict[str, Float[ndarray, "h w"]] = {}
    tables = []
    for index, distance in enumerate(maps):
        sample = data[index]
        if sample.camera.key not in polar:
            polar[sample.camera.key] = polar_degrees(sample.camera)
        table = measure_rings(
            distance, sample.distance.numpy(), sample.valid.numpy(), polar[sample.camera.key]
        )
        tables.append(table.assign(image=sample.key, scene=sample.scene))
    return pd.concat(tables, ignore_index=True)


def measure_all(
    model: DepthNet, data: Frames, *, device: torch.device, asked: Ask | None = None
) -> pd.DataFrame:
    """Return what ``measure`` and ``measure_angles`` do; whole images are ring ``WHOLE``.

    Args:
        asked: As of ``predict``.
    """
    maps = predict(model, data, device=device, asked=asked)
    whole = measure(data, maps).assign(ring=WHOLE, pixels=0)
    return pd.concat([whole, measure_angles(data, maps)], ignore_index=True)


@dataclass(frozen=True)
class Split:
    """One data set of a protocol."""

    domain: str
    role: str
    name: str

    @property
    def label(self) -> str:
        """``domain/split``, as in ``Recipe.data``."""
        return f"{self.domain}/{self.name}"


def list_splits(roles: Mapping[str, str]) -> list[Split]:
    """Return what is measured: ``test`` of every domain, ``val`` where choices are made."""
    splits = [Split(domain, role, "test") for domain, role in roles.items()]
    return splits + [Split(d, role, "val") for d, role in roles.items() if role != "held_out"]


def _atomic_parquet(frame: pd.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    frame.to_parquet(partial, index=False)
    partial.replace(path)


def measure_before(
    model: DepthNet, split: Split, recipe: Recipe, *, results: Path, device: torch.device
) -> pd.DataFrame:
    """Return the pretrained network's errors on one split, from ``results/before`` if known.

    Columns as of ``measure_all``.
    """
    identity = {
        "rings": RING_DEGREES,
        "pretrained": recipe.pretrained_sha256,
        "data": recipe.data[split.label],
        "semantics": recipe.semantics,
        "torch": torch.__version__,
        "device": device.type,
        "folded": is_folded(model.encoder),
    }
    path = (
        results / "before" / f"{split.domain}-{split.name}-{canonical_hash(identity)[:16]}.parquet"
    )
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError):  # absent, or damaged: it can be measured again
        data = open_domain(recipe.protocol.locate(split.domain), split.name)
        _atomic_parquet(measure_all(model, data, device=device), path)
    return pd.read_parquet(path)


def summarize_domains(errors: pd.DataFrame, *, split: str) -> dict[str, dict[str, Any]]:
    """Return domain -> role and mean over images of every metric, before and after."""
    chosen = errors[errors["split"] == split]
    means = chosen.groupby(["domain", "role", "metric"], sort=False)[["before", "after"]].mean()
    domains: dict[str, dict[str, Any]] = {}
    for (domain, role, metric), row in means.iterrows():  # type: ignore[misc]
        entry = domains.setdefault(domain, {"role": role, "before": {}, "after": {}})
        entry["before"][metric] = float(row["before"])
        entry["after"][metric] = float(row["after"])
    return domains


CurvePoint = tuple[int, str, str, str, float]
"""Step, domain, role, metric, mean over a few validation images."""


def _curve_rows(split: Split, step: int, errors: pd.DataFrame) -> list[CurvePoint]:
    means = errors.groupby("metric", sort=False)["value"].mean()
    return [(step, split.domain, split.role, str(m), float(v)) for m, v in means.items()]


class Measurements:
    """Every split of a protocol: its data, the errors before, and the maps of what is pictured."""

    def __init__(
        self, model: DepthNet, recipe: Recipe, *, results: Path, device: torch.device
    ) -> None:
        self.device = device
        self._asked = (model, ask(model))
        self.data = {
            split: open_domain(recipe.protocol.locate(split.domain), split.name)
            for split in list_splits(recipe.protocol.roles)
        }
        self.before = {
            split: measure_before(model, split, recipe, results=results, device=device)
            for split in self.data
        }
        self.pictured = {
            split: [data[i] for i in range(min(PICTURES[split.role], len(data)))]
            for split, data in self.data.items()
            if split.name == "test"
        }
        self.maps_before = self.predict_pictured(model)

    def _ask(self, model: DepthNet) -> Ask:
        """Return what gives the model's distances; its graphs are kept for the next time."""
        if self._asked[0] is not model:
            self._asked = (model, ask(model))
        return self._asked[1]

    def predict_pictured(self, model: DepthNet) -> dict[Split, list[Float[ndarray, "h w"]]]:
        """Return the maps of the frames that are shown."""
        return {s: predict(model, shown, device=self.device) for s, shown in self.pictured.items()}

    def errors(self, model: DepthNet | None) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return errors before and after of whole images, and by angle; None: nothing changed.

        One row an image and metric, and one row an image, ring and metric.
        """
        tables = []
        for split, data in self.data.items():
            table = self.before[split].rename(columns={"value": "before"})
            if model is None:
                table["after"] = table["before"]
            else:
                asked = self._ask(model)
                after = measure_all(model, data, device=self.device, asked=asked)
                table["after"] = after["value"]
            tables.append(table.assign(domain=split.domain, role=split.role, split=split.name))
        errors = pd.concat(tables, ignore_index=True)
        whole = errors["ring"] == WHOLE
        columns = ["domain", "role", "split", "image", "scene", "metric", "before", "after"]
        by_angle = errors.loc[~whole, [*columns[:5], "ring", "pixels", *columns[5:]]]
        return errors.loc[whole, columns].reset_index(drop=True), by_angle.reset_index(drop=True)

    def means(self, model: DepthNet) -> pd.DataFrame:
        """Return mean errors over the images: ``domain, role, split, metric, value``."""
        tables = []
        for split, data in self.data.items():
            maps = predict(model, data, device=self.device, asked=self._ask(model))
            errors = measure(data, maps)
            table = errors.groupby("metric", sort=False)["value"].mean().reset_index()
            tables.append(table.assign(domain=split.domain, role=split.role, split=split.name))
        return pd.concat(tables, ignore_index=True)

    def count_flops(self, model: DepthNet) -> int:
        """Return the operations of one pass of one image of the target (``count_flops``)."""
        shown = next(s for split, s in self.pictured.items() if split.role == "target")
        return count_flops(model, shown[0], device=self.device)

    def curve_before(self) -> list[CurvePoint]:
        """Return what ``curve_point`` gave before training, from what is measured already."""
        points = []
        for split, data in self._curve_data():
            errors = self.before[split]
            shown = errors["image"].isin([sample.key for sample in data])
            points += _curve_rows(split, 0, errors[shown & (errors["ring"] == WHOLE)])
        return points

    def curve_point(self, model: DepthNet, step: int) -> list[CurvePoint]:
        """Return the mean errors on a few validation images of source and target.

        Leaves ``model`` in eval mode.

        Raises:
            Diverged: If a prediction is not finite.
        """
        points = []
        for split, data in self._curve_data():
            maps = predict(model, data, device=self.device, asked=self._ask(model))
            if not all(np.isfinite(distance).all() for distance in maps):
                raise Diverged(f"step {step}: the prediction on {split.label} is not finite")
            points += _curve_rows(split, step, measure(data, maps))
        return points

    def _curve_data(self) -> list[tuple[Split, list[Sample]]]:
        return [
            (split, [data[i] for i in spread(len(data), most=CURVE_IMAGES)])
            for split, data in self.data.items()
            if split.name == "val"
        ]

    def draw(self, model: DepthNet, path: Path) -> None:
        """Write the sheet of predictions before and after."""
        after = self.predict_pictured(model)
        panels = [
            Panel(
                name="\n".join((split.role, split.domain, sample.key.rsplit("/", 1)[-1])),
                image=sample.image.permute(1, 2, 0).numpy(),
                true=sample.distance.numpy(),
                valid=sample.valid.numpy(),
                before=self.maps_before[split][index],
                after=after[split][index],
            )
            for split, samples in self.pictured.items()
            for index, sample in enumerate(samples)
        ]
        draw_panels(panels, path)

    def adapter_maps(self, model: DepthNet) -> dict[str, ndarray]:
        """Return what the adapters do over the first frame that is shown of each domain.

        ``DOMAIN/image`` (8-bit, red, green and blue) and the maps of ``watch_adapters``; empty
        without adapters. Leaves ``model`` in eval mode.
        """
        found: dict[str, ndarray] = {}
        for split, (first, *_) in self.pictured.items():
            with watch_adapters(model) as maps:
                predict(model, [first], device=self.device)
            if maps:
                image = first.image.permute(1, 2, 0).numpy().clip(0, 1)
                found[f"{split.domain}/image"] = (255 * image).round().astype("uint8")
                found |= {f"{split.domain}/{name}": values for name, values in maps.items()}
        return found
