"""Images a second of every way that frames reach training, against what a training step needs.

Ways: built-in frames kept in memory; PNG pictures with 16-bit PNG depth at 640x480, resized to
96x128; the same warped into a fisheye; pictures with depth in HDF5. Each runs without and with
worker processes of ``torch.utils.data.DataLoader``; the training step is that of
``benchmarks/training_step.py``, measured in the same run.

Run: ``python benchmarks/dataloader.py [--frames 48] [--device cpu]``
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from training_step import build, create_work, measure

from dart.cameras import KannalaBrandt
from dart.data.dataset import open_domain
from dart.data.sample import Sample, collate
from dart.data.sets import open_dataset
from dart.data.transforms import fit
from dart.data.warping import Warper

BATCH = 8
SIZE = (96, 128)
FISHEYE = KannalaBrandt(torch.tensor([70.0, 70.0, 64.0, 48.0, 0.03, -0.012, 0.002, 0.0]), SIZE)


class Changed(Dataset):
    """A data set whose samples pass through a function when asked for."""

    def __init__(self, data: Sequence, change: Callable[[Sample], Sample]) -> None:
        self.data = data
        self.change = change

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.data)

    def __getitem__(self, index: int) -> Sample:
        """Return one changed frame."""
        return self.change(self.data[index])


def keep(sample: Sample) -> Sample:
    """Return the sample as it is."""
    return sample


def shrink(sample: Sample) -> Sample:
    """Return the sample at the size that is trained on."""
    return fit(sample, SIZE)


def write_frames(folder: Path, count: int) -> None:
    """Write photographs' worth of detail at 640x480 and two manifests of them."""
    source = open_domain("rooms_pinhole", "test")
    rows: dict[str, list[dict]] = {"png": [], "hdf5": []}
    camera = source[0].camera.resize((480, 640)).to_dict()
    generator = np.random.default_rng(0)
    with h5py.File(folder / "depth.h5", "w") as file:
        maps = file.create_dataset("depth", (count, 480, 640), "u2", chunks=(1, 480, 640))
        for number in range(count):
            sample = source[number % len(source)]
            pixels = sample.image.permute(1, 2, 0).numpy().repeat(5, 0).repeat(5, 1)
            noisy = pixels + generator.normal(0, 0.02, pixels.shape)
            Image.fromarray((noisy.clip(0, 1) * 255).astype(np.uint8)).save(
                folder / f"{number}.png", compress_level=1
            )
            units = (sample.distance.numpy() * 1000).repeat(5, 0).repeat(5, 1).astype(np.uint16)
            Image.fromarray(units).save(folder / f"{number}_d.png")
            maps[number] = units
            row = {"image": f"{number}.png", "camera": camera, "convention": "range"}
            row |= {"depth_scale": 1000}
            rows["png"].append(row | {"depth": f"{number}_d.png"})
            stored = {"depth": "depth.h5", "depth_key": "depth", "depth_index": number}
            rows["hdf5"].append(row | stored)
    for name, listed in rows.items():
        (folder / f"{name}.json").write_text(json.dumps(listed))


def images_a_second(data: Dataset, workers: int) -> float:
    """Return the rate of a second pass: workers have started and caches are warm."""
    loader = DataLoader(
        data,
        batch_size=BATCH,
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=workers > 0,
    )
    for _ in loader:
        pass
    start = time.perf_counter()
    for _ in loader:
        pass
    return len(data) / (time.perf_counter() - start)  # type: ignore[arg-type]


def main() -> None:
    """Print images a second and their ratio to a training step's need, then one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    step = create_work(build("daa_combined", "dart", device), "dart", BATCH, device)[
        "training step"
    ]
    need = BATCH / statistics.median([measure(step, device) for _ in range(8)][2:])
    print(f"a training step on {device} takes {need:.0f} images/s")
    report: dict[str, float] = {"need": round(need, 1)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_frames(folder, options.frames)
        png = open_dataset(folder / "png.json", "manifest")
        ways = {
            "built-in frames from memory": Changed(open_domain("rooms_fisheye", "train"), keep),
            "PNG at 640x480, resized": Changed(png, shrink),
            "PNG at 640x480, into a fisheye": Changed(png, Warper(FISHEYE)),
            "HDF5 depth at 640x480, resized": Changed(
                open_dataset(folder / "hdf5.json", "manifest"), shrink
            ),
        }
        for way, data in ways.items():
            for workers in (0, 1, 2):
                rate = images_a_second(data, workers)
                report[f"{way}/{workers}"] = round(rate, 1)
                print(f"{way:32s} {workers} workers {rate:8.0f} images/s {rate / need:6.2f} x need")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
