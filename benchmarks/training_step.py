"""Time of one adaptation step and of one encoder pass: this project against plain loops.

Three ways to do the same arithmetic on the same network, images and optimiser, taken in turn
within one run, so that their ratio holds whatever else the machine does:

- ``dart``: what a study's run does (folded frozen encoder, channels-last memory, cached camera
  embedding);
- ``plain``: a plain eager loop over the network as it is built, frozen by ``requires_grad=False``
  and ``eval()``, embedding computed anew for each batch;
- ``plain_channels_last``: the plain loop with the memory layout alone changed.

Run: ``python benchmarks/training_step.py [--device cuda] [--variant daa] [--rounds 20]``
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from dart.cameras import CameraEmbedder, KannalaBrandt
from dart.models import DepthNet, create_model
from dart.models.folding import fold
from dart.recipe import TrainingSpec
from dart.seeds import derive_generator
from dart.training.freeze import set_trainable
from dart.training.loop import create_optimizer
from dart.training.loss import si_log

Work = Callable[[], object]


def build(variant: str, way: str, device: torch.device) -> DepthNet:
    """Return the network of ``variant``, prepared as one of the three ways does it."""
    model = create_model(variant, generator=derive_generator(0, "init"))
    if way == "dart":
        model.encoder = fold(model.encoder)
    set_trainable(model, TrainingSpec().trainable)
    layout = torch.contiguous_format if way == "plain" else torch.channels_last
    return model.to(device=device, memory_format=layout)  # pyright: ignore[reportCallIssue]


def create_work(model: DepthNet, way: str, batch: int, device: torch.device) -> dict[str, Work]:
    """Return one training step and one encoder pass as callables without arguments."""
    image = torch.rand(batch, 3, 96, 128, generator=derive_generator(0, "image")).to(device)
    if way != "plain":
        image = image.to(memory_format=torch.channels_last)
    true = 1 + 4 * torch.rand(batch, 96, 128, generator=derive_generator(0, "true")).to(device)
    valid = torch.ones_like(true, dtype=torch.bool)
    lens = torch.tensor([43.0, 43.0, 64.0, 48.0, 0.03, -0.012, 0.002, 0.0])
    cameras = [KannalaBrandt(params=lens, size=(96, 128))] * batch
    optimizer = create_optimizer(model, TrainingSpec())

    def step() -> None:
        if way != "dart":
            model.embedder = model.adapter_embedder = CameraEmbedder(model.config.camera_dim)
        optimizer.zero_grad()
        loss = si_log(model(image, cameras).distance, true, valid)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    @torch.inference_mode()
    def encode() -> None:
        features = model.encoder.stem(image)  # pyright: ignore[reportCallIssue]
        for index in range(4):
            features = model.encoder.forward_stage(index, features)  # pyright: ignore[reportCallIssue]

    return {"training step": step, "encoder": encode}


def measure(work: Work, device: torch.device) -> float:
    """Return the seconds of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def main() -> None:
    """Print medians in milliseconds and ratios to the plain loops, then one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--variant", default="daa_combined")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args()
    device = torch.device(options.device)
    ways = ("dart", "plain", "plain_channels_last")
    works = {
        way: create_work(build(options.variant, way, device), way, options.batch, device)
        for way in ways
    }
    seconds: dict[tuple[str, str], list[float]] = {}
    for round_number in range(options.rounds + 2):
        for way in ways:
            for name, work in works[way].items():
                taken = measure(work, device)
                if round_number >= 2:  # the first two warm up
                    seconds.setdefault((name, way), []).append(taken)
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    report = {"device": str(device), "variant": options.variant, "batch": options.batch}
    for name in ("training step", "encoder"):
        for way in ways:
            ratio = medians[name, way] / medians[name, "dart"]
            print(f"{name:14s} {way:20s} {1000 * medians[name, way]:9.1f} ms   {ratio:6.2f} x dart")
            report[f"{name}/{way}"] = round(1000 * medians[name, way], 2)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
