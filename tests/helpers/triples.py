"""A small data set in the layout of photographs with depth, written by a test."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dart.cameras import Pinhole

SIZE = (48, 64)
FOCAL = 40.0


def camera() -> Pinhole:
    """Return the lens of every frame, with pixel centres at +0.5."""
    h, w = SIZE
    return Pinhole(torch.tensor([FOCAL, FOCAL, w / 2, h / 2]), SIZE)


def tilted_plane(distance: float = 2.0) -> np.ndarray:
    """Return z in metres of a plane that is tilted about both axes."""
    rays = camera().to(dtype=torch.float64).rays().numpy()
    flat = rays / rays[..., 2:]
    return distance / (1 + 0.3 * flat[..., 0] - 0.2 * flat[..., 1])


class Triples:
    """Writes frames and their manifest."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.samples: list[dict] = []

    def add(self, name: str, depth: np.ndarray, *, kind: str = "z", **changed: object) -> Path:
        """Write one frame ``group/scene_number`` and return the path of its depth."""
        number = len(self.samples)
        stem = self.root / name
        stem.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"{stem}_rgb.png")
        units = (depth * 5000).round().clip(0, 65535).astype(np.uint16)
        Image.fromarray(units).save(f"{stem}_depth.png")
        calib = {"model": "pinhole", "fx": FOCAL, "fy": FOCAL, "cx": 31.5, "cy": 23.5}
        sides = {"width": SIZE[1], "height": SIZE[0]}
        Path(f"{stem}_calib.json").write_text(json.dumps({**calib, **sides}))
        names = {"rgb": "rgb.png", "depth": "depth.png", "calib": "calib.json"}
        sample = {key: f"{name}_{value}" for key, value in names.items()}
        sample |= {"id": name, "group": name.split("/")[0], "depth_kind": kind}
        self.samples.append({**sample, "depth_scale": 5000, **changed})
        (self.root / "manifest.json").write_text(json.dumps({"samples": self.samples}))
        return Path(f"{stem}_depth.png")
