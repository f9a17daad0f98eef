"""Fisheye frames in files, as a user has them, beside a list of them."""

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image

from dart.data.dataset import open_domain


def write_frames(folder: Path, count: int) -> None:
    """Write test frames of ``rooms_fisheye``, ``lens.json`` and ``list.csv``; depth in 0.5 mm."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, sample in enumerate(open_domain("rooms_fisheye", "test")[:count]):
        pixels = (sample.image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        units = (sample.distance.numpy().astype(np.float64) * 2000).round().astype(np.uint16)
        Image.fromarray(units).save(folder / f"{number}_range.png")
        (folder / "lens.json").write_text(json.dumps(sample.camera.to_dict()))
        files = {"image": f"{number}.png", "depth": f"{number}_range.png", "camera": "lens.json"}
        rows.append(files | {"scene": f"room {number}"})
    with (folder / "list.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
